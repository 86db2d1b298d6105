package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Custody says who holds a managed service's authoritative state: a node or, while the state moves, a snapshot. It
// changes only in the log, when a move's final snapshot is reported and when an instance becomes active. Only the
// custodian starts without restoring; a copy elsewhere is stale for ever.
type Custody struct {
	Node     string `cbor:"1,keyasint"`           // "" while it moves
	Epoch    uint64 `cbor:"2,keyasint"`           // log index at which it came there
	Snapshot string `cbor:"3,keyasint,omitempty"` // tree id, while it moves
	// From is the node that took the snapshot. Its own copy is the same, because nothing has run on it since.
	From string `cbor:"4,keyasint,omitempty"`
	// Timeline names the history that the data belong to, as in database servers: "" from the beginning, another one after
	// each rollback that brought old data back. A row's spec has it, so that what uses the data starts anew with them.
	Timeline string `cbor:"5,keyasint,omitempty"`
	// Wanted is the snapshot to be loaded next, once what there is has been saved; "" = none. Next is its timeline.
	Wanted string `cbor:"6,keyasint,omitempty"`
	Next   string `cbor:"7,keyasint,omitempty"`
}

// timeline is what new rows have.
func (c Custody) timeline() string {
	if c.Wanted != "" {
		return c.Next
	}
	return c.Timeline
}

// CustodyKey is the key in State.Custody.
func CustodyKey(system, service, container string) string {
	return system + "/" + service + "/" + container
}

// SplitCustodyKey is the other way round.
func SplitCustodyKey(key string) (system, service, container string) {
	system, rest, _ := strings.Cut(key, "/")
	service, container, _ = strings.Cut(rest, "/")
	return system, service, container
}

// CustodyKey is the key of the row's custody.
func (r RowSpec) CustodyKey() string { return CustodyKey(r.System, r.Service, r.Container) }

// Snapshot is one kept generation of a service's state. What it consists of lies in the stores of its holders.
type Snapshot struct {
	System     string    `cbor:"1,keyasint"`
	Service    string    `cbor:"2,keyasint"`
	Container  string    `cbor:"3,keyasint"`
	Generation uint64    `cbor:"4,keyasint"` // 1 first; given out by Apply
	ID         string    `cbor:"5,keyasint"` // root of the tree of its files
	Facts      string    `cbor:"6,keyasint"` // root of the tree with its facts; "" = none
	Type       string    `cbor:"7,keyasint"` // the module that took it
	Size       int64     `cbor:"8,keyasint"` // bytes of its files
	Stored     int64     `cbor:"9,keyasint"` // bytes that the first holder's store grew by
	Files      int64     `cbor:"10,keyasint"`
	At         time.Time `cbor:"11,keyasint"`
	Node       string    `cbor:"12,keyasint"` // that took it
	Holders    []string  `cbor:"13,keyasint"` // node ids, sorted
	Checked    time.Time `cbor:"14,keyasint"`
	Proven     time.Time `cbor:"15,keyasint"`
	Why        string    `cbor:"16,keyasint"` // command, move, before restore ...
	Ownership  bool      `cbor:"17,keyasint"` // owners, modes and times are part of it
	// Of is the generation of the system that the data belonged to when they were first like this; 0 for what came from
	// outside.
	Of       uint64 `cbor:"18,keyasint,omitempty"`
	Before   uint64 `cbor:"19,keyasint,omitempty"` // the generation that it was taken ahead of; 0 = none
	Timeline string `cbor:"20,keyasint,omitempty"`
	// Stray says that it was taken of a copy that had no custody any more, before that was deleted: it may hold what was
	// written on a node that was given up. It is never the newest, no policy drops it, and it waits for an operator.
	Stray bool `cbor:"21,keyasint,omitempty"`
}

// Key orders snapshots by component and generation.
func (s Snapshot) Key() string { return SnapshotKey(s.System, s.Service, s.Container, s.Generation) }

// SnapshotKey is the key in State.Snapshots.
func SnapshotKey(system, service, container string, generation uint64) string {
	return fmt.Sprintf("%s/%020d", CustodyKey(system, service, container), generation)
}

// MaxSnapshots bounds the kept generations of one service.
const MaxSnapshots = 1000

// MaxStrays bounds the strays of one component: they wait for an operator.
const MaxStrays = 20

// DefaultKeep is how many generations are kept where the model does not say.
const DefaultKeep = 10

