package raftfsm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// Errors that callers branch on.
var (
	ErrNotLeader = errors.New("this node is not the leader")
	ErrNoQuorum  = errors.New("no quorum: a majority of the raft servers cannot be reached")
	ErrClosed    = errors.New("the node is closed")
	// ErrUncertain says that leadership ended before the outcome of a proposal was known: it may yet be applied.
	ErrUncertain = errors.New("leadership was lost before the outcome was known")
)

// NotLeaderError is an ErrNotLeader that knows who leads.
type NotLeaderError struct{ Leader string } // "" = not known

func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return ErrNotLeader.Error() + " and knows none"
	}
	return fmt.Sprintf("%v: %s is", ErrNotLeader, e.Leader)
}

// Is makes errors.Is(err, ErrNotLeader) true.
func (e *NotLeaderError) Is(target error) bool { return target == ErrNotLeader }

// Timing are raft's clocks. They are the same on every server of a cluster.
type Timing struct {
	Heartbeat time.Duration // a follower that hears nothing for this long (to twice) asks for votes
	Election  time.Duration // a candidate that is not elected for this long (to twice) begins again; >= Heartbeat
	Lease     time.Duration // a leader that hears no majority for this long steps down; <= Heartbeat, and no reason to be less
	Commit    time.Duration // an idle leader tells followers what is committed after this long (to twice)
	RPC       time.Duration // deadline of one request between servers; a checkpoint has this per 256 KiB
}

// sure is how lately a majority must have answered a leader for it to know that there is no other: a fifth less than what
// keeps voters from voting for one, for clocks that differ.
func (t Timing) sure() time.Duration { return t.Heartbeat * 4 / 5 }

// LAN is the default: failover in about half a second.
func LAN() Timing {
	return Timing{250 * time.Millisecond, 250 * time.Millisecond, 250 * time.Millisecond, 50 * time.Millisecond, 5 * time.Second}
}

// WAN is LAN four times slower.
func WAN() Timing {
	l := LAN()
	return Timing{4 * l.Heartbeat, 4 * l.Election, 4 * l.Lease, 2 * l.Commit, 2 * l.RPC}
}

// Checkpoints say when State is written and the log cut.
type Checkpoints struct {
	Entries  uint64        // write one once so many entries are not in the last; default 8192
	Interval time.Duration // how often that is looked at (to twice); default 1 min
	Trailing uint64        // entries that stay in the log, for followers that lag; default 4096
}

// Config of a Node. What is not optional, or has a default, is required.
type Config struct {
	ID  string // of the node, and its raft address
	Dir string // made if missing, 0700

	// Listener gives connections from other raft servers. Close closes it.
	Listener net.Listener
	// Dial connects to the Listener of another server.
	Dial func(ctx context.Context, id string) (net.Conn, error)
	// Forward carries a proposal to HandleForward on the leader and brings its reply.
	Forward func(ctx context.Context, leaderID string, request []byte) (reply []byte, err error)
	// LeaderIndex asks HandleReadIndex on the leader.
	LeaderIndex func(ctx context.Context, leaderID string) (uint64, error)

	// Feed gives connections of nodes that follow this one, or ask it whom to follow. Close closes it.
	Feed net.Listener
	// DialFeed connects to the Feed of another node.
	DialFeed func(ctx context.Context, id string) (net.Conn, error)
	// Members names nodes that may know who the raft servers are, for a node that knows none. Optional.
	Members func() []string

	Log         *slog.Logger // default: none
	Timing      Timing       // zero: LAN
	Checkpoints Checkpoints
	Apply       ApplyFunc // default Apply

	disk func(write func() error) error // tests: stands between raft and the disk
}

