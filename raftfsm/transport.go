package raftfsm

import (
	"errors"
	"io"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

var (
	errSilent     = errors.New("this server leaves leading to others: its disk is stalled, or its raft is wedged")
	errIneligible = errors.New("this server may not lead")
	errGivenUp    = errors.New("nothing more is sent to the server")
	errNoAnswer   = errors.New("no answer from the server that was to take leadership")
)

// transport is raft's network transport with six additions.
//
// It notes which server answered this leader, when, and how far its log goes: raft knows, but does not tell.
// It falls silent while the disk is stalled, so that others elect a leader that can write.
// It gives no votes while the server does not know what it has acknowledged: see memory.
// It asks for no votes, and takes no leadership, while the server is ineligible (sick disk, or an entry that it
// cannot decode); the server goes on storing the log and voting for others.
// It holds a heartbeat back until one is due: raft sends one every 25 to 50 ms beside the requests for entries every 50
// to 100 ms, which say the same, and each wakes two idle processes.
// It holds requests for entries back from a server that does not answer until it answers a heartbeat: raft doubles its
// pause with every such request that failed, up to 10 s, and keeps to it when the server is back.
type transport struct {
	*raft.NetworkTransport
	pace     time.Duration // longest silence towards a server that answers
	handover time.Duration // longest wait for a server that is asked to take leadership
	silent   func() bool
	eligible func() bool
	memory   *memory
	rpcs     chan raft.RPC
	done     chan struct{} // closed by Close
	once     sync.Once

	mu      sync.Mutex // guards what follows
	peers   map[raft.ServerID]contact
	lost    map[raft.ServerID]contact // requests for entries that failed last: term and sent; none after an answer
	back    chan struct{}             // closed when one of lost answers
	pursued func(id raft.ServerID, term uint64) bool
	waiting int           // how many need heartbeats at once
	hurry   chan struct{} // closed when somebody begins to
}

// contact is the last answer of a server to this one as a leader.
type contact struct {
	term uint64
	sent time.Time // when the request that it answered was sent: the answer speaks for no later moment
	last uint64    // index of its last log entry, committed or not
	took time.Duration
	slow time.Time // when an answer took long last
}

// slowFor is how long a server counts as slow after an answer that took long.
const slowFor = 2 * time.Second

// newTransport makes it. Requests are not pipelined (MaxRPCsInFlight 1): raft's pipeline can lock up for good when a
// follower refuses an entry, while heartbeats go on, so that nobody notices (hashicorp/raft issue 612). It costs
// nothing that could be measured beside the disk: what waits goes into the next request, up to 64 entries.
func newTransport(s raft.StreamLayer, timing Timing, log hclog.Logger, silent, eligible func() bool, memory *memory) *transport {
	inner := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: s, MaxPool: 3, MaxRPCsInFlight: 1, Timeout: timing.RPC, Logger: log, MsgpackUseNewTimeFormat: true})
	t := &transport{NetworkTransport: inner, pace: timing.Heartbeat * 3 / 10, handover: timing.Election, silent: silent, eligible: eligible, memory: memory,
		rpcs: make(chan raft.RPC), done: make(chan struct{}), hurry: make(chan struct{}), back: make(chan struct{}),
		peers: map[raft.ServerID]contact{}, lost: map[raft.ServerID]contact{}}
	go t.receive()
	return t
}

// receive passes requests on to raft, except that an ineligible server takes no leadership, and one that has lost its log
// gives no votes.
func (t *transport) receive() {
	in := t.NetworkTransport.Consumer()
	for {
		select {
		case <-t.done:
			return
		case rpc := <-in:
			if t.refuses(rpc) {
				continue
			}
			select {
			case t.rpcs <- rpc:
			case <-t.done:
				return
			}
		}
	}
}

// refuses answers a request in raft's stead, if it must.
func (t *transport) refuses(rpc raft.RPC) bool {
	switch c := rpc.Command.(type) {
	case *raft.TimeoutNowRequest:
		if !t.eligible() || !t.memory.isWhole() {
			rpc.Respond(&raft.TimeoutNowResponse{}, errIneligible)
			return true
		}
	case *raft.RequestVoteRequest:
		if !t.memory.isWhole() {
			rpc.Respond(&raft.RequestVoteResponse{}, errForgotten)
			return true
		}
	case *raft.RequestPreVoteRequest:
		if !t.memory.isWhole() {
			rpc.Respond(&raft.RequestPreVoteResponse{}, errForgotten)
			return true
		}
	case *raft.AppendEntriesRequest:
		t.memory.hear(c.Term)
	case *raft.InstallSnapshotRequest:
		t.memory.hear(c.Term)
	}
	return false
}

// Consumer gives the requests of other servers.
func (t *transport) Consumer() <-chan raft.RPC { return t.rpcs }

// Close ends the transport; connections are closed by their streams.
func (t *transport) Close() error {
	t.once.Do(func() { close(t.done) })
	return t.NetworkTransport.Close()
}

