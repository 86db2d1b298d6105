package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// States that nobody wants any more are deleted when an operator asks, never by themselves: what was left behind when a
// state went elsewhere, and that of a service that is not deployed any more, of which a last snapshot is kept. Every node
// looks after its own, by what its modules have marked as garbage. For the last one of a service the log comes first, so
// that a deployment that begins meanwhile either has the state, or begins without.

// postGC has every node that is up delete what it has, or say what it would delete, and drops snapshots.
func (n *Node) postGC(r *http.Request) (any, error) {
	req, err := decode[api.GCRequest](r)
	if err != nil {
		return nil, err
	}
	req.System = systemOf(req.System)
	if req.Keep != nil && *req.Keep < 0 {
		return nil, &api.Error{Code: api.CodeUsage, Message: "a number of snapshots to keep cannot be negative"}
	}
	if peerID(r.Context()) != "" {
		states, err := n.collectStates(r.Context(), req)
		return api.GC{States: states}, err
	}
	out := n.askAllForGarbage(r, req)
	if err := unknownService(n.fsm.State(), req, out.States); err != nil && !req.Undeployed && len(out.Unreached) == 0 {
		return nil, err
	}
	dropped, err := n.dropBeyond(r.Context(), req)
	out.Snapshots = dropped
	return out, err
}

// unknownService is the error for a service of which there is neither an instance nor a state nor a snapshot.
func unknownService(s *model.State, req api.GCRequest, found []api.CollectedState) error {
	known := model.KnownServices(s, req.System)
	for _, f := range found {
		known = append(known, f.Service)
	}
	for _, name := range req.Services {
		if !slices.Contains(known, name) {
			slices.Sort(known)
			return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no service %q in system %q, and nothing is left of one", name, req.System),
				Hint: model.WayOut(name, slices.Compact(known), "Nothing is deployed in that system, and nothing is left of what was.")}
		}
	}
	return nil
}

func (n *Node) askAllForGarbage(r *http.Request, req api.GCRequest) api.GC {
	out := api.GC{States: []api.CollectedState{}, Unreached: []string{}}
	for _, a := range everyNode(n, r, "/v1/gc", req, func() (api.GC, error) {
		states, err := n.collectStates(r.Context(), req)
		return api.GC{States: states}, err
	}) {
		if out.States = append(out.States, a.answer.States...); a.err != nil {
			out.Unreached = append(out.Unreached, fmt.Sprintf("%s: %v", a.name, a.err))
		}
	}
	slices.SortFunc(out.States, func(a, b api.CollectedState) int {
		return strings.Compare(a.Service+"\x00"+a.Node, b.Service+"\x00"+b.Node)
	})
	slices.Sort(out.Unreached)
	return out
}

