package snapshotstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
)

// Any sequence of snapshots, packages, collections, transfers and restarts
// leaves every tree that was to be kept, of both kinds.
func TestStateOperationsProperty(t *testing.T) {
	t.Parallel()
	for range 6 {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 3))
		path := filepath.Join(t.TempDir(), "store")
		opts := stateOptions(Options{Grace: -1, packTarget: 200_000})
		s := openStore(t, path, opts)
		other := stateStore(t, Options{})
		dir := t.TempDir()
		var keep []ID
		for step := range 40 {
			when := fmt.Sprintf("seed %d step %d", seed, step)
			switch rnd.IntN(6) {
			case 0, 1:
				mutate(t, dir, rnd)
				keep = append(keep, putState(t, s, dir, StateOptions{Known: keep}).Root)
			case 2:
				keep = append(keep, putTree(t, s, files(t, map[string]string{"a": noise(uint64(rnd.IntN(9)), 90_000)})).Root)
			case 3:
				for len(keep) > 0 && rnd.IntN(3) > 0 {
					i := rnd.IntN(len(keep))
					keep = slices.Delete(keep, i, i+1)
				}
				_, _, err := s.Collect(ctxb, keep)
				check(t, err)
			case 4:
				if len(keep) > 0 {
					root := keep[rnd.IntN(len(keep))]
					check(t, other.Fetch(ctxb, root, []Source{&storeSource{name: "s", store: s}}, nil))
					mustHave(t, other, root, true)
				}
			case 5:
				check(t, s.Close())
				s = openStore(t, path, opts)
			}
			for _, root := range keep {
				if has, err := s.HasTree(ctxb, root); !has || err != nil {
					t.Fatalf("%s: lost %s: %v", when, root, err)
				}
			}
		}
		noProblems(t, s)
		noProblems(t, other)
	}
}

// A store that lacks the key can not see what a snapshot leads to: it must
// not collect.
func TestCollectNeedsTheKey(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{Grace: -1})
	info := putState(t, s, stateSample(t), StateOptions{})
	s.UseKeys()
	if _, _, err := s.Collect(ctxb, []ID{info.Root}); err == nil {
		t.Fatal("collected blindly")
	}
	s.UseKeys(testKey)
	mustHave(t, s, info.Root, true)
}

// hostileState stores a hand-made snapshot of one directory.
func hostileState(t *testing.T, s *Store, entries ...entry) ID {
	t.Helper()
	plain := appendNodeHeader(nil, kindDir, stateVersion, 0)
	var totals Totals
	for i := range entries {
		plain = appendEntry(plain, stateVersion, &entries[i])
		totals, _ = totals.add(entries[i].totals())
	}
	id, err := s.Put(KeyedNaming, plain)
	check(t, err)
	root, err := s.Put(KeyedNaming, appendState(nil, &stateRoot{mode: 0o755, dir: ref{id, totals}}))
	check(t, err)
	return root
}

