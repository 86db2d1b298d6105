package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/isonomia-mesh/isonomia/model/placement"
)

// What a model says about where services go: constraint, resources and anti_affinity blocks of services, and the
// distribution.

const (
	maxConstraints = 50 // of one service, or of the distribution
	maxDimensions  = 20 // of resources of one service
)

// constraint reads a block of a service or of the distribution. distinct_property is a rule between the instances of a
// service, and no condition on one node.
func (p *parser) constraint(b block, more ...string) (k *Constraint, distinct string, c content) {
	c = p.content(b.body, schema{what: "constraint", attrs: append([]string{"attribute", "operator", "value", "expression", "distinct_property"}, more...)})
	k = &Constraint{Range: b.at, Operator: OpEqual}
	var ways []*attribute
	for _, name := range []string{"attribute", "expression", "distinct_property"} {
		if a := c.has(name); a != nil {
			ways = append(ways, a)
		}
	}
	switch {
	case len(ways) == 0:
		p.rep.fail(b.at, `Add attribute = "zone" and value = "a", or expression = node.zone == "a", or distinct_property = "zone".`, "constraint says nothing")
		return nil, "", c
	case len(ways) > 1:
		p.rep.fail(ways[1].nameAt, "Write two constraints.", "constraint has both %s and %s", ways[0].name, ways[1].name)
		return nil, "", c
	}
	switch a := ways[0]; a.name {
	case "expression":
		p.stray2(c, "expression", "operator", "value")
		if !p.checkNodeExpr(a) {
			return nil, "", c
		}
		k.Expr, k.Text = a.expr, strings.Join(strings.Fields(string(a.expr.Range().SliceBytes(p.src.Files[b.at.Filename]))), " ")
		return k, "", c
	case "distinct_property":
		p.stray2(c, "distinct_property", "operator", "value")
		name, ok := p.attributeName(a)
		if !ok {
			return nil, "", c
		}
		return nil, name, c
	}
	return p.comparison(k, c), "", c
}

// stray2 refuses attributes that mean nothing beside another.
func (p *parser) stray2(c content, beside string, names ...string) {
	for _, name := range names {
		if a := c.has(name); a != nil {
			p.rep.fail(a.nameAt, "Remove it.", "%s means nothing beside %s", name, beside)
		}
	}
}

// attributeName reads the name of an attribute of nodes.
func (p *parser) attributeName(a *attribute) (string, bool) {
	name, ok := p.stringOf(a, "zone")
	if ok && (name == "name" || hclsyntax.ValidIdentifier(name)) {
		return name, true
	}
	if ok {
		p.rep.fail(a.expr.Range(), `Write the name alone: "zone", where an expression says node.zone.`, "%q cannot be an attribute of nodes", name)
	}
	return "", false
}

// comparison reads attribute, operator and value. Without an operator a list of values means "in".
func (p *parser) comparison(k *Constraint, c content) *Constraint {
	var ok bool
	if k.Attribute, ok = p.attributeName(c.has("attribute")); !ok {
		return nil
	}
	value := c.has("value")
	v, known := p.value(value)
	if value != nil && !known {
		return nil
	}
	if known && !v.IsNull() && isList(v) {
		k.Operator = OpIn
	}
	if op, ok := p.stringOf(c.has("operator"), "="); ok {
		if op == "==" {
			op = OpEqual
		}
		if !slices.Contains(operators(), op) {
			p.rep.fail(c.has("operator").expr.Range(), WayOut(op, operators(), ""), "there is no operator %q", op)
			return nil
		}
		k.Operator = op
	}
	return p.values(k, c, v)
}

func (p *parser) values(k *Constraint, c content, v cty.Value) *Constraint {
	value := c.has("value")
	k.Text = fmt.Sprintf("%s %s", k.Attribute, k.Operator)
	if k.Operator == OpSet || k.Operator == OpNotSet {
		p.stray2(c, k.Operator, "value")
		return k
	}
	if value == nil {
		p.rep.fail(k.Range, `Add value = "...".`, "constraint on %s has no value", k.Attribute)
		return nil
	}
	items := []item{{value: v, at: value.expr.Range()}}
	if !v.IsNull() && isList(v) {
		items = elements(v, value.expr.Range())
	}
	for _, it := range items {
		text, ok := it.text(p.rep)
		if !ok {
			return nil
		}
		k.Values = append(k.Values, text)
	}
	numeric := slices.Contains([]string{OpLess, OpAtMost, OpMore, OpAtLeast}, k.Operator)
	switch {
	case len(k.Values) == 0:
		p.rep.fail(value.expr.Range(), "Name at least one.", "constraint on %s has an empty list", k.Attribute)
		return nil
	case len(k.Values) > 1 && k.Operator != OpIn && k.Operator != OpContains && k.Operator != OpNotEqual:
		p.rep.fail(value.expr.Range(), `Write operator = "in".`, "operator %q takes one value, not a list", k.Operator)
		return nil
	}
	if numeric {
		if _, err := ParseAmount(k.Values[0]); err != nil {
			p.rep.fail(value.expr.Range(), `Write a number, or an amount as in "4GiB".`, "operator %q: %v", k.Operator, err)
			return nil
		}
	}
	k.Text += " " + strings.Join(k.Values, ", ")
	return k
}

