package model

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// has gives an attribute, nil if it is not there.
func (c content) has(name string) *attribute { return c.attrs[name] }

// constant evaluates an attribute that may refer to nothing. variables are those that it may use all the same.
func (p *parser) constant(e hclsyntax.Expression, variables map[string]cty.Value) (*hcl.EvalContext, bool) {
	before := len(p.rep.list) + p.rep.dropped
	checkCalls(e, p.rep)
	for _, t := range e.Variables() {
		if _, ok := variables[t.RootName()]; ok && len(t) == 1 {
			continue
		}
		root := stepsOf(t)[0]
		switch {
		case secretRoot(root, p.rep):
		case len(variables) > 0:
			p.rep.fail(root.at, fmt.Sprintf("It knows only ${%s}.", strings.Join(sortedKeys(variables), "} and ${")), "%s is not known when a package is built", root.name)
		case slices.Contains(rootNames(), root.name):
			p.rep.fail(root.at, "Use it in command, env, dir or settings, which are evaluated after placement.", "%s. is not known here: the value must be the same everywhere", root.name)
		default:
			p.rep.fail(root.at, fmt.Sprintf("A text needs quotes: %q.", root.name), "unknown name %q", root.name)
		}
	}
	if len(p.rep.list)+p.rep.dropped > before || !checkCost(e, p.rep) {
		return nil, false
	}
	return newContext(variables), true
}

// value evaluates an attribute to a constant. It is false for one that is not there or is wrong.
func (p *parser) value(a *attribute) (cty.Value, bool) {
	if a == nil {
		return cty.NilVal, false
	}
	ctx, ok := p.constant(a.expr, nil)
	if !ok {
		return cty.NilVal, false
	}
	return valueOf(a.expr, ctx, p.rep)
}

// wrong says what an attribute must be.
func (p *parser) wrong(a *attribute, v cty.Value, must, example string) {
	p.rep.fail(a.expr.Range(), fmt.Sprintf("Write %s = %s.", a.name, example), "%s must be %s, not %s", a.name, must, kindOf(v))
}

func (p *parser) stringOf(a *attribute, example string) (string, bool) {
	v, ok := p.value(a)
	if !ok {
		return "", false
	}
	if v.IsNull() || v.Type() != cty.String {
		p.wrong(a, v, "a string", strconv.Quote(example))
		return "", false
	}
	return item{value: v, at: a.expr.Range()}.text(p.rep)
}

func (p *parser) boolOf(a *attribute, otherwise bool) bool {
	v, ok := p.value(a)
	if !ok {
		return otherwise
	}
	if v.IsNull() || v.Type() != cty.Bool {
		p.wrong(a, v, "true or false", strconv.FormatBool(!otherwise))
		return otherwise
	}
	return v.True()
}

// intOf gives a whole number from lowest to highest.
func (p *parser) intOf(a *attribute, lowest, highest, otherwise int) int {
	v, ok := p.value(a)
	if !ok {
		return otherwise
	}
	if v.IsNull() || v.Type() != cty.Number {
		p.wrong(a, v, "a number", strconv.Itoa(max(lowest, otherwise)))
		return otherwise
	}
	if n, ok := p.inRange(v, a, lowest, highest); ok {
		return n
	}
	return otherwise
}

func (p *parser) inRange(v cty.Value, a *attribute, lowest, highest int) (int, bool) {
	f := v.AsBigFloat()
	n, accuracy := f.Int64()
	if accuracy != 0 || !f.IsInt() || n < int64(lowest) || n > int64(highest) {
		p.rep.fail(a.expr.Range(), fmt.Sprintf("Use a whole number from %d to %d.", lowest, highest), "%s cannot be %s", a.name, f.Text('g', 12))
		return 0, false
	}
	return int(n), true
}

// durationOf gives a length of time such as "5m".
func (p *parser) durationOf(a *attribute, lowest, highest, otherwise time.Duration) time.Duration {
	v, ok := p.value(a)
	if !ok {
		return otherwise
	}
	example := max(otherwise, lowest)
	if v.IsNull() || v.Type() != cty.String {
		p.wrong(a, v, "a string with a unit", strconv.Quote(shortDuration(example)))
		return otherwise
	}
	d, err := time.ParseDuration(v.AsString())
	if err != nil {
		p.rep.fail(a.expr.Range(), `Write a number with a unit: ms, s, m or h, as in "500ms", "10s", "5m" or "1h30m".`, "%s = %q is not a length of time", a.name, v.AsString())
		return otherwise
	}
	if d < lowest || d > highest {
		p.rep.fail(a.expr.Range(), fmt.Sprintf("Use %s to %s.", shortDuration(lowest), shortDuration(highest)), "%s cannot be %s", a.name, shortDuration(d))
		return otherwise
	}
	return d
}

// shortDuration is "5m" where String says "5m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// stringsOf gives a list of constant strings, each with its place. Variables as for constant.
func (p *parser) stringsOf(a *attribute, variables map[string]cty.Value) []located {
	if a == nil {
		return nil
	}
	ctx, ok := p.constant(a.expr, variables)
	if !ok {
		return nil
	}
	var out []located
	for _, it := range listItems(a.expr, ctx, listOfStrings, p.rep) {
		if s, ok := it.text(p.rep); ok {
			out = append(out, located{s, it.at})
		}
	}
	return out
}

// pair is an entry of a map of constant strings.
type pair struct{ key, value located }

func (p *parser) pairsOf(a *attribute) []pair {
	var out []pair
	for _, it := range p.itemsOf(a) {
		if s, ok := it.text(p.rep); ok {
			out = append(out, pair{located{it.key, it.keyAt}, located{s, it.at}})
		}
	}
	return out
}

func (p *parser) itemsOf(a *attribute) []item {
	if a == nil {
		return nil
	}
	ctx, ok := p.constant(a.expr, nil)
	if !ok {
		return nil
	}
	return mapItems(a.expr, ctx, mapOfStrings, p.rep)
}

func (p *parser) mapOf(a *attribute) map[string]string {
	if a == nil {
		return nil
	}
	out := map[string]string{}
	for _, x := range p.pairsOf(a) {
		out[x.key.text] = x.value.text
	}
	return out
}
