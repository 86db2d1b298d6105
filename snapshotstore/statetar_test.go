package snapshotstore

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func exportTar(t testing.TB, s *Store, root ID) []byte {
	t.Helper()
	var b bytes.Buffer
	check(t, s.ExportTar(ctxb, root, &b))
	return b.Bytes()
}

func TestTarRoundTrip(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := stateSample(t)
	_ = unix.Setxattr(filepath.Join(dir, "conf/app.ini"), "user.one", []byte("a\x00\n=b"), 0)
	info := putState(t, s, dir, StateOptions{})
	raw := exportTar(t, s, info.Root)
	other := newStore(t, Options{Keys: [][32]byte{testKey}})
	got, err := other.ImportTar(ctxb, bytes.NewReader(raw), ImportOptions{})
	check(t, err)
	if got.Root != info.Root || got.Content != info.Content || got.Totals != info.Totals {
		t.Fatalf("%+v, exported %+v", got, info)
	}
	mustHave(t, other, got.Root, true)

	bin, err := exec.LookPath("tar")
	if err != nil {
		t.Skip("tar is not installed")
	}
	dest := filepath.Join(outDir(t), "out")
	check(t, os.Mkdir(dest, 0o755))
	cmd := exec.Command(bin, "-xp", "--xattrs", "--numeric-owner", "--delay-directory-restore", "-C", dest)
	cmd.Stdin = bytes.NewReader(raw)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if got, want := describeState(t, dest), describeState(t, dir); got != want {
		t.Fatalf("tar made\n%s\nof\n%s", got, want)
	}
	// And back from what tar writes.
	var out bytes.Buffer
	cmd = exec.Command(bin, "-c", "--xattrs", "--format=posix", "--sparse", "--sort=name", "--numeric-owner", "-C", dest, ".")
	cmd.Stdout = &out
	check(t, cmd.Run())
	again, err := other.ImportTar(ctxb, &out, ImportOptions{})
	check(t, err)
	if again.Content != info.Content {
		changes := ""
		check(t, other.DiffState(ctxb, info.Root, again.Root, func(c Change) error {
			changes += fmt.Sprintf("%s: %+v -> %+v\n", c.Path, c.Old, c.New)
			return nil
		}))
		t.Fatal(changes)
	}
}

// archive makes a tar of headers; a regular file's content is its name.
func archive(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len(h.Name))
		}
		check(t, w.WriteHeader(&h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(w, h.Name)
			check(t, err)
		}
	}
	check(t, w.Close())
	return b.Bytes()
}

