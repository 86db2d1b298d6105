package model

import (
	"fmt"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/function"
	"github.com/zclconf/go-cty/cty/function/stdlib"
)

// Scope is what the expressions of one instance may use, once it is placed.
type Scope struct {
	Host, Node, Service string                // self.host, self.node, self.service
	Ports               map[string]int        // self.port.NAME
	Deps                map[string][]DepScope // dep.ALIAS; the instance preferred comes first
	NodeAttrs           map[string]string     // node.ATTRIBUTE; node.name is Node
}

// DepScope is one instance of a service that is depended on.
type DepScope struct {
	Host, Node, Service string
	Ports               map[string]int
	Outputs             map[string]string // of its module: dep.ALIAS.NAME
}

// EvalStrings evaluates an expression to a list of strings. Numbers and booleans become strings: "8080", "true".
// Errors carry positions.
func EvalStrings(expr hcl.Expression, scope Scope) ([]string, Diagnostics) {
	var out []string
	diags := evaluate(expr, scope, func(ctx *hcl.EvalContext, rep *reporter) {
		for _, it := range listItems(expr, ctx, listOfStrings, rep) {
			if s, ok := it.text(rep); ok {
				out = append(out, s)
			}
		}
	})
	if diags.HasErrors() {
		return nil, diags
	}
	return out, diags
}

// EvalStringMap evaluates an expression to a map of strings, values as in EvalStrings. A null value leaves its key out.
func EvalStringMap(expr hcl.Expression, scope Scope) (map[string]string, Diagnostics) {
	out := map[string]string{}
	diags := evaluate(expr, scope, func(ctx *hcl.EvalContext, rep *reporter) {
		for _, it := range mapItems(expr, ctx, mapOfStrings, rep) {
			if it.value.IsNull() {
				continue
			}
			if s, ok := it.text(rep); ok {
				out[it.key] = s
			}
		}
	})
	if diags.HasErrors() {
		return nil, diags
	}
	return out, diags
}

// EvalString evaluates an expression to a string, as in EvalStrings.
func EvalString(expr hcl.Expression, scope Scope) (string, Diagnostics) {
	var out string
	diags := evaluate(expr, scope, func(ctx *hcl.EvalContext, rep *reporter) {
		if v, ok := valueOf(expr, ctx, rep); ok {
			out, _ = item{value: v, at: expr.Range()}.text(rep)
		}
	})
	return out, diags
}

// evaluate checks what the expression refers to, then runs it in the scope.
func evaluate(expr hcl.Expression, scope Scope, run func(*hcl.EvalContext, *reporter)) (diags Diagnostics) {
	rep := &reporter{}
	defer func() {
		if cause := recover(); cause != nil { // the library must not bring down every leader in turn
			rep.fail(expr.Range(), "Write the expression more simply, and report this.", "the expression cannot be evaluated: %v", cause)
			diags = rep.result()
		}
	}()
	scope.names().check(expr, rep)
	if !rep.result().HasErrors() {
		run(scope.context(expr), rep)
	}
	return rep.result()
}

// names is what there is to refer to.
func (s Scope) names() names {
	n := names{service: s.Service, ports: sortedKeys(s.Ports), deps: map[string]depNames{}, attrs: sortedKeys(s.NodeAttrs), placed: s.Node}
	for alias, instances := range s.Deps {
		d := depNames{service: alias, empty: len(instances) == 0}
		if !d.empty {
			d.service, d.ports, d.outputs = instances[0].Service, sortedKeys(instances[0].Ports), sortedKeys(instances[0].Outputs)
		}
		n.deps[alias] = d
	}
	return n
}

// context has what an expression refers to, and no more: a model has many expressions, and few of them use much.
func (s Scope) context(expr hcl.Expression) *hcl.EvalContext {
	roots, aliases := map[string]bool{}, map[string]bool{}
	for _, t := range expr.Variables() {
		path := stepsOf(t)
		if roots[path[0].name] = true; len(path) > 1 {
			aliases[path[1].name] = true
		} else {
			aliases[""] = true
		}
	}
	variables := map[string]cty.Value{}
	if roots["self"] {
		variables["self"] = cty.ObjectVal(instanceValue(s.Host, s.Node, s.Service, s.Ports))
	}
	if roots["dep"] {
		deps := map[string]cty.Value{}
		for alias, instances := range s.Deps {
			if aliases[""] || aliases[alias] {
				deps[alias] = depValue(instances)
			}
		}
		variables["dep"] = cty.ObjectVal(deps)
	}
	if roots["node"] {
		attrs := map[string]cty.Value{}
		for k, v := range s.NodeAttrs {
			attrs[k] = cty.StringVal(v)
		}
		attrs["name"] = cty.StringVal(s.Node)
		variables["node"] = cty.ObjectVal(attrs)
	}
	return newContext(variables)
}

