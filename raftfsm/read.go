package raftfsm

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// leaderAnswer is what a reader learns from the leader.
type leaderAnswer struct {
	index uint64       // of the last command that the leader's State holds
	state *model.State // that State, when this node is the leader
}

// Read gives a State that holds everything that was answered, to anybody, before the call, and nothing that a later
// Read, on any node, lacks: a linearizable read. It costs a question to the leader and no log entry. Errors: ErrNoQuorum
// with the last reason when ctx ends.
func (n *Node) Read(ctx context.Context) (*model.State, error) {
	ctx, cancel := withDefaultDeadline(ctx)
	defer cancel()
	var read *model.State
	for {
		var a leaderAnswer
		err := n.retry(ctx, func(ctx context.Context, _ role) (err error) {
			a, err = n.readRounds.join(ctx, n.askLeader)
			return err
		})
		switch {
		case err != nil:
			return nil, fmt.Errorf("read: %w", err)
		case a.state != nil:
			return a.state, nil
		case read != nil && a.index >= read.Index:
			return read, nil
		case read != nil:
			continue
		}
		read, err = n.Wait(ctx, a.index)
		if err != nil || read.Index == a.index {
			return read, err
		}
		// This State is newer than the leader's was: an entry is committed before the leader has applied it, and a
		// follower may apply it first. Who reads next may be told the leader's older index, so the leader must get there
		// before this State is shown.
	}
}

// askLeader is one round of this node's readers.
func (n *Node) askLeader() (leaderAnswer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), tryTime)
	defer cancel()
	r, _ := n.roles.look()
	switch {
	case r.Leading:
		s, err := n.askRounds.join(ctx, n.provenState)
		return leaderAnswer{state: s}, err
	case r.Leader == "":
		return leaderAnswer{}, errNoLeader
	}
	var a leaderAnswer
	err := n.cut(ctx, r, func(ctx context.Context) (err error) {
		a.index, err = n.cfg.LeaderIndex(ctx, r.Leader)
		return err
	})
	if err != nil {
		n.follow.suspect()
		return a, fmt.Errorf("ask %s for the read index: %w", r.Leader, err)
	}
	return a, nil
}

// HandleReadIndex is the leader's side of Config.LeaderIndex: the index of the last command that its State holds,
// once it is sure to lead still. Errors: ErrNotLeader.
func (n *Node) HandleReadIndex(ctx context.Context) (uint64, error) {
	s, err := n.askRounds.join(ctx, n.provenState)
	if err != nil {
		return 0, err
	}
	return s.Index, nil
}

// proof remembers for which term, and after which pauses, a Barrier has shown that the leader's State holds what
// earlier leaders answered.
type proof struct {
	mu     sync.Mutex
	term   uint64
	pauses uint64
}

func (p *proof) holds(term, pauses uint64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.term == term && p.pauses == pauses
}

func (p *proof) set(term, pauses uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.term, p.pauses = term, pauses
}

// provenState is one round on the leader: its State, which no later leader's lacks anything of.
//
// raft's VerifyLeader alone is not enough in four cases, and then a Barrier is committed instead, which only a
// leader can: at the beginning of a term, when State may lack what an earlier leader answered; after a pause of the
// process, because VerifyLeader takes answers that were under way before it; and when fewer than a majority of the
// voters answered something sent within the lease, because VerifyLeader counts the answers of non-voters too; and while
// this leader hands over, or lately tried to: a voter then elects another at once, however lately it answered this one.
func (n *Node) provenState() (*model.State, error) {
	ctx, cancel := context.WithTimeout(context.Background(), tryTime)
	defer cancel()
	r, _ := n.roles.look()
	if !r.Leading || n.Err() != nil {
		return nil, &NotLeaderError{Leader: r.Leader}
	}
	pauses, _ := n.pulse.beat(r.Term, time.Now())
	proven := n.proof.holds(r.Term, pauses) && !n.handing.within(8*n.cfg.Timing.Election)
	if proven {
		done := n.trans.urgent()
		_, err := await(ctx, n, n.raft.VerifyLeader)
		done()
		if err != nil {
			return nil, fmt.Errorf("verify leadership: %w", err)
		}
		proven = n.heardMajority(r.Term, n.cfg.Timing.sure())
	}
	if !proven {
		if err := n.barrier(ctx, r.Term); err != nil {
			return nil, err
		}
	}
	return n.State(), nil
}

// Prove returns nil once an entry that this node, as the leader, appended after the call is committed and applied here: so
// that its State holds everything that was in the log when the call began. Calls within the window are proven by one entry.
// Errors: ErrNotLeader, or the context's.
func (n *Node) Prove(ctx context.Context, window time.Duration) error {
	_, err := n.proofs.join(ctx, func() (none struct{}, err error) {
		ctx, cancel := context.WithTimeout(context.Background(), window+tryTime)
		defer cancel()
		n.idle(ctx, nil, time.After(window))
		r, _ := n.roles.look()
		if !r.Leading {
			return none, &NotLeaderError{Leader: r.Leader}
		}
		return none, n.barrier(ctx, r.Term)
	})
	return err
}

// barrier commits an entry in the term, so that State holds everything that was committed before it.
func (n *Node) barrier(ctx context.Context, term uint64) error {
	pauses, _ := n.pulse.beat(term, time.Now())
	if _, err := await(ctx, n, func() raft.Future { return n.raft.Barrier(enqueueTime) }); err != nil {
		return fmt.Errorf("commit a barrier: %w", err)
	}
	r, _ := n.roles.look()
	if !r.Leading || r.Term != term {
		return &NotLeaderError{Leader: r.Leader}
	}
	n.proof.set(term, pauses)
	return nil
}

// heardMajority says that a majority of the voters, this server among them, answered this term's leader something
// that was sent within the time given.
func (n *Node) heardMajority(term uint64, within time.Duration) bool {
	voters, heard := 0, 0
	for _, s := range n.configuration() {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if c, ok := n.trans.contact(string(s.ID), term); ok && time.Since(c.sent) < within || string(s.ID) == n.cfg.ID {
			heard++
		}
	}
	return heard > voters/2
}
