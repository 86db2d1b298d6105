package node

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
)

// bootstrapped is a data directory that knows its cluster, as it is before raft has anything of it.
func bootstrapped(t *testing.T) (Config, *mesh.Identity, *trust) {
	t.Helper()
	cfg, err := Config{Dir: t.TempDir(), Name: "n1", Bind: "127.0.0.1:0", Bootstrap: true, Log: testLog()}.complete()
	if err != nil {
		t.Fatal(err)
	}
	id, err := mesh.LoadIdentity(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := enter(t.Context(), cfg, id)
	if err != nil {
		t.Fatal(err)
	}
	return cfg, id, tr
}

func tokenOf(tr *trust) string {
	return mesh.NewToken((&mesh.CA{Cert: tr.ca}).Fingerprint()).String()
}

func TestClusterFileIsRemembered(t *testing.T) {
	t.Parallel()
	cfg, id, first := bootstrapped(t)
	path := paths(cfg.Dir).cluster()
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st, err)
	}
	again, err := enter(t.Context(), cfg, id)
	if err != nil || again.get().ID != first.get().ID || len(again.get().Init) == 0 {
		t.Fatalf("%v", err)
	}
	// What a crash left beside it does not count, and is no obstacle.
	write(t, filepath.Join(cfg.Dir, ".tmp-cluster.json-123"), "{")
	if err := again.change(func(f *clusterFile) { f.Init = nil }); err != nil {
		t.Fatal(err)
	}
	cfg.Bootstrap = false
	if last, err := enter(t.Context(), cfg, id); err != nil || last.get().Init != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(cfg.Dir, ".tmp-*")); len(left) != 1 {
		t.Errorf("left %q", left)
	}
}

