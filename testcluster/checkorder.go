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
	faultPowerOff     = "power off"
	agentStarted      = "agent started"
)

// mayBeLost is how long an agent may be silent before its cluster can have given
// up the services of its node: three seconds by design, less some lateness. Time
// serves only to forgive.
const mayBeLost = 2 * time.Second

// oneHolder: of two processes that act for one exclusive service, none does so
// again once the other has begun. A whole node that slept in between is forgiven
// its last word, if its claim was an older one: no lease can prevent that.
func oneHolder(o Observation) (bad []string) {
	last := map[string]Hold{} // by boot
	for _, h := range o.Holds {
		before, again := last[h.Boot]
		if again && !(o.fault(h.Node, before.To, h.From, isThaw) && older(h.Epoch, o.newest(h))) {
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

// fault says whether a fault of the given kind happened to a node in a stretch
// of the journal.
func (o Observation) fault(node string, from, to int, kind func(string) bool) bool {
	return slices.ContainsFunc(o.Events, func(e Event) bool {
		return e.Kind == EventFault && (e.Node == node || node == "") && e.Seq > from && e.Seq < to && kind(e.Detail)
	})
}

// startOrder: when the first process of a claim starts, each of its dependencies
// has been ready, in the version that it depends on, and was not stopped since.
// A later process of the same claim is a restart in place and may come up in any
// order.
func startOrder(o Observation) (bad []string) {
	type claim struct{ service, version, node, epoch string }
	seen := map[claim]bool{}
	for _, e := range o.Events {
		c := claim{e.Service, e.Version, e.Node, e.Epoch}
		if e.Kind != EventStart || seen[c] {
			continue
		}
		seen[c] = true
		for _, d := range e.Deps {
			if why := o.missing(e, d); why != "" {
				say(&bad, "%s@%s started on %s (event %d), but %s@%s %s", e.Service, e.Version, e.Node, e.Seq, d.Service, d.Version, why)
			}
		}
	}
	return bad
}

// missing is what was wrong with a dependency when a process started.
func (o Observation) missing(start Event, d Dep) string {
	ready, stopped := 0, 0
	var healthy bool
	for _, e := range o.Events {
		if e.Seq >= start.Seq || e.Kind != EventReady || !d.is(e) {
			continue
		}
		ready++
		if o.ended(e, start.Seq, EventStop) {
			stopped++
		} else if !o.ended(e, start.Seq, EventExit) {
			healthy = true
		}
	}
	switch {
	case ready == 0:
		return "was not ready before"
	case ready == stopped:
		return "had been stopped again"
	case healthy && !d.Answered && !o.fault("", 0, start.Seq, func(what string) bool { return what != agentStarted }):
		return "did not answer, though nothing happened to it"
	}
	return ""
}

// is says whether an event is about the dependency.
func (d Dep) is(e Event) bool {
	return e.Service == d.Service && (d.Version == "" || d.Version == e.Version) &&
		(d.Address == "" || e.Address == "" || d.Address == e.Address)
}

// ended says whether the process of e reported an end of that kind before limit.
func (o Observation) ended(e Event, limit int, kind string) bool {
	return slices.ContainsFunc(o.Events, func(end Event) bool {
		return end.Boot == e.Boot && end.Seq < limit && end.Kind == kind
	})
}

// stopOrder: who is told to stop has no dependent that still runs. Not meant
// are restarts in place, and dependents on nodes to which something happened.
func stopOrder(o Observation) (bad []string) {
	for _, stop := range o.Events {
		if stop.Kind != EventStop || o.restarted(stop) {
			continue
		}
		for _, start := range o.Events {
			if start.Kind == EventStart && start.Seq < stop.Seq && start.dependsOn(stop) && o.runs(start, stop.Seq) {
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

// restarted says whether the claim under which a process ran got another one.
func (o Observation) restarted(stop Event) bool {
	return slices.ContainsFunc(o.Events, func(e Event) bool {
		return e.Kind == EventStart && e.Seq > stop.Seq && e.Service == stop.Service &&
			e.Version == stop.Version && e.Node == stop.Node && e.Epoch == stop.Epoch
	})
}

// runs says whether the process that started is certainly there at a moment.
func (o Observation) runs(start Event, moment int) bool {
	if o.spokenByTheDead(start) {
		return false
	}
	for _, kind := range []string{EventStop, EventExit, EventIgnored} {
		if o.ended(start, moment, kind) {
			return false
		}
	}
	replaced := slices.ContainsFunc(o.Events, func(e Event) bool {
		return e.Kind == EventStart && e.Seq > start.Seq && e.Seq < moment && e.Service == start.Service && e.Node == start.Node
	})
	return !replaced && !o.silent(start.Node, start.Seq, moment) &&
		!o.fault(start.Node, start.Seq, moment, func(what string) bool { return !slices.Contains(faultsThatSpare, what) })
}

// spokenByTheDead says whether an event was still on its way when its node died: it came after the death was noted.
func (o Observation) spokenByTheDead(e Event) bool {
	dead := false
	for _, f := range o.Events {
		if f.Kind == EventFault && f.Node == e.Node && f.Seq < e.Seq {
			dead = f.Detail == faultPowerOff
		}
	}
	return dead
}

// silent says whether the agent of a node was away so long, in a stretch of the
// journal, that what runs there may have counted as lost, and thereby as gone.
func (o Observation) silent(node string, from, to int) bool {
	var since time.Time
	for _, e := range o.Events {
		if e.Kind != EventFault || e.Node != node || e.Seq >= to {
			continue
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
	return !since.IsZero() && o.at(to).Sub(since) >= mayBeLost
}

// at is when the event with that number came.
func (o Observation) at(seq int) time.Time {
	for _, e := range o.Events {
		if e.Seq == seq {
			return e.At
		}
	}
	return time.Time{}
}
