package raftfsm

import (
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

// A state whose node was removed goes on from what was taken of it, never from an archive that somebody only brought in.
func TestRemovedNodesStateGoesOnFromItsOwn(t *testing.T) {
	t.Parallel()
	key := model.CustodyKey("default", "db", "process")
	s := applyState(t)
	s.Custody = s.Custody.Set(key, model.Custody{Node: "id-n1", Epoch: 1})
	snap := func(id, node string) model.Snapshot {
		return model.Snapshot{System: "default", Service: "db", Container: "process", ID: id, Node: node}
	}
	s = applyAll(t, s, 20, model.TakeSnapshot{Snapshot: snap("own", "id-n1"), Epoch: 1},
		model.HoldSnapshots{Node: "id-n2", Items: []model.HeldSnapshot{{Key: model.SnapshotKey("default", "db", "process", 1), ID: "own"}}},
		model.TakeSnapshot{Snapshot: snap("imported", "id-n2"), Epoch: 2, Foreign: true})
	if got := applyAll(t, s, 21, model.RemoveNode{ID: "id-n1"}).Custody.At(key); got.Snapshot != "own" {
		t.Errorf("it goes on from %+v", got)
	}
}
