package model

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

func (p *parser) node(b block) {
	p.checkName("node", b.name)
	n := &NodeDecl{Name: b.name.text, Properties: map[string]string{}, Containers: map[string]map[string]string{}, Range: b.at}
	c := p.content(b.body, schema{what: fmt.Sprintf("node %q", n.Name), attrs: []string{"properties"}, blocks: map[string]string{"container": "NAME"}})
	for _, x := range p.pairsOf(c.has("properties")) {
		if p.checkProperty(x.key) {
			n.Properties[x.key.text] = x.value.text
		}
	}
	seen := map[string]hcl.Range{}
	for _, cb := range c.blocks {
		p.checkName("container", cb.name)
		settings := p.content(cb.body, schema{what: fmt.Sprintf("container %q", cb.name.text), attrs: []string{"settings"}})
		if p.firstOf(seen, cb, fmt.Sprintf("container %q", cb.name.text)) {
			n.Containers[cb.name.text] = map[string]string{}
			for _, x := range p.pairsOf(settings.has("settings")) {
				p.checkSetting(cb.name.text, x.key.text, x.key.at)
				n.Containers[cb.name.text][x.key.text] = x.value.text
			}
		}
	}
	if p.first(b, fmt.Sprintf("node %q", n.Name)) {
		p.nodes[n.Name] = n
		p.model.Nodes = append(p.model.Nodes, n)
	}
}

// resources are what numbers are reserved of, with the highest number of each.
func resources() map[string]int {
	return map[string]int{"ports": 65535, "uids": 1<<31 - 2, "gids": 1<<31 - 2}
}

// ids reads the ranges of one resource. What it does not say stays as in DefaultIDs.
func (p *parser) ids(b block) {
	highest, ok := resources()[b.name.text]
	if !ok {
		p.rep.fail(b.name.at, WayOut(b.name.text, sortedKeys(resources()), ""), "there are no ids %q", b.name.text)
		highest = 65535
	}
	r := DefaultIDs(b.name.text)
	r.Range = b.at
	c := p.content(b.body, schema{what: fmt.Sprintf("ids %q", b.name.text), attrs: []string{"private", "shared", "nodes"}})
	private, shared := rangeOf{what: "private", at: b.at, IDRange: r.Private}, rangeOf{what: "shared", at: b.at, IDRange: r.Shared}
	for _, x := range []*rangeOf{&private, &shared} {
		if text, ok := p.stringOf(c.has(x.what), "8000-8999"); ok {
			x.at = c.has(x.what).expr.Range()
			x.IDRange = p.idRange(located{text, x.at}, highest)
		}
	}
	r.Private, r.Shared = private.IDRange, shared.IDRange
	p.apart(private, shared)
	for _, x := range p.pairsOf(c.has("nodes")) {
		p.checkName("node", x.key)
		own := rangeOf{what: fmt.Sprintf("node %q", x.key.text), at: x.value.at, IDRange: p.idRange(x.value, highest)}
		p.apart(own, shared)
		if r.Nodes == nil {
			r.Nodes = map[string]IDRange{}
		}
		r.Nodes[x.key.text] = own.IDRange
	}
	if p.first(b, fmt.Sprintf("ids %q", b.name.text)) {
		p.model.IDs[b.name.text] = r
	}
}

// rangeOf is a range with its place, which is the block where it is the default.
type rangeOf struct {
	IDRange
	what string
	at   hcl.Range
}

// apart refuses two ranges that share a number. The zero range is none.
func (p *parser) apart(a, b rangeOf) {
	none := IDRange{}
	if a.IDRange == none || b.IDRange == none || !a.Overlaps(b.IDRange) {
		return
	}
	first, second := a, b
	if first.at.Start.Byte > second.at.Start.Byte {
		first, second = second, first
	}
	p.rep.add(Diagnostic{Summary: fmt.Sprintf("the ranges %s %d-%d and %s %d-%d overlap", a.what, a.Min, a.Max, b.what, b.Min, b.Max),
		Detail: "A shared number must mean the same on every node.", Hint: "Make them apart. A range that is not written has its default.",
		Subject: place(second.at), Related: []Range{noted(first.at, "%s %d-%d", first.what, first.Min, first.Max)}})
}

// idRange parses "MIN-MAX". What is wrong is told, and is the zero range.
func (p *parser) idRange(s located, highest int) IDRange {
	from, to, found := strings.Cut(s.text, "-")
	lowest, err1 := strconv.ParseUint(strings.TrimSpace(from), 10, 31)
	most, err2 := strconv.ParseUint(strings.TrimSpace(to), 10, 31)
	r := IDRange{int(lowest), int(most)}
	switch {
	case !found || err1 != nil || err2 != nil:
		p.rep.fail(s.at, `Write the first and the last number: "8000-8999".`, "%q is not a range", s.text)
	case r.Min > r.Max:
		p.rep.fail(s.at, fmt.Sprintf(`Write the lower number first: "%d-%d".`, r.Max, r.Min), "the range %q ends before it begins", s.text)
	case r.Min < 1 || r.Max > highest:
		p.rep.fail(s.at, fmt.Sprintf("Stay between 1 and %d.", highest), "the range %q goes too far", s.text)
	default:
		return r
	}
	return IDRange{}
}

// pins reads { SERVICE = [NODE ...] }. Whether the nodes are members only Compose can know.
func (p *parser) pins(a *attribute, d *Distribution) {
	ctx, ok := p.constant(a.expr, nil)
	if !ok {
		return
	}
	object, ok := a.expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		p.rep.fail(a.expr.Range(), "Write pin = { SERVICE = [NODE, ...] }.", "pin must be written as a map")
		return
	}
	lists := map[string]hclsyntax.Expression{}
	for _, it := range object.Items {
		if v, diags := it.KeyExpr.Value(ctx); !diags.HasErrors() {
			if name, ok := (item{value: v, at: it.KeyExpr.Range()}).text(&reporter{}); ok && lists[name] == nil {
				lists[name] = it.ValueExpr
			}
		}
	}
	for _, it := range objectItems(object, ctx, p.rep) {
		d.PinRange[it.key] = it.keyAt
		d.Pin[it.key] = p.pinned(it, listItems(lists[it.key], ctx, need{"a list of nodes", `Write it in brackets: { SERVICE = ["m1", "m2"] }.`}, p.rep))
	}
}

func (p *parser) pinned(pin item, nodes []item) []string {
	var out []string
	if len(nodes) == 0 && isList(pin.value) {
		p.rep.fail(pin.at, "Name the nodes where it may run, or remove the line: it then runs anywhere.", "service %q is pinned to no node", pin.key)
	}
	seen := map[string]hcl.Range{}
	for _, n := range nodes {
		name, ok := n.text(p.rep)
		if !ok || !p.checkName("node", located{name, n.at}) {
			continue
		}
		if before, twice := seen[name]; twice {
			p.rep.add(Diagnostic{Summary: fmt.Sprintf("service %q is pinned to node %q twice", pin.key, name), Hint: "Remove one of the two.",
				Subject: place(n.at), Related: []Range{noted(before, "the first")}})
			continue
		}
		seen[name] = n.at
		out = append(out, name)
	}
	return out
}
