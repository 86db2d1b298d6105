package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
)

// A shared port answers on every node and leads to the instance wherever it runs. Where an instance is, it has the port
// itself; on every other node this agent listens and relays each connection through the mesh (proxy.go) to a node with
// an active instance, which dials its own. Who listens follows from State alone.

const (
	maxRelayed   = 4096 // connections at a time, on each side
	firstRebind  = time.Second
	lastRebind   = time.Minute
	relayEvents  = time.Minute // at most one event about refused connections in this time
	dialPatience = 5 * time.Second
)

// sharedPorts is this node's part in all shared ports. The zero value is ready.
type sharedPorts struct {
	mu     sync.Mutex        // guards what follows; held while a socket is opened or closed
	relays map[string]*relay // by reservation key

	limit atomic.Int64 // connections at a time; 0: maxRelayed
	conns sync.WaitGroup
	stats relayStats
}

// relayStats counts connections; in are those that this node took from clients, out those that it led to an instance.
type relayStats struct {
	in, out, open, refused, failed atomic.Int64
	next                           atomic.Int64 // which of several instances is tried first
	told                           atomic.Int64 // when refused connections were last noted, Unix seconds
}

// relay is one shared port that this node answers for another.
type relay struct {
	r       model.Reservation
	host    string
	l       net.Listener  // nil while the number cannot be had
	ended   chan struct{} // closed when nobody accepts from l any more
	problem string        // why l is nil
	wait    time.Duration
	retry   time.Time
}

// wantedRelays are the shared ports that this node should answer for others, by reservation key: those of services that
// are active elsewhere and neither are nor will be here. A row that is planned here counts: the relay must be gone
// before the instance comes.
func wantedRelays(s *model.State, self string) map[string]model.Reservation {
	wanted := map[string]model.Reservation{}
	for key, r := range s.Reservations.All() {
		if isSharedPort(r) && len(relayTargets(s, self, r)) > 0 {
			wanted[key] = r
		}
	}
	return wanted
}

// relayTargets are the active rows elsewhere that have the port, those of this node's zone first; none if the service
// is here.
func relayTargets(s *model.State, self string, r model.Reservation) []model.Row {
	var rows []model.Row
	for _, row := range s.ServiceRows(r.System, r.Service) {
		if row.Node == self && (!row.Obsolete || row.Phase.Alive() || row.Phase == model.Lost) {
			return nil
		}
		if row.Phase == model.Active && hasShared(row, r.Name) && row.Spec.Ports[r.Name] == r.Number {
			rows = append(rows, row)
		}
	}
	zone := s.Nodes.At(self).Zone()
	slices.SortStableFunc(rows, func(a, b model.Row) int {
		return boolInt(s.Nodes.At(b.Node).Zone() == zone) - boolInt(s.Nodes.At(a.Node).Zone() == zone)
	})
	return rows
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// hasShared says whether a row has a shared port of that name.
func hasShared(r model.Row, port string) bool {
	_, ok := r.Spec.Ports[port]
	return ok && r.Spec.Scopes[port] == model.PortShared
}

// sharedPortsLoop keeps this node's relays as State wants them, and serves those of others, until ctx ends.
func (n *Node) sharedPortsLoop(ctx context.Context) error {
	p := &n.shared
	var server sync.WaitGroup
	server.Go(func() { n.serveProxied(ctx) })
	changed, stop := n.fsm.Watch()
	defer stop()
	for ctx.Err() == nil {
		waitAny(ctx, n.arrangeRelays(ctx), changed)
	}
	p.mu.Lock()
	for key := range p.relays {
		p.drop(key)
	}
	p.mu.Unlock()
	server.Wait()
	p.conns.Wait()
	return nil
}

// arrangeRelays opens and closes listeners as State wants. It says when to try again what did not succeed.
func (n *Node) arrangeRelays(ctx context.Context) (wake time.Time) {
	p := &n.shared
	p.mu.Lock()
	defer p.mu.Unlock()
	s := n.fsm.State() // under the lock: never older than what a yield was called for
	wanted, host := wantedRelays(s, n.id.ID), s.Nodes.At(n.id.ID).Host
	for key, have := range p.relays {
		if want, ok := wanted[key]; !ok || want != have.r || host != have.host {
			p.drop(key)
		}
	}
	for key, r := range wanted {
		have := p.relays[key]
		if have == nil {
			have = &relay{r: r, host: host}
			if p.relays == nil {
				p.relays = map[string]*relay{}
			}
			p.relays[key] = have
		}
		if have.l == nil && !time.Now().Before(have.retry) {
			n.openRelay(ctx, have)
		}
		if have.l == nil && (wake.IsZero() || have.retry.Before(wake)) {
			wake = have.retry
		}
	}
	return wake
}

// openRelay tries to listen. That it failed is an event once, however often it fails.
func (n *Node) openRelay(ctx context.Context, e *relay) {
	addr := net.JoinHostPort(e.host, strconv.Itoa(e.r.Number))
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		e.wait = min(max(2*e.wait, firstRebind), lastRebind)
		e.retry = time.Now().Add(e.wait)
		if e.problem == "" && ctx.Err() == nil {
			e.problem = describeBind(ctx, e, err)
			n.noteShared(e.r, "not answered here: "+e.problem)
		}
		return
	}
	if e.problem != "" {
		n.noteShared(e.r, "answered here again")
	}
	e.l, e.ended, e.problem, e.wait = l, make(chan struct{}), "", 0
	go n.acceptRelayed(ctx, e.r, e.l, e.ended)
}

