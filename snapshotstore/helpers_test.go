package snapshotstore

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"
)

// noGrace lets Collect remove at once.
var noGrace = Options{Grace: -1}

func openStore(t testing.TB, dir string, opts Options) *Store {
	t.Helper()
	s, err := Open(dir, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func newStore(t testing.TB, opts Options) *Store {
	t.Helper()
	return openStore(t, filepath.Join(t.TempDir(), "store"), opts)
}

// files makes a directory from path to content. A content that begins with
// "->" is a symlink, one with "#!" an executable; a path that ends with "/"
// is a directory.
func files(t testing.TB, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for path, data := range content {
		full := filepath.Join(dir, path)
		check(t, os.MkdirAll(filepath.Dir(full), 0o755))
		switch {
		case strings.HasSuffix(path, "/"):
			check(t, os.MkdirAll(full, 0o755))
		case strings.HasPrefix(data, "->"):
			check(t, os.Symlink(data[2:], full))
		case strings.HasPrefix(data, "#!"):
			check(t, os.WriteFile(full, []byte(data), 0o755))
		default:
			check(t, os.WriteFile(full, []byte(data), 0o644))
		}
	}
	return dir
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// noise is n bytes that do not compress.
func noise(seed uint64, n int) string {
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)})
	b := make([]byte, n)
	src.Read(b)
	return string(b)
}

func sample(t testing.TB) string {
	return files(t, map[string]string{
		"bin/run":       "#!/bin/sh\nexec true\n",
		"share/text":    strings.Repeat("all the same ", 40_000),
		"share/noise":   noise(1, 700_000),
		"share/empty":   "",
		"empty/":        "",
		"lib/current":   "->v1/lib.so",
		"lib/v1/lib.so": noise(2, 5000),
		"lib/v1/up":     "->../../bin/run",
		"na\xffme":      "not utf-8",
	})
}

// describe lists a tree with modes and content, for comparison.
func describe(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			fmt.Fprintf(&b, "%q dir\n", rel)
		case d.Type() == fs.ModeSymlink:
			to, _ := os.Readlink(path)
			fmt.Fprintf(&b, "%q -> %q\n", rel, to)
		default:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "%q exec=%v %d %s\n", rel, info.Mode()&0o100 != 0, len(data), PlainNamer(data))
		}
		return nil
	}))
	return b.String()
}

func putTree(t testing.TB, s *Store, dir string) TreeInfo {
	t.Helper()
	info, err := s.PutTree(context.Background(), dir)
	check(t, err)
	return info
}

// noProblems fails unless Check accepts the store.
func noProblems(t testing.TB, s *Store) {
	t.Helper()
	problems, err := s.Check(context.Background())
	check(t, err)
	if len(problems) > 0 {
		t.Fatalf("check found %v", problems)
	}
}

func mustHave(t testing.TB, s *Store, root ID, want bool) {
	t.Helper()
	has, err := s.HasTree(context.Background(), root)
	check(t, err)
	if has != want {
		t.Fatalf("HasTree = %v, want %v", has, want)
	}
}

// storeSource serves from another store; spoil may change the stream.
type storeSource struct {
	name  string
	store *Store
	asked int
	spoil func(ids []ID, stream []byte) (io.Reader, error)
}

func (s *storeSource) String() string { return s.name }

func (s *storeSource) Objects(ctx context.Context, ids []ID) (io.ReadCloser, error) {
	s.asked += len(ids)
	var b bytes.Buffer
	if err := s.store.SendObjects(ctx, &b, ids); err != nil {
		return nil, err
	}
	if s.spoil == nil {
		return io.NopCloser(&b), nil
	}
	r, err := s.spoil(ids, b.Bytes())
	if err != nil {
		return nil, err
	}
	if rc, ok := r.(io.ReadCloser); ok {
		return rc, nil
	}
	return io.NopCloser(r), nil
}

func isCorrupt(err error) bool {
	var c *CorruptError
	return errors.As(err, &c)
}

// outDir is a temporary directory in which trees are materialised: their
// directories are read-only, which keeps all but root from deleting them.
func outDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_ = os.Chmod(path, 0o700)
			}
			return nil
		})
	})
	return dir
}

// wire is another store as a source, with the bytes that go to and fro.
type wire struct {
	from  *Store
	bytes atomic.Uint64
	cut   int // bytes of an answer after which it ends; 0 for none
	cuts  int
	wants []Want                                     // of the last request for deltas
	spoil func(id ID, stored []byte) ([]byte, error) // of each frame of deltas; nil for none
}

func (*wire) String() string { return "wire" }

func (x *wire) Objects(ctx context.Context, ids []ID) (io.ReadCloser, error) {
	x.bytes.Add(uint64(len(ids) * len(ID{})))
	return x.answer(func(w io.Writer) error { return x.from.SendObjects(ctx, w, ids) }), nil
}

func (x *wire) Deltas(ctx context.Context, wants []Want) (io.ReadCloser, error) {
	raw := AppendWants(nil, wants)
	x.bytes.Add(uint64(len(raw)))
	wants, err := ParseWants(raw)
	if err != nil {
		return nil, err
	}
	x.wants = wants
	if x.spoil == nil {
		return x.answer(func(w io.Writer) error { return x.from.SendDeltas(ctx, w, wants) }), nil
	}
	var b bytes.Buffer
	if err := x.from.SendDeltas(ctx, &b, wants); err != nil {
		return nil, err
	}
	return x.answer(func(w io.Writer) error {
		return WriteFrames(w, func(yield func(Frame, error) bool) {
			for f, err := range ReadFrames(&b) {
				if err == nil {
					f.Stored, err = x.spoil(f.ID, f.Stored)
				}
				if !yield(f, err) || err != nil {
					return
				}
			}
		})
	}), nil
}

// answer is read while it is written, as over a network.
func (x *wire) answer(write func(io.Writer) error) io.ReadCloser {
	if x.cut > 0 {
		var b bytes.Buffer
		err := write(&countingWriter{&b, &x.bytes})
		if over := b.Len() - x.cut; over > 0 {
			x.cuts++
			x.bytes.Add(-uint64(over))
		}
		return io.NopCloser(io.MultiReader(io.LimitReader(&b, int64(x.cut)), iotest.ErrReader(cmp.Or(err, os.ErrDeadlineExceeded))))
	}
	r, w := io.Pipe()
	go func() { w.CloseWithError(write(&countingWriter{w, &x.bytes})) }()
	return r
}

type countingWriter struct {
	w io.Writer
	n *atomic.Uint64
}

func (c *countingWriter) Write(b []byte) (int, error) {
	c.n.Add(uint64(len(b)))
	return c.w.Write(b)
}