// ServiceSnapshots gives the kept generations of a service, oldest first within each container.
func (s *State) ServiceSnapshots(system, service string) []Snapshot {
	return s.snapshotsBelow(system + "/" + service + "/")
}

// ComponentSnapshots gives the kept generations of the component that a custody key names, oldest first.
func (s *State) ComponentSnapshots(custodyKey string) []Snapshot {
	return s.snapshotsBelow(custodyKey + "/")
}

func (s *State) snapshotsBelow(prefix string) []Snapshot {
	var out []Snapshot
	for _, snap := range s.Snapshots.Prefix(prefix) {
		out = append(out, snap)
	}
	return out
}

// NewestSnapshot gives the newest kept generation of a component that is such, and no stray; every one is where such is nil.
func (s *State) NewestSnapshot(custodyKey string, such func(Snapshot) bool) (Snapshot, bool) {
	return s.lastSnapshot(custodyKey, func(snap Snapshot) bool { return !snap.Stray && (such == nil || such(snap)) })
}

// SnapshotByID gives the newest kept generation of a component with that content, stray or not.
func (s *State) SnapshotByID(custodyKey, id string) (Snapshot, bool) {
	return s.lastSnapshot(custodyKey, func(snap Snapshot) bool { return snap.ID == id })
}

func (s *State) lastSnapshot(custodyKey string, such func(Snapshot) bool) (Snapshot, bool) {
	for _, snap := range slices.Backward(s.ComponentSnapshots(custodyKey)) {
		if such(snap) {
			return snap, true
		}
	}
	return Snapshot{}, false
}

// NewestOwn is NewestSnapshot without what was brought in from outside and never restored: that is nothing to go on from
// unless an operator says so.
func (s *State) NewestOwn(custodyKey string, such func(Snapshot) bool) (Snapshot, bool) {
	return s.NewestSnapshot(custodyKey, func(snap Snapshot) bool { return snap.Of > 0 && such(snap) })
}

// Policy is the state policy of a service as deployed, with defaults in place.
func (s *State) Policy(system, service string) StatePolicy {
	p := s.Policies.At(system + "/" + service)
	p.Copies, p.Keep = max(p.Copies, 1), cmp.Or(p.Keep, DefaultKeep)
	return p
}

// MustSave says whether the state of an obsolete row has to be saved when it ends: it has custody, and the newest
// generation has the service on another node, or here with other data, or here with another instance that could damage
// them. A type that can be copied while it runs is, for the last, before anything is stopped.
func MustSave(s *State, r Row) bool {
	c := s.Custody.At(r.CustodyKey())
	if !r.Managed || !r.Obsolete || r.Phase == Saved || c.Node != r.Node {
		return false
	}
	if MustMove(s, r.RowSpec) {
		return true
	}
	if !slices.ContainsFunc(s.ServiceRows(r.System, r.Service), func(o Row) bool { return succeeds(o, r.RowSpec) }) {
		return false
	}
	used := r.Phase == Starting || r.Phase == Active || r.Phase == Saving || r.SaveFailed
	return c.Wanted != "" || used && !CopiesLive(r.Spec.Type) && !s.Policies.At(r.System+"/"+r.Service).NotAtUpgrade
}

// succeeds says whether row o will have r's data.
func succeeds(o Row, r RowSpec) bool { return !o.Obsolete && o.Managed && o.Container == r.Container }

// MustMove says whether the newest generation has r's service on another node.
func MustMove(s *State, r RowSpec) bool {
	return slices.ContainsFunc(s.ServiceRows(r.System, r.Service), func(o Row) bool { return succeeds(o, r) && o.Node != r.Node })
}

// AfterSaved is the custody of r's state once its final snapshot is in the catalogue: elsewhere or other data are waited
// for, or it stays.
func AfterSaved(s *State, r RowSpec, saved Snapshot, index uint64) Custody {
	switch c := s.Custody.At(r.CustodyKey()); {
	case c.Wanted != "":
		return Custody{Snapshot: c.Wanted, Epoch: index, Timeline: c.Next}
	case MustMove(s, r):
		return Custody{Snapshot: saved.ID, From: r.Node, Epoch: index, Timeline: c.Timeline}
	default:
		return c
	}
}

// AfterActive is the custody of r's state once r is active. One that became active although other data were asked for
// meanwhile has them saved first.
func AfterActive(s *State, r RowSpec, index uint64) Custody {
	c := s.Custody.At(r.CustodyKey())
	if c.Node == r.Node {
		return c
	}
	now := Custody{Node: r.Node, Epoch: index, Timeline: r.Spec.Timeline}
	if c.Snapshot != "" && c.Timeline != r.Spec.Timeline {
		now.Wanted, now.Next = c.Snapshot, c.Timeline
	}
	return now
}

