package mesh

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const firstByteTimeout = 5 * time.Second // a stream without a protocol by then is reset

// acceptLoop takes connections until the mesh ends.
func (m *Mesh) acceptLoop(ctx context.Context) {
	for {
		qc, err := m.ln.Accept(ctx)
		if err != nil {
			return
		}
		m.spawn(func(ctx context.Context) { m.serveConn(ctx, qc) })
	}
}

func (m *Mesh) serveConn(ctx context.Context, qc *quic.Conn) {
	alpn := qc.ConnectionState().TLS.NegotiatedProtocol
	c, ok := classOf(alpn)
	if !ok {
		m.serveJoin(ctx, qc)
		return
	}
	l, err := newLink(m, qc, c, false)
	if err == nil {
		err = l.greet(ctx)
	}
	if err == nil {
		err = m.adopt(l)
	}
	if err != nil {
		m.log.Debug("connection refused", "from", qc.RemoteAddr(), "error", err)
		_ = qc.CloseWithError(connBadHello, "")
	}
}

// adopt puts a greeted link to use: streams may be opened on it and are accepted
// from it until it dies.
func (m *Mesh) adopt(l *link) error {
	obsolete, err := m.links.add(l)
	if err != nil {
		return err
	}
	if !m.spawn(func(ctx context.Context) { m.serveLink(ctx, l) }) {
		m.links.remove(l)
		return context.Canceled
	}
	for _, o := range obsolete {
		m.log.Debug("connection replaced", "node", o.id, "address", o.remote)
		o.close(connStale, "replaced")
	}
	m.table.proven(l.id, l.remote)
	if !m.gossip.alive(l.id) {
		m.rejoin.wake()
	}
	return nil
}

// serveLink accepts the peer's streams.
func (m *Mesh) serveLink(ctx context.Context, l *link) {
	for {
		s, err := l.qc.AcceptStream(ctx)
		if err != nil {
			break
		}
		c := l.use(s)
		if !m.spawn(func(ctx context.Context) { m.serveStream(ctx, c) }) {
			break
		}
	}
	m.links.remove(l)
	if err := context.Cause(l.qc.Context()); errors.As(err, new(*quic.IdleTimeoutError)) {
		m.table.unproven(l.id, l.remote)
	}
}

// serveStream reads the first byte and hands the stream over.
func (m *Mesh) serveStream(ctx context.Context, c *Conn) {
	var first [1]byte
	_ = c.SetReadDeadline(time.Now().Add(firstByteTimeout))
	if _, err := io.ReadFull(c, first[:]); err != nil {
		c.abort(streamClosed)
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	p := Proto(first[0])
	if p == protoProbe {
		serveProbe(c)
		return
	}
	if p.class() != c.link.class || p < protoProbe || p > ProtoFeed {
		c.abort(streamBadProto)
		return
	}
	m.listeners.deliver(ctx, p, c)
}

// newcomers limits how many handshakes per second unproven addresses may start:
// beyond it, quic-go asks them to prove their address first (one round trip).
type newcomers struct {
	second atomic.Int64
	count  atomic.Int64
}

const freeHandshakes = 64 // per second

func (n *newcomers) suspicious(now time.Time) bool {
	if s := now.Unix(); n.second.Swap(s) != s {
		n.count.Store(0)
	}
	return n.count.Add(1) > freeHandshakes
}
