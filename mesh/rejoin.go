package mesh

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// memberlist forgets the dead after a while and never calls them again. rejoin
// does: for as long as the mesh lives it tries every node that it ever knew and
// that gossip does not see, so that any partition heals and a node whose address
// changed is found again.

const (
	retryFirst   = 500 * time.Millisecond
	retryMost    = 8 * time.Second
	retryLook    = 5 * time.Second // between looks when nobody is missing
	rejoinAtOnce = 8               // dials
	rejoinDial   = 4 * time.Second
)

// backoff says when to try again: 0.5, 1, 2, 4, 8, 8 s, each spread by a fifth.
type backoff struct {
	next time.Time
	wait time.Duration
}

func (b *backoff) due(now time.Time) bool { return !now.Before(b.next) }

func (b *backoff) failed(now time.Time) {
	b.wait = min(max(2*b.wait, retryFirst), retryMost)
	b.next = now.Add(b.wait*4/5 + rand.N(b.wait*2/5))
}

// begun keeps a try that is under way from being due.
func (b *backoff) begun(now time.Time) { b.next = now.Add(3 * rejoinDial) }

type rejoin struct {
	m     *Mesh
	poke  chan struct{} // capacity 1
	slots chan struct{} // one per try under way
}

func newRejoin(m *Mesh) *rejoin {
	return &rejoin{m: m, poke: make(chan struct{}, 1), slots: make(chan struct{}, rejoinAtOnce)}
}

// wake asks for a look now.
func (r *rejoin) wake() {
	select {
	case r.poke <- struct{}{}:
	default:
	}
}

func (r *rejoin) run(ctx context.Context) {
	for ctx.Err() == nil {
		wait := r.round(ctx)
		select {
		case <-r.poke:
			sleep(ctx, 10*time.Millisecond) // a burst of pokes is one look
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// round begins to try what is due and says how long to wait at most before the
// next round. It waits for none of the tries: the dead must not delay the living.
func (r *rejoin) round(ctx context.Context) time.Duration {
	r.learnKnown()
	now := time.Now()
	ids, next1 := r.dueNodes(now)
	joins, next2 := r.dueAddrs(now)
	for _, j := range joins {
		if !r.begin(&j.retry, now, func() { r.tryAddr(ctx, j) }) {
			return retryFirst / 4
		}
	}
	for _, id := range ids {
		if !r.begin(&r.m.table.get(id).retry, now, func() { r.tryNode(ctx, id) }) {
			return retryFirst / 4
		}
	}
	return max(min(next1, next2), retryFirst/4)
}

// begin starts a try if there is room for one more.
func (r *rejoin) begin(b *backoff, now time.Time, try func()) bool {
	select {
	case r.slots <- struct{}{}:
	default:
		return false
	}
	r.m.table.mu.Lock()
	b.begun(now)
	r.m.table.mu.Unlock()
	return r.m.spawn(func(context.Context) {
		try()
		<-r.slots
		r.wake()
	})
}

// dueNodes lists the missing nodes to try now, and says when the next is due.
func (r *rejoin) dueNodes(now time.Time) (ids []string, next time.Duration) {
	t, next := r.m.table, retryLook
	for _, id := range t.ids() {
		if r.m.gossip.gone(id) || r.m.gossip.alive(id) && t.active(id).IsValid() {
			continue
		}
		t.mu.RLock()
		if p := t.peers[id]; p != nil && (len(p.addrs) > 0 || p.advertised != "") {
			if p.retry.due(now) {
				ids = append(ids, id)
			} else {
				next = min(next, p.retry.next.Sub(now))
			}
		}
		t.mu.RUnlock()
	}
	rand.Shuffle(len(ids), func(a, b int) { ids[a], ids[b] = ids[b], ids[a] })
	return ids, next
}

// dueAddrs does the same for the operator's addresses at which no live member is
// known to be.
func (r *rejoin) dueAddrs(now time.Time) (joins []*joinAddr, next time.Duration) {
	t, next := r.m.table, retryLook
	t.mu.RLock()
	defer t.mu.RUnlock()
	for _, j := range t.join {
		if j.id == r.m.id.ID || j.id != "" && (r.m.gossip.alive(j.id) || r.m.gossip.gone(j.id)) {
			continue
		}
		if j.retry.due(now) {
			joins = append(joins, j)
		} else {
			next = min(next, j.retry.next.Sub(now))
		}
	}
	return joins, next
}

// learnKnown takes the nodes that the caller knows into the table.
func (r *rejoin) learnKnown() {
	if r.m.cfg.Known == nil {
		return
	}
	t := r.m.table
	for _, known := range r.m.cfg.Known() {
		if known.ID == r.m.id.ID || !validID(known.ID) || t.lookup(known.ID) != nil {
			continue
		}
		t.mu.Lock()
		p := t.getLocked(known.ID)
		for i := len(known.Addrs) - 1; i >= 0; i-- {
			if checkAddr(known.Addrs[i]) == nil {
				t.rememberLocked(p, known.Addrs[i])
			}
		}
		t.mu.Unlock()
	}
}

func (r *rejoin) tryNode(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, rejoinDial)
	defer cancel()
	_, err := r.m.linkTo(ctx, id, control)
	if err == nil && !r.m.gossip.alive(id) {
		err = r.m.gossip.meet(id)
	}
	if err != nil {
		r.m.log.Debug("rejoin failed", "node", id, "error", err)
	}
	t := r.m.table
	t.mu.Lock()
	defer t.mu.Unlock()
	if p := t.peers[id]; p != nil {
		p.retry.failed(time.Now()) // also after success: gossip needs a moment to see it
	}
}

// tryAddr finds out who is at an operator's address.
func (r *rejoin) tryAddr(ctx context.Context, j *joinAddr) {
	ctx, cancel := context.WithTimeout(ctx, rejoinDial)
	defer cancel()
	l, err := r.m.dialAddr(ctx, j.addr, "", control)
	id := ""
	switch {
	case err == nil:
		id = l.id
		err = r.m.gossip.meet(l.id)
	case errors.Is(err, ErrSelf):
		id = r.m.id.ID
	}
	if err != nil {
		r.m.log.Debug("rejoin failed", "address", j.addr, "error", err)
	}
	r.m.table.mu.Lock()
	defer r.m.table.mu.Unlock()
	j.id = id
	j.retry.failed(time.Now())
}

// Rejoin remembers addresses (HOST:PORT, as the operator gave them; names are
// resolved at every try) and tries all that is missing now. It does not wait.
func (m *Mesh) Rejoin(addrs ...string) error {
	for _, a := range addrs {
		if err := m.table.addJoin(a); err != nil {
			return err
		}
	}
	m.table.mu.Lock()
	for _, p := range m.table.peers {
		p.retry = backoff{}
	}
	m.table.mu.Unlock()
	m.rejoin.wake()
	return nil
}
