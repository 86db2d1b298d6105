package raftfsm

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// How a node follows.
const (
	feedSilence  = 25 * time.Second       // a server that says nothing for so long is dead
	doubtSilence = 750 * time.Millisecond // likewise, when it was asked
	dialFeed     = 3 * time.Second        // for a connection, and for the first frame
	firstRound   = 500 * time.Millisecond // before an empty node looks for a feed: it may be made a raft server at once
	shortPause   = 100 * time.Millisecond // between rounds, doubled up to longPause
	longPause    = 4 * time.Second
	seatEvery    = 250 * time.Millisecond // how often a node that is becoming a raft server looks whether it is one
	leaderless   = 3 * time.Second        // a raft server without a leader for so long asks whether it still is one
	firstContact = time.Second            // likewise, after its start: a leader comes much sooner to a server of its own
	askedAtMost  = 24                     // nodes, in a round
	maxUnstored  = 64 << 20               // bytes of entries since the last checkpoint
)

// DivergedError says that this node's State is another than that of the raft servers with the same index. The node keeps
// it, keeps its services running, and applies no more. What a follower stored is set aside, so that a restart begins anew; a
// raft server goes on storing the log and voting, and begins anew by BeginAnew.
type DivergedError struct {
	Index   uint64
	Server  string // that it was compared with
	Earlier bool   `json:"-"` // it was found before this node was started
}

func (e *DivergedError) Error() string {
	if e.Earlier {
		return fmt.Sprintf("State differed from that of server %.8s at entry %d: this node begins anew when there is a leader", e.Server, e.Index)
	}
	return fmt.Sprintf("State differs from that of server %.8s at entry %d: restart this agent, and report this", e.Server, e.Index)
}

// following is the part of a node that is no raft server: it has State from the feed of one. A raft server has it too,
// asleep.
type following struct {
	n     *Node
	began time.Time
	store *followed     // of the loop alone
	lost  string        // of the loop alone: the server that failed last
	doubt chan struct{} // capacity 1: the server we follow may be gone

	mu      sync.Mutex // guards what follows
	told    feedStatus // by the last server that answered
	from    string     // whom we follow; "" = nobody
	outside time.Time  // when a server said that this node is none; zero = none did
	outSet  atomic.Bool
}

func newFollowing(n *Node) *following {
	return &following{n: n, began: time.Now(), store: newFollowed(n.cfg.Dir, n.log), doubt: make(chan struct{}, 1)}
}

// unseated says that this node was told that it is no raft server, and has not heard a leader since.
func (f *following) unseated() bool {
	if !f.outSet.Load() {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n.raft.LastContact().After(f.outside) {
		f.outside = time.Time{}
		f.outSet.Store(false)
		return false
	}
	return true
}

func (f *following) lastTold() feedStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.told
}

// Following is the raft server whose feed this node has State from; "" on a raft server, and while there is none.
func (n *Node) Following() string {
	n.follow.mu.Lock()
	defer n.follow.mu.Unlock()
	return n.follow.from
}

// suspect says that a question to the leader had no answer. If the leader that we know of is hearsay, it may be old.
func (f *following) suspect() {
	select {
	case f.doubt <- struct{}{}:
	default:
	}
}

// seated says whether raft's configuration, as this node has it, holds this node.
func (n *Node) seated() bool {
	return slices.ContainsFunc(n.configuration(), func(s raft.Server) bool { return string(s.ID) == n.cfg.ID })
}

// follows says whether State is to come from a feed: on a node that is no raft server; on one that is becoming one,
// until raft has brought it up; and on one that may be none any more without knowing, as it has heard no leader for long.
func (n *Node) follows() bool {
	if n.Err() != nil && n.seated() {
		return false
	}
	if !n.seated() || n.follow.unseated() {
		return true
	}
	if r, _ := n.roles.look(); r.Leading {
		return false
	}
	heard := n.raft.LastContact()
	if heard.IsZero() {
		heard = n.follow.began.Add(firstContact - leaderless)
	}
	line, state := n.machine.line.Load().state, n.State()
	behind := line.Cluster.Epoch < state.Cluster.Epoch || line.Index+caughtUpWithin < state.Index
	return behind || time.Since(heard) > leaderless
}

