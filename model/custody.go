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
}

// CustodyKey is the key in State.Custody.
func CustodyKey(system, service, container string) string {
	return system + "/" + service + "/" + container
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
}

// Key orders snapshots by component and generation.
func (s Snapshot) Key() string { return SnapshotKey(s.System, s.Service, s.Container, s.Generation) }

// SnapshotKey is the key in State.Snapshots.
func SnapshotKey(system, service, container string, generation uint64) string {
	return fmt.Sprintf("%s/%020d", CustodyKey(system, service, container), generation)
}

// MaxSnapshots bounds the kept generations of one service.
const MaxSnapshots = 1000

// DefaultKeep is how many generations are kept where the model does not say.
const DefaultKeep = 10

// ServiceSnapshots gives the kept generations of a service, oldest first within each container.
func (s *State) ServiceSnapshots(system, service string) []Snapshot {
	var out []Snapshot
	for _, snap := range s.Snapshots.Prefix(system + "/" + service + "/") {
		out = append(out, snap)
	}
	return out
}

// Policy is the state policy of a service as deployed, with defaults in place.
func (s *State) Policy(system, service string) StatePolicy {
	p := s.Policies.At(system + "/" + service)
	p.Copies, p.Keep = max(p.Copies, 1), cmp.Or(p.Keep, DefaultKeep)
	return p
}

// MustSave says whether the state of an obsolete row has to go elsewhere: it has custody, and the newest generation has
// the service on another node.
func MustSave(s *State, r Row) bool {
	if !r.Managed || !r.Obsolete || s.Custody.At(r.CustodyKey()).Node != r.Node {
		return false
	}
	return slices.ContainsFunc(s.ServiceRows(r.System, r.Service), func(o Row) bool {
		return !o.Obsolete && o.Managed && o.Container == r.Container && o.Node != r.Node
	})
}

// Saver is a row that only saves the state of new row r's service where it is: the service has no row there, or one that
// knows nothing of its state. ok is false if none is needed.
func Saver(s *State, r RowSpec) (saver RowSpec, ok bool) {
	holder := s.Custody.At(r.CustodyKey()).Node
	if !r.Managed || holder == "" || holder == r.Node || !s.Nodes.Has(holder) {
		return RowSpec{}, false
	}
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if o.Node == holder && o.Container == r.Container && o.Managed {
			return RowSpec{}, false
		}
	}
	saver = RowSpec{System: r.System, Service: r.Service, Node: holder, Container: r.Container, Spec: r.Spec, Managed: true, Exclusive: true}
	saver.Spec.Ports, saver.Spec.Scopes, saver.Spec.Package = nil, nil, ""
	saver.Key = RowKey(holder, saverPrefix+rowID(saver))
	return saver, true
}

const saverPrefix = "saver-"

// IsSaver says whether a row only saves a state.
func (r RowSpec) IsSaver() bool { return strings.HasPrefix(r.Key, RowKey(r.Node, saverPrefix)) }

// CanSave says whether the final snapshot of row r may be taken now, which stops it: its state moves, and nothing alive
// depends on it any more.
func CanSave(s *State, r Row) string {
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
		if !o.Obsolete && o.Container == r.Container && o.Node != r.Node && o.Phase != Prepared {
			return fmt.Sprintf("%s on %s, where its state goes, is %s", o.Service, s.NodeName(o.Node), o.Phase)
		}
	}
	return ""
}

// CanRestore says whether the state that is on its way may be loaded on row r's node now.
func CanRestore(s *State, r Row) string {
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
	for _, snap := range s.ServiceSnapshots(r.System, r.Service) {
		if snap.Container == r.Container && snap.ID == c.Snapshot && slices.ContainsFunc(snap.Holders, up) {
			return true
		}
	}
	return up(c.From)
}

// custodyHere holds for the custodian, for the node that a moving state came from, and for one that has restored it.
func custodyHere(s *State, r Row) string {
	if !r.Managed {
		return ""
	}
	c, ok := s.Custody.Get(r.CustodyKey())
	switch {
	case !ok || c.Node == r.Node:
		return ""
	case c.Node != "":
		return "its state is on " + s.NodeName(c.Node)
	case r.Phase == Restored && r.Snapshot == c.Snapshot || c.From == r.Node:
		return ""
	}
	return "its state is not restored yet"
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
		return ok && !n.Down && !n.Left
	}
	for _, id := range snap.Holders {
		if usable(id) {
			take(id)
		}
	}
	var rest []string
	for id := range s.Nodes.All() {
		if usable(id) && !slices.Contains(wanted, id) {
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

// Expired gives the keys of a service's snapshots beyond the policy, oldest first. The newest of each container stays,
// and so do the last proven one and, while none is proven, the last checked one, and what custody refers to.
func Expired(s *State, system, service string, keep int) []string {
	byContainer := map[string][]Snapshot{}
	for _, snap := range s.ServiceSnapshots(system, service) {
		byContainer[snap.Container] = append(byContainer[snap.Container], snap)
	}
	var out []string
	for _, container := range sortedKeys(byContainer) {
		snaps := byContainer[container]
		stays := map[uint64]bool{lastSnapshot(snaps, func(x Snapshot) bool { return !x.Proven.IsZero() }): true}
		if stays[0] {
			stays[lastSnapshot(snaps, func(x Snapshot) bool { return !x.Checked.IsZero() })] = true
		}
		moving := s.Custody.At(CustodyKey(system, service, container)).Snapshot
		for _, snap := range snaps[:max(len(snaps)-max(keep, 1), 0)] {
			if !stays[snap.Generation] && (moving == "" || snap.ID != moving) {
				out = append(out, snap.Key())
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
