package raftfsm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// How a server feeds its followers.
const (
	maxFollowers = 64  // of one server, while another has room
	mostInsist   = 256 // of one server, when all are full; nine serve model.MaxNodes

	keepAlive    = 10 * time.Second // a status is sent after so long a silence
	checkQuiet   = time.Minute      // so long after the last entry the follower's State is compared
	helloTime    = 5 * time.Second  // for what a follower says first
	outOfTouch   = 5 * time.Second  // a server without a leader for so long lets its followers go
	maxUnhello   = 64               // connections that have not said anything yet
	chunkBytes   = 32 << 10
	feedBufBytes = 64 << 10
)

// feeds are the followers of this server.
type feeds struct {
	mu   sync.Mutex
	open map[string]*feed // by the follower's id
	all  chan struct{}    // a place per connection
	wg   sync.WaitGroup
}

func newFeeds() *feeds {
	return &feeds{open: map[string]*feed{}, all: make(chan struct{}, mostInsist+maxUnhello)}
}

// enter takes a follower on if there is room. An older feed of the same follower ends: it has noticed what we have not.
func (fs *feeds) enter(f *feed) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	old, again := fs.open[f.to.id]
	room := maxFollowers
	if f.to.insist {
		room = mostInsist
	}
	if !again && len(fs.open) >= room {
		return false
	}
	if again {
		old.end()
	}
	fs.open[f.to.id] = f
	return true
}

func (fs *feeds) leave(f *feed) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.open[f.to.id] == f {
		delete(fs.open, f.to.id)
	}
}

func (fs *feeds) count() int {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return len(fs.open)
}

// serveFeeds takes followers until the node closes.
func (n *Node) serveFeeds() {
	ctx, cancel := context.WithCancel(context.Background())
	n.feeds.wg.Go(func() {
		<-n.closing
		cancel()
		_ = n.cfg.Feed.Close()
	})
	defer n.feeds.wg.Wait()
	for {
		c, err := n.cfg.Feed.Accept()
		if err != nil {
			return
		}
		select {
		case n.feeds.all <- struct{}{}:
		default:
			_ = c.Close()
			continue
		}
		n.feeds.wg.Go(func() {
			defer func() { <-n.feeds.all }()
			defer c.Close()
			if err := n.serveFeed(ctx, c); err != nil {
				n.log.Debug("a feed ended", "reason", err)
			}
		})
	}
}

func (n *Node) serveFeed(ctx context.Context, c net.Conn) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	_ = c.SetReadDeadline(time.Now().Add(helloTime))
	to, err := readHello(c)
	if err != nil {
		return err
	}
	if p, ok := c.(interface{ PeerID() string }); ok && p.PeerID() != to.id {
		return fmt.Errorf("node %s says that it is %s", p.PeerID(), to.id)
	}
	_ = c.SetReadDeadline(time.Time{})
	f := &feed{n: n, to: to, at: to.index, checked: to.index, conn: c, ctx: ctx, end: cancel, pings: make(chan struct{}, 1)}
	f.w = bufio.NewWriterSize(f, feedBufBytes)
	if to.compare {
		return n.answerSum(f)
	}
	return f.serve()
}

// feed is one follower of this server. What it is to get is not queued: it is read from the log, from where the
// follower is, and a follower for which the log is too short gets a checkpoint.
type feed struct {
	n     *Node
	to    hello
	conn  net.Conn
	w     *bufio.Writer
	ctx   context.Context
	end   context.CancelFunc
	pings chan struct{} // capacity 1

	at      uint64    // index of the follower's State, once it has read all that was sent
	checked uint64    // index at which it was compared
	moved   time.Time // when something was sent last
}

// Write sends to the follower, which is dropped when it takes nothing for as long as a request may take.
func (f *feed) Write(b []byte) (int, error) {
	_ = f.conn.SetWriteDeadline(time.Now().Add(f.n.cfg.Timing.RPC))
	return f.conn.Write(b)
}

func (f *feed) serve() error {
	if r := f.n.refuse(f.to); r != 0 {
		return f.refuse(r)
	}
	if !f.n.feeds.enter(f) {
		return f.refuse(reasonFull)
	}
	defer f.n.feeds.leave(f)
	f.n.log.Debug("a follower came", "node", f.to.id, "at", f.at)
	done := make(chan struct{})
	go func() { defer close(done); f.readPings() }()
	err := f.run()
	f.end()
	<-done
	return err
}

// readPings ends the feed when the follower is gone.
func (f *feed) readPings() {
	defer f.end()
	var b [1]byte
	for {
		if _, err := f.conn.Read(b[:]); err != nil || b[0] != pingByte {
			return
		}
		select {
		case f.pings <- struct{}{}:
		default:
		}
	}
}