func TestImportRefuses(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	for what, c := range map[string]struct {
		raw  []byte
		want error
	}{
		"absolute":            {archive(t, file("/etc/passwd")), ErrTar},
		"dot dot":             {archive(t, file("a/../../b")), ErrTar},
		"dot dot at the end":  {archive(t, file("a/..")), ErrTar},
		"empty name":          {archive(t, file("a//b")), ErrTar},
		"long name":           {archive(t, file(strings.Repeat("a", 256))), ErrTar},
		"long path":           {archive(t, file(strings.Repeat("a/", 3000)+"b")), ErrPathTooLong},
		"deep":                {archive(t, file(strings.Repeat("a/", 300)+"b")), ErrTooDeep},
		"beneath a file":      {archive(t, file("a"), file("a/b")), ErrTar},
		"beneath a symlink":   {archive(t, tar.Header{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/etc"}, file("l/passwd")), ErrTar},
		"over a directory":    {archive(t, file("a/b"), file("a")), ErrTar},
		"root is a file":      {archive(t, file("./.")), ErrTar},
		"link to nothing":     {archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "a"}), ErrTar},
		"link out":            {archive(t, tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "../a"}), ErrTar},
		"link to a directory": {archive(t, tar.Header{Typeflag: tar.TypeDir, Name: "d"}, tar.Header{Typeflag: tar.TypeLink, Name: "l", Linkname: "d"}), ErrTar},
		"too many":            {archive(t, file("a"), file("b"), file("c"), file("d"), file("e")), ErrTooManyEntries},
		"too many implied":    {archive(t, file("1/2/3/4/5/6")), ErrTooManyEntries},
		"too large":           {archive(t, file(strings.Repeat("a", 60)), file(strings.Repeat("b", 60))), ErrTooManyBytes},
		"cut":                 {archive(t, file(strings.Repeat("a", 60)))[:540], io.ErrUnexpectedEOF},
		"cut at the end":      {archive(t, file("a"))[:1024], ErrTar},
		"cut in the end":      {archive(t, file("a"))[:1024+512], ErrTar},
		"no archive":          {[]byte(noise(1, 2000)), tar.ErrHeader},
	} {
		info, err := s.ImportTar(ctxb, bytes.NewReader(c.raw), ImportOptions{Limits: Limits{Entries: 4, Bytes: 100}})
		if what == "beneath a file" || what == "deep" || what == "long path" {
			info, err = s.ImportTar(ctxb, bytes.NewReader(c.raw), ImportOptions{})
		}
		if !errors.Is(err, c.want) || info != (StateInfo{}) {
			t.Errorf("%s: %v", what, err)
		}
	}
	raw := archive(t, file("./b/x"), tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "./b/x"}, file("b/x"), file("dev"),
		tar.Header{Typeflag: tar.TypeChar, Name: "null"}, tar.Header{Typeflag: tar.TypeDir, Name: "b", Mode: 0o700})
	info, err := s.ImportTar(ctxb, bytes.NewReader(raw), ImportOptions{})
	check(t, err)
	var got []string
	check(t, s.WalkState(ctxb, info.Root, func(e StateEntry) error {
		got = append(got, fmt.Sprintf("%s %c %o %d", e.Path, e.Kind, e.Mode, e.Size))
		return nil
	}))
	if want := []string{". d 755 0", "a f 644 5", "b d 700 0", "b/x f 644 3", "dev f 644 3"}; !slices.Equal(got, want) || info.Skipped != 1 {
		t.Fatalf("%q, %+v", got, info)
	}
}

func FuzzImportTar(f *testing.F) {
	s := stateStore(f, Options{disk: noSync{}})
	f.Add(archive(f, tar.Header{Typeflag: tar.TypeReg, Name: "a/b"}, tar.Header{Typeflag: tar.TypeLink, Name: "c", Linkname: "a/b"},
		tar.Header{Typeflag: tar.TypeSymlink, Name: "d", Linkname: "/x"}, tar.Header{Typeflag: tar.TypeFifo, Name: "e"},
		tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.a": "b"}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		info, err := s.ImportTar(ctxb, bytes.NewReader(raw), ImportOptions{Limits: Limits{Entries: 100, Bytes: 10 << 20}})
		if err != nil {
			return
		}
		var entries uint64
		check(t, s.WalkState(ctxb, info.Root, func(e StateEntry) error {
			entries++
			if e.Path != "." && !goodPath(e.Path) {
				t.Fatalf("path %q", e.Path)
			}
			return nil
		}))
		if entries != info.Entries+1 || entries > 101 {
			t.Fatalf("%d entries, %+v", entries, info)
		}
		var out bytes.Buffer
		if err := s.ExportTar(ctxb, info.Root, &out); err != nil {
			var e *EntryError // what tar can not express, such as "=" in the name of an attribute
			if !errors.As(err, &e) {
				t.Fatal(err)
			}
			return
		}
		again, err := s.ImportTar(ctxb, &out, ImportOptions{Limits: Limits{Entries: 100, Bytes: 10 << 20}})
		if err != nil || again.Root != info.Root {
			t.Fatalf("%v: %+v, exported again %+v", err, info, again)
		}
	})
}

