package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

func TestPlanReconstruction(t *testing.T) {
	t.Parallel()
	members := map[string]string{"1": "n1", "2": "n2", "3": "n3"}
	for _, c := range []struct {
		name  string
		found map[string]survey
		from  string
		says  string // of the error
		lacks string
	}{
		{"the newest entry", map[string]survey{"1": {Name: "n1", Index: 5, Nodes: members}, "2": {Name: "n2", Index: 9, Nodes: members}, "3": {Name: "n3"}}, "n2", "", ""},
		{"an epoch is newer than any entry", map[string]survey{"1": {Name: "n1", Epoch: 1, Index: 5, Nodes: members}, "2": {Name: "n2", Index: 9, Nodes: members}, "3": {Name: "n3"}}, "n1", "", ""},
		{"who does not answer", map[string]survey{"1": {Name: "n1", Index: 5, Nodes: members}, "2": {Error: "timeout"}, "3": {Name: "n3", Index: 3, Nodes: members}}, "n1", "", "n2"},
		{"a leader", map[string]survey{"1": {Name: "n1", Index: 5, Nodes: members}, "2": {Name: "n2", Leader: "2"}}, "", "nothing is lost", ""},
		{"a log", map[string]survey{"1": {Name: "n1", Index: 5, Nodes: members}, "2": {Name: "n2", End: raftfsm.LogEnd{Epoch: 1, Index: 12}}}, "", "n2 still has its raft log", ""},
		{"a log of a former epoch", map[string]survey{"1": {Name: "n1", Epoch: 2, Index: 5, Nodes: members}, "2": {Name: "n2", End: raftfsm.LogEnd{Epoch: 1, Index: 12}}, "3": {Name: "n3"}}, "n1", "", ""},
		{"nothing", map[string]survey{"1": {Name: "n1"}}, "", "no node that answers has a journal", ""},
	} {
		r, err := planReconstruction(c.found, "")
		switch {
		case c.says != "":
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case r.From != c.from || strings.Join(r.Missing, " ") != c.lacks:
			t.Errorf("%s: from %s, missing %v", c.name, r.From, r.Missing)
		}
	}
}

// TestAdoptSeed: whatever the moment at which the agent dies, the next start goes on with what it finds, and what there was is
// kept. A State that it did not begin with in the same life is dropped: the others may have gone on.
func TestAdoptSeed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name           string
		again          bool
		state, empty   bool // what was made to begin with
		before         bool // whether it died before the old directory was set aside
		adopted, aside bool
	}{
		{"in the same life", true, true, false, true, true, true},
		{"in the same life, between the renames", true, true, false, false, true, false},
		{"at a later start", false, true, false, true, false, false},
		{"nothing to begin with", true, false, false, true, false, false},
		{"entering anew", true, false, true, true, true, true},
		{"entering anew, at a later start", false, false, true, true, true, true},
	} {
		n := &Node{cfg: Config{Dir: t.TempDir()}, log: testLog(), again: c.again}
		n.dir = paths(n.cfg.Dir)
		var errs []error
		if c.before {
			errs = append(errs, os.MkdirAll(n.dir.raft(), 0o700), os.WriteFile(filepath.Join(n.dir.raft(), "old"), nil, 0o600))
		}
		if c.state {
			errs = append(errs, raftfsm.Seed(n.dir.raftSeed(), "n1", &model.State{Index: 3}))
		}
		if c.empty {
			errs = append(errs, raftfsm.SeedEmpty(n.dir.raftEmpty(), 3))
		}
		for range 2 { // the second finds nothing to do
			errs = append(errs, n.adoptSeed())
		}
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(n.dir.raft(), "log.db")); (err == nil) != c.adopted {
			t.Errorf("%s: in place: %v", c.name, err)
		}
		if aside, _ := filepath.Glob(n.dir.join("raft.aside-*", "old")); (len(aside) == 1) != c.aside {
			t.Errorf("%s: set aside: %v", c.name, aside)
		}
		if left, _ := filepath.Glob(n.dir.join("raft.[se]*")); len(left) > 0 {
			t.Errorf("%s: left: %v", c.name, left)
		}
	}
}

func TestPlanReconstructionFrom(t *testing.T) {
	t.Parallel()
	found := map[string]survey{"1": {Name: "n1", Index: 9, Digest: "a"}, "2": {Name: "n2", Index: 5, Digest: "b"}, "3": {Name: "n3", Index: 9, Digest: "c"}}
	r, err := planReconstruction(found, "")
	if err != nil || r.From != "n1" || !r.Nodes[2].Conflict || r.Nodes[0].Conflict || r.Nodes[1].Conflict {
		t.Errorf("%+v, %v", r, err)
	}
	for _, name := range []string{"n2", "n3"} {
		if r, err := planReconstruction(found, name); err != nil || r.From != name || r.Digest != found[name[1:]].Digest {
			t.Errorf("from %s: %+v, %v", name, r, err)
		}
	}
	if _, err := planReconstruction(found, "n4"); err == nil || !strings.Contains(err.Error(), "no node n4 answers") {
		t.Errorf("from a stranger: %v", err)
	}
}
