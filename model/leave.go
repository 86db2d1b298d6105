package model

import (
	"fmt"
	"slices"
)

// MayLeave says why a node cannot leave the cluster yet; "" when it can: nothing runs on it, no state is there, and it is not
// the only one that has a snapshot. A drain brings that about, but for the states of services that are not deployed.
func MayLeave(s *State, node string) string {
	for _, r := range s.Rows.Prefix(node + "/") {
		if !r.Obsolete || r.Phase.Alive() {
			return fmt.Sprintf("%s is still there (%s)", r.Service, r.Phase)
		}
	}
	for key, c := range s.Custody.All() {
		if system, service, _ := SplitCustodyKey(key); c.Node == node {
			return fmt.Sprintf("the state of %s (system %s) is there", service, system)
		}
	}
	for _, snap := range s.Snapshots.All() {
		if slices.Contains(snap.Holders, node) && !HeldByOther(s, snap, node) {
			return fmt.Sprintf("no other node that is up has snapshot %d of %s", snap.Generation, snap.Service)
		}
	}
	for id, n := range s.Nodes.All() {
		if id != node && !n.Left && !n.Down {
			return ""
		}
	}
	return "no other node is up"
}