func TestDiffState(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := files(t, map[string]string{"a/x": "1", "a/y": "22", "b/deep/z": "333", "gone/p": "4", "kind": "5", "same/q": "6"})
	a := putState(t, s, dir, StateOptions{})
	check(t, os.WriteFile(filepath.Join(dir, "a/y"), []byte("4444"), 0o644))
	check(t, os.Chmod(filepath.Join(dir, "b/deep/z"), 0o600))
	check(t, os.RemoveAll(filepath.Join(dir, "gone")))
	check(t, os.Remove(filepath.Join(dir, "kind")))
	check(t, os.MkdirAll(filepath.Join(dir, "kind/sub"), 0o755))
	check(t, os.WriteFile(filepath.Join(dir, "zz"), nil, 0o644))
	check(t, os.WriteFile(filepath.Join(dir, "same/q"), []byte("6"), 0o644))
	b := putState(t, s, dir, StateOptions{})
	diff := func(a, b ID) (out []string) {
		check(t, s.DiffState(ctxb, a, b, func(c Change) error {
			line := c.Path
			if c.Old != nil {
				line += fmt.Sprintf(" -%c%d", c.Old.Kind, c.Old.Size)
			}
			if c.New != nil {
				line += fmt.Sprintf(" +%c%d", c.New.Kind, c.New.Size)
			}
			out = append(out, line)
			return nil
		}))
		return out
	}
	want := []string{"a/y -f2 +f4", "b/deep/z -f3 +f3", "gone -d0", "gone/p -f1", "kind -f1", "kind +d0", "kind/sub +d0", "zz +f0"}
	if got := diff(a.Root, b.Root); !slices.Equal(got, want) {
		t.Fatalf("got\n%q\nwant\n%q", got, want)
	}
	same := entryOf(t, s, b.Root, "a")
	if got := diff(b.Root, b.Root); got != nil {
		t.Fatal(got)
	}
	n := 0
	check(t, s.DiffState(ctxb, b.Root, a.Root, func(Change) error { n++; return fs.SkipAll }))
	if n != 1 {
		t.Fatal(n)
	}
	if err := s.DiffState(ctxb, a.Root, ID{1}, nil); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	// What is the same in both is not read: it may be missing.
	check(t, os.WriteFile(filepath.Join(dir, "zz"), []byte("z"), 0o644))
	c := putState(t, s, dir, StateOptions{})
	s.mu.Lock()
	s.index.remove(same.Dir.ID)
	s.mu.Unlock()
	if got := diff(b.Root, c.Root); !slices.Equal(got, []string{"zz -f0 +f1"}) {
		t.Fatal(got)
	}
}

// Diff agrees with what a plain comparison of two lists says.
func TestDiffStateProperty(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	for range 20 {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 2))
		dir := t.TempDir()
		mutate(t, dir, rnd)
		a := putState(t, s, dir, StateOptions{})
		mutate(t, dir, rnd)
		b := putState(t, s, dir, StateOptions{})
		list := func(root ID) map[string]StateEntry {
			out := map[string]StateEntry{}
			check(t, s.WalkState(ctxb, root, func(e StateEntry) error { out[e.Path] = e; return nil }))
			return out
		}
		old, now := list(a.Root), list(b.Root)
		seen := map[string]bool{}
		check(t, s.DiffState(ctxb, a.Root, b.Root, func(c Change) error {
			_, was := old[c.Path]
			_, is := now[c.Path]
			if c.Old != nil && !was || c.New != nil && !is {
				t.Fatalf("seed %d: %+v", seed, c)
			}
			seen[c.Path] = true
			return nil
		}))
		for path, e := range old {
			n, is := now[path]
			if changed := !is || n.Kind != e.Kind || n.Size != e.Size || n.Mode != e.Mode || n.Target != e.Target; changed && !seen[path] {
				t.Fatalf("seed %d: %s is not told", seed, path)
			}
		}
		for path := range now {
			if _, was := old[path]; !was && !seen[path] {
				t.Fatalf("seed %d: %s is not told", seed, path)
			}
		}
	}
}