// checkNodeExpr looks at an expression that may use only node.
func (p *parser) checkNodeExpr(a *attribute) bool {
	before := len(p.rep.list) + p.rep.dropped
	checkCalls(a.expr, p.rep)
	for _, t := range a.expr.Variables() {
		if root := stepsOf(t)[0]; root.name != "node" && !secretRoot(root, p.rep) {
			p.rep.fail(root.at, `It may use node.ATTRIBUTE. A text needs quotes.`, "%q is not known before a service is placed", root.name)
		}
	}
	if len(p.rep.list)+p.rep.dropped > before || !checkCost(a.expr, p.rep) {
		return false
	}
	v, ok := valueOf(a.expr, newContext(map[string]cty.Value{"node": cty.DynamicVal}), p.rep)
	if ok && v.Type() != cty.DynamicPseudoType && v.Type() != cty.Bool {
		p.wrong(a, v, "true or false", `node.zone == "a"`)
		return false
	}
	return ok
}

// serviceConstraint reads a constraint block of a service.
func (p *parser) serviceConstraint(d *serviceDecl, b block) {
	k, distinct, _ := p.constraint(b)
	if k != nil {
		d.Constraints = append(d.Constraints, k)
	}
	if distinct != "" {
		d.Distinct = append(d.Distinct, distinct)
	}
	if len(d.Constraints)+len(d.Distinct) == maxConstraints+1 {
		p.rep.fail(b.at, "Join some in one expression.", "service %q has more than %d constraints", d.Name, maxConstraints)
	}
}

// resources reads what an instance needs of what its node has.
func (p *parser) resources(d *serviceDecl, b block) {
	c := p.content(b.body, schema{what: "resources", open: true})
	if len(c.attrs) > maxDimensions {
		p.rep.fail(b.at, "Leave out what is not scarce.", "resources of service %q have more than %d entries", d.Name, maxDimensions)
		return
	}
	for _, name := range sortedKeys(c.attrs) {
		a := c.attrs[name]
		v, ok := p.value(a)
		if !ok {
			continue
		}
		text, ok := item{value: v, at: a.expr.Range()}.text(p.rep)
		if !ok {
			continue
		}
		amount, err := ParseAmount(text)
		switch {
		case name == AttrDiskFree:
			p.rep.fail(a.nameAt, "Write disk = ... for what the service needs of the whole disk, or a constraint for what has to be free when it is placed.", "%s changes as services use it, and cannot be divided", name)
		case err != nil:
			p.rep.fail(a.expr.Range(), `Write a number, or an amount of bytes as in "512MiB".`, "%s: %v", name, err)
		case amount > 0:
			if d.Needs == nil {
				d.Needs = map[string]int64{}
			}
			d.Needs[name] = amount
		}
	}
}

// antiAffinity reads which services must not be near.
func (p *parser) antiAffinity(d *serviceDecl, b block) {
	c := p.content(b.body, schema{what: "anti_affinity", attrs: []string{"services", "attribute"}})
	a := AntiAffinity{Range: b.at}
	if at := c.has("attribute"); at != nil {
		a.Attribute, _ = p.attributeName(at)
	}
	for _, s := range p.stringsOf(c.has("services"), nil) {
		a.Services = append(a.Services, s.text)
		d.apart = append(d.apart, s)
	}
	if c.has("services") == nil {
		p.rep.fail(b.at, `Add services = ["SERVICE"].`, "anti_affinity of service %q names no services", d.Name)
	}
	d.Apart = append(d.Apart, a)
	if len(d.Apart) == maxConstraints+1 {
		p.rep.fail(b.at, "Name more services in one.", "service %q has more than %d anti_affinity blocks", d.Name, maxConstraints)
	}
}

// Stickiness of a distribution: which services never leave the nodes that they were deployed on.
const (
	StickyNone     = ""         // what may stay stays, what may not moves
	StickyStateful = "stateful" // those with managed state stay or wait
	StickyAll      = "all"
)

func emptyDistribution() Distribution {
	return Distribution{Strategy: string(placement.Spread), Cost: "cost", Pin: map[string][]string{}, PinRange: map[string]hcl.Range{}}
}

