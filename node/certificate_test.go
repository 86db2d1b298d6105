package node

import (
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

// After a start the journal says who is a member, until State is as new; then State alone does.
func TestPins(t *testing.T) {
	t.Parallel()
	state := func(epoch, index uint64, member, removed string) *model.State {
		s := &model.State{Index: index, Cluster: model.Cluster{Epoch: epoch}}
		s.Nodes = s.Nodes.Set(member, model.Node{ID: member, Key: []byte(member)})
		s.Removed = s.Removed.Set(removed, model.Removed{})
		return s
	}
	none, old := &model.State{}, state(1, 5, "a", "x")
	for name, tc := range map[string]struct {
		journal, state  *model.State
		member, removed string
		stranger        string
	}{
		"nothing is known":       {nil, nil, "", "", "a"},
		"raft is not open":       {old, nil, "a", "x", "b"},
		"State is empty":         {old, none, "a", "x", "b"},
		"State is older":         {state(1, 9, "b", "a"), old, "b", "a", "x"},
		"State is as new":        {state(1, 5, "b", "y"), old, "a", "x", "b"},
		"State is newer":         {state(1, 4, "b", "a"), old, "a", "x", "b"},
		"State is of a new life": {old, state(2, 1, "b", "a"), "b", "a", "x"},
	} {
		p := &pins{}
		p.journal.Store(tc.journal)
		if tc.state != nil {
			now := func() *model.State { return tc.state }
			p.state.Store(&now)
		}
		for range 2 {
			if key, removed := p.key(tc.member); tc.member != "" && (string(key) != tc.member || removed) {
				t.Errorf("%s: member %s has key %q, removed %v", name, tc.member, key, removed)
			}
			if _, removed := p.key(tc.removed); removed != (tc.removed != "") {
				t.Errorf("%s: %s removed %v", name, tc.removed, removed)
			}
			if key, removed := p.key(tc.stranger); key != nil || removed {
				t.Errorf("%s: stranger %s has key %q, removed %v", name, tc.stranger, key, removed)
			}
		}
	}
}
