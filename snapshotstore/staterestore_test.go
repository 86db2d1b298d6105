package snapshotstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestRestoreReplaces(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := stateSample(t)
	info := putState(t, s, dir, StateOptions{})
	dest := filepath.Join(outDir(t), "db")
	check(t, os.MkdirAll(filepath.Join(dest, "data/text/was-a-directory"), 0o755))
	check(t, os.WriteFile(filepath.Join(dest, "created-later"), []byte("gone"), 0o644))
	old := describeState(t, dest)
	done := restore(t, s, info.Root, dest, RestoreOptions{})
	verified(t, s, info.Root, dest)
	if want := filepath.Join(filepath.Dir(dest), ".db.previous-1"); done.Previous != want || describeState(t, want) != old {
		t.Fatalf("%+v", done)
	}
	check(t, os.WriteFile(filepath.Join(dest, "again"), nil, 0o644))
	done = restore(t, s, info.Root, dest, RestoreOptions{})
	verified(t, s, info.Root, dest)
	list, err := s.PreviousStates(dest)
	check(t, err)
	if len(list) != 2 || list[1] != done.Previous {
		t.Fatalf("%v, %+v", list, done)
	}
	restore(t, s, info.Root, dest, RestoreOptions{Warm: true})
	done = restore(t, s, info.Root, dest, RestoreOptions{Discard: true})
	if done.Previous != "" || len(siblings(t, dest)) != 3 {
		t.Fatalf("%+v, %v", done, siblings(t, dest))
	}
	restore(t, s, info.Root, dest, RestoreOptions{Warm: true})
	check(t, s.RemovePrevious(dest))
	if left := siblings(t, dest); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	verified(t, s, info.Root, dest)
	file := filepath.Join(filepath.Dir(dest), "file")
	check(t, os.WriteFile(file, nil, 0o600))
	if _, err := s.RestoreState(ctxb, info.Root, file, RestoreOptions{}); !errors.Is(err, ErrExists) {
		t.Fatal(err)
	}
}

// A warm copy costs what differs: of a large file, the chunks that changed.
func TestRestoreOverWarmCopyWritesTheDifference(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := stateSample(t)
	check(t, os.Remove(filepath.Join(dir, "data/also-big"))) // a file with two names is written anew
	dest := filepath.Join(outDir(t), "db")
	first := putState(t, s, dir, StateOptions{})
	done := restore(t, s, first.Root, dest, RestoreOptions{Warm: true})
	if done.Written < 3<<20 {
		t.Fatalf("%+v", done)
	}
	if _, err := os.Stat(dest); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("a warm copy is not dest")
	}
	f, err := os.OpenFile(filepath.Join(dir, "data/text"), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrPermission) {
		check(t, os.Chmod(filepath.Join(dir, "data/text"), 0o600))
		f, err = os.OpenFile(filepath.Join(dir, "data/text"), os.O_WRONLY, 0)
	}
	check(t, err)
	_, err = f.WriteAt([]byte("ALL"), 300_000)
	check(t, err)
	check(t, f.Close())
	check(t, os.Remove(filepath.Join(dir, "many/a/b/c/deep")))
	check(t, os.WriteFile(filepath.Join(dir, "many/a/new"), []byte("new"), 0o644))
	second := putState(t, s, dir, StateOptions{Known: []ID{first.Root}})
	done = restore(t, s, second.Root, dest, RestoreOptions{Warm: true})
	if done.Written > 2*MaxChunk || done.Reused < 4 {
		t.Fatalf("%+v", done)
	}
	// Without its cache the warm copy is read; nothing more is written.
	caches, err := filepath.Glob(filepath.Join(s.dir, "scans", "warm-*"))
	check(t, err)
	if len(caches) != 1 {
		t.Fatalf("%v", caches)
	}
	check(t, os.Remove(caches[0]))
	done = restore(t, s, second.Root, dest, RestoreOptions{Warm: true})
	if done.Written > 1000 {
		t.Fatalf("%+v", done)
	}
	done = restore(t, s, second.Root, dest, RestoreOptions{})
	if done.Written > 1000 {
		t.Fatalf("%+v", done)
	}
	if got, want := describeState(t, dest), describeState(t, dir); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	if left := siblings(t, dest); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	caches, err = filepath.Glob(filepath.Join(s.dir, "scans", "warm-*"))
	check(t, err)
	if len(caches) != 0 {
		t.Fatalf("a cache of what is dest now: %v", caches)
	}
}

func TestRestoreOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	s := stateStore(t, Options{})
	dir := stateSample(t)
	for i, name := range []string{"conf/app.ini", "data", "links/abs", "run/pipe", "run/script", "."} {
		check(t, os.Lchown(filepath.Join(dir, name), 1000+i, 2000+i))
	}
	check(t, unix.Chmod(filepath.Join(dir, "run/script"), 0o4751))
	info := putState(t, s, dir, StateOptions{})
	dest := filepath.Join(outDir(t), "out")
	restore(t, s, info.Root, dest, RestoreOptions{})
	if got, want := describeState(t, dest), describeState(t, dir); got != want {
		t.Fatalf("got\n%s\nwant\n%s", got, want)
	}
	owner := &Owner{4242, 4343}
	restore(t, s, info.Root, dest, RestoreOptions{Warm: true}) // the owner is what changes last: it takes set-uid away
	restore(t, s, info.Root, dest, RestoreOptions{Owner: owner})
	if list := describeState(t, dest); strings.Contains(list, "1001:") || !strings.Contains(list, "104751 4242:4343") {
		t.Fatal(list)
	}
	diffs, err := s.VerifyState(ctxb, info.Root, dest, VerifyOptions{Owner: owner})
	check(t, err)
	if len(diffs) != 0 {
		t.Fatal(diffs)
	}
	diffs, err = s.VerifyState(ctxb, info.Root, dest, VerifyOptions{Most: 3})
	check(t, err)
	if len(diffs) != 3 || !strings.Contains(diffs[0].What, "owner 4242:4343") {
		t.Fatal(diffs)
	}
}

func TestVerifyFindsEveryDifference(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := stateSample(t)
	info := putState(t, s, dir, StateOptions{})
	at := func(dest, name string) string { return filepath.Join(dest, name) }
	poke := func(path string, off int64) func(string) error {
		return func(dest string) error {
			st, err := os.Stat(at(dest, path))
			check(t, err)
			f, err := os.OpenFile(at(dest, path), os.O_RDWR, 0)
			check(t, err)
			defer f.Close()
			var b [1]byte
			_, err = f.ReadAt(b[:], off)
			check(t, err)
			b[0] ^= 4
			_, err = f.WriteAt(b[:], off)
			check(t, err)
			return os.Chtimes(at(dest, path), st.ModTime(), st.ModTime())
		}
	}
	for what, c := range map[string]struct {
		path   string
		change func(dest string) error
	}{
		"bit":        {"data/also-big", poke("data/also-big", 2<<20)},
		"in a hole":  {"data/sparse", poke("data/sparse", 30<<20)},
		"cut":        {"many/a/b/c/deep", func(d string) error { return os.Truncate(at(d, "many/a/b/c/deep"), 2) }},
		"longer":     {"data/empty", func(d string) error { return os.Truncate(at(d, "data/empty"), 7) }},
		"missing":    {"empty", func(d string) error { return os.Remove(at(d, "empty")) }},
		"extra":      {"many/x", func(d string) error { return os.WriteFile(at(d, "many/x"), nil, 0o600) }},
		"last extra": {"zzz", func(d string) error { return os.WriteFile(at(d, "zzz"), nil, 0o600) }},
		"mode":       {"run/script", func(d string) error { return os.Chmod(at(d, "run/script"), 0o751) }},
		"time":       {"run/pipe", func(d string) error { return unix.Utimes(at(d, "run/pipe"), make([]unix.Timeval, 2)) }},
		"target": {"links/abs", func(d string) error {
			check(t, os.Remove(at(d, "links/abs")))
			return os.Symlink("/etc/passwd", at(d, "links/abs"))
		}},
		"kind": {"links/dangling", func(d string) error {
			check(t, os.Remove(at(d, "links/dangling")))
			return os.WriteFile(at(d, "links/dangling"), []byte("nowhere"), 0o777)
		}},
		"dir kind": {"empty", func(d string) error {
			check(t, os.Remove(at(d, "empty")))
			return os.Symlink("conf", at(d, "empty"))
		}},
		"own file": {"zz-app.ini", func(d string) error {
			check(t, os.Remove(at(d, "zz-app.ini")))
			return os.WriteFile(at(d, "zz-app.ini"), []byte("x = 1\n"), 0o644)
		}},
	} {
		dest := filepath.Join(outDir(t), "out")
		restore(t, s, info.Root, dest, RestoreOptions{})
		verified(t, s, info.Root, dest)
		check(t, c.change(dest))
		diffs, err := s.VerifyState(ctxb, info.Root, dest, VerifyOptions{})
		check(t, err)
		if !slices.ContainsFunc(diffs, func(d Difference) bool { return d.Path == c.path }) {
			t.Errorf("%s: %v", what, diffs)
		}
	}
}

