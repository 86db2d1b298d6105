package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// TestMain makes the test binary what the agent starts of itself, the keeper and a build's sandbox, and an agent that
// only builds: `BINARY build-agent DIR SOURCE`.
func TestMain(m *testing.M) {
	code := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		_ = unix.Exec("/bin/true", []string{"true"}, nil) // the race detector would linger for a second
		os.Exit(0)
	}
	switch {
	case len(os.Args) == 3 && os.Args[1] == "keeper":
		code(RunKeeper(os.Args[2]))
	case len(os.Args) == 2 && os.Args[1] == "build-sandbox":
		code(RunBuildSandbox())
	case len(os.Args) == 4 && os.Args[1] == "build-agent":
		code(buildAgent(os.Args[2], os.Args[3]))
	case len(os.Args) == 2 && os.Args[1] == "echo-service":
		code(echoService())
	case os.Getenv("TEST_AS_UID") != "":
		os.Exit(asUID(m, os.Getenv("TEST_AS_UID")))
	}
	os.Exit(m.Run())
}

// asUID runs the tests as another user.
func asUID(m *testing.M, uid string) int {
	id, err := strconv.Atoi(uid)
	if err == nil {
		err = unix.Setgroups(nil)
	}
	if err == nil {
		err = unix.Setresgid(id, id, id)
	}
	if err == nil {
		err = unix.Setresuid(id, id, id)
	}
	if err == nil {
		err = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0) // as it is after exec
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// newBuilder is a node as far as building goes: a data directory with a store. It has the lock of nothing.
func newBuilder(t testing.TB, dir string) *Node {
	t.Helper()
	n, err := openBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	return n
}

// testLog is silent unless ISONOMIA_DEBUG is set.
func testLog() *slog.Logger {
	if os.Getenv("ISONOMIA_DEBUG") != "" {
		return newLogger("text")
	}
	return slog.New(slog.DiscardHandler)
}

func openBuilder(dir string) (*Node, error) {
	n := &Node{cfg: Config{Dir: dir, Name: "n1", Log: testLog()}, dir: paths(dir), log: testLog()}
	err := n.openDir(context.Background())
	if err == nil {
		err = n.openStore(context.Background())
	}
	return n, err
}

// dataDir is a directory that other users may pass, as a data directory is.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// putSource takes files, by name, into the store and gives the tree.
func putSource(t testing.TB, n *Node, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		mode := os.FileMode(0o644)
		if strings.HasPrefix(text, "#!") {
			mode = 0o755
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	info, err := n.store.PutTree(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return info.Root.String()
}

// contents gives the files of a tree in the store, by name.
func contents(t testing.TB, n *Node, tree string) map[string]string {
	t.Helper()
	id, err := snapshotstore.ParseID(tree)
	if err != nil {
		t.Fatal(err)
	}
	dest := filepath.Join(t.TempDir(), "tree")
	t.Cleanup(func() { _ = removeAll(dest) }) // it is read-only
	if err := n.store.Materialise(t.Context(), id, dest, snapshotstore.MaterialiseOptions{}); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	err = filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dest, path)
		out[name] = string(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// sh is a request for a build by a shell script.
func sh(source, script string) api.BuildRequest {
	return api.BuildRequest{Service: "web", Source: source, Command: []string{"/bin/sh", "-ec", script}, Timeout: time.Minute}
}

// await waits until a condition holds; it says why not by a text that is not empty.
func await(t testing.TB, within time.Duration, condition func() string) {
	t.Helper()
	last := ""
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if last = condition(); last == "" {
			return
		}
	}
	t.Fatalf("after %v: %s", within, last)
}

// processesWith lists the processes that have a word in their command line.
func processesWith(word string) []string {
	var found []string
	files, _ := filepath.Glob("/proc/[1-9]*/cmdline")
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil && strings.Contains(string(b), word) && filepath.Dir(f) != fmt.Sprintf("/proc/%d", os.Getpid()) {
			found = append(found, filepath.Base(filepath.Dir(f))+" "+strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return found
}
