package model

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// The HCL library parses and evaluates by recursion, and a goroutine whose stack overflows ends the process. These
// limits are checked on tokens, before the library sees them.
const (
	maxDepth     = 40  // brackets, blocks and templates inside each other
	maxOperators = 500 // operators and steps of one expression, in all brackets that are open
	maxNumber    = 40  // characters of a number
)

// level is an open bracket, block or template.
type level struct {
	operators int
	lines     bool // a line end separates: in a block or an object, not in brackets or "for"
	opened    bool // nothing but line ends was seen in it
}

// checkTokens refuses what is nested too deeply, and numbers with enormous exponents.
func checkTokens(tokens hclsyntax.Tokens, rep *reporter) bool {
	levels := []level{{lines: true}}
	sum := 0
	for _, t := range tokens {
		top := &levels[len(levels)-1]
		switch t.Type {
		case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOParen, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc,
			hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl:
			if t.Type != hclsyntax.TokenOQuote && t.Type != hclsyntax.TokenTemplateInterp {
				top.operators, sum = top.operators+1, sum+1
			}
			levels = append(levels, level{lines: t.Type == hclsyntax.TokenOBrace, opened: true})
		case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCParen, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc, hclsyntax.TokenTemplateSeqEnd:
			sum -= top.operators
			if levels = levels[:len(levels)-1]; len(levels) == 0 {
				levels, sum = append(levels, level{lines: true}), 0
			}
		case hclsyntax.TokenComma:
			top.operators, sum = 0, sum-top.operators
		case hclsyntax.TokenNewline:
			if top.lines {
				top.operators, sum = 0, sum-top.operators
			}
		case hclsyntax.TokenIdent:
			if top.opened && string(t.Bytes) == "for" {
				top.lines = false
			}
			top.opened = false
		case hclsyntax.TokenNumberLit:
			if !checkNumber(string(t.Bytes), t.Range, rep) {
				return false
			}
		case hclsyntax.TokenQuotedLit, hclsyntax.TokenStringLit, hclsyntax.TokenComment, hclsyntax.TokenEOF:
		default:
			top.operators, sum = top.operators+1, sum+1
		}
		if len(levels) > maxDepth {
			rep.fail(t.Range, "Split it up, or write it more simply.", "the nesting is too deep here")
			return false
		}
		if sum > maxOperators {
			rep.fail(t.Range, "Split it up, or write it more simply.", "the expression is too long here")
			return false
		}
	}
	return true
}

func checkNumber(text string, at hcl.Range, rep *reporter) bool {
	_, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	if len(text) <= maxNumber && len(strings.TrimLeft(exponent, "+-")) <= 2 {
		return true
	}
	rep.fail(at, "Write a number that a program would understand.", "the number is too long")
	return false
}

// checkJSON does for the JSON form what checkTokens does for the native one. Templates in its strings are checked
// when they are parsed.
func checkJSON(text []byte, file string, rep *reporter) bool {
	pos := hcl.InitialPos
	depth, quoted, number := 0, false, 0
	for i := 0; i < len(text); i++ {
		c := text[i]
		at := hcl.Range{Filename: file, Start: pos, End: hcl.Pos{Line: pos.Line, Column: pos.Column + 1, Byte: i + 1}}
		if c >= 0x80 && c < 0xc0 {
			continue // inside a character
		}
		if pos.Column++; c == '\n' {
			pos.Line, pos.Column = pos.Line+1, 1
		}
		pos.Byte = i + 1
		switch {
		case quoted && c == '\\':
			i++
			pos.Column++
			continue
		case c == '"':
			quoted = !quoted
		case quoted:
			continue
		case c == '{' || c == '[':
			depth++
		case c == '}' || c == ']':
			depth--
		}
		if strings.IndexByte("0123456789eE+-.", c) < 0 || quoted {
			number = i + 1
		}
		if i+1-number > 0 && !checkNumber(string(text[number:i+1]), at, rep) {
			return false
		}
		if depth > maxDepth {
			rep.fail(at, "Split it up, or write it more simply.", "the nesting is too deep here")
			return false
		}
	}
	return true
}

