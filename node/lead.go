package node

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fxamacker/cbor/v2"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// probeEvery is how often the leader asks each node whether it is there. A third of the time after which a silent
// one is marked down must be left for the answer, so that one lost datagram convicts nobody.
const probeEvery = 500 * time.Millisecond

// lead runs in the leader's own term only: it looks at State and proposes what Decide says. Everything it remembers
// ends with the term.
func (n *Node) lead(ctx context.Context, term uint64) {
	n.log.Info("leading", "term", term)
	n.note(Noted{Kind: "leader", Message: "this node leads now"})
	defer n.log.Info("not leading any more", "term", term)
	w := newWatchman(n)
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { w.run(ctx) })
	wg.Go(func() { n.sealLoop(ctx) })
	wg.Go(func() { n.trimSnapshots(ctx) })
	changed, stop := n.fsm.Watch()
	defer stop()
	var mem model.Memory
	var again refusals
	for ctx.Err() == nil {
		s := n.fsm.State()
		cmds, next, wake := model.Decide(s, w.view(), mem, time.Now().UTC())
		if len(cmds) > 0 {
			why, ok := n.proposeDecision(ctx, cmds)
			if !ok {
				drain(changed) // that was the refusal itself
				n.pause(ctx, refusedPause)
				waitAny(ctx, time.Now().Add(again.pause(why)), changed, w.changed)
				continue
			}
			again = refusals{}
		}
		mem = next
		if len(cmds) == 0 {
			waitAny(ctx, wake, changed, w.changed)
		}
	}
}

// refusedPause is the least time between a decision that was refused and the next.
const refusedPause = 100 * time.Millisecond

// refusals counts how often in a row the same decision was refused for the same reason.
type refusals struct {
	why   string
	count int
}

// pause is how much longer than refusedPause to wait unless State changes: nothing the first time, for State has moved; then
// ever longer, up to ten seconds, so that what will not do is not written to the log ten times in a second.
func (r *refusals) pause(why string) time.Duration {
	if why != r.why {
		*r = refusals{why: why}
	}
	r.count++
	if r.count == 1 {
		return 0
	}
	return min(refusedPause<<min(r.count-1, 10), 10*time.Second)
}

// drain takes what a channel holds.
func drain(c <-chan struct{}) {
	select {
	case <-c:
	default:
	}
}

// proposeDecision proposes through raft on this node in this term. A refusal means that State moved: look again.
func (n *Node) proposeDecision(ctx context.Context, cmds []model.Command) (refusal string, ok bool) {
	groups, err := raftfsm.Group(cmds)
	if err != nil {
		n.log.Error("a decision cannot be written", "err", err)
		return err.Error(), false
	}
	for _, group := range groups {
		res, err := n.fsm.ProposeLocal(ctx, group...)
		if err != nil {
			if ctx.Err() == nil {
				n.log.Warn("proposing a decision", "err", err)
			}
			return err.Error(), false
		}
		for i, r := range res {
			if r.Code != model.OK {
				n.log.Info("decision refused", "command", fmt.Sprintf("%T", group[i]), "reason", r.Message)
				return fmt.Sprintf("%T: %s", group[i], r.Message), false
			}
		}
	}
	n.noteDecision(cmds)
	return "", true
}

func (n *Node) noteDecision(cmds []model.Command) {
	s := n.fsm.State()
	for _, c := range cmds {
		switch c := c.(type) {
		case model.MarkDown:
			n.note(Noted{Kind: "down", Message: "node " + s.NodeName(c.ID) + " is down: " + c.Why})
		case model.Fence:
			n.note(Noted{Kind: "fenced", Message: "node " + s.NodeName(c.ID) + " is fenced: nothing exclusive runs there any more"})
		case model.TakeOver:
			n.note(Noted{Kind: "take-over", System: c.System, Service: c.Service, Message: model.GoesOnFrom(s, s.Snapshots.At(model.SnapshotKey(c.System, c.Service, c.Container, c.Snapshot)), c.Node) + ", which is down"})
		case model.MarkUp:
			n.note(Noted{Kind: "up", Message: "node " + s.NodeName(c.ID) + " is back"})
		case model.Begin:
			n.note(Noted{Kind: c.Kind, System: c.System, Message: c.Why})
		case model.Finish:
			n.note(Noted{Kind: string(c.Outcome), System: c.System, Message: strings.TrimSuffix(fmt.Sprintf("generation %d: %s", c.Generation, c.Reason), ": ")})
		}
	}
}

func (n *Node) pause(ctx context.Context, d time.Duration) {
	waitAny(ctx, time.Now().Add(d))
}

