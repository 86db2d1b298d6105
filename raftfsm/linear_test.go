package raftfsm

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

// op is one call on a register: a write of value, or a read that gave value.
type op struct {
	key   string
	write bool
	value string
	known bool // the call was answered
}

// register is a map of independent registers, for porcupine. A write without an answer may have happened or not.
var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byKey := map[string][]porcupine.Operation{}
		for _, o := range history {
			k := o.Input.(op).key
			byKey[k] = append(byKey[k], o)
		}
		var parts [][]porcupine.Operation
		for _, p := range byKey {
			parts = append(parts, p)
		}
		return parts
	},
	Init: func() any { return "" },
	Step: func(state, input, output any) (bool, any) {
		in, out := input.(op), output.(op)
		if in.write {
			return true, in.value
		}
		return !out.known || out.value == state.(string), state
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprint(input, output) },
}

// history collects operations with one clock.
type history struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
}

func (h *history) do(client int, in op, f func() (op, error)) {
	call := time.Since(h.began).Nanoseconds()
	out, err := f()
	ret := time.Since(h.began).Nanoseconds()
	out.known = err == nil
	if err != nil && !in.write {
		return // a read without an answer says nothing
	}
	if err != nil {
		ret = 1 << 62 // it may happen at any time from now on
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ops = append(h.ops, porcupine.Operation{ClientId: client, Input: in, Call: call, Output: out, Return: ret})
}

// client writes and reads at random nodes until ctx ends. A client whose write has no answer goes on as another one,
// for a client of a history has one call at a time.
func client(ctx context.Context, c *cluster, h *history, nodes []*member, number int) {
	rng := rand.New(rand.NewPCG(uint64(number), 1))
	id := number
	for i := 0; ctx.Err() == nil; i++ {
		m := nodes[rng.IntN(len(nodes))]
		in := op{key: fmt.Sprint("k", rng.IntN(3)), write: rng.IntN(2) == 0}
		octx, cancel := context.WithTimeout(c.ctx, 400*time.Millisecond)
		h.do(id, in.with(fmt.Sprint(number, ".", i)), func() (op, error) {
			if in.write {
				_, err := m.Propose(octx, set(in.key, fmt.Sprint(number, ".", i)))
				if err != nil {
					id += 1000
				}
				return op{}, err
			}
			s, err := m.Read(octx)
			if err != nil {
				return op{}, err
			}
			return op{value: value(s, in.key)}, nil
		})
		cancel()
	}
}

func (o op) with(value string) op {
	if o.write {
		o.value = value
	}
	return o
}

// trouble changes the leader in turn: by transfer, by cutting it off, by cutting it off from the voters only.
func trouble(ctx context.Context, c *cluster, nodes []*member) (changes int) {
	return troubleFrom(ctx, c, nodes, 0)
}

func troubleFrom(ctx context.Context, c *cluster, nodes []*member, first int) (changes int) {
	for i := first; ctx.Err() == nil; i++ {
		var l *member
		for _, m := range nodes {
			if m.IsLeader() {
				l = m
			}
		}
		if l == nil {
			waitFor(ctx, 5*time.Millisecond)
			continue
		}
		waitFor(ctx, 250*time.Millisecond)
		switch i % 3 {
		case 0:
			if l.TransferLeadership(ctx) == nil {
				changes++
			}
		case 1:
			c.isolate(l.id)
			waitFor(ctx, 700*time.Millisecond)
			c.rejoin(l.id)
			changes++
		case 2:
			for _, s := range l.Servers() {
				if s.Voter {
					c.wires.cutLink(l.id, s.ID)
				}
			}
			waitFor(ctx, 700*time.Millisecond)
			c.rejoin(l.id)
			changes++
		}
	}
	return changes
}

func waitFor(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func TestLinearizable(t *testing.T) {
	t.Parallel()
	linearizable(t, grown(t, 4, nil)) // three voters and a standby, whose answers must not count as votes
}

// TestLinearizableOnFollowers has nodes among the others that are no raft servers.
func TestLinearizableOnFollowers(t *testing.T) {
	t.Parallel()
	c := grown(t, 12, nil)
	c.awaitServers(9)
	linearizable(t, c)
}

func linearizable(t *testing.T, c *cluster) {
	t.Helper()
	nodes := c.live()
	ctx, cancel := context.WithTimeout(c.ctx, 3*time.Second)
	defer cancel()
	h := &history{began: time.Now()}
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() { client(ctx, c, h, nodes, i) })
	}
	changes := trouble(ctx, c, nodes)
	wg.Wait()
	t.Logf("%d operations, %d changes of leader", len(h.ops), changes)
	c.same()
	if res := porcupine.CheckOperationsTimeout(register, h.ops, 20*time.Second); res != porcupine.Ok {
		t.Errorf("the history is %v", res)
	}
}

// TestCheckerSeesStaleReads uses State() for reads, on a node that was cut off: were that found linearizable, the test
// above would prove nothing.
func TestCheckerSeesStaleReads(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	l := c.leader()
	cutOff := c.others(l)[0]
	c.same()
	c.isolate(cutOff.id)
	h := &history{began: time.Now()}
	in := op{key: "k", write: true, value: "1"}
	h.do(1, in, func() (op, error) { _, err := l.Propose(c.ctx, set(in.key, in.value)); return op{}, err })
	h.do(1, op{key: "k"}, func() (op, error) { s, err := l.Read(c.ctx); return op{value: value(s, "k")}, err })
	if res := porcupine.CheckOperationsTimeout(register, h.ops, 20*time.Second); res != porcupine.Ok {
		t.Errorf("a good history is %v", res)
	}
	h.do(2, op{key: "k"}, func() (op, error) { return op{value: value(cutOff.State(), "k")}, nil })
	if res := porcupine.CheckOperationsTimeout(register, h.ops, 20*time.Second); res != porcupine.Illegal {
		t.Errorf("a stale read is %v", res)
	}
}
