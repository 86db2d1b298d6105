package model

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/model/placement"
)

// Where services go. This file says what package placement has to know: which nodes each service may have at all
// (refusal), what they have room for, what must be apart. That package chooses among them.

// unit is what is placed as one: a service, or a group of which all must be on one node.
type unit struct {
	services []*Service
	group    *group // nil: a service alone, or one of a group whose members go where what they use is
}

func (u unit) name() string {
	names := make([]string, len(u.services))
	for i, s := range u.services {
		names[i] = s.Name
	}
	return strings.Join(names, "+")
}

// layout is a composition's placement while it is made.
type layout struct {
	*composer
	units   []unit
	unitOf  map[string]int // by service
	problem placement.Problem
	solver  *placement.Solver
	domains map[string]int    // by attribute: number for rules
	shared  map[*string][]int // by a list of candidates: their numbers
}

// place decides the nodes of every service.
func (c *composer) place() {
	c.where, c.moved = map[string][]string{}, map[string]string{}
	c.bind()
	l := &layout{composer: c, unitOf: map[string]int{}, domains: map[string]int{}, shared: map[*string][]int{}}
	l.pose()
	if c.diags.HasErrors() {
		return
	}
	l.solver = placement.New(&l.problem)
	for _, name := range c.in.Explain {
		if i, ok := l.unitOf[name]; ok {
			l.solver.Explain(i)
		}
	}
	var first []int
	for i, u := range l.units {
		if g := c.bound[u.services[0].Name]; g == nil || g.single {
			first = append(first, i)
		}
	}
	l.settle(first)
	for _, i := range l.followers() { // where they may go depends on where others are
		l.allow(i)
		l.settle([]int{i})
	}
	c.warnings = append(c.warnings, l.solver.Notes()...)
	l.tellMoved()
	c.explained = l.explain()
	c.checkGroups()
	c.waitTogether()
	for name := range c.where {
		slices.SortFunc(c.where[name], c.byName)
	}
}

// pose states the problem.
func (l *layout) pose() {
	d := l.in.Model.Distribution
	l.problem = placement.Problem{Strategy: placement.Strategy(d.Strategy), Minimize: placement.Objective(d.Minimize), MoveCost: int64(d.MoveCost), Amount: formatAmount}
	for _, s := range l.services {
		for name := range s.Needs {
			l.problem.Dimensions = append(l.problem.Dimensions, name)
		}
	}
	slices.Sort(l.problem.Dimensions)
	l.problem.Dimensions = slices.Compact(l.problem.Dimensions)
	l.problem.Dimension = max(slices.Index(l.problem.Dimensions, d.Resource), 0)
	l.poseNodes(d.Cost)
	l.domain(AttrZone) // the first domain, which spreading looks at
	seen := map[*group]bool{}
	for _, s := range l.services {
		u := unit{services: []*Service{s}}
		if g := l.bound[s.Name]; g != nil && g.single {
			if seen[g] {
				continue
			}
			seen[g], u = true, unit{services: g.members, group: g}
		}
		for _, m := range u.services {
			l.unitOf[m.Name] = len(l.units)
		}
		l.units = append(l.units, u)
	}
	l.problem.Items = make([]placement.Item, len(l.units))
	for i := range l.units {
		l.poseItem(i)
	}
	l.poseRules()
}

func (l *layout) poseNodes(costAttribute string) {
	l.problem.Nodes = make([]placement.Node, len(l.nodes))
	for k, id := range l.nodes {
		info := l.info[id]
		n := placement.Node{ID: id, Name: info.Name, Capacity: make([]int64, len(l.problem.Dimensions)), Used: make([]int64, len(l.problem.Dimensions))}
		for d, name := range l.problem.Dimensions {
			n.Capacity[d], _ = ParseAmount(info.Attributes[name].Text) // what is no amount is nothing
		}
		n.Cost, _ = ParseAmount(info.Attributes[costAttribute].Text)
		l.problem.Nodes[k] = n
	}
	for _, r := range l.in.State.Rows.All() { // other systems share the nodes
		k, member := l.index[r.Node]
		if r.System == l.in.System || r.Obsolete || !member {
			continue
		}
		l.problem.Nodes[k].Load++
		for d, name := range l.problem.Dimensions {
			l.problem.Nodes[k].Used[d] += r.Needs[name]
		}
	}
}