func depValue(instances []DepScope) cty.Value {
	if len(instances) == 0 {
		return cty.ObjectVal(map[string]cty.Value{"all": cty.EmptyTupleVal})
	}
	all := make([]cty.Value, len(instances))
	var first map[string]cty.Value
	for i, d := range instances {
		m := instanceValue(d.Host, d.Node, d.Service, d.Ports)
		for k, v := range d.Outputs { // "port" may be one, of a type whose services have no ports of their own
			m[k] = cty.StringVal(v)
		}
		all[i] = cty.ObjectVal(m)
		if i == 0 {
			first = maps.Clone(m)
		}
	}
	first["all"] = oneList(all)
	return cty.ObjectVal(first)
}

// oneList is a list where all are of one type, which is what the checks before placement assume.
func oneList(vals []cty.Value) cty.Value {
	for _, v := range vals[1:] {
		if !v.Type().Equals(vals[0].Type()) {
			return cty.TupleVal(vals)
		}
	}
	return cty.ListVal(vals)
}

func instanceValue(host, node, service string, ports map[string]int) map[string]cty.Value {
	numbers := map[string]cty.Value{}
	for name, n := range ports {
		numbers[name] = cty.NumberIntVal(int64(n))
	}
	return map[string]cty.Value{"host": cty.StringVal(host), "node": cty.StringVal(node), "service": cty.StringVal(service),
		"port": cty.ObjectVal(numbers)}
}

func newContext(variables map[string]cty.Value) *hcl.EvalContext {
	return &hcl.EvalContext{Variables: variables, Functions: functions}
}

// functions are those that expressions may call: pure, and none whose result is much larger than what it is given.
var functions = map[string]function.Function{
	"abs": stdlib.AbsoluteFunc, "ceil": stdlib.CeilFunc, "coalesce": stdlib.CoalesceFunc, "compact": stdlib.CompactFunc,
	"concat": stdlib.ConcatFunc, "contains": stdlib.ContainsFunc, "distinct": stdlib.DistinctFunc, "element": stdlib.ElementFunc,
	"flatten": stdlib.FlattenFunc, "floor": stdlib.FloorFunc, "format": stdlib.FormatFunc, "join": stdlib.JoinFunc,
	"jsonencode": stdlib.JSONEncodeFunc, "keys": stdlib.KeysFunc, "length": stdlib.LengthFunc, "lookup": stdlib.LookupFunc,
	"lower": stdlib.LowerFunc, "max": stdlib.MaxFunc, "merge": stdlib.MergeFunc, "min": stdlib.MinFunc,
	"replace": stdlib.ReplaceFunc, "reverse": stdlib.ReverseListFunc, "sort": stdlib.SortFunc, "split": stdlib.SplitFunc,
	"substr": stdlib.SubstrFunc, "tobool": stdlib.MakeToFunc(cty.Bool), "tonumber": stdlib.MakeToFunc(cty.Number),
	"tostring": stdlib.MakeToFunc(cty.String), "trimprefix": stdlib.TrimPrefixFunc, "trimspace": stdlib.TrimSpaceFunc,
	"trimsuffix": stdlib.TrimSuffixFunc, "upper": stdlib.UpperFunc, "values": stdlib.ValuesFunc,
}

// usage is how each function is called, for hints.
var usage = map[string]string{
	"abs": "abs(NUMBER)", "ceil": "ceil(NUMBER)", "coalesce": "coalesce(VALUE, ...)", "compact": "compact(LIST)",
	"concat": "concat(LIST, ...)", "contains": "contains(LIST, VALUE)", "distinct": "distinct(LIST)", "element": "element(LIST, INDEX)",
	"flatten": "flatten(LIST)", "floor": "floor(NUMBER)", "format": `format("%s:%d", VALUE, ...)`, "join": "join(SEPARATOR, LIST)",
	"jsonencode": "jsonencode(VALUE)", "keys": "keys(MAP)", "length": "length(LIST)", "lookup": "lookup(MAP, KEY, DEFAULT)",
	"lower": "lower(TEXT)", "max": "max(NUMBER, ...)", "merge": "merge(MAP, ...)", "min": "min(NUMBER, ...)",
	"replace": "replace(TEXT, OLD, NEW)", "reverse": "reverse(LIST)", "sort": "sort(LIST)", "split": "split(SEPARATOR, TEXT)",
	"substr": "substr(TEXT, OFFSET, LENGTH)", "tobool": "tobool(VALUE)", "tonumber": "tonumber(VALUE)",
	"tostring": "tostring(VALUE)", "trimprefix": "trimprefix(TEXT, PREFIX)", "trimspace": "trimspace(TEXT)",
	"trimsuffix": "trimsuffix(TEXT, SUFFIX)", "upper": "upper(TEXT)", "values": "values(MAP)",
}

