package raftfsm

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// sim runs Next, Decide and Apply against a world of simulated machines in virtual time: nodes see State late, lose
// claims and reports, crash and return; processes die. Processes are the world: the invariants look at them, not at
// State.
type sim struct {
	t       *testing.T
	rng     *rand.Rand
	now     time.Time
	log     []*model.State // every State by log position
	state   *model.State   // the newest
	nodes   []*simNode
	mem     model.Memory
	late    []simLate
	trace   []string
	moves   int            // states restored
	truth   map[string]int // by service with managed state and timeline: what was acknowledged last
	returns int            // data returned to an earlier snapshot
	leader  *simNode
	taken   int // states that went on elsewhere from a copy
}

// simLate is a message that comes again, long after its sender counted on it.
type simLate struct {
	at  time.Time
	cmd model.Command
}

type simNode struct {
	id       string
	up       bool
	since    time.Time // of the last change of up
	seen     int       // position in log that it sees
	procs    map[string]model.Process
	pkgs     map[string]bool
	failures map[string]model.Failure
	busy     map[string]simStep
	flaky    float64
	disk     map[string]int     // by service: what its state directory holds
	lease    time.Time          // when its lease ends
	asked    time.Time          // when it asked for it last
	downs    map[string]simDown // since when it has seen others down
}

type simDown struct {
	epoch uint64
	at    time.Time
}

// looks has the node notice who is down in the State that it sees.
func (n *simNode) looks(s *model.State, now time.Time) {
	downs := map[string]simDown{}
	for id, m := range s.Nodes.All() {
		if d := n.downs[id]; m.Down && d.epoch == m.Epoch {
			downs[id] = d
		} else if m.Down {
			downs[id] = simDown{m.Epoch, now}
		}
	}
	n.downs = downs
}

// simStep is a step under way: it ends at a time, then acts.
type simStep struct {
	step  model.Step
	claim uint64
	ends  time.Time
}

const simSystem = "default"

func newSim(t *testing.T, seed uint64, nodes int) *sim {
	s := &sim{t: t, rng: rand.New(rand.NewPCG(seed, 7)), now: time.Unix(1_800_000_000, 0).UTC(), state: &model.State{}, truth: map[string]int{}}
	s.log = []*model.State{s.state}
	for i := range nodes {
		id := fmt.Sprintf("node%02d", i+1)
		n := model.Node{ID: id, Name: fmt.Sprintf("n%d", i+1), Host: fmt.Sprintf("10.0.0.%d", i+1), Server: true, Epoch: 1, Key: []byte{byte(i)}}
		if i == 0 {
			s.apply(model.Init{Cluster: model.Cluster{ID: "sim"}, Node: n})
		} else {
			tok := fmt.Sprintf("t%d", i)
			s.apply(model.CreateToken{Token: model.Token{ID: tok, UsesLeft: 1, Expires: s.now.Add(time.Hour), Created: s.now}},
				model.Admit{Token: tok, Node: n, Now: s.now})
		}
		s.nodes = append(s.nodes, &simNode{id: id, up: true, since: s.now, procs: map[string]model.Process{}, pkgs: map[string]bool{},
			failures: map[string]model.Failure{}, busy: map[string]simStep{}, disk: map[string]int{}})
	}
	return s
}

func (s *sim) apply(cmds ...model.Command) []model.Result {
	b, err := EncodeCommands(cmds)
	if err != nil {
		s.t.Fatalf("encode: %v", err)
	}
	if cmds, err = DecodeCommands(b); err != nil {
		s.t.Fatalf("decode: %v", err)
	}
	var res []model.Result
	s.state, res = Apply(s.state, uint64(len(s.log)), cmds)
	s.log = append(s.log, s.state)
	return res
}

// send applies a command of a node; now and then it comes once more, later.
func (s *sim) send(cmd model.Command) model.Result {
	if s.rng.IntN(15) == 0 {
		s.late = append(s.late, simLate{s.now.Add(time.Duration(s.rng.IntN(8000)) * time.Millisecond), cmd})
	}
	return s.apply(cmd)[0]
}

