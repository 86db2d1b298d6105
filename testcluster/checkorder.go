//go:build linux

package testcluster

import (
	"slices"
	"time"
)

// faultsThatSpare are the ones that leave the services of a node alone; after
// any other, a dependent on that node proves nothing.
var faultsThatSpare = []string{faultAgentKilled, faultAgentStopped, faultAgentFrozen, faultThawed, agentStarted}

// The words of fault events that checks look at.
const (
	faultAgentKilled  = "agent killed"
	faultAgentStopped = "agent stopped"
	faultAgentFrozen  = "agent frozen"
	faultThawed       = "thawed"
	faultKeeperKilled = "keeper killed"
	faultPowerOff     = "power off"
	agentStarted      = "agent started"
)

// mayBeLost is how long an agent may be silent before its cluster can have given
// up the services of its node: three seconds by design, less some lateness. Time
// serves only to forgive.
const mayBeLost = 2 * time.Second

// leaseTime is how long a node may run what must be alone, from when it asked for that. Time serves only to forgive.
const leaseTime = 6 * time.Second

// oneHolder: of two processes that act for one exclusive service, none does so
// again once the other has begun. A whole node that slept in between is forgiven
// its last word, if its claim was an older one: no lease can prevent that.
func oneHolder(o Observation) (bad []string) {
	journal := newHistory(o.Events)
	last := map[string]Hold{} // by boot
	for _, h := range o.Holds {
		before, again := last[h.Boot]
		if again && !(journal.fault(h.Node, before.To, h.From, isThaw) && older(h.Epoch, o.newest(h))) {
			say(&bad, "%s was held by %s (boot %s) until %d and from %d on, and by another in between: %v",
				h.Service, h.Node, h.Boot, before.To, h.From, holdsWithin(o.Holds, h.Service, before.To, h.From))
		}
		last[h.Boot] = h
	}
	return bad
}

func isThaw(what string) bool { return what == faultThawed }

// newest is the latest epoch of others than h that h's service was held under
// before h began.
func (o Observation) newest(h Hold) (epoch string) {
	for _, other := range o.Holds {
		if other.Service == h.Service && other.Boot != h.Boot && other.From < h.From {
			if older(epoch, other.Epoch) {
				epoch = other.Epoch
			}
		}
	}
	return epoch
}

// older compares epochs, which are decimal numbers without leading zeros.
func older(a, b string) bool { return len(a) < len(b) || len(a) == len(b) && a < b }

func holdsWithin(holds []Hold, service string, from, to int) (list []Hold) {
	for _, h := range holds {
		if h.Service == service && h.From > from && h.To < to {
			list = append(list, h)
		}
	}
	return list
}

// startOrder: when the first process of a claim starts, each of its dependencies
// has been ready, in the version that it depends on, and was not stopped since.
// A later process of the same claim is a restart in place and may come up in any
// order.
func startOrder(o Observation) (bad []string) {
	h := newHistory(o.Events)
	seen := map[claim]bool{}
	for _, e := range o.Events {
		if e.Kind != EventStart || seen[e.claim()] {
			continue
		}
		seen[e.claim()] = true
		for _, d := range e.Deps {
			if why := h.missing(e, d); why != "" {
				say(&bad, "%s@%s started on %s (event %d), but %s@%s %s", e.Service, e.Version, e.Node, e.Seq, d.Service, d.Version, why)
			}
		}
	}
	return bad
}

// missing is what was wrong with a dependency when a process started.
func (h *history) missing(start Event, d Dep) string {
	ready, stopped := 0, 0
	var healthy bool
	for _, e := range h.ready[named{d.Service, d.Version}] {
		if e.Seq >= start.Seq {
			break
		}
		if !d.is(e) {
			continue
		}
		ready++
		if h.ended(e, start.Seq, EventStop) {
			if !h.restarted(e) {
				stopped++
			}
		} else if !h.ended(e, start.Seq, EventExit) {
			healthy = true
		}
	}
	switch {
	case ready == 0:
		return "was not ready before"
	case ready == stopped:
		return "had been stopped again"
	case healthy && !d.Answered && !h.fault("", 0, start.Seq, func(what string) bool { return what != agentStarted }):
		return "did not answer, though nothing happened to it"
	}
	return ""
}

