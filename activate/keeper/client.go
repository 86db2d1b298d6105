package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// callTimeout is the deadline of a call whose context has none.
const callTimeout = 15 * time.Second

// Client speaks to the keeper of one DIR. It connects again by itself, also to a keeper that was started after the
// one it knew ended, so that one client serves an agent for its whole life. Safe for concurrent use; calls are made
// one after the other.
type Client struct {
	dir string

	mu   sync.Mutex // held during a call
	conn *conn      // nil: connect first
	last hello      // of the last connection
}

type hello struct {
	version, pid int
	boot         string
}

// Connect finds the keeper of dir. ErrNotRunning if none answers, ErrVersion if it is too old or too new.
func Connect(ctx context.Context, dir string) (*Client, error) {
	c := &Client{dir: dir}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.connect(ctx); err != nil {
		return nil, err
	}
	return c, nil
}

// Close gives the connection back. The keeper does not mind.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drop()
}

// PID is the process id of the keeper that answered last.
func (c *Client) PID() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.pid
}

// Boot names the life of the keeper that answered last: another one means that all services died in between.
func (c *Client) Boot() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.last.boot
}

// Start starts s, or returns the status that its id has already.
func (c *Client) Start(ctx context.Context, s Spec) (Status, error) {
	if err := s.check(); err != nil {
		return Status{}, err
	}
	r, err := c.call(ctx, request{Op: opStart, Spec: &s})
	if err != nil {
		return Status{}, err
	}
	if r.Status == nil {
		return Status{}, fmt.Errorf("start %q: the keeper's answer has no status", s.ID)
	}
	return *r.Status, nil
}

// Stop sends TERM to the process group of id and makes the keeper KILL everything that is left of it after grace, with
// or without us. It does not wait: Await does.
func (c *Client) Stop(ctx context.Context, id string, grace time.Duration) error {
	_, err := c.call(ctx, request{Op: opStop, ID: id, Grace: grace})
	return err
}

// Renew tells the keeper until when leased starts may run. One that ends earlier than the last is ignored. ErrUnknownOp: the
// keeper is an older one.
func (c *Client) Renew(ctx context.Context, l Lease) error {
	_, err := c.call(ctx, request{Op: opLease, Lease: &l})
	return err
}

// List returns every start that is kept, in the order of ids.
func (c *Client) List(ctx context.Context) ([]Status, error) {
	r, err := c.call(ctx, request{Op: opList})
	return r.List, err
}

// Tail returns at most n lines of what the start id has written last.
func (c *Client) Tail(ctx context.Context, id string, n int) ([]string, error) {
	r, err := c.call(ctx, request{Op: opTail, ID: id, Lines: n})
	return r.Lines, err
}

// Owner returns the id of the start that process pid belongs to; ErrUnknownID: to none.
func (c *Client) Owner(ctx context.Context, pid int) (string, error) {
	r, err := c.call(ctx, request{Op: opOwner, PID: pid})
	return r.ID, err
}

// Forget acknowledges an exit: its status is dropped and its id may be started again. No error for an unknown id;
// ErrRunning if it has not exited.
func (c *Client) Forget(ctx context.Context, id string) error {
	_, err := c.call(ctx, request{Op: opForget, ID: id})
	return err
}

// Shutdown stops all services with grace, and then the keeper. It returns when both are gone.
func (c *Client) Shutdown(ctx context.Context, grace time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, grace+2*killPatience)
	defer cancel()
	if _, err := c.call(ctx, request{Op: opShutdown, Grace: grace}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	_ = c.conn.SetReadDeadline(deadline(ctx))
	_, _ = readFrame(c.conn) // ends with the process
	return c.drop()
}

// Watch calls f with the status of every start (only of id, unless it is empty) and then again whenever one changes,
// until f returns false (nil), ctx ends or the keeper goes. An id that is unknown is Forgotten. It uses a connection
// of its own. Changes in quick succession may be seen as one.
func (c *Client) Watch(ctx context.Context, id string, f func(Status) bool) error {
	n, _, err := dial(ctx, c.dir)
	if err != nil {
		return err
	}
	defer n.Close()
	defer context.AfterFunc(ctx, func() { n.Close() })()
	if err := writeFrame(n, request{Op: opWatch, ID: id}); err != nil {
		return n.why(ctx, err)
	}
	for {
		r, err := n.receive()
		if err != nil {
			return n.why(ctx, err)
		}
		for _, s := range r.List {
			if !f(s) {
				return nil
			}
		}
	}
}

// Await watches id until it is exited or forgotten, and returns its last status.
func (c *Client) Await(ctx context.Context, id string) (Status, error) {
	var last Status
	err := c.Watch(ctx, id, func(s Status) bool {
		last = s
		return s.State != Exited && s.State != Forgotten
	})
	return last, err
}

