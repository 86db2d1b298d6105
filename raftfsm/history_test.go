package raftfsm

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/isonomia-mesh/isonomia/model"
)

// What an operator and a node ask of the cluster, as a history: deployments on a base that reserve a number, and the lease of
// a node that is marked down, up and fenced meanwhile.

type callKind string

const (
	callDeploy callKind = "deploy" // on a base, with a number for a service that the proposer found free there
	callSystem callKind = "system" // read
	callLease  callKind = "lease"  // asked for in an epoch
	callDown   callKind = "down"
	callUp     callKind = "up"
	callFence  callKind = "fence"
	callNode   callKind = "node" // read
)

// asked is what a call says.
type asked struct {
	kind  callKind
	of    string // the system or the node
	base  uint64 // of a deployment: generation; else the epoch
	after string // of a deployment: who has which number
}

// answered is what came back.
type answered struct {
	known bool
	ok    bool // it was not refused
	is    thing
}

// thing is a system or a node.
type thing struct {
	number       uint64 // generation, or epoch
	owners       string // of numbers, "1=a 2=b"
	down, fenced bool
}

// clusterModel is systems and nodes, for porcupine. A call without an answer may have happened or not, and so may one about a
// node that was refused: where the leader changes between two tries of it, the second meets what the first did. Deployments
// have an id, by which they get the first one's answer.
func clusterModel(first map[string]thing) porcupine.Model {
	return porcupine.Model{
		Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			for _, o := range history {
				of := o.Input.(asked).of
				by[of] = append(by[of], o)
			}
			return slices.Collect(maps.Values(by))
		},
		// Each part begins with a read, made before anything else.
		Init: func() any { return thing{number: ^uint64(0)} },
		Step: func(state, input, output any) (bool, any) {
			s, in, out := state.(thing), input.(asked), output.(answered)
			if s.number == ^uint64(0) {
				s = first[in.of]
			}
			happens, after := s.call(in)
			switch {
			case in.kind == callSystem || in.kind == callNode:
				return out.is == s, s
			case out.known && out.ok != happens && (out.ok || in.kind == callDeploy):
				return false, s
			case happens:
				return true, after
			}
			return true, s
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v: %+v", input, output) },
	}
}

// call says whether a call is accepted, and what it makes of the thing.
func (s thing) call(in asked) (bool, thing) {
	at := s.number == in.base
	switch in.kind {
	case callDeploy:
		return at, thing{number: s.number + 1, owners: in.after}
	case callLease:
		return at && !s.down, s
	case callDown:
		return at && !s.down, thing{number: s.number + 1, down: true}
	case callUp:
		return at && s.down, thing{number: s.number}
	case callFence:
		return at && s.down, thing{number: s.number, down: true, fenced: true}
	}
	return true, s
}

func seen(s *model.State, of string) thing {
	if n, is := s.Nodes.Get(of); is {
		return thing{number: n.Epoch, down: n.Down, fenced: n.Fenced}
	}
	owners := map[int]string{}
	for _, r := range s.Reservations.Prefix(of + "/") {
		owners[r.Number] += r.Service // two services of one number show
	}
	return thing{number: s.Systems.At(of).Generation, owners: ownersText(owners)}
}

func ownersText(owners map[int]string) string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(owners)) {
		out = append(out, fmt.Sprint(n, "=", owners[n]))
	}
	return strings.Join(out, " ")
}

// deploy is what a proposer makes of the State it saw: a service takes the lowest free number, or gives its own back.
func deploy(s *model.State, system, service, proposal string) ([]model.Command, asked) {
	owners, own := map[int]string{}, ""
	for _, r := range s.Reservations.Prefix(system + "/") {
		if owners[r.Number] = r.Service; r.Service == service {
			own = r.Key()
		}
	}
	part := model.Part{Proposal: proposal}
	if own != "" {
		part.Release = []string{own}
		delete(owners, s.Reservations.At(own).Number)
	} else {
		number := 1
		for owners[number] != "" {
			number++
		}
		owners[number] = service
		part.Reserve = []model.Reservation{{System: system, Service: service, Resource: system, Name: "http", Number: number}}
	}
	base := s.Systems.At(system).Generation
	return []model.Command{model.Begin{Proposal: proposal, System: system, Base: base, Kind: model.KindDeploy, Ending: model.Superseded}, part,
		model.Commit{Proposal: proposal, Parts: 1}}, asked{kind: callDeploy, of: system, base: base, after: ownersText(owners)}
}

// calls of one kind of client.
type caller struct {
	c     *cluster
	h     *calledHistory
	nodes []*member
	rng   *rand.Rand
	id    int // of the client in the history
	name  string
}

