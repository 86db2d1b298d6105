package subversion

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

func svn(ctx context.Context, config, program string, args ...string) (string, error) {
	if program == "svn" {
		args = append(args, "--non-interactive", "--config-dir", config)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "HOME=" + config}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", program, err, stderr.String())
	}
	return string(out), err
}

func instance(t *testing.T) activate.Instance {
	t.Helper()
	statetest.Need(t, "svnadmin")
	statetest.Need(t, "svn")
	dir := t.TempDir()
	repo, pkg := filepath.Join(dir, "repo"), filepath.Join(dir, "package")
	_, err := svn(t.Context(), dir, "svnadmin", "create", repo)
	if err == nil {
		_, err = svn(t.Context(), dir, "svn", "mkdir", "-m", "first", "file://"+repo+"/trunk")
	}
	out, err2 := svn(t.Context(), dir, "svnadmin", "dump", "-q", repo)
	if err := errors.Join(err, err2, os.Mkdir(pkg, 0o755), os.WriteFile(filepath.Join(pkg, "initial.dump"), []byte(out), 0o644)); err != nil {
		t.Fatal(err)
	}
	return activate.Instance{ID: "n1/code/1", Attempt: 1, Service: "code", Container: Type, Type: Type, Package: pkg, StateDir: filepath.Join(dir, "state"), Spec: activate.Spec{Grace: 10 * time.Second}}
}

func commit(ctx context.Context, t *testing.T, in activate.Instance, name string) error {
	_, err := svn(ctx, t.TempDir(), "svn", "mkdir", "-m", name, Outputs(in)["url"]+"/trunk/d"+fmt.Sprint(time.Now().UnixNano()))
	return err
}

func TestConformance(t *testing.T) {
	t.Parallel()
	in := instance(t)
	statetest.Run(t, statetest.Subject{
		New:   func(marks string) activate.Stateful { return New(marks) },
		In:    in,
		Write: func(ctx context.Context, name string) error { return commit(ctx, t, in, name) },
		Read: func(ctx context.Context) ([]string, error) {
			var all []string
			out, err := svn(ctx, t.TempDir(), "svnlook", "youngest", Outputs(in)["path"])
			var youngest int
			_, _ = fmt.Sscan(out, &youngest)
			for r := 1; r <= youngest && err == nil; r++ { // all of the history
				out, err = svn(ctx, t.TempDir(), "svnlook", "log", "-r", fmt.Sprint(r), Outputs(in)["path"])
				all = append(all, strings.TrimSuffix(out, "\n"))
			}
			slices.Sort(all)
			return all, err
		},
		Grow: func(context.Context) error {
			path := Outputs(in)["path"]
			return errors.Join(os.WriteFile(filepath.Join(path, "hooks/later"), nil, 0o755), os.WriteFile(filepath.Join(path, "conf/later"), nil, 0o644))
		},
		Initial: []string{"first"},
		Damage: func(t *testing.T, p *activate.Payload) { // the last revision
			path := filepath.Join(p.Dir, dumpFile)
			b, err := os.ReadFile(path)
			if err := errors.Join(err, os.WriteFile(path, b[:bytes.LastIndex(b, []byte("Revision-number: "))], 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestFilesBeside keeps what is in no dump: who may do what, and hooks.
func TestFilesBeside(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	path := Outputs(in)["path"]
	err := errors.Join(os.WriteFile(filepath.Join(path, "hooks/pre-commit"), []byte("#!/bin/sh\nexit 1\n"), 0o755), os.WriteFile(filepath.Join(path, "conf/authz"), []byte("[/]\n"), 0o644), m.Stop(t.Context(), in))
	if err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err := errors.Join(err, m.Delete(t.Context(), in), m.Load(t.Context(), in, p), m.Start(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(path, "conf/authz")); err != nil || string(b) != "[/]\n" {
		t.Errorf("%q, %v", b, err)
	}
	if commit(t.Context(), t, in, "x") == nil {
		t.Error("the hook did not run")
	}
}

func TestDumpFailures(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := errors.Join(m.Start(t.Context(), in), commit(t.Context(), t, in, "second")); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, in activate.Instance, dir string) {
		t.Helper()
		if p, err := m.Dump(t.Context(), in, dir, false); err == nil {
			t.Errorf("%s: dumped: %+v", what, p)
		} else {
			t.Log(what+":", err)
		}
	}
	real := statetest.Need(t, "svnadmin")
	for name, script := range map[string]string{
		"nothing":       `exit 0`,
		"fails":         `echo no such revision >&2; exit 1`,
		"cut":           real + ` "$@" | head -c 700; exit 0`,
		"one revision":  real + ` dump -r 2 --incremental "$4"`,
		"last missing":  real + ` dump -r 0:1 "$4"; echo '* Dumped revision 2.' >&2`,
		"fails late":    real + ` "$@"; exit 1`,
		"killed":        real + ` "$@"; kill -9 $$`,
		"silent at end": real + ` "$@" 2>/dev/null`,
		"garbage":       `head -c 100000 /dev/urandom`,
	} {
		bad := in
		bad.Settings = map[string]string{"subversionPrograms": t.TempDir()}
		statetest.Program(t, bad.Settings["subversionPrograms"], "svnadmin", script)
		refused(name, bad, t.TempDir())
	}
	if p, err := m.Dump(t.Context(), in, t.TempDir(), false); err != nil || p.Facts["youngest"] != "2" {
		t.Fatalf("%+v, %v", p, err)
	}
	t.Run("full disk", func(t *testing.T) { refused("full disk", in, statetest.SmallDisk(t, "4k")) })
	revs, _ := filepath.Glob(filepath.Join(string(place.Place(in.StateDir)), "live/db/revs/0/2"))
	if len(revs) != 1 {
		t.Fatal(revs)
	}
	if err := os.Truncate(revs[0], 10); err != nil {
		t.Fatal(err)
	}
	refused("a revision damaged", in, t.TempDir())
}

const sample = "SVN-fs-dump-format-version: 2\n\nUUID: u\n\nRevision-number: 0\nProp-content-length: 10\nContent-length: 10\n\nPROPS-END\n\n\nRevision-number: 1\nContent-length: 3\n\n\n\n\n\nNode-path: a\nNode-kind: file\nContent-length: 12\n\nNode-path: \n\n"

func TestScan(t *testing.T) {
	t.Parallel()
	facts, err := scan(strings.NewReader(sample))
	if err := errors.Join(err, activate.CompareFacts(map[string]string{"uuid": "u", "youngest": "1"}, facts)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "\n\n", sample[:len(sample)-2], strings.Replace(sample, "number: 1", "number: 2", 1), strings.Replace(sample, "number: 0", "number: 1", 1),
		strings.Replace(sample, "length: 12", "length: -1", 1), strings.Replace(sample, "length: 12", "length: 99999999999", 1), "SVN-fs-dump-format-version: 2\n\n"} {
		if facts, err := scan(strings.NewReader(bad)); err == nil {
			t.Errorf("%q: %v", bad, facts)
		}
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(sample))
	f.Fuzz(func(t *testing.T, b []byte) {
		facts, err := scan(bytes.NewReader(b))
		if err != nil {
			if errors.Is(err, io.EOF) {
				t.Error("an end for an error")
			}
			return
		}
		if facts["youngest"] == "" {
			t.Error("no revision")
		}
	})
}