func (s *sim) deliverLate() {
	s.late = slices.DeleteFunc(s.late, func(l simLate) bool {
		if s.now.Before(l.at) {
			return false
		}
		s.note("late: %T: %+v", l.cmd, s.apply(l.cmd)[0])
		return true
	})
}

// simModel writes a model of n services whose dependencies form a random acyclic graph. Some have managed state, some
// several instances, some a shared port, some none, some one written in the model that goes round from one version to
// the next, some only an order.
func (s *sim) simModel(n int, version string, broken string) model.Source {
	var b strings.Builder
	var pins []string
	for i := range n {
		name := fmt.Sprintf("s%02d", i)
		fmt.Fprintf(&b, "service %q {\n type = \"process\"\n", name)
		var deps []string
		for j := range i {
			if s.rng.IntN(i+1) == 0 {
				deps = append(deps, fmt.Sprintf("d%d = \"s%02d\"", j, j))
			}
		}
		if len(deps) > 0 {
			fmt.Fprintf(&b, " depends_on = { %s }\n", strings.Join(deps, ", "))
		}
		if i > 0 && s.rng.IntN(6) == 0 {
			fmt.Fprintf(&b, " activates_after = [\"s%02d\"]\n", s.rng.IntN(i))
		}
		port := func(assign string) { fmt.Fprintf(&b, " port \"http\" {\n assign = %s\n }\n", assign) }
		switch i % 5 { // by name, so that it stays the same from one model to the next
		case 0:
			port(fmt.Sprint(9000 + (i/5+len(s.log))%4))
		case 1:
			b.WriteString(" state {\n managed = true\n copies = 2\n every = \"24h\"\n take_over = \"2s\"\n }\n")
			if s.rng.IntN(2) == 0 { // its state has to move there
				pins = append(pins, fmt.Sprintf("%s = [\"n%d\"]", name, 1+s.rng.IntN(len(s.nodes))))
			}
			port(`"private"`)
		case 2:
			fmt.Fprintf(&b, " instances = %d\n", 1+s.rng.IntN(2))
			port(`"private"`)
		case 3:
			port(`"shared"`)
		}
		v := "1"
		if version != "" && s.rng.IntN(3) == 0 {
			v = version
		}
		if name == broken {
			v = "broken"
		}
		fmt.Fprintf(&b, " run {\n command = [\"run\", %q]\n }\n}\n", v)
	}
	if len(pins) > 0 {
		fmt.Fprintf(&b, "distribution {\n pin = { %s }\n}\n", strings.Join(pins, ", "))
	}
	return model.Source{Files: map[string][]byte{"services.hcl": []byte(b.String())}}
}

func (s *sim) deploy(id string, src model.Source) {
	m, diags := model.Parse(src, model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		s.t.Fatalf("parse: %v", diags)
	}
	man, diags := model.Compose{State: s.state, System: simSystem, Model: m}.Run()
	if diags.HasErrors() {
		s.note("compose refused: %v", diags)
		return
	}
	plan := model.Diff(s.state, simSystem, man)
	for _, r := range s.apply(plan.Commands(model.Draft{ID: id, Kind: model.KindDeploy, Source: src, At: s.now})...) {
		if r.Code != model.OK {
			s.t.Fatalf("deploy: %+v", r)
		}
	}
}

// rollback goes back to what the newest settled intent replaced, now and then with the data.
func (s *sim) rollback() {
	sys := s.state.Systems.At(simSystem)
	in, _ := s.state.Intent(simSystem, sys.Settled)
	if sys.Settled == sys.Intent {
		in, _ = s.state.Intent(simSystem, in.Parent)
	}
	if in.Number == 0 {
		return
	}
	var returns []model.Return
	if s.rng.IntN(3) > 0 {
		returns, _ = model.ChooseReturns(s.state, simSystem, in)
	}
	man, diags := model.ComposeRollback(s.state, simSystem, in.Number, returns)
	if diags.HasErrors() {
		s.note("rollback refused: %v", diags)
		return
	}
	id := fmt.Sprint("rollback", len(s.log))
	s.note("%s to intent %d, returns %v", id, in.Number, returns)
	draft := model.Draft{ID: id, Kind: model.KindRollback, Source: in.Source, Packages: in.Packages, Target: in.Number, At: s.now}
	for _, r := range s.apply(model.Diff(s.state, simSystem, man).Commands(draft)...) {
		if r.Code != model.OK {
			s.fatal("rollback: %+v", r)
		}
	}
	for _, r := range returns {
		s.returns++
		s.truth[r.Service+" on timeline "+r.Timeline] = s.value(r.Service, r.Snapshot)
	}
}

