package cli

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// display shows long work: lines that stay, and meters that move while it lasts. On a terminal the meters are bars
// below the lines; elsewhere there are only lines.
type display interface {
	// line shows text, which may hold several lines, for good.
	line(text string)
	// meter starts to show how far a piece of work is; call its end before the next.
	meter(name string) meter
	// close removes the meters. Nothing may be shown after it.
	close()
}

type meter interface {
	// set says how much of how much is done (total 0: not known) and what happens just now.
	set(current, total int64, note string)
	end()
}

func newDisplay(c *console) display {
	if c.live && !c.json {
		return &barDisplay{progress: mpb.New(mpb.WithOutput(c.out), mpb.WithWidth(30)), width: c.width}
	}
	return &lineDisplay{w: c.talk(), slow: slowWork}
}

// slowWork is how long a piece of work lasts before lineDisplay says that it is under way.
const slowWork = 2 * time.Second

// lineDisplay is for files, pipes and CI. Its meters say one line, and only if the work lasts.
type lineDisplay struct {
	mu   sync.Mutex // guards w
	w    io.Writer
	slow time.Duration
}

func (d *lineDisplay) line(text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fmt.Fprintln(d.w, text)
}

func (d *lineDisplay) meter(name string) meter {
	return lineMeter{time.AfterFunc(d.slow, func() { d.line("(" + name + ")") })}
}

func (d *lineDisplay) close() {}

type lineMeter struct{ timer *time.Timer }

func (m lineMeter) set(int64, int64, string) {}
func (m lineMeter) end()                     { m.timer.Stop() }

type noMeter struct{}

func (noMeter) set(int64, int64, string) {}
func (noMeter) end()                     {}

type barDisplay struct {
	progress *mpb.Progress
	width    int
}

// line is not ended by the bars' package when it is longer than the terminal, so it may take several rows; it stays
// above the bars all the same.
func (d *barDisplay) line(text string) {
	_, _ = io.WriteString(d.progress, text+"\n") // the terminal is gone: nothing to show, the work goes on
}

func (d *barDisplay) meter(name string) meter {
	m := &barMeter{}
	room := max(d.width-30-len(name)-16, 0) // bar, name, counters
	bar, err := d.progress.Add(0, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]").Build(),
		mpb.BarFillerTrim(), mpb.PrependDecorators(decor.Name(name+" ")),
		mpb.AppendDecorators(decor.Any(func(s decor.Statistics) string { return " " + m.text(s, room) })))
	if err != nil {
		return noMeter{} // the terminal is gone
	}
	m.bar = bar
	return m
}

func (d *barDisplay) close() { d.progress.Wait() }

type barMeter struct {
	bar  *mpb.Bar
	note atomic.Pointer[string]
}

func (m *barMeter) text(s decor.Statistics, room int) string {
	text := fmt.Sprint(s.Current)
	if s.Total > 0 {
		text = fmt.Sprintf("%d/%d", s.Current, s.Total)
	}
	if note := m.note.Load(); note != nil && *note != "" {
		text += " " + cut(*note, room)
	}
	return text
}

func (m *barMeter) set(current, total int64, note string) {
	m.note.Store(&note)
	m.bar.SetTotal(max(total, 0), false)
	m.bar.SetCurrent(current)
}

func (m *barMeter) end() { m.bar.Abort(true) }

// cut shortens text to room runes.
func cut(text string, room int) string {
	runes := []rune(text)
	if len(runes) <= room {
		return text
	}
	if room < 2 {
		return ""
	}
	return strings.TrimRight(string(runes[:room-1]), " ,") + "…"
}
