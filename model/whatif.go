package model

import "time"

// WithNodes is State as it would be with other nodes: change gives each of those named anew. Rows are as they were.
func WithNodes(s *State, change func(Node) Node, ids ...string) *State {
	t := *s
	for _, id := range ids {
		if n, ok := t.Nodes.Get(id); ok {
			t.Nodes = t.Nodes.Set(id, change(n))
		}
	}
	return &t
}

// WithTakeOvers is State as it would be once what nodes that are down had was taken over, where their policies want that.
// The nodes count as fenced for long.
func WithTakeOvers(s *State, now time.Time) *State {
	t := *s
	for id, n := range s.Nodes.All() {
		n.Fenced = n.Down
		t.Nodes = t.Nodes.Set(id, n)
	}
	for key := range s.Custody.All() {
		cmd, _, why := TakeOverOf(&t, key, now)
		if why == "" {
			snap := t.Snapshots.At(SnapshotKey(cmd.System, cmd.Service, cmd.Container, cmd.Snapshot))
			t.Custody = t.Custody.Set(key, Custody{Snapshot: snap.ID, Timeline: TakenOver(s.Index, snap)})
		}
	}
	return &t
}