// value is what a snapshot holds.
func (s *sim) value(service, snapshot string) (value int) {
	if _, err := fmt.Sscanf(strings.TrimPrefix(snapshot, service), "=%d", &value); err != nil {
		s.fatal("snapshot %q of %s: %v", snapshot, service, err)
	}
	return value
}

func (s *sim) note(format string, args ...any) {
	s.trace = append(s.trace, fmt.Sprintf("%6.2fs @%d ", s.now.Sub(time.Unix(1_800_000_000, 0)).Seconds(), len(s.log)-1)+fmt.Sprintf(format, args...))
	if len(s.trace) > 4000 {
		s.trace = s.trace[2000:]
	}
}

func (s *sim) fatal(format string, args ...any) {
	s.t.Helper()
	s.t.Fatalf("%s\ntrace:\n%s", fmt.Sprintf(format, args...), strings.Join(s.trace[max(0, len(s.trace)-4000):], "\n"))
}

// turn moves time and lets everybody do something.
func (s *sim) turn() {
	s.now = s.now.Add(time.Duration(10+s.rng.IntN(90)) * time.Millisecond)
	for _, i := range s.rng.Perm(len(s.nodes)) {
		n := s.nodes[i]
		s.lapse(n)
		if !n.up {
			s.finishSteps(n) // cut off, not dead: a start under way goes on
			continue
		}
		if s.rng.IntN(3) > 0 { // a node may lag
			n.seen += s.rng.IntN(len(s.log) - n.seen)
			if s.rng.IntN(2) == 0 {
				n.seen = len(s.log) - 1
			}
		}
		n.looks(s.log[n.seen], s.now)
		s.renew(n)
		s.finishSteps(n)
		s.act(n)
		s.snapshot(n)
	}
	s.deliverLate()
	s.lead()
	s.write()
	s.check()
}

// renew asks the leader for a lease. The answer may be late, or lost; the lease runs from the question.
func (s *sim) renew(n *simNode) {
	if s.now.Sub(n.asked) < model.LeaseEvery {
		return
	}
	n.asked = s.now
	if model.CanLease(s.state, n.id, s.log[n.seen].Nodes.At(n.id).Epoch) != "" {
		return
	}
	if s.rng.IntN(8) > 0 {
		n.lease = s.now.Add(model.LeaseTTL)
	}
}

// lapse ends what is exclusive on a node, whether its agent lives or not, before its lease is over.
func (s *sim) lapse(n *simNode) {
	if s.now.Before(n.lease.Add(-model.LeaseKill)) {
		return
	}
	for key, p := range n.procs {
		if spec, ok := s.state.Specs.Get(key); p.Running && (!ok || spec.Exclusive) {
			s.note("%s: the lease is over, %s ends", n.id, key)
			n.procs[key] = model.Process{Claim: p.Claim, Since: s.now}
		}
	}
}

// snapshot takes one now and then of what is active, and has another node fetch it.
func (s *sim) snapshot(n *simNode) {
	for key, p := range n.procs {
		r, ok := s.state.Rows.Get(key)
		if !ok || !p.Running || !r.Managed || r.Phase != model.Active || s.rng.IntN(15) > 0 {
			continue
		}
		snap := model.Snapshot{System: r.System, Service: r.Service, Container: r.Container, ID: fmt.Sprintf("%s=%d", r.Service, n.disk[r.Service]), Node: n.id, At: s.now}
		res := s.apply(model.TakeSnapshot{Snapshot: snap, Epoch: s.state.Nodes.At(n.id).Epoch})[0]
		if res.Code != model.OK {
			continue
		}
		kept := s.state.Snapshots.At(res.Value)
		if other := s.nodes[s.rng.IntN(len(s.nodes))]; other.up {
			s.apply(model.HoldSnapshots{Node: other.id, Items: []model.HeldSnapshot{{Key: kept.Key(), ID: kept.ID}}})
		}
	}
}