// waitAny returns when ctx ends, at wake (unless zero), or when one of the channels has something.
func waitAny(ctx context.Context, wake time.Time, chans ...<-chan struct{}) {
	var timer <-chan time.Time
	if !wake.IsZero() {
		t := time.NewTimer(time.Until(wake))
		defer t.Stop()
		timer = t.C
	}
	var a, b <-chan struct{}
	if len(chans) > 0 {
		a = chans[0]
	}
	if len(chans) > 1 {
		b = chans[1]
	}
	select {
	case <-ctx.Done():
	case <-timer:
	case <-a:
	case <-b:
	}
}

// watchman listens for the other nodes on behalf of the leader. Silence counts from when this term's leader first saw the
// node in State, on its own clock.
//
// The leader hears raft servers all the time. Of followers there may be many: gossip, which costs the same however many
// there are, watches those, and only whom it doubts is probed from here.
type watchman struct {
	n       *Node
	changed chan struct{} // a node fell silent or was heard again

	mu     sync.Mutex // guards what follows
	late   time.Duration
	asking map[string]bool
	met    map[string]time.Time // when this leader first saw a node
	alive  map[string]time.Time // followers: when gossip was last seen to say that they are
}

// gossipSilence is how long nobody has had an answer from a node, at least, when gossip begins to call it failed.
const gossipSilence = 1800 * time.Millisecond

func newWatchman(n *Node) *watchman {
	return &watchman{n: n, changed: make(chan struct{}, 1), asking: map[string]bool{}, met: map[string]time.Time{},
		alive: map[string]time.Time{}}
}

// run probes every raft server that was not heard lately, and every follower of which gossip is not sure, twice a second:
// what raft servers say keeps them heard anyway. The worst lateness of its own ticker, halved at each tick, says how far
// this process can be trusted to judge others.
func (w *watchman) run(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		w.tick(time.Since(last) - probeEvery)
		last = time.Now()
		servers := w.servers()
		for id := range w.n.fsm.State().Nodes.All() {
			sure := !servers[id] && w.n.mesh.Status(id) == mesh.StatusAlive
			if id != w.n.id.ID && !sure && time.Since(w.n.mesh.Heard(id)) > probeEvery*3/4 && w.begin(id) {
				probes.Go(func() { w.probe(ctx, id) })
			}
		}
	}
}

func (w *watchman) servers() map[string]bool {
	servers := map[string]bool{}
	for _, s := range w.n.fsm.Servers() {
		servers[s.ID] = true
	}
	return servers
}

// heardLocked is when a node was last there, as far as anybody knows.
func (w *watchman) heardLocked(id string, server bool, now time.Time) time.Time {
	heard := w.n.mesh.Heard(id)
	if server {
		return heard
	}
	switch w.n.mesh.Status(id) {
	case mesh.StatusAlive, mesh.StatusSuspect:
		w.alive[id] = now
		return now
	}
	if last := w.alive[id].Add(-gossipSilence); last.After(heard) {
		return last
	}
	return heard
}

func (w *watchman) tick(late time.Duration) {
	w.mu.Lock()
	w.late = max(late, w.late/2, 0)
	w.mu.Unlock()
	w.look()
}

// begin says whether no probe of the node is under way.
func (w *watchman) begin(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asking[id] {
		return false
	}
	w.asking[id] = true
	return true
}

func (w *watchman) probe(ctx context.Context, id string) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := w.n.mesh.Probe(ctx, id); err == nil {
		w.look()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.asking, id)
}

// look wakes the lead loop while there is something for Decide to mark: it depends on what is, not on what changed, so
// that a node that returns in the first moment of a term is not overlooked.
func (w *watchman) look() {
	s, wake := w.n.fsm.State(), false
	for id, d := range w.view().Silent {
		down := s.Nodes.At(id).Down
		wake = wake || down && d < model.UpBelow || !down && d >= model.DownAfter
	}
	if wake {
		select {
		case w.changed <- struct{}{}:
		default:
		}
	}
}

func (w *watchman) view() model.View {
	v := model.View{Self: w.n.id.ID, Silent: map[string]time.Duration{}}
	w.mu.Lock()
	defer w.mu.Unlock()
	v.Late = w.late
	now, nodes, servers := time.Now(), w.n.fsm.State().Nodes, w.servers()
	gone := func(id string, _ time.Time) bool { return !nodes.Has(id) }
	maps.DeleteFunc(w.met, gone)
	maps.DeleteFunc(w.alive, gone)
	for id := range nodes.All() {
		if id == w.n.id.ID {
			v.Silent[id] = 0
			continue
		}
		if w.met[id].IsZero() {
			w.met[id] = now
		}
		heard := w.heardLocked(id, servers[id], now)
		if met := w.met[id]; heard.Before(met) { // what was heard before does not count against, nor for, the node
			if now.Sub(met) < probeEvery*2 {
				continue
			}
			heard = met
		}
		v.Silent[id] = now.Sub(heard)
	}
	v.DownFor = w.n.downs.since(now)
	return v
}

