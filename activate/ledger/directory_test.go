package ledger

import (
	"errors"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

// TestHalfStopped: what was taken out of reach while somebody has it open is not observed as running, so that it is started
// again, or stopped.
func TestHalfStopped(t *testing.T) {
	t.Parallel()
	d := Directory{Open(t.TempDir())}
	in := activate.Instance{ID: "a", Attempt: 1, Service: "staff", Container: "db", StateDir: t.TempDir(), Spec: activate.Spec{Grace: 50 * time.Millisecond}}
	if err := d.Make(in, false, func(dir string) error { return os.Mkdir(dir, 0o700) }); err != nil {
		t.Fatal(err)
	}
	runs := func(want int) {
		t.Helper()
		if all, err := d.Observe(t.Context()); err != nil || len(all) != want {
			t.Fatalf("%+v, %v; not %d", all, err, want)
		}
	}
	runs(0)
	if err := d.Open(in); err != nil {
		t.Fatal(err)
	}
	runs(1)
	user := exec.Command("sleep", "1000")
	user.Dir = place.Place(in.StateDir).Live()
	if err := user.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _ = user.Process.Kill(); _ = user.Wait() }
	t.Cleanup(end)
	if err := d.Stop(t.Context(), in); !errors.As(err, new(*place.InUseError)) {
		t.Fatalf("stopped while it is in use: %v", err)
	}
	runs(0)
	if err := d.Open(in); err != nil {
		t.Fatal(err)
	}
	runs(1)
	end()
	if err := d.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	runs(0)
}