// Holes are what the content says, however the file system keeps them.
func TestHolesDependOnContentOnly(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := files(t, map[string]string{})
	rapid.Check(t, func(rt *rapid.T) {
		size := rapid.Int64Range(0, 20*holeGrain).Draw(rt, "size")
		data := map[int64]string{}
		for range rapid.IntRange(0, 4).Draw(rt, "pieces") {
			at := rapid.Int64Range(0, size).Draw(rt, "at")
			piece := noise(rapid.Uint64Range(0, 3).Draw(rt, "seed"), rapid.IntRange(0, 3*holeGrain).Draw(rt, "length"))
			data[at] = piece[:min(int64(len(piece)), size-at)]
		}
		path := filepath.Join(dir, "f")
		sparse(t, path, size, data)
		whole, err := os.ReadFile(path)
		check(t, err)
		info := putState(t, s, dir, StateOptions{NoCache: true})
		check(t, os.WriteFile(path, whole, 0o644)) // without holes
		if dense := putState(t, s, dir, StateOptions{NoCache: true}); dense.Content != info.Content {
			rt.Fatalf("%+v, without holes %+v", info, dense)
		}
		dest := filepath.Join(outDir(t), "out")
		restore(t, s, info.Root, dest, RestoreOptions{})
		if got, err := os.ReadFile(filepath.Join(dest, "f")); err != nil || !bytes.Equal(got, whole) {
			rt.Fatalf("not the same: %v", err)
		}
	})
}

func kindOf(path string) fs.FileMode {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Mode().Type()
}

// mutate changes a directory tree in random ways.
func mutate(t testing.TB, dir string, rnd *rand.Rand) {
	t.Helper()
	var dirs, all []string
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		} else {
			all = append(all, path)
		}
		return err
	}))
	fresh := func() string {
		return filepath.Join(dirs[rnd.IntN(len(dirs))], string(rune('a'+rnd.IntN(12))))
	}
	for range 3 + rnd.IntN(15) {
		path := fresh()
		if len(all) > 0 && rnd.IntN(2) == 0 {
			path = all[rnd.IntN(len(all))]
		}
		info, err := os.Lstat(path)
		switch op := rnd.IntN(9); {
		case op == 0:
			_ = os.RemoveAll(path) // what was a directory above it may be a file now; so below
		case op == 1 && err != nil:
			_ = os.MkdirAll(path, 0o750)
		case op == 2 && err != nil && len(all) > 0:
			if old := all[rnd.IntN(len(all))]; kindOf(old) != fs.ModeSymlink { // several names of a symlink are not kept
				_ = os.Link(old, path) // of what may be gone
			}
		case op == 3 && err != nil:
			_ = os.Symlink(strconv.Itoa(rnd.IntN(3)), path)
		case op == 4 && err == nil && info.Mode().IsRegular():
			check(t, os.Chmod(path, []fs.FileMode{0o600, 0o644, 0o755}[rnd.IntN(3)]))
		case op == 5 && err == nil && info.Mode().IsRegular():
			check(t, os.Truncate(path, rnd.Int64N(500_000)))
		case op == 6 && err == nil && info.Mode().IsRegular():
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			check(t, err)
			_, err = f.WriteAt([]byte(noise(rnd.Uint64(), rnd.IntN(9000))), rnd.Int64N(300_000))
			check(t, err)
			check(t, f.Close())
		case err != nil || info.Mode().IsRegular():
			_ = os.WriteFile(path, []byte(noise(uint64(rnd.IntN(5)), rnd.IntN(400_000))), 0o644) // its directory may be gone
		}
	}
}

