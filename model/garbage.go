package model

import "fmt"

// Garbage says why the state of a component that lies on a node is wanted no more, and whether it is the only one: that of
// a service that is not deployed, rather than what was left behind when the state went elsewhere. why is "" for a state
// that must stay.
func Garbage(s *State, node, system, service, container string) (why string, last bool) {
	rows := s.ServiceRows(system, service)
	for _, r := range rows {
		if r.Node == node && r.Container == container {
			return "", false
		}
	}
	c, held := s.Custody.Get(CustodyKey(system, service, container))
	switch {
	case !held:
		return "nothing knows of it any more", false
	case c.Node != node && c.From != node && c.Node != "":
		return fmt.Sprintf("its state is on %s now", s.NodeName(c.Node)), false
	case c.Node != node && c.From != node: // on its way from elsewhere
		return "its state goes elsewhere", false
	case len(rows) > 0:
		return "", false // it is to be saved, or what it was is needed if the move fails
	}
	return "it is not deployed", true
}
