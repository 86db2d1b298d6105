package model

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// DownAfter is how long nothing must have been heard of a node before it is marked down.
const DownAfter = 3 * time.Second

// UpBelow is how lately a node that is down must have been heard to be marked up.
const UpBelow = time.Second

// View is what only the leader knows: how long each node has been silent, by the leader's own clock.
type View struct {
	Self   string                   // node id of the leader
	Silent map[string]time.Duration // by node id; a node that is absent was not listened for yet
	// Late is how much the leader itself was late lately: a leader that was late judges nobody by that much.
	Late time.Duration
	// DownFor is, by node id, for how long the leader's own State has shown a node as down, in its present epoch; that it did
	// not lead for as long does not matter.
	DownFor map[string]time.Duration
}

// Memory is what Decide needs to remember from one turn to the next within a term: when it first saw a condition, and
// for which nodes and generation it composed last. The zero Memory is a new leader's.
type Memory struct {
	Seen     map[string]time.Time
	Composed map[string]string
	Flaps    map[string]Flap // by node id
}

// Flap is what the leader remembers of a node that it marked down.
type Flap struct {
	Downs int       // in a row, with no more than FlapMemory between two
	Last  time.Time // the last of them
	Heard time.Time // since when it is heard again; zero: it is not
}

// FlapMemory is how long a node must have been up for its last time down to be forgotten.
const FlapMemory = 10 * time.Minute

// steadyFor is how long a node must be heard before it is marked up: not at all the first time, and ever longer, up to a
// minute, the more often it went down.
func (f Flap) steadyFor() time.Duration { return Backoff(f.Downs - 1) }

// Decide says what the leader should propose now, and when to ask again if nothing changes before.
func Decide(s *State, v View, m Memory, now time.Time) (cmds []Command, next Memory, wake time.Time) {
	d := &decision{s: s, v: v, old: m, now: now, next: Memory{Seen: map[string]time.Time{}, Composed: map[string]string{}}}
	d.next.Flaps = maps.Clone(m.Flaps)
	if cmds := d.liveness(); len(cmds) > 0 {
		m.Flaps = d.next.Flaps
		return cmds, m, time.Time{} // the new State is looked at before anything is composed on it
	}
	d.takeOvers()
	if len(d.cmds) > 0 {
		return d.cmds, d.next, time.Time{}
	}
	for name := range s.Systems.All() {
		d.system(name)
	}
	return d.cmds, d.next, d.wake
}

type decision struct {
	s    *State
	v    View
	old  Memory
	next Memory
	now  time.Time
	cmds []Command
	wake time.Time
}

// liveness marks nodes down that were silent too long, and up that are heard again.
func (d *decision) liveness() []Command {
	var cmds []Command
	for id, n := range d.s.Nodes.All() {
		silent, known := d.v.Silent[id]
		if !known || n.Left || id == d.v.Self && !n.Down {
			continue
		}
		limit := DownAfter + d.v.Late
		switch {
		case !n.Down && silent >= limit:
			d.wentDown(id)
			cmds = append(cmds, MarkDown{ID: id, Epoch: n.Epoch, Why: fmt.Sprintf("nothing heard for %.1f s", silent.Seconds())})
		case !n.Down:
			d.wakeAt(d.now.Add(limit - silent))
		case d.steady(id, silent):
			cmds = append(cmds, MarkUp{ID: id, Epoch: n.Epoch})
		case !n.Fenced:
			cmds = append(cmds, d.fence(n)...)
		}
	}
	return cmds
}

// wentDown remembers that a node was marked down.
func (d *decision) wentDown(id string) {
	f := d.next.Flaps[id]
	if d.now.Sub(f.Last) > FlapMemory {
		f.Downs = 0
	}
	d.flap(id, Flap{Downs: f.Downs + 1, Last: d.now})
}

