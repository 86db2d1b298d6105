package model

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Own is what a node sees of itself; it never comes from the log.
type Own struct {
	Processes map[string]Process // by row key: what runs or ran, as the keeper tells
	Packages  map[string]bool    // by tree id: materialised here
	Busy      map[string]bool    // row keys, and PackageStep(id), with a step under way
	Failures  map[string]Failure // by row key, and PackageStep(id)
	Leased    bool               // the node's lease runs: what is exclusive may start
}

// Process is a service process as its node sees it.
type Process struct {
	Running bool
	PID     int
	Claim   uint64    // log index of the claim that started it
	Since   time.Time // start, or exit once it is not running
	Status  string    // how it ended, in words
	Output  string    // its last lines, once it ended
}

// Failure remembers the tries of one row under one claim, so that trying again waits longer and ends.
type Failure struct {
	Claim    uint64
	Retry    int
	Attempts int
	At       time.Time
	Reason   string
	Output   string
	Missing  bool // the last try failed for want of something that other nodes have, one of which may come with it
}

// StepKind is what a step does.
type StepKind string

// Kinds of step. Those that claim do so before they act.
const (
	StepFetch   StepKind = "fetch"   // bring a package here and materialise it
	StepPrepare StepKind = "prepare" // check that the row can start, report prepared
	StepStart   StepKind = "start"   // claim starting unless claimed, start, report active
	StepStop    StepKind = "stop"    // claim stopping unless claimed, stop, report stopped
	StepRepair  StepKind = "repair"  // start again in place; nothing is claimed or reported
	StepGiveUp  StepKind = "give-up" // stop what is left and report failed
	StepKill    StepKind = "kill"    // end a process that State does not know or does not want
	StepSave    StepKind = "save"    // claim saving unless claimed, stop, take the final snapshot, report saved
	StepRestore StepKind = "restore" // claim restoring unless claimed, stop, load and verify, report restored
)

// Step is one thing that a node should do now, with the reason.
type Step struct {
	Kind       StepKind
	Row        string // row key; the process's key for a kill
	Package    string // tree id, for a fetch
	Claim      Phase  // what to claim first; "" = nothing
	Generation uint64 // for the claim
	Reason     string
}

// Key is what Own.Busy holds while the step is under way.
func (s Step) Key() string {
	if s.Kind == StepFetch {
		return PackageStep(s.Package)
	}
	return s.Row
}

// PackageStep is the key of a package's fetch in Own.
func PackageStep(id string) string { return packagePrefix + id }

const packagePrefix = "package "

// Limits on trying again on one node.
const (
	StartAttempts  = 3                // of a new row, before its deployment fails
	RepairAttempts = 10               // deaths in a row of a settled one
	QuickDeath     = 5 * time.Second  // a death this soon after being ready is a failed attempt while deploying
	SteadyAfter    = 60 * time.Second // having run this long clears the count of deaths
	FetchAttempts  = 8
)

// Backoff is the wait before attempt n+1: 1, 2, 4 ... seconds, at most a minute.
func Backoff(n int) time.Duration {
	if n <= 0 {
		return 0
	}
	return min(time.Second<<min(n-1, 6), time.Minute)
}

// Next says what the node should do now that is not under way, and when to ask again if nothing changes before (zero:
// only on a change). It is asked again after every change of State or of Own.
func Next(s *State, self string, own Own, now time.Time) (steps []Step, wake time.Time) {
	t := &turn{s: s, own: own, now: now}
	n, member := s.Nodes.Get(self)
	if !member || n.Down {
		return nil, time.Time{} // claims would be refused; what runs goes on until State says more
	}
	t.orphans()
	for _, r := range s.Rows.Prefix(self + "/") {
		if !own.Busy[r.Key] {
			t.row(r)
		}
	}
	return t.steps, t.wake
}

// Offline says what a node that reaches no quorum should start again: what was active on it, needs no lease and does not run.
// Nothing is claimed or reported, and nothing is stopped.
func Offline(s *State, self string, own Own, now time.Time) (steps []Step) {
	t := &turn{s: s, own: own, now: now}
	for _, r := range s.Rows.Prefix(self + "/") {
		if r.Phase == Active && !r.Obsolete && !r.Exclusive && !own.Busy[r.Key] && !own.Processes[r.Key].Running {
			t.repair(r)
		}
	}
	return slices.DeleteFunc(t.steps, func(st Step) bool { return st.Kind != StepRepair })
}