// write has the clients write to services with managed state: what runs and is active acknowledges.
func (s *sim) write() {
	for _, n := range s.nodes {
		for key, p := range n.procs {
			r, ok := s.state.Rows.Get(key)
			if ok && p.Running && r.Managed && r.Phase == model.Active && s.rng.IntN(4) == 0 {
				line := r.Service + " on timeline " + r.Spec.Timeline
				if n.disk[r.Service] != s.truth[line] {
					s.fatal("%s on %s serves state %d, and %d was acknowledged", line, n.id, n.disk[r.Service], s.truth[line])
				}
				n.disk[r.Service]++
				s.truth[line]++
			}
		}
	}
}

func (s *sim) lead() {
	if s.leader == nil || !s.leader.up || s.rng.IntN(40) == 0 {
		s.mem, s.leader = model.Memory{}, s.nodes[s.rng.IntN(len(s.nodes))]
	}
	if !s.leader.up {
		return
	}
	s.leader.seen = len(s.log) - 1 // a leader has applied everything before it decides
	s.leader.looks(s.state, s.now)
	cmds, mem, _ := model.Decide(s.state, s.view(), s.mem, s.now)
	for _, c := range cmds {
		s.note("leader: %T %+v", c, brief(c))
	}
	if len(cmds) > 0 {
		results := s.apply(cmds...)
		s.tookOver(cmds, results)
		if slices.ContainsFunc(results, func(r model.Result) bool { return r.Code != model.OK }) {
			return // as node does: look again
		}
	}
	s.mem = mem
}

// tookOver notes what is acknowledged on the timelines that begin with a take-over: what the copy held.
func (s *sim) tookOver(cmds []model.Command, results []model.Result) {
	for i, c := range cmds {
		if c, ok := c.(model.TakeOver); ok && results[i].Code == model.OK {
			snap := s.state.Snapshots.At(model.SnapshotKey(c.System, c.Service, c.Container, c.Snapshot))
			s.truth[c.Service+" on timeline "+results[i].Value] = s.value(c.Service, snap.ID)
			s.taken++
		}
	}
}

func (s *sim) view() model.View {
	v := model.View{Self: "", Silent: map[string]time.Duration{}, DownFor: map[string]time.Duration{}}
	if s.leader != nil {
		for id, d := range s.leader.downs {
			v.DownFor[id] = s.now.Sub(d.at)
		}
	}
	for _, n := range s.nodes {
		v.Silent[n.id] = 0
		if !n.up {
			v.Silent[n.id] = s.now.Sub(n.since)
		}
	}
	return v
}

func brief(c model.Command) string {
	switch c := c.(type) {
	case model.Begin:
		return c.Kind + " " + c.Why
	case model.Part:
		return fmt.Sprintf("+%d -%d", len(c.Added), len(c.Gone))
	}
	return fmt.Sprint(c)
}

func (s *sim) act(n *simNode) {
	st := s.log[n.seen]
	own := model.Own{Processes: n.procs, Packages: n.pkgs, Busy: map[string]bool{}, Failures: n.failures,
		Leased: s.now.Before(n.lease.Add(-model.LeaseTerm))}
	for k := range n.busy {
		own.Busy[k] = true
	}
	steps, _ := model.Next(st, n.id, own, s.now)
	for _, step := range steps {
		if _, busy := n.busy[step.Key()]; busy {
			s.fatal("Next gave a step for something busy: %+v", step)
		}
		s.note("%s: %s %s claim=%s (%s)", n.id, step.Kind, step.Row, step.Claim, step.Reason)
		claim := uint64(0)
		if step.Claim != "" {
			epoch := st.Nodes.At(n.id).Epoch
			res := s.send(model.Claims{Node: n.id, Epoch: epoch, At: s.now, Items: []model.Claim{{Row: step.Row, Phase: step.Claim, Generation: step.Generation}}})
			if res.Code != model.OK || res.Verdicts[0].Code != model.OK {
				s.note("   refused: %+v", res)
				continue
			}
			if s.rng.IntN(10) == 0 {
				s.note("   the answer was lost")
				continue
			}
			claim = res.Index
		}
		n.busy[step.Key()] = simStep{step, claim, s.now.Add(time.Duration(s.rng.IntN(400)) * time.Millisecond)}
	}
}

