package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve runs handler on a Unix socket and returns its path.
func serve(t *testing.T, handler http.Handler) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "api") // short: a socket path holds 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "api.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: handler}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return socket
}

func TestRequestsReachTheirPaths(t *testing.T) {
	t.Parallel()
	var got []string
	c := NewClient(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(body)))
		switch r.URL.Path {
		case "/v1/ports", "/v1/history":
			io.WriteString(w, "[]")
		case "/v1/tokens":
			if r.Method == http.MethodGet {
				io.WriteString(w, "[]")
			} else {
				io.WriteString(w, `{"id":"i","token":"t"}`)
			}
		case "/v1/watch":
			io.WriteString(w, `{"done":true}`+"\n")
		default:
			io.WriteString(w, "{}")
		}
	})))
	ctx := t.Context()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	_, err := c.Version(ctx)
	check(err)
	_, err = c.Members(ctx)
	check(err)
	_, err = c.Status(ctx, "a b", true)
	check(err)
	_, err = c.Status(ctx, "default", false)
	check(err)
	_, err = c.Ports(ctx)
	check(err)
	_, err = c.History(ctx, "default", false)
	check(err)
	_, err = c.Tokens(ctx)
	check(err)
	_, err = c.CreateToken(ctx, TokenRequest{Role: "node"})
	check(err)
	check(c.RevokeToken(ctx, "a/b"))
	_, err = c.Missing(ctx, []string{"00"})
	check(err)
	check(c.PutObjects(ctx, strings.NewReader("frames")))
	check(c.Abort(ctx, AbortRequest{System: "s"}))
	for _, err := range c.Watch(ctx, "default", 7) {
		check(err)
	}
	for range c.Logs(ctx, LogQuery{Service: "web", Tail: 5, Since: time.Unix(0, 0)}) {
	}
	for range c.Events(ctx, EventQuery{Tail: 3}) {
	}
	want := []string{
		"GET /v1/version", "GET /v1/members", "GET /v1/status?consistent=1&system=a+b", "GET /v1/status?system=default",
		"GET /v1/ports", "GET /v1/history?system=default", "GET /v1/tokens",
		`POST /v1/tokens {"role":"node","uses":0,"ttl":0,"by":""}`, "DELETE /v1/tokens/a%2Fb",
		`POST /v1/objects/missing {"ids":["00"]}`, "PUT /v1/objects frames",
		`POST /v1/abort {"system":"s","by":"","proposal":""}`, "GET /v1/watch?intent=7&system=default",
		"GET /v1/logs?service=web&since=1970-01-01T00%3A00%3A00Z&tail=5", "GET /v1/events?tail=3",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestMissingAsksInPortions(t *testing.T) {
	t.Parallel()
	var sizes []int
	c := NewClient(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var req MissingRequest
		json.NewDecoder(r.Body).Decode(&req)
		sizes = append(sizes, len(req.IDs))
		json.NewEncoder(w).Encode(MissingReply{IDs: req.IDs[:1]})
	})))
	ids := make([]string, 2*maxMissing+1)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	missing, err := c.Missing(t.Context(), ids)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{maxMissing, maxMissing, 1}, sizes); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"0", "10000", "20000"}, missing); diff != "" {
		t.Error(diff)
	}
}