// run follows whenever this node is no raft server, until it closes.
func (f *following) run() {
	defer f.store.close()
	if f.n.State().Index == 0 && !f.sleep(firstRound) {
		return
	}
	pause := shortPause
	for {
		if !f.n.follows() {
			if !f.awaitUnseated() {
				return
			}
			pause = shortPause
		}
		if f.round() {
			pause = shortPause
		} else {
			f.n.roles.hear("") // who led by the last server's word may be gone with it
		}
		if !f.sleep(pause/2 + rand.N(pause)) {
			return
		}
		pause = min(2*pause, longPause)
	}
}

// sleep says whether the node goes on.
func (f *following) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-f.n.closing:
		return false
	}
}

// rest is what a raft server does about following: nothing, and what it stored for it goes.
func (f *following) rest() {
	f.n.roles.hear("")
	if f.store.any() && !f.n.State().Newer(f.n.machine.line.Load().state) {
		f.store.drop()
	}
}

// awaitUnseated returns when this node follows; false when it closes.
func (f *following) awaitUnseated() bool {
	config, stop := f.n.machine.config.watch()
	defer stop()
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for !f.n.follows() {
		f.rest()
		select {
		case <-config:
		case <-look.C:
		case <-f.n.closing:
			return false
		}
	}
	return true
}

// round asks one node after the other for a feed, and follows the first that gives one, until that ends. It says whether
// there was one.
func (f *following) round() bool {
	r := asking{f: f, asked: map[string]bool{f.n.cfg.ID: true}, servers: f.lastTold().Servers}
	for range askedAtMost {
		id := r.next()
		if id == "" || isClosed(f.n.closing) {
			break
		}
		if r.ask(id, false) {
			return true
		}
	}
	for _, id := range r.full { // every server is: then one must be fuller
		if r.ask(id, true) {
			return true
		}
	}
	return false
}

// asking is a round.
type asking struct {
	f       *following
	asked   map[string]bool
	servers []toldServer // that are, or may be
	found   bool         // a raft server answered
	full    []string     // servers that are full
}

// next is the raft server that is this node's by rendezvous, then the next; that which just failed is the last. Who knows
// none that answers asks any member: it does.
func (a *asking) next() string {
	var servers, others []string
	for _, s := range a.servers {
		if !a.asked[s.ID] {
			servers = append(servers, s.ID)
		}
	}
	if len(servers) > 0 {
		servers = byRendezvous(a.f.n.cfg.ID, servers)
		if servers[0] == a.f.lost && len(servers) > 1 {
			return servers[1]
		}
		return servers[0]
	}
	if a.found {
		return ""
	}
	if a.f.n.cfg.Members != nil {
		others = a.f.n.cfg.Members()
	}
	for id, node := range a.f.n.State().Nodes.All() {
		if !node.Down && !node.Left {
			others = append(others, id)
		}
	}
	others = slices.DeleteFunc(others, func(id string) bool { return a.asked[id] })
	if len(others) == 0 {
		return ""
	}
	return others[rand.IntN(len(others))]
}

// ask follows a server, if it lets us, until its feed ends, and says whether there was one.
func (a *asking) ask(id string, insist bool) bool {
	a.asked[id] = true
	carried, err := a.f.followServer(id, insist)
	r := refusal{}
	if !errors.As(err, &r) {
		a.f.lost = id
		return carried
	}
	a.found = a.found || r.Reason != reasonNoServer
	if r.Reason == reasonFull {
		a.full = append(a.full, id)
	}
	for _, s := range r.Servers {
		if !slices.Contains(a.servers, s) {
			a.servers = append(a.servers, s)
		}
	}
	return carried
}

// byRendezvous sorts servers by a hash of each with the follower: followers spread evenly, and the loss of one server
// moves only its own.
func byRendezvous(follower string, servers []string) []string {
	weight := func(id string) uint64 {
		h := fnv.New64a()
		_, _ = io.WriteString(h, id+"\x00"+follower)
		x := h.Sum64() // its high bits hardly depend on the last letters: mix them
		x ^= x >> 33
		x *= 0xff51afd7ed558ccd
		x ^= x >> 33
		x *= 0xc4ceb9fe1a85ec53
		return x ^ x>>33
	}
	servers = slices.Clone(servers)
	slices.SortFunc(servers, func(a, b string) int {
		return cmp.Or(cmp.Compare(weight(b), weight(a)), cmp.Compare(a, b))
	})
	return servers
}

