package node

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

func TestPlanRecovery(t *testing.T) {
	t.Parallel()
	members := map[string]string{"1": "n1", "2": "n2", "3": "n3", "4": "n4", "5": "n5"}
	end := func(term, index uint64) raftfsm.LogEnd {
		return raftfsm.LogEnd{Epoch: 1, Term: term, Index: index, Voters: []string{"1", "2", "3", "4", "5"}, Whole: true}
	}
	n := func(name string, e raftfsm.LogEnd, known uint64) survey {
		return survey{Name: name, End: e, Epoch: 1, Index: known, Digest: "d" + name, Nodes: members}
	}
	gone := survey{Error: "timeout"}
	for _, c := range []struct {
		name  string
		found map[string]survey
		log   string // id of the node whose it is
		known string
		says  string // of the error
		lost  string
	}{
		{"the longer log", map[string]survey{"1": n("n1", end(3, 9), 9), "2": n("n2", end(3, 12), 9), "3": gone, "4": gone, "5": gone}, "2", "1", "", "n3 n4 n5"},
		{"the higher term", map[string]survey{"1": n("n1", end(4, 9), 8), "2": n("n2", end(3, 12), 9), "3": gone, "4": gone, "5": gone}, "1", "2", "", "n3 n4 n5"},
		{"a follower knows more", map[string]survey{"1": n("n1", end(4, 9), 8), "6": n("n6", raftfsm.LogEnd{}, 20)}, "1", "6", "", "n2 n3 n4 n5"},
		{"a voter that lost its log does not count", map[string]survey{"1": n("n1", end(4, 9), 8), "2": n("n2", end(4, 9), 8), "3": n("n3", raftfsm.LogEnd{}, 8)}, "1", "1", "", "n3 n4 n5"},
		{"a log of a former epoch does not count", map[string]survey{"1": n("n1", end(4, 9), 8), "2": n("n2", end(4, 9), 8), "3": n("n3", raftfsm.LogEnd{Term: 9, Index: 90}, 8)}, "1", "1", "", "n3 n4 n5"},
		{"nor does one that is being brought up to date again", map[string]survey{"1": n("n1", end(4, 9), 8), "2": n("n2", end(4, 9), 8), "3": n("n3", raftfsm.LogEnd{Epoch: 1, Term: 4, Index: 3}, 8)}, "1", "1", "", "n3 n4 n5"},
		{"a majority", map[string]survey{"1": n("n1", end(4, 9), 8), "2": n("n2", end(4, 9), 8), "3": n("n3", end(4, 7), 7)}, "", "", "3 of the 5 voters (n1, n2, n3) are there", ""},
		{"a leader", map[string]survey{"1": n("n1", end(4, 9), 8), "2": {Name: "n2", Leader: "3", End: end(4, 9)}}, "", "", "n2 has a leader, n3: nothing is lost", ""},
		{"this node was removed", map[string]survey{"1": n("n1", end(4, 9), 8), "2": {Error: "refused", refused: true}}, "", "", "n2 does not take this node for a member", ""},
		{"no log", map[string]survey{"1": n("n1", raftfsm.LogEnd{}, 8)}, "", "", "no node that answers has a raft log", ""},
	} {
		r, err := planRecovery(c.found)
		switch {
		case c.says != "":
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case r.log != c.log || r.known != c.known || strings.Join(r.Silent, " ") != c.lost:
			t.Errorf("%s: from the log of %s, %s knows most, silent %v", c.name, r.log, r.known, r.Silent)
		}
	}
}

