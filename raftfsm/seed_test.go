package raftfsm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

// TestSeed: every log of a cluster of three is gone. One begins with the State of a journal, the others with nothing, and all
// have the State again and go on.
func TestSeed(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	for _, key := range []string{"a", "b", "c"} {
		c.propose(c.any(), set(key, "1"))
	}
	s, err := c.any().Read(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for id, m := range c.nodes {
		c.kill(id)
		if err := os.RemoveAll(m.dir); err != nil {
			t.Fatal(err)
		}
	}
	first := nodeID(2)
	if err := Seed(c.nodes[first].dir, first, s); err != nil {
		t.Fatal(err)
	}
	if err := Seed(c.nodes[first].dir, first, s); !errors.Is(err, os.ErrExist) {
		t.Errorf("seeded over what there is: %v", err)
	}
	for id := range c.nodes {
		c.start(id)
	}
	c.awaitVoters(3)
	c.propose(c.nodes[nodeID(3)], set("d", "2"))
	for id, m := range c.nodes {
		now, err := m.Read(c.ctx)
		if err != nil {
			t.Fatalf("%s: %v", id, err)
		}
		if value(now, "a") != "1" || value(now, "d") != "2" || now.Index <= s.Index {
			t.Errorf("%s: a=%q d=%q at entry %d", id, value(now, "a"), value(now, "d"), now.Index)
		}
	}
}

func TestSeedLeavesNothingHalf(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "raft")
	if err := os.MkdirAll(dir+".tmp/checkpoints", 0o700); err != nil { // what a crash left
		t.Fatal(err)
	}
	if err := Seed(dir, "n1", &model.State{Index: 7}); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(dir + ".*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
