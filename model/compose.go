package model

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Compose turns a model into a manifest on a given State: where each instance goes, which numbers it holds, what it
// runs with. It is deterministic, so the node that shows a plan and the leader that stores it come to the same one.
type Compose struct {
	State    *State
	System   string
	Model    *Model
	Packages map[string]string // service -> tree id
	Excluded []string          // services taken out
	// Adapt composes for the nodes that are left, without an operator to ask: what fits nowhere waits.
	Adapt bool
	// Returns bring the data of services back to snapshots.
	Returns []Return
	// Explain names services of which the manifest says why they are where they are.
	Explain []string
	// Prefer are rows that a rollback would like back; nil means the newest generation's.
	Prefer []RowSpec
}

// Manifest is all instances of one generation, with what it reserves.
type Manifest struct {
	Rows     []RowSpec // in key order
	Reserve  []Reservation
	Release  []string
	Counters map[string]int
	Policies map[string]StatePolicy // by service: of those with managed state
	Returns  []Return
	Moves    int // as in Distribution
	Warnings []string
	Digest   string
	// Moved says, by service and node id (movedKey), why an instance does not stay where it is although the node takes instances.
	Moved      map[string]string
	Placements []Placement // of the services to explain
}

// composer holds one composition while it is made.
type composer struct {
	in        Compose
	services  []*Service // without the excluded, in name order
	decls     map[string]*NodeDecl
	info      map[string]NodeInfo          // by node id
	attrs     map[string]map[string]string // by node id: attributes without their provenance
	previous  map[string][]string          // service -> node ids
	preferred map[string]Reservation
	where     map[string][]string // service -> node ids, which services of a group share
	nodes     []string            // ids, in name order
	sick      []string            // those of them that are
	index     map[string]int      // by node id: its place in nodes
	fits      map[string][]string // by what a service asks of its nodes (askedOf): those that may take it
	moved     map[string]string
	explained []Placement
	named     map[string]*Service
	bound     map[string]*group // by service: what must be on one node
	numbers   *allotter
	reserved  map[string]Reservation
	rows      map[string]map[string]RowSpec // service -> node -> row
	settled   map[string]map[string]string  // service/node -> settings; nil while they are evaluated
	warnings  []string
	diags     Diagnostics
}

// Run composes. With errors among the diagnostics the manifest means nothing.
func (in Compose) Run() (Manifest, Diagnostics) {
	c := &composer{in: in, decls: map[string]*NodeDecl{}, reserved: map[string]Reservation{}, rows: map[string]map[string]RowSpec{}, settled: map[string]map[string]string{}}
	c.choose()
	c.checkNodes()
	c.lookUpNodes()
	if c.diags.HasErrors() {
		return Manifest{}, c.diags
	}
	c.recall()
	c.place()
	c.numbers = newAllotter(in.State, func(r Reservation) bool { return r.System == in.System })
	c.reserve()
	if c.diags.HasErrors() {
		return Manifest{}, c.diags
	}
	for _, s := range c.order() {
		c.resolve(s)
	}
	return c.manifest(), c.diags
}

func (c *composer) lookUpNodes() {
	c.info, c.index, c.fits = make(map[string]NodeInfo, c.in.State.Nodes.Len()), map[string]int{}, map[string][]string{}
	c.attrs = map[string]map[string]string{}
	for id, n := range c.in.State.Nodes.All() {
		c.info[id] = c.in.Model.nodeInfo(n)
		c.nodes = append(c.nodes, id)
		if n.Sick != "" {
			c.sick = append(c.sick, id)
		}
	}
	slices.SortFunc(c.nodes, c.byName)
	for i, id := range c.nodes {
		c.index[id] = i
	}
}

func (c *composer) choose() {
	for _, s := range c.in.Model.Services {
		if !slices.Contains(c.in.Excluded, s.Name) {
			c.services = append(c.services, s)
		}
	}
	for _, s := range c.services {
		for _, alias := range sortedKeys(s.DependsOn) {
			if slices.Contains(c.in.Excluded, s.DependsOn[alias]) {
				c.fail(s.Range, fmt.Sprintf("service %q depends on %q, which is to be undeployed", s.Name, s.DependsOn[alias]),
					fmt.Sprintf("Undeploy %q as well.", s.Name))
			}
		}
	}
}

