package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// place decides the nodes of every service. What can stay stays; the rest goes to the node with the fewest instances,
// ties broken by rendezvous hash. Pins list the nodes allowed.
func (c *composer) place() {
	c.where = map[string][]string{}
	c.bind()
	load := c.foreignLoad()
	var open []*Service
	for _, s := range c.placeOrder() {
		if g := c.bound[s.Name]; g != nil && g.single {
			c.keepGroup(g, load)
			continue
		}
		kept := c.keep(s)
		c.where[s.Name] = kept
		for _, id := range kept {
			load[id]++
		}
		if s.All || len(kept) < s.Instances {
			open = append(open, s)
		}
	}
	for _, g := range c.groups() {
		c.placeGroup(g, load)
	}
	for _, s := range open {
		c.placeRest(s, load)
	}
	c.checkGroups()
	c.waitTogether()
	for name := range c.where {
		slices.SortFunc(c.where[name], c.byName)
	}
}

// foreignLoad counts the instances of other systems on each node.
func (c *composer) foreignLoad() map[string]int {
	load := map[string]int{}
	for _, r := range c.in.State.Rows.All() {
		if r.System != c.in.System && !r.Obsolete {
			load[r.Node]++
		}
	}
	return load
}

// keep gives the nodes on which the service is and may stay.
func (c *composer) keep(s *Service) []string {
	allowed := c.candidates(s)
	var kept []string
	for _, id := range c.previous[s.Name] {
		stays := slices.Contains(allowed, id)
		if !stays && !s.All && c.waitsFor(s, id, allowed) {
			stays = true
			c.warn("%s stays on %s, which is down: %s", s.Name, c.in.State.NodeName(id), c.whyWait(s, allowed))
		}
		if !stays && c.awaitsState(s, id) {
			stays = true
			c.warn("%s on %s waits for %s, which is down: its state is there", s.Name, c.in.State.NodeName(id), c.in.State.NodeName(c.custodian(s)))
		}
		if stays && (s.All || len(kept) < s.Instances) && !slices.Contains(kept, id) {
			kept = append(kept, id)
		}
	}
	return kept
}

// waitsFor says that an instance stays planned on a node that is down: its state is there, or no other node may have it.
func (c *composer) waitsFor(s *Service, id string, allowed []string) bool {
	n, member := c.in.State.Nodes.Get(id)
	if !member || !n.Down || !c.pinAllows(s.Name, n.Name) {
		return false
	}
	return c.custodian(s) == id || len(allowed) == 0
}

// awaitsState says that an instance stays on a node to which its state was about to move when the node that has it went
// down.
func (c *composer) awaitsState(s *Service, id string) bool {
	holder := c.custodian(s)
	n, member := c.in.State.Nodes.Get(id)
	return holder != "" && holder != id && !canLeave(c.in.State, holder) && member && n.Takes() && c.declares(n.Name) && c.pinAllows(s.Name, n.Name)
}

func (c *composer) whyWait(s *Service, allowed []string) string {
	if len(allowed) == 0 {
		return "no other node may run it"
	}
	return "its state is there"
}

func (c *composer) custodian(s *Service) string {
	if s.State == nil || !s.State.Managed {
		return ""
	}
	return c.in.State.Custody.At(CustodyKey(c.in.System, s.Name, s.Type)).Node
}

// home is the node where the state of a service is, or came from if it is on its way: it can start there without
// restoring.
func (c *composer) home(s *Service) string {
	if s.State == nil || !s.State.Managed {
		return ""
	}
	cu := c.in.State.Custody.At(CustodyKey(c.in.System, s.Name, s.Type))
	return cmp.Or(cu.Node, cu.From)
}

// canLeave says whether a state can be saved on the node that holds it.
func canLeave(s *State, holder string) bool {
	n, member := s.Nodes.Get(holder)
	return member && !n.Down && !n.Left
}

// candidates are the nodes that may take the service together with what must be on its node, in name order.
func (c *composer) candidates(s *Service) []string {
	ids := c.fitting(s)
	g := c.bound[s.Name]
	if g == nil {
		return ids
	}
	if g.single {
		for _, m := range g.members {
			ids = both(ids, c.fitting(m))
		}
		return ids
	}
	for _, u := range g.uses {
		if u.service == s {
			ids = both(ids, c.where[u.target.Name])
		}
	}
	return ids
}

