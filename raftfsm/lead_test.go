package raftfsm

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

// reign is one run of a Lead function.
type reign struct {
	id   string
	term uint64
	ctx  context.Context
}

// leadAll runs Lead on a node; each reign is told, and lasts until its context ends and release is closed.
func leadAll(c *cluster, m *member, reigns chan reign, release chan struct{}, running *atomic.Int32) (done chan struct{}) {
	done = make(chan struct{})
	n := m.Node
	go func() {
		defer close(done)
		n.Lead(c.ctx, func(ctx context.Context, term uint64) {
			if running.Add(1) > 1 {
				c.t.Errorf("%s: two reigns at once", m.id)
			}
			defer running.Add(-1)
			reigns <- reign{m.id, term, ctx}
			<-ctx.Done()
			<-release
		})
	}()
	return done
}

func TestLead(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	reigns := make(chan reign, 100)
	release := make(chan struct{})
	var dones []chan struct{}
	for _, m := range c.live() {
		dones = append(dones, leadAll(c, m, reigns, release, new(atomic.Int32)))
	}
	first := <-reigns
	if l := c.leader(); first.id != l.id || first.ctx.Err() != nil {
		t.Fatalf("%s reigns, %s leads", first.id, l.id)
	}
	if _, err := c.nodes[first.id].ProposeLocal(first.ctx, set("k", "1")); err != nil {
		t.Errorf("ProposeLocal while leading: %v", err)
	}
	c.isolate(first.id)
	<-first.ctx.Done()
	if cause := context.Cause(first.ctx); !errors.Is(cause, ErrNotLeader) {
		t.Errorf("cause %v", cause)
	}
	second := <-reigns
	if second.id == first.id || second.term <= first.term {
		t.Errorf("%v after %v", second, first)
	}
	c.rejoin(first.id)

	// Back to the first node, whose first reign has not returned yet: its Lead must wait for it.
	c.await("the first node leads again", func() string {
		l := c.leader()
		if l.id == first.id {
			return ""
		}
		for _, s := range l.Servers() {
			if s.ID == first.id && s.Healthy && s.CaughtUp {
				if err := l.transferTo(c.ctx, first.id); err != nil {
					return err.Error()
				}
			}
		}
		return l.id + " leads"
	})
	if _, err := c.nodes[first.id].ProposeLocal(first.ctx, set("k", "late")); err == nil {
		t.Error("a reign that is over still proposes")
	}
	close(release)
	for r := range reigns {
		if r.id == first.id && r.term > second.term {
			break
		}
	}
	for _, m := range c.live() {
		c.close(m.id)
	}
	for _, d := range dones {
		<-d // Lead ends with its node
	}
}

// TestLeadSeesWhatWasAnswered: at the beginning of a reign State holds what earlier leaders answered.
func TestLeadSeesWhatWasAnswered(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	type seen struct {
		id    string
		term  uint64
		value string
	}
	seens := make(chan seen, 100)
	lead := func(id string, n *Node) {
		n.Lead(c.ctx, func(ctx context.Context, term uint64) {
			seens <- seen{id, term, value(n.State(), "k")}
			<-ctx.Done()
		})
	}
	for _, m := range c.live() {
		go lead(m.id, m.Node)
	}
	for _, want := range []string{"1", "2", "3"} {
		l := c.leader()
		c.propose(l, set("k", want))
		c.crash(l.id)
		next := c.leader()
		for s := range seens {
			if s.id != next.id || s.term != next.Stats().Term {
				continue // an earlier reign
			}
			if s.value != want {
				t.Fatalf("%s began to lead with %q, want %q", s.id, s.value, want)
			}
			break
		}
		m := c.start(l.id)
		go lead(m.id, m.Node)
		c.same()
	}
}

// TestLeadAgain: a function that returns early is run again.
func TestLeadAgain(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	runs := make(chan uint64)
	done := make(chan struct{})
	n := c.any().Node
	go func() {
		defer close(done)
		n.Lead(ctx, func(_ context.Context, term uint64) { runs <- term })
	}()
	if a, b := <-runs, <-runs; a != b {
		t.Errorf("terms %d and %d", a, b)
	}
	cancel()
	<-done
}

func TestGrowthAndReplacement(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	c.start("n4")
	c.admit("n4")
	c.await("a standby", func() string {
		if n := len(c.leader().Servers()); n != 4 {
			return "servers are missing"
		}
		return ""
	})
	c.awaitVoters(3)
	c.start("n5")
	c.admit("n5")
	c.awaitVoters(5)

	// Two followers die: three of five remain, and shrink to three.
	rest := c.others(c.leader())
	c.crash(rest[0].id)
	c.crash(rest[1].id)
	c.awaitVoters(3)
	// One more may die.
	c.crash(c.leader().id)
	c.propose(c.any(), set("k", "three of five are gone"))
	for i := 1; i <= 5; i++ {
		if c.nodes[nodeID(i)].Node == nil {
			c.start(nodeID(i))
		}
	}
	c.awaitVoters(5)
	c.same()
}

func TestRemovalShrinks(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	gone := c.leader()
	c.propose(gone, model.RemoveNode{ID: gone.id})
	rest := c.others(gone)
	c.await("two servers, one voter, and the removed node is none of them", func() string {
		servers := c.leader(rest...).Servers()
		voters := 0
		for _, s := range servers {
			if s.ID == gone.id {
				return "it is still a server"
			}
			if s.Voter {
				voters++
			}
		}
		if len(servers) != 2 || voters != 1 {
			return "not yet"
		}
		return ""
	})
	c.propose(rest[0], set("k", "1"))
	c.propose(rest[1], set("k", "2"))
	c.kill(gone.id)
	c.same()
}
