package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestCollectKeepsWhatIsReachable(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	opts := Options{Grace: -1, packTarget: 1 << 20, workers: 1} // which objects share a pack decides what is freed
	s := openStore(t, dir, opts)
	blob := noise(1, 2<<20)
	a := putTree(t, s, files(t, map[string]string{"shared": blob, "a": noise(2, 1<<20)}))
	b := putTree(t, s, files(t, map[string]string{"shared": blob, "b": noise(3, 1<<20)}))
	full := s.Stats()
	removed, bytes, err := s.Collect(ctxb, []ID{a.Root, b.Root})
	check(t, err)
	if removed != 0 || bytes != 0 {
		t.Fatalf("removed %d, %d bytes of what is kept", removed, bytes)
	}
	removed, bytes, err = s.Collect(ctxb, []ID{b.Root})
	check(t, err)
	if removed == 0 || bytes < 1<<20-1<<17 || s.Stats().Disk != full.Disk-bytes {
		t.Fatalf("removed %d, %d bytes, %+v before, %+v after", removed, bytes, full, s.Stats())
	}
	mustHave(t, s, b.Root, true)
	mustHave(t, s, a.Root, false)
	noProblems(t, s)
	check(t, s.Close())
	s = openStore(t, dir, opts)
	mustHave(t, s, b.Root, true)
	if _, _, err = s.Collect(ctxb, nil); err != nil || s.Stats() != (Stats{}) {
		t.Fatalf("%v, %+v", err, s.Stats())
	}
	if left := storedFiles(t, dir); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
}

func TestCollectMergesSmallPacks(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	var roots []ID
	for i := range smallPacks {
		s := openStore(t, dir, noGrace)
		roots = append(roots, putTree(t, s, files(t, map[string]string{"f": fmt.Sprint(i)})).Root)
		check(t, s.Close())
	}
	s := openStore(t, dir, noGrace)
	_, _, err := s.Collect(ctxb, roots)
	check(t, err)
	if n := s.Stats().Packs; n != 1 {
		t.Fatalf("%d packs", n)
	}
	for _, root := range roots {
		mustHave(t, s, root, true)
	}
	noProblems(t, s)
}

func TestGraceAndHold(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	s := newStore(t, Options{Grace: time.Minute, Now: func() time.Time { return now }})
	gone := func(root ID) bool {
		t.Helper()
		_, _, err := s.Collect(ctxb, nil)
		check(t, err)
		s.mu.RLock()
		defer s.mu.RUnlock()
		_, here := s.index.lookup(root)
		return !here
	}
	dir := files(t, map[string]string{"a": "b"})
	root := putTree(t, s, dir).Root
	if gone(root) {
		t.Fatal("removed at once")
	}
	now = now.Add(55 * time.Second)
	mustHave(t, s, root, true) // asking counts as use
	now = now.Add(30 * time.Second)
	if gone(root) {
		t.Fatal("removed soon after somebody was told that it is here")
	}
	hold := s.Hold()
	mustHave(t, s, root, true)
	now = now.Add(time.Hour)
	if gone(root) {
		t.Fatal("removed under a hold")
	}
	hold.Release()
	hold.Release()
	if !gone(root) {
		t.Fatal("never removed")
	}
}

func TestCollectStopsAtADamagedDirectory(t *testing.T) {
	t.Parallel()
	s := newStore(t, noGrace)
	tree := sample(t)
	info := putTree(t, s, tree)
	damage(t, s, info.Root)
	for range 2 { // when it is found, and when it is known
		if _, _, err := s.Collect(ctxb, []ID{info.Root}); err == nil {
			t.Fatal("collected what the damaged directory leads to")
		}
	}
	putTree(t, s, tree)
	removed, _, err := s.Collect(ctxb, []ID{info.Root, {1}}) // a root that is not here is no error
	check(t, err)
	if removed != 0 {
		t.Fatalf("removed %d", removed)
	}
	mustHave(t, s, info.Root, true)
}