// fitting are the nodes that may take the service as far as it alone is concerned, in name order: up, in the model if it names nodes, allowed by
// the pin, and, where managed state cannot leave the node that holds it, that one.
func (c *composer) fitting(s *Service) []string {
	holder := c.custodian(s)
	bound := holder != "" && !canLeave(c.in.State, holder)
	var ids []string
	for id, n := range c.in.State.Nodes.All() {
		if !n.Takes() || !c.declares(n.Name) || !c.pinAllows(s.Name, n.Name) || bound && holder != id {
			continue
		}
		ids = append(ids, id)
	}
	slices.SortFunc(ids, c.byName)
	return ids
}

func (c *composer) byName(a, b string) int {
	return cmp.Or(cmp.Compare(c.in.State.NodeName(a), c.in.State.NodeName(b)), cmp.Compare(a, b))
}

// declares says whether the model speaks of the node: without node blocks it means every member.
func (c *composer) declares(name string) bool {
	return len(c.in.Model.Nodes) == 0 || c.decls[name] != nil
}

func (c *composer) pinAllows(service, node string) bool {
	pins, pinned := c.in.Model.Distribution.Pin[service]
	return !pinned || slices.Contains(pins, node)
}

func (c *composer) placeRest(s *Service, load map[string]int) {
	allowed := c.candidates(s)
	for s.All || len(c.where[s.Name]) < s.Instances {
		best := ""
		for _, id := range allowed {
			if !slices.Contains(c.where[s.Name], id) && (best == "" || c.better(s, id, best, load)) {
				best = id
			}
		}
		if best == "" {
			break
		}
		c.where[s.Name] = append(c.where[s.Name], best)
		load[best]++
	}
	if missing := s.Instances - len(c.where[s.Name]); missing > 0 && !s.All {
		c.short(s, missing, len(allowed))
	}
}

// waitTogether takes out what needs the address of a service that waits for a node: without it neither can run. Only
// an adaptation leaves a service without a node and goes on.
func (c *composer) waitTogether() {
	for again := c.in.Adapt; again; {
		again = false
		for _, s := range c.services {
			if on := c.missing(s); on != "" && len(c.where[s.Name]) > 0 {
				c.where[s.Name], again = nil, true
				c.warn("%s waits for %s", s.Name, on)
			}
		}
	}
}

// missing names a service that s needs and that has no instance. A service that asks for all instances does with none.
func (c *composer) missing(s *Service) string {
	for _, links := range []map[string]string{s.DependsOn, s.ConnectsTo} {
		for _, alias := range sortedKeys(links) {
			if len(c.where[links[alias]]) == 0 && !s.usesAll(alias) {
				return links[alias]
			}
		}
	}
	return ""
}

func (c *composer) better(s *Service, a, b string, load map[string]int) bool {
	if home := c.home(s); home == a || home == b {
		return home == a
	}
	return cmp.Or(cmp.Compare(load[a], load[b]), cmp.Compare(rendezvous(s.Name, a), rendezvous(s.Name, b)), cmp.Compare(a, b)) < 0
}

// short tells that fewer nodes fit than instances are wanted. For an operator it is an error; when adapting to nodes
// that died the rest waits for them.
func (c *composer) short(s *Service, missing, fitting int) {
	why := fmt.Sprintf("service %q wants %d instances and only %d of the nodes may run it", s.Name, s.Instances, fitting)
	if s.Instances == 1 {
		why = fmt.Sprintf("no node may run service %q", s.Name)
	}
	if holder := c.custodian(s); holder != "" {
		why += fmt.Sprintf("; its state is on %s and cannot leave it now", c.in.State.NodeName(holder))
	}
	if c.in.Adapt {
		c.warn("%s; it waits for a node", why)
		return
	}
	hint := "Members that are up: " + strings.Join(c.upNames(), ", ") + "."
	if pins := c.in.Model.Distribution.Pin[s.Name]; len(pins) > 0 {
		hint = fmt.Sprintf("It is pinned to %s. %s", strings.Join(pins, ", "), hint)
	}
	c.fail(s.Range, why, hint)
}

func (c *composer) upNames() []string {
	var names []string
	for _, n := range c.in.State.Nodes.All() {
		if n.Takes() {
			names = append(names, n.Name)
		}
	}
	slices.Sort(names)
	return names
}
