package raftfsm

import (
	"fmt"
	"slices"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// keepSnapshot puts a snapshot of a row's state into the catalogue, under the next number of its component. One with
// the same content as the newest is that one: its time and holders are brought up to date.
func (t *tx) keepSnapshot(r model.Row, snap model.Snapshot, c model.Reports) model.Snapshot {
	snap.System, snap.Service, snap.Container = r.System, r.Service, r.Container
	snap.Node, snap.At, snap.Holders = r.Node, c.At, []string{r.Node}
	snap.Timeline, snap.Of = t.s.Custody.At(r.CustodyKey()).Timeline, t.dataOf(snap.System)
	if r.Obsolete {
		snap.Of = r.Last
	}
	return t.addSnapshot(snap)
}

func (t *tx) addSnapshot(snap model.Snapshot) model.Snapshot {
	counter := snapshotCounter(model.CustodyKey(snap.System, snap.Service, snap.Container))
	n := t.s.Counters.At(counter)
	if last, ok := t.s.Snapshots.Get(model.SnapshotKey(snap.System, snap.Service, snap.Container, uint64(n))); ok && last.ID == snap.ID && last.Facts == snap.Facts && last.Timeline == snap.Timeline && last.Stray == snap.Stray {
		last.At, last.Checked, last.Before = snap.At, snap.Checked, max(snap.Before, last.Before)
		last.Holders = withHolder(last.Holders, snap.Node)
		t.s.Snapshots = t.s.Snapshots.Set(last.Key(), last)
		return last
	}
	t.s.Counters = t.s.Counters.Set(counter, n+1)
	snap.Generation = uint64(n) + 1
	t.s.Snapshots = t.s.Snapshots.Set(snap.Key(), snap)
	for _, key := range model.Expired(t.s, snap.System, snap.Service, model.StatePolicy{Keep: model.MaxSnapshots}) {
		t.s.Snapshots = t.s.Snapshots.Delete(key) // a bound, not a policy: the leader trims to that long before
	}
	return snap
}

// setCustody stores a custody. Data that return to a snapshot begin a timeline with it: it becomes the newest generation
// once more, so that what was saved when they left does not count as the newest.
func (t *tx) setCustody(key string, c model.Custody, at time.Time) {
	was := t.s.Custody.At(key)
	t.putCustody(key, c)
	snap, ok := t.s.SnapshotByID(key, c.Snapshot)
	if !ok || c.Timeline == was.Timeline || snap.Timeline == c.Timeline {
		return
	}
	snap.Why, snap.At, snap.Stored = fmt.Sprintf("generation %d again", snap.Generation), at, 0
	snap.Stray = false
	snap.Timeline, snap.Of, snap.Before = c.Timeline, t.s.Systems.At(snap.System).Generation, 0
	t.addSnapshot(snap)
}

func snapshotCounter(custodyKey string) string { return "snapshots/" + custodyKey }

// giveUpState ends a custody. From here on the state is garbage on its node, and the service would begin anew.
func (t *tx) giveUpState(c model.GiveUpState) model.Result {
	key := model.CustodyKey(c.System, c.Service, c.Container)
	n, ok := t.s.Nodes.Get(c.Node)
	held := t.s.Custody.At(key)
	switch {
	case !ok || n.Epoch != c.Epoch || n.Down:
		return refuse(model.ErrEpoch, "node %s was marked down or removed since", t.s.NodeName(c.Node))
	case len(t.s.ServiceRows(c.System, c.Service)) > 0:
		return refuse(model.ErrStale, "%s is deployed", c.Service)
	case held.Node != c.Node && held.From != c.Node:
		return refuse(model.ErrStale, "the state of %s is not on %s any more", c.Service, n.Name)
	}
	t.dropCustody(key)
	return model.Result{}
}

// dataOf is the generation of a system that its data belong to: the newest one that may have changed anything.
func (t *tx) dataOf(system string) uint64 {
	g, ok := t.s.Generation(system, t.s.Systems.At(system).Generation)
	if ok && !g.Opened {
		return t.lastOpened(g)
	}
	return g.Number
}

func withHolder(holders []string, node string) []string {
	if i, held := slices.BinarySearch(holders, node); !held {
		return slices.Insert(slices.Clone(holders), i, node)
	}
	return holders
}

func (t *tx) takeSnapshot(c model.TakeSnapshot) model.Result {
	s := c.Snapshot
	n, ok := t.s.Nodes.Get(s.Node)
	switch {
	case !ok || n.Down || n.Epoch != c.Epoch:
		return refuse(model.ErrEpoch, "node %s was marked down or removed since", t.s.NodeName(s.Node))
	case s.ID == "" || s.System == "" || s.Service == "" || s.Container == "":
		return refuse(model.ErrInvalid, "a snapshot needs an id, a system, a service and a container")
	case !c.Foreign && t.s.Custody.At(model.CustodyKey(s.System, s.Service, s.Container)).Node != s.Node:
		return refuse(model.ErrStale, "the state of %s is not on %s any more", s.Service, n.Name)
	case s.Stray && t.strays(s) >= model.MaxStrays:
		return refuse(model.ErrLimit, "%s has %d snapshots of stale copies: look at them, and drop them with isonomia gc --strays", s.Service, model.MaxStrays)
	}
	s.Holders, s.Of, s.Timeline = []string{s.Node}, 0, ""
	if !c.Foreign {
		s.Stray = false
		s.Of, s.Timeline = t.dataOf(s.System), t.s.Custody.At(model.CustodyKey(s.System, s.Service, s.Container)).Timeline
	}
	s = t.addSnapshot(s)
	return model.Result{Generation: s.Generation, Value: s.Key()}
}

func (t *tx) strays(of model.Snapshot) (n int) {
	for _, snap := range t.s.ComponentSnapshots(model.CustodyKey(of.System, of.Service, of.Container)) {
		if snap.Stray {
			n++
		}
	}
	return n
}

func (t *tx) holdSnapshots(c model.HoldSnapshots) model.Result {
	if _, ok := t.s.Nodes.Get(c.Node); !ok {
		return refuse(model.ErrUnknown, "node %s is not a member", c.Node)
	}
	for _, h := range c.Items {
		snap, ok := t.s.Snapshots.Get(h.Key)
		if !ok || snap.ID != h.ID {
			continue // dropped meanwhile
		}
		if h.Lost {
			snap.Holders = slices.DeleteFunc(slices.Clone(snap.Holders), func(id string) bool { return id == c.Node })
		} else {
			snap.Holders = withHolder(snap.Holders, c.Node)
		}
		t.s.Snapshots = t.s.Snapshots.Set(h.Key, snap)
	}
	return model.Result{}
}

// dropSnapshots takes generations out of the catalogue; the holders' stores collect what nothing refers to. The policy
// is the proposer's; what must stay is checked again.
func (t *tx) dropSnapshots(c model.DropSnapshots) model.Result {
	for _, key := range c.Keys {
		snap, ok := t.s.Snapshots.Get(key)
		component := model.CustodyKey(snap.System, snap.Service, snap.Container)
		if ok && c.Undeployed && !t.s.Custody.Has(component) && len(t.s.ServiceRows(snap.System, snap.Service)) == 0 {
			t.s.Snapshots = t.s.Snapshots.Delete(key)
			if len(t.s.ComponentSnapshots(component)) == 0 {
				t.s.Counters = t.s.Counters.Delete(snapshotCounter(component))
			}
			continue
		}
		if ok && snap.Stray || ok && slices.Contains(model.Expired(t.s, snap.System, snap.Service, model.StatePolicy{}), key) {
			t.s.Snapshots = t.s.Snapshots.Delete(key)
		}
	}
	return model.Result{}
}
