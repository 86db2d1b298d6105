package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// testProxy is a proxy in this process, in front of a server that repeats lines.
type testProxy struct {
	door
	addr   string
	end    context.CancelFunc
	ended  chan error
	served *atomic.Int64 // lines that reached the server
}

func newProxy(t *testing.T) *testProxy {
	t.Helper()
	target, served := newServer(t, "127.0.0.1:0")
	return proxyTo(t, target, served)
}

func proxyTo(t *testing.T, target string, served *atomic.Int64) *testProxy {
	t.Helper()
	deep := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30)) // longer than a Unix address
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	p := &testProxy{door: door{lockFile: filepath.Join(deep, "lock"), socket: filepath.Join(deep, "admin.sock")}, ended: make(chan error, 1), served: served}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	admin, err := listenUnix(p.socket)
	if err != nil {
		t.Fatal(err)
	}
	p.addr = ln.Addr().String()
	var ctx context.Context
	ctx, p.end = context.WithCancel(context.Background())
	inner := &proxy{log: slog.New(slog.DiscardHandler), door: p.door, target: target, patience: time.Minute, grace: time.Minute}
	go func() { p.ended <- inner.run(ctx, ln.(*net.TCPListener), admin) }()
	t.Cleanup(p.end)
	return p
}

// newServer repeats each line and counts it.
func newServer(t *testing.T, addr string) (string, *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	var served atomic.Int64
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for lines := bufio.NewScanner(conn); lines.Scan(); {
					served.Add(1)
					fmt.Fprintln(conn, lines.Text())
				}
			}()
		}
	}()
	return ln.Addr().String(), &served
}

// client is a connection through the proxy.
type client struct {
	*net.TCPConn
	in *bufio.Reader
}

func (p *testProxy) dial(t *testing.T) *client {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.addr, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	return &client{conn.(*net.TCPConn), bufio.NewReader(conn)}
}

// say sends a line and wants it back.
func (c *client) say(t *testing.T, line string) {
	t.Helper()
	if _, err := fmt.Fprintln(c, line); err != nil {
		t.Fatal(err)
	}
	if got, err := c.in.ReadString('\n'); err != nil || got != line+"\n" {
		t.Fatalf("said %q, heard %q (%v)", line, got, err)
	}
}

// awaitOpen waits until that many connections are open.
func (p *testProxy) awaitOpen(t *testing.T, want int) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		n, err := p.connections(t.Context())
		if err == nil && n == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are open, not %d (%v)", n, want, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestPassesOn(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	a, b := p.dial(t), p.dial(t)
	a.say(t, "one")
	b.say(t, "two")
	p.awaitOpen(t, 2)
	a.CloseWrite() // the end of what we say reaches the server, whose end reaches us
	if rest, err := io.ReadAll(a.in); err != nil || len(rest) > 0 {
		t.Errorf("after the end: %q, %v", rest, err)
	}
	p.awaitOpen(t, 1)
	b.Close()
	p.awaitOpen(t, 0)
}

// TestLock closes the door before somebody who talks and somebody who comes.
func TestLock(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	before := p.dial(t)
	before.say(t, "before")
	locked := make(chan error, 1)
	go func() { locked <- p.lock(context.Background(), time.Minute, 5*time.Millisecond) }()
	for !p.closed() {
		time.Sleep(time.Millisecond)
	}
	after := p.dial(t)
	fmt.Fprintln(after, "after")
	before.say(t, "still here")
	select {
	case err := <-locked:
		t.Fatalf("locked while a connection is open: %v", err)
	default:
	}
	before.Close()
	if err := <-locked; err != nil {
		t.Fatal(err)
	}
	if n := p.served.Load(); n != 2 {
		t.Errorf("%d lines were served before the door opened, not 2", n)
	}
	if err := p.lock(t.Context(), time.Minute, time.Millisecond); err == nil || !strings.Contains(err.Error(), "locked already") {
		t.Errorf("locking twice: %v", err)
	}
	if err := p.unlock(); err != nil {
		t.Fatal(err)
	}
	if got, err := after.in.ReadString('\n'); err != nil || got != "after\n" {
		t.Errorf("who waited heard %q (%v)", got, err)
	}
}

// TestLockGivesUp leaves the door open when connections do not end in time.
func TestLockGivesUp(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	c := p.dial(t)
	c.say(t, "I stay")
	err := p.lock(t.Context(), 20*time.Millisecond, time.Millisecond)
	if err == nil || !strings.Contains(err.Error(), "still open") {
		t.Errorf("lock: %v", err)
	}
	if p.closed() {
		t.Error("the door stayed closed")
	}
	p.dial(t).say(t, "welcome")
}

// TestNobodyGetsIn locks and unlocks while clients come all the time: while
// the lock is held, the server hears nothing, and nobody is turned away.
func TestNobodyGetsIn(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	var clients sync.WaitGroup
	var enough atomic.Bool
	for i := range 4 {
		clients.Go(func() {
			for n := 0; !enough.Load(); n++ {
				c := p.dial(t)
				c.say(t, fmt.Sprint("client ", i, " line ", n))
				c.Close()
			}
		})
	}
	for range 8 {
		if err := p.lock(t.Context(), time.Minute, time.Millisecond); err != nil {
			t.Error(err)
			break
		}
		before := p.served.Load()
		time.Sleep(10 * time.Millisecond) // not to wait for anything: to give a fault time to show
		if after := p.served.Load(); after != before {
			t.Errorf("%d lines were served behind a closed door", after-before)
		}
		if err := p.unlock(); err != nil {
			t.Error(err)
		}
		for served := p.served.Load(); p.served.Load() == served; {
			time.Sleep(time.Millisecond)
		}
	}
	enough.Store(true)
	clients.Wait()
}

// TestServerReplaced lets a client come while there is no server.
func TestServerReplaced(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0") // holds a number that a server takes later
	if err != nil {
		t.Fatal(err)
	}
	target := ln.Addr().String()
	ln.Close()
	p := proxyTo(t, target, nil)
	c := p.dial(t)
	fmt.Fprintln(c, "anybody?")
	p.awaitOpen(t, 1)
	newServer(t, target)
	if got, err := c.in.ReadString('\n'); err != nil || got != "anybody?\n" {
		t.Errorf("who waited heard %q (%v)", got, err)
	}
}

// TestEnd lets an open connection end, and lets nobody in any more.
func TestEnd(t *testing.T) {
	t.Parallel()
	p := newProxy(t)
	c := p.dial(t)
	c.say(t, "hello")
	p.end()
	for { // until the port is closed
		conn, err := net.Dial("tcp", p.addr)
		if err != nil {
			break
		}
		conn.Close()
		time.Sleep(time.Millisecond)
	}
	c.say(t, "last words")
	c.Close()
	if err := <-p.ended; err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(p.socket); err == nil {
		t.Error("the admin socket is left")
	}
}

func TestUsage(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", t.TempDir())
	log := slog.New(slog.DiscardHandler)
	for _, args := range [][]string{{}, {"open"}, {"serve", "x"}, {"lock", "soon"}, {"lock", "1s", "2s"}, {"serve"}, {"connections"}} {
		if err := run(t.Context(), log, args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
	t.Setenv("STATE_DIRECTORY", "")
	if err := run(t.Context(), log, []string{"serve"}); err == nil || !strings.Contains(err.Error(), "STATE_DIRECTORY") {
		t.Errorf("without STATE_DIRECTORY: %v", err)
	}
}