func (l *layout) poseItem(i int) {
	u := l.units[i]
	it := placement.Item{Name: u.name(), Size: len(u.services), Copies: u.services[0].Instances, Everywhere: u.services[0].All}
	if len(l.problem.Dimensions) > 0 {
		for _, s := range u.services {
			if len(s.Needs) > 0 && it.Demand == nil {
				it.Demand = make([]int64, len(l.problem.Dimensions))
			}
			for d, name := range l.problem.Dimensions {
				if n := s.Needs[name]; n > 0 {
					it.Demand[d] += n
				}
			}
		}
	}
	for _, s := range u.services {
		it.Weight = min(it.Weight+l.weight(s), math.MaxInt32)
	}
	l.problem.Items[i] = it
	if g := l.bound[u.services[0].Name]; g == nil || g.single {
		l.allow(i)
	}
}

// weight is what it costs to move a service: 1, and with state 10 more and 1 for each GiB of it.
func (l *layout) weight(s *Service) int64 {
	if s.State == nil || !s.State.Managed {
		return 1
	}
	w := int64(11)
	if snap, ok := l.in.State.NewestSnapshot(CustodyKey(l.in.System, s.Name, s.Type), func(Snapshot) bool { return true }); ok {
		w += snap.Size >> 30
	}
	return min(w, 100_000)
}

// allow says where a unit may go, and where it is.
func (l *layout) allow(i int) {
	u, it := l.units[i], &l.problem.Items[i]
	lead := u.services[0]
	allowed := l.candidates(lead)
	it.Allowed = l.numbers(allowed)
	var kept int
	for _, s := range l.heaviest(u.services) {
		for _, id := range l.previous[s.Name] {
			k, member := l.index[id]
			_, may := slices.BinarySearch(it.Allowed, k)
			switch {
			case !member || slices.Contains(it.Previous, k) || slices.Contains(it.Fixed, k):
			case may:
				it.Previous = append(it.Previous, k)
				kept++
			case (s.All || kept < it.Copies) && l.waits(u, id, allowed):
				it.Fixed = append(it.Fixed, k)
				kept++
			}
		}
	}
	for _, s := range l.heaviest(u.services) { // what has state can start there without restoring
		if k, member := l.index[l.home(s)]; member && !slices.Contains(it.Previous, k) {
			it.Previous = append(it.Previous, k)
		}
	}
}

// numbers are the places of nodes in name order. Services that ask for the same share one list.
func (l *layout) numbers(ids []string) []int {
	if len(ids) == 0 {
		return nil
	}
	if known := l.shared[&ids[0]]; len(known) == len(ids) {
		return known
	}
	out := make([]int, len(ids))
	for k, id := range ids {
		out[k] = l.index[id]
	}
	l.shared[&ids[0]] = out
	return out
}

// waits says that a unit stays planned on a node that may not take it now: the node is down and has its state, or nothing else
// may have it; or the node is sick, and nothing else may; or its state was about to move there when the node that has it went down.
func (l *layout) waits(u unit, id string, allowed []string) bool {
	for _, s := range u.services {
		if !l.pinAllows(s.Name, l.in.State.NodeName(id)) {
			return false
		}
	}
	for _, s := range u.services {
		if (u.group != nil || !s.All) && l.waitsFor(s, id, allowed) {
			l.warn("%s stays on %s, which is down: %s", s.Name, l.in.State.NodeName(id), l.whyWait(s, id))
			return true
		}
		if n := l.in.State.Nodes.At(id); l.in.Adapt && n.Sick != "" && n.Takes() && len(allowed) == 0 {
			l.warn("%s waits for %s: %s", s.Name, n.Name, n.Sick)
			return true
		}
		if l.awaitsState(s, id) {
			l.warn("%s on %s waits for %s, which is down: its state is there", s.Name, l.in.State.NodeName(id), l.in.State.NodeName(l.custodian(s)))
			return true
		}
	}
	return false
}

