package node

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

func (n *Node) getMembers(*http.Request) (any, error) {
	s := n.fsm.State()
	gossip := n.gossip()
	voters := map[string]bool{}
	for _, srv := range n.fsm.Servers() {
		voters[srv.ID] = srv.Voter
	}
	out := api.Members{Members: []api.Member{}, Warning: cmp.Or(n.noLeader(), n.faults(s, gossip), n.fewNodes(s))}
	for id, node := range s.Nodes.All() {
		m := api.Member{ID: id, Name: node.Name, Zone: node.Zone(), Attributes: node.Attributes, Version: node.Version,
			Status: memberStatus(node, gossip[id], id == n.id.ID), Role: n.role(id, voters), Note: n.memberNote(node, gossip[id]), Sick: n.sickness(node)}
		if addr, ok := n.mesh.Resolve(id); ok {
			m.Address = addr
		}
		if id == n.id.ID {
			m.Address = n.mesh.Addr()
		}
		out.Members = append(out.Members, m)
	}
	slices.SortFunc(out.Members, func(a, b api.Member) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// getInfrastructure says what is known of the members, by their own word and by the newest model of a system.
func (n *Node) getInfrastructure(r *http.Request) (any, error) {
	s := n.fsm.State()
	system := systemOf(r.URL.Query().Get("system"))
	var m *model.Model
	if in, ok := s.Intent(system, s.Systems.At(system).Intent); ok && len(in.Source.Files) > 0 {
		parsed, diags := model.Parse(in.Source, model.Known{Modules: model.Modules()})
		if diags.HasErrors() {
			return nil, invalid(diags, in.Source)
		}
		m = parsed
	}
	gossip := n.gossip()
	out := []api.InventoryNode{}
	for _, info := range model.Infrastructure(s, m) {
		node := s.Nodes.At(info.ID)
		a := api.InventoryNode{Name: info.Name, Address: node.Host, Status: memberStatus(node, gossip[info.ID], info.ID == n.id.ID),
			Attributes: map[string]string{}, Containers: map[string]map[string]string{}, Provenance: map[string]string{}}
		for k, v := range info.Attributes {
			a.Attributes[k], a.Provenance[k] = v.Text, string(v.From)
		}
		for c, settings := range info.Containers {
			a.Containers[c] = map[string]string{}
			for k, v := range settings {
				a.Containers[c][k], a.Provenance[c+"."+k] = v.Text, string(v.From)
			}
		}
		out = append(out, a)
	}
	return out, nil
}

// gossip is what gossip says of each member, by id.
func (n *Node) gossip() map[string]mesh.Member {
	members := map[string]mesh.Member{}
	for _, m := range n.mesh.Members() {
		members[m.ID] = m
	}
	return members
}

// memberStatus joins what State decided with what gossip sees: State's word on down is what moves services, gossip's is
// earlier and only a hint.
func memberStatus(n model.Node, g mesh.Member, self bool) string {
	switch {
	case n.Left:
		return "left"
	case n.Down:
		return "failed"
	case n.Draining:
		return "draining"
	case self || g.Status == mesh.StatusAlive:
		return "alive"
	}
	return "suspect"
}

func (n *Node) role(id string, voters map[string]bool) string {
	voter, server := voters[id]
	switch {
	case id == n.fsm.Leader():
		return "leader"
	case voter:
		return "voter"
	case server:
		return "standby"
	}
	return "follower"
}

func (n *Node) memberNote(node model.Node, g mesh.Member) string {
	if node.ID == n.id.ID && n.fsm.Err() != nil {
		return n.fsm.Err().Error()
	}
	if fault := faultOf(node, g); fault != "" {
		return fault
	}
	if node.StateMax < n.fsm.State().Version {
		return "node " + node.Name + " must be upgraded"
	}
	if node.Fenced {
		return "fenced: nothing exclusive runs there"
	}
	return n.sickness(node)
}

// sickness says why a node takes nothing new; "" if it does. What this node knows of itself its State may not have yet.
func (n *Node) sickness(node model.Node) string {
	if node.ID == n.id.ID {
		return n.disk.sick()
	}
	return node.Sick
}

// sickNodes are those of the members, in name order.
func (n *Node) sickNodes(s *model.State) []api.SickNode {
	var out []api.SickNode
	for _, node := range s.Nodes.All() {
		if why := n.sickness(node); why != "" && !node.Left {
			out = append(out, api.SickNode{Node: node.Name, Why: why})
		}
	}
	slices.SortFunc(out, func(a, b api.SickNode) int { return cmp.Compare(a.Node, b.Node) })
	return out
}

// noLeader says what the lack of a leader means.
func (n *Node) noLeader() string {
	if n.fsm.Leader() != "" {
		return ""
	}
	return "no leader: nothing can be changed until one is elected, for which more than half of the voters must be up; if they are lost for good: isonomia recover"
}

// fewNodes says plainly what too few nodes mean.
func (n *Node) fewNodes(s *model.State) string {
	up := 0
	for _, node := range s.Nodes.All() {
		if !node.Left {
			up++
		}
	}
	switch {
	case up == 1:
		return "one node: no failover, and what is deployed is acknowledged on one disk"
	case up == 2:
		return "two nodes: no failover, and what is deployed is acknowledged on one disk; while the voter is away nothing can be changed, and what is exclusive stops on the other node; if it is lost: isonomia recover there"
	}
	return ""
}

func (n *Node) getStatus(r *http.Request) (any, error) {
	s, stale, err := n.stateFor(r)
	if err != nil {
		return nil, err
	}
	st := n.status(r.Context(), s, systemOf(r.URL.Query().Get("system")), stale)
	st.NotAnswering = describeUnanswered(s, st.System, n.notAnswering(r.Context(), s))
	return st, nil
}

// status joins State's rows with what the nodes observe of their processes; a node that does not answer within half a
// second is left out of the latter.
func (n *Node) status(ctx context.Context, s *model.State, system string, stale bool) api.Status {
	sys := s.Systems.At(system)
	in, _ := s.Intent(system, sys.Intent)
	out := api.Status{Cluster: s.Cluster.ID, System: system, Generation: sys.Generation, Index: s.Index, Stale: stale,
		Outcome: string(in.Outcome), Why: in.Reason, Instances: []api.Instance{}, Warning: cmp.Or(n.faults(s, n.gossip()), n.fewNodes(s)), Sick: n.sickNodes(s)}
	if l := n.fsm.Leader(); l != "" {
		out.Leader = s.NodeName(l)
	}
	rows := s.SystemRows(system)
	if len(rows) == 0 {
		out.Systems = deployedSystems(s)
	}
	seen := n.observeAll(ctx, s, rows)
	for _, r := range rows {
		out.Instances = append(out.Instances, instance(s, r, seen))
	}
	out.Settled = model.CanSettle(s, system) == "" && (in.Number == 0 || in.Outcome.Final())
	slices.SortFunc(out.Instances, func(a, b api.Instance) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Generation, b.Generation))
	})
	return out
}

