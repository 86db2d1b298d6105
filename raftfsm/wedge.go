package raftfsm

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// wedge notices a leader that refuses every entry because it believes for ever that it is handing leadership over. A
// transfer that is cut off by another loss of leadership can leave raft so, and the flag stays when the server is
// elected again (hashicorp/raft issue 696). Nothing short of a restart clears it, so such a server does not lead again.
type wedge struct {
	limit time.Duration // after the end of a transfer raft may need as long as its request takes
	log   *slog.Logger

	mu    sync.Mutex
	under int       // transfers under way
	ended time.Time // when the last one ended
	stuck bool
}

func newWedge(t Timing, log *slog.Logger) *wedge {
	return &wedge{limit: 2*t.RPC + 4*t.Election, log: log}
}

// watch counts a transfer from before it begins until raft says how it ended.
func (w *wedge) watch(begin func() raft.Future) raft.Future {
	w.mu.Lock()
	w.under++
	w.mu.Unlock()
	return watched{begin(), w}
}

type watched struct {
	raft.Future
	of *wedge
}

// Error waits for the end of the transfer. It is called once.
func (f watched) Error() error {
	err := f.Future.Error()
	f.of.mu.Lock()
	defer f.of.mu.Unlock()
	f.of.under--
	f.of.ended = time.Now()
	return err
}

// refused says that raft refused an entry because of a transfer.
func (w *wedge) refused(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.under == 0 && now.Sub(w.ended) > w.limit && !w.stuck {
		w.stuck = true
		w.log.Error("raft refuses entries for a transfer of leadership that ended: restart this agent", "ended", now.Sub(w.ended))
	}
}

func (w *wedge) wedged() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stuck
}
