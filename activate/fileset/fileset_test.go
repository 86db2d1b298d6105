package fileset

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/place"
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

func instance(t *testing.T) activate.Instance {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"index.html": "<p>", "app/run.sh": "#!/bin/sh", "app/data/first": "", "static/a/b": "b"} {
		path := filepath.Join(dir, "package", name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o444)); err != nil {
			t.Fatal(err)
		}
	}
	return activate.Instance{ID: "n1/files/1", Attempt: 1, Service: "files", Container: Type, Type: Type, Package: filepath.Join(dir, "package"),
		StateDir: filepath.Join(dir, "state"), Spec: activate.Spec{Grace: 10 * time.Second},
		Settings: map[string]string{"targetDir": filepath.Join(dir, "www", "site"), "stateDirs": "app/data uploads"}}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	in := instance(t)
	data := filepath.Join(Outputs(in)["path"], "app/data")
	statetest.Run(t, statetest.Subject{
		New: func(marks string) activate.Stateful { return New(marks) },
		In:  in,
		Write: func(ctx context.Context, name string) error {
			out, err := exec.CommandContext(ctx, "touch", filepath.Join(data, name)).CombinedOutput()
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			return err
		},
		Read: func(ctx context.Context) ([]string, error) {
			out, err := exec.CommandContext(ctx, "find", data+"/", "-type", "f", "-printf", "%P\\0").Output()
			all := strings.Split(strings.TrimRight(string(out), "\x00"), "\x00")
			slices.Sort(all)
			return all, err
		},
		Grow: func(context.Context) error {
			return errors.Join(os.MkdirAll(filepath.Join(data, "later/still"), 0o755), os.Symlink("/nowhere", filepath.Join(data, "later/link")), os.Remove(filepath.Join(data, "one")),
				os.WriteFile(filepath.Join(Outputs(in)["path"], "uploads/later"), nil, 0o600))
		},
		Initial: []string{"first"},
		Files:   true,
		Damage: func(t *testing.T, p *activate.Payload) {
			if err := os.Remove(filepath.Join(p.Dir, "app/data/one")); err != nil {
				t.Fatal(err)
			}
		},
	})
}

func TestView(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	path := Outputs(in)["path"]
	for name, text := range map[string]string{"index.html": "<p>", "app/run.sh": "#!/bin/sh", "app/data/first": "", "static/a/b": "b"} {
		if b, err := os.ReadFile(filepath.Join(path, name)); err != nil || string(b) != text {
			t.Errorf("%s: %q, %v", name, b, err)
		}
	}
	if err := os.WriteFile(filepath.Join(path, "uploads", "x"), []byte("x"), 0o600); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(path, "app/data/first"), []byte("changed"), 0o600); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(in.Package, "app/data/first")); err != nil || len(b) != 0 {
		t.Errorf("the package was written to: %q %v", b, err)
	}
	// The next version has one more state directory.
	if err := m.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the target is there: %v", err)
	}
	in.ID, in.Settings["stateDirs"] = "n1/files/2", "app/data uploads new/dir"
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "new/dir/y"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "uploads/x")); err != nil || string(b) != "x" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestNothingElseIsTouched has somebody else's files where the target should be.
func TestNothingElseIsTouched(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	path := Outputs(in)["path"]
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := m.Prepare(t.Context(), in); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("prepared: %v", err)
	}
	if err := m.Start(t.Context(), in); err == nil {
		t.Error("started")
	}
	if err := m.Stop(t.Context(), in); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

// TestStopWaitsForWriters has a process whose file stays open over the stop.
func TestStopWaitsForWriters(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "exec 3>>uploads/log; echo open; read x; echo late >&3")
	cmd.Dir = Outputs(in)["path"]
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	in.Spec.Grace = time.Millisecond
	var used *place.InUseError
	if err := m.Stop(t.Context(), in); !errors.As(err, &used) || used.PID != cmd.Process.Pid {
		t.Errorf("stopped: %v", err)
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if err := m.Stop(t.Context(), in); err != nil {
		t.Error(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(p.Dir, "uploads/log")); err != nil || !bytes.Equal(b, []byte("late\n")) {
		t.Errorf("%q, %v", b, err)
	}
}

// TestDumpFailures: where the state is not the directory that it was, nothing is a dump.
func TestDumpFailures(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil || p.Facts["files"] != "1" || p.Facts["others"] != "4" {
		t.Fatalf("%+v, %v", p, err)
	}
	away := p.Dir + ".away"
	if err := os.Rename(p.Dir, away); err != nil {
		t.Fatal(err)
	}
	refused := func(what string) {
		t.Helper()
		if p, err := m.Dump(t.Context(), in, t.TempDir(), true); err == nil {
			t.Errorf("%s: dumped: %+v", what, p)
		} else {
			t.Log(what+":", err)
		}
	}
	refused("gone")
	if err := os.Symlink(away, p.Dir); err != nil {
		t.Fatal(err)
	}
	refused("a link")
	if err := errors.Join(os.Remove(p.Dir), os.WriteFile(p.Dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	refused("a file")
	if err := errors.Join(os.Remove(p.Dir), os.Rename(away, p.Dir), os.Remove(filepath.Join(p.Dir, "app/data/first"))); err != nil {
		t.Fatal(err)
	}
	if err := m.Verify(t.Context(), in, p); err == nil {
		t.Error("verified with a file missing")
	}
}

func TestStateDirs(t *testing.T) {
	t.Parallel()
	for list, want := range map[string]string{
		"":                "[]",
		"b a/../c  b":     "[b c]",
		"/etc":            "error",
		"..":              "error",
		".":               "error",
		"a/b a":           "error",
		"a a-b":           "[a a-b]",
		"a/../../outside": "error",
	} {
		dirs, err := stateDirs(activate.Instance{Settings: map[string]string{"stateDirs": list}})
		got := fmt.Sprint(dirs)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%q: %s (%v)", list, got, err)
		}
	}
}
