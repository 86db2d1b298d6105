package raftfsm

import (
	"context"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// shapeEvery is how often a leader looks at its servers' health, besides at every change of State or role.
const shapeEvery = 250 * time.Millisecond

// ShapeLoop makes the raft configuration what Shape wants, whenever this node leads, until ctx ends. The wanted
// servers are those of State: see WantedServers.
func (n *Node) ShapeLoop(ctx context.Context) {
	n.Lead(ctx, func(ctx context.Context, _ uint64) { n.shapeWhileLeading(ctx) })
}

func (n *Node) shapeWhileLeading(ctx context.Context) {
	ticker := time.NewTicker(shapeEvery)
	defer ticker.Stop()
	wake, stop := n.Watch()
	defer stop()
	for ctx.Err() == nil {
		acts := Shape(n.serverInfos(), n.cfg.ID)
		if err := n.shape(ctx, acts); err != nil && ctx.Err() == nil {
			n.log.Info("raft servers are not changed yet", "reason", err)
		} else if len(acts) > 0 {
			continue // look at once at what they led to
		}
		select {
		case <-wake:
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// WantedServers are the ids of the members of which Shape makes the raft servers.
func WantedServers(s *model.State) []string {
	var ids []string
	for id, node := range s.Nodes.All() {
		if node.Server && !node.Left {
			ids = append(ids, id)
		}
	}
	return ids
}

func (n *Node) serverInfos() []ServerInfo {
	state := n.State()
	index := map[string]int{}
	var infos []ServerInfo
	for _, s := range n.Servers() {
		index[s.ID] = len(infos)
		caughtUp := s.CaughtUp && (len(state.Cluster.Sealed) == 0 || state.Cluster.Sealed[s.ID] != nil) // a leader signs
		infos = append(infos, ServerInfo{ID: s.ID, Present: true, Voter: s.Voter, Healthy: s.Healthy, CaughtUp: caughtUp})
	}
	for _, id := range WantedServers(state) {
		node := state.Nodes.At(id)
		up := !node.Down && !node.Draining && node.StateMax >= state.Version
		if i, ok := index[id]; ok {
			infos[i].Wanted, infos[i].Up, infos[i].Sick = true, up, node.Sick != ""
		} else {
			infos = append(infos, ServerInfo{ID: id, Wanted: true, Up: up, Sick: node.Sick != ""})
		}
	}
	return infos
}

// shape carries actions out until one fails. Each change names the configuration that it was decided on.
func (n *Node) shape(ctx context.Context, acts []Action) error {
	prev := n.machine.configIndex.Load()
	for _, a := range acts {
		n.log.Info("change raft servers", "act", a.Act, "server", a.ID, "why", a.Why)
		if a.Act == ActTransfer {
			return n.transferTo(ctx, a.ID)
		}
		f, err := await(ctx, n, func() raft.IndexFuture { return n.change(a, prev) })
		if err != nil {
			return fmt.Errorf("%s server %s: %w", a.Act, a.ID, err)
		}
		prev = f.Index()
	}
	return nil
}

func (n *Node) change(a Action, prev uint64) raft.IndexFuture {
	id, addr := raft.ServerID(a.ID), raft.ServerAddress(a.ID)
	switch a.Act {
	case ActAdd:
		return n.raft.AddNonvoter(id, addr, prev, enqueueTime)
	case ActPromote:
		return n.raft.AddVoter(id, addr, prev, enqueueTime)
	case ActDemote:
		return n.raft.DemoteVoter(id, prev, enqueueTime)
	case ActRemove:
		return n.raft.RemoveServer(id, prev, enqueueTime)
	}
	return failedChange{fmt.Errorf("unknown act %q", a.Act)}
}

// failedChange is a raft.IndexFuture that failed.
type failedChange struct{ err error }

func (f failedChange) Error() error  { return f.err }
func (f failedChange) Index() uint64 { return 0 }
