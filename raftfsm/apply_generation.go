package raftfsm

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// begin opens a generation under its proposal id. Until commit it is only pending: a proposer that dies half-way
// leaves nothing that counts, and what it left is dropped by the next commit of the system.
func (t *tx) begin(c model.Begin) model.Result {
	if p, done := t.s.Proposals.Get(c.Proposal); done {
		return p.Result
	}
	if why := t.stale(c); why != "" {
		return refuse(model.ErrStale, "%s", why)
	}
	if !model.ValidSystem(c.System) {
		return refuse(model.ErrInvalid, "%q cannot be the name of a system", c.System)
	}
	if t.s.Pending.Len() >= model.MaxPending && !t.s.Pending.Has(c.Proposal) {
		t.dropOldestPending()
	}
	t.s.Pending = t.s.Pending.Set(c.Proposal, model.Pending{Begin: c, Index: t.index})
	return model.Result{}
}

func (t *tx) stale(c model.Begin) string {
	sys := t.s.Systems.At(c.System)
	switch {
	case sys.Generation != c.Base:
		return "somebody else deployed meanwhile"
	case c.Intent != 0 && c.Intent != sys.Intent:
		return "the intent was replaced"
	}
	return ""
}

func (t *tx) dropOldestPending() {
	oldest := ""
	for id, p := range t.s.Pending.All() {
		if oldest == "" || p.Index < t.s.Pending.At(oldest).Index {
			oldest = id
		}
	}
	t.s.Pending = t.s.Pending.Delete(oldest)
}

func (t *tx) part(c model.Part) model.Result {
	if p, done := t.s.Proposals.Get(c.Proposal); done {
		return p.Result
	}
	p, ok := t.s.Pending.Get(c.Proposal)
	switch {
	case !ok:
		return refuse(model.ErrStale, "the proposal is not open any more")
	case c.Number < len(p.Parts):
		return model.Result{} // came before
	case c.Number > len(p.Parts):
		return refuse(model.ErrInvalid, "part %d before part %d", c.Number, len(p.Parts))
	}
	p.Parts = append(slices.Clip(p.Parts), c)
	t.s.Pending = t.s.Pending.Set(c.Proposal, p)
	return model.Result{}
}

func (t *tx) commit(c model.Commit) model.Result {
	if p, done := t.s.Proposals.Get(c.Proposal); done {
		return p.Result
	}
	p, ok := t.s.Pending.Get(c.Proposal)
	if !ok {
		return refuse(model.ErrStale, "the proposal is not open any more")
	}
	if len(p.Parts) != c.Parts {
		return refuse(model.ErrInvalid, "%d of %d parts arrived", len(p.Parts), c.Parts)
	}
	if why := cmp.Or(t.stale(p.Begin), t.numbersTaken(p), t.snapshotsGone(p)); why != "" {
		t.s.Pending = t.s.Pending.Delete(c.Proposal)
		return refuse(model.ErrStale, "%s", why)
	}
	res := t.makeGeneration(p)
	t.remember(c.Proposal, res)
	t.dropPending(p.Begin.System)
	return res
}

// numbersTaken looks for a reservation that another system made since the proposer planned.
func (t *tx) numbersTaken(p model.Pending) string {
	released := map[string]bool{}
	for _, part := range p.Parts {
		for _, key := range part.Release {
			released[key] = true
		}
	}
	for _, part := range p.Parts {
		for _, r := range part.Reserve {
			for _, have := range t.s.NumberHolders(r.Resource, r.Number, r.Node) {
				if have.Key() != r.Key() && !released[have.Key()] {
					return fmt.Sprintf("number %d was reserved for %s meanwhile", have.Number, have.Service)
				}
			}
		}
	}
	return ""
}

// snapshotsGone looks for a snapshot to return to that was dropped since the proposer planned.
func (t *tx) snapshotsGone(p model.Pending) string {
	for _, part := range p.Parts {
		for _, r := range part.Returns {
			if _, ok := t.s.SnapshotByID(model.CustodyKey(p.Begin.System, r.Service, r.Container), r.Snapshot); r.Snapshot != "" && !ok {
				return fmt.Sprintf("the snapshot of %s was dropped meanwhile", r.Service)
			}
		}
	}
	return ""
}

