package raftfsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// reenter has every node that was overtaken begin anew, as agents do.
func (c *cluster) reenter() {
	c.t.Helper()
	for _, m := range c.live() {
		if !isClosed(m.Overtaken()) {
			continue
		}
		_, seen := m.Epochs()
		c.kill(m.id)
		for _, err := range []error{os.Rename(m.dir, fmt.Sprintf("%s.aside-%d", m.dir, seen)), SeedEmpty(m.dir, seen)} {
			if err != nil {
				c.t.Fatal(err)
			}
		}
		c.start(m.id)
	}
}

// TestMajorityIsLost: three of five voters are gone, and one of the rest goes on alone with what its log leads to. Then the
// three come back, a majority by their own logs: they are no cluster beside the new one, but enter it.
func TestMajorityIsLost(t *testing.T) {
	t.Parallel()
	c := grown(t, 5, nil)
	for _, key := range []string{"a", "b", "c"} {
		c.propose(c.any(), set(key, "1"))
	}
	c.same()
	lost := c.awaitVoters(5)[:3]
	for _, id := range lost {
		c.kill(id)
	}
	left := c.live()
	var s *model.State
	c.await("a log at rest", func() string {
		tail, err := left[0].Tail(0)
		if s = tail.End; err != nil {
			return err.Error()
		}
		return ""
	})
	if value(s, "c") != "1" {
		t.Fatalf("the log leads to c=%q", value(s, "c"))
	}
	if end := left[0].LogEnd(); len(end.Voters) != 5 || end.Index < s.Index || end.Epoch != 1 || end.Reaches(left[1].LogEnd()) && left[1].LogEnd().Reaches(end) {
		t.Errorf("the log ends at %+v, the other at %+v", end, left[1].LogEnd())
	}
	again := *s
	again.Cluster.Epoch, again.Index = 7, s.Index+1000
	c.kill(left[0].id)
	for _, err := range []error{os.Rename(left[0].dir, left[0].dir+".aside"), Seed(left[0].dir, left[0].id, &again)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.start(left[0].id)
	c.await("both left in the new cluster", func() string {
		c.reenter()
		return states(c, 7)
	})
	c.propose(left[1], set("d", "2"))
	for _, id := range lost {
		c.start(id)
	}
	c.await("all in the new cluster", func() string {
		c.reenter()
		return states(c, 7)
	})
	c.awaitVoters(5)
	c.propose(c.nodes[lost[0]], set("e", "3"))
	for id, m := range c.nodes {
		now, err := m.Read(c.ctx)
		if err != nil || value(now, "a") != "1" || value(now, "d") != "2" || value(now, "e") != "3" {
			t.Errorf("%s: a=%q d=%q e=%q, %v", id, value(now, "a"), value(now, "d"), value(now, "e"), err)
		}
	}
	c.same()
}

func states(c *cluster, epoch uint64) string {
	for _, m := range c.live() {
		if s := m.State(); s.Cluster.Epoch != epoch {
			own, seen := m.Epochs()
			return fmt.Sprintf("State of %s is of epoch %d, its raft of %d, and it has seen %d", m.id, s.Cluster.Epoch, own, seen)
		}
	}
	return ""
}

// TestTail: what a leader has written and nobody has acknowledged may have been committed for all that a survivor knows.
func TestTail(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	c.propose(c.any(), set("a", "1"))
	c.same()
	leader := c.leader()
	known := leader.State()
	c.isolate(leader.id)
	ctx, cancel := context.WithCancel(c.ctx)
	done := make(chan struct{})
	go func() { defer close(done); _, _ = leader.Propose(ctx, set("a", "2")) }()
	var end *model.State
	c.await("an entry beyond what is committed", func() (complaint string) {
		tail, err := leader.Tail(0)
		if end = tail.End; err != nil || value(end, "a") != "2" {
			return fmt.Sprintf("%v, %v", tail, err)
		}
		return ""
	})
	cancel()
	<-done
	if value(leader.State(), "a") != "1" {
		t.Errorf("it was committed")
	}
	for _, at := range []uint64{known.Index, end.Index, end.Index + 1} {
		tail, err := leader.Tail(at)
		if err != nil || tail.Committed != known.Index || (tail.At != nil) != (at == end.Index) || tail.At != nil && Digest(tail.At) != Digest(end) {
			t.Errorf("at %d of %d to %d: %v, %v", at, known.Index, end.Index, tail.At, err)
		}
	}
	c.rejoin(leader.id)
}

func TestLogEndReaches(t *testing.T) {
	t.Parallel()
	ends := []LogEnd{{}, {Epoch: 1, Term: 2, Index: 9}, {Epoch: 1, Term: 3, Index: 4}, {Epoch: 1, Term: 3, Index: 5}, {Epoch: 2, Term: 1, Index: 1}}
	for i, a := range ends {
		for j, b := range ends {
			if a.Reaches(b) != (i > j) {
				t.Errorf("%+v reaches beyond %+v: %v", a, b, a.Reaches(b))
			}
		}
	}
}

func newTestEpoch(own uint64) *epoch {
	e := &epoch{higher: make(chan struct{}), store: func(uint64) error { return nil }}
	e.own.Store(own)
	return e
}

func TestEpochsMeet(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		own, other uint64
		fits       bool
		after      uint64
		overtaken  bool
	}{
		{1, 1, true, 1, false},
		{0, 3, true, 3, false}, // an empty one is whoever's comes first
		{1, 2, false, 1, true},
		{2, 1, false, 2, false},
		{2, 0, false, 2, false},
		{0, 0, true, 0, false},
	} {
		own, other := newTestEpoch(c.own), newTestEpoch(c.other)
		err := own.readHello(bytes.NewReader(other.hello()))
		if (err == nil) != c.fits || own.own.Load() != c.after || isClosed(own.higher) != c.overtaken {
			t.Errorf("%+v: %v, epoch %d, overtaken %v", c, err, own.own.Load(), isClosed(own.higher))
		}
		mismatch := (*EpochError)(nil)
		if !c.fits && !errors.As(err, &mismatch) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	failing := newTestEpoch(0)
	failing.store = func(uint64) error { return io.ErrShortWrite }
	if err := failing.meet(1); err == nil || failing.own.Load() != 0 {
		t.Errorf("an epoch that is not stored: %v, %d", err, failing.own.Load())
	}
	if err := newTestEpoch(1).readHello(strings.NewReader("\x00what a raft server without epochs says")); err == nil || !strings.Contains(err.Error(), "older version") {
		t.Errorf("without a hello: %v", err)
	}
}

func FuzzEpochHello(f *testing.F) {
	f.Add(newTestEpoch(3).hello())
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		e := newTestEpoch(3)
		if err := e.readHello(bytes.NewReader(b)); err == nil && !bytes.HasPrefix(b, e.hello()) {
			t.Errorf("%x was taken", b)
		}
		if e.own.Load() != 3 {
			t.Errorf("%x changed the epoch", b)
		}
	})
}

