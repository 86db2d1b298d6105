package node

import (
	"context"
	"fmt"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// Restores that are more than loading a snapshot where the service is: onto another node, which is a deployment of what there
// is with one service placed there and its data returned; and of a state whose node is down, which is a take-over by hand.

// kindRestore is a request only: in State it is a deploy.
const kindRestore = "restore"

// undertakeRestore composes the newest intent again with a service on the node asked for and with the data of a snapshot.
func undertakeRestore(s *model.State, system string, req api.PlanRequest) (undertaking, error) {
	if len(req.Services) != 1 {
		return undertaking{}, &api.Error{Code: api.CodeUsage, Message: "restore onto a node is for one service"}
	}
	name := req.Services[0]
	to, err := memberNamed(s, req.Node)
	if err != nil {
		return undertaking{}, err
	}
	r, err := stateRow(s, system, name)
	if err != nil {
		return undertaking{}, err
	}
	snap, err := generationOf(s, r.CustodyKey(), name, req.Snapshot)
	if err != nil {
		return undertaking{}, err
	}
	in, _ := s.Intent(system, s.Systems.At(system).Intent)
	parsed, diags := model.Parse(in.Source, model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		return undertaking{}, invalid(diags, in.Source)
	}
	m, diags := model.Compose{State: s, System: system, Model: parsed, Packages: in.Packages, Excluded: in.Excluded,
		Prefer: placedOn(s, system, name, to.ID), Returns: []model.Return{model.ReturnTo(s, snap)}}.Run()
	if diags.HasErrors() {
		return undertaking{}, invalid(diags, in.Source)
	}
	for _, now := range m.Rows {
		if now.Service == name && now.Node != to.ID {
			return undertaking{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s may not run on %s", name, to.Name),
				Hint: "See where the model's distribution lets it be, what it must be together with, and isonomia members."}
		}
	}
	return newUndertaking(s, system, m, model.Draft{Kind: model.KindDeploy, Source: in.Source, Packages: in.Packages, Excluded: in.Excluded,
		Origin: in.Origin, Why: fmt.Sprintf("restore %s@%d onto %s", name, snap.Generation, to.Name)}), nil
}

// stateRow is the row of the newest generation that has a service's state, whatever its phase.
func stateRow(s *model.State, system, service string) (model.Row, error) {
	for _, r := range s.ServiceRows(system, service) {
		if !r.Obsolete && r.Managed {
			return r, nil
		}
	}
	_, err := custodian(s, system, service)
	return model.Row{}, err
}

// placedOn are the newest generation's rows, with a service on a node.
func placedOn(s *model.State, system, service, node string) (rows []model.RowSpec) {
	for _, r := range s.SystemRows(system) {
		if r.Obsolete {
			continue
		}
		spec := r.RowSpec
		if spec.Service == service && spec.Node != node {
			spec.Node, spec.Spec.Ports = node, nil // its numbers there are others
		}
		rows = append(rows, spec)
	}
	return rows
}

// takeOver has the state of a node that is down go on elsewhere, because an operator says so. done is false where the node is up.
func (n *Node) takeOver(ctx context.Context, s *model.State, req api.RestoreRequest) (out api.Restored, done bool, err error) {
	r, err := stateRow(s, req.System, req.Service)
	if err != nil {
		return out, false, err
	}
	c := s.Custody.At(r.CustodyKey())
	holder, member := s.Nodes.Get(c.Node)
	if !member || !holder.Down {
		return out, false, nil
	}
	snap, err := generationOf(s, r.CustodyKey(), r.Service, req.Generation)
	switch {
	case err != nil:
		return out, true, err
	case !req.TakeOver:
		return out, true, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("the state of %s is on %s, which is down", r.Service, holder.Name),
			Hint: fmt.Sprintf("To go on elsewhere from generation %d, of %s, without what %s wrote since, add --take-over.", snap.Generation, snap.At.UTC().Format(time.RFC3339), holder.Name)}
	case !holder.Fenced:
		return out, true, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s may still be running on %s: it is not fenced yet", r.Service, holder.Name),
			Hint: fmt.Sprintf("Try again %v after it was marked down.", model.FenceAfter)}
	}
	cmd := model.TakeOver{System: r.System, Service: r.Service, Container: r.Container, Node: holder.ID, Epoch: holder.Epoch, Snapshot: snap.Generation, At: time.Now().UTC()}
	if err := n.proposeOne(ctx, cmd); err != nil {
		return out, true, err
	}
	n.noteDecision([]model.Command{cmd})
	return api.Restored{Service: r.Service, Generation: snap.Generation, Size: snap.Size}, true, nil
}
