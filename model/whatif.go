package model

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