func (t *tx) makeGeneration(p model.Pending) model.Result {
	b := p.Begin
	sys := t.s.Systems.At(b.System)
	sys.Name, sys.Generation, sys.Moves = b.System, b.Base+1, b.Moves
	intent := t.intentOf(p, &sys)
	t.s.Systems = t.s.Systems.Set(sys.Name, sys)
	g := model.Generation{System: b.System, Number: sys.Generation, Base: b.Base, Intent: intent.Number, Kind: b.Kind,
		By: b.By, Why: b.Why, At: b.At, Digest: b.Digest}
	for _, part := range p.Parts {
		t.release(part)
	}
	for _, part := range p.Parts {
		t.reserve(part)
		g.Gone = append(g.Gone, part.Gone...)
		for _, spec := range part.Added {
			g.Added = append(g.Added, spec.Key)
		}
	}
	for _, part := range p.Parts { // before what goes is retired, for the same reason
		for _, r := range part.Returns {
			key := model.CustodyKey(b.System, r.Service, r.Container)
			t.setCustody(key, model.Returned(t.s.Custody.At(key), r), b.At)
		}
	}
	for _, part := range p.Parts { // before what goes is retired: whether its state moves depends on what comes
		for _, spec := range part.Added {
			t.addRow(spec, g.Number, b.At)
		}
	}
	for _, part := range p.Parts {
		for _, spec := range part.Added {
			t.addSaver(spec, g, b.At)
		}
	}
	for _, key := range g.Gone {
		t.retire(key, b.Base)
	}
	for _, part := range p.Parts {
		t.setPolicies(b.System, part.Policies)
		for _, key := range part.Retry {
			if r, ok := t.s.Rows.Get(key); ok && r.Phase == model.Failed {
				t.replan(r, "tried again")
			}
		}
		for _, o := range part.Order {
			if r, ok := t.s.Rows.Get(o.Row); ok {
				t.unindexRow(r.RowSpec)
				r.After = o.After
				t.indexRow(r.RowSpec)
				t.putRow(r)
				t.s.Specs = t.s.Specs.Set(r.Key, r.RowSpec)
			}
		}
	}
	for _, r := range t.s.SystemRows(b.System) {
		if r.Obsolete {
			r.SaveFailed = r.SaveFailed && !model.MustMove(t.s, r.RowSpec) // what goes elsewhere is tried anew
			t.setRow(r)
		}
	}
	t.s.Gens = t.s.Gens.Set(model.SystemKey(g.System, g.Number), g)
	intent.Last = g.Number
	t.s.Intents = t.s.Intents.Set(model.SystemKey(intent.System, intent.Number), intent)
	t.open(b.System)
	t.trim(b.System)
	return model.Result{Generation: g.Number, Intent: intent.Number}
}

// intentOf gives the intent that the generation belongs to: the running one for an adaptation, else a new one, which
// ends the one before it.
func (t *tx) intentOf(p model.Pending, sys *model.System) model.Intent {
	b := p.Begin
	old, _ := t.s.Intent(b.System, sys.Intent)
	if b.Intent != 0 {
		old.Outcome, old.Reason = model.Running, ""
		return old
	}
	if old.Number != 0 && !old.Outcome.Final() {
		old.Outcome, old.Reason, old.Failed = b.Ending, b.Reason, b.Failed
		if old.Outcome == "" {
			old.Outcome = model.Superseded
		}
		t.s.Intents = t.s.Intents.Set(model.SystemKey(old.System, old.Number), old)
	}
	sys.Intent++
	in := model.Intent{System: b.System, Number: sys.Intent, Kind: b.Kind, Excluded: b.Excluded,
		Target: b.Target, By: b.By, Why: b.Why, At: b.At, Outcome: model.Running, Origin: b.Origin}
	in.Source.Files, in.Packages = map[string][]byte{}, map[string]string{}
	for _, part := range p.Parts {
		maps.Copy(in.Packages, part.Packages)
		for name, bytes := range part.Files { // a long file comes in pieces
			in.Source.Files[name] = append(slices.Clip(in.Source.Files[name]), bytes...)
		}
	}
	return in
}

// release frees numbers. Every part's come first: a number may go to a service of an earlier part.
func (t *tx) release(part model.Part) {
	for _, key := range part.Release {
		if r, ok := t.s.Reservations.Get(key); ok {
			t.s.Reservations = t.s.Reservations.Delete(key)
			t.s.Numbers = t.s.Numbers.Delete(r.NumberKey())
		}
	}
}

func (t *tx) reserve(part model.Part) {
	for _, r := range part.Reserve {
		t.s.Reservations = t.s.Reservations.Set(r.Key(), r)
		t.s.Numbers = t.s.Numbers.Set(r.NumberKey(), r.Key())
	}
	for k, n := range part.Counters {
		t.s.Counters = t.s.Counters.Set(k, n)
	}
}

