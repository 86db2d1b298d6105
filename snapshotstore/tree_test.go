package snapshotstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// The root of this content is part of the format: it must never change.
const goldenRoot = "a88b845fd7c12d98ef24af6c9a7fb0f3acd6fd7cf3b52ece1339b004f8cff207"

func TestRootIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	a, err := ScanDir(context.Background(), sample(t), nil, ScanOptions{Workers: 1})
	check(t, err)
	b, err := ScanDir(context.Background(), sample(t), nil, ScanOptions{Workers: 7})
	check(t, err)
	if a != b || a.Root.String() != goldenRoot {
		t.Fatalf("roots %v, %v, want %s", a, b, goldenRoot)
	}
	if a.Files != 6 || a.Entries != 13 {
		t.Fatalf("totals %+v", a.Totals)
	}
}

func TestOnlyContentAndExecBitCount(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"a": "x", "b/c": "y"})
	root := func() ID {
		info, err := ScanDir(context.Background(), dir, nil, ScanOptions{})
		check(t, err)
		return info.Root
	}
	before := root()
	check(t, os.Chmod(filepath.Join(dir, "a"), 0o600))
	check(t, os.Chmod(filepath.Join(dir, "b"), 0o700))
	if root() != before {
		t.Fatal("permissions changed the root")
	}
	check(t, os.Chmod(filepath.Join(dir, "a"), 0o700))
	if root() == before {
		t.Fatal("the exec bit did not change the root")
	}
}

func TestIgnore(t *testing.T) {
	t.Parallel()
	plain := files(t, map[string]string{"a": "x", "d/b": "y"})
	full := files(t, map[string]string{"a": "x", "d/b": "y", ".git/HEAD": "z", "d/x.o": "o", "d/skip": "s"})
	want, err := ScanDir(context.Background(), plain, nil, ScanOptions{})
	check(t, err)
	got, err := ScanDir(context.Background(), full, nil, ScanOptions{Ignore: []string{".git", "*.o", "d/skip"}})
	check(t, err)
	if got != want {
		t.Fatalf("%v, want %v", got, want)
	}
	if _, err := ScanDir(context.Background(), full, nil, ScanOptions{Ignore: []string{"["}}); err == nil {
		t.Fatal("a bad pattern was taken")
	}
}

// treeGen draws the content of a small directory, for files().
func treeGen() *rapid.Generator[map[string]string] {
	name := rapid.StringMatching(`[a-c]{1,2}|\.x|é`)
	data := rapid.Custom(func(t *rapid.T) string {
		switch rapid.IntRange(0, 4).Draw(t, "kind") {
		case 0:
			return ""
		case 1:
			return "#!" + rapid.String().Draw(t, "script")
		case 2:
			return "->" + rapid.StringMatching(`[a-c]{1,3}(/[a-c])?`).Draw(t, "target")
		case 3:
			return noise(rapid.Uint64Range(0, 9).Draw(t, "seed"), rapid.IntRange(0, 400_000).Draw(t, "size"))
		}
		return strings.Repeat(rapid.String().Draw(t, "text"), rapid.IntRange(1, 50).Draw(t, "times"))
	})
	return rapid.Custom(func(t *rapid.T) map[string]string {
		out := map[string]string{}
		for range rapid.IntRange(0, 12).Draw(t, "entries") {
			depth := rapid.IntRange(1, 4).Draw(t, "depth")
			var parts []string
			for d := range depth {
				p := name.Draw(t, "name")
				if d < depth-1 {
					p += "-d" // never both a file and a directory
				}
				parts = append(parts, p)
			}
			out[strings.Join(parts, "/")] = data.Draw(t, "data")
		}
		return out
	})
}

func TestRoundTripProperty(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{packTarget: 1 << 20})
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		dir := files(t, treeGen().Draw(rt, "tree"))
		info := putTree(t, s, dir)
		n++
		dest := filepath.Join(outDir(t), fmt.Sprint(n), "out")
		check(t, s.Materialise(context.Background(), info.Root, dest, MaterialiseOptions{}))
		if got, want := describe(t, dest), describe(t, dir); got != want {
			rt.Fatalf("got\n%s\nwant\n%s", got, want)
		}
		check(t, s.Materialise(context.Background(), info.Root, dest, MaterialiseOptions{Verify: true}))
		check(t, s.RemoveTree(dest))
	})
	noProblems(t, s)
}