// domain numbers the values of an attribute, for rules.
func (l *layout) domain(attribute string) int {
	if attribute == "" || attribute == "name" {
		return 0
	}
	if d, known := l.domains[attribute]; known {
		return d
	}
	numbers, values := map[string]int{}, make([]int, len(l.nodes))
	for k, id := range l.nodes {
		v, has := l.info[id].Attributes[attribute]
		if !has {
			values[k] = -1
			continue
		}
		if _, known := numbers[v.Text]; !known {
			numbers[v.Text] = len(numbers)
		}
		values[k] = numbers[v.Text]
	}
	l.problem.Domains = append(l.problem.Domains, placement.Domain{Name: attribute, Values: values})
	l.domains[attribute] = len(l.problem.Domains)
	return l.domains[attribute]
}

// poseRules says what must be apart and what is linked.
func (l *layout) poseRules() {
	for i, u := range l.units {
		for _, s := range u.services {
			for _, attribute := range s.Distinct {
				l.problem.Apart = append(l.problem.Apart, placement.Apart{A: i, B: i, Domain: l.domain(attribute)})
			}
			for _, a := range s.Apart {
				l.poseApart(i, s, a)
			}
			for _, links := range []map[string]string{s.DependsOn, s.ConnectsTo} {
				for _, alias := range sortedKeys(links) {
					if j, placed := l.unitOf[links[alias]]; placed && j != i {
						l.problem.Links = append(l.problem.Links, [2]int{i, j})
					}
				}
			}
		}
	}
}

func (l *layout) poseApart(i int, s *Service, a AntiAffinity) {
	for _, other := range a.Services {
		j, placed := l.unitOf[other]
		switch {
		case placed && i == j:
			l.fail(a.Range, fmt.Sprintf("service %q is to be apart from %q, and both must be on one node", s.Name, other), "Remove one of the two: one of them uses what holds on one node only.")
		case placed:
			l.problem.Apart = append(l.problem.Apart, placement.Apart{A: i, B: j, Domain: l.domain(a.Attribute)})
		}
	}
}

// followers are the services of groups that are not placed as one, dependencies first.
func (l *layout) followers() []int {
	var out []int
	for _, s := range l.placeOrder() {
		if g := l.bound[s.Name]; g != nil && !g.single {
			out = append(out, l.unitOf[s.Name])
		}
	}
	return out
}

// settle places units and notes where they are, or that they are not.
func (l *layout) settle(units []int) {
	l.solver.Place(units)
	for _, i := range units {
		var ids []string
		for _, k := range l.solver.Where(i) {
			ids = append(ids, l.nodes[k])
		}
		for _, s := range l.units[i].services {
			l.where[s.Name] = ids
		}
	}
	for _, i := range units {
		it, u := l.problem.Items[i], l.units[i]
		if missing := it.Copies - len(l.where[u.services[0].Name]); missing > 0 && !it.Everywhere {
			l.lacks(i, missing)
		}
	}
}

// lacks tells why a unit has too few nodes.
func (l *layout) lacks(i, missing int) {
	u, it := l.units[i], l.problem.Items[i]
	if u.group != nil && len(it.Allowed) == 0 {
		for _, s := range u.services {
			if len(l.fitting(s)) == 0 {
				l.short(s, 1, 0, l.obstacles(i))
				return
			}
		}
		l.apart(u.group)
		return
	}
	l.short(u.services[0], missing, len(it.Allowed), l.obstacles(i))
}

// maxObstacles bounds the reasons of one diagnostic.
const maxObstacles = 10

// obstacles says, for people, why a unit cannot have more nodes: a reason and who has it.
func (l *layout) obstacles(i int) string {
	var reasons []string
	nodes := map[string][]string{}
	for k, id := range l.nodes {
		why := l.refusalOf(i, id)
		if why == "" {
			why = l.solver.Obstacle(i, k)
		}
		if why == "" {
			continue // it has one
		}
		if nodes[why] == nil {
			reasons = append(reasons, why)
		}
		nodes[why] = append(nodes[why], l.info[id].Name)
	}
	var out []string
	for k, why := range reasons {
		if k == maxObstacles {
			out = append(out, fmt.Sprintf("and %d more reasons", len(reasons)-k))
			break
		}
		out = append(out, shortList(nodes[why])+": "+why)
	}
	return strings.Join(out, "; ")
}

