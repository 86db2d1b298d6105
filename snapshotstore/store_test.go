package snapshotstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestReopenKeepsEverything(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{packTarget: 300_000})
	info := putTree(t, s, sample(t))
	check(t, s.Close())
	s = openStore(t, dir, Options{})
	mustHave(t, s, info.Root, true)
	got, err := s.Info(info.Root)
	check(t, err)
	if got != info {
		t.Fatalf("%+v, want %+v", got, info)
	}
	noProblems(t, s)
	if again := putTree(t, s, sample(t)); again != info {
		t.Fatalf("%+v", again)
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{})
	info := putTree(t, s, sample(t))
	for _, ro := range []bool{false, true} {
		if _, err := Open(dir, Options{ReadOnly: ro}); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "pid") {
			t.Fatalf("opened twice: %v", err)
		}
	}
	check(t, s.Close())
	a, b := openStore(t, dir, Options{ReadOnly: true}), openStore(t, dir, Options{ReadOnly: true})
	mustHave(t, a, info.Root, true)
	if _, err := b.PutTree(context.Background(), sample(t)); !errors.Is(err, ErrReadOnly) {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrInUse) {
		t.Fatalf("a writer beside readers: %v", err)
	}
}

func TestClosed(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	id, err := s.Put(PlainNaming, []byte("x"))
	check(t, err)
	check(t, s.Close())
	check(t, s.Close())
	_, err = s.Get(id)
	_, err2 := s.Put(PlainNaming, []byte("y"))
	if !errors.Is(err, ErrClosed) || !errors.Is(err2, ErrClosed) || !errors.Is(s.Flush(), ErrClosed) {
		t.Fatal(err, err2)
	}
}

func TestUnknownFormat(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	check(t, openStore(t, dir, Options{}).Close())
	check(t, os.WriteFile(filepath.Join(dir, "store"), []byte("isonomia store 9\n"), 0o600))
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrFormat) {
		t.Fatal(err)
	}
}

func TestGetMissing(t *testing.T) {
	t.Parallel()
	_, err := newStore(t, Options{}).Get(ID{1})
	var m *MissingError
	if !errors.As(err, &m) || m.ID != (ID{1}) || !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
}

func TestKeyedNaming(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{Keys: [][32]byte{{7}}})
	plain := []byte(strings.Repeat("state", 100))
	a, err := s.Put(KeyedNaming, plain)
	check(t, err)
	b, err := s.Put(PlainNaming, plain)
	check(t, err)
	if a == b {
		t.Fatal("the key does not matter")
	}
	check(t, s.Close())
	s = openStore(t, dir, Options{})
	if _, err := s.Get(a); err == nil || isCorrupt(err) {
		t.Fatalf("without the key: %v", err)
	}
	check(t, s.Close())
	s = openStore(t, dir, Options{Keys: [][32]byte{{7}}})
	got, err := s.Get(a)
	check(t, err)
	if string(got) != string(plain) {
		t.Fatal("not the same")
	}
	noProblems(t, s)
}

func TestRaw(t *testing.T) {
	t.Parallel()
	a, b := newStore(t, Options{}), newStore(t, Options{})
	for _, plain := range []string{"", "x", strings.Repeat("text ", 9000), noise(8, MaxObject)} {
		id, err := a.Put(PlainNaming, []byte(plain))
		check(t, err)
		raw, err := a.GetRaw(id)
		check(t, err)
		bad := append([]byte(nil), raw...)
		bad[len(bad)-1] ^= 1
		for _, wrong := range [][]byte{bad, raw[:len(raw)-1], nil, append(raw[:len(raw):len(raw)], 0)} {
			if err := b.PutRaw(id, wrong); !isCorrupt(err) || b.touch(id) {
				t.Fatalf("%d wrong bytes taken: %v", len(wrong), err)
			}
		}
		check(t, b.PutRaw(id, raw))
		got, err := b.Get(id)
		check(t, err)
		if string(got) != plain {
			t.Fatal("not the same")
		}
	}
	if _, err := a.Put(PlainNaming, make([]byte, MaxObject+1)); err == nil {
		t.Fatal("an object that is too large was taken")
	}
}

// storedFiles are all files of a store that hold content.
func storedFiles(t *testing.T, dir string) []string {
	t.Helper()
	var out []string
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
			out = append(out, path)
		}
		return err
	}))
	return out
}

// Every byte of every file, one bit at a time: Open refuses, or Get and Check
// find it, or the store heals itself; wrong bytes are never served.
func TestEveryFlippedBitIsFound(t *testing.T) {
	t.Parallel()
	tree := files(t, map[string]string{"a": "one", "b/c": strings.Repeat("two ", 30), "b/d": "->c"})
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, Options{})
	info := putTree(t, s, tree)
	plains := map[ID]string{}
	for id := range s.index.at {
		plain, err := s.Get(id)
		check(t, err)
		plains[id] = string(plain)
	}
	check(t, s.Close())
	for _, path := range storedFiles(t, dir) {
		whole, err := os.ReadFile(path)
		check(t, err)
		for i := range whole {
			flipped := append([]byte(nil), whole...)
			flipped[i] ^= 1 << (i % 8)
			check(t, os.WriteFile(path, flipped, 0o600))
			flippedIsFound(t, dir, path, i, info.Root, plains)
		}
		check(t, os.WriteFile(path, whole, 0o600))
	}
	s = openStore(t, dir, Options{})
	noProblems(t, s)
}

