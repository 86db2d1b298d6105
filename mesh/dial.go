package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

const (
	dialTimeout   = 5 * time.Second // of Dial when ctx has no deadline
	dialStagger   = 200 * time.Millisecond
	maxCandidates = 8
)

// Dial opens a stream of protocol p to the node of that id, over a cached
// connection if there is one. The connection may be one that the peer dialled.
// Raft, RPC and gossip share one connection, blobs and proxied streams another.
// Without a deadline in ctx it takes at most 5 s. The net.Conn is a *Conn.
//
// Errors: ErrUnknownNode, ErrUnreachable, ErrUnauthorized (one side does not
// accept the other), ErrImpostor (another node is at its addresses). That the
// protocol is not served is seen at the first read (ErrNotServed).
func (m *Mesh) Dial(ctx context.Context, id string, p Proto) (net.Conn, error) {
	ctx, cancel := m.bounded(ctx, dialTimeout)
	defer cancel()
	c, err := m.dialStream(ctx, id, p)
	if err != nil {
		return nil, fmt.Errorf("dial %q: %w", id, err)
	}
	return c, nil
}

// bounded gives ctx a deadline if it has none, and ends it with the mesh.
func (m *Mesh) bounded(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	var cancel context.CancelFunc
	if _, ok := ctx.Deadline(); ok {
		ctx, cancel = context.WithCancel(ctx)
	} else {
		ctx, cancel = context.WithTimeout(ctx, d)
	}
	stop := context.AfterFunc(m.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// dialStream tries a second time if the cached link turned out to be dead.
func (m *Mesh) dialStream(ctx context.Context, id string, p Proto) (*Conn, error) {
	var err error
	for range 2 {
		var l *link
		if l, err = m.linkTo(ctx, id, p.class()); err != nil {
			return nil, err
		}
		var c *Conn
		if c, err = l.open(ctx, p); err == nil {
			return c, nil
		}
		if l.alive() || ctx.Err() != nil {
			return nil, err
		}
	}
	return nil, err
}

// linkTo returns a live link to the node, dialling if need be.
func (m *Mesh) linkTo(ctx context.Context, id string, c class) (*link, error) {
	k := linkKey{id, c}
	if l := m.links.pick(k); l != nil {
		return l, nil
	}
	if id == m.id.ID {
		return nil, ErrSelf
	}
	leave, err := m.links.enter(ctx, k)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer leave()
	if l := m.links.pick(k); l != nil {
		return l, nil
	}
	l, err := m.race(ctx, k)
	if err != nil {
		if back := m.links.pick(k); back != nil { // it reached us meanwhile
			return back, nil
		}
		return nil, err
	}
	return l, nil
}

// race dials the node's addresses.
func (m *Mesh) race(ctx context.Context, k linkKey) (*link, error) {
	addrs := m.candidates(k.id)
	if len(addrs) == 0 {
		return nil, ErrUnknownNode
	}
	return raceEach(ctx, addrs, func(ctx context.Context, addr string) (*link, error) {
		return m.dialAddr(ctx, addr, k.id, k.class)
	})
}

// raceEach tries each of list (not empty) 200 ms after the one before, or as
// soon as a try has failed. The first success wins and cancels the others.
func raceEach[T any](ctx context.Context, list []T, try func(context.Context, T) (*link, error)) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		l   *link
		err error
	}
	results := make(chan result, len(list))
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for started := 0; len(errs) < len(list); {
		var due <-chan time.Time
		if started < len(list) {
			due = next.C
		}
		select {
		case <-due:
			item := list[started]
			started++
			next.Reset(dialStagger)
			go func() {
				l, err := try(ctx, item)
				results <- result{l, err}
			}()
		case r := <-results:
			if r.err == nil {
				return r.l, nil
			}
			errs = append(errs, r.err)
			next.Reset(0)
		}
	}
	return nil, errors.Join(errs...)
}

// candidates lists where to try a node: the table's addresses, then those that
// the caller knows.
func (m *Mesh) candidates(id string) []string {
	addrs := m.table.candidates(id)
	if m.cfg.Known != nil {
		for _, p := range m.cfg.Known() {
			if p.ID == id {
				addrs = append(addrs, p.Addrs...)
			}
		}
	}
	addrs = unique(addrs)
	return addrs[:min(len(addrs), maxCandidates)]
}

// dialAddr connects to whoever is at addr and says hello. want "" accepts any
// member. The link is in use (m.links) when it returns.
func (m *Mesh) dialAddr(ctx context.Context, addr, want string, c class) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout+helloTimeout)
	defer cancel()
	ips, err := resolve(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return raceEach(ctx, ips, func(ctx context.Context, ip netip.AddrPort) (*link, error) {
		l, err := m.dialIP(ctx, ip, want, c)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", ip, err)
		}
		return l, nil
	})
}

func (m *Mesh) dialIP(ctx context.Context, to netip.AddrPort, want string, c class) (*link, error) {
	var v verdict
	qc, err := m.tr.Dial(ctx, net.UDPAddrFromAddrPort(to), m.clientTLS(want, c, &v), quicConfig(c))
	if err != nil {
		if err = v.or(err); timedOut(err) || errors.Is(err, context.Canceled) {
			return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
		}
		return nil, dialError(err)
	}
	l, err := newLink(m, qc, c, true)
	if err == nil {
		err = l.greet(ctx)
	}
	if err == nil {
		err = m.adopt(l)
	}
	if err != nil {
		_ = qc.CloseWithError(connBadHello, "")
		return nil, err
	}
	return l, nil
}

// dialError names what went wrong before a connection stood.
func dialError(err error) error {
	if errors.Is(err, ErrImpostor) || errors.Is(err, ErrUnauthorized) || errors.Is(err, ErrSelf) {
		return err
	}
	if err = connError(err); errors.Is(err, ErrReset) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// resolve turns HOST:PORT into addresses; a literal one without looking up.
func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	if a, err := netip.ParseAddrPort(addr); err == nil {
		return []netip.AddrPort{plain(a)}, nil
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", addr, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return nil, fmt.Errorf("resolve %q: port must be 1 to 65535", addr)
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, fmt.Errorf("resolve %q: %w", addr, err)
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("resolve %q: no address", addr)
	}
	var out []netip.AddrPort
	for _, ip := range ips[:min(len(ips), maxAddrs)] {
		out = append(out, plain(netip.AddrPortFrom(ip, uint16(n))))
	}
	return out, nil
}
