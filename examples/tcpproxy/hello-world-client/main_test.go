package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAsks counts the questions at a server that fails the first one.
func TestAsks(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	host, port, _ := net.SplitHostPort(ln.Addr().String())
	t.Setenv("SERVER_HOST", host)
	t.Setenv("SERVER_PORT", port)
	t.Setenv("PERIOD", "10ms")
	var log buffer
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, slog.New(slog.NewTextHandler(&log, nil))) }()
	for i := range 4 {
		answer(t, ln, i > 0)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	text := log.String()
	if !strings.Contains(text, `msg="no answer"`) || strings.Count(text, `answer="Hello there"`) < 2 {
		t.Errorf("the log:\n%s", text)
	}
}

// answer takes one client, and greets it or hangs up.
func answer(t *testing.T, ln net.Listener, greet bool) {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !greet {
		return
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || line != "hello\r\n" {
		t.Errorf("the client says %q, %v", line, err)
	}
	fmt.Fprint(conn, "Hello there\r\n")
	if line, err := in.ReadString('\n'); err != nil || line != "quit\r\n" {
		t.Errorf("then %q, %v", line, err)
	}
}

func TestSettings(t *testing.T) {
	t.Setenv("SERVER_HOST", "")
	if err := run(t.Context(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("no address is accepted")
	}
	t.Setenv("SERVER_HOST", "127.0.0.1")
	t.Setenv("SERVER_PORT", "1")
	for _, period := range []string{"soon", "0", "-1s"} {
		t.Setenv("PERIOD", period)
		if err := run(t.Context(), slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("PERIOD %q is accepted", period)
		}
	}
}

// buffer is a log that two goroutines use.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }
