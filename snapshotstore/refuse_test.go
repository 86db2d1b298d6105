package snapshotstore

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// refused checks that a scan of dir names path and reason.
func refused(t *testing.T, dir string, opts ScanOptions, path string, reason error) {
	t.Helper()
	_, err := ScanDir(context.Background(), dir, nil, opts)
	var e *EntryError
	if !errors.As(err, &e) || e.Path != path || !errors.Is(err, reason) {
		t.Fatalf("got %v, want %q: %v", err, path, reason)
	}
}

func TestSymlinks(t *testing.T) {
	t.Parallel()
	for target, reason := range map[string]error{
		"/etc/passwd":          ErrSymlinkAbsolute,
		"../../x":              ErrSymlinkEscapes,
		"..//.././x":           ErrSymlinkEscapes,
		"sub/../../x":          ErrSymlinkEscapes,
		"s/../x":               ErrSymlinkEscapes, // s may lead to a shallower place
		"../x":                 nil,
		"..":                   nil,
		".":                    nil,
		"./y/z":                nil,
		"...":                  nil,
		"..x/y":                nil,
		strings.Repeat("a", 9): nil,
	} {
		dir := files(t, map[string]string{"d/l": "->" + target})
		if reason == nil {
			_, err := ScanDir(context.Background(), dir, nil, ScanOptions{})
			check(t, err)
			continue
		}
		refused(t, dir, ScanOptions{}, "d/l", reason)
	}
}

func TestSpecialFiles(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"d/a": "x"})
	check(t, unix.Mkfifo(filepath.Join(dir, "d/pipe"), 0o600))
	refused(t, dir, ScanOptions{}, "d/pipe", ErrSpecialFile)

	dir = files(t, map[string]string{"d/a": "x"})
	short, err := os.MkdirTemp("", "iso") // a socket's path must be short
	check(t, err)
	defer os.RemoveAll(short)
	l, err := net.Listen("unix", filepath.Join(short, "s"))
	check(t, err)
	defer l.Close()
	refused(t, short, ScanOptions{}, "s", ErrSpecialFile)

	if err := unix.Mknod(filepath.Join(dir, "d/null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Skipf("cannot make a device node: %v", err)
	}
	refused(t, dir, ScanOptions{}, "d/null", ErrSpecialFile)
}

func TestLimits(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"a": "12345", "d/e/f": "123", "d/g": ""})
	refused(t, dir, ScanOptions{Limits: Limits{Entries: 4}}, "d/e", ErrTooManyEntries)
	refused(t, dir, ScanOptions{Limits: Limits{Files: 2}}, "d/g", ErrTooManyEntries)
	refused(t, dir, ScanOptions{Limits: Limits{Bytes: 7}}, "d/e/f", ErrTooManyBytes)
	refused(t, dir, ScanOptions{Limits: Limits{Depth: 1}}, "d/e", ErrTooDeep)
	refused(t, dir, ScanOptions{Limits: Limits{Path: 4}}, "d/e/f", ErrPathTooLong)
	_, err := ScanDir(context.Background(), dir, nil, ScanOptions{Limits: Limits{Entries: 5, Files: 3, Bytes: 8, Depth: 2, Path: 5}})
	check(t, err)
}

// meddler is a sink that does something while a scan is under way.
type meddler struct {
	discard
	do func(id ID)
}

func (m meddler) Has(ctx context.Context, ids []ID) ([]bool, error) {
	for _, id := range ids {
		m.do(id)
	}
	return m.discard.Has(ctx, ids)
}

