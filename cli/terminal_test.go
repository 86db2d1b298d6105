package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal makes a pseudo-terminal of 80 columns: what a person would hold, and what a program is given.
func openTerminal(t *testing.T) (person, program *os.File) {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo-terminals here: %v", err)
	}
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(program.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: 80}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { person.Close(); program.Close() })
	return person, program
}

// person sits before a terminal and sees what is written to it.
type person struct {
	terminal, program *os.File

	mu   sync.Mutex // guards seen
	seen bytes.Buffer
	gone chan struct{} // closed when the program's end of the terminal is
}

func newPerson(t *testing.T) *person {
	t.Helper()
	p := &person{gone: make(chan struct{})}
	p.terminal, p.program = openTerminal(t)
	go func() {
		defer close(p.gone)
		buf := make([]byte, 4096)
		for {
			n, err := p.terminal.Read(buf) // fails with EIO once the program's end is closed
			p.mu.Lock()
			p.seen.Write(buf[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *person) screen() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seen.String()
}

// await waits until text was seen.
func (p *person) await(t *testing.T, text string) {
	t.Helper()
	for range 2000 {
		if strings.Contains(p.screen(), text) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("never saw %q:\n%s", text, p.screen())
}

// run runs a command line of which input is typed ahead, and returns its exit code and all that was seen.
func (p *person) run(t *testing.T, n *fakeNode, input string, env map[string]string, args ...string) (code int, screen string) {
	t.Helper()
	env["ISONOMIA_NODE"] = n.socket
	c := newConsole(p.program, p.program, p.program, func(key string) string { return env[key] })
	if !c.canAsk || c.width != 80 {
		t.Fatalf("the terminal was not recognised: %+v", c)
	}
	if _, err := p.terminal.WriteString(input); err != nil {
		t.Fatal(err)
	}
	code = run(t.Context(), args, c)
	p.program.Close()
	<-p.gone
	return code, p.screen()
}

func TestPersonAtTerminal(t *testing.T) {
	t.Parallel()
	n, p := newDeployNode(t, nil), newPerson(t)
	shown := []string{"0/2", "starting staff", "1/2 starting web", ""}
	n.mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		for i, ev := range settledEvents() {
			json.NewEncoder(w).Encode(ev)
			w.(http.Flusher).Flush()
			p.await(t, shown[i]) // the bars are drawn at their own pace
		}
	})
	code, screen := p.run(t, n.fakeNode, "y\n", map[string]string{}, "rollback")
	if code != 0 {
		t.Errorf("exit code %d", code)
	}
	wantContains(t, screen, "Roll back? [y/N] ", "\x1b[33mrestart\x1b[0m", "rolling back [", "] 1/2 starting web", "  web on n2: \x1b[32mactive\x1b[0m", "\x1b[32mSettled\x1b[0m")
	if !strings.Contains(screen, "\x1b[1A\x1b[J\x1b[32mSettled") {
		t.Errorf("the bar is left behind: %q", screen)
	}
}

func TestNoColor(t *testing.T) {
	t.Parallel()
	for _, env := range []map[string]string{{"NO_COLOR": "1"}, {"TERM": "dumb"}} {
		n := newDeployNode(t, nil, settledEvents()...)
		code, screen := newPerson(t).run(t, n.fakeNode, "n\n", env, "rollback")
		if code != 1 || strings.Contains(screen, "\x1b[") {
			t.Errorf("%v: exit code %d, screen %q", env, code, screen)
		}
		wantContains(t, screen, "not agreed")
	}
}

func TestDumbTerminalGetsLines(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil, settledEvents()...)
	code, screen := newPerson(t).run(t, n.fakeNode, "y\n", map[string]string{"TERM": "dumb"}, "rollback")
	if code != 0 || strings.Contains(screen, "\x1b") {
		t.Errorf("exit code %d, screen %q", code, screen)
	}
	wantContains(t, screen, "Settled")
}