// call sends one request and reads its whole reply. After an error of the connection the next call makes a new one;
// a connection that turned out dead before the keeper had read anything is replaced at once.
func (c *Client) call(ctx context.Context, req request) (reply, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx)
	}
	if c.conn != nil && c.conn.dead() {
		_ = c.drop()
	}
	if err := c.connect(ctx); err != nil {
		return reply{}, err
	}
	n := c.conn
	_ = n.SetDeadline(deadline(ctx))
	stop := context.AfterFunc(ctx, func() { _ = n.SetDeadline(time.Unix(1, 0)) })
	all, err := n.exchange(req)
	if !stop() || err != nil && !errors.As(err, new(*remoteError)) {
		_ = c.drop()
	}
	var re *remoteError
	if errors.As(err, &re) {
		return reply{}, re.err
	}
	if err != nil {
		return reply{}, fmt.Errorf("ask keeper to %s: %w", req.Op, n.why(ctx, err))
	}
	return all, nil
}

func (c *Client) connect(ctx context.Context) (err error) {
	if c.conn == nil {
		c.conn, c.last, err = dial(ctx, c.dir)
	}
	return err
}

func (c *Client) drop() error {
	if c.conn == nil {
		return nil
	}
	n := c.conn
	c.conn = nil
	return n.Close()
}

func deadline(ctx context.Context) time.Time {
	if d, ok := ctx.Deadline(); ok {
		return d
	}
	return time.Now().Add(callTimeout)
}

// remoteError is what the keeper answered, as opposed to not having answered.
type remoteError struct{ err error }

func (e *remoteError) Error() string { return e.err.Error() }

// conn is one connection that has said hello.
type conn struct{ *net.UnixConn }

// dial connects to the keeper of dir and agrees on a version.
func dial(ctx context.Context, dir string) (*conn, hello, error) {
	var nc net.Conn
	err := underDir(dir, "keeper.sock", func(p string) (err error) {
		var d net.Dialer
		nc, err = d.DialContext(ctx, "unix", p)
		return err
	})
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) {
		return nil, hello{}, fmt.Errorf("%w in %q", ErrNotRunning, dir)
	}
	if err != nil {
		return nil, hello{}, fmt.Errorf("connect to keeper: %w", err)
	}
	n := &conn{nc.(*net.UnixConn)}
	h, err := n.greet(ctx)
	if err != nil {
		n.Close()
		return nil, hello{}, err
	}
	return n, h, nil
}

func (n *conn) greet(ctx context.Context) (hello, error) {
	if err := checkPeer(n.UnixConn); err != nil {
		return hello{}, fmt.Errorf("greet keeper: %w", err)
	}
	_ = n.SetDeadline(deadline(ctx))
	defer context.AfterFunc(ctx, func() { _ = n.SetDeadline(time.Unix(1, 0)) })()
	r, err := n.exchange(request{Op: opHello, Min: minVersion, Max: maxVersion})
	var re *remoteError
	if errors.As(err, &re) {
		return hello{}, re.err
	}
	if err != nil {
		return hello{}, fmt.Errorf("greet keeper: %w", n.why(ctx, err))
	}
	_ = n.SetDeadline(time.Time{})
	return hello{version: r.Version, pid: r.PID, boot: r.Boot}, nil
}

// exchange sends req and joins the frames of its reply.
func (n *conn) exchange(req request) (reply, error) {
	if err := writeFrame(n, req); err != nil {
		return reply{}, err
	}
	all, err := n.receive()
	for r := all; err == nil && r.More; {
		if r, err = n.receive(); err == nil {
			all.List = append(all.List, r.List...)
		}
	}
	return all, err
}

func (n *conn) receive() (reply, error) {
	body, err := readFrame(n)
	if err != nil {
		return reply{}, err
	}
	var r reply
	if err := json.Unmarshal(body, &r); err != nil {
		return reply{}, fmt.Errorf("decode keeper's answer: %w", err)
	}
	if r.Error != nil {
		return reply{}, &remoteError{fromWire(r.Error)}
	}
	return r, nil
}

// dead says that the other side has hung up. Nothing is sent to find out.
func (n *conn) dead() bool {
	raw, err := n.SyscallConn()
	if err != nil {
		return true
	}
	dead := true
	_ = raw.Control(func(fd uintptr) {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLRDHUP}}
		k, err := unix.Poll(p, 0)
		dead = err == nil && k > 0 // an idle connection has nothing to read
	})
	return dead
}

// why prefers the context's reason to the connection's. A keeper that hangs up has ended, or is about to.
func (n *conn) why(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, unix.ECONNRESET), errors.Is(err, unix.EPIPE):
		return fmt.Errorf("%w any more: %w", ErrNotRunning, err)
	}
	return err
}
