package model

import (
	"fmt"
	"slices"
	"strings"
)

// The gates run when a claim is applied, so they are part of the log format: change them only behind a StateVersion
// that the leader raises once every member supports it. Each answers "" when it holds, else what it waits for, in
// words for an operator.

// CanStart says whether row r may be started now.
func CanStart(s *State, r Row) string {
	switch {
	case r.Obsolete:
		return "it is not part of the newest generation"
	case r.Phase != Prepared && r.Phase != Restored:
		return "it is " + string(r.Phase)
	}
	if g, ok := s.Generation(r.System, s.Systems.At(r.System).Generation); !ok || !g.Opened {
		return "the generation is not prepared yet"
	}
	for _, check := range []func(*State, Row) string{dependenciesActive, afterActive, placeFree, portsFree, noOtherHolder, custodyHere} {
		if why := check(s, r); why != "" {
			return why
		}
	}
	return ""
}

// CanStop says whether row r may be stopped now: it is obsolete, and nothing alive depends on it any more.
func CanStop(s *State, r Row) string {
	switch {
	case !r.Obsolete:
		return "it is part of the newest generation"
	case r.Phase != Active && r.Phase != Starting:
		return "it is " + string(r.Phase)
	case MustSave(s, r):
		return "its state must be saved first"
	}
	return mayEnd(s, r)
}

// mayEnd holds when the newest generation is prepared and nothing alive needs the obsolete row r any more.
func mayEnd(s *State, r Row) string {
	if g, ok := s.Generation(r.System, s.Systems.At(r.System).Generation); !ok || !g.Opened {
		return "the generation is not prepared yet"
	}
	for k := range s.Dependents.Prefix(r.Key + "|") {
		d := s.Rows.At(k[len(r.Key)+1:])
		if d.Phase.Alive() {
			return fmt.Sprintf("%s depends on it and is %s", d.Service, d.Phase)
		}
	}
	return stopsAfter(s, r)
}

// stopsAfter keeps activates_after in reverse: an obsolete row whose service others activate after waits until the
// obsolete rows among those are gone. Only those that were in one generation with it and left no later count: each
// generation's order is acyclic, but those of two generations may contradict each other.
func stopsAfter(s *State, r Row) string {
	prefix := afterKey(r.System, r.Service)
	for k := range s.Dependents.Prefix(prefix) {
		o := s.Rows.At(k[len(prefix):])
		together := o.Obsolete && r.First <= o.Last && o.Last <= r.Last
		if together && o.Phase.Alive() && o.Key != r.Key {
			return fmt.Sprintf("%s activates after it and is %s", o.Service, o.Phase)
		}
	}
	return ""
}

func dependenciesActive(s *State, r Row) string {
	for _, key := range r.DependsOn {
		d, ok := s.Rows.Get(key)
		if !ok {
			return "a dependency is gone"
		}
		if d.Phase != Active {
			return fmt.Sprintf("%s on %s is %s", d.Service, s.NodeName(d.Node), d.Phase)
		}
	}
	return ""
}

func afterActive(s *State, r Row) string {
	for _, service := range r.After {
		for _, o := range s.ServiceRows(r.System, service) {
			if !o.Obsolete && o.Phase != Active {
				return fmt.Sprintf("%s is %s", o.Service, o.Phase)
			}
		}
	}
	return ""
}

// placeFree holds when no other row of the same service, node and container is alive.
func placeFree(s *State, r Row) string {
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if o.Key != r.Key && o.Node == r.Node && o.Container == r.Container && o.Phase.Alive() {
			return fmt.Sprintf("the %s it replaces is %s", o.Service, o.Phase)
		}
	}
	return ""
}

// portsFree holds when no other live row on the node has one of r's port numbers.
func portsFree(s *State, r Row) string {
	if len(r.Spec.Ports) == 0 {
		return ""
	}
	for _, o := range s.Rows.Prefix(r.Node + "/") {
		if o.Key == r.Key || !o.Phase.Alive() {
			continue
		}
		for name, n := range o.Spec.Ports {
			for _, mine := range r.Spec.Ports {
				if n == mine {
					return fmt.Sprintf("port %d is still %s of %s, which is %s", n, name, o.Service, o.Phase)
				}
			}
		}
	}
	return ""
}

// noOtherHolder holds for a service that is not exclusive, and for an exclusive one when nothing of it is alive
// anywhere. A row whose node is down counts as alive until the node is fenced.
func noOtherHolder(s *State, r Row) string {
	if !r.Exclusive {
		return ""
	}
	for _, o := range s.ServiceRows(r.System, r.Service) {
		if o.Key != r.Key && (o.Phase.Alive() || o.Phase == Lost && o.Node != r.Node && !s.Nodes.At(o.Node).Fenced) {
			return fmt.Sprintf("%s on %s may still be running", o.Service, s.NodeName(o.Node))
		}
	}
	return ""
}

// NodeName gives a node's name, or the beginning of its id when it is not a member any more.
func (s *State) NodeName(id string) string {
	if n, ok := s.Nodes.Get(id); ok {
		return n.Name
	}
	if r, ok := s.Removed.Get(id); ok {
		return r.Name
	}
	return id[:min(8, len(id))]
}

// CanSettle says whether the newest generation of a system is done: every row active, nothing obsolete alive on a
// node that is up.
func CanSettle(s *State, system string) string {
	rows := s.SystemRows(system)
	slices.SortFunc(rows, func(a, b Row) int { return strings.Compare(a.Key, b.Key) })
	for _, r := range rows {
		if !r.Obsolete && r.Phase != Active {
			return fmt.Sprintf("%s on %s is %s", r.Service, s.NodeName(r.Node), r.Phase)
		}
		if r.Obsolete && r.Phase.Alive() {
			return fmt.Sprintf("obsolete %s on %s is %s", r.Service, s.NodeName(r.Node), r.Phase)
		}
	}
	return ""
}