// Limits on evaluation. A leader evaluates the model again and again; an expression of a few bytes must not keep it
// busy or fill its memory.
const (
	maxLoops    = 3        // "for" and [*] inside each other
	maxResult   = 16 << 20 // bytes that an expression could produce
	assumedText = 256      // bytes of a host, a port or an attribute
	assumedAll  = 256      // instances of a dependency
)

// checkCost refuses an expression that could produce more than maxResult bytes.
func checkCost(expr hclsyntax.Expression, rep *reporter) bool {
	c := &coster{}
	if size := c.size(expr, nil); size <= maxResult && c.trouble == "" {
		return true
	}
	if c.trouble != "" {
		rep.fail(expr.Range(), "Write it more simply.", "%s", c.trouble)
		return false
	}
	rep.fail(expr.Range(), "Loop over less, or leave the work to the program.", "the expression could produce more than %d MB", maxResult>>20)
	return false
}

// coster finds an upper bound of the bytes that an expression produces on the way, each value counting at least one.
// It is a sum of products of what goes in, so a loop over pieces costs at most what one over the whole does, plus
// the constant part for each.
type coster struct {
	loops   int
	trouble string
	anon    map[*hclsyntax.AnonSymbolExpr]int
}

// locals are the variables of the loops around an expression, with their sizes.
type locals struct {
	outer *locals
	name  string
	size  int
}

func (l *locals) find(name string) (int, bool) {
	for ; l != nil; l = l.outer {
		if l.name == name {
			return l.size, true
		}
	}
	return 0, false
}

// capped keeps sums and products from overflowing.
func capped(n int) int { return min(n, 1<<30) }

func (c *coster) size(e hclsyntax.Expression, in *locals) int {
	switch e := e.(type) {
	case *hclsyntax.LiteralValueExpr:
		return literalSize(e)
	case *hclsyntax.ScopeTraversalExpr:
		return referenceSize(e.Traversal, in)
	case *hclsyntax.RelativeTraversalExpr:
		return 1 + c.size(e.Source, in)
	case *hclsyntax.FunctionCallExpr:
		return c.call(e, in)
	case *hclsyntax.ConditionalExpr:
		return c.sum(in, e.Condition, e.TrueResult, e.FalseResult)
	case *hclsyntax.IndexExpr:
		return c.sum(in, e.Collection, e.Key)
	case *hclsyntax.TupleConsExpr:
		return c.sum(in, e.Exprs...)
	case *hclsyntax.ObjectConsExpr:
		n := 1
		for _, it := range e.Items {
			n = capped(n + c.sum(in, it.KeyExpr, it.ValueExpr))
		}
		return n
	case *hclsyntax.ObjectConsKeyExpr:
		return c.size(e.Wrapped, in)
	case *hclsyntax.ForExpr:
		return c.loop(e, in)
	case *hclsyntax.SplatExpr:
		return c.splat(e, in)
	case *hclsyntax.AnonSymbolExpr:
		return 1 + c.anon[e]
	case *hclsyntax.TemplateExpr:
		return c.sum(in, e.Parts...)
	case *hclsyntax.TemplateJoinExpr:
		return c.sum(in, e.Tuple)
	case *hclsyntax.TemplateWrapExpr:
		return c.sum(in, e.Wrapped)
	case *hclsyntax.BinaryOpExpr:
		return c.sum(in, e.LHS, e.RHS) + 64
	case *hclsyntax.UnaryOpExpr:
		return c.size(e.Val, in) + 64
	case *hclsyntax.ParenthesesExpr:
		return c.size(e.Expression, in)
	}
	return 1
}

func literalSize(e *hclsyntax.LiteralValueExpr) int {
	return max(1, e.SrcRange.End.Byte-e.SrcRange.Start.Byte)
}

func (c *coster) sum(in *locals, es ...hclsyntax.Expression) int {
	n := 1
	for _, e := range es {
		n = capped(n + c.size(e, in))
	}
	return n
}

