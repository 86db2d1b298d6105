package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// inFront runs the proxy in front of h.
func inFront(t *testing.T, h http.Handler) (proxy, behind *httptest.Server) {
	t.Helper()
	behind = httptest.NewServer(h)
	t.Cleanup(behind.Close)
	target, err := url.Parse(behind.URL)
	if err != nil {
		t.Fatal(err)
	}
	proxy = httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), target))
	t.Cleanup(proxy.Close)
	return proxy, behind
}

func read(t *testing.T, resp *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// TestPassesOn sees path, query, body, host and the visitor's address arrive.
func TestPassesOn(t *testing.T) {
	t.Parallel()
	proxy, _ := inFront(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusTeapot)
		io.WriteString(w, strings.Join([]string{r.Method, r.RequestURI, r.Host, r.Header.Get("X-Forwarded-For"), string(body)}, " "))
	}))
	req, err := http.NewRequest("POST", proxy.URL+"/a%2Fb?c=d", strings.NewReader("text"))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "staff.example"
	req.Header.Set("X-Forwarded-For", "6.6.6.6") // a lie
	resp, err := http.DefaultClient.Do(req)
	if status, body := read(t, resp, err); status != http.StatusTeapot || body != "POST /a%2Fb?c=d staff.example 127.0.0.1 text" {
		t.Errorf("%d %s", status, body)
	}
}

// TestNobodyBehind names who does not answer, and stays healthy.
func TestNobodyBehind(t *testing.T) {
	t.Parallel()
	proxy, behind := inFront(t, http.NotFoundHandler())
	behind.Close()
	resp, err := http.Get(proxy.URL + "/")
	if status, body := read(t, resp, err); status != http.StatusBadGateway || !strings.Contains(body, "<strong>stafftracker</strong> failed") {
		t.Errorf("%d %s", status, body)
	}
	resp, err = http.Get(proxy.URL + "/healthz")
	if status, _ := read(t, resp, err); status != http.StatusOK {
		t.Errorf("health: %d", status)
	}
}
