package model

import (
	"cmp"
	"fmt"
)

// A state that moves is saved on one node and restored on another. So that the end of a node with many states does not
// have everything stop at once, only so many are on their way at a time: a save begins while there is room for it, and
// for all that have been saved and could be restored now, so that nothing that was stopped for its move waits behind
// others that are stopped after it.

// Bounds on the states that are being saved and restored at one time.
const (
	MovesAtOnce  = 16 // in the cluster, where the model says nothing
	MovesPerNode = 4  // to one node
)

// movesAtOnce is how many may be on their way while one of a system begins.
func (s *State) movesAtOnce(system string) int {
	return cmp.Or(s.Systems.At(system).Moves, MovesAtOnce)
}

// Moving says whether a row's state is being saved or restored.
func (r Row) Moving() bool { return r.Phase == Saving || r.Phase == Restoring }

// destination is the node that a row's state goes to; "" = it stays.
func destination(s *State, r RowSpec) string {
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if succeeds(o, r) && o.Node != r.Node {
			return o.Node
		}
	}
	return ""
}

// underWay counts the states that are being saved to go elsewhere, or restored: all of them, and those that come to a node.
func underWay(s *State, to string) (all, here int) {
	for key := range s.Moving.All() {
		r := s.Rows.At(key)
		node := r.Node
		if r.Phase == Saving {
			if node = destination(s, r.RowSpec); node == "" {
				continue
			}
		}
		if all++; node == to {
			here++
		}
	}
	return all, here
}

// stranded counts the states that are saved and could be restored now. A node that is sick may not even see that.
func stranded(s *State, to string) (all, here int) {
	for key := range s.Transit.All() {
		system, service, _ := SplitCustodyKey(key)
		for _, r := range s.ServiceRows(system, service) {
			if r.CustodyKey() != key || s.Nodes.At(r.Node).Sick != "" || loadable(s, r) != "" {
				continue
			}
			if all++; r.Node == to {
				here++
			}
		}
	}
	return all, here
}

// roomToSave holds unless row r's state would be one too many on its way to another node.
func roomToSave(s *State, r Row) string {
	to := destination(s, r.RowSpec)
	if to == "" {
		return ""
	}
	all, here := underWay(s, to)
	waiting, waitingHere := stranded(s, to)
	return withinMoves(s, r, to, all+waiting, here+waitingHere)
}

// roomToRestore holds unless row r's state would be one too many.
func roomToRestore(s *State, r Row) string {
	all, _ := underWay(s, r.Node)
	here := 0
	for key := range s.Moving.All() {
		if o := s.Rows.At(key); o.Phase == Restoring && o.Node == r.Node {
			here++
		}
	}
	return withinMoves(s, r, r.Node, all, here)
}

func withinMoves(s *State, r Row, to string, all, here int) string {
	limit := s.movesAtOnce(r.System)
	switch {
	case here >= min(limit, MovesPerNode):
		return fmt.Sprintf("waits: %s moving to %s", otherStates(here), s.NodeName(to))
	case all >= limit:
		return fmt.Sprintf("waits: %s moving", otherStates(all))
	}
	return ""
}

func otherStates(n int) string {
	if n == 1 {
		return "another state is"
	}
	return fmt.Sprintf("%d other states are", n)
}

// MoveWaits says what the move of a row's state waits for, if that is only that others move: of the row that it leaves, and
// of the one that gets it.
func MoveWaits(s *State, r Row) string {
	if !r.Managed {
		return ""
	}
	if !r.Obsolete {
		if loadable(s, r) == "" {
			return roomToRestore(s, r)
		}
		for _, o := range s.ServiceRows(r.System, r.Service) {
			if o.Obsolete && succeeds(r, o.RowSpec) && r.Phase == Prepared && savable(s, o) == "" {
				return roomToSave(s, o)
			}
		}
		return ""
	}
	if savable(s, r) == "" {
		return roomToSave(s, r)
	}
	return ""
}