// collectStates deletes what is garbage here of the services asked for.
func (n *Node) collectStates(ctx context.Context, req api.GCRequest) ([]api.CollectedState, error) {
	s, err := n.readState(ctx)
	if err != nil {
		return nil, err
	}
	var out []api.CollectedState
	for _, k := range n.kinds {
		mod, ok := k.mod.(activate.Stateful)
		if !ok {
			continue
		}
		marked, err := mod.Garbage(ctx)
		if err != nil {
			return out, err
		}
		for _, in := range marked {
			r, ok := n.ownerOf(in)
			if !ok || r.System != req.System || len(req.Services) > 0 && !slices.Contains(req.Services, r.Service) {
				continue
			}
			why, last := model.Garbage(s, n.id.ID, r.System, r.Service, r.Container)
			if why == "" {
				continue
			}
			c := api.CollectedState{Service: r.Service, Container: r.Container, Node: n.cfg.Name, Why: why, Last: last}
			if !req.DryRun {
				if err := n.deleteState(ctx, mod, in, r); err != nil {
					c.Error = err.Error()
				}
				c.Deleted = c.Error == ""
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// ownerOf says whose state an instance that a module remembers has.
func (n *Node) ownerOf(in activate.Instance) (r model.RowSpec, ok bool) {
	below, err := filepath.Rel(n.dir.join("state"), in.StateDir)
	system, service, two := strings.Cut(below, "/")
	r = model.RowSpec{System: system, Service: service, Node: n.id.ID, Container: in.Container, Managed: true}
	r.Spec.Type = in.Type
	return r, err == nil && two && service == in.Service && system != ".."
}

// deleteState deletes one state, if it still is garbage once nobody can prepare an instance that would have it.
func (n *Node) deleteState(ctx context.Context, mod activate.Stateful, in activate.Instance, r model.RowSpec) error {
	n.fetches.lock(garbageKey(r))
	defer n.fetches.unlock(garbageKey(r))
	s, err := n.readState(ctx)
	if err != nil {
		return err
	}
	why, last := model.Garbage(s, n.id.ID, r.System, r.Service, r.Container)
	if why == "" {
		return errors.New("it is wanted again")
	}
	if err := mod.Stop(ctx, in); err != nil { // after a power cut nobody has
		return err
	}
	if last {
		err = n.giveUp(ctx, s, r, in)
	} else {
		err = n.keepStray(ctx, s, r, in)
	}
	if err != nil {
		return err
	}
	if err := mod.Delete(ctx, in); err != nil {
		return err
	}
	n.note(Noted{Kind: "state-deleted", System: r.System, Service: r.Service, Message: why})
	return nil
}

// garbageKey is the lock between deleting a component's state and preparing an instance of it.
func garbageKey(r model.RowSpec) string { return "garbage " + r.CustodyKey() }

// giveUp takes a last snapshot of a state and ends its custody.
func (n *Node) giveUp(ctx context.Context, s *model.State, r model.RowSpec, in activate.Instance) error {
	if s.Custody.At(r.CustodyKey()).Node == n.id.ID { // else the snapshot that is on its way is the last one
		d, err := n.dump(ctx, s, r, in, true)
		if err != nil {
			return fmt.Errorf("take a last snapshot: %w", err)
		}
		d.snap.Why = "before its state was deleted"
		if _, _, err := n.catalogue(ctx, d.snap, false); err != nil {
			return fmt.Errorf("take a last snapshot: %w", err)
		}
	}
	return n.proposeOne(ctx, model.GiveUpState{System: r.System, Service: r.Service, Container: r.Container, Node: n.id.ID, Epoch: s.Nodes.At(n.id.ID).Epoch})
}

// keepStray keeps what a copy without custody has that no snapshot has: its node may have been given up while it wrote.
func (n *Node) keepStray(ctx context.Context, s *model.State, r model.RowSpec, in activate.Instance) error {
	d, err := n.dump(ctx, s, r, in, true)
	if err != nil {
		return fmt.Errorf("take a snapshot of what only this copy may have: %w", err)
	}
	if _, known := s.SnapshotByID(r.CustodyKey(), d.snap.ID); known {
		return nil
	}
	d.snap.Why, d.snap.Stray = "before a stale copy was deleted", true
	snap, _, err := n.catalogue(ctx, d.snap, true)
	if err != nil {
		return fmt.Errorf("keep a snapshot of what only this copy has: %w", err)
	}
	n.note(Noted{Kind: "stray", System: r.System, Service: r.Service,
		Message: fmt.Sprintf("its copy here was not what any snapshot has: it is kept as generation %d", snap.Generation)})
	return nil
}

// dropBeyond drops the snapshots of the services asked for that are more than to be kept. Of a service that is not
// deployed and whose state is deleted none need be.
func (n *Node) dropBeyond(ctx context.Context, req api.GCRequest) ([]api.DroppedSnapshot, error) {
	out := []api.DroppedSnapshot{}
	if req.Keep == nil && !req.Strays {
		return out, nil
	}
	s, err := n.readState(ctx)
	if err != nil {
		return out, err
	}
	drop, undeployed := model.DropSnapshots{}, model.DropSnapshots{Undeployed: true}
	for _, service := range snapshotServices(s, req.System) {
		if len(req.Services) > 0 && !slices.Contains(req.Services, service) {
			continue
		}
		for _, snap := range s.ServiceSnapshots(req.System, service) {
			if snap.Stray && req.Strays {
				drop.Keys = append(drop.Keys, snap.Key())
			}
		}
		if req.Keep == nil {
			continue
		}
		if *req.Keep == 0 && len(s.ServiceRows(req.System, service)) == 0 {
			for _, snap := range s.ServiceSnapshots(req.System, service) {
				if !s.Custody.Has(model.CustodyKey(snap.System, snap.Service, snap.Container)) {
					undeployed.Keys = append(undeployed.Keys, snap.Key())
				}
			}
			continue
		}
		drop.Keys = append(drop.Keys, model.Expired(s, req.System, service, model.StatePolicy{Keep: *req.Keep})...)
	}
	for _, key := range slices.Concat(drop.Keys, undeployed.Keys) {
		snap := s.Snapshots.At(key)
		out = append(out, api.DroppedSnapshot{Service: snap.Service, Generation: snap.Generation, At: snap.At, Size: snap.Size})
	}
	if req.DryRun {
		return out, nil
	}
	for _, cmd := range []model.DropSnapshots{drop, undeployed} {
		for keys := range slices.Chunk(cmd.Keys, 1000) {
			cmd.Keys = keys
			if _, err := n.fsm.Propose(ctx, cmd); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// snapshotServices names the services of a system that have snapshots, in order.
func snapshotServices(s *model.State, system string) []string {
	var out []string
	for _, snap := range s.Snapshots.Prefix(system + "/") {
		out = append(out, snap.Service)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
