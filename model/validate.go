package model

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// validate checks what needs the whole model.
func (p *parser) validate() {
	for _, s := range p.model.Services {
		d := p.services[s.Name]
		p.checkLinks(d)
		p.checkRun(d)
		p.checkModule(d)
		p.checkHealth(d)
		p.checkState(d)
		p.checkExclusive(d)
	}
	p.checkPins()
	p.checkPlacement()
	p.checkCycles()
	for _, s := range p.model.Services {
		p.checkExprs(p.services[s.Name])
		p.checkLocalUses(p.services[s.Name])
	}
}

func (p *parser) serviceNames() []string { return sortedKeys(p.services) }

func (p *parser) checkLinks(d *serviceDecl) {
	for _, l := range d.links {
		if _, ok := p.services[l.target.text]; ok || p.rep.full() {
			continue
		}
		p.rep.add(Diagnostic{Summary: fmt.Sprintf("there is no service %q", l.target.text), Subject: place(l.target.at),
			Detail: fmt.Sprintf("Service %q names it in %s.", d.Name, l.relation),
			Hint:   WayOut(l.target.text, slices.DeleteFunc(p.serviceNames(), func(s string) bool { return s == d.Name }), "Add it, or remove it here.")})
	}
}

func (p *parser) checkRun(d *serviceDecl) {
	switch {
	case d.badType:
	case d.Type == TypeProcess && d.Run == nil:
		p.rep.fail(d.Range, `Add run { command = ["bin/program"] }.`, "service %q is a process and has no run block", d.Name)
	case d.Type != TypeProcess && d.Run != nil:
		p.rep.fail(d.Run.Range, `Remove it: the module knows what to run. Or make the service of type = "process".`, "service %q of type %q cannot have a run block", d.Name, d.Type)
	}
	if d.Build != nil && d.Package == "" {
		p.rep.fail(d.Build.Range, fmt.Sprintf(`Add package = "./%s": the directory that is built.`, d.Name), "service %q has a build and no package", d.Name)
	}
}

// checkModule holds ports and health against the type: a process has what it likes, another type what its module uses.
func (p *parser) checkModule(d *serviceDecl) {
	m, known := modules[d.Type]
	if !known || d.badType || d.Type == TypeProcess {
		return
	}
	if d.Health != nil {
		p.rep.fail(d.Health.Range, "Remove it: the module looks after it.", "service %q of type %q cannot have a health block", d.Name, d.Type)
	}
	switch {
	case m.ports == 0 && len(d.Ports) > 0:
		p.rep.fail(d.Ports[0].Range, "Remove it: what it needs is on its node.", "service %q of type %q cannot have a port", d.Name, d.Type)
	case m.ports > 0 && len(d.Ports) < m.ports:
		p.rep.fail(d.Range, `Add port "main" {}.`, "service %q of type %q has no port", d.Name, d.Type)
	case m.ports > 0 && len(d.Ports) > m.ports:
		p.rep.fail(d.Ports[m.ports].Range, "Remove it.", "service %q of type %q can have one port only", d.Name, d.Type)
	}
}

// checkHealth finds the port to ask. A service with one port need not name it.
func (p *parser) checkHealth(d *serviceDecl) {
	h := d.Health
	if h == nil || d.Type != TypeProcess && !d.badType {
		return
	}
	ports := d.portNames()
	asks := h.HTTP != "" || h.TCP
	switch {
	case d.healthPort.text != "":
		if !slices.Contains(ports, h.Port) {
			p.rep.fail(d.healthPort.at, WayOut(h.Port, ports, fmt.Sprintf("Add port %q {} to the service.", h.Port)), "service %q has no port %q", d.Name, h.Port)
		}
	case asks && len(ports) == 0:
		p.rep.fail(h.Range, `Add port "http" {} to the service, or ask by command = [...].`, "health of service %q asks a port, and there is none", d.Name)
	case asks && len(ports) > 1:
		p.rep.fail(h.Range, fmt.Sprintf("Add port = %q; there are %s.", ports[0], listing(ports)), "health of service %q does not say which port it asks", d.Name)
	case asks:
		h.Port = ports[0]
	}
}

func (s *Service) portNames() []string {
	out := make([]string, len(s.Ports))
	for i, p := range s.Ports {
		out[i] = p.Name
	}
	return out
}

