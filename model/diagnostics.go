package model

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"

	"github.com/hashicorp/hcl/v2"
)

// Severity says whether a Diagnostic stops what was asked for.
type Severity string

// A Diagnostic is an error or a warning.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Range is a place in a Source. Lines and columns count from 1, columns in characters as a person sees them.
// The zero Range is "nowhere": a problem that lies in no file.
type Range struct {
	File      string `json:"file,omitempty"`
	Line      int    `json:"line,omitempty"`
	Column    int    `json:"column,omitempty"`
	EndColumn int    `json:"end_column,omitempty"` // the first column after it; not above Column means the rest of the line
	Note      string `json:"note,omitempty"`       // what is there; only in Related
}

// String is "FILE:LINE:COLUMN", which editors and terminals follow; "" for the zero Range.
func (r Range) String() string {
	if r.File == "" {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d", r.File, r.Line, r.Column)
}

// Diagnostic is one thing that is wrong with a model: what, where, and the way out.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Summary  string   `json:"summary"`          // one line, lower case, no full stop
	Detail   string   `json:"detail,omitempty"` // why, in sentences
	Hint     string   `json:"hint,omitempty"`   // the way out, in sentences
	Subject  Range    `json:"subject"`
	Related  []Range  `json:"related,omitempty"` // other places that take part, each with a Note
}

// Diagnostics are sorted by file, line and column, so that they do not depend on the order of maps or files.
type Diagnostics []Diagnostic

// HasErrors says whether there is an error, not only warnings.
func (d Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(d, func(x Diagnostic) bool { return x.Severity != SeverityWarning })
}

// Error has a line for each diagnostic: its place and summary.
func (d Diagnostics) Error() string {
	lines := make([]string, len(d))
	for i, x := range d {
		lines[i] = strings.TrimPrefix(x.Subject.String()+": "+printable(x.Summary), ": ")
	}
	return strings.Join(lines, "\n")
}

// maxDiagnostics is how many problems are told at once: more help nobody, and a broken file could have millions.
const maxDiagnostics = 100

// reporter collects diagnostics up to a limit.
type reporter struct {
	list    Diagnostics
	dropped int
}

func (r *reporter) add(d Diagnostic) {
	if r.full() {
		r.dropped++
		return
	}
	if d.Severity == "" {
		d.Severity = SeverityError
	}
	d.Summary, d.Detail, d.Hint = clip(d.Summary), clip(d.Detail), clip(d.Hint)
	r.list = append(r.list, d)
}

// full says that nothing more is told, so that no time need be spent on suggestions.
func (r *reporter) full() bool { return len(r.list) >= maxDiagnostics }

func (r *reporter) fail(at hcl.Range, hint, format string, args ...any) {
	r.add(Diagnostic{Summary: fmt.Sprintf(format, args...), Hint: hint, Subject: place(at)})
}

// addHCL takes over what the HCL library found.
func (r *reporter) addHCL(diags hcl.Diagnostics) {
	for _, d := range diags {
		r.add(fromHCL(d))
	}
}

// result is what was collected, in order and without repetitions.
func (r *reporter) result() Diagnostics {
	slices.SortStableFunc(r.list, func(a, b Diagnostic) int {
		return cmp.Or(cmp.Compare(a.Subject.File, b.Subject.File), a.Subject.Line-b.Subject.Line, a.Subject.Column-b.Subject.Column,
			cmp.Compare(a.Severity, b.Severity), cmp.Compare(a.Summary, b.Summary))
	})
	out := slices.CompactFunc(r.list, func(a, b Diagnostic) bool { return a.Subject == b.Subject && a.Summary == b.Summary })
	if r.dropped > 0 {
		out = append(out, Diagnostic{Severity: SeverityError, Summary: fmt.Sprintf("there are %d more problems", r.dropped),
			Hint: "Correct those above first; many of the others may come from them."})
	}
	return out
}

// clip keeps a text that quotes a model from being as large as the model.
func clip(s string) string {
	const most = 2000
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + " ..."
}

// place is a position in HCL's terms as a Range.
func place(r hcl.Range) Range {
	out := Range{File: r.Filename, Line: r.Start.Line, Column: r.Start.Column}
	if r.End.Line == r.Start.Line {
		out.EndColumn = r.End.Column
	}
	return out
}

func noted(r hcl.Range, format string, args ...any) Range {
	out := place(r)
	out.Note = fmt.Sprintf(format, args...)
	return out
}

// Text writes the diagnostics for a person: the place, the line with carets below what is meant, and the way out.
// Width is the columns there are, 0 for no limit; color adds ANSI sequences.
//
//	services.hcl:12:26: error: there is no service "staf"
//	   12 |   depends_on = { staff = "staf" }
//	      |                          ^^^^^^
//	  hint: Did you mean "staff"?
func (d Diagnostics) Text(src Source, width int, color bool) string {
	w := textWriter{src: src, width: width, color: color}
	for i, x := range d {
		if i > 0 {
			w.out.WriteByte('\n')
		}
		w.diagnostic(x)
	}
	return w.out.String()
}

// textWriter renders diagnostics.
type textWriter struct {
	src   Source
	width int
	color bool
	out   strings.Builder
}

