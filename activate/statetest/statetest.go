// Package statetest holds what every module with state must do, as a test that each of them runs against the real thing.
package statetest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
)

// Subject is a module and a client of its component.
type Subject struct {
	// New makes the module anew, as an agent does after a restart. What it remembers is in marks.
	New func(marks string) activate.Stateful
	In  activate.Instance
	// Write writes a record of this name through a client of another process, as a dependent would.
	Write func(ctx context.Context, name string) error
	// Read returns the names of all records, sorted.
	Read func(ctx context.Context) ([]string, error)
	// Grow makes things beside records that were not there before, of each kind that the state can have: tables, branches,
	// directories.
	Grow func(ctx context.Context) error
	// Initial are the records that the package comes with.
	Initial []string
	// Files says that the payload of a live state is the state itself.
	Files bool
	// Damage makes a payload one that Verify must refuse, or Load.
	Damage func(t *testing.T, p *activate.Payload)
}

const deadline = 2 * time.Minute

// Run runs s through a life: created, dumped, restored, stopped, deleted.
func Run(t *testing.T, s Subject) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	marks := t.TempDir()
	m := s.New(marks)
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	want := func(what string, names ...string) {
		t.Helper()
		got, err := s.Read(ctx)
		all := slices.Sorted(slices.Values(append(slices.Clone(s.Initial), names...)))
		if err != nil || !slices.Equal(got, all) {
			t.Fatalf("%s: there is %q, not %q (%v)", what, got, all, err)
		}
	}
	observed := func(what string, want bool) {
		t.Helper()
		list, err := s.New(marks).Observe(ctx)
		there := slices.ContainsFunc(list, func(r activate.Running) bool { return r.ID == s.In.ID && r.Attempt == s.In.Attempt && r.Exit == nil })
		if err != nil || there != want {
			t.Fatalf("%s: observed %+v (%v)", what, list, err)
		}
	}
	// garbage returns what is remembered of the state, if it is marked.
	garbage := func(what string, want bool) (in activate.Instance) {
		t.Helper()
		list, err := s.New(marks).Garbage(ctx)
		if err != nil || len(list) > 1 || len(list) == 1 != want {
			t.Fatalf("%s: garbage: %+v (%v)", what, list, err)
		}
		if want {
			in = list[0]
			if in.ID != s.In.ID || in.Service != s.In.Service || in.Container != s.In.Container || in.Type != s.In.Type || in.StateDir != s.In.StateDir {
				t.Fatalf("%s: what is remembered of %+v is %+v", what, s.In, in)
			}
		}
		return in
	}

	// Nothing is there.
	check("stop what was never started", m.Stop(ctx, s.In))
	check("delete what is absent", m.Delete(ctx, s.In))
	check("prepare", m.Prepare(ctx, s.In))
	garbage("absent", false)
	if _, err := m.Dump(ctx, s.In, t.TempDir(), true); err == nil {
		t.Fatal("what is absent was dumped")
	}

	// Created, but not to be reached yet.
	check("create", m.Create(ctx, s.In))
	check("create again", m.Create(ctx, s.In))
	garbage("created", true)
	if s.Write(ctx, "early") == nil {
		t.Fatal("a client wrote before the start")
	}
	observed("created", false)
	check("start", m.Start(ctx, s.In))
	check("start again", m.Start(ctx, s.In))
	observed("started", true)
	garbage("started", false)
	want("started")
	check("write", s.Write(ctx, "one"))
	check("write", s.Write(ctx, "it's \"two\" \\ \n`x` $y"))
	check("create with a state there", m.Create(ctx, s.In))
	want("two written", "one", "it's \"two\" \\ \n`x` $y")
	if err := m.Delete(ctx, s.In); !errors.As(err, new(*activate.NotGarbageError)) {
		t.Fatalf("a live state was deleted: %v", err)
	}

	// Dumped while it is live, and again with nothing changed.
	first, firstTree := dump(t, ctx, m, s.In, false)
	if first.Live != s.Files {
		t.Fatalf("live: %+v", first)
	}
	if !first.Live {
		again, tree := dump(t, ctx, m, s.In, false)
		same(t, "the same state, dumped again", firstTree, tree, first, again)
	}

	// Stopped: nobody writes any more, and no more after a restart of the agent.
	check("stop", m.Stop(ctx, s.In))
	check("stop again", s.New(marks).Stop(ctx, s.In))
	observed("stopped", false)
	garbage("stopped", true)
	if err := s.New(t.TempDir()).Delete(ctx, s.In); !errors.As(err, new(*activate.NotGarbageError)) {
		t.Fatalf("what has no mark was deleted: %v", err)
	}
	if s.Write(ctx, "late") == nil {
		t.Fatal("a client wrote after the stop")
	}
	final, finalTree := dump(t, ctx, m, s.In, true)
	if final.Live {
		t.Fatal("a final dump is live")
	}
	same(t, "stopped with nothing changed", firstTree, finalTree, first, final)
	kept := t.TempDir()
	saved := keep(t, final, filepath.Join(kept, "a"))
	other, last := keep(t, final, filepath.Join(kept, "b")), keep(t, final, filepath.Join(kept, "d"))
	damaged := keep(t, final, filepath.Join(kept, "c"))

	// Written to again, by the next attempt.
	s.In.Attempt++
	check("start after a stop", m.Start(ctx, s.In))
	observed("started again", true)
	check("write", s.Write(ctx, "three"))
	want("three written", "one", "it's \"two\" \\ \n`x` $y", "three")
	check("grow", s.Grow(ctx))
	if err := m.Load(ctx, s.In, other); err == nil {
		t.Fatal("a live state was replaced")
	}
	check("stop", m.Stop(ctx, s.In))
	_, changed := dump(t, ctx, m, s.In, true)
	if maps.Equal(changed, finalTree) {
		t.Fatal("a dump does not show what was written")
	}

	// What is damaged does not pass for a state.
	s.Damage(t, &damaged)
	if err := m.Load(ctx, s.In, damaged); err == nil {
		err = m.Verify(ctx, s.In, damaged)
		if err == nil {
			t.Fatal("a damaged payload was loaded and verified")
		}
		t.Log(err)
	} else {
		t.Log(err)
	}

	// Loaded: what was written and made since the dump is gone.
	check("load", m.Load(ctx, s.In, saved))
	saved.Dir = ""
	check("verify", m.Verify(ctx, s.In, saved))
	if s.Write(ctx, "hidden") == nil {
		t.Fatal("a client wrote to what was only loaded")
	}
	loaded, loadedTree := dump(t, ctx, m, s.In, true)
	same(t, "loaded and dumped", finalTree, loadedTree, final, loaded)
	s.In.Attempt++
	check("start what was loaded", m.Start(ctx, s.In))
	want("loaded", "one", "it's \"two\" \\ \n`x` $y")
	check("write", s.Write(ctx, "four"))

	// A row that was replaced stops late: nothing happens to its successor.
	old := s.In
	s.In.ID += "-next"
	check("start the successor", m.Start(ctx, s.In))
	check("stop the predecessor", m.Stop(ctx, old))
	check("write", s.Write(ctx, "five"))
	observed("replaced", true)

	check("stop", m.Stop(ctx, s.In))
	check("delete by what is remembered", s.New(marks).Delete(ctx, garbage("stopped", true)))
	check("delete again", m.Delete(ctx, s.In))
	Gone(t, s.In)
	garbage("deleted", false)
	if _, err := m.Dump(ctx, s.In, t.TempDir(), true); err == nil {
		t.Fatal("what was deleted was dumped")
	}

	// On another node: loaded where nothing was.
	check("load where nothing is", m.Load(ctx, s.In, other))
	check("verify", m.Verify(ctx, s.In, activate.Payload{Facts: final.Facts}))
	s.In.Attempt++
	check("start", m.Start(ctx, s.In))
	want("loaded where nothing was", "one", "it's \"two\" \\ \n`x` $y")
	check("stop", m.Stop(ctx, s.In))
	check("delete", m.Delete(ctx, s.In))

	// Loaded, and never started.
	check("load", m.Load(ctx, s.In, last))
	check("delete by what is remembered", m.Delete(ctx, garbage("loaded", true)))
	Gone(t, s.In)
}