// followServer follows one server until its feed ends, and says whether there was one.
func (f *following) followServer(id string, insist bool) (carried bool, err error) {
	c, err := f.dial(id)
	if err != nil {
		f.n.log.Debug("no feed", "of", id, "reason", err)
		return false, err
	}
	defer c.Close()
	s := &session{f: f, id: id, conn: c, r: bufio.NewReaderSize(c, 64<<10), first: true}
	st := f.n.State()
	err = s.run(hello{id: f.n.cfg.ID, epoch: st.Cluster.Epoch, index: st.Index, insist: insist})
	f.mu.Lock()
	f.from = ""
	leads := f.told.Leader == id
	f.mu.Unlock()
	if leads {
		f.n.roles.hear("") // it was the leader's feed
	}
	f.n.log.Debug("a feed ended", "of", id, "carried", !s.first, "reason", err)
	return !s.first, err
}

func (f *following) dial(id string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), dialFeed)
	defer cancel()
	done := make(chan struct{})
	defer close(done)
	go func() {
		select {
		case <-f.n.closing:
			cancel()
		case <-done:
		}
	}()
	return f.n.cfg.DialFeed(ctx, id)
}

// session is a feed that this node follows.
type session struct {
	f     *following
	id    string // of the server
	conn  net.Conn
	r     *bufio.Reader
	buf   []byte
	first bool // nothing has come yet
	asked atomic.Bool
}

func (s *session) run(h hello) error {
	_ = s.conn.SetDeadline(time.Now().Add(dialFeed))
	if _, err := s.conn.Write(h.encode()); err != nil {
		return err
	}
	_ = s.conn.SetWriteDeadline(time.Time{})
	done, ended := make(chan struct{}), make(chan struct{})
	go func() { defer close(ended); s.watch(done) }()
	err := s.read()
	s.f.store.sync()
	close(done)
	<-ended
	return err
}

// read takes frames until the feed ends.
func (s *session) read() error {
	for {
		k, body, err := readFrame(s.r, s.buf)
		if err != nil {
			return err
		}
		s.buf = body[:0]
		s.asked.Store(false)
		_ = s.conn.SetReadDeadline(time.Now().Add(feedSilence))
		if err := s.frame(k, body); err != nil {
			return err
		}
		if s.r.Buffered() == 0 {
			s.f.store.sync()
		}
	}
}

// watch ends the connection when this node closes or is a raft server, and asks the server for a sign when it is doubted.
func (s *session) watch(done <-chan struct{}) {
	n := s.f.n
	config, stop := n.machine.config.watch()
	defer stop()
	for {
		var look <-chan time.Time
		if n.seated() {
			if !n.follows() {
				_ = s.conn.Close()
				return
			}
			look = time.After(seatEvery)
			if n.follow.unseated() {
				look = time.After(8 * seatEvery) // what its raft has is old, maybe for good
			}
		}
		select {
		case <-done:
			return
		case <-n.closing:
			_ = s.conn.Close()
			return
		case <-config:
		case <-look:
		case <-s.f.doubt:
			s.ping()
		}
	}
}

func (s *session) ping() {
	if s.asked.Swap(true) {
		return // it has been asked, and has until then
	}
	by := time.Now().Add(doubtSilence)
	_ = s.conn.SetWriteDeadline(by)
	_ = s.conn.SetReadDeadline(by)
	if _, err := s.conn.Write([]byte{pingByte}); err != nil {
		_ = s.conn.Close()
	}
}

var errFirstFrame = errors.New("a feed does not begin with a status")

func (s *session) frame(k frameKind, body []byte) error {
	if s.first && k != frameStatus && k != frameRefusal {
		return fmt.Errorf("%w but a frame of kind %d", errFirstFrame, k)
	}
	switch k {
	case frameStatus:
		return s.status(body)
	case frameRefusal:
		return s.refused(body)
	}
	if s.f.n.Err() != nil {
		return nil // what cannot be applied is not stored; who leads is still of interest
	}
	switch k {
	case frameEntry:
		return s.entry(body)
	case frameChunk:
		return s.checkpoint(body)
	case frameCheck:
		return s.check(body)
	}
	return nil
}

