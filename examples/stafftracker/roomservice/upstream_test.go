package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// behind runs a service in front of a data service that answers with h.
func behind(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	data := httptest.NewServer(h)
	t.Cleanup(data.Close)
	rooms := &upstream{name: "rooms", base: data.URL, client: data.Client()}
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), rooms))
	t.Cleanup(srv.Close)
	return srv.URL
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, strings.TrimSpace(string(body))
}

// TestAnswers gives each kind of answer that an upstream may have.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		status     int
		body       string
		wantStatus int
		want       string
	}{
		{"a row", 200, `{"room":"A101","zipcode":"1011AB","more":1}`, 200, `{"room":"A101","zipcode":"1011AB"}`},
		{"no row", 404, `{"error":"no such row"}`, 404, `{"error":"not found"}`},
		{"a refusal", 400, `{"error":"invalid row"}`, 400, `{"error":"invalid row"}`},
		{"a fault", 500, `{"error":"disk I/O error"}`, 502, `{"error":"disk I/O error","service":"rooms"}`},
		{"blame", 502, `{"error":"gone","service":"disk"}`, 502, `{"error":"gone","service":"disk"}`},
		{"no JSON", 200, `<html>`, 502, `"service":"rooms"`},
		{"a fault without words", 503, `oops`, 502, `503 Service Unavailable`},
		{"somewhere else", 304, ``, 502, `points elsewhere`},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := behind(t, func(w http.ResponseWriter, r *http.Request) {
				w.WriteHeader(c.status)
				io.WriteString(w, c.body)
			})
			if status, body := get(t, url+"/rooms/A101"); status != c.wantStatus || !strings.Contains(body, c.want) {
				t.Errorf("%d %s, want %d %s", status, body, c.wantStatus, c.want)
			}
		})
	}
}

// TestEscapes asks for a room whose name is a path.
func TestEscapes(t *testing.T) {
	t.Parallel()
	url := behind(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.EscapedPath() != "/rows/a%2Fb%3Fc%20d" {
			t.Errorf("asked for %s", r.URL.EscapedPath())
		}
		io.WriteString(w, `{}`)
	})
	if status, body := get(t, url+"/rooms/a%2Fb%3Fc%20d"); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}

// TestHealth has no service behind it: health does not mind, readiness does.
func TestHealth(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), &upstream{name: "rooms", base: gone.URL, client: http.DefaultClient}))
	defer srv.Close()
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 503, "/rooms": 502, "/rooms/A101": 502} {
		if status, body := get(t, srv.URL+path); status != want || want > 200 && !strings.Contains(body, "rooms") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
}

// TestTimeout ends a call with its context and blames the upstream.
func TestTimeout(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer slow.Close()
	defer close(release)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	u := &upstream{name: "rooms", base: slow.URL, client: http.DefaultClient}
	var f failure
	if _, err := u.call(ctx, "GET", nil, nil, "rows"); !errors.As(err, &f) || f.service != "rooms" {
		t.Errorf("%v", err)
	}
}

func TestAddresses(t *testing.T) {
	for _, address := range []string{"", "127.0.0.1:80", "https://x", "http://", "http://%zz"} {
		t.Setenv("ROOMS_URL", address)
		if _, err := newUpstream("rooms"); err == nil || !strings.Contains(err.Error(), "ROOMS_URL") {
			t.Errorf("%q: %v", address, err)
		}
	}
	t.Setenv("ROOMS_URL", "http://127.0.0.1:8000/")
	if u, err := newUpstream("rooms"); err != nil || u.base != "http://127.0.0.1:8000" {
		t.Errorf("%v %v", u, err)
	}
}
