package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// door is how the proxy is closed and opened from outside: a lock file, and
// a Unix socket that tells how many connections are open.
type door struct{ lockFile, socket string }

// closed says whether the lock file exists. A file that cannot be looked at
// counts as there: to serve somebody by mistake is worse than to wait.
func (d door) closed() bool {
	_, err := os.Lstat(d.lockFile)
	return !errors.Is(err, os.ErrNotExist)
}

// lock creates the lock file, which must not exist, and waits until no
// connection is open, asking once per period. If that takes longer than wait,
// or ctx ends, it removes the lock file again and says why.
func (d door) lock(ctx context.Context, wait, period time.Duration) error {
	f, err := os.OpenFile(d.lockFile, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, os.ErrExist) {
		return fmt.Errorf("locked already: %q exists", d.lockFile)
	}
	if err != nil {
		return err
	}
	if err := errors.Join(f.Close(), d.drained(ctx, wait, period)); err != nil {
		return errors.Join(fmt.Errorf("lock: %w", err), d.unlock())
	}
	return nil
}

// drained waits until no connection is open.
func (d door) drained(ctx context.Context, wait, period time.Duration) error {
	over := time.After(wait)
	every := time.NewTicker(period)
	defer every.Stop()
	for {
		n, err := d.connections(ctx)
		if err != nil || n == 0 {
			return err
		}
		select {
		case <-every.C:
		case <-over:
			return fmt.Errorf("%d connections are still open after %v", n, wait)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (d door) unlock() error { return os.Remove(d.lockFile) }

// connections asks the running proxy for the number of open connections.
func (d door) connections(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	dir, path, err := shortPath(d.socket)
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, fmt.Errorf("ask the proxy: %w", err)
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Now()) })
	defer stop()
	text, err := io.ReadAll(io.LimitReader(conn, 64))
	if err != nil {
		return 0, fmt.Errorf("ask the proxy: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || n < 0 {
		return 0, fmt.Errorf("ask the proxy: %q is no number of connections", text)
	}
	return n, nil
}

// listenUnix listens on a socket file, which replaces one that a killed
// proxy left. The lock of the port keeps two proxies from doing so at once.
func listenUnix(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	dir, short, err := shortPath(path)
	if err != nil {
		return nil, err
	}
	ln, err := net.Listen("unix", short)
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return unixListener{ln, dir}, nil
}

// unixListener keeps the directory open that its short path goes through.
type unixListener struct {
	net.Listener
	dir *os.File
}

// Close removes the socket file, too.
func (l unixListener) Close() error { return errors.Join(l.Listener.Close(), l.dir.Close()) }

// shortPath names a file through its open directory: the address of a Unix
// socket has room for 107 bytes, and state directories may lie deep.
func shortPath(path string) (*os.File, string, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, "", err
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)), nil
}
