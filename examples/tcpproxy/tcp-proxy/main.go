// A TCP proxy whose door can be closed without turning anybody away.
//
//	tcp-proxy serve        pass connections to $HOST:$PORT on to $SERVER_HOST:$SERVER_PORT
//	tcp-proxy lock [WAIT]  close the door; return when the last connection has ended
//	tcp-proxy unlock       open it again
//	tcp-proxy connections  print the number of open connections
//
// While the lock file ($LOCK_FILE, default $STATE_DIRECTORY/lock) exists, no
// new connection is served: clients wait, they are not refused. A socket
// ($ADMIN_SOCKET, default $STATE_DIRECTORY/admin.sock) tells the number of
// open connections to whoever connects. lock gives up after WAIT (default
// 1h), and opens the door again when it does.
//
// The server behind may be replaced while the door is open, too: a client
// that comes while nobody answers there waits for up to 30 s.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, log, os.Args[1:]); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, log *slog.Logger, args []string) error {
	d, err := findDoor()
	if err != nil {
		return err
	}
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve(ctx, log, d)
	case len(args) >= 1 && len(args) <= 2 && args[0] == "lock":
		wait, err := time.ParseDuration(append(args, "1h")[1])
		if err != nil {
			return err
		}
		return d.lock(ctx, wait, time.Second)
	case len(args) == 1 && args[0] == "unlock":
		return d.unlock()
	case len(args) == 1 && args[0] == "connections":
		n, err := d.connections(ctx)
		if err == nil {
			fmt.Println(n)
		}
		return err
	}
	return errors.New("usage: tcp-proxy serve|lock [WAIT]|unlock|connections")
}

// findDoor reads from the environment where the lock and the socket are.
func findDoor() (door, error) {
	dir := os.Getenv("STATE_DIRECTORY")
	d := door{
		lockFile: cmp.Or(os.Getenv("LOCK_FILE"), filepath.Join(dir, "lock")),
		socket:   cmp.Or(os.Getenv("ADMIN_SOCKET"), filepath.Join(dir, "admin.sock")),
	}
	if dir == "" && (d.lockFile == "lock" || d.socket == "admin.sock") {
		return d, errors.New("STATE_DIRECTORY is not set")
	}
	return d, nil
}

// serve proxies until ctx ends, and then ends the connections.
func serve(ctx context.Context, log *slog.Logger, d door) error {
	if os.Getenv("PORT") == "" || os.Getenv("SERVER_HOST") == "" || os.Getenv("SERVER_PORT") == "" {
		return errors.New("PORT, SERVER_HOST and SERVER_PORT must be set")
	}
	ln, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	defer ln.Close()
	admin, err := listenUnix(d.socket)
	if err != nil {
		return fmt.Errorf("open admin socket %q: %w", d.socket, err)
	}
	defer admin.Close()
	target := net.JoinHostPort(os.Getenv("SERVER_HOST"), os.Getenv("SERVER_PORT"))
	p := &proxy{log: log, door: d, target: target, patience: patience, grace: graceTime}
	log.Info("listening", "addr", ln.Addr().String(), "target", target)
	return p.run(ctx, ln.(*net.TCPListener), admin)
}
