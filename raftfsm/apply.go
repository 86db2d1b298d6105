package raftfsm

import (
	"fmt"

	"github.com/isonomia-mesh/isonomia/model"
)

// Apply gives the State after the commands of one log entry, and one result for each. It is total and deterministic:
// no clock, no randomness, no I/O; a command that does not fit the State it meets is refused with a code and changes
// nothing. The State given stays as it was.
func Apply(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
	next := *s
	t := &tx{s: &next, index: index}
	results := make([]model.Result, len(cmds))
	for i, c := range cmds {
		results[i] = t.apply(c)
		results[i].Index = index
	}
	next.Index = index
	return &next, results
}

// tx is a State in the making. Its tables are replaced, never changed in place.
type tx struct {
	s     *model.State
	index uint64
}

func (t *tx) apply(c model.Command) model.Result {
	if _, first := c.(model.Init); !first && t.s.Cluster.ID == "" {
		return refuse(model.ErrInvalid, "the cluster is not initialised")
	}
	switch c := c.(type) {
	case model.Init:
		return t.init(c)
	case model.Admit:
		return t.admit(c)
	case model.CreateToken:
		return t.createToken(c)
	case model.RevokeToken:
		return t.revokeToken(c)
	case model.UpdateNode:
		return t.updateNode(c)
	case model.MarkDown:
		return t.markDown(c)
	case model.MarkUp:
		return t.markUp(c)
	case model.RemoveNode:
		return t.removeNode(c)
	case model.SealCA:
		return t.sealCA(c)
	case model.Begin:
		return t.begin(c)
	case model.Part:
		return t.part(c)
	case model.Commit:
		return t.commit(c)
	case model.Claims:
		return t.claims(c)
	case model.Reports:
		return t.reports(c)
	case model.Finish:
		return t.finish(c)
	case model.Retry:
		return t.retry(c)
	case model.Abort:
		return t.abort(c)
	case model.RecordBuild:
		return t.recordBuild(c)
	case model.TakeSnapshot:
		return t.takeSnapshot(c)
	case model.HoldSnapshots:
		return t.holdSnapshots(c)
	case model.Fence:
		return t.fence(c)
	case model.TakeOver:
		return t.takeOver(c)
	case model.Leave:
		return t.leave(c)
	case model.Rejoin:
		return t.rejoin(c)
	case model.DrainNode:
		return t.drainNode(c)
	case model.GiveUpState:
		return t.giveUpState(c)
	case model.DropSnapshots:
		return t.dropSnapshots(c)
	}
	return refuse(model.ErrInvalid, "unknown command %T", c)
}

func refuse(code model.Code, format string, args ...any) model.Result {
	return model.Result{Code: code, Message: fmt.Sprintf(format, args...)}
}

func (t *tx) init(c model.Init) model.Result {
	if t.s.Cluster.ID != "" {
		return refuse(model.ErrInitialised, "the cluster is initialised already")
	}
	t.s.Version, t.s.Cluster = 1, c.Cluster
	t.s.Nodes = t.s.Nodes.Set(c.Node.ID, c.Node)
	return model.Result{}
}

func (t *tx) recordBuild(c model.RecordBuild) model.Result {
	if have, ok := t.s.Builds.Get(c.Build.Input); ok && !c.Replace {
		return model.Result{Value: have.Output}
	}
	if t.s.Builds.Len() >= model.MaxBuilds {
		t.dropOldestBuild()
	}
	t.s.Builds = t.s.Builds.Set(c.Build.Input, c.Build)
	return model.Result{Value: c.Build.Output}
}

func (t *tx) dropOldestBuild() {
	oldest := model.BuildRecord{}
	for _, b := range t.s.Builds.All() {
		if oldest.Input == "" || b.At.Before(oldest.At) {
			oldest = b
		}
	}
	t.s.Builds = t.s.Builds.Delete(oldest.Input)
}

func (t *tx) sealCA(c model.SealCA) model.Result {
	for id := range c.Sealed {
		if !t.s.Nodes.Has(id) {
			return refuse(model.ErrUnknown, "node %s is not a member", id)
		}
	}
	t.s.Cluster.Sealed = c.Sealed
	return model.Result{}
}