func (p *parser) checkState(d *serviceDecl) {
	if d.State == nil || !d.State.Managed || !d.All && d.Instances <= 1 {
		return
	}
	note := noted(d.stateAt, "its state")
	if d.stateAt == d.Range {
		note = noted(d.Range, "a %s has state unless it says otherwise", d.Type)
	}
	p.rep.add(Diagnostic{Summary: fmt.Sprintf("service %q has managed state and more than one instance", d.Name), Subject: place(d.instancesAt),
		Detail: "Managed state is in one place at a time.", Hint: "Write instances = 1, or state { managed = false }.",
		Related: []Range{note}})
}

func (p *parser) checkExclusive(d *serviceDecl) {
	if d.Exclusive != nil && *d.Exclusive && (d.All || d.Instances > 1) {
		p.rep.add(Diagnostic{Summary: fmt.Sprintf("service %q is exclusive and has more than one instance", d.Name), Subject: place(d.exclusiveAt),
			Detail: "At most one instance of an exclusive service runs anywhere.", Hint: "Write instances = 1, or leave exclusive out.",
			Related: []Range{noted(d.instancesAt, "its instances")}})
	}
}

func (p *parser) checkPins() {
	dist := p.model.Distribution
	for _, name := range sortedKeys(dist.Pin) {
		d, ok := p.services[name]
		switch at := dist.PinRange[name]; {
		case p.rep.full():
			return
		case !ok:
			p.rep.fail(at, WayOut(name, p.serviceNames(), "Remove it: the model has no services."), "pin names the service %q, which there is not", name)
		case d.Instances > len(dist.Pin[name]) && len(dist.Pin[name]) > 0:
			p.rep.add(Diagnostic{Summary: fmt.Sprintf("service %q has %d instances and is pinned to %d nodes", name, d.Instances, len(dist.Pin[name])),
				Detail: "A node runs at most one instance of a service.", Hint: "Pin it to more nodes, or lower instances.", Subject: place(at),
				Related: []Range{noted(d.instancesAt, "its instances")}})
		}
	}
}

// checkExprs looks at what the expressions of a service refer to, and evaluates them with values of which only the
// types are known: so a mistake shows before anything happens, not after placement.
func (p *parser) checkExprs(d *serviceDecl) {
	if len(d.exprs) == 0 || p.rep.full() {
		return
	}
	n := p.namesFor(d)
	ctx := n.unknownContext(0)
	for _, e := range d.exprs {
		before := len(p.rep.list) + p.rep.dropped
		n.check(e.expr, p.rep)
		if len(p.rep.list)+p.rep.dropped > before || !checkCost(e.expr, p.rep) {
			continue
		}
		p.dryRun(e, ctx)
		p.dryLoops(e, n)
	}
}

// checkLocalUses refuses what holds on one node only where it is not said that this one is needed first: it must be there
// before its user, and be stopped after it.
func (p *parser) checkLocalUses(d *serviceDecl) {
	typeOf := func(alias string) string {
		if t := p.services[d.ConnectsTo[alias]]; t != nil {
			return t.Type
		}
		return ""
	}
	for _, e := range d.exprs {
		for _, t := range e.expr.Variables() {
			if alias, output, at, ok := localOutput(t, typeOf); ok {
				p.rep.fail(at, fmt.Sprintf("Move %s from connects_to to depends_on.", alias), "dep.%s.%s needs depends_on: it holds only on the node of service %q", alias, output, d.ConnectsTo[alias])
			}
		}
	}
}

// dryLoops evaluates once more with one instance of each dependency, since HCL does not enter a loop over a list that
// is not known. Only attributes that do not exist are told: what depends on the number of instances is not known yet.
func (p *parser) dryLoops(e boundExpr, n names) {
	loops := false
	_ = hclsyntax.VisitAll(e.expr, func(x hclsyntax.Node) hcl.Diagnostics {
		_, isLoop := x.(*hclsyntax.ForExpr)
		loops = loops || isLoop
		return nil
	})
	if !loops {
		return
	}
	_, diags := e.expr.Value(n.unknownContext(1))
	for _, d := range diags {
		if found := missingAttribute.FindStringSubmatch(d.Detail); found != nil {
			known := slices.Concat([]string{"host", "node", "service", "port", "all"}, n.ports)
			for _, alias := range sortedKeys(n.deps) {
				known = append(append(known, n.deps[alias].ports...), n.deps[alias].outputs...)
			}
			slices.Sort(known)
			p.rep.fail(*d.Subject, WayOut(found[1], slices.Compact(known), ""), "there is no attribute %q", found[1])
		}
	}
}