// item is an element of a list or a map, with where it is written.
type item struct {
	key       string // in a map
	keyAt, at hcl.Range
	value     cty.Value
}

// text is the item as a string. A value that is not known yet is "" without an error.
func (it item) text(rep *reporter) (string, bool) {
	if it.value.IsNull() {
		rep.fail(it.at, "Give it a value, or leave it out.", "null where a string is needed")
		return "", false
	}
	if it.value.Type() != cty.DynamicPseudoType && !it.value.Type().IsPrimitiveType() {
		rep.fail(it.at, stringHint(it.value), "%s where a string is needed", kindOf(it.value))
		return "", false
	}
	if it.value.Type() == cty.Number && it.value.IsKnown() {
		if n, accuracy := it.value.AsBigFloat().Int64(); accuracy == big.Exact {
			return strconv.FormatInt(n, 10), true // what Convert gives, in a hundredth of the time
		}
	}
	s, err := convert.Convert(it.value, cty.String)
	if err != nil || !s.IsKnown() {
		return "", err == nil
	}
	if text := s.AsString(); !strings.Contains(text, "\x00") {
		return text, true
	}
	rep.fail(it.at, "A program cannot be given that character: leave it out.", "a string with a zero character")
	return "", false
}

func stringHint(v cty.Value) string {
	if isList(v) {
		return `Make one string of it, as join(",", ...) does.`
	}
	return `Take one of its attributes, or make a string of it, as jsonencode(...) does.`
}

// kindOf names a value's type as the language's users know it.
func kindOf(v cty.Value) string {
	t := v.Type()
	switch {
	case v.IsNull():
		return "null"
	case t == cty.String:
		return "a string"
	case t == cty.Number:
		return "a number"
	case t == cty.Bool:
		return "a boolean"
	case isList(v):
		return "a list"
	case t.IsObjectType() || t.IsMapType():
		return "a map"
	}
	return "a value not known yet"
}

func isList(v cty.Value) bool {
	t := v.Type()
	return t.IsTupleType() || t.IsListType() || t.IsSetType()
}

// valueOf evaluates an expression and explains what went wrong.
func valueOf(expr hcl.Expression, ctx *hcl.EvalContext, rep *reporter) (cty.Value, bool) {
	v, diags := expr.Value(ctx)
	rep.addHCL(diags)
	if diags.HasErrors() {
		return cty.DynamicVal, false
	}
	v, _ = v.UnmarkDeep()
	return v, saneNumber(v, expr, rep)
}

// saneNumber refuses what would be millions of digits as a string.
func saneNumber(v cty.Value, expr hcl.Expression, rep *reporter) bool {
	if v.IsNull() || !v.IsKnown() || v.Type() != cty.Number {
		return true
	}
	if f := v.AsBigFloat(); f.IsInf() || f.Cmp(big.NewFloat(1e30)) > 0 || f.Cmp(big.NewFloat(-1e30)) < 0 || f.MantExp(nil) < -100 {
		rep.fail(expr.Range(), "Write a number that a program would understand.", "the number is too large or too small")
		return false
	}
	return true
}

// need is what an expression must give, and how that is written.
type need struct{ what, hint string }

var (
	listOfStrings = need{"a list of strings", `Write it in brackets: ["bin/web", "--verbose"].`}
	mapOfStrings  = need{"a map of strings", `Write it as { NAME = VALUE, ... }.`}
)

// listItems evaluates an expression that must be a list. Where it is written as [...], each item has its own place.
func listItems(expr hcl.Expression, ctx *hcl.EvalContext, needed need, rep *reporter) []item {
	var out []item
	if list, ok := expr.(*hclsyntax.TupleConsExpr); ok {
		for _, e := range list.Exprs {
			if v, ok := valueOf(e, ctx, rep); ok {
				out = append(out, item{value: v, at: e.Range()})
			}
		}
		return out
	}
	v, ok := valueOf(expr, ctx, rep)
	if !ok || v.Type() == cty.DynamicPseudoType && !v.IsNull() {
		return nil
	}
	if v.IsNull() || !isList(v) {
		rep.fail(expr.Range(), needed.hint, "%s where %s is needed", kindOf(v), needed.what)
		return nil
	}
	return elements(v, expr.Range())
}

