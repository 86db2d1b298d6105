package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// Constraint is a condition on the node of a service: on one attribute, or an expression.
type Constraint struct {
	Attribute string
	Operator  string // one of the Op constants
	Values    []string
	Expr      hcl.Expression // instead of the three; it may use node.ATTRIBUTE
	Text      string         // as it is written, for people; two with one text are the same
	Range     hcl.Range
}

// Operators of constraints.
const (
	OpEqual    = "="
	OpNotEqual = "!="
	OpLess     = "<"
	OpAtMost   = "<="
	OpMore     = ">"
	OpAtLeast  = ">="
	OpIn       = "in"       // the attribute is one of the values
	OpContains = "contains" // the attribute, a list with commas between, has all of the values
	OpSet      = "is_set"
	OpNotSet   = "is_not_set"
)

// operators are all, in the order in which they are listed for people.
func operators() []string {
	return []string{OpEqual, OpNotEqual, OpLess, OpAtMost, OpMore, OpAtLeast, OpIn, OpContains, OpSet, OpNotSet}
}

// violated says why a node does not satisfy a constraint; "" if it does. A node without the attribute satisfies none but
// != and is_not_set.
func (k *Constraint) violated(n NodeInfo) string {
	if k.Expr != nil {
		return k.exprViolated(n)
	}
	v, has := n.Attributes[k.Attribute]
	if k.Operator == OpNotSet || !has && k.Operator == OpNotEqual {
		if !has {
			return ""
		}
		return k.because(fmt.Sprintf("its %s is %q", k.Attribute, v.Text))
	}
	if !has {
		return k.because("it has no " + k.Attribute)
	}
	ok, why := true, fmt.Sprintf("its %s is %q", k.Attribute, v.Text)
	switch k.Operator {
	case OpEqual, OpIn:
		ok = slices.Contains(k.Values, v.Text)
	case OpNotEqual:
		ok = !slices.Contains(k.Values, v.Text)
	case OpContains:
		list := strings.Split(v.Text, ",")
		for i := range list {
			list[i] = strings.TrimSpace(list[i])
		}
		ok = !slices.ContainsFunc(k.Values, func(want string) bool { return !slices.Contains(list, want) })
	case OpLess, OpAtMost, OpMore, OpAtLeast:
		ok, why = k.compares(v.Text, why)
	}
	if ok {
		return ""
	}
	return k.because(why)
}

func (k *Constraint) because(why string) string { return fmt.Sprintf("constraint %s: %s", k.Text, why) }

func (k *Constraint) compares(text, why string) (bool, string) {
	have, err := ParseAmount(text)
	if err != nil {
		return false, why + ", which is no number"
	}
	want, _ := ParseAmount(k.Values[0]) // checked when the model was parsed
	switch k.Operator {
	case OpLess:
		return have < want, why
	case OpAtMost:
		return have <= want, why
	case OpMore:
		return have > want, why
	}
	return have >= want, why
}

func (k *Constraint) exprViolated(n NodeInfo) string {
	holds, known := false, false
	scope := Scope{Node: n.Name, NodeAttrs: plain(n.Attributes)}
	diags := evaluate(k.Expr, scope, func(ctx *hcl.EvalContext, rep *reporter) {
		if v, ok := valueOf(k.Expr, ctx, rep); ok && !v.IsNull() && v.IsKnown() && v.Type() == cty.Bool {
			holds, known = v.True(), true
		}
	})
	switch {
	case diags.HasErrors():
		return k.because(diags[0].Summary)
	case !known:
		return k.because("it is neither true nor false here")
	case !holds:
		return k.because("it is false here")
	}
	return ""
}
