package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Config is what Open needs. Fields without "optional" must be set.
type Config struct {
	Identity *Identity
	Bind     string // host:port of the UDP socket; port 0 picks one
	// Advertise is the host:port that others are told; optional. Without it: the
	// host of Bind, or if that is a wildcard the address of the default route,
	// looked up again and again.
	Advertise string
	Dir       string // where the peers file and the reset key live; exists

	// Cert returns this node's leaf and the CA certificate behind it. It is asked
	// in every handshake, so that renewal needs no restart; it must be quick.
	// Optional: without it, or when it returns none, the node vouches for itself
	// with its key alone.
	Cert func() (chainDER [][]byte, err error)
	// Trust decides whether the holder of that key is a member: nil means yes. It
	// is asked in every handshake of members, on both sides; the chain is what the
	// peer presented, unverified. VerifyNode helps.
	Trust func(pub ed25519.PublicKey, chain []*x509.Certificate) error
	// Join answers a request for admission from the holder of that key, within 15
	// s. Error: a *Refused travels as it is. Optional: without it joining here is
	// impossible.
	Join func(ctx context.Context, peerKey ed25519.PublicKey, request []byte) (reply []byte, err error)
	// Known lists further nodes to look for, with addresses to try. Asked often.
	// Optional.
	Known func() []Peer

	GossipKey     []byte              // 32 bytes
	OldGossipKeys [][]byte            // still accepted; optional
	OnKeys        func(keys [][]byte) // the keys changed, the one in use first; optional

	Tags map[string]string // this node's tags; "name" becomes Member.Name
	Log  *slog.Logger      // optional
}

const (
	resetKeyFile = "reset.key"
	tick         = time.Second
	readvertise  = 5 * time.Second
)

// Mesh is this node's end of everything between nodes.
type Mesh struct {
	cfg   Config
	id    *Identity
	log   *slog.Logger
	boot  boot
	udp   net.PacketConn
	tr    *quic.Transport
	ln    *quic.Listener
	certs *certificates

	table     *table
	links     *links
	listeners *listeners
	gossip    *gossip
	rejoin    *rejoin
	joins     chan struct{} // a place per join under way
	changed   chan struct{} // capacity 1

	keysMu   sync.Mutex // guards lastKeys; held while OnKeys runs
	lastKeys [][]byte

	ctx    context.Context // ends when Close begins
	cancel context.CancelFunc
	mu     sync.Mutex // guards ended
	ended  bool       // no more goroutines
	wg     sync.WaitGroup
	once   sync.Once
}

// Open binds the socket, starts gossip and begins to look for the nodes of the
// peers file and Known. It waits for none of them. ctx bounds only Open itself.
// On error everything that was begun is undone.
func Open(ctx context.Context, cfg Config) (*Mesh, error) {
	return open(ctx, cfg, listenUDP)
}

func open(ctx context.Context, cfg Config, listen func(string) (net.PacketConn, error)) (_ *Mesh, err error) {
	m, err := prepare(cfg)
	if err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	undo := []func(){m.cancel}
	defer func() {
		for i := len(undo) - 1; err != nil && i >= 0; i-- {
			undo[i]()
		}
	}()
	if m.udp, err = listen(cfg.Bind); err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	undo = append(undo, func() { _ = m.udp.Close() })
	if err = m.listen(); err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	undo = append(undo, func() { _ = m.tr.Close() })
	if err = ctx.Err(); err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	if err = m.start(); err != nil {
		return nil, fmt.Errorf("open mesh: %w", err)
	}
	return m, nil
}