func (s *sim) finishSteps(n *simNode) {
	for _, key := range sorted(n.busy) {
		if b := n.busy[key]; !s.now.Before(b.ends) {
			delete(n.busy, key)
			s.perform(n, b)
		}
	}
}

func sorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// perform does what node/steps.go does, on simulated processes.
func (s *sim) perform(n *simNode, b simStep) {
	st := s.log[n.seen]
	r, _ := st.Rows.Get(b.step.Row)
	claim := b.claim
	if claim == 0 {
		claim = r.Claim
	}
	var snap *model.Snapshot
	report := func(phase model.Phase, reason string) {
		if s.rng.IntN(12) == 0 || !n.up {
			s.note("%s: report %s of %s was lost", n.id, phase, r.Key)
			return
		}
		res := s.send(model.Reports{Node: n.id, Epoch: st.Nodes.At(n.id).Epoch, At: s.now, Items: []model.Report{{Row: b.step.Row, Phase: phase, Claim: claim, Reason: reason, Snapshot: snap}}})
		s.note("%s: report %s of %s: %+v", n.id, phase, b.step.Row, res)
	}
	switch b.step.Kind {
	case model.StepPrepare:
		report(model.Prepared, "")
	case model.StepStart, model.StepRepair:
		spec, ok := s.state.Specs.Get(b.step.Row)
		if !ok || r.Key == "" || r.Obsolete && b.step.Kind == model.StepStart {
			return // the agent gives up starts that are not wanted any more
		}
		if spec.Spec.Command[1] == "broken" || s.rng.Float64() < n.flaky {
			s.failed(n, r, b.step.Row, claim)
			return
		}
		if spec.Exclusive && !s.now.Before(n.lease.Add(-model.LeaseTerm)) {
			return // the keeper refuses it
		}
		if p := n.procs[b.step.Row]; !p.Running {
			s.started(n, b)
			n.procs[b.step.Row] = model.Process{Running: true, PID: 1, Claim: claim, Since: s.now}
		}
		if b.step.Kind == model.StepStart {
			report(model.Active, "")
		}
	case model.StepStop:
		s.stopped(n, b)
		delete(n.procs, b.step.Row)
		report(model.Stopped, "")
	case model.StepSave:
		delete(n.procs, b.step.Row)
		if s.rng.Float64() < n.flaky {
			s.failed(n, r, b.step.Row, claim)
			return
		}
		snap = &model.Snapshot{ID: fmt.Sprintf("%s=%d", r.Service, n.disk[r.Service])}
		report(model.Saved, "")
	case model.StepRestore:
		c := st.Custody.At(r.CustodyKey())
		if c.Snapshot == "" || s.rng.Float64() < n.flaky {
			s.failed(n, r, b.step.Row, claim)
			return
		}
		if p := n.procs[b.step.Row]; p.Running && p.Claim >= claim {
			s.fatal("%s is restored on %s after it was started", r.Service, n.id)
		}
		delete(n.procs, b.step.Row) // of an earlier claim, which was lost with the node
		n.disk[r.Service] = s.value(r.Service, c.Snapshot)
		s.moves++
		snap = &model.Snapshot{ID: c.Snapshot}
		report(model.Restored, "")
	case model.StepGiveUp:
		delete(n.procs, b.step.Row)
		report(model.Failed, b.step.Reason)
	case model.StepKill:
		delete(n.procs, b.step.Row)
	}
}

func (s *sim) failed(n *simNode, r model.Row, key string, claim uint64) {
	f := n.failures[key]
	if f.Claim != claim || f.Retry != r.Retry {
		f = model.Failure{Claim: claim, Retry: r.Retry}
	}
	f.Attempts, f.At, f.Reason = f.Attempts+1, s.now, "it is broken"
	n.failures[key] = f
}