type turn struct {
	s     *State
	own   Own
	now   time.Time
	steps []Step
	wake  time.Time
	ghost []string // keys of processes that State does not want and that still run
}

func (t *turn) add(st Step) { t.steps = append(t.steps, st) }

func (t *turn) row(r Row) {
	if t.save(r) {
		return
	}
	switch r.Phase {
	case Planned:
		if !r.Obsolete && !t.haunted(r) {
			t.prepare(r)
		}
	case Prepared, Restored:
		switch {
		case t.haunted(r):
		case CanStart(t.s, r) == "":
			if !t.mayRun(r) {
				return
			}
			t.add(Step{Kind: StepStart, Row: r.Key, Claim: Starting, Generation: t.generation(r), Reason: "its dependencies are active"})
		case CanRestore(t.s, r) == "":
			t.add(Step{Kind: StepRestore, Row: r.Key, Claim: Restoring, Generation: t.generation(r), Reason: "its state is on its way here"})
		}
	case Saving:
		t.tries(r, StepSave)
	case Restoring:
		if r.Obsolete {
			t.add(Step{Kind: StepGiveUp, Row: r.Key, Reason: "it is not wanted any more"})
		} else if p := t.own.Processes[r.Key]; !p.Running || p.Claim < r.Claim { // else this State is old: it was started since
			t.restore(r)
		}
	case Starting:
		if !t.stop(r) && t.mayRun(r) {
			t.tries(r, StepStart)
		}
	case Active:
		if !t.stop(r) && !t.own.Processes[r.Key].Running && t.mayRun(r) {
			t.repair(r)
		}
	case Stopping:
		t.add(Step{Kind: StepStop, Row: r.Key, Reason: "stopping was claimed"})
	case Failed:
		if t.own.Processes[r.Key].Running {
			t.add(Step{Kind: StepKill, Row: r.Key, Reason: "the row failed"})
		}
	}
}

// mayRun says whether the row may be started on this node now, as far as its lease is concerned: what is exclusive
// waits for it.
func (t *turn) mayRun(r Row) bool { return !r.Exclusive || t.own.Leased }

func (t *turn) generation(r Row) uint64 { return t.s.Systems.At(r.System).Generation }

// failure gives the tries that belong to the row's present claim.
func (t *turn) failure(r Row) Failure {
	if f := t.own.Failures[r.Key]; f.Claim == r.Claim && f.Retry == r.Retry {
		return f
	}
	return Failure{}
}

// due says whether the wait after a failure is over; if not, it sets the wake-up.
func (t *turn) due(f Failure) bool {
	if f.Attempts == 0 {
		return true
	}
	at := f.At.Add(Backoff(f.Attempts))
	if !t.now.Before(at) {
		return true
	}
	if t.wake.IsZero() || at.Before(t.wake) {
		t.wake = at
	}
	return false
}

func (t *turn) prepare(r Row) {
	if id := r.Spec.Package; id != "" && !t.own.Packages[id] {
		t.fetch(r, id)
		return
	}
	f := t.failure(r)
	switch {
	case f.Attempts >= StartAttempts:
		t.add(Step{Kind: StepGiveUp, Row: r.Key, Reason: f.Reason})
	case t.due(f):
		t.add(Step{Kind: StepPrepare, Row: r.Key, Reason: "it was planned"})
	}
}

func (t *turn) fetch(r Row, id string) {
	key := PackageStep(id)
	if t.own.Busy[key] {
		return
	}
	f := t.own.Failures[key]
	switch {
	case f.Attempts >= FetchAttempts:
		t.add(Step{Kind: StepGiveUp, Row: r.Key, Reason: f.Reason})
	case t.due(f):
		for _, st := range t.steps {
			if st.Key() == key {
				return
			}
		}
		t.add(Step{Kind: StepFetch, Package: id, Row: r.Key, Reason: "its package is not here"})
	}
}

