package mesh

import (
	"context"
	"errors"
	"fmt"
	"log"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/serf/serf"
)

// Status is gossip's opinion of a node.
type Status string

const (
	StatusAlive   Status = "alive"
	StatusSuspect Status = "suspect" // alive, but our last gossip probe has had no answer
	StatusFailed  Status = "failed"
	StatusLeft    Status = "left" // said goodbye
)

// Member is a node as gossip sees it.
type Member struct {
	ID     string
	Name   string // the tag "name"
	Addr   string // host:port of its mesh
	Status Status
	Tags   map[string]string
}

const (
	ownTags = "_" // tags that begin so are mesh's own
	addrTag = "_a"
	nameTag = "name"

	// A dead node is probed by somebody within about half a second, suspect half
	// a second later, and has 1.5 s (3 x probe interval, stretched with the
	// logarithm of the cluster beyond ten) to deny it: failed after 2 to 3 s. A
	// machine that is late itself slows its own probes down (memberlist's
	// awareness) before it blames others.
	probeInterval  = 500 * time.Millisecond
	gossipProbe    = 300 * time.Millisecond
	suspicionMult  = 3
	suspicionMax   = 2 // times that, while nobody else has confirmed it
	pushPull       = 20 * time.Second
	gossipStream   = 5 * time.Second
	leaveBroadcast = 2 * time.Second
	leaveLinger    = 500 * time.Millisecond // answers probes while the goodbye spreads

	forgetNever = 100 * 365 * 24 * time.Hour
	eventQueue  = 1024
	heardLately = 1500 * time.Millisecond // spares the connections of a node that gossip calls failed
)

// gossip wraps serf: who is there, in whose opinion.
type gossip struct {
	m      *Mesh
	serf   *serf.Serf
	ring   *memberlist.Keyring
	events chan serf.Event

	meeting sync.Mutex // guards leaving; held during a meeting
	leaving bool

	mu     sync.Mutex // guards what follows
	status map[string]serf.MemberStatus
	tags   map[string]string // our own, addrTag not included
	addr   string            // what we advertise
}

func newGossip(m *Mesh) *gossip {
	return &gossip{m: m, events: make(chan serf.Event, eventQueue), status: map[string]serf.MemberStatus{}}
}

// start joins nobody: that is rejoin's work.
func (g *gossip) start(t *transport, tags map[string]string, addr string) error {
	if err := checkTags(tags); err != nil {
		return err
	}
	keys := append([][]byte{g.m.cfg.GossipKey}, g.m.cfg.OldGossipKeys...)
	var err error
	if g.ring, err = newKeyring(keys); err != nil {
		return err
	}
	g.tags, g.addr = tags, addr
	conf := g.serfConfig(t)
	if g.serf, err = serf.Create(conf); err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	return nil
}

func (g *gossip) serfConfig(t *transport) *serf.Config {
	conf := serf.DefaultConfig()
	conf.NodeName = g.m.id.ID
	conf.ValidateNodeNames = true
	conf.Tags = g.wireTags()
	conf.EventCh = g.events
	conf.Logger = log.New(&logBridge{log: g.m.log}, "", 0)
	conf.DisableCoordinates = true
	conf.EnableNameConflictResolution = false // by address: ours never differ
	conf.ReconnectInterval = forgetNever      // rejoin does it
	conf.ReconnectTimeout = forgetNever       // Forget does it
	conf.TombstoneTimeout = 24 * time.Hour
	conf.BroadcastTimeout = leaveBroadcast
	conf.LeavePropagateDelay = leaveLinger
	conf.MemberlistConfig = g.memberlistConfig(t, conf.Logger)
	return conf
}

func (g *gossip) memberlistConfig(t *transport, l *log.Logger) *memberlist.Config {
	conf := memberlist.DefaultLANConfig()
	conf.Transport = t
	conf.Logger = l
	conf.Keyring = g.ring
	conf.RequireNodeNames = false // it needs them only where we give them anyway
	conf.UDPBufferSize = gossipPacket
	conf.EnableCompression = false // 64 KB of garbage per packet for few bytes less
	conf.BindPort, conf.AdvertisePort = fakePort, fakePort
	conf.ProbeInterval, conf.ProbeTimeout = probeInterval, gossipProbe
	conf.SuspicionMult, conf.SuspicionMaxTimeoutMult = suspicionMult, suspicionMax
	conf.PushPullInterval = pushPull
	conf.TCPTimeout = gossipStream
	conf.Ping = pings{g.m}
	// Asked exactly when a direct probe had no answer: the only way to learn it.
	conf.DisableTcpPingsForNode = func(id string) bool { g.missed(id); return false }
	return conf
}

// pings learns of answered gossip probes.
type pings struct{ m *Mesh }

func (pings) AckPayload() []byte { return nil }

func (p pings) NotifyPingComplete(n *memberlist.Node, _ time.Duration, _ []byte) {
	p.m.hear(p.m.table.get(n.Name), p.m.table.now())
}

// hear notes that something authentic came from the peer.
func (m *Mesh) hear(p *peer, now int64) {
	was := p.suspect()
	p.heard.Store(now)
	if was {
		m.notify()
	}
}

// suspect says whether the last gossip probe went unanswered and nothing else
// was heard since.
func (p *peer) suspect() bool { return p.missed.Load() > p.heard.Load() }

func (g *gossip) missed(id string) {
	g.m.table.get(id).missed.Store(g.m.table.now())
	g.m.notify()
}

