package model

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// schema is what may stand in a body.
type schema struct {
	what   string            // for messages: `service "web"`
	attrs  []string          // attributes
	blocks map[string]string // blocks, with what their label is called; "" for those without
	later  []string          // blocks that a later version knows
	open   bool              // any attribute
}

// content is what does stand in a body.
type content struct {
	what   string
	attrs  map[string]*attribute
	blocks []block
}

// attribute is NAME = VALUE.
type attribute struct {
	name   string
	nameAt hcl.Range
	expr   hclsyntax.Expression
}

// block is KIND "NAME" { ... }.
type block struct {
	kind string
	name located // its label, where it has one
	body hcl.Body
	at   hcl.Range // its header
}

// located is a text with its place.
type located struct {
	text string
	at   hcl.Range
}

// content reads a body and explains what does not belong there.
func (p *parser) content(body hcl.Body, s schema) content {
	if native, ok := body.(*hclsyntax.Body); ok {
		return p.nativeContent(native, s)
	}
	return p.jsonContent(body, s)
}

func (p *parser) nativeContent(body *hclsyntax.Body, s schema) content {
	c := content{what: s.what, attrs: map[string]*attribute{}}
	for _, name := range sortedKeys(body.Attributes) {
		a := body.Attributes[name]
		if s.open || slices.Contains(s.attrs, name) {
			c.attrs[name] = &attribute{name: name, nameAt: a.NameRange, expr: a.Expr}
			continue
		}
		p.stray(s, name, a.NameRange, false)
	}
	for _, b := range body.Blocks {
		label, known := s.blocks[b.Type]
		switch {
		case !known:
			p.stray(s, b.Type, b.TypeRange, true)
		case label == "" && len(b.Labels) > 0:
			p.rep.fail(b.LabelRanges[0], fmt.Sprintf("Write %s { ... }.", b.Type), "block %s has no name", b.Type)
		case label != "" && len(b.Labels) != 1:
			p.rep.fail(b.DefRange(), fmt.Sprintf("Write %s %q { ... }.", b.Type, label), "block %s needs one name, and has %d", b.Type, len(b.Labels))
		default:
			x := block{kind: b.Type, body: b.Body, at: b.DefRange()}
			if label != "" {
				x.name = located{b.Labels[0], b.LabelRanges[0]}
			}
			c.blocks = append(c.blocks, x)
		}
	}
	return c
}

func (p *parser) jsonContent(body hcl.Body, s schema) content {
	if s.open {
		return p.jsonAttributes(body, s)
	}
	var hs hcl.BodySchema
	for _, name := range s.attrs {
		hs.Attributes = append(hs.Attributes, hcl.AttributeSchema{Name: name})
	}
	for _, name := range sortedKeys(s.blocks) {
		h := hcl.BlockHeaderSchema{Type: name}
		if s.blocks[name] != "" {
			h.LabelNames = []string{s.blocks[name]}
		}
		hs.Blocks = append(hs.Blocks, h)
	}
	found, diags := body.Content(&hs)
	for _, d := range diags {
		if d.Summary == "Extraneous JSON object property" {
			p.stray(s, p.quoted(*d.Subject), *d.Subject, false)
			continue
		}
		p.rep.add(fromHCL(d))
	}
	c := content{what: s.what, attrs: map[string]*attribute{}}
	for _, name := range sortedKeys(found.Attributes) {
		a := found.Attributes[name]
		c.attrs[name] = &attribute{name: name, nameAt: a.NameRange, expr: nativeExpr(a.Expr, p.rep)}
	}
	for _, b := range found.Blocks {
		x := block{kind: b.Type, body: b.Body, at: b.TypeRange}
		if len(b.Labels) > 0 {
			x.name, x.at = located{b.Labels[0], b.LabelRanges[0]}, b.LabelRanges[0]
		}
		c.blocks = append(c.blocks, x)
	}
	return c
}

// jsonAttributes reads a body that has any attributes, and nothing else.
func (p *parser) jsonAttributes(body hcl.Body, s schema) content {
	c := content{what: s.what, attrs: map[string]*attribute{}}
	found, diags := body.JustAttributes()
	p.rep.addHCL(diags)
	for _, name := range sortedKeys(found) {
		a := found[name]
		c.attrs[name] = &attribute{name: name, nameAt: a.NameRange, expr: nativeExpr(a.Expr, p.rep)}
	}
	return c
}

// quoted is the text between the quotes at a place.
func (p *parser) quoted(at hcl.Range) string {
	return strings.Trim(string(at.SliceBytes(p.src.Files[at.Filename])), `"`)
}