func TestLargeFilesAndDirectoriesAreSplit(t *testing.T) {
	t.Parallel()
	content := map[string]string{"big": noise(3, 4<<20)}
	for i := range 1500 {
		content[fmt.Sprintf("many/%05d-with-a-longer-name", i)] = ""
	}
	dir := files(t, content)
	s := newStore(t, Options{})
	info := putTree(t, s, dir)
	top, err := s.node(rootWant(info.Root))
	check(t, err)
	if top.entries[0].Level == 0 {
		t.Fatal("the chunks of a large file are not in lists")
	}
	many, err := s.node(dirWant(packageVersion, top.entries[1].Dir))
	check(t, err)
	if many.level == 0 {
		t.Fatal("a large directory is in one object")
	}
	dest := filepath.Join(outDir(t), "out")
	check(t, s.Materialise(context.Background(), info.Root, dest, MaterialiseOptions{}))
	if describe(t, dest) != describe(t, dir) {
		t.Fatal("not the same")
	}

	// One more file in the middle costs little more than itself.
	before := s.Stats()
	check(t, os.WriteFile(filepath.Join(dir, "many/00750-x"), nil, 0o644))
	putTree(t, s, dir)
	if d := s.Stats().Objects - before.Objects; d > 4 {
		t.Fatalf("%d new objects", d)
	}
}

func TestSameContentIsStoredOnce(t *testing.T) {
	t.Parallel()
	s := newStore(t, Options{})
	blob := noise(4, 3<<20)
	putTree(t, s, files(t, map[string]string{"a": blob}))
	one := s.Stats().Stored
	putTree(t, s, files(t, map[string]string{"a": blob, "b": blob, "c": "more" + blob}))
	if two := s.Stats().Stored; two > one+one/4 {
		t.Fatalf("%d bytes, after %d for one copy", two, one)
	}
	before := s.Stats()
	for id := range s.index.at {
		raw, err := s.GetRaw(id)
		check(t, err)
		check(t, s.PutRaw(id, raw))
	}
	if s.Stats() != before {
		t.Fatalf("%+v, after %+v", s.Stats(), before)
	}
}

func FuzzDecodeNode(f *testing.F) {
	var seeds [][]byte
	d := newDirBuilder(packageVersion, func(plain []byte) (ID, error) {
		seeds = append(seeds, plain)
		return PlainNamer(plain), nil
	})
	for i := range 600 {
		check(f, d.add(&entry{Kind: File, Mode: modeExec, Name: fmt.Sprintf("f%03d", i), Size: 7, Refs: []ref{{ID{1}, Totals{Bytes: 7}}}}))
	}
	check(f, d.add(&entry{Kind: Symlink, Mode: modeSymlink, Name: "l", Target: "../x"}))
	check(f, d.add(&entry{Kind: Dir, Mode: modeDir, Name: "m", Dir: ref{ID{2}, Totals{3, 2, 1}}}))
	_, err := d.finish()
	check(f, err)
	for _, s := range append(seeds, appendRef(appendNodeHeader(nil, kindList, packageVersion, 1), kindList, ref{ID{9}, Totals{Bytes: 5}})) {
		f.Add(s)
	}
	state := appendNodeHeader(nil, kindDir, stateVersion, 0)
	for _, e := range []entry{
		{Kind: File, Mode: 0o4755, Name: "a", Size: 1 << 20, Refs: []ref{{Totals: Totals{Bytes: 1 << 20}}}, meta: meta{1, 2, fileTime{-3, 4}, []Xattr{{"user.x", "y"}}}},
		{Kind: HardLink, Name: "b", Target: "d/a"}, {Kind: Fifo, Mode: 0o600, Name: "c"},
		{Kind: Symlink, Mode: 0o777, Name: "d", Target: "/x"}, {Kind: Dir, Mode: 0o1777, Name: "e", Dir: ref{ID{2}, Totals{3, 2, 1}}},
	} {
		state = appendEntry(state, stateVersion, &e)
	}
	f.Add(state)
	f.Add(appendState(nil, &stateRoot{content: ID{3}, mode: 0o700, dir: ref{ID{2}, Totals{3, 2, 1}}}))
	f.Fuzz(func(t *testing.T, plain []byte) {
		n, err := decodeNode(plain)
		if err != nil {
			return
		}
		if n.kind == kindState {
			if again := appendState(nil, n.state); string(again) != string(plain) {
				t.Fatalf("not canonical: %x was read as %x", plain, again)
			}
			return
		}
		again := appendNodeHeader(nil, n.kind, n.version, n.level)
		for i := range n.entries {
			again = appendEntry(again, n.version, &n.entries[i])
		}
		for _, r := range n.refs {
			again = appendRef(again, n.kind, r)
		}
		if string(again) != string(plain) {
			t.Fatalf("not canonical: %x was read as %x", plain, again)
		}
	})
}