// elements are those of a list or map that is known.
func elements(v cty.Value, at hcl.Range) []item {
	var out []item
	if !v.IsKnown() {
		return nil
	}
	for it := v.ElementIterator(); it.Next(); {
		k, e := it.Element()
		x := item{value: e, at: at, keyAt: at}
		if k.Type() == cty.String {
			x.key = k.AsString()
		}
		out = append(out, x)
	}
	return out
}

// mapItems evaluates an expression that must be a map; see listItems. An item whose key is not known yet is left out.
func mapItems(expr hcl.Expression, ctx *hcl.EvalContext, needed need, rep *reporter) []item {
	if object, ok := expr.(*hclsyntax.ObjectConsExpr); ok {
		return objectItems(object, ctx, rep)
	}
	v, ok := valueOf(expr, ctx, rep)
	if !ok || v.Type() == cty.DynamicPseudoType && !v.IsNull() {
		return nil
	}
	if v.IsNull() || !v.Type().IsObjectType() && !v.Type().IsMapType() {
		rep.fail(expr.Range(), needed.hint, "%s where %s is needed", kindOf(v), needed.what)
		return nil
	}
	return elements(v, expr.Range())
}

func objectItems(object *hclsyntax.ObjectConsExpr, ctx *hcl.EvalContext, rep *reporter) []item {
	var out []item
	seen := map[string]hcl.Range{}
	for _, it := range object.Items {
		key, ok := valueOf(it.KeyExpr, ctx, rep)
		if !ok {
			continue
		}
		name, ok := item{value: key, at: it.KeyExpr.Range()}.text(rep)
		if !ok || !key.IsKnown() {
			continue
		}
		if before, twice := seen[name]; twice {
			rep.add(Diagnostic{Summary: fmt.Sprintf("%q is set twice", name), Hint: "Remove one of the two.",
				Subject: place(it.KeyExpr.Range()), Related: []Range{noted(before, "the first")}})
			continue
		}
		seen[name] = it.KeyExpr.Range()
		if v, ok := valueOf(it.ValueExpr, ctx, rep); ok {
			out = append(out, item{key: name, keyAt: it.KeyExpr.Range(), value: v, at: it.ValueExpr.Range()})
		}
	}
	return out
}

// names is what an expression may refer to: before placement by the model's declarations, after it by a Scope.
type names struct {
	service string
	ports   []string
	deps    map[string]depNames
	attrs   []string        // of the node
	placed  string          // the node's name; "" before placement, when its attributes are not known
	others  map[string]bool // services of the model that are not in deps
}

// depNames is what can be had from a dependency.
type depNames struct {
	service string
	ports   []string
	outputs []string
	open    bool // the module may have outputs that are known only later
	empty   bool // there is no instance
	unknown bool // there is no such service, which was told
}

// rootNames are the only variables.
func rootNames() []string { return []string{"self", "dep", "node"} }

// check looks at every reference of an expression, and at the functions it calls.
func (n names) check(expr hcl.Expression, rep *reporter) {
	checkCalls(expr, rep)
	for _, t := range expr.Variables() {
		path := stepsOf(t)
		switch path[0].name {
		case "self":
			n.checkInstance(path, 1, fmt.Sprintf("service %q", n.service), depNames{service: n.service, ports: n.ports}, nil, rep)
		case "dep":
			n.checkDep(path, rep)
		case "node":
			n.checkNode(path, rep)
		default:
			n.unknownRoot(path[0], rep)
		}
	}
}

func (n names) unknownRoot(root step, rep *reporter) {
	if secretRoot(root, rep) {
		return
	}
	hint := `Expressions know "self", "dep" and "node". A text needs quotes.`
	if _, ok := n.deps[root.name]; ok {
		hint = fmt.Sprintf("Did you mean dep.%s?", root.name)
	} else if s := suggest(root.name, rootNames()); s != "" {
		hint = fmt.Sprintf("Did you mean %q?", s)
	}
	rep.fail(root.at, hint, "unknown name %q", root.name)
}

