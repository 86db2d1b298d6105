package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/isonomia-mesh/isonomia/node"
	"github.com/isonomia-mesh/isonomia/node/api"
)

const plainWidth = 80 // columns, where a terminal does not say

// console is what a command reads and writes, and what it knows about the person at the other end.
type console struct {
	in       *bufio.Reader // one for all questions: what was typed ahead stays in it
	out, err io.Writer
	getenv   func(string) string
	now      func() time.Time

	live     bool // stdout is a terminal that can move its cursor: show bars, fold to its width
	canAsk   bool // stdin is a terminal and so is what shows the question
	colorOut bool
	colorErr bool
	width    int // columns of the terminal

	node string // --node
	json bool   // --json

	impatience time.Duration // bounds every retry; 0 leaves the constants
}

func newConsole(stdin io.Reader, stdout, stderr io.Writer, getenv func(string) string) *console {
	c := &console{in: bufio.NewReader(stdin), out: stdout, err: stderr, getenv: getenv, now: time.Now, width: plainWidth}
	var cols int
	cols, c.live = terminal(stdout)
	if c.live && cols > 0 {
		c.width = cols
	}
	_, errIsTerminal := terminal(stderr)
	_, inIsTerminal := terminal(stdin)
	c.canAsk = inIsTerminal && errIsTerminal
	dumb := getenv("TERM") == "dumb"
	c.live = c.live && !dumb
	color := getenv("NO_COLOR") == "" && !dumb
	c.colorOut, c.colorErr = c.live && color, errIsTerminal && color
	return c
}

// terminal says whether f is one, and how many columns it has (0 when it does not say).
func terminal(f any) (cols int, ok bool) {
	file, isFile := f.(*os.File)
	if !isFile || !term.IsTerminal(int(file.Fd())) {
		return 0, false
	}
	cols, _, _ = term.GetSize(int(file.Fd()))
	return cols, true
}

// wrapWidth is the width to break lines at: 0, never, where no terminal shows them.
func (c *console) wrapWidth() int {
	if !c.live {
		return 0
	}
	return c.width
}

// paint colours what goes to stdout.
func (c *console) paint() painter { return painter{c.colorOut} }

// talk is where to write what is for people only: stdout, or stderr when stdout carries JSON.
func (c *console) talk() io.Writer {
	if c.json {
		return c.err
	}
	return c.out
}

// sayf writes one line for people.
func (c *console) sayf(format string, args ...any) {
	fmt.Fprintf(c.talk(), format+"\n", args...)
}

// warn writes what an operator should know on stderr. Under --json the warning is in the answer.
func (c *console) warn(text string) {
	if text != "" && !c.json {
		fmt.Fprintf(c.err, "%s %s\n", painter{c.colorErr}.yellow("warning:"), cleanText(text))
	}
}

// printJSON writes one value, indented for people who look at it.
func (c *console) printJSON(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// printList is printJSON for a list, which is never null.
func printList[T any](c *console, list []T) error {
	if list == nil {
		list = []T{}
	}
	return c.printJSON(list)
}

// printLine writes one value on a line of its own: the form of streams.
func (c *console) printLine(v any) error { return json.NewEncoder(c.out).Encode(v) }

// ask puts a question on stderr that is answered with y or yes; everything else, the end of input too, means no.
// Without a terminal nobody can be asked, which is wrong usage.
func (c *console) ask(ctx context.Context, question string) (bool, error) {
	if !c.canAsk || c.json {
		return false, usagef("add --yes to go ahead without being asked", "nobody can be asked: %q needs a terminal", question)
	}
	fmt.Fprintf(c.err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() { // a read of a terminal cannot be interrupted; the process ends soon after ctx does
		line, _ := c.in.ReadString('\n')
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case <-ctx.Done():
		fmt.Fprintln(c.err)
		return false, ctx.Err()
	case line := <-answer:
		return line == "y" || line == "yes", nil
	}
}

// client makes the client for the node that --node, $ISONOMIA_NODE or the default names.
func (c *console) client() (*api.Client, error) {
	socket, err := c.socket()
	if err != nil {
		return nil, err
	}
	return api.NewClient(socket), nil
}

// socket finds the socket to speak to. A directory stands for the socket in it.
func (c *console) socket() (string, error) {
	path := c.node
	if path == "" {
		path = c.getenv("ISONOMIA_NODE")
	}
	if path == "" {
		return c.localSocket(), nil
	}
	path = strings.TrimPrefix(path, "unix:")
	if strings.HasPrefix(path, "https:") || strings.HasPrefix(path, "http:") {
		return "", usagef("give the path of a node's socket, for example /var/lib/isonomia/"+socketName, "node %q: nodes are reached through their Unix socket only", path)
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		path = filepath.Join(path, socketName)
	}
	return path, nil
}

const (
	socketName    = "api.sock"
	systemDataDir = "/var/lib/isonomia"
)

// localSocket is that of the user's own agent if it is there, else that of the machine's.
func (c *console) localSocket() string {
	own := filepath.Join(node.DefaultDir(), socketName)
	shared := filepath.Join(systemDataDir, socketName)
	if _, err := os.Stat(own); err != nil {
		if _, err := os.Stat(shared); err == nil {
			return shared
		}
	}
	return own
}

// operator says who asks, for the history: user@host, the person behind sudo included.
func (c *console) operator() string {
	name := c.getenv("SUDO_USER")
	if name == "" {
		if u, err := user.Current(); err == nil {
			name = u.Username
		} else {
			name = c.getenv("USER")
		}
	}
	host, err := os.Hostname()
	if err != nil {
		return name
	}
	return name + "@" + host
}
