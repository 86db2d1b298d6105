package raftfsm

import (
	"context"
	"sync"
)

// rounds shares the work of concurrent readers: whoever comes while a round runs waits for the next one, so that the
// round that answers began after the question.
type rounds[T any] struct {
	mu      sync.Mutex
	running bool
	next    *round[T] // nil when nobody waits for a round that has not begun
}

type round[T any] struct {
	done   chan struct{}
	answer T
	err    error
}

// join waits for a round that begins from now on. ask must end by itself.
func (rs *rounds[T]) join(ctx context.Context, ask func() (T, error)) (answer T, err error) {
	rs.mu.Lock()
	if rs.next == nil {
		rs.next = &round[T]{done: make(chan struct{})}
	}
	mine := rs.next
	if !rs.running {
		rs.running = true
		go rs.run(ask)
	}
	rs.mu.Unlock()
	select {
	case <-mine.done:
		return mine.answer, mine.err
	case <-ctx.Done():
		return answer, ctx.Err()
	}
}

func (rs *rounds[T]) run(ask func() (T, error)) {
	for {
		rs.mu.Lock()
		now := rs.next
		rs.next = nil
		rs.running = now != nil
		rs.mu.Unlock()
		if now == nil {
			return
		}
		now.answer, now.err = ask()
		close(now.done)
	}
}