// run takes serf's events until ctx ends. It must not block: serf would.
func (g *gossip) run(ctx context.Context) {
	for {
		select {
		case e := <-g.events:
			if me, ok := e.(serf.MemberEvent); ok {
				for _, member := range me.Members {
					g.take(me.EventType(), member)
				}
				g.m.notify()
			}
		case <-ctx.Done():
			return
		}
	}
}

func (g *gossip) take(kind serf.EventType, member serf.Member) {
	g.mu.Lock()
	if kind == serf.EventMemberReap {
		delete(g.status, member.Name)
	} else {
		g.status[member.Name] = member.Status
	}
	g.mu.Unlock()
	if member.Name == g.m.id.ID {
		return
	}
	switch kind {
	case serf.EventMemberFailed:
		g.m.dropFailed(member.Name)
		g.m.rejoin.wake()
	case serf.EventMemberJoin, serf.EventMemberUpdate:
		if moved := g.m.table.advertise(member.Name, member.Tags[addrTag]); moved {
			g.m.dropMoved(member.Name)
		}
	}
}

// alive says whether gossip holds the node for alive (or suspect).
func (g *gossip) alive(id string) bool { return g.is(id, serf.StatusAlive) }

func (g *gossip) is(id string, s serf.MemberStatus) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	got, ok := g.status[id]
	return ok && got == s
}

// gone says whether the node left on purpose.
func (g *gossip) gone(id string) bool {
	return g.is(id, serf.StatusLeft) || g.is(id, serf.StatusLeaving)
}

// meet exchanges gossip's whole state with the node. A meeting that ended after
// our goodbye would take it back.
func (g *gossip) meet(id string) error {
	g.meeting.Lock()
	defer g.meeting.Unlock()
	if g.leaving {
		return errors.New("this node is leaving")
	}
	_, err := g.serf.Join([]string{fakeName(id)}, true)
	return err
}

func checkTags(tags map[string]string) error {
	for k := range tags {
		if strings.HasPrefix(k, ownTags) {
			return fmt.Errorf("tag %q: names with %q in front are reserved", k, ownTags)
		}
	}
	return nil
}

// wireTags is what gossip carries: the caller's tags and our address.
func (g *gossip) wireTags() map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]string{addrTag: g.addr}
	for k, v := range g.tags {
		out[k] = v
	}
	return out
}

func (g *gossip) setTags(tags map[string]string) error {
	if err := checkTags(tags); err != nil {
		return err
	}
	g.mu.Lock()
	g.tags = tags
	g.mu.Unlock()
	if err := g.serf.SetTags(g.wireTags()); err != nil {
		return fmt.Errorf("set tags: %w", err)
	}
	return nil
}

// setAddr tells everybody our new address.
func (g *gossip) setAddr(addr string) error {
	g.mu.Lock()
	g.addr = addr
	g.mu.Unlock()
	return g.serf.SetTags(g.wireTags())
}

func (g *gossip) address() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.addr
}

// Members lists every node that gossip knows, this one included, by id.
func (m *Mesh) Members() []Member {
	var out []Member
	for _, s := range m.gossip.serf.Members() {
		out = append(out, m.member(s))
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out
}

func (m *Mesh) member(s serf.Member) Member {
	tags := make(map[string]string, len(s.Tags))
	for k, v := range s.Tags {
		if !strings.HasPrefix(k, ownTags) {
			tags[k] = v
		}
	}
	out := Member{ID: s.Name, Name: tags[nameTag], Addr: s.Tags[addrTag], Status: status(s.Status), Tags: tags}
	if p := m.table.lookup(s.Name); p != nil && out.Status == StatusAlive && s.Name != m.id.ID && p.suspect() {
		out.Status = StatusSuspect
	}
	if a := m.table.active(s.Name); a.IsValid() {
		out.Addr = a.String()
	}
	return out
}

// Status is what gossip thinks of one node, which costs little to ask; "" = it does not know it.
func (m *Mesh) Status(id string) Status {
	m.gossip.mu.Lock()
	s, known := m.gossip.status[id]
	m.gossip.mu.Unlock()
	switch {
	case !known:
		return ""
	case s != serf.StatusAlive || id == m.id.ID:
		return status(s)
	}
	if p := m.table.lookup(id); p != nil && p.suspect() {
		return StatusSuspect
	}
	return StatusAlive
}

func status(s serf.MemberStatus) Status {
	switch s {
	case serf.StatusAlive:
		return StatusAlive
	case serf.StatusLeaving, serf.StatusLeft:
		return StatusLeft
	}
	return StatusFailed
}

// SetTags replaces this node's tags, to be seen in everybody's Members. All of
// them together must stay well under 512 bytes. It takes up to 2 s.
func (m *Mesh) SetTags(tags map[string]string) error { return m.gossip.setTags(tags) }

// Leave says goodbye: the others see this node as left, not failed. Only Close
// is of use afterwards.
func (m *Mesh) Leave(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- m.gossip.leave() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("leave: %w", ctx.Err())
	}
}

func (g *gossip) leave() error {
	g.meeting.Lock()
	g.leaving = true
	g.meeting.Unlock()
	return g.serf.Leave()
}

// Forget drops all memory of a node that was removed: its addresses, its
// connections, and gossip's entry.
func (m *Mesh) Forget(id string) error {
	if id == m.id.ID {
		return fmt.Errorf("forget: %w", ErrSelf)
	}
	m.drop(connUnauthorized, "removed", func(l *link) bool { return l.id == id })
	m.table.forget(id)
	err := m.gossip.serf.RemoveFailedNodePrune(id)
	if err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("forget %q: %w", id, err)
	}
	return nil
}
