package raftfsm

import (
	"sync"

	"github.com/hashicorp/raft"
)

// role is what this server knows of leadership at one moment.
type role struct {
	Leader  string // node id; "" = none known
	Leading bool
	Term    uint64 // a server leads at most once in a term, so (Leading, Term) names one leadership
}

// roles follows raft's role. Raft wakes it; it looks at the whole again, so that a lost wake costs nothing.
type roles struct {
	id   string
	raft *raft.Raft
	wake chan struct{}
	obs  *raft.Observer

	mu      sync.Mutex
	heard   string // the leader by the feed that this node follows; "" = none, or it follows none
	now     role
	changed chan struct{} // closed when now changes
}

func newRoles(id string, r *raft.Raft) *roles {
	rs := &roles{id: id, raft: r, wake: make(chan struct{}, 1), changed: make(chan struct{})}
	rs.obs = raft.NewObserver(nil, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.RaftState, raft.LeaderObservation:
			select {
			case rs.wake <- struct{}{}:
			default:
			}
		}
		return false
	})
	r.RegisterObserver(rs.obs)
	rs.look()
	return rs
}

func (rs *roles) run(stop <-chan struct{}) {
	defer rs.raft.DeregisterObserver(rs.obs)
	for {
		select {
		case <-rs.wake:
			rs.look()
		case <-stop:
			return
		}
	}
}

// look asks raft. State and term are not read at once; a term that stayed the same around the state belongs to it.
func (rs *roles) look() (role, <-chan struct{}) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for {
		term := rs.raft.CurrentTerm()
		leading := rs.raft.State() == raft.Leader
		_, leader := rs.raft.LeaderWithID()
		if rs.raft.CurrentTerm() != term {
			continue
		}
		r := role{Leader: string(leader), Leading: leading, Term: term}
		switch {
		case leading:
			r.Leader = rs.id
		case r.Leader == rs.id:
			r.Leader = "" // between two of raft's writes
		case r.Leader == "":
			r.Leader = rs.heard
		}
		if r != rs.now {
			rs.now = r
			close(rs.changed)
			rs.changed = make(chan struct{})
		}
		return r, rs.changed
	}
}

// hear notes who leads by the word of another, for a node that raft tells nothing.
func (rs *roles) hear(leader string) {
	rs.mu.Lock()
	same := rs.heard == leader
	rs.heard = leader
	rs.mu.Unlock()
	if !same {
		rs.look()
	}
}

// Leader is the node id of the leader that this node knows of, "" when it knows none.
func (n *Node) Leader() string {
	r, _ := n.roles.look()
	return r.Leader
}

// IsLeader says whether this node leads, as far as it knows.
func (n *Node) IsLeader() bool { return n.raft.State() == raft.Leader }
