package snapshotstore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	crashEnv        = "SNAPSHOTSTORE_CRASH_DIR"
	crashRestoreEnv = "SNAPSHOTSTORE_CRASH_RESTORE_DIR"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	for env, work := range map[string]func(string) error{crashEnv: crashWork, crashRestoreEnv: crashRestore} {
		if dir := os.Getenv(env); dir != "" {
			if err := work(dir); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// crashWork puts a tree, makes it a directory, makes another one and removes
// it, and collects.
func crashWork(dir string) error {
	s, err := Open(filepath.Join(dir, "store"), Options{Grace: -1, packTarget: 200_000})
	if err != nil {
		return err
	}
	info, err := s.PutTree(ctxb, filepath.Join(dir, "tree"))
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "acknowledged"), nil, 0o600); err != nil {
		return err
	}
	for _, name := range []string{"stays", "goes"} {
		if err := s.Materialise(ctxb, info.Root, filepath.Join(dir, "out", name), MaterialiseOptions{}); err != nil {
			return err
		}
	}
	if err := s.RemoveTree(filepath.Join(dir, "out", "goes")); err != nil {
		return err
	}
	if _, err := s.PutTree(ctxb, filepath.Join(dir, "old")); err != nil {
		return err
	}
	if _, _, err := s.Collect(ctxb, []ID{info.Root}); err != nil {
		return err
	}
	return s.Close()
}

// crashRestore snapshots a service, warms its new place with that, and
// brings the newest snapshot there.
func crashRestore(dir string) error {
	s, err := Open(filepath.Join(dir, "store"), stateOptions(Options{}))
	if err != nil {
		return err
	}
	var root ID
	for i, from := range []string{"before", "after"} {
		info, err := s.PutState(ctxb, filepath.Join(dir, from), StateOptions{Name: "service"})
		if err != nil {
			return err
		}
		root = info.Root
		if _, err := s.RestoreState(ctxb, root, filepath.Join(dir, "new", "db"), RestoreOptions{Warm: i == 0}); err != nil {
			return err
		}
	}
	return s.Close()
}

// killed runs this test program on dir, killed at a point: the nth call of
// some system call. It skips the test where that can not be done.
func killed(t *testing.T, env, dir, point string) {
	t.Helper()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if err := exec.Command(strace, "-qq", "-o", os.DevNull, "true").Run(); err != nil {
		t.Skipf("strace can not trace here: %v", err)
	}
	call, when, _ := strings.Cut(point, ":")
	cmd := exec.Command(strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call,
		"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%s", call, when), os.Args[0])
	cmd.Env = append(os.Environ(), env+"="+dir)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("killed: %v", err != nil)
}

// Whenever a restore is killed, dest is what it was or what it is to be, and
// nothing of the old copy is lost.
func TestKilledRestore(t *testing.T) {
	t.Parallel()
	before, after := stateSample(t), stateSample(t)
	for i := range 60 {
		check(t, os.WriteFile(filepath.Join(before, fmt.Sprint("x", i)), []byte(noise(uint64(i), 5000)), 0o644))
		check(t, os.WriteFile(filepath.Join(after, fmt.Sprint("x", i)), []byte(noise(uint64(i*(i%2)), 5000)), 0o600))
	}
	points := []string{"renameat2:1", "renameat:1", "renameat:2", "renameat:3", "renameat:4", "renameat:5", "renameat:6", "renameat:7",
		"fsync:4", "fsync:9", "syncfs:2", "syncfs:3", "syncfs:4", "unlinkat:3", "unlinkat:6", "linkat:1", "utimensat:70", "utimensat:100", "fchmod:60", "ftruncate:70"}
	if testing.Short() {
		points = points[:3]
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			dir := outDir(t)
			check(t, os.Symlink(before, filepath.Join(dir, "before")))
			check(t, os.Symlink(after, filepath.Join(dir, "after")))
			dest := filepath.Join(dir, "new", "db")
			check(t, os.MkdirAll(filepath.Join(dest, "old"), 0o755))
			check(t, os.WriteFile(filepath.Join(dest, "old/file"), []byte("stray"), 0o644))
			old, want := describeState(t, dest), describeState(t, after)
			killed(t, crashRestoreEnv, dir, point)
			if got := describeState(t, dest); got != old && got != want {
				t.Fatalf("neither old nor new:\n%s", got)
			}
			check(t, crashRestore(dir))
			if got := describeState(t, dest); got != want {
				t.Fatalf("got\n%s\nwant\n%s", got, want)
			}
			s := openStore(t, filepath.Join(dir, "store"), stateOptions(Options{}))
			noProblems(t, s)
			list, err := s.PreviousStates(dest)
			check(t, err)
			kept := false
			for _, path := range list {
				kept = kept || describeState(t, path) == old
			}
			if !kept {
				t.Fatalf("the old copy is lost: %v", list)
			}
			check(t, s.RemovePrevious(dest))
			if left := siblings(t, dest); len(left) != 1 {
				t.Fatalf("left %v", left)
			}
		})
	}
}