// steady says of a node that is down that it is heard again, and if it flaps, that it has been for long enough: what comes
// and goes would have everything move each time.
func (d *decision) steady(id string, silent time.Duration) bool {
	f := d.next.Flaps[id]
	if silent >= UpBelow {
		if !f.Heard.IsZero() {
			f.Heard = time.Time{}
			d.flap(id, f)
		}
		return false
	}
	wait := f.steadyFor()
	if wait > 0 && f.Heard.IsZero() {
		f.Heard = d.now
		d.flap(id, f)
	}
	if wait > 0 && d.now.Before(f.Heard.Add(wait)) {
		d.wakeAt(f.Heard.Add(wait))
		return false
	}
	return true
}

func (d *decision) flap(id string, f Flap) {
	if d.next.Flaps == nil {
		d.next.Flaps = map[string]Flap{}
	}
	d.next.Flaps[id] = f
}

// fence says of a node that is down that nothing exclusive runs there, once its last lease is over. No leader grants one to a
// node that the log has down, and who grants proves by an entry that is appended after the node asked that it has seen the
// log up to there. So the node asked before the entry that has it down was appended, hence before anybody's State showed that.
func (d *decision) fence(n Node) []Command {
	ago, known := d.v.DownFor[n.ID]
	switch {
	case !known:
		return nil
	case ago < FenceAfter:
		d.wakeAt(d.now.Add(FenceAfter - ago))
		return nil
	}
	return []Command{Fence{ID: n.ID, Epoch: n.Epoch}}
}

// takeOvers lets states of fenced nodes go on elsewhere, where their policy wants that and has been waited for.
func (d *decision) takeOvers() {
	fenced := false
	for _, n := range d.s.Nodes.All() {
		fenced = fenced || n.Fenced
	}
	if !fenced {
		return
	}
	for key := range d.s.Custody.All() {
		cmd, wait, why := TakeOverOf(d.s, key, d.now)
		if why != "" {
			continue
		}
		seen := fmt.Sprintf("fenced/%s/%d", cmd.Node, cmd.Epoch)
		first, known := d.old.Seen[seen]
		if !known {
			first = d.now
		}
		d.next.Seen[seen] = first
		if at := first.Add(wait); d.now.Before(at) {
			d.wakeAt(at)
			continue
		}
		if d.wouldRun(key, cmd) {
			d.cmds = append(d.cmds, cmd)
		}
	}
}

// wouldRun says whether a service whose state is taken over would be placed on a node that is up: else nothing is won, and
// what its node has that the copy lacks would be lost for it. The answer holds until the nodes or the model change.
func (d *decision) wouldRun(key string, cmd TakeOver) bool {
	sys := d.s.Systems.At(cmd.System)
	in, ok := d.s.Intent(cmd.System, sys.Intent)
	if !ok {
		return false
	}
	memo, print := "take over "+key, d.nodesPrint(sys)
	if d.old.Composed[memo] == print {
		d.next.Composed[memo] = print
		return false
	}
	then := *d.s
	then.Custody = then.Custody.Set(key, Custody{Snapshot: "taken over"})
	m, diags := composeIntent(&then, in)
	runs := !diags.HasErrors() && slices.ContainsFunc(m.Rows, func(r RowSpec) bool {
		return r.Service == cmd.Service && r.Container == cmd.Container && d.s.Nodes.At(r.Node).Takes()
	})
	if !runs {
		d.next.Composed[memo] = print
	}
	return runs
}

func (d *decision) wakeAt(t time.Time) {
	if d.wake.IsZero() || t.Before(d.wake) {
		d.wake = t
	}
}

func (d *decision) system(name string) {
	sys := d.s.Systems.At(name)
	in, ok := d.s.Intent(name, sys.Intent)
	if !ok {
		return
	}
	d.next.Composed[name] = d.old.Composed[name]
	failed := d.failed(name)
	switch {
	case in.Abort != "" && !in.Outcome.Final():
		d.rollback(in, Aborted, "aborted by "+in.Abort, Fault{})
	case len(failed) > 0 && !in.Outcome.Final():
		d.failure(sys, in, failed)
	case d.unprepared(sys, in):
	case d.adapt(sys, in):
	case !in.Outcome.Final() && CanSettle(d.s, name) == "":
		d.cmds = append(d.cmds, Finish{System: name, Intent: in.Number, Generation: sys.Generation, Outcome: Settled})
	}
}

