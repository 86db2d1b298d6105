package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// Lead runs f while this node leads, until ctx ends or the node is closed. Before f runs, a Barrier has brought State
// up to what earlier leaders wrote. f's context ends when the leadership of that term ends; f is waited for before it
// is run again. Where f returns while the node still leads, it is run again after a pause of one heartbeat timeout.
func (n *Node) Lead(ctx context.Context, f func(ctx context.Context, term uint64)) {
	for ctx.Err() == nil && !isClosed(n.dead) {
		r, changed := n.roles.look()
		if !r.Leading || n.Err() != nil {
			n.idle(ctx, changed, nil)
			continue
		}
		n.leadTerm(ctx, r.Term, f)
		if now, changed := n.roles.look(); now == r {
			n.idle(ctx, changed, time.After(n.cfg.Timing.Heartbeat))
		}
	}
}

// idle waits for a change of role, a timer that may be nil, or the end of ctx or the node.
func (n *Node) idle(ctx context.Context, changed <-chan struct{}, timer <-chan time.Time) {
	select {
	case <-changed:
	case <-timer:
	case <-ctx.Done():
	case <-n.dead:
	}
}

// termKey finds the term in the context of a Lead function.
type termKey struct{}

func (n *Node) leadTerm(ctx context.Context, term uint64, f func(ctx context.Context, term uint64)) {
	ctx, cancel := context.WithCancelCause(context.WithValue(ctx, termKey{}, term))
	defer cancel(nil)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		n.whileLeading(ctx, term)
		cancel(ErrNotLeader)
	}()
	err := n.barrier(ctx, term)
	if err == nil {
		f(ctx, term)
	} else if ctx.Err() == nil {
		n.log.Info("leading begins later", "term", term, "reason", err)
	}
	cancel(nil)
	<-watched
}

// whileLeading returns when this node's leadership of a term has ended, or ctx.
func (n *Node) whileLeading(ctx context.Context, term uint64) {
	for {
		r, changed := n.roles.look()
		if !r.Leading || r.Term != term {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		case <-n.machine.stop:
			return
		case <-n.dead:
			return
		}
	}
}

// watchLeadership does what a leader does for itself: it keeps the pulse, and gives leadership away when it should
// not have it. It ends with the node.
func (n *Node) watchLeadership() {
	for {
		r, changed := n.roles.look()
		if r.Leading {
			n.leadWatched(r.Term)
			continue
		}
		select {
		case <-changed:
		case <-n.dead:
			return
		}
	}
}

func (n *Node) leadWatched(term uint64) {
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	handed := make(chan struct{}) // closed when the last try to hand over ended
	close(handed)
	for {
		n.pulse.beat(term, time.Now())
		r, changed := n.roles.look()
		if !r.Leading || r.Term != term {
			return
		}
		if (!n.Eligible() || n.fitness() == Reluctant && n.successor(healthy) != "") && isClosed(handed) {
			handed = make(chan struct{})
			go n.handOver(handed)
		}
		select {
		case <-ticker.C:
		case <-changed:
		case <-n.dead:
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// handOver gives leadership to somebody who may have it; where that fails it waits before it says that it is done. A
// node that cannot decode the log and finds nobody stops its raft server: it must not go on as leader.
func (n *Node) handOver(done chan<- struct{}) {
	defer close(done)
	pause := time.NewTimer(4 * n.cfg.Timing.Election)
	defer pause.Stop()
	ctx, cancel := context.WithTimeout(context.Background(), 4*n.cfg.Timing.Election)
	defer cancel()
	err := n.TransferLeadership(ctx)
	if err == nil {
		return
	}
	if n.Err() != nil && n.IsLeader() {
		n.log.Error("this node may not lead, and nobody else can: its raft server stops", "reason", err)
		n.stopRaft()
		return
	}
	if !errors.Is(err, errNobody) {
		n.log.Warn("leadership cannot be handed over", "reason", err, "stall", n.DiskStall())
	}
	select {
	case <-pause.C:
	case <-n.dead:
	}
}

var errNobody = errors.New("no other voter is healthy and caught up")

func healthy(n model.Node) bool { return n.Sick == "" }

// successor is the most advanced of such voters that answer; "" if none does.
func (n *Node) successor(such func(model.Node) bool) string {
	to, best, nodes := "", uint64(0), n.State().Nodes
	for _, s := range n.Servers() {
		fresh := s.Contact > 0 && s.Contact < n.cfg.Timing.Heartbeat // raft takes no entries while it asks a dead one
		if s.Voter && s.ID != n.cfg.ID && fresh && such(nodes.At(s.ID)) && (to == "" || s.LastIndex > best) {
			to, best = s.ID, s.LastIndex
		}
	}
	return to
}

// TransferLeadership makes the most advanced healthy voter the leader, or if all are sick, the most advanced of them. It returns when this node leads no more.
func (n *Node) TransferLeadership(ctx context.Context) error {
	r, _ := n.roles.look()
	if !r.Leading {
		return &NotLeaderError{Leader: r.Leader}
	}
	to := n.successor(healthy)
	if to == "" && n.fitness() != Reluctant {
		to = n.successor(func(model.Node) bool { return true })
	}
	if to == "" {
		return errNobody
	}
	if err := n.transferTo(ctx, to); err != nil {
		return fmt.Errorf("transfer leadership to %s: %w", to, err)
	}
	return nil
}

func (n *Node) transferTo(ctx context.Context, id string) error {
	defer n.handing.begin()()
	begin := func() raft.Future {
		return n.raft.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(id))
	}
	_, err := await(ctx, n, func() raft.Future { return n.wedge.watch(begin) })
	return err
}
