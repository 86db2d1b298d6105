package model

import (
	"fmt"
	"slices"

	"github.com/hashicorp/hcl/v2"
)

// Id assignment follows Dynamic Disnix's (reserved until undeployed, a freed number is not used again before the
// counter wraps), with three differences: a number given to a service on two nodes is chosen on each, so it cannot
// collide on the second; every search ends after one round through the range; shared and fixed numbers are left out
// of every node's private ones.

// allotter gives out numbers against what is reserved already. Each map is number -> holder.
type allotter struct {
	shared   map[string]map[int]string // by resource: numbers of the whole network
	fixed    map[string]map[int]string // by resource: fixed on some node, so private on none
	node     map[string]map[int]string // by resource@node: private or fixed there
	some     map[string]map[int]string // by resource: private or fixed on some node, held by one of those who do there
	counters Table[int]
	moved    map[string]int // counters that changed
}

func newAllotter(s *State, ignore func(Reservation) bool) *allotter {
	a := &allotter{shared: map[string]map[int]string{}, fixed: map[string]map[int]string{}, node: map[string]map[int]string{},
		some: map[string]map[int]string{}, counters: s.Counters, moved: map[string]int{}}
	for _, r := range s.Reservations.All() {
		if !ignore(r) {
			a.hold(r)
		}
	}
	return a
}

func (a *allotter) hold(r Reservation) {
	put := func(m map[string]map[int]string, key string) {
		if m[key] == nil {
			m[key] = map[int]string{}
		}
		m[key][r.Number] = r.holder()
	}
	switch r.Scope {
	case PortShared:
		put(a.shared, r.Resource)
	case PortFixed:
		put(a.fixed, r.Resource)
		fallthrough
	default:
		put(a.node, r.Resource+"@"+r.Node)
		put(a.some, r.Resource)
	}
}

func (r Reservation) holder() string {
	if r.Name == "" {
		return r.Service
	}
	return r.Service + "." + r.Name
}

// takenFor says who stands in the way of r's number n.
func (a *allotter) takenFor(r Reservation, n int) (string, bool) {
	if h, ok := a.shared[r.Resource][n]; ok {
		return h, true
	}
	if r.Scope != PortShared {
		h, ok := a.node[r.Resource+"@"+r.Node][n]
		return h, ok
	}
	h, ok := a.some[r.Resource][n]
	return h, ok
}

// next takes the number after the last one given out, skipping those taken; it ends after one round.
func (a *allotter) next(counter string, r Reservation, within IDRange) (int, bool) {
	last, ok := a.moved[counter]
	if !ok {
		last, ok = a.counters.Get(counter)
	}
	n := last + 1
	if !ok || !within.Contains(n) {
		n = within.Min
	}
	for range within.Size() {
		_, fixed := a.fixed[r.Resource][n] // on whatever node; one that was given out before stays, though
		if _, taken := a.takenFor(r, n); !taken && !fixed {
			a.moved[counter] = n
			return n, true
		}
		if n++; n > within.Max {
			n = within.Min
		}
	}
	return 0, false
}

// reserve gives every placed instance its ports, and every service its uid. What has the least choice comes first, so
// that a number written in the model is not given away to a service that would have taken any.
func (c *composer) reserve() {
	for _, s := range c.services {
		c.keepNumbers(s)
	}
	c.keepOwners()
	for _, scope := range []PortAssign{PortFixed, PortShared, PortPrivate} {
		for _, s := range c.services {
			for _, r := range c.wanted(s) {
				if _, have := c.reserved[r.Key()]; !have && r.Scope == scope {
					c.assign(s, r)
				}
			}
		}
	}
}

// wanted lists the reservations that a service needs where it was placed; numbers are filled in only for fixed ones.
func (c *composer) wanted(s *Service) []Reservation {
	var out []Reservation
	for _, p := range s.Ports {
		r := Reservation{System: c.in.System, Service: s.Name, Name: p.Name, Resource: "ports", Scope: p.Assign, Number: p.Number}
		if p.Assign == PortShared {
			out = append(out, r)
			continue
		}
		for _, node := range c.where[s.Name] {
			r.Node = node
			out = append(out, r)
		}
	}
	if modules[s.Type].owner {
		out = append(out, Reservation{System: c.in.System, Service: s.Name, Resource: "uids", Scope: PortShared})
	}
	return out
}

