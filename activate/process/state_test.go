package process

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/isonomia-mesh/isonomia/activate"
)

// TestStateDirectoryTravels runs a program that counts its starts, takes its state, lets it go on, and gives it back.
func TestStateDirectoryTravels(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("counter", `echo x >> "$STATE_DIRECTORY/starts"; exec sleep 1000`)
	in.Managed = true
	ctx := t.Context()
	garbage := func(want int) {
		t.Helper()
		list, err := r.Garbage(ctx)
		if err != nil || len(list) != want || want > 0 && (list[0].ID != in.ID || list[0].Service != in.Service || list[0].StateDir != in.StateDir) {
			t.Fatalf("%+v, not %d (%v)", list, want, err)
		}
	}
	starts := func(want string) {
		t.Helper()
		if b, err := os.ReadFile(filepath.Join(in.StateDir, "starts")); err != nil || string(b) != want {
			t.Fatalf("%q, not %q (%v)", b, want, err)
		}
	}
	run := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := r.Dump(ctx, in, "", true); err == nil {
		t.Error("what is absent was dumped")
	}
	run(r.Delete(ctx, in), r.Create(ctx, in), r.Create(ctx, in))
	garbage(1)
	r.mustStart(in)
	garbage(0)
	if p, err := r.Dump(ctx, in, "", false); err != nil || p.Dir != in.StateDir || !p.Live || !p.Ownership {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err := r.Dump(ctx, in, "", true); err == nil {
		t.Errorf("final while it runs: %+v", p)
	}
	if err := r.Load(ctx, in, activate.Payload{Dir: t.TempDir()}); err == nil {
		t.Error("loaded while it runs")
	}
	if err := r.Delete(ctx, in); !errors.As(err, new(*activate.NotGarbageError)) {
		t.Errorf("deleted while it runs: %v", err)
	}
	run(r.Stop(ctx, in))
	garbage(1)
	p, err := r.Dump(ctx, in, "", true)
	if err != nil || p.Live {
		t.Fatalf("%+v, %v", p, err)
	}
	saved := in.StateDir + "-saved"
	run(os.CopyFS(saved, os.DirFS(p.Dir)))
	in.Attempt++
	r.mustStart(in)
	starts("x\nx\n")
	run(r.Stop(ctx, in), r.Load(ctx, in, activate.Payload{Dir: saved}), r.Verify(ctx, in, p))
	starts("x\n")
	run(r.Load(ctx, in, activate.Payload{Dir: in.StateDir}))
	in.Attempt++
	r.mustStart(in)
	starts("x\nx\n")
	next := in // a row that was replaced stops late: nothing happens to its successor
	next.ID += "-next"
	run(r.Stop(ctx, in))
	r.mustStart(next)
	run(r.Stop(ctx, in))
	garbage(0)
	run(r.Stop(ctx, next))
	in = next
	garbage(1)
	list, err := r.Garbage(ctx)
	run(err, r.Delete(ctx, list[0]), r.Delete(ctx, in))
	garbage(0)
	if _, err := os.Lstat(in.StateDir); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}

// TestOnlyMarkedStateIsDeleted: what a program keeps that nobody manages is nobody's to delete, and a deletion that was
// cut off is finished.
func TestOnlyMarkedStateIsDeleted(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("diary", `echo x > "$STATE_DIRECTORY/file"; exec sleep 1000`)
	file := filepath.Join(in.StateDir, "file")
	r.mustStart(in)
	if err := r.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), in); !errors.As(err, new(*activate.NotGarbageError)) {
		t.Errorf("deleted: %v", err)
	}
	in.Managed = true
	in.Attempt++
	r.mustStart(in)
	if list, err := r.Active(); err != nil || len(list) != 1 || list[0].ID != in.ID {
		t.Errorf("%+v, %v", list, err)
	}
	if err := r.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
	// As a death after the renaming leaves it.
	gone := in.StateDir + ".gone"
	if err := os.Rename(in.StateDir, gone); err != nil {
		t.Fatal(err)
	}
	if err := r.Delete(t.Context(), in); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(gone); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
	if list, err := r.Garbage(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}