// started holds a start against the world: every dependency must have a process, somewhere, unless its node crashed.
func (s *sim) started(n *simNode, b simStep) {
	if b.step.Kind != model.StepStart {
		return
	}
	r, ok := s.state.Rows.Get(b.step.Row)
	if !ok || r.Claim != b.claim && b.claim != 0 {
		return // lost meanwhile
	}
	for _, on := range r.DependsOn {
		node, _, _ := strings.Cut(on, "/")
		d, exists := s.state.Rows.Get(on)
		for _, m := range s.nodes {
			if m.id == node && m.up && exists && d.Phase == model.Active && !m.procs[on].Running && s.now.Sub(m.since) > 5*time.Second {
				s.note("start of %s while %s is being repaired", r.Key, on)
			}
		}
		died := s.log[r.Claim].Nodes.At(node).Epoch != s.state.Nodes.At(node).Epoch // after the claim was taken
		if exists && d.Phase != model.Active && d.Phase != model.Lost && !r.Obsolete && r.Phase == model.Starting && !died {
			s.fatal("%s starts on %s while %s is %s", r.Service, n.id, d.Service, d.Phase)
		}
	}
}

// stopped holds a stop against the world: nothing that depends on it runs, unless its node is out of reach. What was
// lost is stopped without asking when its node is back, and may be so after the claim.
func (s *sim) stopped(n *simNode, b simStep) {
	if b.step.Claim != model.Stopping {
		return
	}
	for _, m := range s.nodes {
		for key, p := range m.procs {
			spec, ok := s.state.Specs.Get(key)
			r, exists := s.state.Rows.Get(key)
			if exists && (r.Phase == model.Stopping || r.Phase == model.Saving) && r.Claim > b.claim {
				continue
			}
			if ok && exists && p.Running && r.Phase.Alive() && slices.Contains(spec.DependsOn, b.step.Row) {
				s.fatal("%s stops on %s while %s, which depends on it, is %s", b.step.Row, n.id, spec.Service, r.Phase)
			}
		}
	}
}

// check holds what must be true of the world at every instant: one process per service and node at the most, no port
// twice on a node, and of what is exclusive one process anywhere, behind a cut too.
func (s *sim) check() {
	exclusive := map[string]string{}
	for _, n := range s.nodes {
		services, ports := map[string]string{}, map[int]string{}
		for key, p := range n.procs {
			spec, ok := s.state.Specs.Get(key)
			if !p.Running || !ok {
				continue
			}
			if other, twice := services[spec.Service]; twice {
				s.fatal("%s runs twice on %s: %s and %s", spec.Service, n.id, other, key)
			}
			services[spec.Service] = key
			if other, twice := exclusive[spec.Service]; twice && spec.Exclusive {
				s.fatal("%s, which is exclusive, runs as %s and %s", spec.Service, other, key)
			}
			if spec.Exclusive {
				exclusive[spec.Service] = key
			}
			for _, port := range spec.Spec.Ports {
				if other, taken := ports[port]; taken {
					s.fatal("port %d is used twice on %s: %s and %s", port, n.id, other, spec.Service)
				}
				ports[port] = spec.Service
			}
		}
	}
	s.checkState()
}