func TestDamagedClusterFile(t *testing.T) {
	t.Parallel()
	cfg, id, tr := bootstrapped(t)
	path := paths(cfg.Dir).cluster()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := func(spoil func(f *clusterFile)) string {
		f := tr.get()
		spoil(&f)
		return string(mustJSON(f))
	}
	for name, tc := range map[string]struct{ text, says string }{
		"empty":         {"", "is damaged"},
		"half written":  {string(whole[:len(whole)/2]), "is damaged"},
		"zeros":         {strings.Repeat("\x00", 4096), "is damaged"},
		"another thing": {`[1, 2]`, "is damaged"},
		"empty object":  {`{"version": 1}`, "is damaged: it names no cluster"},
		"version":       {spoilt(func(f *clusterFile) { f.Version = 2 }), "of version 2; this binary knows version 1"},
		"no keys":       {spoilt(func(f *clusterFile) { f.GossipKeys = nil }), "gossip keys"},
		"short key":     {spoilt(func(f *clusterFile) { f.GossipKeys = [][]byte{{1}} }), "gossip keys"},
		"leaf":          {spoilt(func(f *clusterFile) { f.Leaf = f.Leaf[:10] }), "certificate"},
		"CA":            {spoilt(func(f *clusterFile) { f.CA = nil }), "CA's certificate"},
	} {
		write(t, path, tc.text)
		for _, join := range [][]string{nil, {"127.0.0.1:1"}} { // neither makes nor joins a cluster over it
			cfg.Join, cfg.Bootstrap = join, join == nil
			if _, err := enter(t.Context(), cfg, id); err == nil || !strings.Contains(err.Error(), tc.says) || !strings.Contains(err.Error(), path) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got, _ := os.ReadFile(path); string(got) != tc.text {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestDirectoryOfAnotherCluster(t *testing.T) {
	t.Parallel()
	cfg, id, tr := bootstrapped(t)
	_, otherID, other := bootstrapped(t)
	cfg.Bootstrap, cfg.Join = false, []string{"127.0.0.1:1"}

	cfg.Token = tokenOf(other)
	if _, err := enter(t.Context(), cfg, id); err == nil || !strings.Contains(err.Error(), "belongs to cluster "+tr.get().ID[:8]+" and the token to another") {
		t.Errorf("got %v", err)
	}
	if tr.get().Join != nil {
		t.Error("the addresses of the other cluster were kept")
	}
	for _, token := range []string{"", tokenOf(tr)} {
		cfg.Token = token
		if got, err := enter(t.Context(), cfg, id); err != nil || len(got.get().Join) != 1 {
			t.Error(err)
		}
	}
	cfg.Token = "nonsense"
	if _, err := enter(t.Context(), cfg, id); !errors.Is(err, mesh.ErrNotToken) {
		t.Error(err)
	}
	cfg.Token = ""
	if _, err := enter(t.Context(), cfg, otherID); err == nil || !strings.Contains(err.Error(), "put together from two") {
		t.Errorf("got %v", err)
	}
}

func TestEmptyDirectoryNeedsToBeToldWhatToDo(t *testing.T) {
	t.Parallel()
	id, err := mesh.LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		cfg  Config
		says []string
	}{
		"nothing":  {Config{}, []string{"--bootstrap", "--join"}},
		"both":     {Config{Bootstrap: true, Join: []string{"a:1"}}, []string{"one of them"}},
		"no token": {Config{Join: []string{"a:1"}}, []string{"isonomia token create"}},
		"token":    {Config{Join: []string{"a:1"}, Token: "iso1.x"}, []string{"token"}},
	} {
		tc.cfg.Dir, tc.cfg.Log = t.TempDir(), testLog()
		_, err := enter(t.Context(), tc.cfg, id)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		contains(t, err.Error(), tc.says...)
	}
}

// A join that is refused for good ends; nothing is written down.
func TestJoinWithATokenOfAnotherCluster(t *testing.T) {
	n := startNode(t, "n1", nil)
	defer n.stop()
	_, _, other := bootstrapped(t)
	cfg := Config{Dir: t.TempDir(), Name: "n2", Join: []string{n.mesh.Addr()}, Token: tokenOf(other), Log: testLog()}
	id, err := mesh.LoadIdentity(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := enter(t.Context(), cfg, id); !errors.Is(err, mesh.ErrWrongCluster) {
		t.Errorf("got %v", err)
	}
	cfg.Token = tokenOf(n.trust) // of this cluster, but nobody made it
	if _, err := enter(t.Context(), cfg, id); err == nil || !strings.Contains(err.Error(), "not admitted") {
		t.Errorf("got %v", err)
	}
	if exists(paths(cfg.Dir).cluster()) {
		t.Error("a cluster file was written")
	}
	if k := n.fsm.State().Nodes.Len(); k != 1 {
		t.Errorf("%d nodes", k)
	}
}

func TestDataDirectoryInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	n := newBuilder(t, dir)
	cfg := Config{Dir: dir, Name: "n1", Bind: "127.0.0.1:0", Bootstrap: true, Log: testLog()}
	err := Run(context.Background(), cfg)
	if err == nil {
		t.Fatal("two agents in one directory")
	}
	contains(t, err.Error(), "data directory "+dir, "another agent uses it (pid ")
	n.close()
	n.undo = nil
	if _, err := openBuilder(dir); err != nil {
		t.Error(err)
	}
}

func TestDirectoryThatCannotBeMade(t *testing.T) {
	t.Parallel()
	file := write(t, filepath.Join(t.TempDir(), "file"), "")
	if err := Run(context.Background(), Config{Dir: filepath.Join(file, "x"), Name: "n1", Bind: "127.0.0.1:0", Bootstrap: true, Log: testLog()}); err == nil {
		t.Error("no error")
	}
}

func TestFilesAreReplacedAsAWhole(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "f")
	for _, text := range []string{"one", "two, longer", ""} {
		if err := writeFileDurably(path, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(path)
		if got, _ := os.ReadFile(path); err != nil || string(got) != text || st.Mode().Perm() != 0o640 {
			t.Error(string(got), st, err)
		}
	}
	if err := writeFileDurably(filepath.Join(path, "x"), nil, 0o600); err == nil {
		t.Error("written below a file")
	}
	if left, _ := os.ReadDir(filepath.Dir(path)); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

func TestTrust(t *testing.T) {
	t.Parallel()
	_, id, tr := bootstrapped(t)
	_, strangerID, _ := bootstrapped(t)
	if err := tr.accept(id.Public(), nil); err == nil {
		t.Error("an unknown key without a certificate was accepted")
	}
	pinned, removed := map[string][]byte{id.ID: id.Public()}, map[string]bool{}
	tr.setPinned(func(id string) ([]byte, bool) { return pinned[id], removed[id] })
	if err := tr.accept(id.Public(), nil); err != nil {
		t.Error(err)
	}
	if err := tr.accept(strangerID.Public(), nil); err == nil {
		t.Error("a stranger was accepted")
	}
	removed[id.ID] = true
	if err := tr.accept(id.Public(), nil); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Error(err)
	}
}

func TestAPISocketIsNobodyElses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "api.sock")
	write(t, path, "left by an earlier run")
	for range 2 {
		l, err := listenUnix(path)
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Lstat(path)
		if err != nil || st.Mode().Perm() != 0o660 || st.Mode()&os.ModeSocket == 0 {
			t.Errorf("%v, %v", st.Mode(), err)
		}
		accepted := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				err = c.Close()
			}
			accepted <- err
		}()
		c, err := net.DialTimeout("unix", path, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := errors.Join(<-accepted, l.Close()); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left %v", left)
		}
	}
	if _, err := listenUnix("/" + strings.Repeat("x", 101)); err == nil || !strings.Contains(err.Error(), "shorter data directory") {
		t.Error(err)
	}
	if _, err := listenUnix(filepath.Join(dir, strings.Repeat("n", 10), "api.sock")); err == nil {
		t.Error("listening in a directory that is not there")
	}
}

func FuzzClusterFile(f *testing.F) {
	f.Add([]byte(`{"version":1,"id":"0123456789","name":"n1","gossip_keys":["AAAA"]}`))
	f.Add([]byte(`{}`))
	f.Add([]byte(`{"version":1,"ca":"AA=="}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "cluster.json")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		if tr, err := loadTrust(path); err == nil {
			if _, err := json.Marshal(tr.get()); err != nil || len(tr.get().GossipKeys) == 0 {
				t.Errorf("accepted %q", text)
			}
		}
	})
}
