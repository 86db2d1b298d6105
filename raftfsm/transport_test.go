package raftfsm

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

func held(t *transport, id raft.ServerID, term uint64) time.Duration {
	start := time.Now()
	t.hold(id, term)
	return time.Since(start)
}

func TestHeartbeatsAreHeldBackWhileThereAreAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const pace = 75 * time.Millisecond
		tr := &transport{pace: pace, hurry: make(chan struct{}), done: make(chan struct{}), peers: map[raft.ServerID]contact{}}
		answer := func() { tr.note("b", contact{term: 3, sent: time.Now()}) }
		if d := held(tr, "b", 3); d != 0 {
			t.Errorf("nothing was heard from the server, and its heartbeat waits %v", d)
		}
		answer()
		if d := held(tr, "b", 4); d != 0 {
			t.Errorf("nothing was heard in this term, and the heartbeat waits %v", d)
		}
		time.Sleep(30 * time.Millisecond)
		if d := held(tr, "b", 3); d != pace-30*time.Millisecond {
			t.Errorf("due after %v", d)
		}
		answer()
		go func() { time.Sleep(50 * time.Millisecond); answer() }()
		if d := held(tr, "b", 3); d != pace+50*time.Millisecond {
			t.Errorf("an answer while it waited: due after %v", d)
		}
		answering := time.NewTicker(10 * time.Millisecond)
		stop := make(chan struct{})
		go func() {
			for {
				select {
				case <-answering.C:
					answer()
				case <-stop:
					return
				}
			}
		}()
		answer()
		if d := held(tr, "b", 3); d < 2*pace || d > 4*pace {
			t.Errorf("with an answer every 10 ms it was held for %v", d)
		}
		answer()
		go func() { time.Sleep(20 * time.Millisecond); tr.urgent() }()
		if d := held(tr, "b", 3); d != 20*time.Millisecond {
			t.Errorf("somebody waits for the answer, and it was held for %v", d)
		}
		if d := held(tr, "b", 3); d != 0 {
			t.Errorf("somebody still waits for an answer, and it was held for %v", d)
		}
		close(stop)
	})
}

func TestWhatAHeartbeatIs(t *testing.T) {
	t.Parallel()
	for name, req := range map[string]raft.AppendEntriesRequest{
		"entries": {Entries: []*raft.Log{{}}}, "previous entry": {PrevLogEntry: 1}, "previous term": {PrevLogTerm: 1}, "commit index": {LeaderCommitIndex: 1},
	} {
		if isHeartbeat(&req) {
			t.Errorf("a request with %s is not a heartbeat", name)
		}
	}
	if !isHeartbeat(&raft.AppendEntriesRequest{Term: 3, RPCHeader: raft.RPCHeader{Addr: []byte("a")}}) {
		t.Error("a heartbeat is none")
	}
}