func (p *parser) distribution(b block) {
	c := p.content(b.body, schema{what: "distribution", attrs: []string{"strategy", "pin", "resource", "sticky", "minimize", "move_cost", "cost", "moves"},
		blocks: map[string]string{"constraint": ""}})
	d := emptyDistribution()
	d.Range = b.at
	before := len(p.rep.list) + p.rep.dropped
	d.Strategy = p.oneOf(c.has("strategy"), placement.Strategies(), d.Strategy, "there is no strategy %q")
	wrong := c.has("strategy") != nil && len(p.rep.list)+p.rep.dropped > before // which was told
	d.Minimize = p.oneOf(c.has("minimize"), placement.Objectives(), "", "minimize cannot be %q")
	d.Sticky = p.oneOf(c.has("sticky"), []string{StickyStateful, StickyAll}, StickyNone, "sticky cannot be %q")
	d.MoveCost = p.intOf(c.has("move_cost"), 0, 1_000_000, 0)
	d.Moves = p.intOf(c.has("moves"), 1, 10_000, 0)
	if a := c.has("resource"); a != nil {
		d.Resource, _ = p.attributeName(a)
	}
	if a := c.has("cost"); a != nil {
		d.Cost, _ = p.attributeName(a)
	}
	bids := d.Strategy == string(placement.HighestBidder) || d.Strategy == string(placement.LowestBidder)
	for name, used := range map[string]bool{"resource": bids, "minimize": d.Strategy == string(placement.Optimal), "move_cost": d.Strategy == string(placement.Optimal)} {
		if a := c.has(name); a != nil && !used && !wrong {
			p.rep.fail(a.nameAt, "Remove it, or choose a strategy that looks at it.", "%s means nothing with strategy %q", name, d.Strategy)
		}
	}
	for _, x := range c.blocks {
		p.commonConstraint(x)
	}
	if a := c.has("pin"); a != nil {
		p.pins(a, &d)
	}
	if p.first(b, "distribution") {
		p.model.Distribution = d
	}
}

// oneOf reads a text that must be one of some.
func (p *parser) oneOf(a *attribute, known []string, otherwise, complaint string) string {
	s, ok := p.stringOf(a, known[0])
	if !ok {
		return otherwise
	}
	if !slices.Contains(known, s) {
		p.rep.fail(a.expr.Range(), WayOut(s, known, ""), complaint, s)
		return otherwise
	}
	return s
}

// common is a constraint of the distribution, for the services that it names, or all.
type common struct {
	constraint *Constraint
	distinct   string
	services   []located
	all        bool
}

func (p *parser) commonConstraint(b block) {
	k, distinct, c := p.constraint(b, "services")
	if k != nil || distinct != "" {
		p.common = append(p.common, common{k, distinct, p.stringsOf(c.has("services"), nil), c.has("services") == nil})
	}
	if len(p.common) == maxConstraints+1 {
		p.rep.fail(b.at, "Join some in one expression.", "the distribution has more than %d constraints", maxConstraints)
	}
}

// checkPlacement checks what placement needs of the whole model, and gives services the constraints of the distribution.
func (p *parser) checkPlacement() {
	for _, k := range p.common {
		for _, s := range k.services {
			if p.services[s.text] == nil {
				p.rep.fail(s.at, WayOut(s.text, p.serviceNames(), "Remove it."), "constraint names the service %q, which there is not", s.text)
			}
		}
		for _, s := range p.model.Services {
			if !k.all && !slices.ContainsFunc(k.services, func(l located) bool { return l.text == s.Name }) {
				continue
			}
			if k.constraint != nil {
				s.Constraints = append(s.Constraints, k.constraint)
			} else {
				s.Distinct = append(s.Distinct, k.distinct)
			}
		}
	}
	dimensions := map[string]bool{}
	for _, s := range p.model.Services {
		for name := range s.Needs {
			dimensions[name] = true
		}
		for _, a := range p.services[s.Name].apart {
			switch {
			case a.text == s.Name:
				p.rep.fail(a.at, `Instances of one service are on different nodes anyhow. For different zones, write constraint { distinct_property = "zone" }.`, "service %q is to be apart from itself", s.Name)
			case p.services[a.text] == nil:
				p.rep.fail(a.at, WayOut(a.text, p.serviceNames(), "Remove it."), "anti_affinity names the service %q, which there is not", a.text)
			}
		}
	}
	p.checkBidders(sortedKeys(dimensions))
}

// checkBidders finds the resource that bidders bid with.
func (p *parser) checkBidders(dimensions []string) {
	d := &p.model.Distribution
	bids := d.Strategy == string(placement.HighestBidder) || d.Strategy == string(placement.LowestBidder)
	switch {
	case !bids || len(p.model.Services) == 0:
	case d.Resource == "" && len(dimensions) == 1:
		d.Resource = dimensions[0]
	case d.Resource == "" && len(dimensions) == 0:
		p.rep.fail(d.Range, `Add resources { memory = "512MiB" } to services, or choose another strategy.`, "strategy %q needs to know what services need", d.Strategy)
	case d.Resource == "":
		p.rep.fail(d.Range, fmt.Sprintf("Add resource = %q.", dimensions[0]), "strategy %q does not say which of the resources it looks at", d.Strategy)
	case !slices.Contains(dimensions, d.Resource):
		p.rep.fail(d.Range, WayOut(d.Resource, dimensions, "Add resources to services."), "no service needs the resource %q", d.Resource)
	}
}