// failed gives the rows that failed on a node that is up, in key order: the newest generation's, and those whose state it
// needs and that could not save it.
func (d *decision) failed(system string) []Row {
	var rows []Row
	for _, r := range d.s.SystemRows(system) {
		counts := !r.Obsolete || r.SaveFailed && MustSave(d.s, r)
		if n, up := d.s.Nodes.Get(r.Node); counts && r.Phase == Failed && up && !n.Down {
			rows = append(rows, r)
		}
	}
	return rows
}

// SickPatience is how long the nodes of a new deployment may be sick without having prepared what they were given.
const SickPatience = 10 * time.Second

// unprepared rolls a deployment back of which a sick node does not prepare its part: it cannot even write that it cannot.
func (d *decision) unprepared(sys System, in Intent) bool {
	if in.Outcome.Final() || in.Kind == KindAuto || sys.Settled == in.Number {
		return false
	}
	for _, r := range d.s.SystemRows(sys.Name) {
		n := d.s.Nodes.At(r.Node)
		if r.Obsolete || r.Phase != Planned || n.Sick == "" || n.Down {
			continue
		}
		seen := fmt.Sprintf("unprepared/%d/%s", sys.Generation, r.Key)
		first, known := d.old.Seen[seen]
		if !known {
			first = d.now
		}
		d.next.Seen[seen] = first
		if at := first.Add(SickPatience); d.now.Before(at) {
			d.wakeAt(at)
			continue
		}
		d.rollback(in, RolledBack, fmt.Sprintf("%s on %s: it was not prepared: %s", r.Service, n.Name, n.Sick), Fault{Service: r.Service, Node: n.Name})
		return true
	}
	return false
}

func (d *decision) failure(sys System, in Intent, failed []Row) {
	r := failed[0]
	why := fmt.Sprintf("%s on %s: %s", r.Service, d.s.NodeName(r.Node), r.Reason)
	if in.Kind == KindAuto || sys.Settled == in.Number {
		d.retry(sys, in, failed, why) // there is nothing better to go back to
		return
	}
	d.rollback(in, RolledBack, why, Fault{Service: r.Service, Node: d.s.NodeName(r.Node), Output: r.Output})
}

// retry plans the failed rows of a rollback again, with back-off, and says that it is stuck.
func (d *decision) retry(sys System, in Intent, failed []Row, why string) {
	key := fmt.Sprintf("retry/%s/%d/%d", sys.Name, sys.Generation, in.Retries)
	first, seen := d.old.Seen[key]
	if !seen {
		first = d.now
	}
	d.next.Seen[key] = first
	if in.Outcome != Stuck || in.Reason != why {
		d.cmds = append(d.cmds, Finish{System: sys.Name, Intent: in.Number, Generation: sys.Generation, Outcome: Stuck, Reason: why})
	}
	at := first.Add(Backoff(in.Retries + 1))
	if d.now.Before(at) {
		d.wakeAt(at)
		d.adapt(sys, in) // what fails does not keep the rest from moving off a dead node
		return
	}
	var keys []string
	for _, r := range failed {
		keys = append(keys, r.Key)
	}
	d.cmds = append(d.cmds, Retry{System: sys.Name, Generation: sys.Generation, Rows: keys})
}

// rollback replaces a running intent by the newest settled one, or by nothing the first time.
func (d *decision) rollback(in Intent, ending Outcome, why string, fault Fault) {
	sys := d.s.Systems.At(in.System)
	target, _ := d.s.Intent(in.System, sys.Settled)
	specs, _ := intentRows(d.s, target)
	m, diags := ComposeRollback(d.s, in.System, sys.Settled, undoReturns(d.s, specs))
	if diags.HasErrors() {
		d.stuck(sys, in, "rolling back: "+diags.Error())
		return
	}
	d.propose(Diff(d.s, in.System, m), Draft{Kind: KindAuto, Source: target.Source, Packages: target.Packages,
		Excluded: target.Excluded, Target: sys.Settled, By: in.By, Why: why, Origin: target.Origin, Ending: ending, Reason: why, Failed: fault})
}