// Saver is a row that only saves the state of new row r's service where it is: the service has no row there, or one that
// knows nothing of its state. ok is false if none is needed.
func Saver(s *State, r RowSpec) (saver RowSpec, ok bool) {
	holder := s.Custody.At(r.CustodyKey()).Node
	if !r.Managed || holder == "" || holder == r.Node && s.Custody.At(r.CustodyKey()).Wanted == "" || !s.Nodes.Has(holder) {
		return RowSpec{}, false
	}
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if o.Node == holder && o.Container == r.Container && o.Managed && o.Key != r.Key {
			return RowSpec{}, false
		}
	}
	saver = RowSpec{System: r.System, Service: r.Service, Node: holder, Container: r.Container, Spec: r.Spec, Managed: true, Exclusive: true}
	saver.Spec.Ports, saver.Spec.Scopes, saver.Spec.Package = nil, nil, ""
	saver.Spec.Timeline = s.Custody.At(r.CustodyKey()).Timeline
	saver.Key = RowKey(holder, saverPrefix+rowID(saver))
	return saver, true
}

const saverPrefix = "saver-"

// IsSaver says whether a row only saves a state.
func (r RowSpec) IsSaver() bool { return strings.HasPrefix(r.Key, RowKey(r.Node, saverPrefix)) }

// CanSave says whether the final snapshot of row r may be taken now, which stops it: its state moves, nothing alive
// depends on it any more, and not too many others move.
func CanSave(s *State, r Row) string {
	if why := savable(s, r); why != "" {
		return why
	}
	return roomToSave(s, r)
}

// savable is CanSave whatever else moves.
func savable(s *State, r Row) string {
	switch {
	case !MustSave(s, r):
		return "its state does not move"
	case r.SaveFailed:
		return "its state could not be saved"
	case r.Phase != Active && r.Phase != Starting && r.Phase != Stopped && r.Phase != Failed && r.Phase != Planned && r.Phase != Prepared:
		return "it is " + string(r.Phase)
	}
	if why := cmp.Or(placeFree(s, r), successorReady(s, r)); why != "" {
		return why
	}
	return mayEnd(s, r)
}

// successorReady holds when the row that will have r's state is prepared: nothing is stopped for a node that went down
// before it was.
func successorReady(s *State, r Row) string {
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if succeeds(o, r.RowSpec) && o.Phase != Prepared {
			return fmt.Sprintf("%s on %s, which gets its state, is %s", o.Service, s.NodeName(o.Node), o.Phase)
		}
	}
	return ""
}

// CanRestore says whether the state that is on its way may be loaded on row r's node now.
func CanRestore(s *State, r Row) string {
	if why := loadable(s, r); why != "" {
		return why
	}
	return roomToRestore(s, r)
}

// loadable is CanRestore whatever else moves.
func loadable(s *State, r Row) string {
	switch c := s.Custody.At(r.CustodyKey()); {
	case r.Obsolete:
		return "it is not part of the newest generation"
	case r.Phase != Prepared:
		return "it is " + string(r.Phase)
	case !r.Managed || c.Snapshot == "":
		return "no state is on its way"
	case c.From == r.Node:
		return "its state is here"
	case !holderUp(s, r, c):
		return "no node that has its state is up"
	}
	if g, ok := s.Generation(r.System, s.Systems.At(r.System).Generation); !ok || !g.Opened {
		return "the generation is not prepared yet"
	}
	return cmp.Or(placeFree(s, r), noOtherHolder(s, r))
}

// holderUp says whether somebody who is up has the state that is on its way, or this node has.
func holderUp(s *State, r Row, c Custody) bool {
	up := func(id string) bool {
		n, ok := s.Nodes.Get(id)
		return ok && !n.Down
	}
	_, held := s.NewestSnapshot(r.CustodyKey(), func(snap Snapshot) bool { return snap.ID == c.Snapshot && slices.ContainsFunc(snap.Holders, up) })
	return held || up(c.From)
}

// custodyHere holds for the custodian, for the node that a moving state came from, and for one that has restored it.
func custodyHere(s *State, r Row) string {
	if !r.Managed {
		return ""
	}
	c, ok := s.Custody.Get(r.CustodyKey())
	switch {
	case !ok:
		return ""
	case c.Node == r.Node && c.Wanted != "":
		return "its state has to be saved before it returns to a snapshot"
	case c.Node == r.Node:
		return savedHere(s, r)
	case c.Node != "":
		return "its state is on " + s.NodeName(c.Node)
	case r.Phase == Restored && r.Snapshot == c.Snapshot || c.From == r.Node:
		return ""
	}
	return "its state is not restored yet"
}

