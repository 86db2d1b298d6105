package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"
)

// newServer runs the server and returns its address and what stops it.
func newServer(t *testing.T) (addr string, stop context.CancelFunc, ended <-chan error) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	context.AfterFunc(ctx, func() { ln.Close() })
	result := make(chan error, 1)
	go func() { result <- accept(ctx, slog.New(slog.DiscardHandler), ln, "Hello world!") }()
	t.Cleanup(cancel)
	return ln.Addr().String(), cancel, result
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

func TestConversation(t *testing.T) {
	t.Parallel()
	addr, _, _ := newServer(t)
	for said, want := range map[string]string{
		"hello\r\nhello\nquit\r\nhello\r\n": "Hello world!\r\nHello world!\r\n",
		"HELLO\r\n\r\nquit\r\n":             "Unknown command\r\nUnknown command\r\n",
		strings.Repeat("x", maxLine+1):      "", // sent away
	} {
		conn := dial(t, addr)
		fmt.Fprint(conn, said)
		if got, _ := io.ReadAll(conn); string(got) != want {
			t.Errorf("said %.20q, heard %q, want %q", said, got, want)
		}
	}
}

// TestStop ends the server while a client is silent.
func TestStop(t *testing.T) {
	t.Parallel()
	addr, stop, ended := newServer(t)
	conn := dial(t, addr)
	fmt.Fprint(conn, "hello\r\n")
	lines := bufio.NewReader(conn)
	if line, err := lines.ReadString('\n'); err != nil || line != "Hello world!\r\n" {
		t.Fatalf("%q, %v", line, err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := lines.ReadByte(); err != io.EOF {
		t.Errorf("the connection ends with %v", err)
	}
}