// stray explains a name that does not belong into a body.
func (p *parser) stray(s schema, name string, at hcl.Range, isBlock bool) {
	label, blockKnown := s.blocks[name]
	kind := "attribute"
	if isBlock {
		kind = "block"
	}
	switch {
	case p.rep.full():
		p.rep.dropped++
	case slices.Contains(s.later, name):
		p.rep.fail(at, fmt.Sprintf("Remove %s until a later version.", name), "%s is not available yet", name)
	case isBlock && slices.Contains(s.attrs, name):
		p.rep.fail(at, fmt.Sprintf("Write %s = ...", name), "%s is an attribute, not a block", name)
	case blockKnown && label != "":
		p.rep.fail(at, fmt.Sprintf("Write %s %q { ... }.", name, label), "%s is a block, not an attribute", name)
	case blockKnown:
		p.rep.fail(at, fmt.Sprintf("Write %s { ... }.", name), "%s is a block, not an attribute", name)
	default:
		known := slices.Concat(s.attrs, sortedKeys(s.blocks))
		p.rep.fail(at, WayOut(name, known, "Remove it: only NAME = VALUE may stand here."), "%s has no %s %q", s.what, kind, name)
	}
}

// fromHCL takes over a diagnostic of the HCL library, with a way out.
func fromHCL(d *hcl.Diagnostic) Diagnostic {
	out := Diagnostic{Severity: SeverityError, Summary: lowerFirst(d.Summary), Detail: d.Detail}
	if d.Severity == hcl.DiagWarning {
		out.Severity = SeverityWarning
	}
	if d.Subject != nil {
		out.Subject = place(*d.Subject)
	}
	if i := strings.LastIndex(out.Detail, "Did you mean"); i >= 0 {
		out.Detail, out.Hint = strings.TrimSpace(out.Detail[:i]), out.Detail[i:]
	}
	if at := redefined.FindStringSubmatch(out.Detail); at != nil {
		line, _ := strconv.Atoi(at[3])
		column, _ := strconv.Atoi(at[4])
		out.Summary, out.Detail = fmt.Sprintf("%s is set twice", at[1]), ""
		out.Related = []Range{{File: at[2], Line: line, Column: column, EndColumn: column + utf8.RuneCountInString(at[1]), Note: "the first"}}
	}
	if call, ok := hcl.DiagnosticExtra[hclsyntax.FunctionCallDiagExtra](d); ok && usage[call.CalledFunctionName()] != "" {
		out.Hint = "Write " + usage[call.CalledFunctionName()] + "."
	}
	switch {
	case out.Hint != "":
	case strings.HasSuffix(out.Subject.File, ".json"):
		out.Hint = "Correct the JSON here: names and texts in double quotes, commas between members and none after the last."
	default:
		out.Hint = hclHint(d.Summary)
	}
	return out
}

// redefined is what HCL says about an attribute that is there twice.
var redefined = regexp.MustCompile(`^The argument "([^"]*)" was already set at (.+):([0-9]+),([0-9]+)-`)

func lowerFirst(s string) string {
	if len(s) > 1 && strings.ToUpper(s[1:2]) == s[1:2] {
		return s // an abbreviation
	}
	return strings.ToLower(s[:min(1, len(s))]) + s[min(1, len(s)):]
}

// hclHint is the way out of the library's usual complaints, by words of their summaries.
func hclHint(summary string) string {
	for _, h := range []struct{ word, hint string }{
		{"redefined", "Remove one of the two."},
		{"Duplicate", "Remove one of the two."},
		{"Unclosed configuration", "Add the missing closing brace: }."},
		{"Unclosed template", "Close it with }, or write $${ for the two characters ${ themselves."},
		{"Unterminated template", `Add the closing quote: ".`},
		{"Invalid multi-line string", `Add the closing quote: ". Text of several lines is written as <<EOT ... EOT.`},
		{"Unterminated", "Close what is opened here."},
		{"Missing newline", "Begin a new line here."},
		{"Missing item separator", "Put a comma here: [a, b]."},
		{"Missing attribute separator", "Put a comma or a new line here: { a = 1, b = 2 }."},
		{"Invalid character encoding", "Save the file as UTF-8."},
		{"Invalid escape", `Write \\ for a backslash itself.`},
		{"Invalid block definition", `Write KIND "NAME" { ... } with the brace on the same line, or NAME = VALUE.`},
		{"rgument or block definition required", `Write NAME = VALUE or KIND "NAME" { ... }.`},
		{"Invalid argument name", "Write the name without quotes: NAME = VALUE."},
		{"Unsupported attribute", "Use an attribute that it has."},
		{"index", "Use an element that it has."},
		{"function", "Write FUNCTION(ARGUMENT, ...)."},
		{"conditional", "Make both results of one type."},
		{"condition", "Give a condition that is true or false."},
		{"Iteration", "Loop over a list or a map."},
		{"template interpolation", "Make a string of it first, as join(...) and jsonencode(...) do."},
		{"operand", "Use values that the operator can work on."},
	} {
		if strings.Contains(summary, h.word) {
			return h.hint
		}
	}
	return `Correct the syntax here: NAME = VALUE, KIND "NAME" { ... }, texts in double quotes, lists in brackets.`
}