func TestKnowsMore(t *testing.T) {
	t.Parallel()
	log := &model.State{Index: 10, Cluster: model.Cluster{Epoch: 2}}
	for _, c := range []struct {
		name    string
		epoch   uint64
		index   uint64
		through bool
		want    bool
	}{
		{"an entry that the log leads through", 2, 8, true, false},
		{"another State there: the log went another way", 2, 8, false, true},
		{"an entry beyond the log", 2, 11, false, true},
		{"a former epoch", 1, 99, false, false},
		{"a later epoch", 3, 1, true, true},
	} {
		r := recovery{known: "1", most: survey{Epoch: c.epoch, Index: c.index}}
		if got := r.knowsMore(log, c.through); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	if (&recovery{}).knowsMore(log, false) {
		t.Error("nobody knows anything, and that is more")
	}
}

// TestNewAuthority: the cluster goes on from the State of a node that cannot open the CA's key. It makes a new CA; the others,
// who know it by its key, get certificates from that, and a machine can be admitted.
func TestNewAuthority(t *testing.T) {
	t.Parallel()
	first := startNode(t, "n1", nil)
	second := startNode(t, "n2", first)
	await(t, 60*time.Second, func() string {
		if s, err := second.readJournal(); err != nil || !s.Nodes.Has(second.id.ID) {
			return fmt.Sprintf("no journal with n2: %v", err)
		}
		return ""
	})
	old := first.trust.get().CA
	first.stop()
	second.stop()
	s, err := second.readJournal()
	if err != nil {
		t.Fatal(err)
	}
	s.Cluster.Sealed = map[string][]byte{}
	again, err := first.inNewEpoch(s, 7)
	if err := errors.Join(err, os.RemoveAll(first.dir.raft()), os.RemoveAll(second.dir.raft())); err != nil {
		t.Fatal(err)
	}
	if err := raftfsm.Seed(first.dir.raft(), first.id.ID, again); err != nil {
		t.Fatal(err)
	}
	restart := func(n *testNode) *testNode {
		cfg := n.cfg
		cfg.Bootstrap, cfg.Join, cfg.Token, cfg.Bind = false, nil, "", n.mesh.Addr()
		return runNode(t, cfg)
	}
	first, second = restart(first), restart(second)
	for _, n := range []*testNode{first, second} {
		await(t, 60*time.Second, func() string {
			if f := n.trust.get(); bytes.Equal(f.CA, old) || !bytes.Equal(f.CA, n.fsm.State().Cluster.CA) {
				return n.cfg.Name + " has the old CA"
			}
			if err := n.trust.heldBy(n.id); err != nil {
				return err.Error()
			}
			return ""
		})
	}
	startNode(t, "n3", second)
	if epoch := first.fsm.State().Cluster.Epoch; epoch <= 7 {
		t.Errorf("the cluster is of epoch %d, and somebody had met 7", epoch)
	}
	if former := first.trust.get().FormerCAs; len(former) != 1 {
		t.Errorf("former CAs: %v", former)
	}
}

func TestLeaderBySurveys(t *testing.T) {
	t.Parallel()
	log := raftfsm.LogEnd{Epoch: 1, Term: 1, Index: 9}
	names := map[string]string{"1": "n1", "2": "n2", "3": "n3"}
	for _, c := range []struct {
		name  string
		found map[string]survey
		who   string
	}{
		{"itself", map[string]survey{"1": {Name: "n1", Leader: "1", End: log, Nodes: names}}, "n1"},
		{"a server's leader that does not answer", map[string]survey{"1": {Name: "n1", Leader: "3", End: log, Nodes: names}, "3": {Error: "timeout"}}, "n3"},
		{"whom a follower followed once", map[string]survey{"1": {Name: "n1", Leader: "3", Nodes: names}, "3": {Error: "timeout"}}, ""},
		{"whom a follower follows", map[string]survey{"1": {Name: "n1", Leader: "3", Nodes: names}, "3": {Name: "n3", Leader: "3", End: log}}, "n3"},
		{"one whose disk hangs", map[string]survey{"1": {Name: "n1", Leader: "1", End: log, Stuck: true}}, ""},
		{"by the word of another, one whose disk hangs", map[string]survey{"1": {Name: "n1", Leader: "1", End: log, Stuck: true}, "2": {Name: "n2", Leader: "1", End: log}}, ""},
		{"nobody", map[string]survey{"1": {Name: "n1", End: log}}, ""},
	} {
		if _, who := leader(c.found); who != c.who {
			t.Errorf("%s: %q", c.name, who)
		}
	}
}
