package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxConnections = 1000                   // more wait in the kernel's queue
	lookTime       = 100 * time.Millisecond // how late a change of the lock may be noticed
	patience       = 30 * time.Second       // for the server behind to answer again
	retryTime      = 100 * time.Millisecond
	adminTime      = 5 * time.Second
	graceTime      = 5 * time.Second // for open connections to end after SIGTERM
)

// proxy passes connections on. open counts those that are being served or
// are about to be; one that was accepted in the moment the door closed waits
// uncounted, as those in the kernel's queue do.
type proxy struct {
	log      *slog.Logger
	door     door
	target   string        // host:port
	patience time.Duration // with a server that does not answer
	grace    time.Duration // for connections that are open at the end
	open     atomic.Int64
}

// run serves both listeners until ctx ends. Then nobody is let in any more,
// and what is open may end by itself for the grace time.
func (p *proxy) run(ctx context.Context, ln *net.TCPListener, admin net.Listener) error {
	served, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var parts sync.WaitGroup
	parts.Go(func() { p.tell(ctx, admin) })
	err := p.let(ctx, ln, func(conn net.Conn, place func()) {
		parts.Go(func() {
			defer place()
			p.serve(ctx, served, conn)
		})
	})
	ln.Close()
	admin.Close()
	timer := time.AfterFunc(p.grace, end)
	defer timer.Stop()
	parts.Wait()
	return err
}

// let accepts connections while the door is open, until ctx ends.
func (p *proxy) let(ctx context.Context, ln *net.TCPListener, in func(conn net.Conn, place func())) error {
	places := make(chan struct{}, maxConnections)
	free := func() { <-places }
	for p.await(ctx, places) {
		conn, err := p.accept(ln)
		if err == nil {
			in(conn, free)
			continue
		}
		free()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded): // look at the lock again
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept: %w", err)
		default:
			p.log.Warn("accept", "err", err)
			pause(ctx, retryTime)
		}
	}
	return nil
}

// await takes a place for the next connection, and waits while the door is
// closed. It is false when ctx ends.
func (p *proxy) await(ctx context.Context, places chan<- struct{}) bool {
	for p.door.closed() {
		if !pause(ctx, lookTime) {
			return false
		}
	}
	select {
	case places <- struct{}{}:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// accept waits for a connection, but no longer than a change of the lock may
// go unnoticed.
func (p *proxy) accept(ln *net.TCPListener) (net.Conn, error) {
	if err := ln.SetDeadline(time.Now().Add(lookTime)); err != nil {
		return nil, err
	}
	return ln.Accept()
}

// serve passes one connection on, once the door is open. It does not begin
// when ctx has ended, and does not go on when served has.
func (p *proxy) serve(ctx, served context.Context, client net.Conn) {
	defer client.Close()
	if !p.enter(ctx) {
		return
	}
	defer p.open.Add(-1)
	server, err := p.dial(ctx)
	if err != nil {
		p.log.Warn("server does not answer", "target", p.target, "err", err)
		return
	}
	defer server.Close()
	stop := context.AfterFunc(served, func() { client.Close(); server.Close() })
	defer stop()
	splice(client, server)
}

// enter counts a connection as open. Counting comes before looking: whoever
// created the lock file and then reads 0 can be sure that nobody is let in.
func (p *proxy) enter(ctx context.Context) bool {
	for {
		p.open.Add(1)
		if !p.door.closed() {
			return true
		}
		p.open.Add(-1)
		if !pause(ctx, lookTime) {
			return false
		}
	}
}

// dial connects to the server, again and again while it is being replaced.
func (p *proxy) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.patience)
	defer cancel()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	for {
		conn, err := dialer.DialContext(ctx, "tcp", p.target)
		if err == nil {
			return conn, nil
		}
		if !pause(ctx, retryTime) {
			return nil, err
		}
	}
}

// splice copies both ways. The end of one direction is passed on, so that a
// client may stop sending and still read the answer.
func splice(a, b net.Conn) {
	var directions sync.WaitGroup
	for _, d := range []struct{ from, to net.Conn }{{a, b}, {b, a}} {
		directions.Go(func() {
			if _, err := io.Copy(d.to, d.from); err != nil {
				a.Close() // a broken direction ends both
				b.Close()
				return
			}
			if c, ok := d.to.(*net.TCPConn); ok {
				c.CloseWrite()
			}
		})
	}
	directions.Wait()
}

// tell answers each connection to the admin socket with the number of open
// connections and a new line.
func (p *proxy) tell(ctx context.Context, admin net.Listener) {
	for ctx.Err() == nil {
		conn, err := admin.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			pause(ctx, retryTime)
			continue
		}
		conn.SetDeadline(time.Now().Add(adminTime))
		fmt.Fprintln(conn, p.open.Load())
		conn.Close()
	}
}

// pause waits, and is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