// shortList is at most a few names.
func shortList(names []string) string {
	const most = 5
	if len(names) > most {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}

// tellMoved notes why instances leave nodes that take instances.
func (l *layout) tellMoved() {
	for i, u := range l.units {
		for _, s := range u.services {
			for _, id := range l.previous[s.Name] {
				if !slices.Contains(l.where[s.Name], id) {
					l.moved[movedKey(s.Name, id)] = cmp.Or(l.refusalOf(i, id), l.solver.Moved(i))
				}
			}
		}
	}
}

func movedKey(service, node string) string { return service + "/" + node }

// Placement says why a service is where it is, and why not elsewhere.
type Placement struct {
	Service string
	On, Not []NodeReason // in name order of the nodes
}

// NodeReason is a node with a reason.
type NodeReason struct{ Node, Why string } // id

// explain gives the reasons for the services that were asked about.
func (l *layout) explain() []Placement {
	var out []Placement
	for _, name := range l.in.Explain {
		i, ok := l.unitOf[name]
		if !ok {
			continue
		}
		p := Placement{Service: name}
		for k, id := range l.nodes {
			if slices.Contains(l.where[name], id) {
				p.On = append(p.On, NodeReason{id, l.together(i, l.solver.Reason(i, k))})
				continue
			}
			why := l.refusalOf(i, id)
			if why == "" {
				why = l.solver.Reason(i, k)
			}
			p.Not = append(p.Not, NodeReason{id, why})
		}
		out = append(out, p)
	}
	return out
}

// together adds to a reason with what a service goes.
func (l *layout) together(i int, why string) string {
	if u := l.units[i]; len(u.services) > 1 {
		var names []string
		for _, s := range u.services {
			names = append(names, s.Name)
		}
		return why + " (placed as one: " + strings.Join(names, ", ") + ")"
	}
	return why
}

// refusalOf says why a unit may not go to a node; "" if it may.
func (l *layout) refusalOf(i int, id string) string {
	u := l.units[i]
	for _, s := range u.services {
		if why := l.refusal(s, id); why != "" {
			if len(u.services) > 1 {
				return s.Name + ": " + why
			}
			return why
		}
	}
	if g := l.bound[u.services[0].Name]; g != nil && !g.single {
		for _, use := range g.uses {
			if use.service == u.services[0] && !slices.Contains(l.where[use.target.Name], id) {
				return fmt.Sprintf("%s is not there, of which it uses %s", use.target.Name, use)
			}
		}
	}
	return ""
}

// refusal says why a service, as far as it alone is concerned, may not go to a node; "" if it may.
func (c *composer) refusal(s *Service, id string) string {
	n := c.in.State.Nodes.At(id)
	switch {
	case n.Left:
		return "it has left the cluster"
	case n.Down:
		return "it is down"
	case n.Draining:
		return "it is drained"
	case n.Sick != "" && !c.isThere(s, id):
		return n.Sick
	case !c.declares(n.Name):
		return "the model has node blocks, and none for it"
	case !c.pinAllows(s.Name, n.Name):
		return "pinned to " + shortList(c.in.Model.Distribution.Pin[s.Name])
	}
	if holder := c.custodian(s); holder != "" && holder != id && !canLeave(c.in.State, holder) {
		return fmt.Sprintf("its state is on %s and cannot leave it now", c.in.State.NodeName(holder))
	}
	if why := c.unstick(s, id); why != "" {
		return why
	}
	info := c.info[id]
	for _, attribute := range s.Distinct {
		if _, has := info.Attributes[attribute]; !has && attribute != "name" {
			return "it has no " + attribute + ", in which instances are to differ"
		}
	}
	for _, k := range s.Constraints {
		if why := k.violated(info); why != "" {
			return why
		}
	}
	for _, name := range sortedKeys(s.Needs) {
		v, has := info.Attributes[name]
		if !has {
			return "it has no " + name
		}
		if _, err := ParseAmount(v.Text); err != nil {
			return fmt.Sprintf("its %s is %q, which is no amount", name, v.Text)
		}
	}
	return ""
}

// isThere says whether a node has more of a service than a plan: an instance, or its state.
func (c *composer) isThere(s *Service, id string) bool {
	there := func(r Row) bool { return r.Node == id && (r.Phase != Planned || r.MayRun) }
	return c.home(s) == id || slices.ContainsFunc(c.in.State.ServiceRows(c.in.System, s.Name), there)
}

// unstick says that a sticky service is deployed elsewhere.
func (c *composer) unstick(s *Service, id string) string {
	sticky := c.in.Model.Distribution.Sticky
	stuck := sticky == StickyAll || sticky == StickyStateful && s.State != nil && s.State.Managed
	if !stuck || len(c.previous[s.Name]) == 0 || slices.Contains(c.previous[s.Name], id) {
		return ""
	}
	return fmt.Sprintf("it is deployed on %s and does not move (sticky = %q)", c.names(c.previous[s.Name]), sticky)
}

// fitting are the nodes that may take the service as far as it alone is concerned, in name order. Services that ask for the
// same share one list.
func (c *composer) fitting(s *Service) []string {
	key := c.askedOf(s)
	ids, known := c.fits[key]
	if !known {
		for _, id := range c.nodes {
			if c.refusal(s, id) == "" {
				ids = append(ids, id)
			}
		}
		c.fits[key] = ids
	}
	return ids
}

// askedOf names all that refusal looks at of a service.
func (c *composer) askedOf(s *Service) string {
	var b strings.Builder
	if pins, pinned := c.in.Model.Distribution.Pin[s.Name]; pinned {
		fmt.Fprintf(&b, "pin %q", pins)
	}
	if holder := c.custodian(s); holder != "" && !canLeave(c.in.State, holder) {
		b.WriteString(" state " + holder)
	}
	if c.in.Model.Distribution.Sticky != StickyNone {
		fmt.Fprintf(&b, " sticky %t %q", s.State != nil && s.State.Managed, c.previous[s.Name])
	}
	for _, id := range c.sick {
		if c.isThere(s, id) {
			b.WriteString(" there " + id)
		}
	}
	for _, a := range s.Distinct {
		b.WriteString(" distinct " + a)
	}
	for _, k := range s.Constraints {
		b.WriteString(" " + strconv.Quote(k.Text))
	}
	for _, name := range sortedKeys(s.Needs) {
		b.WriteString(" needs " + name)
	}
	return b.String()
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

func (c *composer) whyWait(s *Service, id string) string {
	if c.custodian(s) == id {
		return "its state is there, and does not go on from a copy elsewhere (yet)"
	}
	return "no other node may run it"
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

// waitTogether takes out what needs the address of a service that waits for a node: without it neither can run. Only
// an adaptation leaves a service without a node and goes on.
func (c *composer) waitTogether() {
	for again := c.in.Adapt; again; {
		again = false
		for _, s := range c.services {
			if on := c.missing(s); on != "" && len(c.where[s.Name]) > 0 {
				for _, id := range c.where[s.Name] {
					c.moved[movedKey(s.Name, id)] = "it waits for " + on
				}
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

// short tells that fewer nodes fit than instances are wanted, and why others do not. For an operator it is an error; when
// adapting to nodes that died the rest waits for them.
func (c *composer) short(s *Service, missing, fitting int, obstacles string) {
	why := fmt.Sprintf("service %q wants %d instances and only %d of the nodes may run it", s.Name, s.Instances, fitting)
	switch {
	case s.Instances == 1 && fitting == 0:
		why = fmt.Sprintf("no node may run service %q", s.Name)
	case s.Instances == 1:
		why = fmt.Sprintf("there is no place for service %q", s.Name)
	case fitting >= s.Instances:
		why = fmt.Sprintf("there is no place for %d of the %d instances of service %q", missing, s.Instances, s.Name)
	}
	if holder := c.custodian(s); holder != "" && !canLeave(c.in.State, holder) {
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
	d := problem(s.Range, why, hint)
	if obstacles != "" {
		d.Detail = obstacles + "."
	}
	c.diags = append(c.diags, d)
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
