package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fxamacker/cbor/v2"
	"golang.org/x/sync/errgroup"

	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// Node holds the handles of a running agent. What changes is in State, in the leaves, or in one of the loops.
type Node struct {
	cfg     Config
	log     *slog.Logger
	dir     paths
	id      *mesh.Identity
	trust   *trust
	pins    *pins
	mesh    *mesh.Mesh
	fsm     *raftfsm.Node
	store   *snapshotstore.Store
	keeper  *keeper.Client
	kinds   []*kind
	peers   *peers
	agent   *agent
	events  *eventRing
	fetches keyedLock
	builds  builder
	shared  sharedPorts
	lease   lease
	downs   downs
	disk    diskWatch
	again   bool        // it has started anew in its process
	reopen  func()      // ends the loops, so that the agent starts anew
	seeding sync.Mutex  // held while a raft directory to start anew with is made
	seeded  bool        // there is one; guarded by seeding
	keyed   atomic.Bool // the store has the cluster's key

	undo []func() // what open did, in order
}

// agentNice puts the agent before others where it may (root): on a machine without idle time a leader that has to wait for
// its turn loses its lease of 250 ms. Services, builds and tools run as ever.
const agentNice = -10

// Run is an agent from start to end: it returns when ctx ends, after an orderly stop, or when it cannot go on.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return &api.Error{Code: api.CodeUsage, Message: err.Error()}
	}
	if err := keeper.Renice(agentNice); err != nil {
		cfg.Log.Debug("the agent has no priority over others", "err", err)
	}
	for again := false; ; again = true {
		err := run(ctx, cfg, again)
		if !errors.Is(err, errReopen) {
			return err
		}
		cfg.Log.Info("the agent starts anew")
		cfg.Join, cfg.Token = nil, "" // they have been used
	}
}

// run is one life of an agent in its process.
func run(ctx context.Context, cfg Config, again bool) error {
	n := &Node{cfg: cfg, log: cfg.Log, dir: paths(cfg.Dir), again: again}
	defer n.close()
	if err := n.open(ctx); err != nil {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return nil // told to stop while it waited to be admitted
		}
		return err
	}
	n.log.Info("agent started", "node", cfg.Name, "id", n.id.ID, "address", n.mesh.Addr(), "data", cfg.Dir, "version", Version)
	return n.serve(ctx)
}

// open starts the leaves in the order in which they need each other. The order of closing is the reverse: nothing is
// taken any more before what it needs goes away.
func (n *Node) open(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		n.openDir, n.openIdentity, n.openStore, n.openMesh, n.openRaft, n.openKeeper, n.bootstrapRaft,
	} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) onClose(f func()) { n.undo = append(n.undo, f) }

func (n *Node) close() {
	for i := len(n.undo) - 1; i >= 0; i-- {
		n.undo[i]()
	}
}

func (n *Node) openDir(context.Context) error {
	if err := makeDirs(n.cfg.Dir); err != nil {
		return err
	}
	unlock, err := lockFile(n.dir.lock())
	if err != nil {
		return fmt.Errorf("data directory %s: %w", n.cfg.Dir, err)
	}
	n.onClose(unlock)
	if err := n.mayStart(); err != nil {
		return err
	}
	n.logClose("what an unfinished build left", removeAll(n.dir.buildWork()))
	if n.events, err = openEvents(n.dir.events()); err != nil {
		return err
	}
	n.onClose(n.events.close)
	return nil
}

// openIdentity finds out who this node is and to which cluster it belongs, making or joining one if it must.
func (n *Node) openIdentity(ctx context.Context) error {
	var err error
	if n.id, err = mesh.LoadIdentity(n.cfg.Dir); err != nil {
		return err
	}
	if n.trust, err = enter(ctx, n.cfg, n.id); err != nil {
		return err
	}
	n.cfg.Name = n.trust.get().Name // as admitted; another --name later changes nothing
	return nil
}

func (n *Node) openStore(context.Context) error {
	var err error
	if n.store, err = snapshotstore.Open(n.dir.store(), snapshotstore.Options{Log: n.log, Grace: packageGrace, Room: n.roomFor}); err != nil {
		return err
	}
	n.onClose(func() { n.logClose("store", n.store.Close()) })
	return n.sweepPackages()
}

func (n *Node) logClose(what string, err error) {
	if err != nil {
		n.log.Warn("closing", "what", what, "err", err)
	}
}

func (n *Node) openMesh(ctx context.Context) error {
	f := n.trust.get()
	n.pins = n.loadPins()
	n.trust.setPinned(n.pins.key)
	var err error
	n.mesh, err = mesh.Open(ctx, mesh.Config{Identity: n.id, Bind: n.cfg.Bind, Advertise: n.cfg.Advertise, Dir: n.cfg.Dir,
		Cert: n.trust.chain, Trust: n.trust.accept, Join: n.admit, GossipKey: f.GossipKeys[0], OldGossipKeys: f.GossipKeys[1:],
		OnKeys: func(keys [][]byte) {
			n.logClose("gossip keys", n.trust.change(func(f *clusterFile) { f.GossipKeys = keys }))
		},
		Tags: n.tags(), Log: n.log})
	if err != nil {
		return err
	}
	n.onClose(func() { n.logClose("mesh", n.mesh.Close()) })
	n.peers = newPeers(n.mesh)
	n.onClose(n.peers.close)
	if len(f.Join) > 0 {
		if err := n.mesh.Rejoin(f.Join...); err != nil {
			n.log.Warn("looking for members", "err", err)
		}
	}
	return nil
}

func (n *Node) openRaft(context.Context) error {
	err := n.adoptSeed()
	if err != nil {
		return err
	}
	n.fsm, err = raftfsm.Open(raftfsm.Config{ID: n.id.ID, Dir: n.dir.raft(), Listener: n.mesh.Listener(mesh.ProtoRaft),
		Dial:    func(ctx context.Context, id string) (net.Conn, error) { return n.mesh.Dial(ctx, id, mesh.ProtoRaft) },
		Forward: n.peers.forward, LeaderIndex: n.peers.index, Feed: n.mesh.Listener(mesh.ProtoFeed),
		DialFeed: func(ctx context.Context, id string) (net.Conn, error) { return n.mesh.Dial(ctx, id, mesh.ProtoFeed) },
		Members:  n.aliveMembers, Log: n.log})
	if err != nil {
		return err
	}
	n.onClose(n.closeRaft)
	state := n.fsm.State
	n.pins.state.Store(&state)
	return nil
}

// aliveMembers are the nodes that gossip hears.
func (n *Node) aliveMembers() []string {
	var ids []string
	for _, m := range n.mesh.Members() {
		if m.Status == mesh.StatusAlive {
			ids = append(ids, m.ID)
		}
	}
	return ids
}

func (n *Node) closeRaft() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	n.logClose("raft", n.fsm.Close(ctx))
}

// bootstrapRaft finishes what bootstrap began, at whichever start gets that far.
func (n *Node) bootstrapRaft(ctx context.Context) error {
	b := n.trust.get().Init
	if len(b) == 0 {
		return nil
	}
	var part initPart
	if err := cbor.Unmarshal(b, &part); err != nil {
		return fmt.Errorf("cluster file %s: its init is damaged: %w", n.dir.cluster(), err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := n.fsm.Bootstrap(ctx, part.Init)
	var refused *model.ResultError
	if err != nil && !(errors.As(err, &refused) && refused.Result.Code == model.ErrInitialised) {
		return fmt.Errorf("make the cluster: %w", err)
	}
	return n.trust.change(func(f *clusterFile) { f.Init = nil })
}

// serve runs the loops until ctx ends or one of them cannot go on.
func (n *Node) serve(ctx context.Context) error {
	again, reopen := context.WithCancelCause(ctx)
	defer reopen(nil)
	n.reopen = func() { reopen(errReopen) }
	g, ctx := errgroup.WithContext(again)
	n.agent = newAgent(n)
	run := func(f func(context.Context) error) { g.Go(func() error { return f(ctx) }) }
	run(n.servePeers)
	run(n.serveAPI)
	run(n.agent.run)
	run(n.agent.batch.run)
	run(n.watchKeeper)
	run(n.watchModules)
	run(n.healthLoop)
	run(n.sharedPortsLoop)
	run(n.collectLoop)
	run(n.keepSnapshotsLoop)
	run(n.keepPackagesLoop)
	run(n.journalLoop)
	run(n.leaveLoop)
	run(n.overtakenLoop)
	run(n.leaseLoop)
	run(n.downsLoop)
	run(n.renewLoop)
	run(n.diskLoop)
	run(n.faultLoop)
	run(n.announceLoop)
	run(func(ctx context.Context) error { n.fsm.ShapeLoop(ctx); return nil })
	run(func(ctx context.Context) error { n.fsm.Lead(ctx, n.lead); return nil })
	err := g.Wait()
	if errors.Is(context.Cause(again), errReopen) {
		return errReopen
	}
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	left := errors.Is(err, errLeft)
	if n.cfg.StopServices || left {
		n.stopServices()
	}
	if left {
		return nil
	}
	return err
}

// lockFile takes the lock of a data directory; it lasts as long as the process.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := flock(f); err != nil {
		defer f.Close()
		b, _ := os.ReadFile(path)
		return nil, fmt.Errorf("another agent uses it (pid %s)", firstLine(b))
	}
	_ = f.Truncate(0)
	_, _ = fmt.Fprintf(f, "%d\n", os.Getpid())
	return func() {
		unflock(f) // closing alone leaves the lock to a child that is between fork and exec
		_ = f.Close()
	}, nil
}

func firstLine(b []byte) string {
	for i, c := range b {
		if c == '\n' {
			return string(b[:i])
		}
	}
	return string(b)
}

// executable is this binary, for the keeper; a replaced one still has its path.
func executable() (string, error) {
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find this program: %w", err)
	}
	return filepath.Clean(exe), nil
}