// sealLoop keeps the CA's key sealed to exactly the raft servers.
func (n *Node) sealLoop(ctx context.Context) {
	changed, stop := n.fsm.Watch()
	defer stop()
	for ctx.Err() == nil {
		if err := n.sealOnce(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("sealing the CA's key", "err", err)
			n.pause(ctx, time.Second)
			continue
		}
		waitAny(ctx, time.Time{}, changed)
	}
}

func (n *Node) sealOnce(ctx context.Context) error {
	s := n.fsm.State()
	var servers []string
	for _, srv := range n.fsm.Servers() {
		if s.Nodes.Has(srv.ID) {
			servers = append(servers, srv.ID)
		}
	}
	slices.Sort(servers)
	if slices.Equal(servers, slices.Sorted(maps.Keys(s.Cluster.Sealed))) {
		return nil
	}
	ca, err := n.openCA(s)
	if err != nil {
		return err
	}
	key, err := ca.KeyDER()
	if err != nil {
		return err
	}
	sealed := map[string][]byte{}
	for _, id := range servers {
		if have, ok := s.Cluster.Sealed[id]; ok {
			sealed[id] = have
		} else if sealed[id], err = mesh.Seal(s.Nodes.At(id).SealKey, sealInfo, key); err != nil {
			return err
		}
	}
	res, err := n.fsm.ProposeLocal(ctx, model.SealCA{Sealed: sealed})
	if err != nil {
		return err
	}
	return res[0].Err()
}

// factsEvery is how often a node looks whether what it announces is still true.
const factsEvery = 5 * time.Second

// announceLoop tells the cluster what changed about this node: its address, attributes, version, and whether it is sick. At
// most once a minute after the first time, but for the last.
func (n *Node) announceLoop(ctx context.Context) error {
	changed, stop := n.fsm.Watch()
	defer stop()
	last := "" // what was said last of being sick: a node whose disk takes nothing does not see that in its own State
	for ctx.Err() == nil {
		have, member := n.fsm.State().Nodes.Get(n.id.ID)
		if !member {
			waitAny(ctx, time.Now().Add(factsEvery), changed)
			continue
		}
		sick := n.disk.sick()
		told, err := n.announce(ctx, have, sick, sick != last)
		if err == nil && told {
			last = sick
		}
		switch {
		case err != nil:
			n.log.Debug("announcing", "err", err)
			n.pause(ctx, time.Second)
		case told:
			waitAny(ctx, time.Now().Add(time.Minute), n.disk.news())
		default:
			waitAny(ctx, time.Now().Add(factsEvery), n.disk.news())
		}
	}
	return nil
}

// announce proposes what this node is now, if that is not what State has, or if it must.
func (n *Node) announce(ctx context.Context, have model.Node, sick string, must bool) (done bool, err error) {
	now := selfNode(n.cfg, n.id, have.Attributes)
	if !must && sick == have.Sick && maps.Equal(have.Attributes, now.Attributes) && have.Host == now.Host && have.Version == now.Version && have.StateMax == now.StateMax {
		return false, nil
	}
	told := model.UpdateNode{ID: n.id.ID, Attributes: now.Attributes, Host: now.Host, Version: now.Version, StateMax: now.StateMax, Sick: sick}
	err = n.announceBy(ctx, told, announceTry)
	if err != nil && sick != "" {
		err = n.announceThrough(ctx, told)
	}
	return err == nil, err
}

// announceTry bounds one try to announce.
const announceTry = 5 * time.Second

func (n *Node) announceBy(ctx context.Context, what model.UpdateNode, within time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	res, err := n.fsm.Propose(ctx, what)
	if err != nil {
		return err
	}
	return res[0].Err()
}

// announceThrough has another node say it: while raft here waits for the disk, it takes itself for the leader, or does not
// know who is.
func (n *Node) announceThrough(ctx context.Context, what model.UpdateNode) error {
	body, err := cbor.Marshal(what)
	if err != nil {
		return err
	}
	err = errNoLeader
	for _, id := range n.aliveMembers() {
		if id == n.id.ID {
			continue
		}
		try, cancel := context.WithTimeout(ctx, announceTry+time.Second)
		_, err = n.peers.call(try, id, http.MethodPost, "/announce", body)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// handleAnnounce proposes what another node says of itself.
func (n *Node) handleAnnounce(ctx context.Context, body []byte) ([]byte, error) {
	var what model.UpdateNode
	if err := cbor.Unmarshal(body, &what); err != nil {
		return nil, fmt.Errorf("that is no announcement: %w", err)
	}
	if what.ID != peerID(ctx) {
		return nil, &api.Error{Code: api.CodeDenied, Message: "a node speaks for itself only"}
	}
	return nil, n.announceBy(ctx, what, announceTry)
}