func (c *Config) complete() error {
	switch {
	case c.ID == "" || c.Dir == "":
		return errors.New("open raft: no id or directory")
	case c.Listener == nil || c.Dial == nil || c.Forward == nil || c.LeaderIndex == nil || c.Feed == nil || c.DialFeed == nil:
		return errors.New("open raft: Listener, Dial, Forward, LeaderIndex, Feed and DialFeed are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Timing == (Timing{}) {
		c.Timing = LAN()
	}
	if c.Timing.RPC == 0 {
		c.Timing.RPC = LAN().RPC
	}
	d := &c.Checkpoints
	d.Entries, d.Interval, d.Trailing = or(d.Entries, 8192), or(d.Interval, time.Minute), or(d.Trailing, 4096)
	if c.Apply == nil {
		c.Apply = Apply
	}
	return nil
}

func or[V comparable](v, otherwise V) V {
	var zero V
	if v == zero {
		return otherwise
	}
	return v
}

// Node is this machine's State, whichever way it comes: by its raft server, or by the feed of another node's. Every node
// has a raft server; that of a node which is in no raft configuration is asleep.
type Node struct {
	cfg     Config
	log     *slog.Logger
	machine *machine
	disk    *disk
	wedge   *wedge
	stores  *stores
	epoch   *epoch
	memory  *memory
	streams *streams
	trans   *transport
	raft    *raft.Raft
	running atomic.Pointer[raft.Raft] // raft, for what is asked before it has started
	roles   *roles
	pulse   *pulse
	handing handing
	feeds   *feeds
	follow  *following
	sums    sums
	doubted chan *model.State // capacity 1: another server has another State than this one

	fit        atomic.Int32 // a Fitness
	gate       gate
	proof      proof
	calls      calls
	readRounds rounds[leaderAnswer] // of this node's readers: each asks the leader once
	askRounds  rounds[*model.State] // of all nodes' readers, on the leader: each proves leadership once
	proofs     rounds[struct{}]     // of Prove

	closing chan struct{} // closed when Close begins: nothing new is taken
	dead    chan struct{} // closed when raft is shut down: nothing is waited for
	once    sync.Once
	// stopRaft shuts raft down once; only the first of raft's own futures waits for it.
	stopRaft func() raft.Future
	loops    sync.WaitGroup
}

// Open starts the server from what is in cfg.Dir. In an empty directory it waits until it is added to a cluster or
// bootstrapped, or follows another node's State. It closes cfg.Listener and cfg.Feed when it fails. Errors: ErrInUse, ErrDamaged, *MustUpgradeError (a checkpoint of
// a newer version).
func Open(cfg Config) (*Node, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	n, err := open(cfg, newBridge(cfg.Log))
	if err != nil {
		return nil, errors.Join(err, cfg.Listener.Close(), cfg.Feed.Close())
	}
	n.loops.Go(func() { n.roles.run(n.dead) })
	n.loops.Go(n.watchLeadership)
	n.loops.Go(n.serveFeeds)
	n.loops.Go(n.follow.run)
	n.loops.Go(n.compareLoop)
	return n, nil
}

func open(cfg Config, hlog hclog.Logger) (*Node, error) {
	conf := newRaftConfig(cfg, hlog)
	if err := raft.ValidateConfig(conf); err != nil {
		return nil, fmt.Errorf("open raft: %w", err)
	}
	n := &Node{cfg: cfg, log: cfg.Log, machine: newMachine(cfg.Apply, cfg.Checkpoints.Entries, cfg.Log), disk: newDisk(cfg.Timing, cfg.disk, cfg.Log),
		wedge: newWedge(cfg.Timing, cfg.Log), pulse: newPulse(cfg.Timing.sure()),
		doubted: make(chan *model.State, 1), closing: make(chan struct{}), dead: make(chan struct{})}
	n.calls.init()
	n.feeds, n.follow = newFeeds(), newFollowing(n)
	var err error
	if err = beginAnew(cfg.Dir); err != nil {
		return nil, err
	}
	if n.stores, err = openStores(cfg.Dir, n.disk, hlog); err != nil {
		return nil, err
	}
	n.stores.stable.log, n.stores.stable.stop = cfg.Log, n.dead
	if n.epoch, err = openEpoch(n.stores, &n.running); err == nil {
		n.memory, err = openMemory(n.stores, &n.running)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open raft in %s: %w", cfg.Dir, err), n.stores.close())
	}
	n.streams = newStreams(cfg.ID, cfg.Listener, cfg.Dial, n.epoch)
	n.trans = newTransport(n.streams, cfg.Timing, hlog, n.silent, n.Eligible, n.memory)
	err = n.loadFollowed()
	if was := earlier(cfg.Dir); was != nil && err == nil {
		n.machine.fail(was)
	}
	if err == nil {
		n.epoch.hear(n.State().Cluster.Epoch)
		n.raft, err = n.startRaft(conf)
	}
	if err != nil {
		_ = n.trans.Close()
		n.streams.closeAll()
		return nil, errors.Join(fmt.Errorf("open raft in %s: %w", cfg.Dir, err), n.stores.close())
	}
	n.running.Store(n.raft)
	n.stores.stable.on.Store(true)
	n.stopRaft = sync.OnceValue(n.raft.Shutdown)
	n.roles = newRoles(cfg.ID, n.raft)
	n.trans.pursue(n.pursues)
	return n, nil
}

func newRaftConfig(cfg Config, hlog hclog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(cfg.ID)
	c.HeartbeatTimeout, c.ElectionTimeout = cfg.Timing.Heartbeat, cfg.Timing.Election
	c.LeaderLeaseTimeout, c.CommitTimeout = cfg.Timing.Lease, cfg.Timing.Commit
	c.SnapshotThreshold, c.SnapshotInterval, c.TrailingLogs = cfg.Checkpoints.Entries, cfg.Checkpoints.Interval, cfg.Checkpoints.Trailing
	c.BatchApplyCh = true
	c.ShutdownOnRemove = false // a server that is taken out stays a node with a State
	c.NoLegacyTelemetry = true
	c.Logger = hlog
	return c
}

// startRaft turns raft's panics over files that do not fit together into an error.
func (n *Node) startRaft(c *raft.Config) (r *raft.Raft, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: log and checkpoints do not fit together: %v", ErrDamaged, p)
		}
	}()
	before := n.machine.err() // an entry that this node followed: it may start with that
	r, err = raft.NewRaft(c, n.machine, n.stores.logs, n.stores.stable, n.stores.checkpoints, n.trans)
	if must := n.machine.err(); must != nil && before == nil {
		return r, must
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return r, err
}

