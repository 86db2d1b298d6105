package snapshotstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

var ctxb = context.Background()

func TestMaterialise(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	dir := sample(t)
	info := putTree(t, s, dir)
	parent := filepath.Join(outDir(t), "a", "b")
	dest := filepath.Join(parent, "out")
	check(t, s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}))
	if describe(t, dest) != describe(t, dir) {
		t.Fatal("not the same")
	}
	check(t, filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type() == fs.ModeSymlink {
			return err
		}
		if i, _ := d.Info(); i.Mode()&0o222 != 0 || i.Mode()&0o444 != 0o444 {
			t.Errorf("%s has mode %s", path, i.Mode())
		}
		return nil
	}))
	before, err := os.Stat(filepath.Join(dest, "bin/run"))
	check(t, err)
	check(t, s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{Verify: true}))
	after, err := os.Stat(filepath.Join(dest, "bin/run"))
	check(t, err)
	if !os.SameFile(before, after) {
		t.Fatal("made again")
	}
	check(t, s.RemoveTree(dest))
	check(t, s.RemoveTree(dest))
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
}

func TestMaterialiseRefusesWhatIsNotOurs(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	a := putTree(t, s, sample(t))
	b := putTree(t, s, files(t, map[string]string{"x": "y"}))
	dest := filepath.Join(outDir(t), "out")
	check(t, os.Mkdir(dest, 0o755))
	if err := s.Materialise(ctxb, a.Root, dest, MaterialiseOptions{}); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	if err := s.RemoveTree(dest); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	check(t, os.Remove(dest))
	check(t, s.Materialise(ctxb, a.Root, dest, MaterialiseOptions{}))
	if err := s.Materialise(ctxb, b.Root, dest, MaterialiseOptions{}); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
	check(t, os.Chmod(filepath.Join(dest, "share/text"), 0o644))
	check(t, os.WriteFile(filepath.Join(dest, "share/text"), []byte("altered"), 0o644))
	check(t, s.Materialise(ctxb, a.Root, dest, MaterialiseOptions{}))
	if err := s.Materialise(ctxb, a.Root, dest, MaterialiseOptions{Verify: true}); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
}

func TestMaterialiseIncomplete(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	info := putTree(t, s, sample(t))
	damage(t, s, PlainNamer([]byte(noise(2, 5000))))
	dest := filepath.Join(outDir(t), "out")
	err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{})
	var e *EntryError
	if !isCorrupt(err) || !errors.As(err, &e) || e.Path != "lib/v1/lib.so" {
		t.Fatal(err)
	}
	if err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dest)); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
}

func TestMaterialiseCleansUpAfterACrash(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	info := putTree(t, s, sample(t))
	parent := outDir(t)
	stray := filepath.Join(parent, ".out.unfinished/d")
	for range 2 {
		check(t, os.MkdirAll(stray, 0o755))
		check(t, os.WriteFile(stray+"/f", nil, 0o444))
		check(t, os.Chmod(stray, 0o555))
		check(t, os.WriteFile(filepath.Join(parent, ".out.complete.unfinished"), nil, 0o600))
		check(t, s.Materialise(ctxb, info.Root, filepath.Join(parent, "out"), MaterialiseOptions{}))
		check(t, s.RemoveTree(filepath.Join(parent, "out")))
	}
	check(t, os.MkdirAll(stray, 0o755))
	check(t, RemoveUnfinished(parent))
	if left, _ := os.ReadDir(parent); len(left) > 0 {
		t.Fatalf("left %v", left)
	}
	check(t, RemoveUnfinished(filepath.Join(parent, "none")))
}

func TestMaterialiseTogether(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	dir := sample(t)
	info := putTree(t, s, dir)
	parent := outDir(t)
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			dest := filepath.Join(parent, "out"+strings.Repeat("x", i%2))
			if err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if describe(t, filepath.Join(parent, "outx")) != describe(t, dir) {
		t.Fatal("not the same")
	}
}
