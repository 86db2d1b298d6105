package raftfsm

import (
	"context"
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
	id   string
	dial func(ctx context.Context, id string) (net.Conn, error)

	ctx    context.Context // ends at close, and with it every dial
	cancel context.CancelFunc

	mu   sync.Mutex
	open map[*stream]bool // nil once closed
}

func newStreams(id string, l net.Listener, dial func(context.Context, string) (net.Conn, error)) *streams {
	s := &streams{Listener: l, id: id, dial: dial, open: map[*stream]bool{}}
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

// stream is a connection that its streams know of until it is closed.
type stream struct {
	net.Conn
	of *streams
}

// Close closes the connection.
func (c *stream) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}
