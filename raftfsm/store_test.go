package raftfsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

func TestOpenRefusesBadConfig(t *testing.T) {
	t.Parallel()
	c := newCluster(t, func(cfg *Config) { cfg.Timing.Lease = 2 * cfg.Timing.Heartbeat })
	dir := filepath.Join(t.TempDir(), "raft")
	if _, err := c.open(&member{id: "n1", dir: dir}); err == nil || errors.Is(err, ErrDamaged) || exists(dir) {
		t.Errorf("a lease longer than the heartbeat timeout: %v, directory made: %v", err, exists(dir))
	}
	if _, err := Open(Config{ID: "n1", Dir: dir}); err == nil {
		t.Error("no functions: no error")
	}
}

// small makes checkpoints on demand only, and keeps next to nothing of the log after one.
func small(cfg *Config) { cfg.Checkpoints.Trailing = 1 }

func TestRestartFromCheckpointAndLog(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	m := c.bootstrap("n1")
	for i := range 20 {
		c.propose(m, set(fmt.Sprint("before", i), "x"))
	}
	if err := m.Checkpoint(c.ctx); err != nil {
		t.Fatal(err)
	}
	if first, err := m.stores.logs.FirstIndex(); err != nil || first < 10 {
		t.Fatalf("the log still begins at %d (%v)", first, err)
	}
	for i := range 5 {
		c.propose(m, set(fmt.Sprint("after", i), "y"))
	}
	before := Digest(m.State())
	c.kill("n1")
	m = c.start("n1")
	if s, err := m.Read(c.ctx); err != nil || Digest(s) != before {
		t.Fatalf("State differs after the restart (%v)", err)
	}
	if d := diffStates(reindexed(m), m.State()); d != "" {
		t.Error(d)
	}
}

func TestLaggingFollowerGetsACheckpoint(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, small)
	l := c.leader()
	lagging := c.others(l)[0]
	was := lagging.State().Index
	c.crash(lagging.id)
	for i := range 20 {
		c.propose(l, set(fmt.Sprint(i), "x"))
	}
	for _, m := range c.live() {
		if err := m.Checkpoint(c.ctx); err != nil {
			t.Fatal(err)
		}
		if first, err := m.stores.logs.FirstIndex(); err != nil || first <= was+1 {
			t.Fatalf("%s can still serve entry %d from its log (%v)", m.id, was+1, err)
		}
	}
	c.start(lagging.id)
	c.same()
	c.propose(c.nodes[lagging.id], set("k", "1"))
}

func TestDirectoryInUse(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	if _, err := c.open(&member{id: "n1", dir: c.any().dir}); !errors.Is(err, ErrInUse) {
		t.Errorf("second open: %v", err)
	}
	c.propose(c.any(), set("k", "1")) // the first is not disturbed
}

// TestDamagedDirectory opens what a crash at the wrong moment, a full disk or an operator left.
func TestDamagedDirectory(t *testing.T) {
	t.Parallel()
	c := newCluster(t, small)
	m := c.bootstrap("n1")
	for round := range 2 {
		for i := range 10 {
			c.propose(m, set(fmt.Sprint(round, i), "x"))
		}
		if err := m.Checkpoint(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
	c.kill("n1")
	log := func(dir string) string { return filepath.Join(dir, logFile) }
	points := func(dir string) []string {
		found, err := filepath.Glob(filepath.Join(dir, checkpointsDir, "snapshots", "*"))
		if err != nil || len(found) != 2 {
			t.Fatalf("checkpoints %v, %v", found, err)
		}
		return found
	}
	cut := func(path string, size int64) {
		if err := os.Truncate(path, size); err != nil {
			t.Fatal(err)
		}
	}
	for name, damage := range map[string]func(dir string){
		"log cut to one page":    func(dir string) { cut(log(dir), 4096) },
		"log cut to three pages": func(dir string) { cut(log(dir), 3*4096) },
		"log cut in its header":  func(dir string) { cut(log(dir), 100) },
		"log cut in the middle": func(dir string) {
			cut(log(dir), 5*4096)
		},
		"log overwritten": func(dir string) {
			write(t, log(dir), make([]byte, 1<<16))
		},
		"log missing": func(dir string) { remove(t, log(dir)) },
		"log empty":   func(dir string) { cut(log(dir), 0) },
		"checkpoints missing": func(dir string) {
			remove(t, filepath.Join(dir, checkpointsDir))
		},
		"checkpoints without meta": func(dir string) {
			for _, p := range points(dir) {
				remove(t, filepath.Join(p, "meta.json"))
			}
		},
		"both checkpoints cut": func(dir string) {
			for _, p := range points(dir) {
				cut(filepath.Join(p, "state.bin"), 10)
			}
		},
		"newest checkpoint cut": func(dir string) {
			cut(filepath.Join(points(dir)[1], "state.bin"), 10)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "raft")
			if err := os.CopyFS(dir, os.DirFS(m.dir)); err != nil {
				t.Fatal(err)
			}
			damage(dir)
			n, err := c.open(&member{id: "n1", dir: dir})
			if err == nil {
				_ = n.Close(c.ctx)
			}
			if !errors.Is(err, ErrDamaged) {
				t.Errorf("open: %v, want ErrDamaged", err)
			}
			t.Log(err)
		})
	}
}

func TestUnfinishedCheckpointIsRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	c.bootstrap("n1")
	c.kill("n1")
	tmp := filepath.Join(c.nodes["n1"].dir, checkpointsDir, "snapshots", "1-2-3.tmp")
	if err := os.MkdirAll(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	c.start("n1")
	if exists(tmp) {
		t.Error("it is still there")
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// reindexed is the node's State with its indexes made anew.
func reindexed(m *member) *model.State {
	s := *m.State()
	reindex(&s)
	return &s
}