func flippedIsFound(t *testing.T, dir, path string, at int, root ID, plains map[ID]string) {
	s, err := Open(dir, Options{ReadOnly: true})
	if err != nil {
		if !errors.Is(err, ErrFormat) {
			t.Fatalf("%s byte %d: %v", path, at, err)
		}
		return
	}
	defer s.Close()
	damaged := false
	for id, want := range plains {
		plain, err := s.Get(id)
		if err != nil {
			damaged = true
		} else if string(plain) != want {
			t.Fatalf("%s byte %d: wrong bytes served", path, at)
		}
	}
	problems, err := s.Check(context.Background())
	check(t, err)
	if len(problems) == 0 && !damaged {
		t.Fatalf("%s byte %d: not found", path, at)
	}
}

// damage flips a bit in the stored bytes of an object.
func damage(t *testing.T, s *Store, id ID) {
	t.Helper()
	s.mu.RLock()
	l, ok := s.index.lookup(id)
	path := s.pathLocked(l.pack)
	s.mu.RUnlock()
	if !ok {
		t.Fatal("no such object")
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	var b [1]byte
	at := int64(l.offset + l.length - 1)
	_, err = f.ReadAt(b[:], at)
	check(t, err)
	b[0] ^= 4
	_, err = f.WriteAt(b[:], at)
	check(t, err)
}

func TestDamagedObjectIsMovedAsideAndHeals(t *testing.T) {
	t.Parallel()
	for _, close := range []bool{false, true} { // in a sealed pack, in an open one
		dir := filepath.Join(t.TempDir(), "store")
		s := openStore(t, dir, noGrace)
		tree := sample(t)
		info := putTree(t, s, tree)
		blob := []byte(noise(2, 5000))
		id := PlainNamer(blob)
		if close {
			check(t, s.Close())
			s = openStore(t, dir, noGrace)
		}
		damage(t, s, id)
		_, err := s.Get(id)
		var c *CorruptError
		if !errors.As(err, &c) || c.ID != id {
			t.Fatal(err)
		}
		mustHave(t, s, info.Root, false)
		check(t, s.Close())
		s = openStore(t, dir, noGrace) // it is still not served
		mustHave(t, s, info.Root, false)
		if close { // an open pack was sealed without it
			if p, err := s.Check(context.Background()); err != nil || len(p) != 1 || p[0].ID != id || s.Stats().Damaged != 1 {
				t.Fatal(p, err)
			}
		}
		if missing, err := s.Missing(context.Background(), info.Root, 0); err != nil || len(missing) != 1 || missing[0] != id {
			t.Fatal(missing, err)
		}
		putTree(t, s, tree)
		mustHave(t, s, info.Root, true)
		check(t, s.Close())
		s = openStore(t, dir, noGrace)
		mustHave(t, s, info.Root, true)
		noProblems(t, s)
		_, _, err = s.Collect(context.Background(), []ID{info.Root})
		check(t, err)
		noProblems(t, s)
		check(t, s.Close())
	}
}

func TestDamagedIndexIsReadFromRecords(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := openStore(t, dir, noGrace)
	info := putTree(t, s, sample(t))
	check(t, s.Close())
	path := filepath.Join(dir, "packs", "00000001.pack")
	st, err := os.Stat(path)
	check(t, err)
	check(t, os.Truncate(path, st.Size()-20))
	s = openStore(t, dir, noGrace)
	mustHave(t, s, info.Root, true)
	if p, err := s.Check(context.Background()); err != nil || len(p) != 1 {
		t.Fatal(p, err)
	}
	_, _, err = s.Collect(context.Background(), []ID{info.Root}) // writes it anew
	check(t, err)
	noProblems(t, s)
	mustHave(t, s, info.Root, true)
}

func FuzzStored(f *testing.F) {
	c, err := newCodec(1)
	check(f, err)
	for _, plain := range []string{"", "x", strings.Repeat("ab", 900), noise(9, 300)} {
		f.Add(c.encode(nil, []byte(plain), PlainNaming))
		f.Add(c.encode(nil, []byte(plain), KeyedNaming))
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		plain, info, err := c.decode(stored)
		if err == nil && (len(plain) != info.plain || len(plain) > MaxObject) {
			t.Fatalf("%d bytes, announced %d", len(plain), info.plain)
		}
	})
}

func FuzzPackIndex(f *testing.F) {
	pack := appendPackHeader(nil, 5)
	pack = appendRecord(pack, ID{1}, make([]byte, storedHeader))
	f.Add(append([]byte(nil), pack...))
	f.Add(appendIndex(pack, 5, []packEntry{{ID{1}, packHeader + recordHeader, storedHeader}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r := strings.NewReader(string(raw))
		entries, _, err := readIndex(r, int64(len(raw)))
		for _, e := range entries {
			if err == nil && int(e.offset)+int(e.length) > len(raw) {
				t.Fatal("an entry outside the pack")
			}
		}
		entries, end := scanRecords(r, int64(len(raw)), func(ID, []byte) bool { return true })
		if len(entries) > 0 && end > int64(len(raw)) {
			t.Fatal("a record outside the pack")
		}
	})
}
