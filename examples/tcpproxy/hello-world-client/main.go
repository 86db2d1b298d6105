// A client that says hello to $SERVER_HOST:$SERVER_PORT every second
// (PERIOD) and logs the answer and how long it took. It keeps trying: when
// the server is upgraded behind the proxy, the log shows one slow answer.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	askTime   = time.Minute // for one answer; a proxy may hold the connection while it is locked
	maxAnswer = 1 << 10     // bytes
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stdout, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

// run asks once per period until ctx ends.
func run(ctx context.Context, log *slog.Logger) error {
	host, port := os.Getenv("SERVER_HOST"), os.Getenv("SERVER_PORT")
	if host == "" || port == "" {
		return errors.New("SERVER_HOST and SERVER_PORT must be set")
	}
	period := time.Second
	if text := os.Getenv("PERIOD"); text != "" {
		var err error
		if period, err = time.ParseDuration(text); err != nil || period < 10*time.Millisecond {
			return fmt.Errorf("PERIOD %q is no duration of at least 10ms", text)
		}
	}
	every := time.NewTicker(period)
	defer every.Stop()
	for {
		began := time.Now()
		answer, err := ask(ctx, net.JoinHostPort(host, port))
		if ctx.Err() != nil {
			return nil
		}
		if took := time.Since(began).Round(time.Microsecond); err != nil {
			log.Warn("no answer", "took", took, "err", err)
		} else {
			log.Info("answered", "answer", answer, "took", took)
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// ask opens a connection, says hello, and quits.
func ask(ctx context.Context, addr string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	if _, err := fmt.Fprint(conn, "hello\r\n"); err != nil {
		return "", err
	}
	answer, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read the answer: %w", err)
	}
	_, err = fmt.Fprint(conn, "quit\r\n")
	return strings.TrimRight(answer, "\r\n"), err
}
