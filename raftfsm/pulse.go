package raftfsm

import (
	"sync"
	"time"
)

// tick is how often a leader looks whether it runs on time: well within any lease. Each look wakes an idle process.
const tick = 80 * time.Millisecond

// pulse notices that this leader stood still: stopped, swapped out, suspended with its machine. Answers that were on
// their way before the pause then say nothing about now, and nobody may be judged by them. The beginning of a term
// counts as a pause.
type pulse struct {
	lease time.Duration

	mu     sync.Mutex
	term   uint64
	last   time.Time
	pauses uint64    // how many were seen
	since  time.Time // when the last was seen
}

func newPulse(lease time.Duration) *pulse { return &pulse{lease: lease} }

// beat says that the leader of a term runs at now. It gives the number of pauses seen so far, and the time since when
// there was none. The monotonic clock stops in a suspended machine, so the wall clock is asked too: where that was
// only set, a pause too many is counted.
func (p *pulse) beat(term uint64, now time.Time) (pauses uint64, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	gap := now.Sub(p.last)
	wall := now.Round(0).Sub(p.last.Round(0))
	if p.term != term || gap > p.lease || wall > p.lease || wall < -p.lease {
		p.pauses++
		p.since = now
	}
	p.term, p.last = term, now
	return p.pauses, p.since
}
