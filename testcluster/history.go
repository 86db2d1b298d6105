//go:build linux

package testcluster

import (
	"cmp"
	"slices"
	"time"
)

// history is a journal of events, found by what the checks of the order ask
// for: an hour of load writes more than a hundred thousand.
type history struct {
	events    []Event // in the order of Seq, as every list here
	faults    map[string][]Event
	ready     map[named][]Event // by service and version, and by service alone
	uses      map[named][]Event // starts, by what they depend on; version "" is any
	starts    map[spot][]int    // Seq of each start
	lastStart map[claim]int     // Seq of the newest start
	ends      map[end]int       // Seq of the first
}

type (
	named struct{ service, version string }
	spot  struct{ service, node string }
	// claim is what the processes of one instance have in common.
	claim struct{ service, version, node, epoch string }
	end   struct{ boot, kind string }
)

func newHistory(events []Event) *history {
	h := &history{events: events, faults: map[string][]Event{}, ready: map[named][]Event{}, uses: map[named][]Event{},
		starts: map[spot][]int{}, lastStart: map[claim]int{}, ends: map[end]int{}}
	for _, e := range events {
		switch e.Kind {
		case EventFault:
			h.faults[e.Node] = append(h.faults[e.Node], e)
		case EventReady:
			h.addReady(e)
		case EventStart:
			h.addStart(e)
		default:
			if k := (end{e.Boot, e.Kind}); h.ends[k] == 0 {
				h.ends[k] = e.Seq
			}
		}
	}
	return h
}

func (h *history) addReady(e Event) {
	h.ready[named{e.Service, ""}] = append(h.ready[named{e.Service, ""}], e)
	if k := (named{e.Service, e.Version}); e.Version != "" {
		h.ready[k] = append(h.ready[k], e)
	}
}

func (h *history) addStart(e Event) {
	h.starts[spot{e.Service, e.Node}] = append(h.starts[spot{e.Service, e.Node}], e.Seq)
	h.lastStart[e.claim()] = e.Seq
	for i, d := range e.Deps {
		k := named{d.Service, d.Version}
		if !slices.ContainsFunc(e.Deps[:i], func(other Dep) bool { return named{other.Service, other.Version} == k }) {
			h.uses[k] = append(h.uses[k], e)
		}
	}
}

func (e Event) claim() claim { return claim{e.Service, e.Version, e.Node, e.Epoch} }

// dependents are the starts that may have depended on the process of e.
func (h *history) dependents(e Event) []Event {
	if e.Version == "" {
		return h.uses[named{e.Service, ""}]
	}
	return append(slices.Clip(h.uses[named{e.Service, ""}]), h.uses[named{e.Service, e.Version}]...)
}

// ended says whether the process of e reported an end of that kind before limit.
func (h *history) ended(e Event, limit int, kind string) bool {
	first := h.ends[end{e.Boot, kind}]
	return first > 0 && first < limit
}

// restarted says whether what was told to end was started again under the same claim: for a snapshot, or when its node had no
// lease. State has it as active all the time.
func (h *history) restarted(e Event) bool {
	return h.lastStart[e.claim()] > h.ends[end{e.Boot, EventStop}]
}

// replaced says whether its node started the service again before a moment.
func (h *history) replaced(start Event, moment int) bool {
	list := h.starts[spot{start.Service, start.Node}]
	next, _ := slices.BinarySearch(list, start.Seq+1)
	return next < len(list) && list[next] < moment
}

// fault says whether a fault of the given kind happened to a node, or to any
// for "", in a stretch of the journal.
func (h *history) fault(node string, from, to int, kind func(string) bool) bool {
	for name, list := range h.faults {
		if (name == node || node == "") && slices.ContainsFunc(list, func(e Event) bool {
			return e.Seq > from && e.Seq < to && kind(e.Detail)
		}) {
			return true
		}
	}
	return false
}

// at is when the event with that number came.
func (h *history) at(seq int) time.Time {
	i, found := slices.BinarySearchFunc(h.events, seq, func(e Event, seq int) int { return cmp.Compare(e.Seq, seq) })
	if !found {
		return time.Time{}
	}
	return h.events[i].At
}
