package snapshotstore

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var testKey = [32]byte{1, 2, 3}

// stateStore is a store with a key whose clock is an hour ahead: what was
// written just now is old enough for the scan cache.
func stateStore(t testing.TB, opts Options) *Store {
	t.Helper()
	return newStore(t, stateOptions(opts))
}

func stateOptions(opts Options) Options {
	opts.Keys = [][32]byte{testKey}
	if opts.Now == nil {
		opts.Now = func() time.Time { return time.Now().Add(time.Hour) }
	}
	return opts
}

func putState(t testing.TB, s *Store, dir string, opts StateOptions) StateInfo {
	t.Helper()
	info, err := s.PutState(ctxb, dir, opts)
	check(t, err)
	return info
}

func restore(t testing.TB, s *Store, root ID, dest string, opts RestoreOptions) RestoreInfo {
	t.Helper()
	info, err := s.RestoreState(ctxb, root, dest, opts)
	check(t, err)
	return info
}

// verified fails unless dir is the snapshot.
func verified(t testing.TB, s *Store, root ID, dir string) {
	t.Helper()
	diffs, err := s.VerifyState(ctxb, root, dir, VerifyOptions{})
	check(t, err)
	if len(diffs) > 0 {
		t.Fatalf("%s differs: %v", dir, diffs)
	}
}

// stateSample has one of everything that snapshots keep.
func stateSample(t testing.TB) string {
	dir := files(t, map[string]string{
		"conf/app.ini":    "x = 1\n",
		"data/big":        noise(1, 3<<20),
		"data/text":       strings.Repeat("all the same ", 40_000),
		"data/empty":      "",
		"data/na\xffme":   "not utf-8",
		"empty/":          "",
		"links/abs":       "->/etc/hostname",
		"links/escape":    "->../../../../x/../y",
		"links/dangling":  "->nowhere",
		"run/script":      "#!/bin/sh\n",
		"many/a/b/c/deep": "deep",
	})
	at := func(name string) string { return filepath.Join(dir, name) }
	check(t, os.Link(at("data/big"), at("data/also-big")))
	check(t, os.Link(at("conf/app.ini"), at("zz-app.ini")))
	check(t, unix.Mkfifo(at("run/pipe"), 0o640))
	check(t, unix.Chmod(at("run/script"), 0o4751))
	check(t, unix.Chmod(at("empty"), 0o3770))
	check(t, os.Chmod(at("data/text"), 0o400))
	sparse(t, at("data/sparse"), 64<<20, map[int64]string{3 << 20: noise(2, 100_000), 50 << 20: "tail"})
	old := time.Date(2001, 2, 3, 4, 5, 6, 789, time.UTC)
	for _, name := range []string{"conf/app.ini", "data", "run/pipe"} {
		check(t, os.Chtimes(at(name), old, old))
	}
	early := unix.Timespec{Sec: -1_000_000, Nsec: 999_999_999}
	check(t, unix.UtimesNanoAt(unix.AT_FDCWD, at("links/abs"), []unix.Timespec{early, early}, unix.AT_SYMLINK_NOFOLLOW))
	return dir
}

// sparse makes a file of size bytes with some data in it.
func sparse(t testing.TB, path string, size int64, data map[int64]string) {
	t.Helper()
	f, err := os.Create(path)
	check(t, err)
	defer f.Close()
	check(t, f.Truncate(size))
	for at, d := range data {
		_, err := f.WriteAt([]byte(d), at)
		check(t, err)
	}
}

// describeState lists all that snapshots keep, without looking at our code.
func describeState(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	first := map[uint64]string{}
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		check(t, err)
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		check(t, unix.Lstat(path, &st))
		if to, again := first[st.Ino]; again && !d.IsDir() {
			fmt.Fprintf(&b, "%q is %q\n", rel, to)
			return nil
		}
		first[st.Ino] = rel
		fmt.Fprintf(&b, "%q %o %d:%d %d.%09d", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, st.Mtim.Nsec)
		switch {
		case d.Type() == fs.ModeSymlink:
			to, err := os.Readlink(path)
			check(t, err)
			fmt.Fprintf(&b, " -> %q", to)
		case d.Type().IsRegular():
			data, err := os.ReadFile(path)
			check(t, err)
			fmt.Fprintf(&b, " %d %s", len(data), PlainNamer(data))
		}
		if d.IsDir() || d.Type().IsRegular() {
			for _, name := range []string{"user.one", "user.two", "system.posix_acl_access", "system.posix_acl_default"} {
				buf := make([]byte, 1000)
				if n, err := unix.Getxattr(path, name, buf); err == nil {
					fmt.Fprintf(&b, " %s=%q", name, buf[:n])
				}
			}
		}
		b.WriteString("\n")
		return nil
	}))
	return b.String()
}

