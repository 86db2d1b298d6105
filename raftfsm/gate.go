package raftfsm

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// gate counts the questions to raft that have no answer yet. raft forgets those that it has when it is shut down, and
// whoever waits for them waits for ever; so the gate is shut, and emptied, before that.
type gate struct {
	mu     sync.Mutex
	shut   bool
	inside int
	empty  chan struct{} // closed when the last one leaves a shut gate; nil while nobody waits for that
}

func (g *gate) enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.inside++
	return true
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside--; g.inside == 0 && g.empty != nil {
		close(g.empty)
		g.empty = nil
	}
}

// close lets nobody in any more and waits, not longer than given, until nobody is inside.
func (g *gate) close(ctx context.Context, longest time.Duration) {
	g.mu.Lock()
	g.shut = true
	if g.inside == 0 {
		g.mu.Unlock()
		return
	}
	empty := make(chan struct{})
	g.empty = empty
	g.mu.Unlock()
	select {
	case <-empty:
	case <-time.After(longest):
	case <-ctx.Done():
	}
}

// await asks raft and waits for its answer, until ctx or the node ends. Both may take raft as long as it likes, hence
// a goroutine.
func await[F raft.Future](ctx context.Context, n *Node, ask func() F) (F, error) {
	type answer struct {
		f   F
		err error
	}
	var none F
	if !n.gate.enter() {
		return none, ErrClosed
	}
	done := make(chan answer, 1)
	go func() {
		defer n.gate.leave()
		f := ask()
		done <- answer{f, f.Error()}
	}()
	select {
	case a := <-done:
		return a.f, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	case <-n.dead:
		return none, ErrClosed
	}
}
