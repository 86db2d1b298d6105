package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// A local output holds on its instance's node only, so who uses it must be on that node. Services that are bound to each
// other in this way are a group. If each of its members has one instance, they are placed as one; otherwise each goes
// where the services that it uses are.
type group struct {
	members []*Service // dependencies first
	uses    []localUse // by name of the user, of what it uses, and place
	single  bool
}

// localUse is an expression of a service that reads a local output of another.
type localUse struct {
	service, target *Service
	alias, output   string
	at              hcl.Range
}

func (u localUse) String() string { return fmt.Sprintf("dep.%s.%s", u.alias, u.output) }

// localOutput finds dep.ALIAS.NAME or dep.ALIAS.all[N].NAME in a reference.
func localOutput(t hcl.Traversal, typeOf func(alias string) string) (alias, output string, at hcl.Range, ok bool) {
	path := stepsOf(t)
	i := 2
	if len(path) > 4 && path[2].name == "all" && path[3].index {
		i = 4
	}
	if len(path) <= i || path[0].name != "dep" || !LocalOutput(typeOf(path[1].name), path[i].name) {
		return "", "", hcl.Range{}, false
	}
	return path[1].name, path[i].name, path[i].at, true
}

// localUses are those of a service: one of each service that it uses.
func (c *composer) localUses(s *Service) []localUse {
	var out []localUse
	target := func(alias string) *Service { return c.named[s.DependsOn[alias]] }
	some := false
	for alias := range s.DependsOn {
		some = some || target(alias) != nil && len(modules[target(alias).Type].outputs) > 0
	}
	if !some {
		return nil
	}
	for _, e := range s.expressions() {
		for _, t := range e.Variables() {
			alias, output, at, ok := localOutput(t, func(alias string) string {
				if t := target(alias); t != nil {
					return t.Type
				}
				return ""
			})
			if ok {
				out = append(out, localUse{service: s, target: target(alias), alias: alias, output: output, at: at})
			}
		}
	}
	slices.SortStableFunc(out, func(a, b localUse) int { return strings.Compare(a.target.Name, b.target.Name) })
	return slices.CompactFunc(out, func(a, b localUse) bool { return a.target == b.target })
}

// bind finds the groups.
func (c *composer) bind() {
	c.bound, c.named = map[string]*group{}, map[string]*Service{}
	for _, s := range c.services {
		c.named[s.Name] = s
	}
	for _, s := range c.services {
		for _, u := range c.localUses(s) {
			a, b := c.groupOf(u.service), c.groupOf(u.target)
			if a != b {
				a.members, a.uses = append(a.members, b.members...), append(a.uses, b.uses...)
				for _, m := range b.members {
					c.bound[m.Name] = a
				}
			}
			a.uses = append(a.uses, u)
		}
	}
	if len(c.bound) == 0 {
		return
	}
	order := map[string]int{}
	for i, s := range c.order() {
		order[s.Name] = i
	}
	for _, g := range c.bound {
		slices.SortFunc(g.members, func(a, b *Service) int { return order[a.Name] - order[b.Name] })
		g.single = !slices.ContainsFunc(g.members, func(s *Service) bool { return s.All || s.Instances != 1 })
	}
}

func (c *composer) groupOf(s *Service) *group {
	if c.bound[s.Name] == nil {
		c.bound[s.Name] = &group{members: []*Service{s}}
	}
	return c.bound[s.Name]
}

// placeOrder has the services of groups that are not placed as one last, dependencies first.
func (c *composer) placeOrder() []*Service {
	many := func(s *Service) bool { return c.bound[s.Name] != nil && !c.bound[s.Name].single }
	if !slices.ContainsFunc(c.services, many) {
		return c.services
	}
	out := slices.DeleteFunc(slices.Clone(c.services), many)
	for _, s := range c.order() {
		if many(s) {
			out = append(out, s)
		}
	}
	return out
}

// heaviest has the services with state first.
func (c *composer) heaviest(services []*Service) []*Service {
	if len(services) == 1 {
		return services
	}
	out := slices.Clone(services)
	slices.SortStableFunc(out, func(a, b *Service) int {
		return cmp.Compare(min(len(c.home(b)), 1), min(len(c.home(a)), 1))
	})
	return out
}

// apart tells why a group has no node.
func (c *composer) apart(g *group) {
	u := g.uses[0]
	for _, x := range g.uses {
		if len(both(c.fitting(x.service), c.fitting(x.target))) == 0 {
			u = x
			break
		}
	}
	summary := fmt.Sprintf("no node may run both service %q and service %q, of which it uses %s", u.service.Name, u.target.Name, u)
	if c.in.Adapt {
		c.warn("%s; they wait for a node", summary)
		return
	}
	d := problem(u.at, summary, "Pin both to the same node, or do not use what holds on one node only.")
	d.Detail = fmt.Sprintf("%s holds only on the node of %s. %s may run on: %s. %s may run on: %s.", u, u.target.Name,
		u.service.Name, c.names(c.fitting(u.service)), u.target.Name, c.names(c.fitting(u.target)))
	if len(g.members) > 2 {
		var all []string
		for _, s := range g.members {
			all = append(all, s.Name)
		}
		d.Detail += " All of these must be on one node: " + strings.Join(all, ", ") + "."
	}
	d.Related = []Range{c.placedBy(u.service), c.placedBy(u.target)}
	c.diags = append(c.diags, d)
}

// placedBy is where the model says what nodes a service may have.
func (c *composer) placedBy(s *Service) Range {
	if at, ok := c.in.Model.Distribution.PinRange[s.Name]; ok {
		return noted(at, "where %s may run", s.Name)
	}
	return noted(s.Range, "%s", s.Name)
}

func (c *composer) names(ids []string) string {
	var out []string
	for _, id := range ids {
		out = append(out, c.in.State.NodeName(id))
	}
	return strings.Join(out, ", ")
}

// checkGroups holds where instances are against what they use. When adapting, those that would be apart from it wait.
func (c *composer) checkGroups() {
	for _, s := range c.placeOrder() {
		for _, u := range c.localUses(s) {
			c.checkUse(u)
		}
	}
}

func (c *composer) checkUse(u localUse) {
	var stay []string
	for _, id := range c.where[u.service.Name] {
		n := c.in.State.Nodes.At(id)
		switch {
		case !slices.Contains(c.where[u.target.Name], id) && c.in.Adapt:
			c.warn("%s waits for %s on %s", u.service.Name, u.target.Name, n.Name)
			continue
		case !slices.Contains(c.where[u.target.Name], id):
			d := problem(u.at, fmt.Sprintf("service %q would be on %s, where there is no %q, of which it uses %s", u.service.Name, n.Name, u.target.Name, u),
				"Give both as many instances, or do not use what holds on one node only.")
			d.Detail = fmt.Sprintf("%s holds only on the node of %s.", u, u.target.Name)
			d.Related = []Range{c.placedBy(u.service), c.placedBy(u.target)}
			c.diags = append(c.diags, d)
		case n.Attributes[DataAttribute] == "" && needsData(u.target.Type, u.output):
			c.fail(u.at, fmt.Sprintf("%s is not known: node %s has not announced its data directory", u, n.Name), "Upgrade the agent there, or wait until it has been heard.")
		}
		stay = append(stay, id)
	}
	c.where[u.service.Name] = stay
}

func needsData(typ, name string) bool {
	return slices.ContainsFunc(modules[typ].outputs, func(o output) bool { return o.name == name && o.below != "" })
}

// both are the ids of a that are in b, in a's order.
func both(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(id string) bool { return !slices.Contains(b, id) })
}
