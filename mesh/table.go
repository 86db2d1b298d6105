package mesh

import (
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// table holds what this node knows of every other: where it may be found, and
// when it was last heard.
type table struct {
	start time.Time // all times below are nanoseconds since then, monotonic
	self  string

	mu    sync.RWMutex // guards the map, and of each peer all but the atomics
	peers map[string]*peer
	join  []*joinAddr
	dirty bool // the peers file is behind
}

type peer struct {
	id         string
	advertised string         // what the node itself says in gossip
	active     netip.AddrPort // where gossip datagrams go
	addrs      []string       // newest first, at most maxAddrs
	retry      backoff

	heard  atomic.Int64 // last time anything authentic came from it; 0: never
	missed atomic.Int64 // last time a gossip probe of ours got no answer
	warm   atomic.Bool  // keep a control connection
	busy   atomic.Bool  // a warming probe is under way
}

// joinAddr is an address that the operator gave. Names are resolved at every
// try, and any member may answer.
type joinAddr struct {
	addr  string
	id    string // who answered last; "" = nobody yet
	retry backoff
}

func newTable(self string) *table {
	return &table{start: time.Now().Add(-time.Second), self: self, peers: map[string]*peer{}}
}

func (t *table) now() int64 { return int64(time.Since(t.start)) }

// get returns the peer of that id, made if need be. When the table is full, the
// one not heard for longest makes room.
func (t *table) get(id string) *peer {
	t.mu.RLock()
	p := t.peers[id]
	t.mu.RUnlock()
	if p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.getLocked(id)
}

func (t *table) getLocked(id string) *peer {
	if p := t.peers[id]; p != nil {
		return p
	}
	if len(t.peers) >= maxPeers {
		t.evictLocked()
	}
	p := &peer{id: id}
	t.peers[id] = p
	return p
}

func (t *table) evictLocked() {
	var old *peer
	for _, p := range t.peers {
		if !p.warm.Load() && (old == nil || p.heard.Load() < old.heard.Load()) {
			old = p
		}
	}
	if old != nil {
		delete(t.peers, old.id)
	}
}

// lookup is get for readers: nil if unknown.
func (t *table) lookup(id string) *peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.peers[id]
}

func (t *table) forget(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.peers[id]; ok {
		delete(t.peers, id)
		t.dirty = true
	}
}

// advertise notes where the node says that it is. It reports whether that is a
// move: another address than it advertised before.
func (t *table) advertise(id, addr string) (moved bool) {
	if checkAddr(addr) != nil {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.getLocked(id)
	if p.advertised == addr {
		return false
	}
	moved = p.advertised != ""
	p.advertised = addr
	if a, err := netip.ParseAddrPort(addr); err == nil && (moved || !p.active.IsValid()) {
		p.active = plain(a)
	}
	t.rememberLocked(p, addr)
	return moved
}

// proven notes that a handshake with the node succeeded over that address.
func (t *table) proven(id string, a netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.getLocked(id)
	p.active = plain(a)
	p.retry = backoff{}
	t.rememberLocked(p, p.active.String())
}

// unproven falls back from an address that stopped working to what the node
// advertises.
func (t *table) unproven(id string, a netip.AddrPort) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[id]
	if p == nil || p.active != plain(a) {
		return
	}
	if adv, err := netip.ParseAddrPort(p.advertised); err == nil {
		p.active = plain(adv)
	}
}

func (t *table) rememberLocked(p *peer, addr string) {
	if len(p.addrs) > 0 && p.addrs[0] == addr {
		return
	}
	p.addrs = slices.DeleteFunc(p.addrs, func(a string) bool { return a == addr })
	p.addrs = slices.Insert(p.addrs, 0, addr)
	p.addrs = p.addrs[:min(len(p.addrs), maxAddrs)]
	t.dirty = true
}

// active is where datagrams for the node go; the zero value if nowhere.
func (t *table) active(id string) netip.AddrPort {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if p := t.peers[id]; p != nil {
		return p.active
	}
	return netip.AddrPort{}
}

// candidates lists where to try the node, the best first.
func (t *table) candidates(id string) []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	p := t.peers[id]
	if p == nil {
		return nil
	}
	var out []string
	if p.active.IsValid() {
		out = append(out, p.active.String())
	}
	if p.advertised != "" {
		out = append(out, p.advertised)
	}
	return unique(append(out, p.addrs...))
}

// unique drops later duplicates, in place.
func unique(list []string) []string {
	out := list[:0]
	for _, a := range list {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// ids lists every node known here but ourselves.
func (t *table) ids() []string {
	t.mu.RLock()
	defer t.mu.RUnlock()
	out := make([]string, 0, len(t.peers))
	for id := range t.peers {
		if id != t.self {
			out = append(out, id)
		}
	}
	return out
}

// warmPeers lists the peers that want a warm connection.
func (t *table) warmPeers() []*peer {
	t.mu.RLock()
	defer t.mu.RUnlock()
	var out []*peer
	for _, p := range t.peers {
		if p.warm.Load() {
			out = append(out, p)
		}
	}
	return out
}

// addJoin remembers an operator's address; the oldest goes when there are too
// many.
func (t *table) addJoin(addr string) error {
	if err := checkAddr(addr); err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, j := range t.join {
		if j.addr == addr {
			j.retry = backoff{}
			return nil
		}
	}
	t.join = append(t.join, &joinAddr{addr: addr})
	if len(t.join) > maxJoinAddrs {
		t.join = t.join[1:]
	}
	t.dirty = true
	return nil
}

func (t *table) restore(r peersRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, a := range r.Join {
		t.join = append(t.join, &joinAddr{addr: a})
	}
	for _, p := range r.Peers {
		if p.ID != t.self {
			t.getLocked(p.ID).addrs = p.Addrs
		}
	}
}

// unsaved returns what the peers file should hold, if it does not yet.
func (t *table) unsaved() (r peersRecord, dirty bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.dirty {
		return r, false
	}
	t.dirty = false
	for _, j := range t.join {
		r.Join = append(r.Join, j.addr)
	}
	for _, p := range t.peers {
		if len(p.addrs) > 0 && p.id != t.self {
			r.Peers = append(r.Peers, Peer{ID: p.id, Addrs: slices.Clone(p.addrs)})
		}
	}
	return r, true
}

// plain writes an IPv4 address as one, however the socket reports it.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}