func onDisk(t testing.TB, path string) int64 {
	t.Helper()
	var st unix.Stat_t
	check(t, unix.Lstat(path, &st))
	return st.Blocks * 512
}

func TestStateRoundTrip(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := stateSample(t)
	info := putState(t, s, dir, StateOptions{})
	if info.Changed != 0 || info.Skipped != 0 || info.Same || info.Stored == 0 || info.Unchanged != 0 {
		t.Fatalf("%+v", info)
	}
	if info.Read > 5<<20 {
		t.Fatalf("%d bytes read: the hole too", info.Read)
	}
	mustHave(t, s, info.Root, true)
	got, err := s.Info(info.Root)
	check(t, err)
	if got.Totals != info.Totals || info.Bytes < 64<<20 || info.Files != 8 {
		t.Fatalf("%+v, %+v", got, info)
	}
	verified(t, s, info.Root, dir)
	dest := filepath.Join(outDir(t), "out")
	done := restore(t, s, info.Root, dest, RestoreOptions{})
	if done.Totals != info.Totals || done.Previous != "" {
		t.Fatalf("%+v", done)
	}
	if got, want := describeState(t, dest), describeState(t, dir); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	verified(t, s, info.Root, dest)
	if n := onDisk(t, filepath.Join(dest, "data/sparse")); n > 1<<20 {
		t.Fatalf("the hole takes %d bytes", n)
	}
	again := putState(t, s, dest, StateOptions{})
	if again.Root != info.Root || again.Content != info.Content || again.Stored != 0 {
		t.Fatalf("the copy is %+v, the original %+v", again, info)
	}
	if left := siblings(t, dest); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	noProblems(t, s)
}

func siblings(t testing.TB, path string) (names []string) {
	t.Helper()
	files, err := os.ReadDir(filepath.Dir(path))
	check(t, err)
	for _, f := range files {
		names = append(names, f.Name())
	}
	return names
}

func TestStateXattrs(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := files(t, map[string]string{"f": "x", "d/g": "y"})
	set := func(path, name, value string) {
		t.Helper()
		if err := unix.Setxattr(filepath.Join(dir, path), name, []byte(value), 0); errors.Is(err, unix.ENOTSUP) {
			t.Skipf("no extended attributes here: %v", err)
		} else {
			check(t, err)
		}
	}
	set("f", "user.two", "")
	set("f", "user.one", "a\x00b")
	set("d", "user.one", noise(1, 900))
	set(".", "user.one", "of the root")
	// Version 2: owner rwx, user 1234 r, group r, mask r, other none.
	acl := "\x02\x00\x00\x00" + "\x01\x00\x07\x00\xff\xff\xff\xff" + "\x02\x00\x04\x00\xd2\x04\x00\x00" +
		"\x04\x00\x04\x00\xff\xff\xff\xff" + "\x10\x00\x04\x00\xff\xff\xff\xff" + "\x20\x00\x00\x00\xff\xff\xff\xff"
	set("f", "system.posix_acl_access", acl)
	set("d", "system.posix_acl_default", acl)
	info := putState(t, s, dir, StateOptions{})
	dest := filepath.Join(outDir(t), "out")
	restore(t, s, info.Root, dest, RestoreOptions{})
	if got, want := describeState(t, dest), describeState(t, dir); got != want || strings.Count(got, "user.") != 4 {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	verified(t, s, info.Root, dest)
	check(t, unix.Removexattr(filepath.Join(dir, "f"), "user.two"))
	next := putState(t, s, dir, StateOptions{Known: []ID{info.Root}})
	if next.Root == info.Root || next.Unchanged != 1 {
		t.Fatalf("%+v", next)
	}
	restore(t, s, next.Root, dest, RestoreOptions{Warm: true}) // over nothing
	restore(t, s, info.Root, dest, RestoreOptions{Warm: true})
	restore(t, s, next.Root, dest, RestoreOptions{}) // over what has one more
	verified(t, s, next.Root, dest)
}

// The same content in files written anew, and in directories in which a
// temporary file came and went, is the same state.
func TestStateContentIsIdentity(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := files(t, map[string]string{"a": "one", "d/b": noise(1, 100_000)})
	first := putState(t, s, dir, StateOptions{})
	check(t, os.WriteFile(filepath.Join(dir, "d/temp"), []byte(noise(1, 100_000)), 0o644))
	check(t, os.Rename(filepath.Join(dir, "d/temp"), filepath.Join(dir, "d/b")))
	moved := putState(t, s, dir, StateOptions{})
	if moved.Root == first.Root || moved.Content != first.Content {
		t.Fatalf("%+v, then %+v", first, moved)
	}
	if same := putState(t, s, dir, StateOptions{Known: []ID{{7}, first.Root}}); same.Root != first.Root || !same.Same {
		t.Fatalf("%+v, then %+v", first, same)
	}
	for what, change := range map[string]func() error{
		"content":   func() error { return os.WriteFile(filepath.Join(dir, "a"), []byte("two"), 0o644) },
		"mode":      func() error { return os.Chmod(filepath.Join(dir, "a"), 0o600) },
		"new name":  func() error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "c")) },
		"root mode": func() error { return os.Chmod(dir, 0o700) },
	} {
		before := putState(t, s, dir, StateOptions{})
		check(t, change())
		after := putState(t, s, dir, StateOptions{Known: []ID{before.Root}})
		if after.Content == before.Content || after.Same || after.Root == before.Root {
			t.Errorf("%s: not seen", what)
		}
	}
}

