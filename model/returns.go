package model

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"
)

// Return brings the data of a service back to a snapshot, as part of a new generation: what there is now is saved first, and
// what uses the data starts anew with those of the snapshot, on a timeline of their own.
type Return struct {
	Service   string `cbor:"1,keyasint"`
	Container string `cbor:"2,keyasint"`
	// Snapshot is the ID of a kept generation; "" for data that are still those of the timeline.
	Snapshot string `cbor:"3,keyasint"`
	Timeline string `cbor:"4,keyasint"`
}

// ChooseReturns finds, for a rollback of a system to an intent, the snapshots that its data should go back to: of each
// service with managed state that an operator has changed since, or that what was changed uses directly, the newest of the
// intent's own time or earlier. lack names those services of which there is none.
func ChooseReturns(s *State, system string, target Intent) (returns []Return, lack []string) {
	keys, _ := s.Manifest(system, target.Last)
	touched := touchedSince(s, system, target.Last)
	for _, k := range keys {
		r := s.Specs.At(k)
		if !touched[r.Service] || !r.Managed {
			continue
		}
		snap, ok := s.NewestSnapshot(r.CustodyKey(), func(x Snapshot) bool { return x.Of > 0 && x.Of <= target.Last })
		if !ok {
			lack = append(lack, r.Service)
			continue
		}
		returns = append(returns, ReturnTo(s, snap))
	}
	slices.Sort(lack)
	return returns, slices.Compact(lack)
}

// ReturnTo brings the data back to a snapshot in the system's next generation.
func ReturnTo(s *State, snap Snapshot) Return {
	line := fmt.Sprintf("%d from %d", s.Systems.At(snap.System).Generation+1, snap.Generation)
	return Return{snap.Service, snap.Container, snap.ID, line}
}

// touchedSince names the services that operators changed since a generation, and those that these use directly. That a
// node went down or came back is no reason to doubt anybody's data.
func touchedSince(s *State, system string, generation uint64) map[string]bool {
	touched := map[string]bool{}
	for n := generation + 1; n <= s.Systems.At(system).Generation; n++ {
		g, ok := s.Generation(system, n)
		if !ok || g.Kind == KindAdapt {
			continue
		}
		programs := map[string]int{} // by service and what it runs: how many came, less how many went
		for i, keys := range [][]string{g.Added, g.Gone} {
			for _, k := range keys {
				r := s.Specs.At(k)
				programs[r.Service+" "+r.Spec.program()] += 1 - 2*i
			}
		}
		for _, k := range slices.Concat(g.Added, g.Gone) {
			r := s.Specs.At(k)
			if programs[r.Service+" "+r.Spec.program()] == 0 {
				continue // restarted, or elsewhere, but the same
			}
			touched[r.Service] = true
			for _, on := range r.DependsOn {
				touched[s.Specs.At(on).Service] = true
			}
		}
	}
	return touched
}

// program is what of a spec is the same on every node.
func (sp Spec) program() string {
	sp.Host, sp.Ports, sp.Timeline = "", nil, ""
	b, _ := json.Marshal(sp) // plain data: it always encodes
	return string(b)
}

// undoReturns gives what an automatic rollback to rows has to do so that these find the data that they had: where the data
// have left the timeline, the snapshot that was taken when they did.
func undoReturns(s *State, rows []RowSpec) (returns []Return) {
	for _, r := range rows {
		c := s.Custody.At(r.CustodyKey())
		if !r.Managed || r.Spec.Timeline == c.timeline() {
			continue
		}
		back := Return{Service: r.Service, Container: r.Container, Timeline: r.Spec.Timeline}
		if c.Timeline != r.Spec.Timeline {
			snap, ok := s.NewestOwn(r.CustodyKey(), func(x Snapshot) bool { return x.Timeline == r.Spec.Timeline })
			if !ok {
				continue // nothing to go back to: the row is composed for the data that there are
			}
			back.Snapshot = snap.ID
		}
		returns = append(returns, back)
	}
	return returns
}

// Returned is a component's custody once a generation with the return is the newest.
func Returned(c Custody, r Return) Custody {
	switch {
	case r.Snapshot == "":
		c.Wanted, c.Next = "", ""
	case c.Node != "":
		c.Wanted, c.Next = r.Snapshot, r.Timeline
	default: // on its way, so it is saved
		c.Snapshot, c.From, c.Timeline = r.Snapshot, "", r.Timeline
	}
	return c
}

// timeline is that which a service's row has in the manifest: that of its data, or of what they return to.
func (c *composer) timeline(service, container string) string {
	for _, r := range c.in.Returns {
		if r.Service == service && r.Container == container {
			return r.Timeline
		}
	}
	return c.in.State.Custody.At(CustodyKey(c.in.System, service, container)).timeline()
}

// onTimelines says whether rows have the timelines that they would be composed with.
func onTimelines(s *State, rows []RowSpec, returns []Return) bool {
	for _, r := range rows {
		c := composer{in: Compose{State: s, System: r.System, Returns: returns}}
		if r.Managed && r.Spec.Timeline != c.timeline(r.Service, r.Container) {
			return false
		}
	}
	return true
}

// describeReturn says what data row r begins with, for a plan.
func describeReturn(s *State, r RowSpec, returns []Return) string {
	for _, back := range returns {
		if back.Service != r.Service || back.Container != r.Container {
			continue
		}
		snap, ok := s.SnapshotByID(r.CustodyKey(), back.Snapshot)
		if !ok {
			break
		}
		return fmt.Sprintf("its state goes back to snapshot %d, of %s (generation %d); what it is now is kept as a snapshot", snap.Generation, snap.At.Format(time.RFC3339), snap.Of)
	}
	return "its state is as it was before"
}