// missingAttribute is what HCL says about an attribute that an object does not have.
var missingAttribute = regexp.MustCompile(`does not have an attribute named "([^"]*)"`)

func (p *parser) dryRun(e boundExpr, ctx *hcl.EvalContext) {
	before := len(p.rep.list) + p.rep.dropped
	switch e.kind {
	case wantString:
		if v, ok := valueOf(e.expr, ctx, p.rep); ok {
			item{value: v, at: e.expr.Range()}.text(p.rep)
		}
	case wantMap:
		for _, it := range mapItems(e.expr, ctx, mapOfStrings, p.rep) {
			if !it.value.IsNull() {
				it.text(p.rep)
			}
		}
	case wantStrings:
		items := listItems(e.expr, ctx, listOfStrings, p.rep)
		for i, it := range items {
			if s, ok := it.text(p.rep); ok && i == 0 && s == "" && it.value.IsKnown() && it.value.Type() == cty.String {
				p.rep.fail(it.at, `Write the program first: command = ["bin/web", "--verbose"].`, "the program's name is empty")
			}
		}
		if list, ok := e.expr.(*hclsyntax.TupleConsExpr); ok && len(list.Exprs) == 0 && len(p.rep.list)+p.rep.dropped == before {
			p.emptyCommand(&attribute{expr: e.expr})
		}
	}
}

// namesFor is what the expressions of a service may refer to.
func (p *parser) namesFor(d *serviceDecl) names {
	n := names{service: d.Name, ports: d.portNames(), deps: map[string]depNames{}, others: map[string]bool{}}
	for _, l := range d.links {
		target, ok := p.services[l.target.text]
		switch {
		case l.relation == "activates_after":
			n.others[l.target.text] = ok
		case !ok:
			n.deps[l.alias.text] = depNames{service: l.target.text, open: true, unknown: true}
		default:
			m, known := modules[target.Type]
			n.deps[l.alias.text] = depNames{service: l.target.text, ports: target.portNames(), outputs: m.outputNames(), open: target.badType || !known}
		}
	}
	for _, e := range d.exprs { // only what is asked for: the model may have thousands
		for _, t := range e.expr.Variables() {
			if path := stepsOf(t); len(path) > 1 && path[0].name == "dep" && p.services[path[1].name] != nil {
				n.others[path[1].name] = true
			}
		}
	}
	return n
}

// unknownContext has every name with a value of which the type is known, where it is. Dependencies have so many
// instances; 0 is a number not known either.
func (n names) unknownContext(instances int) *hcl.EvalContext {
	deps := map[string]cty.Value{}
	for alias, d := range n.deps {
		if d.open {
			deps[alias] = cty.DynamicVal
			continue
		}
		one := unknownInstance(d.ports)
		for _, o := range d.outputs {
			one[o] = cty.UnknownVal(cty.String)
		}
		all := cty.UnknownVal(cty.List(cty.ObjectVal(one).Type()))
		if instances > 0 {
			all = cty.ListVal(slices.Repeat([]cty.Value{cty.ObjectVal(one)}, instances))
		}
		one["all"] = all
		deps[alias] = cty.ObjectVal(one)
	}
	return newContext(map[string]cty.Value{"self": cty.ObjectVal(unknownInstance(n.ports)), "dep": cty.ObjectVal(deps), "node": cty.DynamicVal})
}

func unknownInstance(ports []string) map[string]cty.Value {
	numbers := map[string]cty.Value{}
	for _, name := range ports {
		numbers[name] = cty.UnknownVal(cty.Number)
	}
	text := cty.UnknownVal(cty.String)
	return map[string]cty.Value{"host": text, "node": text, "service": text, "port": cty.ObjectVal(numbers)}
}

// checkCycles finds services that wait for each other. For each knot of them it tells one shortest cycle.
func (p *parser) checkCycles() {
	for _, knot := range p.knots() {
		if cycle := p.shortestCycle(knot); len(cycle) > 0 && !p.rep.full() {
			p.tellCycle(cycle)
		}
	}
}

// edge is a link from a service that must start later.
type edge struct {
	from string
	link
}