// AppendEntries sends entries or a heartbeat.
func (t *transport) AppendEntries(id raft.ServerID, addr raft.ServerAddress, req *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if t.silent() {
		return errSilent
	}
	heartbeat := isHeartbeat(req)
	if heartbeat {
		t.hold(id, req.Term)
	} else if !t.regain(id, req.Term) {
		return errGivenUp
	}
	sent := time.Now()
	err := t.NetworkTransport.AppendEntries(id, addr, req, resp)
	switch {
	case err == nil && resp.Term == req.Term:
		t.note(id, contact{term: req.Term, sent: sent, last: resp.LastLog, took: time.Since(sent)})
	case err != nil && !heartbeat:
		t.lose(id, contact{term: req.Term, sent: time.Now()})
	}
	return err
}

// InstallSnapshot sends a checkpoint.
func (t *transport) InstallSnapshot(id raft.ServerID, addr raft.ServerAddress, req *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	if !t.regain(id, req.Term) {
		return errGivenUp
	}
	err := t.NetworkTransport.InstallSnapshot(id, addr, req, resp, data)
	if err != nil {
		t.lose(id, contact{term: req.Term, sent: time.Now()})
	}
	return err
}

// pursue says how the transport learns whether this server still leads in a term and has to do with another server.
// Before it is called nothing is held back.
func (t *transport) pursue(pursued func(id raft.ServerID, term uint64) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pursued = pursued
}

// regainLook is how often who waits for a server looks whether it still has to.
const regainLook = 100 * time.Millisecond

// regain waits until a server of which a request failed has answered something that was sent later. It returns false when
// nothing more is to be sent in the term.
func (t *transport) regain(id raft.ServerID, term uint64) bool {
	for {
		t.mu.Lock()
		l, lost := t.lost[id]
		back, pursued := t.back, t.pursued
		t.mu.Unlock()
		if !lost || l.term != term || pursued == nil {
			return true
		}
		if !pursued(id, term) {
			return false
		}
		look := time.NewTimer(regainLook)
		select {
		case <-back:
		case <-look.C:
		case <-t.done:
			look.Stop()
			return false
		}
		look.Stop()
	}
}

func (t *transport) lose(id raft.ServerID, c contact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lost[id] = c
}

// isHeartbeat says whether a request carries nothing and asks nothing about the log.
func isHeartbeat(req *raft.AppendEntriesRequest) bool {
	return len(req.Entries) == 0 && req.PrevLogEntry == 0 && req.PrevLogTerm == 0 && req.LeaderCommitIndex == 0
}

// hold waits until a heartbeat to the server is due: it has answered nothing that was sent within the pace, or somebody
// waits for an answer, or one was slow lately, as on a loaded machine, where a lease has no time to give away. It gives
// up after a few paces, because raft looks between heartbeats whether it still leads.
func (t *transport) hold(id raft.ServerID, term uint64) {
	for range 4 {
		wait, hurry := t.untilDue(id, term)
		if wait <= 0 {
			return
		}
		due := time.NewTimer(wait)
		select {
		case <-due.C:
		case <-hurry:
		case <-t.done:
		}
		due.Stop()
	}
}

func (t *transport) untilDue(id raft.ServerID, term uint64) (time.Duration, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.peers[id]
	if t.waiting > 0 || c.term != term || time.Since(c.slow) < slowFor {
		return 0, nil
	}
	return t.pace - time.Since(c.sent), t.hurry
}

// urgent sends heartbeats without delay until done is called.
func (t *transport) urgent() (done func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiting++
	close(t.hurry)
	t.hurry = make(chan struct{})
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		t.waiting--
	}
}

func (t *transport) note(id raft.ServerID, c contact) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l, lost := t.lost[id]; lost && l.sent.Before(c.sent) {
		delete(t.lost, id)
		close(t.back)
		t.back = make(chan struct{})
	}
	have := t.peers[id]
	if c.slow = have.slow; c.took > t.pace/8 {
		c.slow = time.Now()
	}
	if have.term < c.term || have.term == c.term && have.sent.Before(c.sent) {
		t.peers[id] = c
	}
}

// contact gives the last answer of a server in a term.
func (t *transport) contact(id string, term uint64) (contact, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, ok := t.peers[raft.ServerID(id)]
	return c, ok && c.term == term
}

// RequestVote asks for a vote.
func (t *transport) RequestVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	if !t.eligible() || !t.memory.isWhole() {
		return errIneligible
	}
	return t.NetworkTransport.RequestVote(id, addr, req, resp)
}

// RequestPreVote asks whether a vote would be given.
func (t *transport) RequestPreVote(id raft.ServerID, addr raft.ServerAddress, req *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	if !t.eligible() || !t.memory.isWhole() {
		return errIneligible
	}
	return t.NetworkTransport.RequestPreVote(id, addr, req, resp)
}

// TimeoutNow asks a server to take leadership. raft takes no entries until it has an answer, so the wait is short.
func (t *transport) TimeoutNow(id raft.ServerID, addr raft.ServerAddress, req *raft.TimeoutNowRequest, _ *raft.TimeoutNowResponse) error {
	done := make(chan error, 1)
	go func() { done <- t.NetworkTransport.TimeoutNow(id, addr, req, &raft.TimeoutNowResponse{}) }()
	select {
	case err := <-done:
		return err
	case <-time.After(t.handover):
		return errNoAnswer
	}
}