// Real processes, killed in the kernel at a system call.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	tree := sample(t)
	for i := range syncEachMost { // beyond that, syncfs
		check(t, os.WriteFile(filepath.Join(tree, fmt.Sprint("f", i)), nil, 0o644))
	}
	old := files(t, map[string]string{"old": noise(77, 300_000)})
	points := []string{"fsync:1", "fsync:3", "fsync:5", "fsync:8", "syncfs:1", "syncfs:2", "renameat:2", "renameat:3",
		"renameat:5", "renameat:7", "pwrite64:3", "unlinkat:2", "symlinkat:1", "fchmod:2"}
	if testing.Short() {
		points = points[3:6]
	}
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			dir := outDir(t)
			check(t, os.Symlink(tree, filepath.Join(dir, "tree")))
			check(t, os.Symlink(old, filepath.Join(dir, "old")))
			killed(t, crashEnv, dir, point)
			afterKill(t, dir, tree)
		})
	}
}

// afterKill checks what the killed process left, and that its work can be
// done again.
func afterKill(t *testing.T, dir, tree string) {
	s, err := Open(filepath.Join(dir, "store"), Options{})
	check(t, err)
	noProblems(t, s)
	want, err := ScanDir(ctxb, tree, nil, ScanOptions{})
	check(t, err)
	if _, err := os.Stat(filepath.Join(dir, "acknowledged")); err == nil {
		mustHave(t, s, want.Root, true)
	}
	check(t, s.Close())
	out := filepath.Join(dir, "out")
	for _, name := range []string{"stays", "goes"} { // whole, or not there
		if _, err := os.Stat(filepath.Join(out, name)); err == nil {
			got, err := ScanDir(ctxb, filepath.Join(out, name), nil, ScanOptions{})
			check(t, err)
			if got != want {
				t.Fatalf("%s appeared before it was whole", name)
			}
		}
	}
	check(t, RemoveUnfinished(out))
	check(t, crashWork(dir))
	left, err := os.ReadDir(out)
	check(t, err)
	if len(left) != 2 { // stays, and its marker
		t.Fatalf("left %v", left)
	}
}

func TestFullDiskOfState(t *testing.T) {
	t.Parallel()
	mnt := t.TempDir()
	if err := unix.Mount("none", mnt, "tmpfs", 0, "size=6m,nr_inodes=300"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	big := files(t, map[string]string{"a": noise(1, 5<<20), "b": noise(2, 5<<20)})
	small := files(t, map[string]string{"a": noise(3, 3<<20), "b": "x"})
	s := openStore(t, filepath.Join(mnt, "store"), stateOptions(Options{Grace: -1, packTarget: 1 << 20}))
	if _, err := s.PutState(ctxb, big, StateOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("put: %v", err)
	}
	noProblems(t, s)
	_, _, err := s.Collect(ctxb, nil) // makes room even now
	check(t, err)
	info := putState(t, s, small, StateOptions{})
	dest := filepath.Join(mnt, "out")
	check(t, os.Mkdir(dest, 0o755))
	check(t, os.WriteFile(filepath.Join(dest, "old"), []byte("old"), 0o600))
	old := describeState(t, dest)
	if _, err := s.RestoreState(ctxb, info.Root, dest, RestoreOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("restore: %v", err)
	}
	if describeState(t, dest) != old || len(siblings(t, dest)) != 2 {
		t.Fatalf("left %v", siblings(t, dest))
	}
	verified(t, s, info.Root, small)
	mustHave(t, s, info.Root, true)
	noProblems(t, s)
}

// A restore on a disk with room for any number of pages, or of files, less
// than it needs: over nothing, over an old copy and over a warm one. What was
// there stays, nothing is left beside it but the warm copy, and with more room
// the same call succeeds.
func TestFullDiskAtEveryWriteOfRestore(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{workers: 1})
	before := files(t, map[string]string{"a": noise(1, 9000), "b/c": noise(2, 5000), "b/d": "->c", "e": ""})
	after := files(t, map[string]string{"a": noise(1, 9000) + noise(3, 9000), "b/c": noise(4, 5000), "f/g": noise(5, 12_000), "f/h": "x"})
	old, fresh := putState(t, s, before, StateOptions{}), putState(t, s, after, StateOptions{})
	for _, start := range []string{"nothing", "old", "warm"} {
		for _, limit := range []string{"size=%d", "nr_inodes=%d"} {
			mnt := t.TempDir()
			if err := unix.Mount("none", mnt, "tmpfs", 0, "size=1m,nr_inodes=300"); err != nil {
				t.Skipf("cannot mount a small tmpfs: %v", err)
			}
			t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
			dest := filepath.Join(mnt, "out")
			if start == "old" {
				restore(t, s, old.Root, dest, RestoreOptions{})
			} else if start == "warm" {
				restore(t, s, old.Root, dest, RestoreOptions{})
				restore(t, s, old.Root, dest, RestoreOptions{Warm: true})
			}
			fills(t, s, fresh.Root, dest, limit, after)
		}
	}
}