func (f *feed) run() error {
	wake, stop := f.n.Watch()
	defer stop()
	config, stopConfig := f.n.machine.config.watch()
	defer stopConfig()
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	lost, tell := time.Time{}, true
	for {
		r, changed := f.n.roles.look()
		if r.Leader != "" {
			lost = time.Time{}
		} else if lost.IsZero() {
			lost = time.Now()
		}
		if err := f.send(tell, lost); err != nil {
			return err
		}
		tell = true
		select {
		case <-wake:
			tell = false
		case <-changed:
		case <-config:
		case <-until(lost):
		case <-f.pings:
		case <-alive.C:
		case <-f.n.machine.stop:
			return f.refuse(reasonUnable)
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
	}
}

// until fires when a server that lost its leader is out of touch.
func until(lost time.Time) <-chan time.Time {
	if lost.IsZero() {
		return nil
	}
	return time.After(time.Until(lost.Add(outOfTouch)) + time.Millisecond)
}

// refuse says whether, and why, this node does not feed a follower that asks.
func (n *Node) refuse(to hello) reason {
	lost := time.Time{}
	if r, _ := n.roles.look(); r.Leader == "" {
		lost = time.Unix(1, 0) // no new followers without a leader
	}
	if r := n.refuseNow(to, lost); r != 0 {
		return r
	}
	s := n.machine.line.Load().state
	if s.Cluster.Epoch < to.epoch || s.Cluster.Epoch == to.epoch && s.Index < to.index {
		return reasonBehind
	}
	return 0
}

// refuseNow says why a follower should go elsewhere; 0 = it should not. lost is since when no leader is known.
func (n *Node) refuseNow(to hello, lost time.Time) reason {
	in := func(id string) bool {
		return slices.ContainsFunc(n.configuration(), func(s raft.Server) bool { return string(s.ID) == id })
	}
	switch {
	case isClosed(n.closing) || n.Err() != nil:
		return reasonUnable
	case !in(n.cfg.ID) || n.follow.unseated():
		return reasonNoServer
	case !lost.IsZero() && time.Since(lost) >= outOfTouch:
		return reasonOutOfTouch
	case in(to.id):
		return reasonServer
	}
	return 0
}

func (f *feed) refuse(r reason) error {
	told := f.n.told()
	b, err := replyModes.enc.Marshal(refusal{Reason: r, Leader: told.Leader, Servers: told.Servers})
	if err == nil {
		err = writeFrame(f.w, frameRefusal, b)
	}
	if err == nil {
		err = f.w.Flush()
	}
	if err != nil {
		return err
	}
	return refusal{Reason: r}
}

// told is what this node knows of the raft servers, to pass on.
func (n *Node) told() feedStatus {
	st := feedStatus{Leader: n.Leader()}
	for _, s := range n.Servers() {
		st.Servers = append(st.Servers, toldServer{ID: s.ID, Voter: s.Voter})
	}
	return st
}

// send brings the follower up to date, and tells it who the servers are.
func (f *feed) send(tell bool, lost time.Time) error {
	if tell {
		if r := f.n.refuseNow(f.to, lost); r != 0 {
			return f.refuse(r)
		}
		b, err := replyModes.enc.Marshal(f.n.told())
		if err == nil {
			err = writeFrame(f.w, frameStatus, b)
		}
		if err != nil {
			return err
		}
	}
	if err := f.catchUp(); err != nil {
		return err
	}
	s := f.n.machine.line.Load().state
	if tell && f.at == s.Index && f.checked != f.at && time.Since(f.moved) >= checkQuiet {
		if err := f.check(s); err != nil {
			return err
		}
	}
	return f.w.Flush()
}

// catchUp sends what this server's State holds and the follower's does not: entries that are applied, and nothing else.
func (f *feed) catchUp() error {
	for {
		l := f.n.machine.line.Load()
		if l.state.Index <= f.at && f.to.epoch == l.state.Cluster.Epoch {
			return nil
		}
		f.moved = time.Now()
		err := errShort
		if f.at >= l.base && f.to.epoch == l.state.Cluster.Epoch {
			err = f.entries(l)
		}
		if errors.Is(err, errShort) {
			err = f.checkpoint(l.state)
		}
		if err != nil {
			return err
		}
	}
}

var errShort = errors.New("the log does not reach back that far")

// entries sends from the log. What stands in it below the first entry that was applied by this process, and since the
// last checkpoint was installed, may never have been committed: it is passed over, and the State of the checkpoint is the
// least that a follower must have.
func (f *feed) entries(l *line) error {
	mark := f.n.machine.mark.Load()
	for i := max(f.at+1, l.from); i <= l.state.Index; i++ {
		if f.ctx.Err() != nil {
			return f.ctx.Err()
		}
		var e raft.Log
		err := f.n.stores.logs.GetLog(i, &e)
		switch {
		case errors.Is(err, raft.ErrLogNotFound):
			return errShort
		case err != nil:
			return fmt.Errorf("read entry %d for a follower: %w", i, err)
		case e.Type != raft.LogCommand || inOtherTerm(&e):
			continue
		}
		fe := feedEntry{f.at, i, e.Data}
		if err := writeFrame(f.w, frameEntry, fe.head(), fe.entry); err != nil {
			return err
		}
		f.at = i
		if mark != nil && mark.Index == i {
			if err := f.check(mark); err != nil {
				return err
			}
		}
	}
	return nil
}

// check has the follower, which is at s, compare.
func (f *feed) check(s *model.State) error {
	f.checked = s.Index
	return writeFrame(f.w, frameCheck, check{s.Index, f.n.sums.digest(s)}.encode())
}

func (f *feed) checkpoint(s *model.State) error {
	f.n.log.Info("a follower gets a checkpoint", "node", f.to.id, "has", f.at, "gets", s.Index)
	w := bufio.NewWriterSize(chunks{f.w}, chunkBytes)
	err := WriteState(w, s)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = writeFrame(f.w, frameEnd)
	}
	f.at, f.checked, f.to.epoch = s.Index, s.Index, s.Cluster.Epoch
	return err
}

// chunks makes frames of what is written, each of which is short enough.
type chunks struct{ w *bufio.Writer }

func (c chunks) Write(b []byte) (int, error) {
	for piece := range slices.Chunk(b, maxChunkBytes) {
		if err := writeFrame(c.w, frameChunk, piece); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}
