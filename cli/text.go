package cli

import (
	"fmt"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// painter colours text, or leaves it as it is.
type painter struct{ on bool }

func (p painter) wrap(code, text string) string {
	if !p.on || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p painter) bold(text string) string   { return p.wrap("1", text) }
func (p painter) dim(text string) string    { return p.wrap("2", text) }
func (p painter) red(text string) string    { return p.wrap("31", text) }
func (p painter) green(text string) string  { return p.wrap("32", text) }
func (p painter) yellow(text string) string { return p.wrap("33", text) }
func (p painter) cyan(text string) string   { return p.wrap("36", text) }

// controlSequence is what terminals obey: an escape with its parameters, as in ECMA-48.
var controlSequence = regexp.MustCompile(`\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|.)?`)

// cleanText removes what could drive a terminal: services write what they like, and so may whoever named them.
func cleanText(text string) string {
	if !strings.ContainsFunc(text, unicode.IsControl) {
		return text
	}
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return -1
	}, controlSequence.ReplaceAllString(text, ""))
}

// oneLine is cleanText on a single line.
func oneLine(text string) string {
	return strings.Join(strings.Fields(cleanText(text)), " ")
}

// indent puts prefix before every line and ends the last one.
func indent(text, prefix string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.Trim(text, "\n"), "\n") {
		b.WriteString(prefix + line + "\n")
	}
	return b.String()
}

// duration is a length of time as people say it: in its largest unit, below ten with the next one.
func duration(d time.Duration) string {
	seconds, minutes, hours := int(d.Seconds()), int(d.Minutes()), int(d.Hours())
	switch {
	case d < 0:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", seconds)
	case d < time.Hour:
		return twoUnits(minutes, "m", seconds%60, "s")
	case d < 48*time.Hour:
		return twoUnits(hours, "h", minutes%60, "m")
	}
	return fmt.Sprintf("%dd", hours/24)
}

func twoUnits(large int, unit string, small int, smallUnit string) string {
	if large >= 10 || small == 0 {
		return fmt.Sprintf("%d%s", large, unit)
	}
	return fmt.Sprintf("%d%s%02d%s", large, unit, small, smallUnit)
}

// ago is how long t is past, "" for the zero time.
func ago(now, t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return duration(now.Sub(t))
}

// byteSize is a size in the unit that leaves one to three digits.
func byteSize(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n), "kMGTPE"
	for {
		value /= 1000
		if value < 999.95 || len(units) == 1 {
			return fmt.Sprintf("%.1f %cB", value, units[0])
		}
		units = units[1:]
	}
}

// count is "1 service", "2 services".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// table aligns columns. Unlike text/tabwriter it knows colours, which take no room, and folds the last column at
// the width of the terminal.
type table struct {
	indent string
	names  []cell // of the columns, if they are shown
	rows   [][]cell
}

// cell is one entry: plain text, painted when it is written.
type cell struct {
	text  string
	paint func(string) string // nil leaves it
}

func plain(text string) cell { return cell{text: text} }

// row adds a line. Every row has the same number of cells.
func (t *table) row(cells ...cell) {
	for i := range cells {
		cells[i].text = oneLine(cells[i].text)
	}
	t.rows = append(t.rows, cells)
}

// head names the columns. One that is empty in all rows is left out.
func (t *table) head(p painter, names ...string) {
	for _, name := range names {
		t.names = append(t.names, cell{name, p.bold})
	}
}

// render lays the table out; width 0 never folds.
func (t *table) render(width int) string {
	widths := t.columnWidths()
	var b strings.Builder
	if t.names != nil {
		b.WriteString(t.renderRow(t.names, widths, width))
	}
	for _, row := range t.rows {
		b.WriteString(t.renderRow(row, widths, width))
	}
	return b.String()
}

// columnWidths measures the columns, names included; 0 for one that is empty in all rows.
func (t *table) columnWidths() []int {
	if len(t.rows) == 0 {
		return make([]int, len(t.names))
	}
	widths := make([]int, len(t.rows[0]))
	for i := range widths {
		for _, row := range t.rows {
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i].text))
		}
		if widths[i] > 0 && t.names != nil {
			widths[i] = max(widths[i], len(t.names[i].text))
		}
	}
	return widths
}

// minFold is the narrowest last column that is folded, in runes.
const minFold = 12

func (t *table) renderRow(row []cell, widths []int, width int) string {
	line, used, pad := t.indent, len(t.indent), 0
	for i, w := range widths[:len(widths)-1] {
		if w == 0 {
			continue
		}
		line += strings.Repeat(" ", pad) + row[i].painted()
		pad = w - utf8.RuneCountInString(row[i].text) + 2
		used += w + 2
	}
	last := row[len(row)-1]
	if last.text == "" || widths[len(widths)-1] == 0 {
		return strings.TrimRight(line, " ") + "\n"
	}
	room := 0
	if width-used >= minFold { // else the terminal breaks the whole line, as it does without columns
		room = width - used
	}
	for i, part := range fold(last.text, room) {
		if i > 0 {
			line, pad = line+"\n", used
		}
		line += strings.Repeat(" ", pad) + cell{part, last.paint}.painted()
	}
	return line + "\n"
}

func (c cell) painted() string {
	if c.paint == nil {
		return c.text
	}
	return c.paint(c.text)
}

// fold breaks text between words into lines of at most width runes; 0 never breaks. A longer word stands alone.
func fold(text string, width int) []string {
	if width <= 0 || utf8.RuneCountInString(text) <= width {
		return []string{text}
	}
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && utf8.RuneCountInString(line)+1+utf8.RuneCountInString(word) > width {
			lines, line = append(lines, line), ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	return append(lines, line)
}