// calledHistory collects calls with one clock.
type calledHistory struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
}

// do makes a call. One without an answer may happen at any time from now on: the client goes on as another one then.
func (k *caller) do(in asked, f func(ctx context.Context) (answered, error)) {
	ctx, cancel := context.WithTimeout(k.c.ctx, 400*time.Millisecond)
	defer cancel()
	call := time.Since(k.h.began).Nanoseconds()
	out, err := f(ctx)
	ret := time.Since(k.h.began).Nanoseconds()
	out.known = err == nil
	op := porcupine.Operation{ClientId: k.id, Input: in, Call: call, Output: out, Return: ret}
	if err != nil {
		if in.kind == callSystem || in.kind == callNode || in.kind == callLease {
			return // it changed nothing and says nothing
		}
		op.Return = 1 << 62
		k.id += 1000
	}
	k.h.mu.Lock()
	defer k.h.mu.Unlock()
	k.h.ops = append(k.h.ops, op)
}

func (k *caller) run(ctx context.Context, system string, victims []string) {
	for i := 0; ctx.Err() == nil; i++ {
		m := k.nodes[k.rng.IntN(len(k.nodes))]
		if k.rng.IntN(2) == 0 {
			k.onSystem(m, system, fmt.Sprintf("%s.%s.%d", system, k.name, i))
		} else {
			k.onNode(m, victims[k.rng.IntN(len(victims))])
		}
	}
}

func (k *caller) read(m *member, kind callKind, of string) {
	k.do(asked{kind: kind, of: of}, func(ctx context.Context) (answered, error) {
		s, err := m.Read(ctx)
		if err != nil {
			return answered{}, err
		}
		return answered{ok: true, is: seen(s, of)}, nil
	})
}

func (k *caller) onSystem(m *member, system, proposal string) {
	if k.rng.IntN(3) == 0 {
		k.read(m, callSystem, system)
		return
	}
	cmds, in := deploy(m.State(), system, k.name, proposal) // what it saw may be old
	k.do(in, func(ctx context.Context) (answered, error) {
		results, err := m.Propose(ctx, cmds...)
		if err != nil {
			return answered{}, err
		}
		last := results[len(results)-1]
		if last.Code != model.OK && results[0].Code != model.ErrStale {
			k.c.t.Errorf("deployment %s: %+v", proposal, results)
		}
		return answered{ok: last.Code == model.OK}, nil
	})
}

func (k *caller) onNode(m *member, id string) {
	epoch := m.State().Nodes.At(id).Epoch
	kind := []callKind{callNode, callLease, callLease, callLease, callDown, callUp, callFence}[k.rng.IntN(7)]
	change := map[callKind]model.Command{callDown: model.MarkDown{ID: id, Epoch: epoch, Why: "test"},
		callUp: model.MarkUp{ID: id, Epoch: epoch}, callFence: model.Fence{ID: id, Epoch: epoch}}[kind]
	switch kind {
	case callNode:
		k.read(m, callNode, id)
	case callLease:
		for _, l := range k.nodes { // whoever believes to lead
			if l.IsLeader() {
				m = l
				break
			}
		}
		k.do(asked{kind: kind, of: id, base: epoch}, func(ctx context.Context) (answered, error) { return grant(ctx, m, id, epoch) })
	default:
		k.do(asked{kind: kind, of: id, base: epoch}, func(ctx context.Context) (answered, error) {
			results, err := m.Propose(ctx, change)
			if err != nil {
				return answered{}, err
			}
			return answered{ok: results[0].Code == model.OK}, nil
		})
	}
}

// grant is what a leader does for a node that asks for its lease. A refusal is no answer: it may rest on an old State.
func grant(ctx context.Context, m *member, id string, epoch uint64) (answered, error) {
	for range 2 {
		if why := model.CanLease(m.State(), id, epoch); why != "" {
			return answered{}, fmt.Errorf("refused: %s", why)
		}
		if err := m.Prove(ctx, time.Millisecond); err != nil {
			return answered{}, err
		}
	}
	if why := model.CanLease(m.State(), id, epoch); why != "" {
		return answered{}, fmt.Errorf("refused: %s", why)
	}
	return answered{ok: true}, nil
}