func (d *decision) stuck(sys System, in Intent, why string) {
	if in.Outcome != Stuck || in.Reason != why {
		d.cmds = append(d.cmds, Finish{System: sys.Name, Intent: in.Number, Generation: sys.Generation, Outcome: Stuck, Reason: why})
	}
}

// propose turns a plan into commands under an id that another leader, deciding the same, would choose as well.
func (d *decision) propose(p Plan, draft Draft) {
	draft.ID = fmt.Sprintf("leader/%s/%d/%s", p.System, p.Base, draft.Kind)
	draft.At = d.now
	d.cmds = append(d.cmds, p.Commands(draft)...)
}

// adapt composes the newest intent again when the nodes changed since it was composed last: what was on a node that
// is down or gone moves to the rest. It answers whether that changes anything.
func (d *decision) adapt(sys System, in Intent) bool {
	print := d.nodesPrint(sys)
	if d.old.Composed[sys.Name] == print {
		return false
	}
	d.next.Composed[sys.Name] = print
	p, diags := Adaptation(d.s, in)
	if diags.HasErrors() {
		d.stuckRunning(sys, in, "composing for the nodes that are left: "+diags.Error())
		return false
	}
	if p.Empty() {
		return false
	}
	d.propose(p, Draft{Kind: KindAdapt, Intent: in.Number, // the intent has its source and packages already
		By: "isonomia", Why: cmp.Or(causes(p.Changes), "what it reserves changed"), Origin: in.Origin})
	return true
}

// Adaptation is the plan that makes an intent fit the nodes as they are now.
func Adaptation(s *State, in Intent) (Plan, Diagnostics) {
	m, diags := composeIntent(s, in)
	if diags.HasErrors() {
		return Plan{}, diags
	}
	p := Diff(s, in.System, m)
	p.Retry = nil // when to try a failed row again is not for the nodes to say
	p.Changes = slices.DeleteFunc(p.Changes, func(c Change) bool { return c.Action == ActRetry })
	p.StopsBecause(func(c Change) string { return p.whyLeft(s, c.Service, c.Node) + ", and no other may run it now" })
	return p, nil
}

// causes says why an adaptation was needed: the reasons of what moves, starts or stops, or else of what restarts.
func causes(changes []Change) string {
	var first, second []string
	for _, c := range changes {
		if c.Action == ActRestart {
			second = append(second, c.Reasons...)
		} else {
			first = append(first, c.Reasons...)
		}
	}
	if len(first) == 0 {
		first = second
	}
	slices.Sort(first)
	return strings.Join(slices.Compact(first), "; ")
}

func (d *decision) stuckRunning(sys System, in Intent, why string) {
	if !in.Outcome.Final() {
		d.stuck(sys, in, why)
	}
}

