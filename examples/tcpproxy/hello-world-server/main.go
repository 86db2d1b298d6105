// A server that says hello over TCP on $HOST:$PORT.
//
//	client:  hello      server:  Hello world!   ($GREETING, if set)
//	client:  quit       server closes
//	client:  the rest   server:  Unknown command
//
// Lines end in CR LF; LF alone is understood. A line is 1 KiB at most, and
// a client that says nothing for five minutes is sent away.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	maxLine     = 1 << 10         // bytes
	maxClients  = 1000            // more wait in the kernel's queue
	idleTime    = 5 * time.Minute // between two lines
	writeTime   = 10 * time.Second
	defaultText = "Hello world!"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

// run serves until ctx ends; then each client's line under way is answered,
// and the connections are closed.
func run(ctx context.Context, log *slog.Logger) error {
	if os.Getenv("PORT") == "" {
		return errors.New("PORT is not set")
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	greeting := os.Getenv("GREETING")
	if greeting == "" {
		greeting = defaultText
	}
	log.Info("listening", "addr", ln.Addr().String())
	return accept(ctx, log, ln, greeting)
}

func accept(ctx context.Context, log *slog.Logger, ln net.Listener, greeting string) error {
	var clients sync.WaitGroup
	defer clients.Wait()
	places := make(chan struct{}, maxClients)
	for {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := ln.Accept()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			log.Warn("accept", "err", err)
			<-places
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			time.Sleep(50 * time.Millisecond) // out of descriptors, most likely
			continue
		}
		clients.Go(func() {
			defer func() { <-places }()
			talk(ctx, conn, greeting)
		})
	}
}

// talk answers one client's lines until it quits, is silent, or ctx ends.
func talk(ctx context.Context, conn net.Conn, greeting string) {
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now()) })
	defer stop()
	lines := bufio.NewScanner(conn)
	lines.Buffer(make([]byte, maxLine), maxLine)
	for {
		if conn.SetReadDeadline(time.Now().Add(idleTime)); ctx.Err() != nil {
			return
		}
		if !lines.Scan() {
			return
		}
		said, more := respond(lines.Text(), greeting)
		if !more {
			return
		}
		conn.SetWriteDeadline(time.Now().Add(writeTime))
		if _, err := fmt.Fprint(conn, said, "\r\n"); err != nil {
			return
		}
	}
}

// respond is the protocol: the answer to a line, and whether to go on.
func respond(line, greeting string) (string, bool) {
	switch strings.TrimSuffix(line, "\r") {
	case "hello":
		return greeting, true
	case "quit":
		return "", false
	}
	return "Unknown command", true
}
