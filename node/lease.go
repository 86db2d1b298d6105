package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// One lease for each node that has anything exclusive: it asks the leader every two seconds, and tells its keeper until
// when it may go on. Processes are the keeper's to end, agent alive or not. What no process of ours stands for (a database
// in a server, a file that others open) is the agent's to stop: with the agent dead it stays reachable on a node that is
// cut off, and that is a limit of exclusivity.

// leaseTry bounds one question to the leader. What is left of a lease when it should be renewed is more than three of them.
const leaseTry = time.Second

// leaseWindow is how long a leader waits for others to ask before it proves to all of them at once that it still leads.
const leaseWindow = 100 * time.Millisecond

// lease is this node's own.
type lease struct {
	mu    sync.Mutex
	why   string        // it could not be renewed at the last try; "" = it was
	until time.Duration // on keeper.Boottime: what the keeper was told; 0: nothing
}

func (l *lease) set(until time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.until, l.why = until, ""
}

// failed remembers why it could not be renewed, and says whether that is news.
func (l *lease) failed(err error) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	news := l.why != err.Error()
	l.why = err.Error()
	return news
}

// lacking says why exclusive instances may not be started; "" when they may.
func (l *lease) lacking() string {
	if l.left() > 0 {
		return ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return "its node has no lease: " + cmp.Or(l.why, "no leader has granted one yet")
}

// left is how long exclusive instances may still be started; not positive: they may not.
func (l *lease) left() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.until - model.LeaseTerm - keeper.Boottime()
}

// atMost is d, or less where a lease that is held ends before: what happens then must not wait.
func (l *lease) atMost(d time.Duration) time.Duration {
	if left := l.left(); left > 0 {
		return min(d, left)
	}
	return d
}

// leaseLoop holds the lease while anything exclusive is here, and has what the keeper cannot end stopped when it lapses.
func (n *Node) leaseLoop(ctx context.Context) error {
	changed, stop := n.fsm.Watch()
	defer stop()
	for ctx.Err() == nil {
		if !model.NeedsLease(n.fsm.State(), n.id.ID) {
			n.lease.set(0)
			waitAny(ctx, time.Time{}, changed)
			continue
		}
		held := n.lease.left() > 0
		err := n.renewLease(ctx)
		switch {
		case err == nil && !held:
			n.agent.poke()
			fallthrough
		case err == nil:
			n.pause(ctx, model.LeaseEvery)
		default:
			if n.lease.failed(err) {
				n.log.Info("renewing the lease", "err", err)
			}
			if n.lease.lapsed() {
				n.agent.lapse(ctx)
			}
			n.pause(ctx, n.lease.atMost(leaseTry/4))
		}
	}
	return nil
}

// renewLease asks once. The lease runs from before the question.
func (n *Node) renewLease(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.lease.atMost(leaseTry))
	defer cancel()
	until := keeper.Boottime() + model.LeaseTTL
	if err := n.askLease(ctx, n.fsm.State().Nodes.At(n.id.ID).Epoch); err != nil {
		return err
	}
	err := n.keeper.Renew(ctx, keeper.Lease{Until: until, Term: model.LeaseTerm, Kill: model.LeaseKill})
	if err != nil {
		return err
	}
	n.lease.set(until)
	return nil
}

func (n *Node) askLease(ctx context.Context, epoch uint64) error {
	return n.fsm.WithLeader(ctx, func(ctx context.Context, leader string) error {
		if leader == n.id.ID {
			return n.grantLease(ctx, n.id.ID, epoch)
		}
		body, _ := json.Marshal(epoch) // a number always encodes
		_, err := n.peers.call(ctx, leader, http.MethodPost, "/lease", body)
		return err
	})
}

func (n *Node) handleLease(ctx context.Context, body []byte) ([]byte, error) {
	var epoch uint64
	if err := json.Unmarshal(body, &epoch); err != nil {
		return nil, fmt.Errorf("that is no epoch: %w", err)
	}
	return nil, n.grantLease(ctx, peerID(ctx), epoch)
}

// grantLease says that a node may go on: this node leads, by an entry that was appended after the question, and its State up
// to there does not have the node down. See the fence that Decide proposes for why that is enough.
func (n *Node) grantLease(ctx context.Context, id string, epoch uint64) error {
	if why := model.CanLease(n.fsm.State(), id, epoch); why != "" {
		return refuseLease(why)
	}
	if err := n.fsm.Prove(ctx, leaseWindow); err != nil {
		if errors.Is(err, raftfsm.ErrNotLeader) {
			return errNoLeader
		}
		return err
	}
	if why := model.CanLease(n.fsm.State(), id, epoch); why != "" {
		return refuseLease(why)
	}
	return nil
}

func refuseLease(why string) error {
	return &api.Error{Code: api.CodeConflict, Message: "no lease: " + why}
}

// downs remembers since when this node's State has shown others as down: every node does, so that a new leader knows too.
type downs struct {
	mu   sync.Mutex
	seen map[string]downSince // by node id
}

type downSince struct {
	epoch uint64
	at    time.Time
}

// downsLoop looks at every State.
func (n *Node) downsLoop(ctx context.Context) error {
	changed, stop := n.fsm.Watch()
	defer stop()
	for ctx.Err() == nil {
		n.downs.look(n.fsm.State(), time.Now())
		waitAny(ctx, time.Time{}, changed)
	}
	return nil
}

func (d *downs) look(s *model.State, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	seen := map[string]downSince{}
	for id, n := range s.Nodes.All() {
		if !n.Down {
			continue
		}
		if seen[id] = d.seen[id]; seen[id].epoch != n.Epoch || seen[id].at.IsZero() {
			seen[id] = downSince{n.Epoch, now}
		}
	}
	d.seen = seen
}

// since gives for how long each node has been down, as far as this node knows.
func (d *downs) since(now time.Time) map[string]time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := map[string]time.Duration{}
	for id, at := range d.seen {
		out[id] = now.Sub(at.at)
	}
	return out
}

// lapsed says, once for each time that a lease ends, that it did.
func (l *lease) lapsed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	over := l.until > 0 && l.until-model.LeaseTerm <= keeper.Boottime()
	if over {
		l.until = 0
	}
	return over
}

// lapse stops the exclusive instances that have no process, and says what happened. The rows stay as they are: when there
// is a lease again, Next has them started in place.
func (a *agent) lapse(ctx context.Context) {
	s := a.n.fsm.State()
	a.n.log.Warn("the lease is not renewed: exclusive services end here")
	a.n.note(Noted{Kind: "lease", Message: "no leader has renewed this node's lease: its exclusive services are stopped until one does"})
	for _, r := range s.Rows.Prefix(a.n.id.ID + "/") {
		k := a.n.kind(r.Spec.Type)
		if !r.Exclusive || r.Phase != model.Active || k == nil || k.kept || !a.reserve(r.Key, model.StepStop) {
			continue
		}
		a.steps.Go(func() {
			defer a.poke()
			defer a.clearRunning(r.Key)
			ctx, cancel := context.WithTimeout(ctx, model.LeaseTTL)
			defer cancel()
			if err := a.stopInstance(ctx, a.instance(s, r.RowSpec, r.Claim)); err != nil {
				a.n.log.Warn("stopping for lack of a lease", "service", r.Service, "err", err)
			}
		})
	}
}