// is says whether an event is about the dependency.
func (d Dep) is(e Event) bool {
	return e.Service == d.Service && (d.Version == "" || d.Version == e.Version) &&
		(d.Address == "" || e.Address == "" || d.Address == e.Address)
}

// stopOrder: who is told to stop has no dependent that still runs. Not meant
// are restarts in place, who must be alone and ends with the lease of a node
// whose agent was away, and dependents on nodes to which something happened.
func stopOrder(o Observation) (bad []string) {
	h := newHistory(o.Events)
	alone := map[string]bool{} // by boot
	for _, hold := range o.Holds {
		alone[hold.Boot] = true
	}
	for _, stop := range o.Events {
		if stop.Kind != EventStop || h.lastStart[stop.claim()] > stop.Seq || alone[stop.Boot] && h.leaseOver(stop) {
			continue
		}
		for _, start := range h.dependents(stop) {
			if start.Seq < stop.Seq && start.dependsOn(stop) && h.runs(start, stop.Seq) {
				say(&bad, "%s@%s was stopped on %s (event %d) while %s@%s still ran on %s", stop.Service, stop.Version,
					stop.Node, stop.Seq, start.Service, start.Version, start.Node)
			}
		}
	}
	return bad
}

func (e Event) dependsOn(other Event) bool {
	return slices.ContainsFunc(e.Deps, func(d Dep) bool { return d.is(other) })
}

// runs says whether the process that started is certainly there at a moment.
func (h *history) runs(start Event, moment int) bool {
	if h.spokenByTheDead(start) {
		return false
	}
	for _, kind := range []string{EventStop, EventExit, EventIgnored} {
		if h.ended(start, moment, kind) {
			return false
		}
	}
	return !h.replaced(start, moment) && !h.silent(start.Node, start.Seq, moment) &&
		!h.fault(start.Node, start.Seq, moment, func(what string) bool { return !slices.Contains(faultsThatSpare, what) })
}

// spokenByTheDead says whether an event was still on its way when its node died: it came after the death was noted.
func (h *history) spokenByTheDead(e Event) bool {
	dead := false
	for _, f := range h.faults[e.Node] {
		if f.Seq < e.Seq {
			dead = f.Detail == faultPowerOff || f.Detail == faultKeeperKilled
		}
	}
	return dead
}

// leaseOver says whether the agent of the node of e was away lately, and died so long before that its lease may be over: who
// needs one is then told to end by the keeper, which knows of no order.
func (h *history) leaseOver(e Event) bool {
	away := false
	for _, f := range h.faults[e.Node] {
		switch {
		case f.Seq > e.Seq:
			return away
		case slices.Contains([]string{faultAgentKilled, faultAgentStopped, faultAgentFrozen}, f.Detail):
			away = away || e.At.Sub(f.At) >= mayBeLost
		case f.Detail == agentStarted || f.Detail == faultThawed:
			away = away && e.At.Sub(f.At) < leaseTime
		}
	}
	return away
}

// silent says whether the agent of a node was away so long, in a stretch of the
// journal, that what runs there may have counted as lost, and thereby as gone.
func (h *history) silent(node string, from, to int) bool {
	var since time.Time
	for _, e := range h.faults[node] {
		if e.Seq >= to {
			break
		}
		switch e.Detail {
		case faultAgentKilled, faultAgentStopped, faultAgentFrozen:
			if since.IsZero() {
				since = e.At
			}
		case agentStarted, faultThawed:
			if e.Seq > from && !since.IsZero() && e.At.Sub(since) >= mayBeLost {
				return true
			}
			since = time.Time{}
		}
	}
	return !since.IsZero() && h.at(to).Sub(since) >= mayBeLost
}