// describeBind finds out who has the number.
func describeBind(ctx context.Context, e *relay, err error) string {
	if named := activate.CheckPort(ctx, e.r.Name, e.host, e.r.Number, func(int) bool { return false }); named != nil {
		return named.Error()
	}
	return err.Error()
}

func (n *Node) noteShared(r model.Reservation, message string) {
	n.note(Noted{Kind: "shared-port", System: r.System, Service: r.Service, Message: fmt.Sprintf("shared port %d (%s) is %s", r.Number, r.Name, message)})
}

// drop stops listening. When it returns the number is free. Connections that were made go on.
func (p *sharedPorts) drop(key string) {
	e := p.relays[key]
	delete(p.relays, key)
	if e.l != nil {
		release(e.l)
		<-e.ended
	}
}

// release closes a listener so that its number is free when it returns. A child between fork and exec has a copy of
// every descriptor: closing ours would leave the socket listening until the child has got to its exec. So we wait for
// forks in flight; and because a child in a new user namespace is not waited for by ForkLock, the socket is taken out of
// the listening state first.
func release(l net.Listener) {
	if raw, err := l.(syscall.Conn).SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { _ = syscall.Shutdown(int(fd), syscall.SHUT_RD) })
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	_ = l.Close()
}

// yield makes room for an instance that is about to come to this node: it is called with a State in which the service
// has a row here, so that nothing opens the relay again.
func (p *sharedPorts) yield(r model.RowSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, e := range p.relays {
		for _, number := range r.Spec.Ports {
			if e.r.Number == number {
				p.drop(key)
				break
			}
		}
	}
}

// acceptRelayed takes clients' connections until the listener is closed.
func (n *Node) acceptRelayed(ctx context.Context, r model.Reservation, l net.Listener, ended chan<- struct{}) {
	defer close(ended)
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() == nil && isTemporary(err) {
				n.pause(ctx, 100*time.Millisecond)
				continue
			}
			_ = l.Close() // nobody accepts any more: clients are refused, not kept waiting
			return
		}
		if !n.shared.begin() {
			abort(c)
			n.tellRefused(r)
			continue
		}
		n.shared.stats.in.Add(1)
		go func() {
			defer n.shared.end()
			n.relayOne(ctx, r, c)
		}()
	}
}

// begin counts a connection; false if there are too many, or the end has come.
func (p *sharedPorts) begin() bool {
	if p.stats.open.Add(1) > cmp.Or(p.limit.Load(), maxRelayed) {
		p.stats.open.Add(-1)
		p.stats.refused.Add(1)
		return false
	}
	p.conns.Add(1)
	return true
}

func (p *sharedPorts) end() {
	p.stats.open.Add(-1)
	p.conns.Done()
}

func (n *Node) tellRefused(r model.Reservation) {
	now, last := time.Now().Unix(), n.shared.stats.told.Load()
	if now-last >= int64(relayEvents/time.Second) && n.shared.stats.told.CompareAndSwap(last, now) {
		n.noteShared(r, fmt.Sprintf("at its limit: %d connections are relayed here already", cmp.Or(n.shared.limit.Load(), maxRelayed)))
	}
}

// relayOne leads one client to an instance. A client whose instance cannot be reached is reset: an orderly end would
// look like an empty answer.
func (n *Node) relayOne(ctx context.Context, r model.Reservation, client net.Conn) {
	far, err := n.reachInstance(ctx, r)
	if err != nil {
		n.shared.stats.failed.Add(1)
		n.log.Debug("relaying", "service", r.Service, "port", r.Name, "err", err)
		abort(client)
		return
	}
	splice(ctx, client, far)
}

// reachInstance opens a stream to an instance of the service, trying all that State knows.
func (n *Node) reachInstance(ctx context.Context, r model.Reservation) (net.Conn, error) {
	s := n.fsm.State()
	rows := relayTargets(s, n.id.ID, r)
	err := fmt.Errorf("%s is active nowhere", r.Service)
	turn := int(n.shared.stats.next.Add(1))
	for i := range rows {
		row := rows[(i+turn)%len(rows)]
		var c net.Conn
		if c, err = n.reachThrough(ctx, row.Node, proxyRequest{r.System, r.Service, r.Name}); err == nil {
			return c, nil
		}
	}
	return nil, err
}