func secretRoot(root step, rep *reporter) bool {
	if root.name != "secret" {
		return false
	}
	rep.fail(root.at, "Until they are, put the value in a file on the nodes and give the program its path.",
		"secret. is reserved: secrets are not available yet")
	return true
}

func (n names) checkDep(path []step, rep *reporter) {
	if len(path) < 2 {
		return
	}
	alias := path[1].name
	d, ok := n.deps[alias]
	switch {
	case !ok:
		rep.fail(path[1].at, n.depHint(alias), "service %q has no dependency %q", n.service, alias)
	case d.empty && (len(path) < 3 || path[2].name != "all"):
		rep.fail(path[1].at, "Look at where it is placed, or ask for dep."+alias+".all, which may be empty.", "dependency %q has no instance", alias)
	case !d.empty:
		n.checkInstance(path, 2, fmt.Sprintf("dependency %q (service %q)", alias, d.service), d, []string{"all"}, rep)
	}
}

func (n names) depHint(alias string) string {
	for _, known := range sortedKeys(n.deps) {
		if n.deps[known].service == alias {
			return fmt.Sprintf("Service %q is dep.%s here.", alias, known)
		}
	}
	if s := suggest(alias, sortedKeys(n.deps)); s != "" || !n.others[alias] {
		return WayOut(alias, sortedKeys(n.deps), fmt.Sprintf("Add it to depends_on or connects_to of service %q.", n.service))
	}
	return fmt.Sprintf("Add %q to depends_on or connects_to of service %q.", alias, n.service)
}

// checkInstance looks at what follows self, dep.ALIAS or dep.ALIAS.all[N].
func (n names) checkInstance(path []step, i int, what string, d depNames, extra []string, rep *reporter) {
	if len(path) <= i {
		return
	}
	known := slices.Concat([]string{"host", "node", "service", "port"}, extra, d.outputs)
	s := path[i]
	switch {
	case !slices.Contains(known, s.name):
		if !d.open {
			rep.fail(s.at, WayOut(s.name, known, ""), "%s has no attribute %q", what, s.name)
		}
	case d.unknown:
	case s.name == "port" && len(path) > i+1 && !slices.Contains(d.ports, path[i+1].name):
		port := path[i+1]
		rep.fail(port.at, WayOut(port.name, d.ports, fmt.Sprintf("Add port %q {} to service %q.", port.name, d.service)),
			"service %q has no port %q", d.service, port.name)
	case s.name == "all" && len(path) > i+2 && path[i+1].index:
		n.checkInstance(path, i+2, what, d, nil, rep)
	}
}

func (n names) checkNode(path []step, rep *reporter) {
	if n.placed == "" || len(path) < 2 || path[1].name == "name" || slices.Contains(n.attrs, path[1].name) {
		return
	}
	known := append([]string{"name"}, n.attrs...)
	rep.fail(path[1].at, WayOut(path[1].name, known, "")+fmt.Sprintf(" Or give it one: node %q { properties = { %s = ... } }.", n.placed, path[1].name),
		"node %q has no attribute %q", n.placed, path[1].name)
}

// step is one part of a reference such as dep.staff.port["my-port"].
type step struct {
	name  string
	at    hcl.Range // from the start of the reference to the end of this part
	index bool      // written as a number in brackets
}

func stepsOf(t hcl.Traversal) []step {
	out := make([]step, 0, len(t))
	start := t.SourceRange()
	for _, part := range t {
		s := step{at: start}
		switch p := part.(type) {
		case hcl.TraverseRoot:
			s.name, s.at.End = p.Name, p.SrcRange.End
		case hcl.TraverseAttr:
			s.name, s.at.End = p.Name, p.SrcRange.End
		case hcl.TraverseIndex:
			s.at.End = p.SrcRange.End
			s.index = p.Key.Type() == cty.Number
			if k, err := convert.Convert(p.Key, cty.String); err == nil && k.IsKnown() && !k.IsNull() {
				s.name = k.AsString()
			}
		}
		out = append(out, s)
	}
	return out
}

// checkCalls refuses functions that there are not, before HCL does it without a way out.
func checkCalls(expr hcl.Expression, rep *reporter) {
	node, ok := expr.(hclsyntax.Node)
	if !ok {
		return
	}
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl.Diagnostics {
		if call, ok := n.(*hclsyntax.FunctionCallExpr); ok {
			if _, known := functions[call.Name]; !known {
				rep.fail(call.NameRange, WayOut(call.Name, sortedKeys(functions), ""), "there is no function %q", call.Name)
			}
		}
		return nil
	})
}