func deployedSystems(s *model.State) []string {
	var names []string
	for name := range s.Systems.All() {
		if len(s.SystemRows(name)) > 0 {
			names = append(names, name)
		}
	}
	return names
}

func instance(s *model.State, r model.Row, seen map[string]observation) api.Instance {
	i := api.Instance{System: r.System, Service: r.Service, Node: s.NodeName(r.Node), Address: r.Spec.Host, Container: r.Container,
		Phase: string(r.Phase), Reason: r.Reason, Generation: s.RowGeneration(r), Ports: r.Spec.Ports, Since: r.At, Row: r.Key,
		Obsolete: r.Obsolete, Managed: r.Managed, Attempts: r.Attempts, Output: r.Output}
	if i.Ports == nil {
		i.Ports = map[string]int{}
	}
	o, observed := seen[r.Key]
	switch {
	case !observed && r.Phase == model.Active:
		i.Health = "unknown"
	case o.Running:
		i.PID, i.Health = o.PID, cmp.Or(o.Health, "healthy")
	case observed && r.Phase == model.Active:
		i.Health = "degraded"
	}
	if o.Trouble != "" && i.Reason == "" {
		i.Reason = o.Trouble
	}
	if why := model.MoveWaits(s, r); why != "" {
		i.Reason = why
	}
	if why := waitsForNode(s, r); why != "" {
		i.Reason += "; " + why
	}
	if r.Phase == model.Prepared || r.Phase == model.Planned {
		i.Reason = cmp.Or(i.Reason, waitReason(s, r))
	}
	return i
}

// waitsForNode says why nobody else goes on with the state of a lost row.
func waitsForNode(s *model.State, r model.Row) string {
	if r.Phase != model.Lost || r.Obsolete || !r.Managed {
		return ""
	}
	_, wait, why := model.TakeOverOf(s, r.CustodyKey(), time.Now())
	if why == "" {
		return fmt.Sprintf("its state is taken over from a copy once the node has been fenced for %v", wait)
	}
	return "its state waits for the node: " + why
}

