package git

import (
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
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

func git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/nonexistent", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@b", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@b"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("git %v: %w: %s", args, err, stderr.String())
	}
	return string(out), err
}

// push commits a file and pushes it, and a tag, from a clone.
func push(ctx context.Context, repository, name string) error {
	dir, err := os.MkdirTemp("", "clone")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, args := range [][]string{
		{"clone", "--quiet", repository, "."}, {"commit", "--quiet", "--allow-empty", "--cleanup=verbatim", "-m", name}, {"tag", "-a", "-m", "tag", "t" + fmt.Sprint(time.Now().UnixNano())},
		{"push", "--quiet", "--tags", "origin", "HEAD:main"},
	} {
		if _, err := git(ctx, dir, args...); err != nil {
			return err
		}
	}
	return nil
}

func instance(t *testing.T) activate.Instance {
	t.Helper()
	statetest.Need(t, "git")
	dir := t.TempDir()
	work, pkg := filepath.Join(dir, "work"), filepath.Join(dir, "package")
	if err := errors.Join(os.Mkdir(work, 0o755), os.Mkdir(pkg, 0o755), os.WriteFile(filepath.Join(work, "file"), []byte("text"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "--quiet", "--initial-branch=main"}, {"add", "."}, {"commit", "--quiet", "-m", "first"}, {"bundle", "create", "--quiet", filepath.Join(pkg, "initial.bundle"), "--all"}} {
		if _, err := git(t.Context(), work, args...); err != nil {
			t.Fatal(err)
		}
	}
	return activate.Instance{ID: "n1/code/1", Attempt: 1, Service: "code", Container: Type, Type: Type, Package: pkg, StateDir: filepath.Join(dir, "state"), Spec: activate.Spec{Grace: 10 * time.Second}}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	in := instance(t)
	path := Outputs(in)["path"]
	statetest.Run(t, statetest.Subject{
		New:   func(marks string) activate.Stateful { return New(marks) },
		In:    in,
		Write: func(ctx context.Context, name string) error { return push(ctx, path, name) },
		Read: func(ctx context.Context) ([]string, error) {
			out, err := git(ctx, path, "log", "--format=%B%x00", "main")
			var all []string
			for s := range strings.SplitSeq(strings.TrimSpace(out), "\x00") {
				if s = strings.Trim(s, "\n"); s != "" {
					all = append(all, s)
				}
			}
			slices.Sort(all)
			return all, err
		},
		Grow: func(ctx context.Context) error {
			_, err1 := git(ctx, path, "branch", "later", "main")
			_, err2 := git(ctx, path, "update-ref", "refs/notes/later", "main")
			return errors.Join(err1, err2, os.MkdirAll(filepath.Join(path, "hooks"), 0o755), os.WriteFile(filepath.Join(path, "hooks", "update"), []byte("#!/bin/sh\n"), 0o755))
		},
		Initial: []string{"first"},
		Damage: func(t *testing.T, p *activate.Payload) { // the file of the first commit
			id, err := git(t.Context(), p.Dir, "rev-parse", "main:file")
			if err != nil {
				t.Fatal(err)
			}
			id = strings.TrimSpace(id)
			packs, _ := filepath.Glob(filepath.Join(p.Dir, "objects/pack/*.pack"))
			err = os.Remove(filepath.Join(p.Dir, "objects", id[:2], id[2:]))
			for _, pack := range packs {
				fi, serr := os.Stat(pack)
				if serr != nil {
					t.Fatal(serr)
				}
				err = errors.Join(os.Chmod(pack, 0o600), os.Truncate(pack, fi.Size()-1))
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestDumpFailures damages the repository, and replaces git by programs that lie.
func TestDumpFailures(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	path := Outputs(in)["path"]
	if err := push(t.Context(), path, "x"); err != nil {
		t.Fatal(err)
	}
	refused := func(what string, in activate.Instance) {
		t.Helper()
		if p, err := m.Dump(t.Context(), in, t.TempDir(), false); err == nil {
			t.Errorf("%s: dumped: %+v", what, p)
		} else {
			t.Log(what+":", err)
		}
	}
	real := statetest.Need(t, "git")
	for name, script := range map[string]string{
		"nothing":   `exit 0`,
		"one ref":   `case "$*" in *for-each-ref*) ` + real + ` "$@" | head -n 1;; *) exec ` + real + ` "$@";; esac`,
		"cut":       `case "$*" in *for-each-ref*) ` + real + ` "$@" | head -c 50;; *) exec ` + real + ` "$@";; esac`,
		"bad fsck":  `case "$*" in *fsck*) echo missing blob >&2; exit 2;; *) exec ` + real + ` "$@";; esac`,
		"killed":    `case "$*" in *fsck*) kill -9 $$;; *) exec ` + real + ` "$@";; esac`,
		"no object": `case "$*" in *for-each-ref*) ` + real + ` "$@"; exit 1;; *) exec ` + real + ` "$@";; esac`,
	} {
		bad := in
		bad.Settings = map[string]string{"gitPrograms": t.TempDir()}
		statetest.Program(t, bad.Settings["gitPrograms"], "git", script)
		refused(name, bad)
	}
	if p, err := m.Dump(t.Context(), in, t.TempDir(), false); err != nil || p.Facts["refs"] != "2" {
		t.Fatalf("%+v, %v", p, err)
	}
	t.Run("full disk", func(t *testing.T) {
		if p, err := m.Dump(t.Context(), in, statetest.SmallDisk(t, "4k"), false); err == nil {
			t.Errorf("dumped: %+v", p)
		}
	})
	id, err := git(t.Context(), path, "rev-parse", "main:file")
	if err != nil {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(path, "objects", id[:2], strings.TrimSpace(id[2:])))
	packs, _ := filepath.Glob(filepath.Join(path, "objects/pack/*"))
	for _, p := range packs {
		if err := os.Remove(p); err != nil {
			t.Fatal(err)
		}
	}
	refused("an object missing", in)
}

// TestPackedAndBorrowed dumps after housekeeping, and refuses a repository whose objects are elsewhere.
func TestPackedAndBorrowed(t *testing.T) {
	t.Parallel()
	in, m := instance(t), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	path := Outputs(in)["path"]
	for _, n := range []string{"a", "b"} {
		if err := push(t.Context(), path, n); err != nil {
			t.Fatal(err)
		}
	}
	before, err := m.Dump(t.Context(), in, t.TempDir(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"gc", "--quiet"}, {"pack-refs", "--all"}} {
		if _, err := git(t.Context(), path, args...); err != nil {
			t.Fatal(err)
		}
	}
	after, err := m.Dump(t.Context(), in, t.TempDir(), false)
	if err := errors.Join(err, activate.CompareFacts(before.Facts, after.Facts)); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(path, "objects/info/alternates"), []byte("/elsewhere\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if p, err := m.Dump(t.Context(), in, t.TempDir(), false); err == nil {
		t.Errorf("dumped: %+v", p)
	}
}

func FuzzParsePacked(f *testing.F) {
	f.Add("# pack-refs with: peeled\n0123456789012345678901234567890123456789 refs/heads/main\n^0123456789012345678901234567890123456789\n")
	f.Fuzz(func(t *testing.T, s string) {
		all := map[string]string{}
		if parsePacked(s, all) != nil {
			return
		}
		for name, id := range all {
			if !strings.HasPrefix(name, "refs/") || strings.ContainsAny(name+id, "\n") {
				t.Errorf("%q: %q", name, id)
			}
		}
	})
}
