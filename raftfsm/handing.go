package raftfsm

import (
	"sync"
	"time"
)

// handing knows when this server handed leadership over, or tried to. A server that was asked to take it may do so late.
type handing struct {
	mu   sync.Mutex
	now  int       // under way
	last time.Time // when the last one ended
}

// begin says that it is being handed over until done is called.
func (h *handing) begin() (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now++
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.now--
		h.last = time.Now()
	}
}

// within says whether that is so now, or was so within d.
func (h *handing) within(d time.Duration) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.now > 0 || !h.last.IsZero() && time.Since(h.last) < d
}