// checkNodes holds the nodes that the model names against the members.
func (c *composer) checkNodes() {
	var names []string
	for _, n := range c.in.State.Nodes.All() {
		names = append(names, n.Name)
	}
	slices.Sort(names)
	for _, d := range c.in.Model.Nodes {
		c.decls[d.Name] = d
		if !slices.Contains(names, d.Name) && !c.in.Adapt {
			c.fail(d.Range, fmt.Sprintf("node %q is not a member of the cluster", d.Name), nodeHint(d.Name, names))
		}
	}
	for _, service := range sortedKeys(c.in.Model.Distribution.Pin) {
		for _, name := range c.in.Model.Distribution.Pin[service] {
			if !slices.Contains(names, name) && !c.in.Adapt {
				c.fail(c.in.Model.Distribution.PinRange[service], fmt.Sprintf("service %q is pinned to node %q, which is not a member of the cluster", service, name), nodeHint(name, names))
			}
		}
	}
}

func nodeHint(name string, members []string) string {
	if s := suggest(name, members); s != "" {
		return fmt.Sprintf("Did you mean %q?", s)
	}
	return "Members are: " + strings.Join(members, ", ") + "."
}

// recall finds where the services are now, or were in the rows that a rollback prefers.
func (c *composer) recall() {
	rows := c.in.Prefer
	if rows == nil {
		for _, r := range c.in.State.SystemRows(c.in.System) {
			if !r.Obsolete {
				rows = append(rows, r.RowSpec)
			}
		}
	}
	c.previous, c.preferred = map[string][]string{}, map[string]Reservation{}
	for _, r := range rows {
		c.previous[r.Service] = append(c.previous[r.Service], r.Node)
		for _, res := range rowReservations(r) {
			c.preferred[res.Key()] = res
		}
	}
}

// rowReservations gives the numbers that a row was resolved with.
func rowReservations(r RowSpec) []Reservation {
	var out []Reservation
	for _, name := range sortedKeys(r.Spec.Ports) {
		res := Reservation{System: r.System, Service: r.Service, Name: name, Resource: "ports", Scope: r.Spec.Scopes[name], Node: r.Node, Number: r.Spec.Ports[name]}
		if res.Scope == PortShared {
			res.Node = ""
		}
		out = append(out, res)
	}
	if r.Spec.UID != 0 {
		out = append(out, Reservation{System: r.System, Service: r.Service, Resource: "uids", Scope: PortShared, Number: r.Spec.UID})
	}
	return out
}

// order gives the services so that each comes after those it depends on. Parse has refused cycles.
func (c *composer) order() []*Service {
	byName, done := map[string]*Service{}, map[string]bool{}
	for _, s := range c.services {
		byName[s.Name] = s
	}
	var out []*Service
	var visit func(s *Service)
	visit = func(s *Service) {
		if s == nil || done[s.Name] {
			return
		}
		done[s.Name] = true
		for _, alias := range sortedKeys(s.DependsOn) {
			visit(byName[s.DependsOn[alias]])
		}
		out = append(out, s)
	}
	for _, s := range c.services {
		visit(s)
	}
	return out
}

func (c *composer) resolve(s *Service) {
	c.rows[s.Name] = map[string]RowSpec{}
	for _, node := range c.where[s.Name] {
		r := RowSpec{System: c.in.System, Service: s.Name, Node: node, Container: s.Type, Spec: c.spec(s, node),
			DependsOn: c.dependencies(s, node), After: slices.Clone(s.ActivatesAfter), Needs: s.Needs}
		r.Managed = s.State != nil && s.State.Managed
		r.Exclusive = c.exclusive(s, node)
		if r.Managed {
			r.Spec.Timeline = c.timeline(s.Name, r.Container)
		}
		r.Key = RowKey(node, rowID(r))
		c.rows[s.Name][node] = r
	}
}