func (w *textWriter) diagnostic(d Diagnostic) {
	head := w.paint("1;31", "error")
	if d.Severity == SeverityWarning {
		head = w.paint("1;33", "warning")
	}
	if d.Subject.File != "" {
		head = w.paint("1", printable(d.Subject.String())) + ": " + head
	}
	w.out.WriteString(head + ": " + w.paint("1", printable(d.Summary)) + "\n")
	w.snippet(d.Subject, "31")
	w.paragraph(d.Detail, "")
	for _, r := range d.Related {
		w.out.WriteString("  " + w.paint("1", printable(r.String())) + ": " + printable(r.Note) + "\n")
		w.snippet(r, "36")
	}
	if d.Hint != "" {
		w.paragraph("hint: "+d.Hint, "32")
	}
}

// snippet shows a line of the source and marks the range in it.
func (w *textWriter) snippet(r Range, color string) {
	line, ok := sourceLine(w.src.Files[r.File], r.Line)
	if !ok {
		return
	}
	cells := characters(line)
	from := min(max(r.Column-1, 0), len(cells))
	to := len(cells)
	if r.EndColumn > r.Column {
		to = min(r.EndColumn-1, len(cells))
	}
	cells, from, to = w.window(cells, from, to)
	number := fmt.Sprintf("%5d", r.Line)
	w.out.WriteString(w.paint("2", number+" |") + " " + strings.Join(cells, "") + "\n")
	w.out.WriteString(w.paint("2", "      |") + strings.Repeat(" ", columns(cells[:from])+1) +
		w.paint(color, strings.Repeat("^", max(1, columns(cells[from:to])))) + "\n")
}

// window cuts a line to what fits, keeping the start of the marked part in sight.
func (w *textWriter) window(cells []string, from, to int) ([]string, int, int) {
	room := 240 // a line that nobody would read to its end
	if w.width > 0 {
		room = max(w.width-8, 20)
	}
	if columns(cells) <= room {
		return cells, from, to
	}
	start := 0
	if columns(cells[:from]) > room*2/3 {
		for start < from && columns(cells[start:from]) > room/3 {
			start++
		}
	}
	end, used := start, 0
	for end < len(cells) && used+columns(cells[end:end+1]) <= room-6 {
		used += columns(cells[end : end+1])
		end++
	}
	cut := slices.Clone(cells[start:end])
	from, to = min(from, end)-start, min(to, end)-start
	if start > 0 {
		cut, from, to = slices.Insert(cut, 0, "..."), from+1, to+1
	}
	if end < len(cells) {
		cut = append(cut, "...")
	}
	return cut, from, to
}

// paragraph writes indented text, broken between words where there is a width.
func (w *textWriter) paragraph(text, color string) {
	const indent = "  "
	for _, par := range strings.Split(text, "\n") {
		line := ""
		for _, word := range strings.Fields(printable(par)) {
			if line != "" && w.width > 0 && columns(characters(indent+line+" "+word)) > max(w.width, 20) {
				w.out.WriteString(indent + w.paint(color, line) + "\n")
				line = ""
			}
			line = strings.TrimPrefix(line+" "+word, " ")
		}
		if line != "" {
			w.out.WriteString(indent + w.paint(color, line) + "\n")
		}
	}
}

func (w *textWriter) paint(code, s string) string {
	if !w.color || code == "" || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// sourceLine is a line by its number from 1, without its end.
func sourceLine(file []byte, number int) (string, bool) {
	rest := string(file)
	for n := 1; number > 0; n++ {
		line, after, more := strings.Cut(rest, "\n")
		if n == number {
			return strings.TrimSuffix(line, "\r"), file != nil
		}
		if !more {
			break
		}
		rest = after
	}
	return "", false
}

// characters splits a line into what a person sees as one character each, made safe for a terminal: a mark belongs to
// the letter before it, a tab is one space, a control character shows as a box.
func characters(line string) []string {
	var out []string
	joined := false
	for _, r := range line {
		mark := unicode.In(r, unicode.Mn, unicode.Me, unicode.Mc) || r == '\u200d'
		if len(out) > 0 && (mark || joined) {
			out[len(out)-1] += string(r)
		} else {
			out = append(out, visible(r))
		}
		joined = r == '\u200d'
	}
	return out
}

// columns is how many columns of a terminal characters take.
func columns(cells []string) int {
	n := 0
	for _, c := range cells {
		if c == "..." {
			n += 2
		}
		for _, r := range c {
			if n++; wide(r) {
				n++
			}
			break
		}
	}
	return n
}

// wide says whether a terminal gives two columns to the rune: the usual blocks of East Asian and pictorial writing.
func wide(r rune) bool {
	return r >= 0x1100 && r <= 0x115f || r >= 0x2e80 && r <= 0xa4cf || r >= 0xac00 && r <= 0xd7a3 ||
		r >= 0xf900 && r <= 0xfaff || r >= 0xfe30 && r <= 0xfe6f || r >= 0xff00 && r <= 0xff60 ||
		r >= 0xffe0 && r <= 0xffe6 || r >= 0x1f300 && r <= 0x1faff || r >= 0x20000 && r <= 0x3fffd
}

func visible(r rune) string {
	switch {
	case r == '\t':
		return " "
	case unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || r == '\u2028' || r == '\u2029':
		return "\u25a1"
	}
	return string(r)
}

// printable makes a text that quotes a model safe for a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' {
			return ' '
		}
		return []rune(visible(r))[0]
	}, s)
}