func (n *Node) reachThrough(ctx context.Context, node string, req proxyRequest) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	c, err := n.mesh.Dial(ctx, node, mesh.ProtoProxy)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	err = askProxy(c, req)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		_ = c.Close()
		return nil, fmt.Errorf("node %.8s: %w", node, err)
	}
	return c, nil
}

// serveProxied answers other nodes' relays until ctx ends.
func (n *Node) serveProxied(ctx context.Context) {
	l := n.mesh.Listener(mesh.ProtoProxy)
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		if !n.shared.begin() {
			_ = refuseProxy(c, "too many connections")
			continue
		}
		go func() {
			defer n.shared.end()
			n.serveOneProxied(ctx, c)
		}()
	}
}

func (n *Node) serveOneProxied(ctx context.Context, c net.Conn) {
	_ = c.SetDeadline(time.Now().Add(2 * dialPatience))
	req, err := readProxyRequest(c)
	var near net.Conn
	if err == nil {
		near, err = n.dialInstance(ctx, req)
	}
	if err != nil {
		n.shared.stats.failed.Add(1)
		n.log.Debug("serving a relay", "err", err)
		_ = refuseProxy(c, err.Error())
		return
	}
	if err := acceptProxy(c); err != nil {
		_ = near.Close()
		_ = c.Close()
		return
	}
	_ = c.SetDeadline(time.Time{})
	n.shared.stats.out.Add(1)
	splice(ctx, near, c)
}

// dialInstance connects to this node's own instance. Only shared ports of active rows can be reached. The asking node
// may be a little ahead of this one's State.
func (n *Node) dialInstance(ctx context.Context, req proxyRequest) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	addr, err := proxyTarget(n.fsm.State(), n.id.ID, req)
	if err != nil {
		changed, stop := n.fsm.Watch()
		defer stop()
		for end := time.Now().Add(time.Second); err != nil && time.Now().Before(end) && ctx.Err() == nil; {
			waitAny(ctx, end, changed)
			addr, err = proxyTarget(n.fsm.State(), n.id.ID, req)
		}
	}
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}

// proxyTarget is the address of a node's own active instance.
func proxyTarget(s *model.State, self string, req proxyRequest) (string, error) {
	for _, row := range s.ServiceRows(req.system, req.service) {
		if row.Node == self && row.Phase == model.Active && hasShared(row, req.port) {
			return net.JoinHostPort(row.Spec.Host, strconv.Itoa(row.Spec.Ports[req.port])), nil
		}
	}
	return "", fmt.Errorf("no active instance of %s/%s here has a shared port %q", req.system, req.service, req.port)
}

// unanswered are the shared ports that this node should answer and cannot, by reservation key, with the reason.
func (p *sharedPorts) unanswered() map[string]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[string]string{}
	for key, e := range p.relays {
		if e.problem != "" {
			out[key] = e.problem
		}
	}
	return out
}

// notAnswering asks all nodes that are up which shared ports they cannot answer: reservation key, node name, reason. A
// node that does not answer within half a second is left out.
func (n *Node) notAnswering(ctx context.Context, s *model.State) map[string]map[string]string {
	out := map[string]map[string]string{}
	if !hasSharedPorts(s) {
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for id, node := range s.Nodes.All() {
		if node.Down || node.Left {
			continue
		}
		wg.Go(func() {
			for key, why := range n.unansweredBy(ctx, id) {
				mu.Lock()
				if out[key] == nil {
					out[key] = map[string]string{}
				}
				out[key][node.Name] = why
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return out
}

func isSharedPort(r model.Reservation) bool {
	return r.Resource == "ports" && r.Scope == model.PortShared
}

func hasSharedPorts(s *model.State) bool {
	for _, r := range s.Reservations.All() {
		if isSharedPort(r) {
			return true
		}
	}
	return false
}

func (n *Node) unansweredBy(ctx context.Context, id string) map[string]string {
	if id == n.id.ID {
		return n.shared.unanswered()
	}
	b, err := n.peers.call(ctx, id, http.MethodGet, "/unanswered", nil)
	var out map[string]string
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	if err != nil {
		n.log.Debug("asking for shared ports", "node", id, "err", err)
	}
	return out
}

// describe is one line for status: who does not answer what, and why.
func describeUnanswered(s *model.State, system string, unanswered map[string]map[string]string) []string {
	var lines []string
	for key, nodes := range unanswered {
		r, ok := s.Reservations.Get(key)
		if !ok || r.System != system {
			continue
		}
		for node, why := range nodes {
			lines = append(lines, fmt.Sprintf("%s does not answer shared port %d (%s.%s): %s", node, r.Number, r.Service, r.Name, strings.TrimSpace(why)))
		}
	}
	slices.Sort(lines)
	return lines
}
