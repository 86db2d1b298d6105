package raftfsm

import (
	"sync/atomic"
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

// What failed is tried again when the server answers a heartbeat, neither before nor long after.
func TestEntriesWaitForAServerThatDoesNotAnswer(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tr := &transport{done: make(chan struct{}), back: make(chan struct{}), peers: map[raft.ServerID]contact{}, lost: map[raft.ServerID]contact{}}
		var ended atomic.Bool
		tr.pursue(func(id raft.ServerID, term uint64) bool { return !ended.Load() && id == "b" && term == 3 })
		regained := func(term uint64) (time.Duration, bool) {
			start := time.Now()
			ok := tr.regain("b", term)
			return time.Since(start), ok
		}
		after := func(d time.Duration, f func()) { go func() { time.Sleep(d); f() }() }
		want := func(what string, term uint64, d time.Duration, ok bool) {
			t.Helper()
			if got, now := regained(term); got != d || now != ok {
				t.Errorf("%s: %v after %v, not %v after %v", what, now, got, ok, d)
			}
		}
		want("nothing failed", 3, 0, true)
		sent := time.Now()
		time.Sleep(time.Millisecond)
		tr.lose("b", contact{term: 3, sent: time.Now()})
		time.Sleep(time.Millisecond)
		after(time.Minute, func() { tr.note("b", contact{term: 3, sent: sent}) }) // to what was sent before
		after(5*time.Minute+time.Millisecond, func() { tr.note("b", contact{term: 3, sent: time.Now()}) })
		want("another term", 4, 0, true)
		want("no answer for 5 minutes", 3, 5*time.Minute+time.Millisecond, true)
		want("it is back", 3, 0, true)
		tr.lose("b", contact{term: 3, sent: time.Now()})
		after(time.Second+time.Millisecond, func() { ended.Store(true) })
		want("leadership ended", 3, time.Second+regainLook, false)
		ended.Store(false)
		after(time.Second, func() { close(tr.done) })
		want("the transport ended", 3, time.Second, false)
	})
}
