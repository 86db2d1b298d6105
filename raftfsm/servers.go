package raftfsm

import (
	"time"

	"github.com/hashicorp/raft"
)

// Server is a raft server of the configuration, as this node sees it. Only a leader knows the health of others.
type Server struct {
	ID        string
	Voter     bool
	Leader    bool
	Healthy   bool          // answered this leader lately; true of a follower's view of itself and of its leader
	CaughtUp  bool          // its log ends where the leader's does, give or take caughtUpWithin
	Contact   time.Duration // since the request that it last answered was sent; 0 = never, or it is this node
	LastIndex uint64        // of its log; 0 = not known
}

// caughtUpWithin is how many entries a server may lack and still become a voter: those under way.
const caughtUpWithin = 128

// deadAfter is how long a voter may be silent before it counts as dead, in heartbeat timeouts: 2 s on a LAN. Twice
// the time that an election takes, so that nobody is replaced for a pause that raft itself gets over.
const deadAfter = 8

// Servers gives the raft configuration in the order in which servers came in. A node that is no raft server gives what
// the server that it follows told it.
func (n *Node) Servers() []Server {
	r, _ := n.roles.look()
	if !n.seated() || n.follow.unseated() {
		return n.toldServers(r.Leader)
	}
	last := n.raft.LastIndex()
	var list []Server
	for _, s := range n.configuration() {
		v := Server{ID: string(s.ID), Voter: s.Suffrage == raft.Voter, Leader: string(s.ID) == r.Leader}
		switch {
		case v.ID == n.cfg.ID:
			v.Healthy, v.CaughtUp, v.LastIndex = true, true, last
		case r.Leading:
			n.judge(&v, r.Term, last)
		default:
			v.Healthy = v.Leader
		}
		list = append(list, v)
	}
	return list
}

func (n *Node) toldServers(leader string) []Server {
	var list []Server
	for _, s := range n.follow.lastTold().Servers {
		list = append(list, Server{ID: s.ID, Voter: s.Voter, Leader: s.ID == leader, Healthy: s.ID == leader})
	}
	return list
}

// judge is a leader's view of another server. One that has not answered yet in this term, or since this process
// stood still, is given the time to, if it is a voter.
func (n *Node) judge(s *Server, term, last uint64) {
	silent := deadAfter * n.cfg.Timing.Heartbeat
	_, since := n.pulse.beat(term, time.Now())
	if s.Voter && time.Since(since) < silent {
		s.Healthy = true
	}
	c, ok := n.trans.contact(s.ID, term)
	if !ok {
		return
	}
	s.Contact, s.LastIndex = time.Since(c.sent), c.last
	s.Healthy = s.Healthy || s.Contact < silent
	s.CaughtUp = s.Contact < silent && c.last+caughtUpWithin >= last
}

func (n *Node) configuration() []raft.Server {
	return n.raft.GetConfiguration().Configuration().Servers // answered from a copy: no waiting, no error
}

// Stats is what status and metrics show of a raft server.
type Stats struct {
	Leader         string
	Leading        bool
	Voter          bool
	Term           uint64
	StateIndex     uint64 // of the last command in State
	LastIndex      uint64 // of the log
	CommitIndex    uint64
	Servers        []Server
	LeaderContact  time.Duration // since this follower heard the leader; 0 on the leader, -1 = never
	DiskStall      time.Duration // of the write under way
	LastWrite      time.Duration // how long the last write took
	DiskError      error         // of the last write that failed
	Eligible       bool
	ProposalsBegun int    // under way on this node as the leader
	Following      string // the server whose feed State comes from; "" on a raft server
	Followers      int    // that State of this server feeds
}

// Stats gives them.
func (n *Node) Stats() Stats {
	r, _ := n.roles.look()
	s := Stats{Leader: r.Leader, Leading: r.Leading, Term: r.Term, StateIndex: n.State().Index, Servers: n.Servers(),
		LastIndex: n.raft.LastIndex(), CommitIndex: n.raft.CommitIndex(), DiskStall: n.DiskStall(),
		Eligible: n.Eligible(), ProposalsBegun: n.calls.underWay(), Following: n.Following(), Followers: n.feeds.count()}
	s.LastWrite, s.DiskError = n.disk.lastWrite()
	for _, v := range s.Servers {
		s.Voter = s.Voter || v.ID == n.cfg.ID && v.Voter
	}
	if heard := n.raft.LastContact(); heard.IsZero() && !r.Leading {
		s.LeaderContact = -1
	} else if !r.Leading {
		s.LeaderContact = time.Since(heard)
	}
	return s
}
