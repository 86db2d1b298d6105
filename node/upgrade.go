package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/isonomia-mesh/isonomia/model"
)

// What an upgrade could damage is saved ahead of it, so that a rollback can bring the data back. A service that is replaced
// is saved when it stops, by the gates; a copy made here before makes that short. What can be copied while it runs is
// copied here, before anything is stopped: its own state, and those that a new instance uses directly. A snapshot that
// cannot be taken ends the deployment while nothing has happened yet.

// beforeUpgrade makes the copies that row r's preparation waits for.
func (n *Node) beforeUpgrade(ctx context.Context, s *model.State, r model.RowSpec) error {
	g, ok := s.Generation(r.System, s.Systems.At(r.System).Generation)
	if !ok || g.Kind != model.KindDeploy && g.Kind != model.KindRollback {
		return nil
	}
	if err := n.fetchWanted(ctx, s, r); err != nil {
		return err
	}
	for _, key := range append([]string{r.Key}, r.DependsOn...) {
		used := s.Specs.At(key)
		at, up := s.Nodes.Get(s.Custody.At(used.CustodyKey()).Node)
		if !used.Managed || !up || at.Down || s.Policies.At(used.System+"/"+used.Service).NotAtUpgrade {
			continue
		}
		if err := n.saveAhead(ctx, s, used, key == r.Key, at.ID, g.Number); err != nil {
			return fmt.Errorf("snapshot of %s ahead of generation %d: %w", used.Service, g.Number, err)
		}
	}
	return nil
}

// fetchWanted brings the snapshot here that r's data are to return to, before anything is stopped for it.
func (n *Node) fetchWanted(ctx context.Context, s *model.State, r model.RowSpec) error {
	wanted := s.Custody.At(r.CustodyKey()).Wanted
	if !r.Managed || wanted == "" {
		return nil
	}
	snap, ok := s.SnapshotByID(r.CustodyKey(), wanted)
	if !ok {
		return fmt.Errorf("the snapshot that %s returns to is not in the catalogue", r.Service)
	}
	if err := n.fetchState(ctx, s, snap); err != nil {
		return fmt.Errorf("fetch snapshot %d of %s: %w", snap.Generation, r.Service, err)
	}
	return nil
}

// saveAhead saves one component, of which r itself moves with its own final snapshot when it goes to another node.
func (n *Node) saveAhead(ctx context.Context, s *model.State, r model.RowSpec, own bool, at string, generation uint64) error {
	switch {
	case own && at != n.id.ID:
		return nil
	case model.CopiesLive(r.Spec.Type):
		of := ahead{r.System, r.Service, r.Container, generation}
		if at == n.id.ID {
			return n.giveAhead(ctx, of)
		}
		ctx, cancel := context.WithTimeout(ctx, warmPatience)
		defer cancel()
		_, err := n.peers.call(ctx, at, http.MethodPost, "/ahead", mustJSON(of))
		return err
	case !own:
		return nil // it cannot be copied while it runs, and is not stopped
	}
	if old, ok := activeHere(s, n.id.ID, r.System, r.Service, r.Container); ok {
		if _, err := n.dump(ctx, s, old.RowSpec, n.agent.instance(s, old.RowSpec, old.Claim), false); err != nil {
			n.log.Info("no copy ahead of an upgrade", "service", r.Service, "err", err) // the pause is longer
		}
	}
	return nil
}

// activeHere finds the active row of a component on a node.
func activeHere(s *model.State, node, system, service, container string) (model.Row, bool) {
	for _, r := range s.ServiceRows(system, service) {
		if r.Node == node && r.Container == container && r.Phase == model.Active && r.Managed {
			return r, true
		}
	}
	return model.Row{}, false
}

// ahead asks the custodian of a component for a snapshot ahead of a generation.
type ahead struct {
	System     string `json:"system"`
	Service    string `json:"service"`
	Container  string `json:"container"`
	Generation uint64 `json:"generation"`
}

// giveAhead takes the snapshot, unless somebody else has asked for it already.
func (n *Node) giveAhead(ctx context.Context, a ahead) error {
	key := model.CustodyKey(a.System, a.Service, a.Container)
	n.fetches.lock("ahead " + key)
	defer n.fetches.unlock("ahead " + key)
	s, err := n.readState(ctx)
	if err != nil {
		return err
	}
	if newest, ok := s.NewestSnapshot(key, nil); ok && newest.Before >= a.Generation {
		return nil
	}
	r, ok := activeHere(s, n.id.ID, a.System, a.Service, a.Container)
	if !ok {
		return nil // it does not work, so there is nothing to save from a program that could damage it
	}
	d, err := n.dump(ctx, s, r.RowSpec, n.agent.instance(s, r.RowSpec, r.Claim), false)
	if err != nil {
		return err
	}
	if d.live {
		return errors.New("its state changed while it was copied")
	}
	d.snap.Why, d.snap.Before = fmt.Sprintf("ahead of generation %d", a.Generation), a.Generation
	_, _, err = n.catalogue(ctx, d.snap, false)
	return err
}

func (n *Node) handleAhead(ctx context.Context, b []byte) ([]byte, error) {
	var a ahead
	if err := json.Unmarshal(b, &a); err != nil {
		return nil, fmt.Errorf("decode the request: %w", err)
	}
	return nil, n.giveAhead(ctx, a)
}