// orderEdges are the links of a service that decide an order, by name of their target, each target once.
func (p *parser) orderEdges(name string) []edge {
	var out []edge
	for _, l := range p.services[name].links {
		if _, ok := p.services[l.target.text]; ok && l.orders() {
			out = append(out, edge{name, l})
		}
	}
	slices.SortStableFunc(out, func(a, b edge) int { return strings.Compare(a.target.text, b.target.text) })
	return slices.CompactFunc(out, func(a, b edge) bool { return a.target.text == b.target.text })
}

// knots are the sets of services that all wait for each other (Tarjan's algorithm, with its own stack since chains may
// be long), each in name order.
func (p *parser) knots() [][]string {
	t := tarjan{index: map[string]int{}, low: map[string]int{}, on: map[string]bool{}, edges: p.orderEdges}
	for _, name := range p.serviceNames() {
		if _, seen := t.index[name]; !seen {
			t.visit(name)
		}
	}
	return t.knots
}

type tarjan struct {
	index, low map[string]int
	on         map[string]bool
	stack      []string
	edges      func(string) []edge
	knots      [][]string
}

// visited is a service whose edges are being followed.
type visited struct {
	name string
	rest []edge
	self bool // it waits for itself
}

func (t *tarjan) enter(name string) *visited {
	t.index[name], t.low[name] = len(t.index), len(t.index)
	t.stack, t.on[name] = append(t.stack, name), true
	return &visited{name: name, rest: t.edges(name)}
}

func (t *tarjan) visit(root string) {
	calls := []*visited{t.enter(root)}
	for len(calls) > 0 {
		v := calls[len(calls)-1]
		if len(v.rest) == 0 {
			t.leave(v)
			if calls = calls[:len(calls)-1]; len(calls) > 0 {
				up := calls[len(calls)-1].name
				t.low[up] = min(t.low[up], t.low[v.name])
			}
			continue
		}
		to := v.rest[0].target.text
		v.rest, v.self = v.rest[1:], v.self || to == v.name
		if _, seen := t.index[to]; !seen {
			calls = append(calls, t.enter(to))
		} else if t.on[to] {
			t.low[v.name] = min(t.low[v.name], t.index[to])
		}
	}
}

func (t *tarjan) leave(v *visited) {
	if t.low[v.name] != t.index[v.name] {
		return
	}
	start := len(t.stack) - 1
	for t.stack[start] != v.name {
		start--
	}
	knot := slices.Clone(t.stack[start:])
	t.stack = t.stack[:start]
	for _, name := range knot {
		t.on[name] = false
	}
	if len(knot) > 1 || v.self {
		slices.Sort(knot)
		t.knots = append(t.knots, knot)
	}
}

// shortestCycle is one through the first service of a knot: by breadth, so that it is short and always the same.
func (p *parser) shortestCycle(knot []string) []edge {
	in := map[string]bool{}
	for _, name := range knot {
		in[name] = true
	}
	came := map[string]edge{}
	for queue := []string{knot[0]}; len(queue) > 0; queue = queue[1:] {
		for _, e := range p.orderEdges(queue[0]) {
			to := e.target.text
			if _, seen := came[to]; seen || !in[to] {
				continue
			}
			came[to] = e
			if to == knot[0] {
				return trail(came, to)
			}
			queue = append(queue, to)
		}
	}
	return nil
}

// trail goes back from a service to itself.
func trail(came map[string]edge, to string) []edge {
	var out []edge
	for at := to; ; {
		e := came[at]
		out = append(out, e)
		if at = e.from; at == to {
			slices.Reverse(out)
			return out
		}
	}
}

func (p *parser) tellCycle(cycle []edge) {
	d := Diagnostic{Subject: place(cycle[0].target.at), Hint: "Remove one of the links. What only needs the address, not the order, can use connects_to."}
	if len(cycle) == 1 {
		d.Summary = fmt.Sprintf("service %q waits for itself", cycle[0].from)
		p.rep.add(d)
		return
	}
	const most = 20
	path := []string{cycle[0].from}
	for i, e := range cycle {
		if i < most {
			path = append(path, e.target.text)
			d.Related = append(d.Related, noted(e.target.at, "%q %s %q", e.from, relationVerb(e.relation), e.target.text))
		}
	}
	if len(cycle) > most {
		path = append(path, fmt.Sprintf("... (%d more)", len(cycle)-most-1), path[0])
	}
	d.Summary = "services wait for each other: " + strings.Join(path, " -> ")
	p.rep.add(d)
}

func relationVerb(relation string) string {
	if relation == "activates_after" {
		return "activates after"
	}
	return "depends on"
}
