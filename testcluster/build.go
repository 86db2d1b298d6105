//go:build linux

package testcluster

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// RaceEnv set to 1 makes Build use the race detector (and so cgo).
const RaceEnv = "ISONOMIA_TEST_RACE"

// Once per test process: the go command takes a good part of a second even
// when there is nothing to build.
var (
	agentOnce  = sync.OnceValues(func() (string, error) { return build("isonomia", ".", os.Getenv(RaceEnv) == "1") })
	lineOnce   = sync.OnceValues(func() (string, error) { return build("lineservice", "./testcluster/lineservice", false) })
	initOnce   = sync.OnceValues(func() (string, error) { return build("hostinit", "./testcluster/hostinit", false) })
	sqliteOnce = sync.OnceValues(func() (string, error) { return build("sqliteservice", "./testcluster/sqliteservice", false) })
	testOnce   = sync.OnceValues(func() (string, error) { return build("testservice", "./testcluster/testservice", false) })
)

// Build compiles the isonomia binary, once per test run, and returns its path.
// The file is never changed afterwards: another source makes another path.
func Build(t testing.TB) string { t.Helper(); return must(t, agentOnce) }

// TestService compiles the program that tests deploy (testcluster/testservice)
// and returns its path.
func TestService(t testing.TB) string { t.Helper(); return must(t, testOnce) }

// SQLiteService compiles the program that keeps lines in a database (testcluster/sqliteservice) and returns its path.
func SQLiteService(t testing.TB) string { t.Helper(); return must(t, sqliteOnce) }

// LineService compiles the program that keeps lines in a server (testcluster/lineservice) and returns its path.
func LineService(t testing.TB) string { t.Helper(); return must(t, lineOnce) }

func hostInit(t testing.TB) string { t.Helper(); return must(t, initOnce) }

func must(t testing.TB, once func() (string, error)) string {
	t.Helper()
	path, err := once()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// baseDir holds what is shared between test processes, and one directory per
// cluster. It is empty as seen from a node.
func baseDir() string { return filepath.Join(os.TempDir(), "isonomia-testcluster") }

// build compiles a package of this module. Test processes that run at the same
// time build one after the other, so that all but the first find it done.
func build(name, pkg string, race bool) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	key := sha256.Sum256(fmt.Append(nil, root, name, race))
	dir := filepath.Join(baseDir(), "build", hex.EncodeToString(key[:6]))
	unlock, err := lock(dir)
	if err != nil {
		return "", err
	}
	defer unlock()
	out := filepath.Join(dir, name)
	args := []string{"build", "-buildvcs=false", "-o", out, pkg}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if race {
		args, env = append([]string{"build", "-race"}, args[1:]...), append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", args...)
	cmd.Dir, cmd.Env = root, env
	if output, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w\n%s", pkg, err, output)
	}
	return publish(out)
}

// lock makes dir and waits until no other process holds it. The kernel lets go
// of the lock when its holder dies.
func lock(dir string) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(f, unix.LOCK_EX); err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %q: %w", dir, err)
	}
	return func() { f.Close() }, nil
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

// publish copies a program to a place named after its content, where a later
// build does not replace it under a running cluster. Copies that nobody has
// asked for during a day go.
func publish(program string) (string, error) {
	content, err := os.ReadFile(program)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	shelf := filepath.Join(baseDir(), "bin")
	dir := filepath.Join(shelf, hex.EncodeToString(sum[:8]))
	forget(shelf, 24*time.Hour)
	path := filepath.Join(dir, filepath.Base(program))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil {
		return "", err
	}
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	return path, writeProgram(path, content)
}

func writeProgram(path string, content []byte) error {
	tmp := fmt.Sprintf("%s.tmp%d", path, os.Getpid())
	if err := os.WriteFile(tmp, content, 0o755); err != nil {
		return err
	}
	return os.Rename(tmp, path)
}

// forget removes entries of dir that are older than age.
func forget(dir string, age time.Duration) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > age {
			os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// moduleRoot is the nearest directory above the working one with a go.mod.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("find module root: no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// place puts a program into dir under a name: as a link if it can, which is quick
// and cannot be "busy", else as a copy.
func place(program, dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	to := filepath.Join(dir, name)
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if os.Link(program, to) == nil {
		return nil
	}
	return copyProgram(program, to)
}

// copyProgram makes a file of its own. What is packaged must be one: each link
// that another test makes or removes changes the times of all links.
func copyProgram(program, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	from, err := os.Open(program)
	if err != nil {
		return err
	}
	defer from.Close()
	w, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, from)
	return errors.Join(err, w.Close())
}
