//go:build linux

package testcluster

import (
	"maps"
	"net/netip"
	"slices"
)

// oneProcess: each service has at most one process per node, not counting what
// that process started itself.
func oneProcess(o Observation) (bad []string) {
	for _, w := range o.Nodes {
		for _, s := range sorted(w.services()) {
			if roots := w.Service(s); len(roots) > 1 {
				say(&bad, "%s runs %d times on %s: %v", s, len(roots), w.Name, roots)
			}
		}
	}
	return bad
}

// agentLives: an agent ends only when the test ends it.
func agentLives(o Observation) (bad []string) {
	for _, w := range o.Nodes {
		if w.Died != "" {
			say(&bad, "the agent of %s ended by itself: %s", w.Name, w.Died)
		}
	}
	return bad
}

// journalWhole: the checks of the order saw everything.
func journalWhole(o Observation) (bad []string) {
	if o.Dropped > 0 {
		say(&bad, "%d events did not fit into the journal", o.Dropped)
	}
	return bad
}

// portOnce: no two services listen on one port of a node, and no two have the
// same number by reservation.
func portOnce(o Observation) (bad []string) {
	for _, w := range o.Nodes {
		for i, a := range w.Listeners {
			for _, b := range w.Listeners[i+1:] {
				left, right := w.owners(a), w.owners(b)
				if a.Inode != b.Inode && overlap(a.Address, b.Address) && !slices.Equal(left, right) {
					say(&bad, "%s has port %d twice: %v by %v, %v by %v", w.Name, a.Address.Port(), a.Address, left, b.Address, right)
				}
			}
		}
	}
	for i, a := range o.Ports {
		for _, b := range o.Ports[i+1:] {
			if clash(a, b) {
				say(&bad, "%s %d is reserved twice: %+v, %+v", a.Resource, a.Number, a, b)
			}
		}
	}
	return bad
}

// overlap says whether one connection could reach either address.
func overlap(a, b netip.AddrPort) bool {
	return a.Port() == b.Port() && (a.Addr() == b.Addr() || a.Addr().IsUnspecified() || b.Addr().IsUnspecified())
}

// clash says whether two reservations give one number away twice: a private
// number is one node's, any other everybody's.
func clash(a, b Port) bool {
	if a.Resource != b.Resource || a.Number != b.Number || (a.Service == b.Service && a.Name == b.Name) {
		return false
	}
	return a.Scope != "private" || b.Scope != "private" || a.Node == b.Node
}

// owners are the services that have a socket open; "" is what is no service.
func (w NodeWorld) owners(l Listener) []string {
	names := map[string]bool{}
	for _, p := range w.Processes {
		if slices.Contains(l.Owners, p.PID) {
			names[p.Service] = true
		}
	}
	return sorted(names)
}

// portListens: each port of an active instance is listened on by its process,
// or by the keeper for it.
func portListens(o Observation) (bad []string) {
	for _, i := range o.instances() {
		w, on := o.node(i.Node)
		if i.Phase != phaseActive || !on {
			continue
		}
		for _, name := range sorted(i.Ports) {
			if who := w.listening(i.Ports[name]); !slices.Contains(who, i.Service) && !slices.Contains(who, "") {
				say(&bad, "port %s (%d) of %s on %s is not listened on by it but by %q", name, i.Ports[name], i.Service, i.Node, who)
			}
		}
	}
	return bad
}

// listening are the owners of all sockets that listen on a port.
func (w NodeWorld) listening(port int) []string {
	var names []string
	for _, l := range w.Listeners {
		if int(l.Address.Port()) == port {
			names = append(names, w.owners(l)...)
		}
	}
	return names
}

// stateIsTrue: what is active on a node that is on has its process there, and
// nothing runs that is not alive in State.
func stateIsTrue(o Observation) (bad []string) {
	if o.Status == nil {
		return nil
	}
	alive := map[[2]string]bool{} // service, node
	for _, i := range o.instances() {
		w, on := o.node(i.Node)
		if slices.Contains(alivePhases, i.Phase) {
			alive[[2]string{i.Service, i.Node}] = true
		}
		if i.Phase == phaseActive && on {
			if what := w.lacks(i, o.isProcess(i)); what != "" {
				say(&bad, "%s is active on %s, but %s", i.Service, i.Node, what)
			}
		}
	}
	for _, w := range o.Nodes {
		for _, s := range sorted(w.services()) {
			if !alive[[2]string{s, w.Name}] {
				say(&bad, "%s runs on %s, but State has nothing alive there: %v", s, w.Name, w.Service(s))
			}
		}
	}
	return bad
}

// alivePhases are those in which a process may exist.
var alivePhases = []string{"starting", phaseActive, "stopping", "saving", "restoring"}

// isProcess says whether an instance must have a process: State names one, or
// the service has ever told the observer of one.
func (o Observation) isProcess(i Instance) bool {
	return i.PID > 0 || slices.ContainsFunc(o.Events, func(e Event) bool { return e.Kind == EventStart && e.Service == i.Service })
}

// lacks is what is missing of an active instance.
func (w NodeWorld) lacks(i Instance, process bool) string {
	roots := w.Service(i.Service)
	switch {
	case !process:
		return ""
	case len(roots) == 0:
		return "has no process"
	case i.PID == 0:
		return "State names no process"
	case !slices.ContainsFunc(roots, func(p Process) bool { return p.PID == i.PID }):
		return "its process is another one than State names"
	}
	return ""
}

// noProcessLeft: after everything was told to end, only PID 1 is there.
func noProcessLeft(o Observation) (bad []string) {
	for _, w := range o.Nodes {
		for _, p := range w.Processes {
			say(&bad, "%s still has process %v", w.Name, p)
		}
		for _, l := range w.Listeners {
			say(&bad, "%s still listens on %v", w.Name, l.Address)
		}
	}
	return bad
}

// noFileLeft: who was stopped in good order has removed its sockets and
// temporary files.
func noFileLeft(o Observation) (bad []string) {
	for _, w := range o.Nodes {
		for _, f := range w.Files {
			if w.Polite {
				say(&bad, "%s still has %s (socket: %v)", w.Name, f.Path, f.Socket)
			}
		}
	}
	return bad
}

func (o Observation) instances() []Instance {
	if o.Status == nil {
		return nil
	}
	return o.Status.Instances
}

// node finds a node that is switched on.
func (o Observation) node(name string) (NodeWorld, bool) {
	for _, w := range o.Nodes {
		if w.Name == name {
			return w, w.On
		}
	}
	return NodeWorld{}, false
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