func TestChangedWhileRead(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(dir string) error{
		"appended": func(dir string) error {
			f, err := os.OpenFile(filepath.Join(dir, "d/a"), os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("more")
			return err
		},
		"truncated": func(dir string) error { return os.Truncate(filepath.Join(dir, "d/a"), 3) },
		"added":     func(dir string) error { return os.WriteFile(filepath.Join(dir, "d/new"), nil, 0o644) },
		"removed":   func(dir string) error { return os.Remove(filepath.Join(dir, "d/a")) },
	} {
		dir := files(t, map[string]string{"d/a": noise(5, 3<<20)})
		done := false
		sink := meddler{do: func(ID) {
			if !done {
				done = true
				check(t, change(dir))
			}
		}}
		_, err := ScanDir(context.Background(), dir, sink, ScanOptions{})
		var e *EntryError
		if !errors.As(err, &e) || !errors.Is(err, ErrChanged) || !strings.HasPrefix(e.Path, "d") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCancelledScan(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(context.Background())
	_, err := ScanDir(ctx, sample(t), meddler{do: func(ID) { cancel() }}, ScanOptions{})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// hostile stores a hand-made tree and returns its root.
func hostile(t *testing.T, s *Store, entries ...entry) ID {
	t.Helper()
	plain := appendNodeHeader(nil, kindDir, packageVersion, 0)
	for i := range entries {
		plain = appendEntry(plain, packageVersion, &entries[i])
	}
	id, err := s.Put(PlainNaming, plain)
	check(t, err)
	return id
}

func TestHostileTrees(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{Limits: Limits{Entries: 1000}})
	empty := hostile(t, s)
	chunk, err := s.Put(PlainNaming, []byte("chunk"))
	check(t, err)
	file := func(name string, size uint64, id ID) entry {
		return entry{Kind: File, Mode: modeFile, Name: name, Size: size, Refs: []ref{{id, Totals{Bytes: size}}}}
	}
	dir := func(name string, id ID, t Totals) entry {
		return entry{Kind: Dir, Mode: modeDir, Name: name, Dir: ref{id, t}}
	}
	bomb, totals := empty, Totals{}
	for range 30 { // 2^30 directories in 30 objects, all of it stated honestly
		bomb = hostile(t, s, dir("a", bomb, totals), dir("b", bomb, totals))
		totals = Totals{Entries: 2*totals.Entries + 2}
	}
	x, y := hostile(t, s, file("x", 5, chunk)), hostile(t, s, file("y", 5, chunk))
	one := Totals{1, 1, 5}
	parts := func(refs ...ref) ID {
		plain := appendNodeHeader(nil, kindDir, packageVersion, 1)
		for _, r := range refs {
			plain = appendRef(plain, kindDir, r)
		}
		id, err := s.Put(PlainNaming, plain)
		check(t, err)
		return id
	}
	check(t, s.Materialise(context.Background(), parts(ref{x, one}, ref{y, one}), filepath.Join(outDir(t), "out"), MaterialiseOptions{}))
	for name, root := range map[string]ID{
		"parts out of order":   parts(ref{y, one}, ref{x, one}),
		"parts twice":          parts(ref{x, one}, ref{x, one}),
		"an empty part":        parts(ref{x, one}, ref{ID: empty}),
		"name with slash":      hostile(t, s, file("a/b", 5, chunk)),
		"dot dot":              hostile(t, s, file("..", 5, chunk)),
		"nul":                  hostile(t, s, file("a\x00", 5, chunk)),
		"empty name":           hostile(t, s, file("", 5, chunk)),
		"unsorted":             hostile(t, s, file("b", 5, chunk), file("a", 5, chunk)),
		"twice":                hostile(t, s, file("a", 5, chunk), file("a", 5, chunk)),
		"absolute symlink":     hostile(t, s, entry{Kind: Symlink, Mode: modeSymlink, Name: "l", Target: "/etc"}),
		"escaping symlink":     hostile(t, s, entry{Kind: Symlink, Mode: modeSymlink, Name: "l", Target: "../x"}),
		"set-uid":              hostile(t, s, entry{Kind: File, Mode: 0o4755, Name: "f"}),
		"device":               hostile(t, s, entry{Kind: 'b', Mode: modeFile, Name: "f"}),
		"wrong chunk length":   hostile(t, s, file("a", 6, chunk)),
		"wrong totals":         hostile(t, s, dir("a", empty, Totals{Entries: 1})),
		"chunk as a directory": hostile(t, s, dir("a", chunk, Totals{})),
		"root is a chunk":      chunk,
		"directory bomb":       bomb,
		"understated bomb":     hostile(t, s, dir("a", bomb, Totals{})),
	} {
		parent := outDir(t)
		err := s.Materialise(context.Background(), root, filepath.Join(parent, "out"), MaterialiseOptions{})
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		if left, _ := os.ReadDir(parent); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
	if _, err := s.HasTree(context.Background(), bomb); !errors.Is(err, ErrTooManyEntries) {
		t.Errorf("bomb: %v", err)
	}
	before := s.Stats().Objects
	_, _, err = s.Collect(context.Background(), []ID{bomb, chunk, {1}}) // nor does it stop Collect
	check(t, err)
	if s.Stats().Objects != before {
		t.Error("collected within the grace time")
	}
}
