package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/json"
)

// Known is what a model may use that it does not define itself.
type Known struct {
	Modules []string // names of the modules that there are: the values of a service's type
}

// Parse reads and validates a model: the *.hcl and *.hcl.json files of a Source, as a whole. The order of files and
// of blocks in them means nothing. With errors among the diagnostics the model is nil; there may be warnings beside
// a model. A source beyond the limits of this package is refused, whatever is in it.
func Parse(src Source, known Known) (m *Model, diags Diagnostics) {
	defer func() {
		if cause := recover(); cause != nil { // the library must not bring down every leader in turn
			m, diags = nil, Diagnostics{{Severity: SeverityError, Summary: fmt.Sprintf("the model cannot be read: %v", cause),
				Hint: "Write what was changed last more simply, and report this."}}
		}
	}()
	return parseSource(src, known)
}

func parseSource(src Source, known Known) (*Model, Diagnostics) {
	p := newParser(src, known)
	if files := p.readFiles(); !p.failed() {
		p.readInventories()
		p.decode(files)
		p.validate()
	}
	if p.failed() {
		return nil, p.rep.result()
	}
	return p.model, p.rep.result()
}

// parser turns one Source into a Model.
type parser struct {
	src      Source
	known    Known
	rep      *reporter
	model    *Model
	services map[string]*serviceDecl // by name; of two with one name the first
	nodes    map[string]*NodeDecl
	common   []common             // constraints of the distribution
	once     map[string]hcl.Range // blocks that may stand once, by how they begin
}

func newParser(src Source, known Known) *parser {
	return &parser{
		src: src, known: known, rep: &reporter{},
		model:    &Model{IDs: map[string]IDRanges{}, Inventory: map[string]*NodeDecl{}, Distribution: emptyDistribution()},
		services: map[string]*serviceDecl{}, nodes: map[string]*NodeDecl{}, once: map[string]hcl.Range{},
	}
}

func (p *parser) failed() bool { return p.rep.dropped > 0 || p.rep.list.HasErrors() }

// readFiles parses the syntax of all files. What they mean is looked at only when all are well-formed.
func (p *parser) readFiles() []*hcl.File {
	total := 0
	for _, text := range p.src.Files {
		total += len(text)
	}
	if total > MaxSourceBytes {
		p.rep.fail(noRange, "Put what is not configuration into packages.", "the model has %d bytes, more than the %d there may be", total, MaxSourceBytes)
		return nil
	}
	var files []*hcl.File
	for _, name := range sortedKeys(p.src.Files) {
		switch {
		case strings.HasSuffix(name, ".hcl"):
			files = append(files, p.readNative(name))
		case strings.HasSuffix(name, ".hcl.json"):
			files = append(files, p.readJSON(name))
		}
	}
	if len(files) == 0 {
		p.rep.fail(noRange, "Write services.hcl, or give the directory that holds the model.", "there is no model: no *.hcl or *.hcl.json file")
	}
	return files
}

func (p *parser) readNative(name string) *hcl.File {
	text := p.src.Files[name]
	tokens, _ := hclsyntax.LexConfig(text, name, hcl.InitialPos)
	if !checkTokens(tokens, p.rep) {
		return nil
	}
	f, diags := hclsyntax.ParseConfig(text, name, hcl.InitialPos)
	p.rep.addHCL(firstSyntaxError(diags))
	return f
}

func (p *parser) readJSON(name string) *hcl.File {
	text := p.src.Files[name]
	if !checkJSON(text, name, p.rep) {
		return nil
	}
	f, diags := json.Parse(text, name)
	p.rep.addHCL(firstSyntaxError(diags))
	return f
}

// firstSyntaxError leaves out what comes after the first syntax error of a file: it mostly follows from it. What is
// only there twice is told beside it.
func firstSyntaxError(diags hcl.Diagnostics) hcl.Diagnostics {
	var out hcl.Diagnostics
	var first *hcl.Diagnostic
	for _, d := range diags {
		switch {
		case d.Severity != hcl.DiagError || d.Subject == nil || d.Summary == "Attribute redefined":
			out = append(out, d)
		case first == nil || d.Subject.Start.Byte < first.Subject.Start.Byte:
			first = d
		}
	}
	if first != nil {
		out = append(out, first)
	}
	return out
}

// decode reads the blocks of all files into the model.
func (p *parser) decode(files []*hcl.File) {
	var blocks []block
	services := 0
	for _, f := range files {
		top := p.content(f.Body, schema{what: "a model", blocks: map[string]string{
			"service": "NAME", "node": "NAME", "ids": "RESOURCE", "distribution": ""}})
		blocks = append(blocks, top.blocks...)
	}
	for _, b := range blocks {
		if b.kind == "service" {
			services++
		}
		if services > MaxServices {
			p.rep.fail(b.at, "Split it into several systems.", "the model has more than the %d services there may be", MaxServices)
			return
		}
	}
	for _, b := range blocks {
		switch b.kind {
		case "service":
			p.service(b)
		case "node":
			p.node(b)
		case "ids":
			p.ids(b)
		case "distribution":
			p.distribution(b)
		}
	}
	slices.SortFunc(p.model.Services, func(a, b *Service) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(p.model.Nodes, func(a, b *NodeDecl) int { return strings.Compare(a.Name, b.Name) })
}

// first notes a block of which there may be one, and refuses the second.
func (p *parser) first(b block, what string) bool {
	return p.firstOf(p.once, b, what)
}

func (p *parser) firstOf(seen map[string]hcl.Range, b block, what string) bool {
	before, twice := seen[what]
	if !twice {
		seen[what] = b.at
		return true
	}
	hint := "Put both into one block."
	if b.name.text != "" && b.kind != "ids" {
		hint = "Rename or remove one of the two."
	}
	p.rep.add(Diagnostic{Summary: fmt.Sprintf("%s is there twice", what), Hint: hint, Subject: place(b.at),
		Related: []Range{noted(before, "the first")}})
	return false
}

// checkName says whether a block's label can be a name: a DNS label, as it becomes part of addresses and paths.
func (p *parser) checkName(what string, name located) bool {
	if validName(name.text) {
		return true
	}
	summary := fmt.Sprintf("%q cannot be the name of a %s", name.text, what)
	hint := NameHint
	if len(name.text) > MaxNameLength {
		summary = fmt.Sprintf("the name of a %s has %d characters, more than %d", what, len(name.text), MaxNameLength)
	} else if s := nearestName(name.text); s != "" {
		hint += fmt.Sprintf(" Use %q?", s)
	}
	p.rep.fail(name.at, hint, "%s", summary)
	return false
}

// NameHint says what a name may be.
const NameHint = "A name is 1 to 63 characters: a to z, 0 to 9 and, inside, hyphens."

// ValidSystem says whether a system may have a name. It is part of keys in State and of paths on disk.
func ValidSystem(name string) bool { return validName(name) }

func validName(s string) bool {
	if s == "" || len(s) > MaxNameLength || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// nearestName makes a valid name of an invalid one; "" where that would not be recognised.
func nearestName(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '_' || r == '.' || r == ' ' {
			return '-'
		}
		return r
	}, strings.ToLower(s))
	if s = strings.Trim(s, "-"); validName(s) {
		return s
	}
	return ""
}
