package raftfsm

import (
	"bytes"
	"crypto/subtle"
	"maps"
	"slices"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

func (t *tx) admit(c model.Admit) model.Result {
	if r, barred := t.s.Removed.Get(c.Node.ID); barred {
		return refuse(model.ErrRemoved, "node %s was removed from this cluster and its key is barred", r.Name)
	}
	if n, member := t.s.Nodes.Get(c.Node.ID); member {
		return model.Result{Value: n.Name} // a lost reply, or a node that lost its certificate: no second use
	}
	if r := t.checkToken(c); r.Code != model.OK {
		return r
	}
	if n, taken := t.s.NodeByName(c.Node.Name); taken {
		return refuse(model.ErrConflict, "the name %q belongs to another node (%.8s)", n.Name, n.ID)
	}
	if t.s.Nodes.Len() >= model.MaxNodes {
		return refuse(model.ErrLimit, "the cluster has %d nodes, the most there may be", model.MaxNodes)
	}
	n := c.Node
	n.Server, n.Admitted, n.Epoch, n.Down, n.Left = true, c.Now, 1, false, false
	tok := t.s.Tokens.At(c.Token)
	tok.UsesLeft--
	t.s.Tokens = t.s.Tokens.Set(tok.ID, tok)
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	return model.Result{Value: n.Name}
}

func (t *tx) checkToken(c model.Admit) model.Result {
	tok, ok := t.s.Tokens.Get(c.Token)
	switch {
	case !ok:
		return refuse(model.ErrRevoked, "the token was revoked, or never existed")
	case subtle.ConstantTimeCompare(tok.Hash, c.Secret) != 1:
		return refuse(model.ErrSecret, "the token's secret is wrong")
	case c.Now.After(tok.Expires):
		return refuse(model.ErrExpired, "the token expired at %s", tok.Expires.UTC().Format(time.RFC3339))
	case tok.UsesLeft <= 0:
		return refuse(model.ErrUsed, "the token was used up")
	}
	return model.Result{}
}

func (t *tx) createToken(c model.CreateToken) model.Result {
	if have, ok := t.s.Tokens.Get(c.Token.ID); ok {
		if bytes.Equal(have.Hash, c.Token.Hash) {
			return model.Result{} // the same proposal again
		}
		return refuse(model.ErrConflict, "a token %s exists", c.Token.ID)
	}
	for id, old := range t.s.Tokens.All() {
		if c.Token.Created.Sub(old.Expires) > 24*time.Hour {
			t.s.Tokens = t.s.Tokens.Delete(id)
		}
	}
	if t.s.Tokens.Len() >= model.MaxTokens {
		return refuse(model.ErrLimit, "there are %d tokens: revoke some", model.MaxTokens)
	}
	t.s.Tokens = t.s.Tokens.Set(c.Token.ID, c.Token)
	return model.Result{}
}

func (t *tx) revokeToken(c model.RevokeToken) model.Result {
	if !t.s.Tokens.Has(c.ID) {
		return refuse(model.ErrUnknown, "there is no token %q", c.ID)
	}
	t.s.Tokens = t.s.Tokens.Delete(c.ID)
	return model.Result{}
}

func (t *tx) updateNode(c model.UpdateNode) model.Result {
	n, ok := t.s.Nodes.Get(c.ID)
	if !ok {
		return refuse(model.ErrUnknown, "node %s is not a member", c.ID)
	}
	n.Attributes, n.Host, n.Version, n.StateMax = maps.Clone(c.Attributes), c.Host, c.Version, c.StateMax
	n.Sick = cut(c.Sick, model.MaxSick)
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	return model.Result{}
}

// drainNode only notes what is wanted: the leader composes for it like for a node that is down.
func (t *tx) drainNode(c model.DrainNode) model.Result {
	n, ok := t.s.Nodes.Get(c.ID)
	if !ok {
		return refuse(model.ErrUnknown, "node %s is not a member", c.ID)
	}
	n.Draining = c.On
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	return model.Result{}
}

func (t *tx) markDown(c model.MarkDown) model.Result {
	n, ok := t.s.Nodes.Get(c.ID)
	switch {
	case !ok:
		return refuse(model.ErrUnknown, "node %s is not a member", c.ID)
	case n.Down || n.Epoch != c.Epoch:
		return refuse(model.ErrEpoch, "node %s is in epoch %d", n.Name, n.Epoch)
	}
	n.Down, n.Epoch = true, n.Epoch+1
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	t.lose(n.ID, "node "+n.Name+" is down: "+c.Why)
	return model.Result{}
}

// lose says of every row of a node that nothing is known of it any more. A failed one stays failed.
func (t *tx) lose(node, why string) {
	systems := map[string]bool{}
	for _, r := range t.nodeRows(node) {
		systems[r.System] = true
		if r.Phase != model.Failed {
			r.Phase, r.Reason = model.Lost, why
			t.setRow(r)
		}
	}
	for system := range systems {
		t.open(system)
	}
}

// downIn gives a member that is down in an epoch, or the refusal.
func (t *tx) downIn(id string, epoch uint64) (n model.Node, refused model.Result) {
	n, ok := t.s.Nodes.Get(id)
	switch {
	case !ok:
		refused = refuse(model.ErrUnknown, "node %s is not a member", id)
	case !n.Down || n.Epoch != epoch:
		refused = refuse(model.ErrEpoch, "node %s is in epoch %d", n.Name, n.Epoch)
	}
	return n, refused
}

// markUp plans again what stayed on the node: where a process of the row still runs, starting it finds it. What is
// obsolete was kept because it may be running: the node ends it and says so.
func (t *tx) markUp(c model.MarkUp) model.Result {
	n, refused := t.downIn(c.ID, c.Epoch)
	if refused.Code != model.OK {
		return refused
	}
	n.Down, n.Left, n.Fenced = false, false, false
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	for _, r := range t.nodeRows(n.ID) {
		switch {
		case r.Phase == model.Lost && r.Obsolete:
			r.Phase, r.Reason, r.Claim, r.Epoch = model.Stopping, "node "+n.Name+" is back", t.index, n.Epoch
			t.setRow(r)
		case r.Phase == model.Lost:
			mayRun := r.MayRun || r.Claim != 0
			r = t.planned(r, "node "+n.Name+" is back")
			r.MayRun = mayRun
			t.setRow(r)
		}
	}
	return model.Result{}
}

// fence drops the rows that were kept only because they might have been running.
func (t *tx) fence(c model.Fence) model.Result {
	n, refused := t.downIn(c.ID, c.Epoch)
	if refused.Code != model.OK {
		return refused
	}
	n.Fenced = true
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	t.sweep(t.nodeRows(n.ID))
	return model.Result{}
}

// takeOver gives a state that a fenced node has to whoever restores the snapshot, on a timeline of its own: the node may
// hold newer data of the old one.
func (t *tx) takeOver(c model.TakeOver) model.Result {
	key := model.CustodyKey(c.System, c.Service, c.Container)
	n, ok := t.s.Nodes.Get(c.Node)
	held := t.s.Custody.At(key)
	snap, kept := t.s.Snapshots.Get(model.SnapshotKey(c.System, c.Service, c.Container, c.Snapshot))
	switch {
	case !ok || !n.Fenced || n.Epoch != c.Epoch:
		return refuse(model.ErrEpoch, "node %s is not fenced", t.s.NodeName(c.Node))
	case held.Node != c.Node && (held.Node != "" || held.From != c.Node):
		return refuse(model.ErrStale, "the state of %s is not on %s any more", c.Service, n.Name)
	case !kept || !model.HeldByOther(t.s, snap, c.Node):
		return refuse(model.ErrUnknown, "no node that is up has snapshot %d of %s", c.Snapshot, c.Service)
	}
	line := model.TakenOver(t.index, snap)
	if snap.ID == held.Wanted {
		line = held.Next
	}
	t.setCustody(key, model.Custody{Snapshot: snap.ID, Epoch: t.index, Timeline: line}, c.At)
	t.sweep(t.s.ServiceRows(c.System, c.Service))
	return model.Result{Value: line}
}

// leave marks a node as gone on purpose. It counts as down and fenced: nothing is there.
func (t *tx) leave(c model.Leave) model.Result {
	n, ok := t.s.Nodes.Get(c.ID)
	switch {
	case !ok:
		return refuse(model.ErrUnknown, "node %s is not a member", c.ID)
	case n.Left:
		return model.Result{} // told twice
	case n.Down || n.Epoch != c.Epoch:
		return refuse(model.ErrEpoch, "node %s was marked down since", n.Name)
	}
	if why := model.MayLeave(t.s, c.ID); why != "" {
		return refuse(model.ErrGate, "node %s cannot leave yet: %s", n.Name, why)
	}
	n.Left, n.Down, n.Fenced, n.Draining, n.Epoch = true, true, true, false, n.Epoch+1
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	t.sweep(t.nodeRows(n.ID))
	return model.Result{}
}

// rejoin leaves the node down: it is marked up when it is heard.
func (t *tx) rejoin(c model.Rejoin) model.Result {
	n, ok := t.s.Nodes.Get(c.ID)
	if !ok {
		return refuse(model.ErrUnknown, "node %s is not a member", c.ID)
	}
	n.Left = false
	t.s.Nodes = t.s.Nodes.Set(n.ID, n)
	return model.Result{}
}

func (t *tx) removeNode(c model.RemoveNode) model.Result {
	n, ok := t.s.Nodes.Get(c.ID)
	if !ok {
		return refuse(model.ErrUnknown, "node %s is not a member", c.ID)
	}
	t.s.Nodes = t.s.Nodes.Delete(n.ID)
	t.lose(n.ID, "node "+n.Name+" was removed")
	t.inherit(n.ID, c.At)
	t.s.Removed = t.s.Removed.Set(n.ID, model.Removed{Name: n.Name, At: c.At})
	sealed := maps.Clone(t.s.Cluster.Sealed)
	delete(sealed, n.ID)
	t.s.Cluster.Sealed = sealed
	return model.Result{}
}

// inherit finds for the states that a removed node had, or that came from it, the newest snapshot of theirs that a member holds. A
// state of which there is none is gone with the node.
func (t *tx) inherit(node string, at time.Time) {
	for key, c := range t.s.Custody.All() {
		if c.Node != node && (c.From != node || t.heldByMember(key, c.Snapshot)) {
			continue
		}
		if c.Wanted != "" && t.heldByMember(key, c.Wanted) {
			t.setCustody(key, model.Custody{Snapshot: c.Wanted, Epoch: t.index, Timeline: c.Next}, at)
		} else if newest, ok := t.s.NewestOwn(key, t.held); ok {
			t.putCustody(key, model.Custody{Snapshot: newest.ID, Epoch: t.index, Timeline: newest.Timeline})
		} else {
			t.dropCustody(key)
		}
	}
}

func (t *tx) held(snap model.Snapshot) bool {
	return slices.ContainsFunc(snap.Holders, t.s.Nodes.Has)
}

func (t *tx) heldByMember(custody, id string) bool {
	_, ok := t.s.NewestSnapshot(custody, func(snap model.Snapshot) bool { return snap.ID == id && t.held(snap) })
	return ok
}

func (t *tx) nodeRows(id string) []model.Row {
	var rows []model.Row
	for _, r := range t.s.Rows.Prefix(id + "/") {
		rows = append(rows, r)
	}
	return rows
}
