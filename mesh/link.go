package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	idleTimeout      = 6 * time.Second // of a silent connection; quic-go honours no less than 5 s
	keepAlive        = 2 * time.Second
	handshakeTimeout = 3 * time.Second
	helloTimeout     = 5 * time.Second
	maxStreams       = 2048 // that a peer may have open on one connection

	linkFresh    = 30 * time.Second // a link unused for longer takes no new streams, so that
	linkUnused   = time.Minute      // its dialler may close it here without a race
	linksPerPeer = 4                // of a class; more are closed, the oldest first
)

// quicConfig has small first windows: they grow only where data flows, so that
// an idle control connection costs little memory.
func quicConfig(c class) *quic.Config {
	conf := &quic.Config{
		HandshakeIdleTimeout: handshakeTimeout, MaxIdleTimeout: idleTimeout, KeepAlivePeriod: keepAlive,
		InitialStreamReceiveWindow: 128 << 10, MaxStreamReceiveWindow: 8 << 20,
		InitialConnectionReceiveWindow: 192 << 10, MaxConnectionReceiveWindow: 24 << 20,
		MaxIncomingStreams: maxStreams, MaxIncomingUniStreams: 1,
	}
	if c == bulk {
		conf.InitialStreamReceiveWindow, conf.InitialConnectionReceiveWindow = 1<<20, 2<<20
	}
	return conf
}

// link is one QUIC connection to an authenticated node. Streams may be opened
// from both ends, whoever dialled.
type link struct {
	m      *Mesh
	qc     *quic.Conn
	id     string
	class  class
	dialed bool
	boot   boot
	remote netip.AddrPort // at the handshake
	pub    ed25519.PublicKey
	chain  []*x509.Certificate
	peer   *peer

	streams  atomic.Int32 // open now
	used     atomic.Int64 // when a stream was last opened, accepted or released
	received atomic.Int64 // when a stream last brought data
	doubted  atomic.Bool  // a check is under way
}

func newLink(m *Mesh, qc *quic.Conn, c class, dialed bool) (*link, error) {
	certs := qc.ConnectionState().TLS.PeerCertificates
	pub, err := peerKey(certs)
	if err != nil {
		return nil, err
	}
	l := &link{m: m, qc: qc, id: NodeID(pub), class: c, dialed: dialed, pub: pub, chain: certs}
	if a, ok := qc.RemoteAddr().(*net.UDPAddr); ok {
		l.remote = plain(a.AddrPort())
	}
	l.peer = m.table.get(l.id)
	l.hear()
	l.used.Store(m.table.now())
	return l, nil
}

// hear notes that the peer proved to be there just now.
func (l *link) hear() {
	now := l.m.table.now()
	l.received.Store(now)
	l.m.hear(l.peer, now)
}

func (l *link) alive() bool { return l.qc.Context().Err() == nil }

// fresh says whether a new stream may be opened on the link.
func (l *link) fresh() bool {
	return l.alive() && (l.streams.Load() > 0 || l.unused() < linkFresh)
}

func (l *link) unused() time.Duration { return time.Duration(l.m.table.now() - l.used.Load()) }

func (l *link) use(s *quic.Stream) *Conn {
	l.streams.Add(1)
	l.used.Store(l.m.table.now())
	return &Conn{stream: s, link: l}
}

func (l *link) release() {
	l.streams.Add(-1)
	l.used.Store(l.m.table.now())
}

func (l *link) close(code quic.ApplicationErrorCode, why string) {
	_ = l.qc.CloseWithError(code, why)
}

// open makes a stream of that protocol. The first byte goes out at once: the
// peer sees a stream only when something arrives on it.
func (l *link) open(ctx context.Context, p Proto) (*Conn, error) {
	s, err := l.qc.OpenStreamSync(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open %v stream to %q: %w: %w", p, l.id, ErrBusy, ctx.Err())
		}
		return nil, fmt.Errorf("open %v stream to %q: %w", p, l.id, connError(err))
	}
	c := l.use(s)
	if _, err := c.Write([]byte{byte(p)}); err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("open %v stream to %q: %w", p, l.id, err)
	}
	return c, nil
}

