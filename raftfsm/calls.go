package raftfsm

import (
	"context"
	"errors"
	"sync"

	"github.com/isonomia-mesh/isonomia/model"
)

// Bounds of the proposals that a leader remembers.
const (
	maxCallsUnderWay = 1024
	maxCallsDone     = 1024
)

var errBusy = errors.New("too many proposals under way")

// calls are the proposals under way on this node, and the newest that are done. A try that comes again while the
// first is under way, or after its reply was lost, joins it: within one leader's life a request is written once.
type calls struct {
	mu      sync.Mutex
	byID    map[requestID]*call
	done    []requestID // oldest first
	running int
}

// call is one proposal. results and err are set before done is closed.
type call struct {
	done    chan struct{}
	results []model.Result
	err     error
}

func (c *call) wait(ctx context.Context) ([]model.Result, error) {
	select {
	case <-c.done:
		return c.results, c.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (c *calls) init() { c.byID = map[requestID]*call{} }

// join gives the call of a request, and whether the caller has to carry it out.
func (c *calls) join(id requestID) (*call, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if have, ok := c.byID[id]; ok {
		return have, false, nil
	}
	if c.running >= maxCallsUnderWay {
		return nil, false, errBusy
	}
	c.running++
	fresh := &call{done: make(chan struct{})}
	c.byID[id] = fresh
	return fresh, true, nil
}

// finish gives the call its outcome. What failed is forgotten, so that the next try is a new one.
func (c *calls) finish(id requestID, results []model.Result, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	done := c.byID[id]
	done.results, done.err = results, err
	if err != nil {
		delete(c.byID, id)
	} else {
		c.done = append(c.done, id)
	}
	if len(c.done) > maxCallsDone {
		delete(c.byID, c.done[0])
		c.done = c.done[1:]
	}
	close(done.done)
	c.running--
}

func (c *calls) underWay() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.running
}