// An older snapshot with the same content that is not whole any more is not
// what a new one may be replaced with.
func TestStateKnownMustBeWhole(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{Grace: -1, packTarget: 1000})
	dir := files(t, map[string]string{"a": "one", "d/b": noise(1, 100_000)})
	first := putState(t, s, dir, StateOptions{})
	check(t, os.Chtimes(filepath.Join(dir, "d/b"), time.Unix(9, 0), time.Unix(9, 0)))
	n, err := s.node(stateWant(first.Root))
	check(t, err)
	s.mu.Lock()
	s.index.remove(n.state.dir.ID)
	s.mu.Unlock()
	again := putState(t, s, dir, StateOptions{Known: []ID{first.Root}})
	if again.Same || again.Root == first.Root {
		t.Fatalf("%+v", again)
	}
	mustHave(t, s, again.Root, true)
}

func TestStateUnchangedIsNotRead(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := stateSample(t)
	first := putState(t, s, dir, StateOptions{})
	again := putState(t, s, dir, StateOptions{})
	if again.Read != 0 || again.Stored != 0 || again.Unchanged != first.Files || again.Root != first.Root {
		t.Fatalf("%+v, then %+v", first, again)
	}
	check(t, os.WriteFile(filepath.Join(dir, "run/new"), []byte("new"), 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "conf/app.ini"), []byte("x = 2\n"), 0o644))
	third := putState(t, s, dir, StateOptions{})
	if third.Read != 9 || third.Unchanged != first.Files-1 {
		t.Fatalf("%+v", third)
	}
	whole := putState(t, s, dir, StateOptions{NoCache: true})
	if whole.Root != third.Root || whole.Read < 3<<20 {
		t.Fatalf("%+v, with the cache %+v", whole, third)
	}
	if last := putState(t, s, dir, StateOptions{}); last.Read != 0 {
		t.Fatalf("%+v", last)
	}
	// A store opened anew has its cache.
	path := s.dir
	check(t, s.Close())
	s = openStore(t, path, stateOptions(Options{}))
	if last := putState(t, s, dir, StateOptions{}); last.Read != 0 || last.Root != third.Root {
		t.Fatalf("%+v", last)
	}
}

// A file that was written at about the time of the scan may have been written
// again since, within the resolution of its times.
func TestStateRacyFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{Now: time.Now})
	dir := files(t, map[string]string{"new": "12345", "old": "old"})
	putState(t, s, dir, StateOptions{})
	path := filepath.Join(dir, "new")
	before, err := os.Stat(path)
	check(t, err)
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	check(t, err)
	_, err = f.WriteString("54321")
	check(t, err)
	check(t, f.Close())
	check(t, os.Chtimes(path, before.ModTime(), before.ModTime())) // as if no tick had passed
	again := putState(t, s, dir, StateOptions{})
	if again.Read != 8 || again.Unchanged != 0 {
		t.Fatalf("%+v", again)
	}
}

// What the cache says is worth nothing when the store has not got the chunks.
func TestStateCacheNeedsTheObjects(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{Grace: -1})
	dir := stateSample(t)
	first := putState(t, s, dir, StateOptions{})
	_, _, err := s.Collect(ctxb, nil)
	check(t, err)
	mustHave(t, s, first.Root, false)
	again := putState(t, s, dir, StateOptions{})
	if again.Root != first.Root || again.Unchanged > 1 { // the empty one
		t.Fatalf("%+v", again)
	}
	mustHave(t, s, again.Root, true)
	// A large file whose list is here but one of its chunks is not.
	big := entryOf(t, s, again.Root, "data/also-big")
	if big.Level == 0 {
		t.Fatal("no list")
	}
	for l, err := range s.leaves(ctxb, big) {
		check(t, err)
		s.mu.Lock()
		s.index.remove(l.ID)
		s.mu.Unlock()
		break
	}
	third := putState(t, s, dir, StateOptions{})
	if third.Unchanged != first.Files-1 || third.Read != 3<<20 {
		t.Fatalf("%+v", third)
	}
	mustHave(t, s, third.Root, true)
}