func (s *session) status(body []byte) error {
	st, err := decodeStatus(body)
	if err != nil {
		return err
	}
	f := s.f
	f.mu.Lock()
	f.told, f.from = st, s.id
	if s.first {
		f.outside = time.Now() // it would have refused a raft server
		f.outSet.Store(true)
	}
	f.mu.Unlock()
	f.n.roles.hear(st.Leader)
	if s.first {
		s.first = false
		f.n.log.Info("following", "server", s.id, "from", f.n.State().Index)
	}
	return nil
}

func (s *session) refused(body []byte) error {
	r, err := decodeRefusal(body)
	if err != nil {
		return err
	}
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(r.Servers) > 0 && r.Reason != reasonNoServer { // what a node that is no server says is hearsay
		f.told.Servers = r.Servers
	}
	return r
}

func (s *session) entry(body []byte) error {
	e, err := decodeFeedEntry(body)
	if err != nil {
		return err
	}
	m := s.f.n.machine
	if err := m.follow(e.prev, e.index, e.entry); err != nil {
		if m.err() != nil {
			return nil // this binary is too old
		}
		return err
	}
	s.f.store.add(e, m.state.Load())
	if s.f.store.tooLong(m.every) {
		s.f.store.save(m.state.Load())
	}
	return nil
}

// checkpoint reads one to its end. Its first piece is here.
func (s *session) checkpoint(first []byte) error {
	m := s.f.n.machine
	pieces := &pieces{s: s, rest: first}
	st, err := ReadState(pieces)
	if must := (*MustUpgradeError)(nil); errors.As(err, &must) {
		m.fail(must)
	}
	if err != nil {
		return err
	}
	if have := m.state.Load(); have.Cluster.ID != "" && have.Cluster.ID != st.Cluster.ID {
		return fmt.Errorf("server %s sends the State of cluster %q, this is one of %q", s.id, st.Cluster.ID, have.Cluster.ID)
	}
	m.publish(st)
	s.f.n.epoch.hear(st.Cluster.Epoch)
	s.f.store.save(m.state.Load())
	return nil
}

// maxCheckpoint bounds a checkpoint that is received, in bytes.
const maxCheckpoint = 4 << 30

// pieces reads the frames of a checkpoint as one text.
type pieces struct {
	s    *session
	rest []byte
	size int64
	end  bool
}

// Read gives what has come.
func (p *pieces) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		if p.end {
			return 0, io.EOF
		}
		k, body, err := readFrame(p.s.r, p.s.buf)
		if err != nil {
			return 0, noEOF(err)
		}
		p.s.buf = body[:0]
		_ = p.s.conn.SetReadDeadline(time.Now().Add(feedSilence))
		switch k {
		case frameChunk:
			p.rest = body
		case frameEnd:
			p.end = true
		default:
			return 0, fmt.Errorf("a frame of kind %d within a checkpoint", k)
		}
		if p.size += int64(len(body)); p.size > maxCheckpoint {
			return 0, fmt.Errorf("a checkpoint of more than %d bytes", int64(maxCheckpoint))
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// check compares this node's State with the server's. Where the entries since the last checkpoint are many, it is
// written on the way.
func (s *session) check(body []byte) error {
	c, err := decodeCheck(body)
	if err != nil {
		return err
	}
	m := s.f.n.machine
	st := m.state.Load()
	if st.Index != c.index {
		return nil // raft's log has led further meanwhile
	}
	var sum [32]byte
	if s.f.store.worthSaving(m.every) {
		sum = s.f.store.save(st)
	} else {
		sum = Digest(st)
	}
	if sum == c.digest {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), compareTime)
	defer cancel()
	if err := s.f.n.arbitrate(ctx, st); err != nil {
		s.f.n.diverge(err)
		s.f.store.setAside()
		return nil
	}
	return fmt.Errorf("server %s has a State of its own at %d", s.id, c.index)
}

// tooLong and worthSaving say how much there is to replay at a start: more than should be, or enough to be rid of it
// when State is serialised anyway.
func (f *followed) tooLong(every uint64) bool { return f.count > 2*every || f.bytes > maxUnstored }

func (f *followed) worthSaving(every uint64) bool { return f.count > every/2 || f.file == nil }

// loadFollowed makes the State that this node followed before it was started the State, if raft's is older.
func (n *Node) loadFollowed() error {
	s, err := n.follow.store.load(func(s *model.State, e feedEntry) (*model.State, error) {
		next, _, err := n.machine.next(s, e.index, e.entry)
		return next, err
	})
	if s != nil {
		n.machine.publish(s)
	}
	return err
}