// doubt is called when a read on the link ran into its deadline. If nothing
// else came from there lately either, one probe decides whether it is dropped,
// long before QUIC's own idle timeout.
func (l *link) doubt() {
	if time.Duration(l.m.table.now()-l.received.Load()) < keepAlive || !l.doubted.CompareAndSwap(false, true) {
		return
	}
	l.m.spawn(func(ctx context.Context) {
		defer l.doubted.Store(false)
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		defer cancel()
		if err := l.probe(ctx); err != nil && ctx.Err() != nil {
			l.close(connStale, "no answer")
		}
	})
}

// greet sends our hello and waits for the peer's. Of a connection that we
// dialled, it is the first thing that tells whether the peer accepted us.
func (l *link) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, helloTimeout)
	defer cancel()
	out, err := l.qc.OpenUniStreamSync(ctx)
	if err != nil {
		return l.greetError(ctx, err)
	}
	if _, err := out.Write(l.m.boot.hello()); err != nil {
		return l.greetError(ctx, err)
	}
	_ = out.Close()
	in, err := l.qc.AcceptUniStream(ctx)
	if err != nil {
		return l.greetError(ctx, err)
	}
	deadline, _ := ctx.Deadline()
	_ = in.SetReadDeadline(deadline)
	data, err := io.ReadAll(io.LimitReader(in, helloLimit+1))
	if err != nil {
		return l.greetError(ctx, err)
	}
	l.boot, err = parseHello(data)
	return err
}

// greetError prefers what the connection died of over what the wait died of.
func (l *link) greetError(ctx context.Context, err error) error {
	if cause := context.Cause(l.qc.Context()); cause != nil {
		return connError(cause)
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: no hello: %w", ErrUnreachable, err)
	}
	return connError(err)
}

type linkKey struct {
	id    string
	class class
}

// links is the set of live links, newest last.
type links struct {
	mu     sync.Mutex // guards what follows
	live   map[linkKey][]*link
	gates  map[linkKey]*gate // one dial at a time
	closed bool
}

func newLinks() *links {
	return &links{live: map[linkKey][]*link{}, gates: map[linkKey]*gate{}}
}

// pick returns the newest link that takes new streams.
func (ls *links) pick(k linkKey) *link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	list := ls.live[k]
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].fresh() {
			return list[i]
		}
	}
	return nil
}

// add takes a greeted link and returns those that it makes obsolete: links to a
// former life of the same node, and the oldest beyond the bound.
func (ls *links) add(l *link) (obsolete []*link, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.closed {
		return nil, net.ErrClosed
	}
	for _, c := range []class{control, bulk} {
		for _, o := range ls.live[linkKey{l.id, c}] {
			if o.boot != l.boot {
				obsolete = append(obsolete, o)
			}
		}
	}
	k := linkKey{l.id, l.class}
	ls.live[k] = append(ls.live[k], l)
	if n := len(ls.live[k]); n > linksPerPeer {
		obsolete = append(obsolete, ls.live[k][0])
	}
	return obsolete, nil
}

func (ls *links) remove(l *link) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	k := linkKey{l.id, l.class}
	var kept []*link
	for _, o := range ls.live[k] {
		if o != l {
			kept = append(kept, o)
		}
	}
	if ls.live[k] = kept; len(kept) == 0 {
		delete(ls.live, k)
	}
}

// list returns the links that match.
func (ls *links) list(match func(*link) bool) []*link {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	var out []*link
	for _, list := range ls.live {
		for _, l := range list {
			if match(l) {
				out = append(out, l)
			}
		}
	}
	return out
}

// shut refuses further links and returns those there are.
func (ls *links) shut() []*link {
	ls.mu.Lock()
	ls.closed = true
	ls.mu.Unlock()
	return ls.list(func(*link) bool { return true })
}

// gate lets one dial to the same peer and class through at a time.
type gate struct {
	in   chan struct{} // holds one token
	refs int           // guarded by links.mu
}

// enter waits for the gate; leave must be called if err is nil.
func (ls *links) enter(ctx context.Context, k linkKey) (leave func(), err error) {
	ls.mu.Lock()
	g := ls.gates[k]
	if g == nil {
		g = &gate{in: make(chan struct{}, 1)}
		ls.gates[k] = g
	}
	g.refs++
	ls.mu.Unlock()
	unref := func() {
		ls.mu.Lock()
		defer ls.mu.Unlock()
		if g.refs--; g.refs == 0 {
			delete(ls.gates, k)
		}
	}
	select {
	case g.in <- struct{}{}:
		return func() { <-g.in; unref() }, nil
	case <-ctx.Done():
		unref()
		return nil, ctx.Err()
	}
}