// TestOldDirectories: one from before there were epochs has entries and none.
func TestOldDirectories(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	c.propose(c.any(), set("a", "1"))
	m := c.any()
	c.kill(m.id)
	bolt, err := openLog(m.dir + "/" + logFile)
	if err == nil {
		err = errors.Join(bolt.SetUint64(epochKey, 0), bolt.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	c.start(m.id)
	if own, _ := c.any().Epochs(); own != 1 {
		t.Errorf("its epoch is %d", own)
	}
	c.propose(c.any(), set("a", "2"))
}

// TestEmptyOvertakesNobody: a server that was to enter a new epoch, and has nothing of it yet, does not make others give up
// what they have, for that may be all that is left.
func TestEmptyOvertakesNobody(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	c.propose(c.any(), set("a", "1"))
	c.same()
	m := c.others(c.leader())[0]
	c.kill(m.id)
	for _, err := range []error{os.Rename(m.dir, m.dir+".aside"), SeedEmpty(m.dir, 9)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.start(m.id)
	for i := range 20 { // meanwhile the leader dials it, and it the others
		c.propose(c.leader(c.others(m)...), set("a", fmt.Sprint(i)))
	}
	for _, other := range c.others(m) {
		if isClosed(other.Overtaken()) {
			t.Errorf("%s was overtaken by nothing", other.id)
		}
	}
	if own, _ := m.Epochs(); own != 9 || m.raft.LastIndex() != 0 {
		t.Errorf("its directory is of epoch %d and has %d entries", own, m.raft.LastIndex())
	}
}

// TestLostLogDoesNotVote: two of three have an entry; one of these is away and the other loses its directory. That one must
// not help the third, which lacks the entry, to lead.
func TestLostLogDoesNotVote(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	c.propose(c.any(), set("a", "1"))
	c.same()
	keeps := c.leader()
	loses, lags := c.others(keeps)[0], c.others(keeps)[1]
	c.kill(lags.id)
	c.propose(keeps, set("a", "2"))
	c.await("it on two disks", func() string {
		if got := value(loses.State(), "a"); got != "2" {
			return "a=" + got
		}
		return ""
	})
	c.kill(keeps.id)
	c.kill(loses.id)
	if err := os.RemoveAll(loses.dir); err != nil {
		t.Fatal(err)
	}
	c.start(loses.id)
	c.start(lags.id)
	c.await("votes that are refused", func() string {
		asked := lags.raft.Stats()["state"] == "Candidate"
		switch {
		case lags.IsLeader():
			t.Fatal("a server without the entry leads")
		case !asked:
			return "it has not asked"
		}
		return ""
	})
	for end := time.Now().Add(4 * lags.cfg.Timing.Election); time.Now().Before(end); time.Sleep(5 * time.Millisecond) { // nothing is to happen
		if lags.IsLeader() {
			t.Fatal("a server without the entry leads")
		}
	}
	if loses.LogEnd().Whole {
		t.Error("it counts as one that has its log")
	}
	c.start(keeps.id)
	c.propose(c.nodes[loses.id], set("b", "1"))
	c.same()
	if got := value(c.any().State(), "a"); got != "2" {
		t.Errorf("a=%q", got)
	}
	c.await("its vote again", func() string {
		if !loses.LogEnd().Whole {
			return "it gives none"
		}
		return ""
	})
	c.kill(keeps.id)
	c.propose(c.nodes[lags.id], set("b", "2"))
	c.close(loses.id)
	c.start(loses.id)
	if !c.nodes[loses.id].LogEnd().Whole {
		t.Error("after a restart it has forgotten that it knows all")
	}
}