// Err says why the node applies no entries any more: a *MustUpgradeError once it met what it does not understand, a
// *DivergedError once its State proved to be another than that of the raft servers; else nil.
func (n *Node) Err() error { return n.machine.err() }

// Failed is closed when Err becomes set.
func (n *Node) Failed() <-chan struct{} { return n.machine.stop }

// Eligible says whether this server may lead: it understands the log, was not told that it is no raft server any more,
// its disk writes in time, its raft is sound, and nobody said that it is unable.
func (n *Node) Eligible() bool {
	return n.machine.err() == nil && !n.follow.unseated() && n.disk.healthy() && !n.wedge.wedged() && n.fitness() != Unable
}

// Fitness is what whoever runs a server knows of its machine.
type Fitness int32

// Fitnesses.
const (
	Fit       Fitness = iota
	Reluctant         // it leads only as long as no healthy server can
	Unable            // it may not lead
)

// SetFitness tells it. A leader that is not fit hands over; where it finds nobody it goes on.
func (n *Node) SetFitness(f Fitness) { n.fit.Store(int32(f)) }

func (n *Node) fitness() Fitness { return Fitness(n.fit.Load()) }

// DiskFault is the error of a write to disk that failed within the last seconds; nil if none did.
func (n *Node) DiskFault() error { return n.disk.fault() }

// silent says that this server, if it leads, must not keep others from electing a better one.
func (n *Node) silent() bool { return n.disk.stalled() || n.wedge.wedged() }

