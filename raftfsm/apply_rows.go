package raftfsm

import (
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// setRow stores a row, or drops it once it is obsolete and gone: the node's own look at what runs finds a process
// without a row and ends it. An exclusive row that was lost stays, for as long as its node is a member, because it may
// be running and nothing else of its service may start until that is known, or the node is fenced; and a row whose state another node waits
// for, until it is saved.
func (t *tx) setRow(r model.Row) {
	if r.Obsolete && r.Exclusive && r.MayRun && r.Phase.Gone() && r.Phase != model.Lost {
		r.Phase, r.Reason, r.Claim, r.Epoch, r.MayRun = model.Stopping, "it may still run since its node was down", t.index, t.s.Nodes.At(r.Node).Epoch, false
	}
	n, member := t.s.Nodes.Get(r.Node)
	mayRun := r.Exclusive && r.Phase == model.Lost && member && !n.Fenced
	if r.Obsolete && r.Phase.Gone() && !mayRun && !(model.MustSave(t.s, r) && member) {
		t.dropRow(r)
		return
	}
	t.putRow(r)
}

// putRow stores a row as it is.
func (t *tx) putRow(r model.Row) {
	if r.Moving() {
		t.s.Moving = t.s.Moving.Set(r.Key, struct{}{})
	} else if t.s.Moving.Has(r.Key) {
		t.s.Moving = t.s.Moving.Delete(r.Key)
	}
	t.s.Rows = t.s.Rows.Set(r.Key, r)
}

// putCustody stores a custody as it is.
func (t *tx) putCustody(key string, c model.Custody) {
	if c.Snapshot != "" {
		t.s.Transit = t.s.Transit.Set(key, struct{}{})
	} else if t.s.Transit.Has(key) {
		t.s.Transit = t.s.Transit.Delete(key)
	}
	t.s.Custody = t.s.Custody.Set(key, c)
}

func (t *tx) dropCustody(key string) {
	t.s.Custody, t.s.Transit = t.s.Custody.Delete(key), t.s.Transit.Delete(key)
}

// sweep drops the rows that were kept for something that is over.
func (t *tx) sweep(rows []model.Row) {
	for _, r := range rows {
		if r.Obsolete {
			t.setRow(r)
		}
	}
}

func (t *tx) dropRow(r model.Row) {
	t.s.Rows, t.s.Moving = t.s.Rows.Delete(r.Key), t.s.Moving.Delete(r.Key)
	t.s.ByService = t.s.ByService.Delete(model.ServiceKey(r.RowSpec))
	t.unindexRow(r.RowSpec)
	if r.IsSaver() { // of no generation
		t.s.Specs = t.s.Specs.Delete(r.Key)
	}
}

func (t *tx) addRow(spec model.RowSpec, generation uint64, at time.Time) {
	r, exists := t.s.Rows.Get(spec.Key)
	if exists { // still here from an earlier generation: it is wanted again
		t.unindexRow(r.RowSpec)
		r.RowSpec, r.Obsolete = spec, false // the order is not in the key and may be another
		if r.Phase.Gone() && r.Phase != model.Prepared {
			r = t.planned(r, "wanted again")
		}
	} else {
		r = model.Row{RowSpec: spec, First: generation, Phase: model.Planned, At: at}
		if n, ok := t.s.Nodes.Get(spec.Node); !ok || n.Down {
			r.Phase, r.Reason = model.Lost, "node "+t.s.NodeName(spec.Node)+" is down"
		}
	}
	t.putRow(r)
	t.s.Specs = t.s.Specs.Set(r.Key, r.RowSpec)
	t.s.ByService = t.s.ByService.Set(model.ServiceKey(r.RowSpec), struct{}{})
	t.indexRow(r.RowSpec)
}

func (t *tx) planned(r model.Row, why string) model.Row {
	r.Phase, r.Reason, r.Attempts, r.Output = model.Planned, why, 0, ""
	r.Snapshot, r.SaveFailed = "", false
	r.Claim, r.Epoch = 0, 0 // what is still told of the old claim is not about this life of the row
	if n, ok := t.s.Nodes.Get(r.Node); !ok || n.Down {
		r.Phase, r.Reason = model.Lost, "node "+t.s.NodeName(r.Node)+" is down"
	}
	return r
}

func (t *tx) replan(r model.Row, why string) { t.setRow(t.planned(r, why)) }

func (t *tx) claims(c model.Claims) model.Result {
	res := model.Result{Verdicts: make([]model.Verdict, len(c.Items))}
	n, ok := t.s.Nodes.Get(c.Node)
	if !ok || n.Down || n.Epoch != c.Epoch {
		return refuse(model.ErrEpoch, "node %s was marked down or removed since", t.s.NodeName(c.Node))
	}
	for i, item := range c.Items {
		res.Verdicts[i] = t.claim(c, item)
	}
	return res
}

func (t *tx) claim(c model.Claims, item model.Claim) model.Verdict {
	r, ok := t.s.Rows.Get(item.Row)
	if !ok || r.Node != c.Node {
		return model.Verdict{Code: model.ErrUnknown, Reason: "there is no such row on this node"}
	}
	if g := t.s.Systems.At(r.System).Generation; item.Generation != g {
		return model.Verdict{Code: model.ErrStale, Reason: "a newer generation exists"}
	}
	var why string
	switch {
	case item.Phase == r.Phase && (r.Phase == model.Starting || r.Phase == model.Stopping || r.Phase == model.Saving || r.Phase == model.Restoring):
		// the same claim again after a lost reply: it keeps what it has
	case item.Phase == model.Starting:
		why = model.CanStart(t.s, r)
	case item.Phase == model.Stopping:
		why = model.CanStop(t.s, r)
	case item.Phase == model.Saving:
		why = model.CanSave(t.s, r)
	case item.Phase == model.Restoring:
		why = model.CanRestore(t.s, r)
	default:
		return model.Verdict{Code: model.ErrInvalid, Reason: "not a phase to claim"}
	}
	if why != "" {
		return model.Verdict{Code: model.ErrGate, Reason: why}
	}
	r.Phase, r.Claim, r.Epoch, r.At, r.Reason = item.Phase, t.index, c.Epoch, c.At, ""
	r.MayRun = false // what is claimed begins with whatever runs
	t.setRow(r)
	return model.Verdict{}
}

func (t *tx) reports(c model.Reports) model.Result {
	res := model.Result{Verdicts: make([]model.Verdict, len(c.Items))}
	n, ok := t.s.Nodes.Get(c.Node)
	if !ok || n.Epoch != c.Epoch || n.Down {
		return refuse(model.ErrEpoch, "node %s was marked down or removed since", t.s.NodeName(c.Node))
	}
	systems := map[string]bool{}
	for i, item := range c.Items {
		r, ok := t.s.Rows.Get(item.Row)
		if !ok || r.Node != c.Node {
			res.Verdicts[i] = model.Verdict{Code: model.ErrUnknown, Reason: "there is no such row on this node"}
			continue
		}
		systems[r.System] = true
		res.Verdicts[i] = t.report(c, r, item)
	}
	for system := range systems {
		t.open(system)
	}
	return res
}

func (t *tx) report(c model.Reports, r model.Row, item model.Report) model.Verdict {
	if !reportFits(r, item) {
		if r.Phase == item.Phase {
			return model.Verdict{} // told twice
		}
		return model.Verdict{Code: model.ErrPhase, Reason: "the row is " + string(r.Phase)}
	}
	was := r.Phase
	r.Phase, r.Reason, r.At, r.Attempts = item.Phase, cut(item.Reason, model.MaxOutput), c.At, item.Attempts
	r.Output = cut(item.Output, model.MaxOutput)
	switch {
	case r.Phase == model.Active && r.Managed:
		t.putCustody(r.CustodyKey(), model.AfterActive(t.s, r.RowSpec, t.index))
	case r.Phase == model.Saved:
		snap := t.keepSnapshot(r, *item.Snapshot, c)
		t.setCustody(r.CustodyKey(), model.AfterSaved(t.s, r.RowSpec, snap, t.index), c.At)
		if !r.Obsolete { // rolled back meanwhile: its state is still here
			r = t.planned(r, "wanted again while its state was saved")
		}
	case r.Phase == model.Restored:
		r.Snapshot = item.Snapshot.ID
	case r.Phase == model.Failed && was == model.Saving:
		r.SaveFailed = true
	case r.Phase == model.Stopped && !r.Obsolete:
		r = t.planned(r, "stopped before it was wanted again")
	}
	t.setRow(r)
	if item.Phase == model.Saved {
		t.sweep(t.s.ServiceRows(r.System, r.Service))
	}
	return model.Verdict{}
}

// reportFits says whether a report is possible in the row's phase: it answers the row's own claim, tells of a
// preparation, or of an active row that died for good.
func reportFits(r model.Row, item model.Report) bool {
	switch item.Phase {
	case model.Prepared:
		return r.Phase == model.Planned
	case model.Active:
		return r.Phase == model.Starting && item.Claim == r.Claim
	case model.Stopped:
		return r.Phase == model.Stopping && item.Claim == r.Claim
	case model.Saved:
		return r.Phase == model.Saving && item.Claim == r.Claim && item.Snapshot != nil && item.Snapshot.ID != ""
	case model.Restored:
		return r.Phase == model.Restoring && item.Claim == r.Claim && item.Snapshot != nil && item.Snapshot.ID != ""
	case model.Failed:
		return r.Phase != model.Stopping && r.Phase != model.Lost && r.Phase != model.Failed && item.Claim == r.Claim
	}
	return false
}

// open marks the newest generation as opened once none of its new rows is still planned. New are those that no
// opened generation had: a row that failed long ago does not keep others from moving off a dead node.
func (t *tx) open(system string) {
	sys := t.s.Systems.At(system)
	g, ok := t.s.Generation(system, sys.Generation)
	if !ok || g.Opened {
		return
	}
	known := t.lastOpened(g)
	for _, r := range t.s.SystemRows(system) {
		if !r.Obsolete && r.First > known && (r.Phase == model.Planned || r.Phase == model.Failed) {
			return
		}
	}
	g.Opened = true
	t.s.Gens = t.s.Gens.Set(model.SystemKey(system, g.Number), g)
}

// lastOpened is the number of the newest generation before g that was opened; 0 if none is kept.
func (t *tx) lastOpened(g model.Generation) uint64 {
	for n := g.Number - 1; n > 0; n-- {
		if old, ok := t.s.Generation(g.System, n); !ok || old.Opened {
			return n
		}
	}
	return 0
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[len(s)-n:], "")
}

func (t *tx) indexRow(r model.RowSpec) {
	for _, k := range r.DependentKeys() {
		t.s.Dependents = t.s.Dependents.Set(k, struct{}{})
	}
}

func (t *tx) unindexRow(r model.RowSpec) {
	for _, k := range r.DependentKeys() {
		t.s.Dependents = t.s.Dependents.Delete(k)
	}
}
