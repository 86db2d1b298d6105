package node

import (
	"context"
	"errors"
	"strings"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// faultTag tells the other nodes, by gossip, that this one applies the log no more, and why.
const faultTag = "fault"

// Values of faultTag.
const (
	faultUpgrade  = "upgrade"
	faultDiverged = "diverged"
)

// faultLoop says it when this node cannot apply the log any more. Its services go on. One that diverged before it was
// started begins anew, as soon as there is a leader that can give it State.
func (n *Node) faultLoop(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.fsm.Failed():
	}
	err := n.fsm.Err()
	diverged := (*raftfsm.DivergedError)(nil)
	fault := faultUpgrade
	if errors.As(err, &diverged) {
		fault = faultDiverged
	}
	n.log.Error("this node applies the log no more; its services go on", "reason", err)
	n.note(Noted{Kind: "fault", Message: "this node applies the log no more, and its services go on: " + err.Error()})
	tags := n.tags()
	tags[faultTag] = fault
	if terr := n.mesh.SetTags(tags); terr != nil {
		n.log.Warn("telling the other nodes", "err", terr)
	}
	if diverged == nil || !diverged.Earlier {
		return nil
	}
	for ctx.Err() == nil {
		if n.fsm.Leader() != "" {
			n.note(Noted{Kind: "anew", Message: "State had diverged: the raft directory is set aside, and this node begins anew with what the leader has"})
			if err := n.fsm.BeginAnew(); err != nil {
				return err
			}
			n.reopen()
			return nil
		}
		n.pause(ctx, factsEvery)
	}
	return nil
}

// tags are what gossip says of this node.
func (n *Node) tags() map[string]string {
	return map[string]string{"name": n.cfg.Name, "version": Version}
}

// faultOf says in words what a member's tag says.
func faultOf(node model.Node, g mesh.Member) string {
	if g.Status != mesh.StatusAlive {
		return ""
	}
	switch g.Tags[faultTag] {
	case faultUpgrade:
		return "node " + node.Name + " must be upgraded"
	case faultDiverged:
		return "its State differs from the others': restart its agent, and report this"
	}
	return ""
}

// faults names the members that apply the log no more.
func (n *Node) faults(s *model.State, gossip map[string]mesh.Member) string {
	var out []string
	for id, node := range s.Nodes.All() {
		if fault := faultOf(node, gossip[id]); fault != "" && id != n.id.ID {
			out = append(out, node.Name+" applies the log no more: "+fault)
		}
	}
	if err := n.fsm.Err(); err != nil {
		out = append(out, "this node applies the log no more: "+err.Error())
	}
	return strings.Join(out, "; ")
}