// prepare checks the configuration and reads the files.
func prepare(cfg Config) (*Mesh, error) {
	if cfg.Identity == nil || cfg.Dir == "" || cfg.Trust == nil {
		return nil, errors.New("identity, directory and trust must be given")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Mesh{cfg: cfg, id: cfg.Identity, log: cfg.Log, certs: &certificates{id: cfg.Identity, cert: cfg.Cert},
		table: newTable(cfg.Identity.ID), links: newLinks(), listeners: newListeners(),
		joins: make(chan struct{}, maxJoins), changed: make(chan struct{}, 1)}
	_, _ = rand.Read(m.boot[:]) // never fails (crypto/rand)
	m.gossip, m.rejoin = newGossip(m), newRejoin(m)
	known, err := loadPeers(cfg.Dir)
	if err != nil {
		m.log.Warn("peers file ignored", "error", err)
	}
	m.table.restore(known)
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m, nil
}

// listen starts QUIC on the socket.
func (m *Mesh) listen() error {
	reset, err := loadResetKey(m.cfg.Dir)
	if err != nil {
		return err
	}
	var n newcomers
	m.tr = &quic.Transport{Conn: m.udp, ConnectionIDLength: 8, StatelessResetKey: reset,
		VerifySourceAddress: func(net.Addr) bool { return n.suspicious(time.Now()) }}
	if m.ln, err = m.tr.Listen(m.serverTLS(), quicConfig(control)); err != nil {
		_ = m.tr.Close()
		return fmt.Errorf("listen: %w", err)
	}
	return nil
}

// loadResetKey reads or makes the key with which a restarted node tells its
// peers that their connections to its former life are dead.
func loadResetKey(dir string) (*quic.StatelessResetKey, error) {
	var key quic.StatelessResetKey
	path := filepath.Join(dir, resetKeyFile)
	data, err := readFile(path, 1<<10)
	switch {
	case err == nil && len(data) == len(key):
		copy(key[:], data)
		return &key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	_, _ = rand.Read(key[:]) // never fails (crypto/rand); losing an old key costs only time
	return &key, writeFile(path, key[:], 0o600)
}

// start begins gossip and the loops. The listener for gossip streams is there
// before the first connection can be accepted.
func (m *Mesh) start() error {
	addr, err := advertised(m.cfg.Advertise, m.udp.LocalAddr())
	if err != nil {
		return err
	}
	t := newTransport(m)
	streams := m.Listener(ProtoGossip)
	if err := m.gossip.start(t, m.cfg.Tags, addr); err != nil {
		return err
	}
	m.lastKeys = m.GossipKeys()
	m.spawn(t.readPackets)
	m.spawn(func(context.Context) { t.acceptStreams(streams) })
	m.spawn(m.gossip.run)
	m.spawn(m.acceptLoop)
	m.spawn(m.rejoin.run)
	m.spawn(m.maintain)
	return nil
}

// spawn runs f in a goroutine that Close waits for; f ends with its ctx. It
// reports false when the mesh is closed.
func (m *Mesh) spawn(f func(ctx context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ended {
		return false
	}
	m.wg.Go(func() { f(m.ctx) })
	return true
}

// maintain does what is due once in a while.
func (m *Mesh) maintain(ctx context.Context) {
	t := time.NewTicker(tick)
	defer t.Stop()
	var looked time.Time
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		m.keepWarm()
		m.dropUnused()
		m.noteKeys()
		m.save()
		if m.cfg.Advertise == "" && time.Since(looked) > readvertise {
			looked = time.Now()
			m.followAddress()
		}
	}
}

func (m *Mesh) save() {
	if r, dirty := m.table.unsaved(); dirty {
		if err := savePeers(m.cfg.Dir, r); err != nil {
			m.log.Warn("peers file not written", "error", err)
		}
	}
}

// followAddress notices that this machine's own address has changed.
func (m *Mesh) followAddress() {
	addr, err := advertised("", m.udp.LocalAddr())
	if err != nil || addr == m.gossip.address() {
		return
	}
	m.log.Info("own address changed", "from", m.gossip.address(), "to", addr)
	if err := m.gossip.setAddr(addr); err != nil {
		m.log.Debug("address not announced", "error", err)
	}
	m.drop(connStale, "address changed", func(*link) bool { return true })
	_ = m.Rejoin()
}

// drop closes the links that match.
func (m *Mesh) drop(code quic.ApplicationErrorCode, why string, match func(*link) bool) {
	for _, l := range m.links.list(match) {
		l.close(code, why)
	}
}

// dropFailed closes the links to a node that gossip calls failed, unless it was
// heard on one of them a moment ago: then gossip is wrong or soon will be.
func (m *Mesh) dropFailed(id string) {
	m.drop(connStale, "failed", func(l *link) bool {
		return l.id == id && time.Duration(m.table.now()-l.received.Load()) > heardLately
	})
}

// dropMoved closes the links to where the node was before.
func (m *Mesh) dropMoved(id string) {
	now := m.table.active(id)
	m.drop(connStale, "moved", func(l *link) bool { return l.id == id && l.remote != now })
}

// dropUnused closes links that we dialled and nobody needs.
func (m *Mesh) dropUnused() {
	m.drop(connIdle, "unused", func(l *link) bool {
		return l.dialed && l.streams.Load() == 0 && l.unused() > linkUnused && !l.peer.warm.Load()
	})
}

// Recheck asks Trust again about every connected peer and closes the links of
// those that it refuses now. To be called when a node was removed.
func (m *Mesh) Recheck() {
	for _, l := range m.links.list(func(*link) bool { return true }) {
		if err := m.cfg.Trust(l.pub, l.chain); err != nil {
			m.log.Info("connection closed", "node", l.id, "error", err)
			l.close(connUnauthorized, "no longer trusted")
		}
	}
}

// Changed is signalled (capacity 1) after any change in Members. It only wakes:
// look at Members again.
func (m *Mesh) Changed() <-chan struct{} { return m.changed }

func (m *Mesh) notify() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// ID is this node's id.
func (m *Mesh) ID() string { return m.id.ID }

// Addr is what others are told: host:port.
func (m *Mesh) Addr() string { return m.gossip.address() }

// Resolve is the best known address of a node, host:port.
func (m *Mesh) Resolve(id string) (string, bool) {
	if id == m.id.ID {
		return m.Addr(), true
	}
	if addrs := m.candidates(id); len(addrs) > 0 {
		return addrs[0], true
	}
	return "", false
}

// Close ends everything: gossip first (it uses the streams), then the listeners,
// then every connection with a word to its peer, then the socket. It waits for
// all of mesh's goroutines; those of serf and memberlist end by themselves
// within a second. Without Leave before it, the others will see a failure.
func (m *Mesh) Close() error {
	var err error
	m.once.Do(func() { err = m.shutdown() })
	return err
}

func (m *Mesh) shutdown() error {
	m.mu.Lock()
	m.ended = true
	m.mu.Unlock()
	err := m.gossip.serf.Shutdown()
	m.cancel()
	m.listeners.close()
	var wg sync.WaitGroup
	for _, l := range m.links.shut() {
		wg.Go(func() { l.close(connBye, "") })
	}
	wg.Wait()
	err = errors.Join(err, m.ln.Close(), m.tr.Close(), m.udp.Close())
	m.wg.Wait()
	m.save()
	return err
}
