package raftfsm

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// maxDial bounds how long a connection to another server may take to come up.
const maxDial = time.Second

// streams is raft's view of the mesh. A server's address is its node id: the mesh knows where that is today, so a
// machine may change its IP address without a word to raft.
type streams struct {
	net.Listener
	id    string
	dial  func(ctx context.Context, id string) (net.Conn, error)
	epoch *epoch

	ctx    context.Context // ends at close, and with it every dial
	cancel context.CancelFunc

	mu   sync.Mutex
	open map[*stream]bool // nil once closed
}

func newStreams(id string, l net.Listener, dial func(context.Context, string) (net.Conn, error), e *epoch) *streams {
	s := &streams{Listener: l, id: id, dial: dial, epoch: e, open: map[*stream]bool{}}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// idAddr is a node id as an address.
type idAddr string

func (idAddr) Network() string  { return "node" }
func (a idAddr) String() string { return string(a) }

// Addr is the node's own id.
func (s *streams) Addr() net.Addr { return idAddr(s.id) }

// Accept waits for another server to connect.
func (s *streams) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

// Dial connects to the server whose id is addr.
func (s *streams) Dial(addr raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, min(timeout, maxDial))
	defer cancel()
	c, err := s.dial(ctx, string(addr))
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

func (s *streams) keep(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open == nil {
		_ = c.Close()
		return nil, net.ErrClosed
	}
	st := &stream{Conn: c, of: s}
	s.open[st] = true
	return st, nil
}

// closeAll ends every connection, for raft's goroutines wait in reads and writes on them.
func (s *streams) closeAll() {
	s.cancel()
	s.mu.Lock()
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for st := range open {
		_ = st.Conn.Close()
	}
	_ = s.Listener.Close()
}

// stream is a connection that its streams know of until it is closed. Before anything else each side says its epoch, the
// first with what it sends first:
//
//	0        1                9
//	+--------+----------------+-----
//	|  0xe1  |  epoch, 8, BE  |  raft's own
//	+--------+----------------+-----
//
// raft uses each side of a connection from one goroutine at a time.
type stream struct {
	net.Conn
	of          *streams
	said, heard bool
}

// Read begins with the other side's epoch. If that is another one, the stream is over, and the other side is told this
// one's, if this server has anything of it.
func (c *stream) Read(b []byte) (int, error) {
	if !c.heard {
		if err := c.of.epoch.readHello(c.Conn); err != nil {
			other := (*EpochError)(nil)
			if errors.As(err, &other) && !c.said && !c.of.epoch.empty() {
				_ = c.Conn.SetWriteDeadline(time.Now().Add(maxDial))
				_, _ = c.Write(nil)
			}
			return 0, err
		}
		c.heard = true
	}
	return c.Conn.Read(b)
}

// Write begins with this side's epoch.
func (c *stream) Write(b []byte) (int, error) {
	if c.said {
		return c.Conn.Write(b)
	}
	hello := c.of.epoch.hello()
	n, err := c.Conn.Write(append(hello, b...))
	c.said = n >= len(hello)
	return max(n-len(hello), 0), err
}

// Close closes the connection.
func (c *stream) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