// TestHistories: with leaders that change, are cut off and come back, deployments, reservations and leases are as if one after
// the other. Each run has its seed; with ISONOMIA_SOAK there are 300 of them.
func TestHistories(t *testing.T) {
	t.Parallel()
	runs := 3
	if os.Getenv("ISONOMIA_SOAK") != "" {
		runs = 300
	}
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("ISONOMIA_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	var c *cluster
	ops, changes, granted, deployed := 0, 0, 0, 0
	for run := range runs {
		if run%10 == 0 {
			if c != nil {
				for _, m := range c.live() {
					c.kill(m.id)
				}
			}
			c = grown(t, 4, nil)
		}
		h, n := oneHistory(t, c, run, seed+uint64(run))
		ops, changes = ops+len(h), changes+n
		for _, o := range h {
			in, out := o.Input.(asked), o.Output.(answered)
			if out.known && out.ok && in.kind == callLease {
				granted++
			}
			if out.known && out.ok && in.kind == callDeploy {
				deployed++
			}
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d runs: %d operations, %d of them granted leases and %d deployments, %d changes of leader", runs, ops, granted, deployed, changes)
	if granted == 0 || deployed == 0 || changes == 0 {
		t.Error("nothing was tried")
	}
}

func oneHistory(t *testing.T, c *cluster, run int, seed uint64) ([]porcupine.Operation, int) {
	t.Helper()
	c.same()
	nodes, system, victims := c.live(), fmt.Sprint("s", run), []string{"n3", "n4"}
	first := map[string]thing{}
	for _, of := range append([]string{system}, victims...) {
		first[of] = seen(nodes[0].State(), of)
	}
	ctx, cancel := context.WithTimeout(c.ctx, 1500*time.Millisecond)
	defer cancel()
	h := &calledHistory{began: time.Now()}
	var wg sync.WaitGroup
	for i := range 6 {
		k := &caller{c: c, h: h, nodes: nodes, id: i, name: fmt.Sprint("c", i), rng: rand.New(rand.NewPCG(seed, uint64(i)))}
		wg.Go(func() { k.run(ctx, system, victims) })
	}
	changes := troubleFrom(ctx, c, nodes, int(seed%3))
	wg.Wait()
	if res := porcupine.CheckOperationsTimeout(clusterModel(first), h.ops, 20*time.Second); res != porcupine.Ok {
		t.Errorf("ISONOMIA_TEST_SEED=%d: the history of %d operations is %v", seed, len(h.ops), res)
	}
	return h.ops, changes
}

// TestHistoryCheckerSees: were these histories found good, the test above would prove nothing.
func TestHistoryCheckerSees(t *testing.T) {
	t.Parallel()
	first := map[string]thing{"s": {}, "n": {number: 1}}
	yes, no := answered{known: true, ok: true}, answered{known: true}
	type call struct {
		in  asked
		out answered
	}
	down := call{asked{kind: callDown, of: "n", base: 1}, yes}
	for name, tc := range map[string]struct {
		calls []call
		want  porcupine.CheckResult
	}{
		"good": {[]call{{asked{kind: callLease, of: "n", base: 1}, yes}, down, {asked{kind: callFence, of: "n", base: 2}, yes},
			{asked{kind: callUp, of: "n", base: 2}, yes}, {asked{kind: callLease, of: "n", base: 2}, yes}}, porcupine.Ok},
		"a lease of an epoch that is over":   {[]call{down, {asked{kind: callLease, of: "n", base: 1}, yes}}, porcupine.Illegal},
		"a lease of a node that is down":     {[]call{down, {asked{kind: callLease, of: "n", base: 2}, yes}}, porcupine.Illegal},
		"a fence of a node that is up":       {[]call{{asked{kind: callFence, of: "n", base: 1}, yes}}, porcupine.Illegal},
		"two deployments on one base":        {[]call{{asked{kind: callDeploy, of: "s"}, yes}, {asked{kind: callDeploy, of: "s"}, yes}}, porcupine.Illegal},
		"a refusal of the right base":        {[]call{{asked{kind: callDeploy, of: "s"}, no}}, porcupine.Illegal},
		"a reservation that is lost":         {[]call{{asked{kind: callDeploy, of: "s", after: "1=a"}, yes}, {asked{kind: callSystem, of: "s"}, answered{known: true, is: thing{number: 1}}}}, porcupine.Illegal},
		"a deployment that nobody asked for": {[]call{{asked{kind: callSystem, of: "s"}, answered{known: true, is: thing{number: 1}}}}, porcupine.Illegal},
	} {
		var ops []porcupine.Operation
		for i, c := range tc.calls {
			ops = append(ops, porcupine.Operation{ClientId: 1, Input: c.in, Output: c.out, Call: int64(2 * i), Return: int64(2*i + 1)})
		}
		if got := porcupine.CheckOperationsTimeout(clusterModel(first), ops, 20*time.Second); got != tc.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