// checkState holds what must be true of State itself.
func (s *sim) checkState() {
	numbers := map[string]string{}
	for _, r := range s.state.Reservations.All() {
		if other, taken := numbers[r.NumberKey()]; taken {
			s.fatal("number %s is reserved by %s and %s", r.NumberKey(), other, r.Key())
		}
		numbers[r.NumberKey()] = r.Key()
	}
	dependents := 0
	moving := 0
	for key, r := range s.state.Rows.All() {
		if r.Moving() {
			if moving++; !s.state.Moving.Has(key) {
				s.fatal("row %s is %s and not in the index of those", key, r.Phase)
			}
		}
		if r.Phase == model.Saved {
			s.fatal("row %s of %s is saved and still there", key, r.Service)
		}
		for _, k := range r.DependentKeys() {
			if dependents++; !s.state.Dependents.Has(k) {
				s.fatal("row %s is not in the index of dependents", key)
			}
		}
		if key != r.Key || !s.state.ByService.Has(model.ServiceKey(r.RowSpec)) || !s.state.Specs.Has(key) {
			s.fatal("row %s is not indexed", key)
		}
	}
	transit := 0
	for key, c := range s.state.Custody.All() {
		if c.Snapshot != "" {
			if transit++; !s.state.Transit.Has(key) {
				s.fatal("the state of %s is on its way and not in the index of those", key)
			}
		}
	}
	if s.state.Moving.Len() != moving || s.state.Transit.Len() != transit {
		s.fatal("indexes hold %d/%d rows that move and %d/%d states on their way", s.state.Moving.Len(), moving, s.state.Transit.Len(), transit)
	}
	if n := s.state.Dependents.Len(); n != dependents {
		s.fatal("the index of dependents holds %d of %d", n, dependents)
	}
	if s.state.ByService.Len() != s.state.Rows.Len() || s.state.Numbers.Len() != s.state.Reservations.Len() {
		s.fatal("indexes hold %d/%d rows and %d/%d numbers", s.state.ByService.Len(), s.state.Rows.Len(), s.state.Numbers.Len(), s.state.Reservations.Len())
	}
}

// await turns until the newest intent is settled and the world is what State says.
func (s *sim) await(limit time.Duration) model.Outcome {
	for end := s.now.Add(limit); s.now.Before(end); {
		s.turn()
		sys := s.state.Systems.At(simSystem)
		if in, ok := s.state.Intent(simSystem, sys.Intent); ok && in.Outcome == model.Settled && s.quiet() == "" {
			return in.Outcome
		}
	}
	in, _ := s.state.Intent(simSystem, s.state.Systems.At(simSystem).Intent)
	s.fatal("not settled after %v: intent %d is %s (%s): %s; %s", limit, in.Number, in.Outcome, in.Reason, model.CanSettle(s.state, simSystem), s.quiet())
	return ""
}

// quiet says what of the world differs from State: every wanted row has its process, there is no other, and the leader
// has nothing left to decide.
func (s *sim) quiet() string {
	if cmds, _, _ := model.Decide(s.state, s.view(), model.Memory{}, s.now); len(cmds) > 0 {
		return fmt.Sprintf("the leader is about to %T", cmds[0])
	}
	want := map[string]bool{}
	for _, r := range s.state.SystemRows(simSystem) {
		want[r.Key] = true
	}
	in, _ := s.state.Intent(simSystem, s.state.Systems.At(simSystem).Intent)
	if m, diags := model.Parse(in.Source, model.Known{Modules: model.Modules()}); !diags.HasErrors() {
		for _, service := range m.Services {
			if len(s.state.ServiceRows(simSystem, service.Name)) == 0 {
				return "nothing of " + service.Name
			}
		}
	}
	for _, n := range s.nodes {
		if !n.up {
			continue
		}
		if s.state.Nodes.At(n.id).Down {
			return n.id + " is not back in State"
		}
		for key, p := range n.procs {
			if p.Running && !want[key] {
				return "a process too many: " + key
			}
		}
		for key := range want {
			if strings.HasPrefix(key, n.id+"/") && !n.procs[key].Running {
				return "no process for " + key
			}
		}
	}
	return ""
}

func (s *sim) crash(n *simNode) {
	s.note("%s: power off", n.id)
	n.up, n.since = false, s.now
	n.procs, n.busy, n.failures, n.downs = map[string]model.Process{}, map[string]simStep{}, map[string]model.Failure{}, nil
}

// restartAgent kills only the agent: its processes go on.
func (s *sim) restartAgent(n *simNode) {
	s.note("%s: agent killed and started", n.id)
	n.busy, n.failures = map[string]simStep{}, map[string]model.Failure{}
}

func (s *sim) cutOff(n *simNode) {
	s.note("%s: cut off, processes go on", n.id)
	n.up, n.since = false, s.now
}

func (s *sim) back(n *simNode) {
	s.note("%s: back", n.id)
	n.up, n.since = true, s.now
}