func referenceSize(t hcl.Traversal, in *locals) int {
	if n, ok := in.find(t.RootName()); ok {
		return 1 + n
	}
	if path := stepsOf(t); path[0].name == "dep" && (len(path) < 3 || len(path) == 3 && path[2].name == "all") {
		return assumedAll * assumedText
	}
	return assumedText
}

// loop counts the body once for the whole collection and its constant part for each element.
func (c *coster) loop(e *hclsyntax.ForExpr, in *locals) int {
	coll := c.size(e.CollExpr, in)
	return c.repeat(coll, c.width(e.CollExpr, coll), func(size int) int {
		inner := &locals{outer: &locals{outer: in, name: e.KeyVar, size: size}, name: e.ValVar, size: size}
		n := c.size(e.ValExpr, inner)
		if e.KeyExpr != nil {
			n += c.size(e.KeyExpr, inner)
		}
		if e.CondExpr != nil {
			n += c.size(e.CondExpr, inner)
		}
		return n
	})
}

func (c *coster) splat(e *hclsyntax.SplatExpr, in *locals) int {
	coll := c.size(e.Source, in)
	if c.anon == nil {
		c.anon = map[*hclsyntax.AnonSymbolExpr]int{}
	}
	return c.repeat(coll, c.width(e.Source, coll), func(size int) int {
		c.anon[e.Item] = size
		return c.size(e.Each, in)
	})
}

func (c *coster) repeat(coll, width int, body func(size int) int) int {
	if c.loops++; c.loops > maxLoops {
		c.trouble = fmt.Sprintf("more than %d loops inside each other", maxLoops)
		return 1
	}
	once, constant := body(coll), body(0)
	c.loops--
	return capped(coll + once + capped(width)*constant)
}

// width is how many elements a collection has at most.
func (c *coster) width(e hclsyntax.Expression, size int) int {
	switch e := e.(type) {
	case *hclsyntax.TupleConsExpr:
		return len(e.Exprs)
	case *hclsyntax.ObjectConsExpr:
		return len(e.Items)
	case *hclsyntax.ScopeTraversalExpr:
		return min(size, assumedAll)
	}
	return size
}

// call knows the functions whose result is larger than what they are given.
func (c *coster) call(e *hclsyntax.FunctionCallExpr, in *locals) int {
	args := make([]int, len(e.Args))
	sum := 1
	for i, a := range e.Args {
		args[i] = c.size(a, in)
		sum = capped(sum + args[i])
	}
	switch {
	case e.Name == "replace" && len(args) == 3:
		return capped(sum + capped(args[0])*capped(args[2]))
	case e.Name == "join" && len(args) > 1:
		return capped(sum + capped(args[0])*capped(sum))
	case e.Name == "format":
		return c.format(e, sum)
	case e.Name == "jsonencode":
		return capped(8 * sum)
	case e.Name == "upper" || e.Name == "lower":
		return capped(3 * sum)
	}
	return sum
}

// format may repeat an argument and fill up to a width, so its first argument must be plain to see.
func (c *coster) format(e *hclsyntax.FunctionCallExpr, sum int) int {
	text, ok := literalText(e)
	if !ok {
		c.trouble = "the first argument of format must be a plain string"
		return 1
	}
	total, digits := 0, 0
	for _, b := range []byte(text) {
		if b < '0' || b > '9' {
			digits = 0
			continue
		}
		digits = capped(digits*10 + int(b-'0'))
		total = capped(total + digits)
	}
	return capped(sum*(1+strings.Count(text, "%")) + total)
}

func literalText(e *hclsyntax.FunctionCallExpr) (string, bool) {
	if len(e.Args) == 0 {
		return "", true // an error of its own
	}
	if len(hclsyntax.Variables(e.Args[0])) > 0 {
		return "", false
	}
	t, ok := e.Args[0].(*hclsyntax.TemplateExpr)
	if !ok || !t.IsStringLiteral() {
		return "", false
	}
	v, _ := t.Value(nil)
	return v.AsString(), true
}
