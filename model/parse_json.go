package model

import (
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// nativeExpr is an expression of the native syntax. One of the JSON form is translated, its strings being templates,
// so that all that follows knows one kind.
func nativeExpr(e hcl.Expression, rep *reporter) hclsyntax.Expression {
	if native, ok := e.(hclsyntax.Expression); ok {
		return native
	}
	at := e.Range()
	if list, diags := hcl.ExprList(e); !diags.HasErrors() {
		out := &hclsyntax.TupleConsExpr{SrcRange: at, OpenRange: e.StartRange()}
		for _, x := range list {
			out.Exprs = append(out.Exprs, nativeExpr(x, rep))
		}
		return out
	}
	if pairs, diags := hcl.ExprMap(e); !diags.HasErrors() {
		out := &hclsyntax.ObjectConsExpr{SrcRange: at, OpenRange: e.StartRange()}
		for _, x := range pairs {
			out.Items = append(out.Items, hclsyntax.ObjectConsItem{KeyExpr: nativeExpr(x.Key, rep), ValueExpr: nativeExpr(x.Value, rep)})
		}
		return out
	}
	v, _ := e.Value(nil)
	if v.Type() == cty.String && v.IsKnown() && !v.IsNull() {
		return template(v.AsString(), at, rep)
	}
	return &hclsyntax.LiteralValueExpr{Val: v, SrcRange: at}
}

// template parses what a JSON string says between its quotes. Escapes in it shift the positions behind them.
func template(text string, at hcl.Range, rep *reporter) hclsyntax.Expression {
	literal := &hclsyntax.LiteralValueExpr{Val: cty.StringVal(text), SrcRange: at}
	if !strings.Contains(text, "${") && !strings.Contains(text, "%{") {
		return &hclsyntax.TemplateExpr{Parts: []hclsyntax.Expression{literal}, SrcRange: at}
	}
	start := at.Start
	start.Byte++
	start.Column++
	tokens, _ := hclsyntax.LexTemplate([]byte(text), at.Filename, start)
	if !checkTokens(tokens, rep) {
		return literal
	}
	e, diags := hclsyntax.ParseTemplate([]byte(text), at.Filename, start)
	rep.addHCL(diags)
	if diags.HasErrors() {
		return literal
	}
	return e
}