// savedHere holds unless the instance before r could not save the data that r is to have.
func savedHere(s *State, r Row) string {
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if o.SaveFailed && o.Node == r.Node && MustSave(s, o) {
			return "the state of the one that it replaces could not be saved"
		}
	}
	return ""
}

// WantedHolders are the nodes that should hold a snapshot: those that do and are up, as many as the policy wants, and
// if these are too few, others: of other zones first, then by rendezvous.
func WantedHolders(s *State, snap Snapshot) []string {
	copies := s.Policy(snap.System, snap.Service).Copies
	var wanted []string
	zones := map[string]bool{}
	take := func(id string) {
		wanted = append(wanted, id)
		zones[s.Nodes.At(id).Zone()] = true
	}
	usable := func(id string) bool {
		n, ok := s.Nodes.Get(id)
		return ok && n.Takes()
	}
	holds := func(id string) bool { return slices.Contains(snap.Holders, id) }
	for _, id := range snap.Holders {
		if usable(id) {
			take(id)
		}
	}
	if len(wanted) >= copies {
		return wanted
	}
	var rest []string
	for id := range s.Nodes.All() {
		if usable(id) && s.Nodes.At(id).Sick == "" && !holds(id) {
			rest = append(rest, id)
		}
	}
	slices.SortFunc(rest, func(a, b string) int { return strings.Compare(rendezvous(snap.ID, a), rendezvous(snap.ID, b)) })
	for _, otherZone := range []bool{true, false} {
		for _, id := range rest {
			if len(wanted) < copies && !slices.Contains(wanted, id) && (!otherZone || !zones[s.Nodes.At(id).Zone()]) {
				take(id)
			}
		}
	}
	return wanted
}

// Expired gives the keys of a service's snapshots that a policy does not keep, oldest first. The newest of each
// container stays, and so do the last proven one and, while none is proven, the last checked one, and what custody refers
// to. No policy is about strays.
func Expired(s *State, system, service string, p StatePolicy) []string {
	byContainer := map[string][]Snapshot{}
	for _, snap := range s.ServiceSnapshots(system, service) {
		byContainer[snap.Container] = append(byContainer[snap.Container], snap)
	}
	var out []string
	for _, container := range sortedKeys(byContainer) {
		snaps := slices.DeleteFunc(slices.Clone(byContainer[container]), func(x Snapshot) bool { return x.Stray })
		stays := p.keeps(snaps)
		proven := lastSnapshot(snaps, func(x Snapshot) bool { return !x.Proven.IsZero() })
		if proven == 0 {
			proven = lastSnapshot(snaps, func(x Snapshot) bool { return !x.Checked.IsZero() })
		}
		stays[proven] = true
		c := s.Custody.At(CustodyKey(system, service, container))
		for _, snap := range snaps {
			if !stays[snap.Generation] && snap.ID != c.Snapshot && snap.ID != c.Wanted {
				out = append(out, snap.Key())
			}
		}
	}
	return out
}

// keeps gives the generations, of one component and oldest first, that the policy keeps: the newest ones, and the newest
// of each of the last days, weeks (ISO 8601) and months that have any, in UTC.
func (p StatePolicy) keeps(snaps []Snapshot) map[uint64]bool {
	out := map[uint64]bool{}
	for _, snap := range snaps[max(len(snaps)-max(p.Keep, 1), 0):] {
		out[snap.Generation] = true
	}
	for _, span := range []struct {
		count int
		name  func(t time.Time) string
	}{
		{p.Daily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{p.Weekly, func(t time.Time) string { year, week := t.ISOWeek(); return fmt.Sprint(year, week) }},
		{p.Monthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		seen := map[string]bool{}
		for _, snap := range slices.Backward(snaps) {
			name := span.name(snap.At.UTC())
			if len(seen) < span.count && !seen[name] {
				seen[name], out[snap.Generation] = true, true
			}
		}
	}
	return out
}

// lastSnapshot is the generation of the last one that is such; 0 if none is.
func lastSnapshot(snaps []Snapshot, such func(Snapshot) bool) uint64 {
	for _, snap := range slices.Backward(snaps) {
		if such(snap) {
			return snap.Generation
		}
	}
	return 0
}
