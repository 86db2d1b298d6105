package mesh

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	acceptQueue    = 64 // streams that wait for Accept, per protocol
	acceptPatience = 2 * time.Second
)

// Listener returns where streams of protocol p arrive. Accept returns a *Conn.
// There is one listener per protocol; asking again returns the same until it is
// closed. Streams of a protocol without a listener are reset (ErrNotServed).
func (m *Mesh) Listener(p Proto) net.Listener { return m.listeners.get(p, nodeAddr(m.id.ID)) }

type listeners struct {
	mu     sync.Mutex // guards what follows
	open   map[Proto]*listener
	closed bool
}

type listener struct {
	set   *listeners
	proto Proto
	addr  net.Addr
	queue chan *Conn
	once  sync.Once
	done  chan struct{}
}

func newListeners() *listeners { return &listeners{open: map[Proto]*listener{}} }

func (s *listeners) get(p Proto, addr net.Addr) *listener {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.open[p]; l != nil {
		return l
	}
	l := &listener{set: s, proto: p, addr: addr, queue: make(chan *Conn, acceptQueue), done: make(chan struct{})}
	if s.closed {
		l.once.Do(func() { close(l.done) })
		return l
	}
	s.open[p] = l
	return l
}

// deliver queues c for Accept. A full queue is waited for a little: then the
// peer is told that we are busy.
func (s *listeners) deliver(ctx context.Context, p Proto, c *Conn) {
	s.mu.Lock()
	l := s.open[p]
	s.mu.Unlock()
	if l == nil {
		c.abort(streamNotServed)
		return
	}
	patience := time.NewTimer(acceptPatience)
	defer patience.Stop()
	select {
	case l.queue <- c:
		l.drainIfDone()
	case <-l.done:
		c.abort(streamNotServed)
	case <-patience.C:
		c.abort(streamBusy)
	case <-ctx.Done():
		c.abort(streamNotServed)
	}
}

func (s *listeners) close() {
	s.mu.Lock()
	s.closed = true
	var all []*listener
	for _, l := range s.open {
		all = append(all, l)
	}
	s.mu.Unlock()
	for _, l := range all {
		_ = l.Close()
	}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.done: // first: a closed listener gives nothing out
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.set.mu.Lock()
		delete(l.set.open, l.proto)
		l.set.mu.Unlock()
		close(l.done)
		l.drain()
	})
	return nil
}

// drainIfDone catches a stream that was queued while the listener closed.
func (l *listener) drainIfDone() {
	select {
	case <-l.done:
		l.drain()
	default:
	}
}

func (l *listener) drain() {
	for {
		select {
		case c := <-l.queue:
			c.abort(streamNotServed)
		default:
			return
		}
	}
}

func (l *listener) Addr() net.Addr { return l.addr }
