package raftfsm

import (
	"context"
	"sync"
)

// rounds shares the work of concurrent readers: whoever comes while a round runs waits for the next one, so that the
// round that answers began after the question.
type rounds struct {
	mu      sync.Mutex
	running bool
	next    *round // nil when nobody waits for a round that has not begun
}

type round struct {
	done  chan struct{}
	index uint64
	err   error
}

// join waits for a round that begins from now on. ask must end by itself.
func (rs *rounds) join(ctx context.Context, ask func() (uint64, error)) (uint64, error) {
	rs.mu.Lock()
	if rs.next == nil {
		rs.next = &round{done: make(chan struct{})}
	}
	mine := rs.next
	if !rs.running {
		rs.running = true
		go rs.run(ask)
	}
	rs.mu.Unlock()
	select {
	case <-mine.done:
		return mine.index, mine.err
	case <-ctx.Done():
		return 0, ctx.Err()
	}
}

func (rs *rounds) run(ask func() (uint64, error)) {
	for {
		rs.mu.Lock()
		now := rs.next
		rs.next = nil
		rs.running = now != nil
		rs.mu.Unlock()
		if now == nil {
			return
		}
		now.index, now.err = ask()
		close(now.done)
	}
}