// restore goes on with the restore of a state. That the only node which has it died meanwhile is no fault of the service:
// it waits for the node, as it would have done before, and is patient while State does not know.
func (t *turn) restore(r Row) {
	f := t.failure(r)
	switch c := t.s.Custody.At(r.CustodyKey()); {
	case !f.Missing:
		t.tries(r, StepRestore)
	case c.Snapshot == "" || holderUp(t.s, r, c):
		t.triesUpTo(FetchAttempts, r, StepRestore)
	}
}

// tries goes on with a step that was claimed, until it has failed too often.
func (t *turn) tries(r Row, kind StepKind) { t.triesUpTo(StartAttempts, r, kind) }

func (t *turn) triesUpTo(most int, r Row, kind StepKind) {
	f := t.failure(r)
	switch {
	case f.Attempts >= most:
		t.add(Step{Kind: StepGiveUp, Row: r.Key, Reason: f.Reason})
	case t.due(f):
		t.add(Step{Kind: kind, Row: r.Key, Reason: fmt.Sprintf("attempt %d", f.Attempts+1)})
	}
}

// save claims the end of an obsolete row whose state moves. What keeps it from that is no reason to do anything else
// with the row, unless it runs.
func (t *turn) save(r Row) bool {
	if CanSave(t.s, r) != "" {
		return false
	}
	if t.haunted(r) {
		return true
	}
	t.add(Step{Kind: StepSave, Row: r.Key, Claim: Saving, Generation: t.generation(r), Reason: whySaved(t.s, r)})
	return true
}

// whySaved says for people why r's state is saved.
func whySaved(s *State, r Row) string {
	switch {
	case s.Custody.At(r.CustodyKey()).Wanted != "":
		return "its data return to a snapshot"
	case MustMove(s, r.RowSpec):
		return "its state moves to another node"
	}
	return "it is replaced"
}

// stop claims the end of an obsolete row once its gate is open.
func (t *turn) stop(r Row) bool {
	if !r.Obsolete || CanStop(t.s, r) != "" {
		return false
	}
	t.add(Step{Kind: StepStop, Row: r.Key, Claim: Stopping, Generation: t.generation(r), Reason: "nothing needs it any more"})
	return true
}

// repair starts an active row's process again in place, without telling the log, until it has died too often.
func (t *turn) repair(r Row) {
	limit := RepairAttempts
	if in, ok := t.s.Intent(r.System, t.s.Systems.At(r.System).Intent); ok && !in.Outcome.Final() && !r.Obsolete {
		limit = StartAttempts
	}
	f := t.failure(r)
	switch {
	case f.Attempts >= limit && !r.Obsolete:
		t.add(Step{Kind: StepGiveUp, Row: r.Key, Reason: f.Reason})
	case t.due(f):
		t.add(Step{Kind: StepRepair, Row: r.Key, Reason: "its process is gone"})
	}
}

// orphans ends processes that State does not want: of rows that are no more (they became obsolete while the node was
// down) or that are not alive. A process whose claim this State does not reach yet is left alone.
func (t *turn) orphans() {
	for _, key := range sortedKeys(t.own.Processes) {
		p := t.own.Processes[key]
		if !p.Running || p.Claim > t.s.Index || t.s.Rows.Has(key) {
			continue
		}
		t.ghost = append(t.ghost, key)
		if !t.own.Busy[key] {
			t.add(Step{Kind: StepKill, Row: key, Reason: "its row is no more"})
		}
	}
	for _, key := range sortedKeys(t.own.Busy) { // a start under way may still leave a process
		if !t.s.Rows.Has(key) && !strings.HasPrefix(key, packagePrefix) {
			t.ghost = append(t.ghost, key)
		}
	}
}

// haunted says whether a process that is being ended stands in the way of the row: one of the same service, one that
// has a port of it, or one of which nothing is known any more. The gates do not see it: it has no row.
func (t *turn) haunted(r Row) bool {
	for _, key := range t.ghost {
		g, known := t.s.Specs.Get(key)
		if !known || g.System == r.System && g.Service == r.Service {
			return true
		}
		for _, n := range g.Spec.Ports {
			for _, mine := range r.Spec.Ports {
				if n == mine {
					return true
				}
			}
		}
	}
	return false
}