// Gone fails if anything is left where the state's directory was.
func Gone(t *testing.T, in activate.Instance) {
	t.Helper()
	if left, err := os.ReadDir(in.StateDir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("left behind in %s: %v (%v)", in.StateDir, left, err)
	}
}

func dump(t *testing.T, ctx context.Context, m activate.Stateful, in activate.Instance, final bool) (activate.Payload, map[string]string) {
	t.Helper()
	p, err := m.Dump(ctx, in, t.TempDir(), final)
	if err != nil {
		t.Fatalf("dump (final: %v): %v", final, err)
	}
	tree := Tree(t, p.Dir)
	if len(tree) == 0 {
		t.Fatal("the payload is empty")
	}
	return p, tree
}

func same(t *testing.T, what string, a, b map[string]string, pa, pb activate.Payload) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(a)) {
		if a[name] != b[name] {
			t.Errorf("%s: %s differs: %q, %q", what, name, a[name], b[name])
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			t.Errorf("%s: %s is new", what, name)
		}
	}
	if err := activate.CompareFacts(pa.Facts, pb.Facts); err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if t.Failed() {
		t.FailNow()
	}
}

// keep copies a payload, as a store would.
func keep(t *testing.T, p activate.Payload, to string) activate.Payload {
	t.Helper()
	if out, err := exec.Command("cp", "-a", p.Dir, to).CombinedOutput(); err != nil {
		t.Fatalf("cp: %v: %s", err, out)
	}
	p.Dir = to
	return p
}

// Tree is what a store would see: the digest of every file by name, links by where they lead.
func Tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		switch {
		case d.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(b)
			all[name] = hex.EncodeToString(sum[:8])
		case d.Type()&fs.ModeSymlink != 0:
			all[name], err = os.Readlink(path)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Need returns the path of a program that a test needs. Without it the test fails on the project's CI (CI=true) and is
// skipped elsewhere.
func Need(t *testing.T, program string, dirs ...string) string {
	t.Helper()
	for _, dir := range append(dirs, filepath.SplitList(os.Getenv("PATH")+":/usr/sbin:/sbin")...) {
		paths, _ := filepath.Glob(filepath.Join(dir, program))
		for _, path := range slices.Backward(paths) {
			if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o111 != 0 {
				return path
			}
		}
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed (make deps)", program)
	}
	t.Skipf("%s is not installed (make deps)", program)
	return ""
}

// Await waits until ok returns nil, and fails with its last error.
func Await(t *testing.T, what string, ok func() error) {
	t.Helper()
	end := time.Now().Add(time.Minute)
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := ok()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("wait for %s: %v", what, err)
		}
		<-time.After(wait)
	}
}

// SmallDisk mounts a file system of so many bytes, which only root can; others skip.
func SmallDisk(t *testing.T, bytes string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size="+bytes, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

// Program writes an executable script for tests that replace a tool.
func Program(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
}