// dependencies are the rows that must be active before the instance starts: of each service that it depends on the
// instance preferred, or all of them if its expressions name all.
func (c *composer) dependencies(s *Service, node string) []string {
	var keys []string
	for _, alias := range sortedKeys(s.DependsOn) {
		target := s.DependsOn[alias]
		nodes := c.preferredNodes(target, node)
		if !s.usesAll(alias) && len(nodes) > 1 {
			nodes = nodes[:1]
		}
		for _, n := range nodes {
			keys = append(keys, c.rows[target][n].Key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// usesAll says whether an expression of the service reads dep.ALIAS.all.
func (s *Service) usesAll(alias string) bool {
	for _, e := range s.expressions() {
		for _, t := range e.Variables() {
			if t.RootName() != "dep" || len(t) < 3 {
				continue
			}
			dep, ok1 := t[1].(hcl.TraverseAttr)
			all, ok2 := t[2].(hcl.TraverseAttr)
			if ok1 && ok2 && dep.Name == alias && all.Name == "all" {
				return true
			}
		}
	}
	return false
}

func (s *Service) expressions() []hcl.Expression {
	var out []hcl.Expression
	add := func(e hcl.Expression) {
		if e != nil {
			out = append(out, e)
		}
	}
	if s.Run != nil {
		add(s.Run.Command)
		add(s.Run.Env)
		add(s.Run.Dir)
	}
	if s.Health != nil {
		add(s.Health.Command)
	}
	for _, k := range sortedKeys(s.Settings) {
		add(s.Settings[k])
	}
	return out
}

// preferredNodes orders a service's nodes as seen from a node: the same one, then the same zone, then by name.
func (c *composer) preferredNodes(service, from string) []string {
	nodes := slices.Clone(c.where[service])
	zone := c.zone(from)
	rank := func(id string) int {
		switch {
		case id == from:
			return 0
		case zone != "" && c.zone(id) == zone:
			return 1
		}
		return 2
	}
	slices.SortStableFunc(nodes, func(a, b string) int { return rank(a) - rank(b) })
	return nodes
}

func (c *composer) zone(id string) string { return c.info[id].Attributes[AttrZone].Text }

// attributes are those of a node, for expressions. They are not to be changed.
func (c *composer) attributes(id string) map[string]string {
	attrs, known := c.attrs[id]
	if !known {
		attrs = plain(c.info[id].Attributes)
		c.attrs[id] = attrs
	}
	return attrs
}

func (c *composer) scope(s *Service, node string) Scope {
	n := c.in.State.Nodes.At(node)
	ports, _ := c.portNumbers(s, node)
	sc := Scope{Host: n.Host, Node: n.Name, Service: s.Name, Ports: ports, Deps: map[string][]DepScope{}, NodeAttrs: c.attributes(node)}
	for _, links := range []map[string]string{s.ConnectsTo, s.DependsOn} {
		for alias, target := range links {
			sc.Deps[alias] = c.depScopes(target, node)
		}
	}
	return sc
}

func (c *composer) depScopes(target, from string) []DepScope {
	t := c.named[target]
	var out []DepScope
	for _, id := range c.preferredNodes(target, from) {
		n := c.in.State.Nodes.At(id)
		ports, _ := c.portNumbers(t, id)
		out = append(out, DepScope{Host: n.Host, Node: n.Name, Service: target, Ports: ports, Outputs: c.outputs(t, id, from)})
	}
	return out
}

// outputs are what the instance on a node gives to one on another: what is local only to its own node.
func (c *composer) outputs(t *Service, id, from string) map[string]string {
	if len(modules[t.Type].outputs) == 0 {
		return nil
	}
	all := ModuleOutputs(t.Type, c.in.System, t.Name, c.settings(t, id), c.in.State.Nodes.At(id).Attributes[DataAttribute])
	for name := range all {
		if id != from && LocalOutput(t.Type, name) {
			delete(all, name)
		}
	}
	return all
}

// settings are those of the container on the node, and of the service over them. They are evaluated once.
func (c *composer) settings(s *Service, node string) map[string]string {
	key := s.Name + "/" + node
	if done, ok := c.settled[key]; ok {
		if done == nil {
			c.fail(s.Range, fmt.Sprintf("the settings of service %q need themselves, through its connects_to", s.Name), "Remove one of the links, or write the value out.")
		}
		return done
	}
	out := map[string]string{}
	maps.Copy(out, plain(c.info[node].Containers[s.Type]))
	if len(s.Settings) > 0 {
		c.settled[key] = nil
		sc := c.scope(s, node)
		for _, k := range sortedKeys(s.Settings) {
			out[k] = c.string(s.Settings[k], sc)
		}
	}
	c.settled[key] = out
	return out
}

func (c *composer) spec(s *Service, node string) Spec {
	sc := c.scope(s, node)
	ports, scopes := c.portNumbers(s, node)
	uid := c.reserved[Reservation{System: c.in.System, Service: s.Name, Resource: "uids"}.Key()].Number
	sp := Spec{Type: s.Type, Package: c.in.Packages[s.Name], Host: sc.Host, Ports: ports, Scopes: scopes, UID: uid}
	if s.Package != "" && sp.Package == "" {
		c.fail(s.Range, fmt.Sprintf("the package of service %q was not packed", s.Name), "Deploy through the command line, which packs packages.")
	}
	if s.Run != nil {
		sp.Command = c.strings(s.Run.Command, sc)
		sp.Env = c.stringMap(s.Run.Env, sc)
		sp.Dir = c.string(s.Run.Dir, sc)
		sp.User, sp.Grace, sp.StartWait = s.Run.User, orDuration(s.Run.Grace, 10*time.Second), orDuration(s.Run.StartWait, 30*time.Second)
	}
	if h := s.Health; h != nil {
		sp.Health = &HealthSpec{HTTP: h.HTTP, TCP: h.TCP, Command: c.strings(h.Command, sc), Port: h.Port,
			Interval: orDuration(h.Interval, 5*time.Second), Timeout: orDuration(h.Timeout, 2*time.Second)}
	}
	if settings := c.settings(s, node); len(settings) > 0 {
		sp.Settings = settings
	}
	return sp
}

func orDuration(d, otherwise time.Duration) time.Duration {
	if d == 0 {
		return otherwise
	}
	return d
}

func (c *composer) strings(e hcl.Expression, sc Scope) []string {
	if e == nil {
		return nil
	}
	v, diags := EvalStrings(e, sc)
	c.diags = append(c.diags, diags...)
	return v
}

func (c *composer) stringMap(e hcl.Expression, sc Scope) map[string]string {
	if e == nil {
		return nil
	}
	v, diags := EvalStringMap(e, sc)
	c.diags = append(c.diags, diags...)
	return v
}

func (c *composer) string(e hcl.Expression, sc Scope) string {
	if e == nil {
		return ""
	}
	v, diags := EvalString(e, sc)
	c.diags = append(c.diags, diags...)
	return v
}

func (c *composer) manifest() Manifest {
	m := Manifest{Counters: c.numbers.moved, Policies: policies(c.services), Returns: c.in.Returns, Moves: c.in.Model.Distribution.Moves, Warnings: c.warnings, Moved: c.moved, Placements: c.explained}
	for _, byNode := range c.rows {
		for _, r := range byNode {
			m.Rows = append(m.Rows, r)
		}
	}
	slices.SortFunc(m.Rows, func(a, b RowSpec) int { return strings.Compare(a.Key, b.Key) })
	m.Reserve, m.Release = c.reservationChanges()
	m.Digest = digestRows(m.Rows, sortedValues(c.reserved))
	return m
}

func policies(services []*Service) map[string]StatePolicy {
	out := map[string]StatePolicy{}
	for _, s := range services {
		if s.State != nil && s.State.Managed {
			out[s.Name] = *s.State
		}
	}
	return out
}

func (c *composer) warn(format string, args ...any) {
	c.warnings = append(c.warnings, fmt.Sprintf(format, args...))
}

func (c *composer) fail(where hcl.Range, summary, hint string) {
	c.diags = append(c.diags, problem(where, summary, hint))
}