// addSaver brings in a row that saves the state of a service where it is, if the service has no row there.
func (t *tx) addSaver(spec model.RowSpec, g model.Generation, at time.Time) {
	saver, needed := model.Saver(t.s, spec)
	if !needed {
		return
	}
	r := model.Row{RowSpec: saver, First: g.Number, Last: g.Number, Obsolete: true, Phase: model.Stopped, Reason: "its state goes to another node", At: at}
	if n := t.s.Nodes.At(saver.Node); n.Down {
		r.Phase, r.Reason = model.Lost, "node "+n.Name+" is down"
	}
	t.putRow(r)
	t.s.Specs = t.s.Specs.Set(r.Key, saver)
	t.s.ByService = t.s.ByService.Set(model.ServiceKey(saver), struct{}{})
}

func (t *tx) setPolicies(system string, policies map[string]model.StatePolicy) {
	for _, service := range slices.Sorted(maps.Keys(policies)) {
		key := system + "/" + service
		if p := policies[service]; p.Managed {
			t.s.Policies = t.s.Policies.Set(key, p)
		} else {
			t.s.Policies = t.s.Policies.Delete(key)
		}
	}
}

func (t *tx) retire(key string, last uint64) {
	r, ok := t.s.Rows.Get(key)
	if !ok {
		return
	}
	r.Obsolete, r.Last = true, last
	t.setRow(r)
}

func (t *tx) remember(proposal string, res model.Result) {
	if t.s.Proposals.Len() >= model.MaxProposals {
		oldest := ""
		for id, p := range t.s.Proposals.All() {
			if oldest == "" || p.Index < t.s.Proposals.At(oldest).Index {
				oldest = id
			}
		}
		t.s.Proposals = t.s.Proposals.Delete(oldest)
	}
	res.Index = t.index
	t.s.Proposals = t.s.Proposals.Set(proposal, model.Proposal{Index: t.index, Result: res})
}

func (t *tx) dropPending(system string) {
	for id, p := range t.s.Pending.All() {
		if p.Begin.System == system {
			t.s.Pending = t.s.Pending.Delete(id)
		}
	}
}

// finish gives the newest intent its outcome. Settling sets the parent: the settled intent that it replaced, or, for
// a rollback to X, X's own parent, so that rolling back again goes further back.
func (t *tx) finish(c model.Finish) model.Result {
	sys := t.s.Systems.At(c.System)
	in, ok := t.s.Intent(c.System, c.Intent)
	if !ok || sys.Intent != c.Intent || sys.Generation != c.Generation {
		return refuse(model.ErrStale, "a newer generation exists")
	}
	if c.Outcome == model.Settled {
		if why := model.CanSettle(t.s, c.System); why != "" {
			return refuse(model.ErrGate, "%s", why)
		}
		if sys.Settled != in.Number {
			in.Parent = sys.Settled
			if in.Kind == model.KindRollback || in.Kind == model.KindAuto {
				target, _ := t.s.Intent(c.System, in.Target)
				in.Parent = target.Parent
			}
		}
		sys.Settled, in.Retries = in.Number, 0
		t.s.Systems = t.s.Systems.Set(sys.Name, sys)
	}
	in.Outcome, in.Reason, in.Abort = c.Outcome, c.Reason, ""
	t.s.Intents = t.s.Intents.Set(model.SystemKey(in.System, in.Number), in)
	return model.Result{Generation: sys.Generation, Intent: in.Number}
}

func (t *tx) retry(c model.Retry) model.Result {
	sys := t.s.Systems.At(c.System)
	if sys.Generation != c.Generation {
		return refuse(model.ErrStale, "a newer generation exists")
	}
	again := false
	for _, key := range c.Rows {
		if r, ok := t.s.Rows.Get(key); ok && r.Phase == model.Failed && r.System == c.System {
			r.Retry, again = r.Retry+1, true
			t.replan(r, "tried again")
		}
	}
	if in, ok := t.s.Intent(c.System, sys.Intent); ok && again {
		in.Retries++
		t.s.Intents = t.s.Intents.Set(model.SystemKey(in.System, in.Number), in)
	}
	return model.Result{}
}

func (t *tx) abort(c model.Abort) model.Result {
	if p, done := t.s.Proposals.Get(c.Proposal); done {
		return p.Result
	}
	sys := t.s.Systems.At(c.System)
	in, ok := t.s.Intent(c.System, sys.Intent)
	if !ok || in.Outcome.Final() {
		return refuse(model.ErrPhase, "nothing is being deployed")
	}
	if in.Kind == model.KindAuto {
		return refuse(model.ErrPhase, "a rollback is under way already; deploy something to replace it")
	}
	if sys.Settled == in.Number {
		return refuse(model.ErrPhase, "nothing is being deployed: what is deployed adapts to a change of nodes")
	}
	in.Abort = c.By
	t.s.Intents = t.s.Intents.Set(model.SystemKey(in.System, in.Number), in)
	res := model.Result{Intent: in.Number, Generation: sys.Generation}
	t.remember(c.Proposal, res)
	return res
}