// pursues says that this server leads in a term and another is one of its raft servers.
func (n *Node) pursues(id raft.ServerID, term uint64) bool {
	r, _ := n.roles.look()
	return r.Leading && r.Term == term && slices.ContainsFunc(n.configuration(), func(s raft.Server) bool { return s.ID == id })
}

// DiskStall is how long the log write under way has taken, 0 when there is none.
func (n *Node) DiskStall() time.Duration { return n.disk.underWay() }

// State is the newest State that this node knows of: a stale read. It is never nil; before Init it has no cluster id.
func (n *Node) State() *model.State { return n.machine.state.Load() }

// Changed is closed at the next change of State, or of the raft servers. Take it before looking at State.
func (n *Node) Changed() <-chan struct{} { return n.machine.news.next() }

// Watch gives a channel that holds a wake whenever State, or the raft servers, changed since it was last taken, and a function to end it.
func (n *Node) Watch() (wake <-chan struct{}, stop func()) { return n.machine.news.watch() }

// Wait gives a State that holds everything up to a log index.
func (n *Node) Wait(ctx context.Context, index uint64) (*model.State, error) {
	for {
		changed := n.Changed()
		if s := n.State(); s.Index >= index {
			return s, nil
		}
		select {
		case <-changed:
		case <-n.machine.stop:
			return nil, n.Err()
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for log index %d: %w", index, ctx.Err())
		case <-n.dead:
			return nil, ErrClosed
		}
	}
}

// Checkpoint writes State to disk now.
func (n *Node) Checkpoint(ctx context.Context) error {
	_, err := await(ctx, n, n.raft.Snapshot)
	if errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return nil
	}
	return err
}

// closeGrace bounds each step of Close that waits for others.
const closeGrace = time.Second

// Close hands leadership over, ends what is under way and closes the files. The order: nothing new is taken; another
// server leads (milliseconds instead of an election); proposals under way get their answer; raft stops, with its
// connections, on which its goroutines wait; the files are closed last, for raft panics without them. When ctx ends
// before raft stopped (a disk that hangs) the files stay open and locked.
func (n *Node) Close(ctx context.Context) error {
	err := ErrClosed
	n.once.Do(func() { err = n.close(ctx) })
	return err
}

func (n *Node) close(ctx context.Context) error {
	close(n.closing)
	if n.IsLeader() {
		tctx, cancel := context.WithTimeout(ctx, closeGrace)
		if err := n.TransferLeadership(tctx); err != nil && !errors.Is(err, errNobody) {
			n.log.Info("leadership was not handed over", "reason", err)
		}
		cancel()
	}
	return n.shutDown(ctx)
}

func (n *Node) shutDown(ctx context.Context) error {
	n.gate.close(ctx, closeGrace)
	stopped := n.stopRaft()
	close(n.dead)
	n.streams.closeAll()
	done := make(chan error, 1)
	go func() { done <- stopped.Error() }()
	select {
	case <-ctx.Done():
		return fmt.Errorf("close raft: %w", ctx.Err())
	case err := <-done:
		n.loops.Wait()
		return errors.Join(err, n.stores.close())
	}
}

// Bootstrap makes a cluster of this server alone and initialises its State. A second call goes on where a crash ended
// the first; a State that has a cluster is a *model.ResultError with model.ErrInitialised.
func (n *Node) Bootstrap(ctx context.Context, init model.Init) error {
	if n.State().Cluster.ID != "" {
		return model.Result{Code: model.ErrInitialised, Message: "the cluster is initialised already"}.Err()
	}
	if err := cmp.Or(n.epoch.adopt(max(init.Cluster.Epoch, 1)), n.memory.begin()); err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	servers := []raft.Server{{ID: raft.ServerID(n.cfg.ID), Address: raft.ServerAddress(n.cfg.ID)}}
	_, err := await(ctx, n, func() raft.Future { return n.raft.BootstrapCluster(raft.Configuration{Servers: servers}) })
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	results, err := n.Propose(ctx, init)
	if err != nil {
		return fmt.Errorf("bootstrap raft: %w", err)
	}
	return results[0].Err()
}