func TestErrorsComeBackTyped(t *testing.T) {
	t.Parallel()
	refusal := Error{Code: CodeStale, Message: "somebody deployed", Hint: "plan again", Where: "default"}
	c := NewClient(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/v1/deploy":
			w.WriteHeader(http.StatusConflict)
			json.NewEncoder(w).Encode(refusal)
		case "/v1/plan":
			w.WriteHeader(http.StatusBadGateway)
			io.WriteString(w, "<html>no</html>")
		case "/v1/logs":
			io.WriteString(w, `{"text":"one"}`+"\n\n"+`{"error":{"code":"not_found","message":"no such service"}}`+"\n")
		}
	})))
	_, err := c.Deploy(t.Context(), DeployRequest{})
	var e *Error
	if !errors.As(err, &e) || e.Code != refusal.Code || e.Hint != refusal.Hint || e.Where != refusal.Where {
		t.Errorf("deploy: got %#v", err)
	}
	_, err = c.Plan(t.Context(), PlanRequest{})
	if CodeOf(err) != CodeFailed || !strings.Contains(err.Error(), "502 Bad Gateway: <html>") {
		t.Errorf("plan: got %v", err)
	}
	var texts []string
	for line, lineErr := range c.Logs(t.Context(), LogQuery{}) {
		if texts, err = append(texts, line.Text), lineErr; err != nil {
			break
		}
	}
	if len(texts) != 2 || CodeOf(err) != CodeNotFound {
		t.Errorf("logs: got %q, %v", texts, err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct{ socket, says string }{
		"none":    {filepath.Join(dir, "no.sock"), "no node listens"},
		"refused": {file, "not running"},
		"long":    {"/" + strings.Repeat("x", 200), "longer than 107 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := NewClient(tc.socket).Members(t.Context())
			var e *Error
			if !errors.As(err, &e) || e.Code != CodeUnreachable || e.Hint == "" || !strings.Contains(e.Message, tc.says) {
				t.Errorf("got %#v", err)
			}
		})
	}
}

func TestCallerEndsTheRequest(t *testing.T) {
	t.Parallel()
	entered := make(chan struct{})
	c := NewClient(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(entered)
		<-r.Context().Done()
	})))
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-entered; cancel() }()
	if _, err := c.Members(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestStreamThatBreaks(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"between lines": `{"outcome":"running"}` + "\n",
		"within a line": `{"outcome":"running"}` + "\n" + `{"outc`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := NewClient(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, body)
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			})))
			events, last := 0, error(nil)
			for _, err := range c.Watch(t.Context(), "default", 1) {
				if last = err; err == nil {
					events++
				}
			}
			if events != 1 || CodeOf(last) != CodeUnreachable {
				t.Errorf("got %d events, then %v", events, last)
			}
		})
	}
}

// A process that was stopped (SIGSTOP) keeps its connections: only a question shows that it is gone.
func TestSilentStreamOfADeadNode(t *testing.T) {
	t.Parallel()
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	c := NewClient(serve(t, http.HandlerFunc(hang)))
	c.quiet, c.probe = 20*time.Millisecond, 20*time.Millisecond
	for _, err := range c.Events(t.Context(), EventQuery{Follow: true}) {
		if CodeOf(err) != CodeUnreachable {
			t.Errorf("got %v", err)
		}
	}
}

func TestSilentStreamOfALiveNodeGoesOn(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{}, 100)
	c := NewClient(serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/version" {
			io.WriteString(w, "{}")
			asked <- struct{}{}
			return
		}
		w.(http.Flusher).Flush()
		for range 3 {
			<-asked
		}
		io.WriteString(w, `{"message":"late"}`+"\n")
	})))
	c.quiet = 20 * time.Millisecond
	for ev, err := range c.Events(t.Context(), EventQuery{Follow: true}) {
		if err != nil || ev.Message != "late" {
			t.Errorf("got %+v, %v", ev, err)
		}
		break
	}
}

func FuzzReadLine(f *testing.F) {
	f.Add("a\n\nb\n", 10)
	f.Add("\r\n{}", 1)
	f.Add(strings.Repeat("x", 5000)+"\n", 4096)
	f.Fuzz(func(t *testing.T, text string, limit int) {
		r := bufio.NewReaderSize(strings.NewReader(text), 16)
		for {
			line, err := readLine(r, limit)
			if err != nil {
				return
			}
			if len(line) == 0 || len(line) > limit || strings.ContainsRune(string(line), '\n') {
				t.Fatalf("line %q with limit %d", line, limit)
			}
		}
	})
}
