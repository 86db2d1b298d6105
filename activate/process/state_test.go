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
	ctx := t.Context()
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
	r.mustStart(in)
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
	run(r.Stop(ctx, in), r.Delete(ctx, in), r.Delete(ctx, in))
	if _, err := os.Lstat(in.StateDir); !os.IsNotExist(err) {
		t.Errorf("left: %v", err)
	}
}
