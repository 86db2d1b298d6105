package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Leases and fencing: an exclusive instance runs on a node only while that node's lease does. A node asks the leader for it
// every LeaseEvery; it runs for LeaseTTL from when the node asked, on a clock that goes on while a machine sleeps, and the
// node's keeper ends what is exclusive before it is over. FenceAfter after a node was marked down, the leader may say that nothing
// exclusive runs there (C. Gray, D. Cheriton: Leases, SOSP 1989).
const (
	LeaseTTL   = 6 * time.Second
	LeaseEvery = 2 * time.Second
	// LeaseTerm is how long before the end of a lease exclusive processes are told to end, and LeaseKill when they are
	// killed.
	LeaseTerm = 1500 * time.Millisecond
	LeaseKill = 500 * time.Millisecond
	// FenceAfter allows for clocks that differ by a tenth.
	FenceAfter = LeaseTTL + LeaseTTL/10
	// DefaultTakeOver is how long a node must have been fenced before a state of its is taken over from a copy: longer
	// than a machine takes to start again.
	DefaultTakeOver = 2 * time.Minute
)

// NeedsLease says whether anything exclusive runs on the node or is to run there.
func NeedsLease(s *State, node string) bool {
	for _, r := range s.Rows.Prefix(node + "/") {
		if r.Exclusive && (!r.Obsolete || r.Phase.Alive()) && !r.IsSaver() {
			return true
		}
	}
	return false
}

// CanLease says why the leader may not grant a lease to a node that believes to be in an epoch; "" when it may.
func CanLease(s *State, node string, epoch uint64) string {
	switch n, member := s.Nodes.Get(node); {
	case !member:
		return "it is no member"
	case n.Down:
		return "it is marked down"
	case n.Epoch != epoch:
		return fmt.Sprintf("it is in epoch %d", n.Epoch)
	}
	return ""
}

// exclusive says whether the service's instance on a node must be the only one that runs: as the model says, or if its
// state is managed, or if it works on the files of one for which that holds.
func (c *composer) exclusive(s *Service, node string) bool {
	if s.All || s.Instances > 1 {
		return false
	}
	if s.Exclusive != nil {
		return *s.Exclusive
	}
	if s.State != nil && s.State.Managed {
		return true
	}
	return slices.ContainsFunc(c.localUses(s), func(u localUse) bool { return c.rows[u.target.Name][node].Exclusive })
}

// HeldByOther says whether somebody who is up and is not the node has a snapshot.
func HeldByOther(s *State, snap Snapshot, node string) bool {
	return slices.ContainsFunc(snap.Holders, func(id string) bool {
		n, member := s.Nodes.Get(id)
		return id != node && member && !n.Down
	})
}

// TakenOver names the timeline of data that go on from a snapshot because their node is fenced.
func TakenOver(index uint64, snap Snapshot) string {
	return fmt.Sprintf("%d from %d", index, snap.Generation) + takenOver
}

const takenOver = ", taken over"

// WasTakenOver says whether data are on such a timeline.
func WasTakenOver(timeline string) bool { return strings.HasSuffix(timeline, takenOver) }

// takeOverAfter is how long a node must have been fenced before this policy lets its state go; ok is false for never.
func (p StatePolicy) takeOverAfter() (wait time.Duration, ok bool) {
	switch {
	case p.TakeOver > 0:
		return p.TakeOver, true
	case p.TakeOver == 0 && p.Every > 0 && p.Copies > 1:
		return DefaultTakeOver, true
	}
	return 0, false
}

// mayLose is how old a snapshot may be, while its policy has a schedule, for its state to be taken over from it without
// asking anybody: one may have failed.
func (p StatePolicy) mayLose(wait time.Duration) time.Duration { return 2*p.Every + wait + time.Minute }

// TakeOverOf gives the command that would let the state of a component go on from a copy, and how long its node must have
// been fenced. why is "" when there is one, else what keeps it, in words for an operator.
func TakeOverOf(s *State, key string, now time.Time) (cmd TakeOver, wait time.Duration, why string) {
	system, service, container := SplitCustodyKey(key)
	c := s.Custody.At(key)
	holder := cmp.Or(c.Node, c.From)
	n, member := s.Nodes.Get(holder)
	policy := s.Policy(system, service)
	wait, ever := policy.takeOverAfter()
	switch {
	case !member || !n.Down:
		return cmd, 0, "its node is up"
	case c.Node == "" && heldElsewhere(s, key, c.Snapshot, holder):
		return cmd, 0, "it is on its way already"
	case !ever && policy.TakeOver < 0:
		return cmd, 0, "its model says take_over = \"never\""
	case !ever:
		return cmd, 0, "it has no schedule (every) with copies on other nodes"
	case !slices.ContainsFunc(s.ServiceRows(system, service), func(r Row) bool { return !r.Obsolete && r.Managed && r.Container == container }):
		return cmd, 0, "it is not deployed"
	}
	snap, ok := takeOverFrom(s, key, c, holder)
	switch age := now.Sub(snap.At); {
	case !ok:
		return cmd, 0, "no other node that is up has a snapshot of it"
	case policy.Every > 0 && age > policy.mayLose(wait):
		return cmd, 0, fmt.Sprintf("the newest snapshot elsewhere is of %s, older than twice its schedule", snap.At.UTC().Format(time.RFC3339))
	case !n.Fenced:
		return cmd, 0, "its node is not fenced yet"
	}
	return TakeOver{System: system, Service: service, Container: container, Node: holder, Epoch: n.Epoch, Snapshot: snap.Generation, At: now}, wait, ""
}

// describeTakeOver says what data row r begins with if those of a node that is fenced are taken over.
func describeTakeOver(s *State, r RowSpec, from string) (string, bool) {
	c := s.Custody.At(r.CustodyKey())
	if !r.Managed || c.Snapshot == "" || c.Timeline != r.Spec.Timeline || !WasTakenOver(c.Timeline) {
		return "", false
	}
	snap, ok := s.NewestSnapshot(r.CustodyKey(), func(x Snapshot) bool { return x.ID == c.Snapshot && x.Timeline != c.Timeline })
	if !ok {
		return "its state goes on from a copy", true
	}
	return GoesOnFrom(s, snap, from), true
}

// GoesOnFrom says, for people, from which copy of a node's state a service goes on, and what may be lost.
func GoesOnFrom(s *State, snap Snapshot, node string) string {
	return fmt.Sprintf("its state goes on from snapshot %d, of %s: what was written after that is on %s only",
		snap.Generation, snap.At.UTC().Format(time.RFC3339), s.NodeName(node))
}

// takeOverFrom is the snapshot that a state goes on from: that which was asked for, or the newest of its own that others have.
func takeOverFrom(s *State, key string, c Custody, holder string) (Snapshot, bool) {
	elsewhere := func(snap Snapshot) bool { return HeldByOther(s, snap, holder) }
	if c.Wanted != "" {
		if snap, ok := s.NewestSnapshot(key, func(snap Snapshot) bool { return snap.ID == c.Wanted && elsewhere(snap) }); ok {
			return snap, true
		}
	}
	return s.NewestOwn(key, elsewhere)
}

func heldElsewhere(s *State, key, id, holder string) bool {
	_, ok := s.NewestSnapshot(key, func(snap Snapshot) bool { return snap.ID == id && HeldByOther(s, snap, holder) })
	return ok
}