// TestSimulation runs random systems through deploys, crashes, cuts and returns, and waits for each to settle.
func TestSimulation(t *testing.T) {
	runs := 100
	switch {
	case os.Getenv("ISONOMIA_SOAK") == "1":
		runs = 2000
	case testing.Short():
		runs = 16
	}
	var moves, returns, taken atomic.Int64
	t.Cleanup(func() {
		if !t.Failed() && (moves.Load() == 0 || returns.Load() == 0 || taken.Load() == 0 && !testing.Short()) {
			t.Error("no state was moved, or none returned, or none taken over: the simulation shows nothing of it")
		}
		t.Logf("%d states moved, %d asked to return, %d taken over", moves.Load(), returns.Load(), taken.Load())
	})
	for seed := range uint64(runs) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			s := newSim(t, seed, 3+int(seed%4))
			s.deploy("first", s.simModel(4+int(seed%17), "", ""))
			s.storm(120)
			s.await(10 * time.Minute)
			s.deploy("second", s.simModel(4+int(seed%13), "2", ""))
			s.storm(100)
			s.deploy("hasty", s.simModel(4+int(seed%11), "3", "")) // whatever the second has come to
			s.storm(100)
			s.await(10 * time.Minute)
			s.absence()
			s.await(10 * time.Minute)
			before, _ := s.state.Manifest(simSystem, s.state.Systems.At(simSystem).Generation)
			s.deploy("broken", s.simModel(6, "3", "s03"))
			s.await(10 * time.Minute)
			after, _ := s.state.Manifest(simSystem, s.state.Systems.At(simSystem).Generation)
			if !slices.Equal(before, after) {
				s.fatal("rolled back to something else:\n%v\n%v", before, after)
			}
			s.noNews()
			moves.Add(int64(s.moves))
			returns.Add(int64(s.returns))
			taken.Add(int64(s.taken))
		})
	}
}

// noNews holds that composing the newest intent again, as a new leader does, changes nothing.
func (s *sim) noNews() {
	was := s.state.Systems.At(simSystem)
	for range 20 {
		s.mem = model.Memory{}
		s.turn()
	}
	if now := s.state.Systems.At(simSystem); now != was {
		s.fatal("new leaders changed a settled system: %+v to %+v", was, now)
	}
}

// absence has a node away for long enough that its states go on elsewhere, and back again.
func (s *sim) absence() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	for key := range n.procs { // rather one that has a state
		if !s.state.Rows.At(key).Managed {
			n = s.nodes[s.rng.IntN(len(s.nodes))]
		}
		break
	}
	if s.rng.IntN(2) == 0 {
		s.crash(n)
	} else {
		s.cutOff(n)
	}
	for range 100 + s.rng.IntN(500) {
		s.turn()
	}
	s.back(n)
}

// storm lets things go wrong for a number of turns, then brings every node back.
func (s *sim) storm(turns int) {
	for range turns {
		n := s.nodes[s.rng.IntN(len(s.nodes))]
		n.flaky = 0.3 * float64(s.rng.IntN(8)/7)
		switch x := s.rng.IntN(100); {
		case x < 2 && n.up:
			s.crash(n)
		case x < 3 && n.up:
			s.cutOff(n)
		case x < 6 && !n.up:
			s.back(n)
		case x < 9 && n.up:
			s.restartAgent(n)
		case x < 10 && s.state.Systems.At(simSystem).Settled > 0:
			s.note("abort: %+v", s.apply(model.Abort{Proposal: fmt.Sprint("abort", len(s.log)), System: simSystem, By: "ann"})[0])
		case x < 12 && s.rng.IntN(2) == 0:
			s.rollback()
		case x < 12:
			drain := model.DrainNode{ID: n.id, On: !s.state.Nodes.At(n.id).Draining}
			s.note("%+v: %+v", drain, s.apply(drain)[0])
		case x < 15 && n.up:
			for key := range n.procs {
				s.note("%s: process of %s dies", n.id, key)
				n.procs[key] = model.Process{Claim: n.procs[key].Claim, Since: s.now}
				break
			}
		}
		s.turn()
	}
	for _, n := range s.nodes {
		n.flaky = 0
		s.apply(model.DrainNode{ID: n.id})
		if !n.up {
			s.back(n)
		}
	}
}
