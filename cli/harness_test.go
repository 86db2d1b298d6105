package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/isonomia-mesh/isonomia/node/api"
)

var update = flag.Bool("update", false, "write the golden files")

// epoch is what all tests believe the time to be.
var epoch = time.Date(2030, 1, 31, 12, 0, 0, 0, time.UTC)

// fakeNode answers a few paths of the API. It shows that the cli renders and retries as it should; that a real node
// says such things is the business of the tests with real nodes.
type fakeNode struct {
	socket string
	mux    *http.ServeMux

	mu       sync.Mutex
	requests []string // method and path, in order
}

func newFakeNode(t *testing.T) *fakeNode {
	t.Helper()
	dir, err := os.MkdirTemp("", "cli") // short: a socket path holds 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &fakeNode{socket: filepath.Join(dir, socketName), mux: http.NewServeMux()}
	n.listen(t)
	return n
}

// listen starts a server on the socket and returns what ends it.
func (n *fakeNode) listen(t *testing.T) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", n.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.mu.Lock()
		n.requests = append(n.requests, r.Method+" "+r.URL.Path)
		n.mu.Unlock()
		n.mux.ServeHTTP(w, r)
	})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return func() { srv.Close() }
}

// asked counts the requests to a path.
func (n *fakeNode) asked(request string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, r := range n.requests {
		if r == request {
			count++
		}
	}
	return count
}

// answer always gives the same JSON.
func (n *fakeNode) answer(pattern string, v any) {
	n.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v) })
}

// refuse always gives the same error.
func (n *fakeNode) refuse(pattern string, e api.Error) {
	n.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { writeError(w, e) })
}

func writeError(w http.ResponseWriter, e api.Error) {
	w.WriteHeader(http.StatusConflict)
	json.NewEncoder(w).Encode(e)
}

// stream gives the items, one a line.
func (n *fakeNode) stream(pattern string, items ...any) {
	n.mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		for _, item := range items {
			json.NewEncoder(w).Encode(item)
			w.(http.Flusher).Flush()
		}
	})
}

// outcome is what one command line led to.
type outcome struct {
	code     int
	out, err string
}

// invoke runs a command line against a node (nil for none) as from a script. prepare may change the console first.
func invoke(t *testing.T, n *fakeNode, args []string, prepare ...func(*console)) outcome {
	t.Helper()
	return invokeContext(t.Context(), n, args, prepare...)
}

func invokeContext(ctx context.Context, n *fakeNode, args []string, prepare ...func(*console)) outcome {
	var out, errs bytes.Buffer
	env := map[string]string{"USER": "alice", "HOME": "/nowhere", "XDG_STATE_HOME": "/nowhere"}
	if n != nil {
		env["ISONOMIA_NODE"] = n.socket
	} else {
		env["ISONOMIA_NODE"] = "/nowhere/api.sock"
	}
	c := newConsole(strings.NewReader(""), &out, &errs, func(key string) string { return env[key] })
	c.now = func() time.Time { return epoch }
	c.impatience = 300 * time.Millisecond
	for _, f := range prepare {
		f(c)
	}
	code := run(ctx, args, c)
	return outcome{code, out.String(), errs.String()}
}

// asTerminal makes the console believe that a person sits before it, who types text.
func asTerminal(text string) func(*console) {
	return func(c *console) { c.in, c.canAsk = bufio.NewReader(strings.NewReader(text)), true }
}

// golden compares got with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (write it with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", name, diff)
	}
}

func (o outcome) want(t *testing.T, code int) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d\nstdout:\n%s\nstderr:\n%s", o.code, code, o.out, o.err)
	}
}

func wantContains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("does not contain %q:\n%s", part, text)
		}
	}
}