// Whatever changed between snapshots, a warm copy brought from one to the
// next is the next, and the scan cache never hides a change.
func TestStateChainProperty(t *testing.T) {
	t.Parallel()
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	for range rounds {
		seed := rand.Uint64()
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := stateStore(t, Options{packTarget: 1 << 20})
		dir, dest := t.TempDir(), filepath.Join(outDir(t), "out")
		var infos []StateInfo
		for step := range 8 {
			mutate(t, dir, rnd)
			info := putState(t, s, dir, StateOptions{})
			infos = append(infos, info)
			if whole := putState(t, s, dir, StateOptions{NoCache: true}); whole.Root != info.Root {
				t.Fatalf("seed %d step %d: the cache hides a change", seed, step)
			}
			to := infos[rnd.IntN(len(infos))].Root // forwards or backwards
			restore(t, s, to, dest, RestoreOptions{Warm: rnd.IntN(3) > 0})
			restore(t, s, info.Root, dest, RestoreOptions{})
			if got, want := describeState(t, dest), describeState(t, dir); got != want {
				t.Fatalf("seed %d step %d: got\n%s\nwant\n%s", seed, step, got, want)
			}
			verified(t, s, info.Root, dest)
		}
		noProblems(t, s)
	}
}

// A directory that changes all the time is snapshotted nevertheless, and the
// snapshot says so; nothing of what changed is believed next time.
func TestStateOfARunningService(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	dir := files(t, map[string]string{"log": noise(1, 8<<20), "d/steady": noise(2, 100_000)})
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() { // a service
		f, err := os.OpenFile(filepath.Join(dir, "log"), os.O_WRONLY|os.O_APPEND, 0)
		for i := 0; err == nil; i++ {
			select {
			case <-stop:
				done <- f.Close()
				return
			default:
			}
			if _, err = fmt.Fprintln(f, i); err == nil && i%7 == 0 {
				temp := filepath.Join(dir, "d", fmt.Sprint(i%3))
				if err = os.WriteFile(temp, []byte("x"), 0o600); err == nil {
					err = os.Remove(temp)
				}
			}
		}
		done <- err
	}()
	changed := uint64(0)
	for range 5 {
		info := putState(t, s, dir, StateOptions{})
		changed += info.Changed
		dest := filepath.Join(outDir(t), "out")
		restore(t, s, info.Root, dest, RestoreOptions{})
		verified(t, s, info.Root, dest)
	}
	close(stop)
	check(t, <-done)
	if changed == 0 {
		t.Fatal("no change was noticed")
	}
	final := putState(t, s, dir, StateOptions{})
	if final.Changed != 0 {
		t.Fatalf("%+v", final)
	}
	verified(t, s, final.Root, dir)
}

// A write through a memory map to a page that is dirty already does not set
// the file's times: the snapshot before must have cleaned it.
func TestStateSeesMemoryMaps(t *testing.T) {
	t.Parallel()
	dir := files(t, map[string]string{"mapped": noise(1, 1<<16)})
	var fsys unix.Statfs_t
	check(t, unix.Statfs(dir, &fsys))
	if fsys.Type == unix.TMPFS_MAGIC {
		t.Skip("tmpfs writes nothing back")
	}
	s := stateStore(t, Options{})
	f, err := os.OpenFile(filepath.Join(dir, "mapped"), os.O_RDWR, 0)
	check(t, err)
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, 1<<16, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	check(t, err)
	defer unix.Munmap(mem)
	for i := range 20 {
		mem[5000] = byte(i) // the page is dirty from here on
		putState(t, s, dir, StateOptions{})
		mem[5000] = byte(100 + i)
		info := putState(t, s, dir, StateOptions{})
		if whole := putState(t, s, dir, StateOptions{NoCache: true}); whole.Content != info.Content {
			t.Fatal("a write was not seen")
		}
	}
}

func TestRestoreCancelled(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	info := putState(t, s, stateSample(t), StateOptions{})
	ctx, cancel := context.WithCancel(ctxb)
	cancel()
	dest := filepath.Join(outDir(t), "out")
	if _, err := s.RestoreState(ctx, info.Root, dest, RestoreOptions{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := os.Stat(dest); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal("dest is there")
	}
	restore(t, s, info.Root, dest, RestoreOptions{})
	verified(t, s, info.Root, dest)
}