// entryOf finds an entry of a snapshot.
func entryOf(t testing.TB, s *Store, root ID, path string) *entry {
	t.Helper()
	n, err := s.node(stateWant(root))
	check(t, err)
	top := n.state.entry()
	var found *entry
	check(t, s.walkEntry(ctxb, ".", &top, 0, func(p string, e *entry) error {
		if p == path {
			c := *e
			found = &c
		}
		return nil
	}))
	if found == nil {
		t.Fatalf("no %s", path)
	}
	return found
}

// Any damage to the cache costs time only.
func TestStateCacheIsSafeToLose(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := files(t, map[string]string{"a": "one", "b/c": "two", "b/d": "three", "e": noise(1, 100_000)})
	_ = unix.Setxattr(filepath.Join(dir, "a"), "user.one", []byte("what a flipped bit would change unseen"), 0)
	first := putState(t, s, dir, StateOptions{Quiet: true})
	caches, err := filepath.Glob(filepath.Join(s.dir, "scans", "*"))
	check(t, err)
	if len(caches) != 1 {
		t.Fatalf("%v", caches)
	}
	good, err := os.ReadFile(caches[0])
	check(t, err)
	try := func(what string, raw []byte) {
		t.Helper()
		check(t, os.WriteFile(caches[0], raw, 0o600))
		got := putState(t, s, dir, StateOptions{Quiet: true})
		if got.Root != first.Root {
			t.Fatalf("%s: %+v, want %+v", what, got, first)
		}
		if now, err := os.ReadFile(caches[0]); err != nil || len(now) != len(good) {
			t.Fatalf("%s: the cache is not whole again: %v", what, err)
		}
	}
	for i := range good {
		raw := append([]byte(nil), good...)
		raw[i] ^= 1 << (i % 8)
		try(fmt.Sprintf("bit in byte %d", i), raw)
		if i%5 == 0 {
			try(fmt.Sprintf("cut at %d", i), good[:i])
		}
	}
	check(t, os.Remove(caches[0]))
	putState(t, s, dir, StateOptions{})
}

func TestStateSkipsSocketsAndDevices(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir, err := os.MkdirTemp("", "iso") // a socket's path must be short
	check(t, err)
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "sock"))
	check(t, err)
	defer l.Close()
	want := uint64(1)
	if unix.Mknod(filepath.Join(dir, "null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) == nil {
		want = 2
	}
	check(t, os.WriteFile(filepath.Join(dir, "z"), []byte("z"), 0o600))
	info := putState(t, s, dir, StateOptions{})
	if info.Skipped != want || info.Files != 1 || info.Entries != 1 {
		t.Fatalf("%+v", info)
	}
}

func TestStateNeedsAKey(t *testing.T) {
	t.Parallel()
	from := stateStore(t, Options{})
	info := putState(t, from, stateSample(t), StateOptions{})
	s := newStore(t, Options{})
	if _, err := s.PutState(ctxb, t.TempDir(), StateOptions{}); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	if err := s.Fetch(ctxb, info.Root, []Source{&storeSource{name: "from", store: from}}, nil); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	if _, err := s.RestoreState(ctxb, info.Root, filepath.Join(t.TempDir(), "x"), RestoreOptions{}); !errors.Is(err, ErrNoKey) {
		t.Fatal(err)
	}
	s.UseKeys([32]byte{9}, testKey) // an older key still reads
	check(t, s.Fetch(ctxb, info.Root, []Source{&storeSource{name: "from", store: from}}, nil))
	mustHave(t, s, info.Root, true)
	other := putState(t, s, stateSample(t), StateOptions{})
	if other.Root == info.Root || other.Content == info.Content {
		t.Fatal("the key does not matter")
	}
	dest := filepath.Join(outDir(t), "out")
	if err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}); err == nil {
		t.Fatal("a snapshot was taken for a package")
	}
	plain := putTree(t, s, sample(t))
	if _, err := s.RestoreState(ctxb, plain.Root, dest, RestoreOptions{}); err == nil {
		t.Fatal("a package was taken for a snapshot")
	}
}

// A process killed with keyed objects in its open pack, and opened without
// the key, loses nothing.
func TestStateSurvivesOpenWithoutKey(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s, err := Open(dir, stateOptions(Options{}))
	check(t, err)
	info := putState(t, s, stateSample(t), StateOptions{})
	check(t, unlockDir(s.lock)) // died
	check(t, openStore(t, dir, Options{}).Close())
	s = openStore(t, dir, stateOptions(Options{}))
	mustHave(t, s, info.Root, true)
	noProblems(t, s)
}