// Trees are put, fetched and read while Collect runs without pause. What was
// put stays whole while a Hold lasts, whatever Collect is told to keep.
func TestCollectBesidePut(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{Grace: -1, packTarget: 64 << 10})
	other := newStore(t, Options{})
	ctx, stop := context.WithCancel(ctxb)
	var collector, users sync.WaitGroup
	collector.Go(func() {
		for ctx.Err() == nil {
			if _, _, err := s.Collect(ctx, nil); err != nil && !errors.Is(err, context.Canceled) {
				t.Error(err)
				return
			}
		}
	})
	for u := range 3 {
		users.Go(func() {
			for i := range 12 {
				dir, err := os.MkdirTemp("", "iso")
				if err != nil {
					t.Error(err)
					return
				}
				defer os.RemoveAll(dir)
				err = errors.Join(os.WriteFile(filepath.Join(dir, "a"), []byte(noise(uint64(i%4), 90_000)), 0o644),
					os.WriteFile(filepath.Join(dir, "b"), fmt.Append(nil, u, i/2), 0o644))
				if err == nil {
					err = useTree(s, other, dir, i%2 == 0)
				}
				if err != nil {
					t.Errorf("user %d, turn %d: %v", u, i, err)
					return
				}
			}
		})
	}
	users.Wait()
	stop()
	collector.Wait()
	noProblems(t, s)
	_, _, err := s.Collect(ctxb, nil)
	check(t, err)
	if st := s.Stats(); st.Objects != 0 {
		t.Fatalf("%+v", st)
	}
}

// useTree brings dir into s, by PutTree or by Fetch, and reads it back.
func useTree(s, other *Store, dir string, fetch bool) error {
	hold := s.Hold()
	defer hold.Release()
	put := s
	if fetch {
		put = other
	}
	info, err := put.PutTree(ctxb, dir)
	if err != nil {
		return err
	}
	if fetch {
		if err := s.Fetch(ctxb, info.Root, []Source{&storeSource{name: "other", store: other}}, nil); err != nil {
			return err
		}
	}
	if has, err := s.HasTree(ctxb, info.Root); !has || err != nil {
		return fmt.Errorf("has tree: %v, %w", has, err)
	}
	dest := dir + "-out"
	if err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}); err != nil {
		return err
	}
	return s.RemoveTree(dest)
}

// canned is a tree in memory, to be put without reading a directory.
type canned struct {
	root ID
	mu   sync.Mutex
	objs map[ID][]byte
}

func (c *canned) Has(_ context.Context, ids []ID) ([]bool, error) { return make([]bool, len(ids)), nil }

func (c *canned) Put(_ context.Context, id ID, plain []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objs[id] = append([]byte(nil), plain...)
	return nil
}

func can(t *testing.T, dir string) *canned {
	c := &canned{objs: map[ID][]byte{}}
	info, err := ScanDir(ctxb, dir, c, ScanOptions{})
	check(t, err)
	c.root = info.Root
	return c
}

func (c *canned) putInto(s *Store) (err error) {
	o, err := s.begin()
	if err != nil {
		return err
	}
	defer func() { err = o.end(err) }()
	for id, plain := range c.objs {
		if _, err := s.put(id, plain, PlainNaming); err != nil {
			return err
		}
	}
	return nil
}

// Any sequence of operations leaves a store that Check accepts and that has
// every tree it was told to keep.
func TestOperationsProperty(t *testing.T) {
	t.Parallel()
	var trees []*canned
	for i := range 6 {
		trees = append(trees, can(t, files(t, map[string]string{"a": noise(uint64(i/2), 40_000), "d/b": strings.Repeat(fmt.Sprint(i), 999), "d/c": "same"})))
	}
	base, n := t.TempDir(), 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := filepath.Join(base, fmt.Sprint(n))
		opts := Options{Grace: -1, packTarget: 60_000, disk: noSync{}, workers: 1}
		s := openStore(t, dir, opts)
		kept := map[ID]bool{}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				tree := rapid.SampledFrom(trees).Draw(rt, "tree")
				check(t, tree.putInto(s))
				kept[tree.root] = true
			},
			"collect": func(rt *rapid.T) {
				var keep []ID
				for _, tree := range trees {
					if kept[tree.root] && rapid.Bool().Draw(rt, "keep") {
						keep = append(keep, tree.root)
					} else {
						delete(kept, tree.root)
					}
				}
				_, _, err := s.Collect(ctxb, keep)
				check(t, err)
			},
			"reopen": func(*rapid.T) {
				check(t, s.Close())
				s = openStore(t, dir, opts)
			},
			"": func(*rapid.T) {
				for root := range kept {
					mustHave(t, s, root, true)
				}
			},
		})
		noProblems(t, s)
		check(t, s.Close())
		check(t, os.RemoveAll(dir))
	})
}
