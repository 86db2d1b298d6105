package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// What operators do to nodes: look what would happen without some, have everything go elsewhere, remove one for ever.
// Looking composes on a State in which the nodes are already so, by the code by which the leader will.

// postWhatIf says what the leader would do if nodes were down, or drained.
func (n *Node) postWhatIf(r *http.Request) (any, error) {
	req, err := decode[api.WhatIfRequest](r)
	if err != nil {
		return nil, err
	}
	s, err := n.readState(r.Context())
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, name := range req.Nodes {
		node, err := memberNamed(s, name)
		if err != nil {
			return nil, err
		}
		ids = append(ids, node.ID)
	}
	return whatIf(s, func(m model.Node) model.Node {
		m.Down, m.Draining = m.Down || !req.Drained, m.Draining || req.Drained
		return m
	}, ids)
}

// whatIf plans the adaptation of every system to changed nodes.
func whatIf(s *model.State, change func(model.Node) model.Node, ids []string) ([]api.Plan, error) {
	then := model.WithTakeOvers(model.WithNodes(s, change, ids...), time.Now())
	plans := []api.Plan{}
	for name := range s.Systems.All() {
		in, ok := s.Intent(name, s.Systems.At(name).Intent)
		if !ok {
			continue
		}
		p, diags := model.Adaptation(then, in)
		if diags.HasErrors() {
			return nil, invalid(diags, in.Source)
		}
		out := apiPlan(then, undertaking{plan: p, same: p.Empty()})
		out.System = name
		plans = append(plans, out)
	}
	return plans, nil
}

func memberNamed(s *model.State, name string) (model.Node, error) {
	node, ok := s.NodeByName(name)
	if ok {
		return node, nil
	}
	var names []string
	for _, m := range s.Nodes.All() {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return node, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no node %q", name), Hint: "Members are " + strings.Join(names, ", ") + "."}
}

// memberNow is memberNamed, on a State that is as new as the leader's.
func (n *Node) memberNow(ctx context.Context, name string) (*model.State, model.Node, error) {
	s, err := n.readState(ctx)
	if err != nil {
		return nil, model.Node{}, err
	}
	node, err := memberNamed(s, name)
	return s, node, err
}

// postDrain has everything on a node go elsewhere, or lets things go there again.
func (n *Node) postDrain(r *http.Request) (any, error) {
	req, err := decode[api.DrainRequest](r)
	if err != nil {
		return nil, err
	}
	_, node, err := n.memberNow(r.Context(), req.Node)
	if err != nil {
		return nil, err
	}
	if err := n.proposeOne(r.Context(), model.DrainNode{ID: node.ID, On: !req.Undo}); err != nil {
		return nil, err
	}
	what := "is drained, by request"
	if req.Undo {
		what = "takes instances again, by request"
	}
	n.note(Noted{Kind: "drain", Message: "node " + node.Name + " " + what})
	return api.Node{ID: node.ID, Name: node.Name}, nil
}

// postRemove takes a node that is down out of the cluster for ever.
func (n *Node) postRemove(r *http.Request) (any, error) {
	req, err := decode[api.RemoveRequest](r)
	if err != nil {
		return nil, err
	}
	s, node, err := n.memberNow(r.Context(), req.Node)
	if err != nil {
		return nil, err
	}
	out := api.Removal{Node: node.Name, States: statesOf(s, node.ID)}
	switch {
	case !node.Down:
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("node %s is up", node.Name), Hint: fmt.Sprintf("Drain it (isonomia drain %s), switch it off, and remove it then.", node.Name)}
	case req.DryRun:
		return out, nil
	}
	if err := n.proposeOne(r.Context(), model.RemoveNode{ID: node.ID, At: time.Now().UTC()}); err != nil {
		return nil, err
	}
	n.note(Noted{Kind: "removed", Message: "node " + node.Name + " is removed, and its key barred, by request"})
	return out, nil
}

// statesOf says what becomes of the states that a node has, were it removed.
func statesOf(s *model.State, id string) []api.RemovedState {
	out := []api.RemovedState{}
	for key, c := range s.Custody.All() {
		if c.Node != id {
			continue
		}
		system, service, _ := model.SplitCustodyKey(key)
		st := api.RemovedState{System: system, Service: service}
		snap, ok := s.NewestOwn(key, func(snap model.Snapshot) bool {
			return slices.ContainsFunc(snap.Holders, func(h string) bool { return h != id && s.Nodes.Has(h) })
		})
		if ok {
			st.Generation, st.At = snap.Generation, &snap.At
		}
		out = append(out, st)
	}
	return out
}