// keepOwners keeps the user ids of services that are wanted no more and whose state is kept: their files are owned by
// them, and would be somebody else's.
func (c *composer) keepOwners() {
	for _, r := range c.in.State.Reservations.Prefix(c.in.System + "/") {
		if _, wanted := c.reserved[r.Key()]; wanted || r.Resource != "uids" {
			continue
		}
		for range c.in.State.Custody.Prefix(r.System + "/" + r.Service + "/") {
			c.take(r)
			break
		}
	}
}

// keepNumbers keeps what the service holds and still wants, and what is inside its range; first for all services, so
// that nobody new takes such a number.
func (c *composer) keepNumbers(s *Service) {
	for _, w := range c.wanted(s) {
		have, ok := c.in.State.Reservations.Get(w.Key())
		if preferred, set := c.preferred[w.Key()]; set {
			have, ok = preferred, true
		}
		if !ok || have.Scope != w.Scope {
			continue
		}
		if w.Scope == PortFixed && have.Number != w.Number || w.Scope != PortFixed && !c.rangeOf(w).Contains(have.Number) {
			continue
		}
		if _, taken := c.numbers.takenFor(w, have.Number); !taken { // else somebody has it by now: a new one is assigned
			c.take(have)
		}
	}
}

func (c *composer) rangeOf(r Reservation) IDRange {
	ids, ok := c.in.Model.IDs[r.Resource]
	if !ok {
		ids = DefaultIDs(r.Resource)
	}
	if r.Scope == PortShared {
		return ids.Shared
	}
	if own, ok := ids.Nodes[c.in.State.NodeName(r.Node)]; ok {
		return own
	}
	return ids.Private
}

func (c *composer) take(r Reservation) {
	c.reserved[r.Key()] = r
	c.numbers.hold(r)
}

func (c *composer) assign(s *Service, r Reservation) {
	if r.Scope == PortFixed {
		if holder, taken := c.numbers.takenFor(r, r.Number); taken {
			c.fail(c.portRange(s, r.Name), fmt.Sprintf("port %d on %s is taken by %s", r.Number, c.in.State.NodeName(r.Node), holder),
				"Choose another number, or pin the two services to different nodes.")
			return
		}
		c.take(r)
		return
	}
	counter := r.Resource + "/shared"
	if r.Scope == PortPrivate {
		counter = r.Resource + "/private/" + r.Node
	}
	n, ok := c.numbers.next(counter, r, c.rangeOf(r))
	c.assigned(s, r, n, ok, c.portRange(s, r.Name))
}

func (c *composer) assigned(s *Service, r Reservation, n int, ok bool, where hcl.Range) {
	if !ok {
		rng := c.rangeOf(r)
		c.fail(where, fmt.Sprintf("the %s %s of %d-%d are used up", r.Scope, r.Resource, rng.Min, rng.Max),
			fmt.Sprintf("Widen the range: ids %q { %s = \"%d-%d\" }.", r.Resource, r.Scope, rng.Min, rng.Max+rng.Size()))
		return
	}
	r.Number = n
	c.take(r)
}

func (c *composer) portRange(s *Service, name string) hcl.Range {
	for _, p := range s.Ports {
		if p.Name == name {
			return p.Range
		}
	}
	return s.Range
}

// portNumbers gives the numbers of an instance's ports and how each was assigned.
func (c *composer) portNumbers(s *Service, node string) (map[string]int, map[string]PortAssign) {
	if len(s.Ports) == 0 {
		return nil, nil
	}
	numbers, scopes := map[string]int{}, map[string]PortAssign{}
	for _, p := range s.Ports {
		r := Reservation{System: c.in.System, Service: s.Name, Name: p.Name, Resource: "ports", Node: node}
		if p.Assign == PortShared {
			r.Node = ""
		}
		numbers[p.Name], scopes[p.Name] = c.reserved[r.Key()].Number, p.Assign
	}
	return numbers, scopes
}

// reservationChanges compares what the manifest holds with what State holds for the system.
func (c *composer) reservationChanges() (add []Reservation, release []string) {
	for _, key := range sortedKeys(c.reserved) {
		if have, ok := c.in.State.Reservations.Get(key); !ok || have != c.reserved[key] {
			add = append(add, c.reserved[key])
		}
	}
	for key := range c.in.State.Reservations.Prefix(c.in.System + "/") {
		if now, ok := c.reserved[key]; !ok || now != c.in.State.Reservations.At(key) {
			release = append(release, key)
		}
	}
	slices.Sort(release)
	return add, release
}