// nodesPrint names what adapt depends on: the generation, and of every node whether it is up, its address and facts.
func (d *decision) nodesPrint(sys System) string {
	h := sha256.New()
	fmt.Fprintf(h, "%d/%d;", sys.Generation, sys.Intent)
	for id, n := range d.s.Nodes.All() {
		fmt.Fprintf(h, "%s %t %t %t %s %q;", id, n.Down, n.Left, n.Draining, n.Host, n.Sick)
		for _, k := range sortedKeys(n.Attributes) {
			fmt.Fprintf(h, "%s=%q,", k, n.Attributes[k])
		}
	}
	for key, c := range d.s.Custody.Prefix(sys.Name + "/") {
		if WasTakenOver(c.Timeline) {
			fmt.Fprintf(h, "%s %q;", key, c.Timeline)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// composeIntent composes an intent's source again on the nodes that are left.
func composeIntent(s *State, in Intent) (Manifest, Diagnostics) {
	m, diags := parseIntent(in)
	if diags.HasErrors() {
		return Manifest{}, diags
	}
	return composeParsed(s, in, m, nil, nil)
}

func composeParsed(s *State, in Intent, m *Model, prefer []RowSpec, returns []Return) (Manifest, Diagnostics) {
	return Compose{State: s, System: in.System, Model: m, Packages: in.Packages, Excluded: in.Excluded, Adapt: true, Prefer: prefer, Returns: returns}.Run()
}

// parseIntent parses an intent's source; that of one that went back to nothing is empty.
func parseIntent(in Intent) (*Model, Diagnostics) {
	if len(in.Source.Files) == 0 {
		return &Model{}, nil
	}
	return Parse(in.Source, Known{Modules: Modules()})
}

// ComposeRollback gives the manifest of a settled intent as it was, row for row, where every node of it is up, the numbers
// it held are free and its data are those that the rows had; else its source composed anew with those rows as preference.
// Target 0 is the empty manifest. The data stay as they are, except for the returns.
func ComposeRollback(s *State, system string, target uint64, returns []Return) (Manifest, Diagnostics) {
	if target == 0 {
		return Compose{State: s, System: system, Model: &Model{}}.Run()
	}
	in, ok := s.Intent(system, target)
	if !ok {
		return Manifest{}, Diagnostics{problem(noRange, fmt.Sprintf("intent %d of %s is not kept any more", target, system), "See history for what can be gone back to.")}
	}
	specs, complete := intentRows(s, in)
	m, diags := parseIntent(in)
	if diags.HasErrors() {
		return Manifest{}, diags
	}
	if complete && restorable(s, system, specs) && onTimelines(s, specs, returns) {
		return restore(s, in, m, specs, returns), nil
	}
	return composeParsed(s, in, m, specs, returns)
}

// intentRows gives the rows of an intent's newest generation; complete is false if some are not kept any more.
func intentRows(s *State, in Intent) (specs []RowSpec, complete bool) {
	specs = []RowSpec{}
	keys, complete := s.Manifest(in.System, in.Last)
	for _, k := range keys {
		r, have := s.Specs.Get(k)
		complete = complete && have
		specs = append(specs, r)
	}
	return specs, complete
}

// restorable says whether rows can come back exactly: their nodes are up at the same address and nobody else has
// their numbers.
func restorable(s *State, system string, rows []RowSpec) bool {
	for _, r := range rows {
		if n, ok := s.Nodes.Get(r.Node); !ok || !n.Takes() || n.Host != r.Spec.Host {
			return false
		}
		if c := s.Custody.At(r.CustodyKey()); r.Managed && c.Node != "" && c.Node != r.Node && !canLeave(s, c.Node) {
			return false
		}
		for _, res := range rowReservations(r) {
			foreign := func(have Reservation) bool { return have.System != system }
			if slices.ContainsFunc(s.NumberHolders(res.Resource, res.Number, res.Node), foreign) {
				return false
			}
		}
	}
	return true
}

// restore makes the manifest of these rows. A row's order is not in its key, so State has it as some later intent
// wanted it: it is taken from the intent's model.
func restore(s *State, in Intent, parsed *Model, rows []RowSpec, returns []Return) Manifest {
	for i, r := range rows {
		if service := parsed.Service(r.Service); service != nil {
			rows[i].After = slices.Clone(service.ActivatesAfter)
		}
	}
	c := &composer{in: Compose{State: s, System: in.System}, reserved: map[string]Reservation{}, numbers: newAllotter(s, func(Reservation) bool { return true })}
	for _, r := range rows {
		for _, res := range rowReservations(r) {
			c.reserved[res.Key()] = res
		}
	}
	c.keepOwners()
	kept := slices.DeleteFunc(slices.Clone(parsed.Services), func(s *Service) bool { return slices.Contains(in.Excluded, s.Name) })
	m := Manifest{Rows: rows, Policies: policies(kept), Returns: returns, Moves: parsed.Distribution.Moves}
	m.Reserve, m.Release = c.reservationChanges()
	m.Digest = digestRows(rows, sortedValues(c.reserved))
	return m
}
