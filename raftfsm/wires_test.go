package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
)

// wires is a network of loopback TCP whose links can be cut. A cut link is silent, as with a pulled cable: nothing
// arrives, nothing is refused. A crashed node refuses, as a port without a listener does.
type wires struct {
	mu    sync.Mutex
	addrs map[string]string // by node id
	nodes map[string]*Node
	cut   map[link]chan struct{} // closed when the link is healed
	conns map[*wire]bool
}

type link struct{ a, b string }

func between(a, b string) link { return link{min(a, b), max(a, b)} }

func newWires() *wires {
	return &wires{addrs: map[string]string{}, nodes: map[string]*Node{}, cut: map[link]chan struct{}{}, conns: map[*wire]bool{}}
}

// wire is the dialling end of a connection.
type wire struct {
	net.Conn
	on   *wires
	link link
	mute atomic.Bool
}

func (w *wire) Write(b []byte) (int, error) {
	if w.mute.Load() {
		return len(b), nil
	}
	return w.Conn.Write(b)
}

func (w *wire) Read(b []byte) (int, error) {
	for {
		n, err := w.Conn.Read(b)
		if err != nil || !w.mute.Load() {
			return n, err
		}
	}
}

func (w *wire) Close() error {
	w.on.mu.Lock()
	delete(w.on.conns, w)
	w.on.mu.Unlock()
	return w.Conn.Close()
}

func feedOf(id string) string { return id + " feed" }

// dialFeed connects to the other listener of a node, over the same link.
func (ws *wires) dialFeed(ctx context.Context, from, to string) (net.Conn, error) {
	return ws.connect(ctx, from, to, feedOf(to))
}

func (ws *wires) dial(ctx context.Context, from, to string) (net.Conn, error) {
	return ws.connect(ctx, from, to, to)
}

// members are the nodes that are up.
func (ws *wires) members() []string {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	return slices.Sorted(maps.Keys(ws.nodes))
}

func (ws *wires) connect(ctx context.Context, from, to, listener string) (net.Conn, error) {
	if err := ws.pass(ctx, from, to); err != nil {
		return nil, err
	}
	ws.mu.Lock()
	addr := ws.addrs[listener]
	ws.mu.Unlock()
	if addr == "" {
		return nil, fmt.Errorf("dial %s: nobody listens", to)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	w := &wire{Conn: c, on: ws, link: between(from, to)}
	ws.mu.Lock()
	defer ws.mu.Unlock()
	_, cut := ws.cut[w.link]
	w.mute.Store(cut)
	ws.conns[w] = true
	return w, nil
}

// pass waits while the link is cut.
func (ws *wires) pass(ctx context.Context, from, to string) error {
	ws.mu.Lock()
	healed, cut := ws.cut[between(from, to)]
	ws.mu.Unlock()
	if !cut {
		return nil
	}
	select {
	case <-healed:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("link %s-%s is cut: %w", from, to, ctx.Err())
	}
}

// remote runs f on another node, there and back over the link.
func remote[V any](ctx context.Context, ws *wires, from, to string, f func(*Node) (V, error)) (V, error) {
	var none V
	if err := ws.pass(ctx, from, to); err != nil {
		return none, err
	}
	ws.mu.Lock()
	n := ws.nodes[to]
	ws.mu.Unlock()
	if n == nil {
		return none, errors.New("connection refused")
	}
	type answer struct {
		v   V
		err error
	}
	done := make(chan answer, 1)
	go func() { v, err := f(n); done <- answer{v, err} }()
	select {
	case a := <-done:
		if lost := ws.pass(ctx, from, to); lost != nil {
			return none, lost
		}
		return a.v, a.err
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

func (ws *wires) cutLink(a, b string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	l := between(a, b)
	if _, cut := ws.cut[l]; cut || a == b {
		return
	}
	ws.cut[l] = make(chan struct{})
	for w := range ws.conns {
		if w.link == l {
			w.mute.Store(true)
		}
	}
}

func (ws *wires) heal(a, b string) {
	ws.mu.Lock()
	l := between(a, b)
	healed, cut := ws.cut[l]
	delete(ws.cut, l)
	var dead []*wire
	for w := range ws.conns {
		if w.link == l && w.mute.Load() {
			dead = append(dead, w)
		}
	}
	ws.mu.Unlock()
	if cut {
		close(healed)
	}
	for _, w := range dead {
		_ = w.Close()
	}
}

func (ws *wires) join(id, addr string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.addrs[id] = addr
}

func (ws *wires) up(id string, n *Node) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	ws.nodes[id] = n
}

func (ws *wires) down(id string) {
	ws.mu.Lock()
	defer ws.mu.Unlock()
	delete(ws.nodes, id)
	delete(ws.addrs, id)
	delete(ws.addrs, feedOf(id))
}