func waitReason(s *model.State, r model.Row) string {
	if r.Phase == model.Prepared {
		return model.CanStart(s, r)
	}
	return "being prepared"
}

func (n *Node) observeAll(ctx context.Context, s *model.State, rows []model.Row) map[string]observation {
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	nodes := map[string]bool{}
	for _, r := range rows {
		nodes[r.Node] = true
	}
	all := map[string]observation{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for id := range nodes {
		if node, ok := s.Nodes.Get(id); !ok || node.Down {
			continue
		}
		wg.Go(func() {
			var seen map[string]observation
			var err error
			if id == n.id.ID {
				seen = n.agent.observations()
			} else if seen, err = n.peers.observed(ctx, id); err != nil {
				n.log.Debug("observing", "node", id, "err", err)
			}
			mu.Lock()
			defer mu.Unlock()
			for k, o := range seen {
				all[k] = o
			}
		})
	}
	wg.Wait()
	return all
}

func (n *Node) getPorts(r *http.Request) (any, error) {
	s := n.fsm.State()
	unanswered := n.notAnswering(r.Context(), s)
	out := []api.Reservation{}
	for key, r := range s.Reservations.All() {
		a := reservation(s, r)
		a.NotAnswering = slices.Sorted(maps.Keys(unanswered[key]))
		out = append(out, a)
	}
	return out, nil
}

func reservation(s *model.State, r model.Reservation) api.Reservation {
	a := api.Reservation{System: r.System, Service: r.Service, Name: r.Name, Resource: r.Resource, Number: r.Number, Scope: string(r.Scope)}
	if r.Node != "" {
		a.Node = s.NodeName(r.Node)
	}
	return a
}

func (n *Node) getHistory(r *http.Request) (any, error) {
	s, _, err := n.stateFor(r)
	if err != nil {
		return nil, err
	}
	out := []api.HistoryEntry{}
	for _, g := range s.Gens.Prefix(systemOf(r.URL.Query().Get("system")) + "/") {
		out = append(out, historyEntry(s, g))
	}
	slices.SortFunc(out, func(a, b api.HistoryEntry) int { return cmp.Compare(b.Generation, a.Generation) })
	return out, nil
}

func historyEntry(s *model.State, g model.Generation) api.HistoryEntry {
	in, _ := s.Intent(g.System, g.Intent)
	e := api.HistoryEntry{Generation: g.Number, Base: g.Base, Intent: g.Intent, Kind: g.Kind, At: g.At, By: g.By, Why: g.Why,
		Outcome: string(in.Outcome)}
	if g.Number != in.Last {
		e.Outcome = string(model.Superseded)
	} else if in.Reason != "" && !strings.Contains(e.Why, in.Reason) {
		e.Why = strings.TrimPrefix(fmt.Sprintf("%s; %s", e.Why, in.Reason), "; ")
	}
	return e
}

// getWatch streams the status whenever State changed, until the intent asked for is over.
func (n *Node) getWatch(w http.ResponseWriter, r *http.Request) {
	system := systemOf(r.URL.Query().Get("system"))
	number, err := intParam(r, "intent", 0)
	if err != nil {
		writeError(w, err)
		return
	}
	changed, stop := n.fsm.Watch()
	defer stop()
	lines := newLines(w)
	for r.Context().Err() == nil {
		s := n.fsm.State()
		ev := n.watchEvent(r.Context(), s, system, uint64(number))
		if lines.send(ev) != nil || ev.Done {
			return
		}
		waitAny(r.Context(), time.Time{}, changed)
		waitAny(r.Context(), time.Now().Add(50*time.Millisecond)) // several changes at once are one line
	}
}

func (n *Node) watchEvent(ctx context.Context, s *model.State, system string, number uint64) api.WatchEvent {
	sys := s.Systems.At(system)
	if number == 0 {
		number = sys.Intent
	}
	in, ok := s.Intent(system, number)
	newest, _ := s.Intent(system, sys.Intent)
	ev := api.WatchEvent{Status: n.status(ctx, s, system, true), Outcome: string(in.Outcome), Why: in.Reason,
		Service: in.Failed.Service, Node: in.Failed.Node, Output: in.Failed.Output}
	switch {
	case !ok && sys.Intent < number:
		ev.Outcome = string(model.Running) // this node has not seen it yet
	case in.Outcome == model.RolledBack || in.Outcome == model.Aborted:
		ev.Done = newest.Outcome.Final()
	default:
		ev.Done = in.Outcome.Final()
	}
	return ev
}
