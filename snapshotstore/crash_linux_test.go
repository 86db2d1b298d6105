package snapshotstore

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const crashEnv = "SNAPSHOTSTORE_CRASH_DIR"

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		if err := crashWork(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
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

// Real processes, killed in the kernel at a system call.
func TestKilledProcess(t *testing.T) {
	t.Parallel()
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("strace is not installed")
	}
	if err := exec.Command(strace, "-qq", "-o", os.DevNull, "true").Run(); err != nil {
		t.Skipf("strace can not trace here: %v", err)
	}
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
			call, when, _ := strings.Cut(point, ":")
			dir := outDir(t)
			check(t, os.Symlink(tree, filepath.Join(dir, "tree")))
			check(t, os.Symlink(old, filepath.Join(dir, "old")))
			cmd := exec.Command(strace, "-f", "-qq", "-o", os.DevNull, "-e", "trace="+call,
				"-e", fmt.Sprintf("inject=%s:signal=KILL:when=%s", call, when), os.Args[0])
			cmd.Env = append(os.Environ(), crashEnv+"="+dir)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
				t.Fatalf("%v: %s", err, out)
			}
			t.Logf("killed: %v", err != nil)
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