func TestHostileSnapshots(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{StateLimits: Limits{Entries: 1000}})
	chunk, err := s.Put(KeyedNaming, []byte("chunk"))
	check(t, err)
	file := func(name string, size uint64, id ID) entry {
		return entry{Kind: File, Mode: 0o644, Name: name, Size: size, Refs: []ref{{id, Totals{Bytes: size}}}}
	}
	link := func(name, to string) entry { return entry{Kind: HardLink, Name: name, Target: to} }
	empty := hostileState(t, s)
	for name, root := range map[string]ID{
		"slash":                hostileState(t, s, file("a/b", 5, chunk)),
		"dot dot":              hostileState(t, s, file("..", 5, chunk)),
		"unsorted":             hostileState(t, s, file("b", 5, chunk), file("a", 5, chunk)),
		"link out":             hostileState(t, s, link("l", "../../etc/passwd")),
		"absolute link":        hostileState(t, s, link("l", "/etc/passwd")),
		"link to nothing":      hostileState(t, s, link("l", "none")),
		"link through symlink": hostileState(t, s, entry{Kind: Symlink, Mode: 0o777, Name: "a", Target: "/etc"}, link("l", "a/hostname")),
		"link to a symlink":    hostileState(t, s, entry{Kind: Symlink, Mode: 0o777, Name: "a", Target: "/etc/passwd"}, link("l", "a")),
		"device":               hostileState(t, s, entry{Kind: 'b', Mode: 0o644, Name: "d"}),
		"mode":                 hostileState(t, s, entry{Kind: Fifo, Mode: 0o100644, Name: "d"}),
		"trusted attribute":    hostileState(t, s, entry{Kind: File, Mode: 0o644, Name: "d", meta: meta{Xattrs: []Xattr{{"trusted.x", "y"}}}}),
		"chunk length":         hostileState(t, s, file("a", 6, chunk)),
		"hole of no size":      hostileState(t, s, entry{Kind: File, Mode: 0o644, Name: "a", Refs: []ref{{}}}),
		"dir is a root":        hostileState(t, s, entry{Kind: Dir, Mode: 0o755, Name: "a", Dir: ref{ID: empty}}),
		"dir of a package":     hostileState(t, s, entry{Kind: Dir, Mode: 0o755, Name: "a", Dir: ref{ID: hostile(t, s)}}),
		"chunk as root":        chunk,
		"package as root":      hostile(t, s),
	} {
		parent := outDir(t)
		dest := filepath.Join(parent, "out")
		if _, err := s.RestoreState(ctxb, root, dest, RestoreOptions{}); err == nil {
			t.Errorf("%s: taken", name)
		}
		if left := siblings(t, dest); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	// A file of holes only is as large as it says, and costs nothing.
	root := hostileState(t, s, entry{Kind: File, Mode: 0o644, Name: "a", Size: 1 << 40, Refs: []ref{{Totals: Totals{Bytes: 1 << 40}}}})
	dest := filepath.Join(outDir(t), "out")
	restore(t, s, root, dest, RestoreOptions{})
	verified(t, s, root, dest)
}

func FuzzCacheRecords(f *testing.F) {
	d := &cacheDirWriter{w: &cacheWriter{}}
	d.file(&cacheFile{ctime: fileTime{-5, 7}, dev: 1, ino: 2, entry: entry{Kind: File, Mode: 0o644, Name: "a", Size: 9,
		Refs: []ref{{ID{1}, Totals{Bytes: 9}}}, meta: meta{UID: 1, Xattrs: []Xattr{{"user.a", "b"}}}}})
	d.dir("b", 77)
	f.Add(d.part)
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := reader{rest: raw, version: stateVersion}
		again := &cacheDirWriter{w: &cacheWriter{}}
		for len(r.rest) > 0 {
			name, file, sub := r.cacheRecord()
			if r.bad {
				return
			}
			if file != nil {
				again.file(file)
			} else if again.dir(name, sub); sub == 0 {
				return
			}
			if len(again.part) > 0 && !bytes.HasPrefix(raw, again.part) {
				t.Fatalf("read %x as %x", raw, again.part)
			}
			if len(raw) > cacheBlock {
				return
			}
		}
	})
}

// FuzzCache reads caches whose blocks all prove themselves, as if whoever
// wrote them had the key.
func FuzzCache(f *testing.F) {
	f.Add([]byte("\x10\x00\x00\x00\x00\x00\x00\x00"), []byte("fabc"))
	f.Fuzz(func(t *testing.T, index, records []byte) {
		name := KeyedNamer(testKey)
		w := &cacheWriter{f: &memFile{}, name: name, at: cacheHeader}
		_, _ = w.f.WriteAt([]byte(cacheMagic+"\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
		w.block(cacheRecords, records)
		root := w.block(cacheIndex, index)
		w.block(cacheEnd, binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, root), 1))
		r, err := readCache(w.f, w.at, name)
		check(t, err)
		d := r.dir(r.root)
		for _, name := range []string{"", "a", "b", "c\xff"} {
			d.lookup(name)
			d.child(name).lookup("x")
		}
	})
}

// memFile is a file in memory.
type memFile struct{ data []byte }

func (m *memFile) ReadAt(b []byte, at int64) (int, error) {
	return bytes.NewReader(m.data).ReadAt(b, at)
}
func (m *memFile) Sync() error          { return nil }
func (m *memFile) Truncate(int64) error { return nil }
func (m *memFile) Close() error         { return nil }

func (m *memFile) WriteAt(b []byte, at int64) (int, error) {
	m.data = append(m.data, make([]byte, max(int(at)+len(b)-len(m.data), 0))...)
	return copy(m.data[at:], b), nil
}