// fills restores with one more page, or file, each time, until it succeeds.
func fills(t *testing.T, s *Store, root ID, dest, limit, want string) {
	t.Helper()
	before, had := "", siblings(t, dest)
	if _, err := os.Stat(dest); err == nil {
		before = describeState(t, dest)
	}
	for room := 0; ; room++ {
		var st unix.Statfs_t
		check(t, unix.Statfs(filepath.Dir(dest), &st))
		n := (int(st.Blocks-st.Bfree) + room) * page
		if strings.HasPrefix(limit, "nr_inodes") {
			n = int(st.Files-st.Ffree) + room
		}
		check(t, unix.Mount("none", filepath.Dir(dest), "tmpfs", unix.MS_REMOUNT, fmt.Sprintf(limit, max(n, 1))))
		_, err := s.RestoreState(ctxb, root, dest, RestoreOptions{})
		if err == nil {
			if room == 0 {
				t.Fatalf("%s: enough from the beginning", limit)
			}
			break
		}
		if !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("%s %d: %v", limit, n, err)
		}
		if room > 60 {
			t.Fatalf("%s %d: never enough: %v", limit, n, err)
		}
		now := ""
		if _, err := os.Stat(dest); err == nil {
			now = describeState(t, dest)
		}
		if now != before {
			t.Fatalf("%s %d: what was there has changed:\n%s", limit, n, now)
		}
		for _, name := range siblings(t, dest) {
			if name != ".out.warm" && !slices.Contains(had, name) {
				t.Fatalf("%s %d: left is %s", limit, n, name)
			}
		}
		if warm := filepath.Join(filepath.Dir(dest), ".out.warm"); !slices.Contains(had, ".out.warm") {
			check(t, os.RemoveAll(warm)) // each try begins anew
		}
	}
	if got := describeState(t, dest); got != describeState(t, want) {
		t.Fatalf("restored is\n%s", got)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	mnt := t.TempDir()
	if err := unix.Mount("none", mnt, "tmpfs", 0, "size=6m,nr_inodes=300"); err != nil {
		t.Skipf("cannot mount a small tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mnt, unix.MNT_DETACH) })
	big := files(t, map[string]string{"a": noise(1, 5<<20), "b": noise(2, 5<<20)})
	small := files(t, map[string]string{"a": noise(3, 3<<20), "b": "x"})
	s := openStore(t, filepath.Join(mnt, "store"), Options{Grace: -1, packTarget: 1 << 20})

	if _, err := s.PutTree(ctxb, big); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("put: %v", err)
	}
	noProblems(t, s)
	_, _, err := s.Collect(ctxb, nil) // makes room even now
	check(t, err)
	info := putTree(t, s, small)

	dest := filepath.Join(mnt, "out")
	if err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("materialise: %v", err)
	}
	if left, _ := os.ReadDir(mnt); len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	from := newStore(t, Options{})
	more := putTree(t, from, big)
	if err := s.Fetch(ctxb, more.Root, []Source{&storeSource{name: "s", store: from}}, nil); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fetch: %v", err)
	}
	mustHave(t, s, info.Root, true)
	noProblems(t, s)
	_, _, err = s.Collect(ctxb, []ID{info.Root})
	check(t, err)
	mustHave(t, s, info.Root, true)

	many := map[string]string{} // more files than inodes
	for i := range 400 {
		many[fmt.Sprint(i)] = fmt.Sprint(i)
	}
	info = putTree(t, s, files(t, many))
	if err := s.Materialise(ctxb, info.Root, dest, MaterialiseOptions{}); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("materialise: %v", err)
	}
	check(t, s.Close())
	s = openStore(t, filepath.Join(mnt, "store"), Options{})
	noProblems(t, s)
	mustHave(t, s, info.Root, true)
}
