package model_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

const dbCustody = "default/db/process"

// dbOn is a model of one service with state, on one node.
func dbOn(node string) string {
	return service("db", "state { managed = true }") + fmt.Sprintf("distribution {\n pin = { db = [%q] }\n}\n", node)
}

// rowOn is the row of db on a node, newest generation or not.
func (c *cluster) rowOn(node string) model.Row {
	for _, r := range c.s.ServiceRows("default", "db") {
		if c.s.NodeName(r.Node) == node {
			return r
		}
	}
	return model.Row{}
}

func (c *cluster) claim(r model.Row, p model.Phase) model.Verdict {
	n := c.s.Nodes.At(r.Node)
	return c.apply(model.Claims{Node: r.Node, Epoch: n.Epoch, Items: []model.Claim{{Row: r.Key, Phase: p, Generation: c.s.Systems.At(r.System).Generation}}})[0].Verdicts[0]
}

func (c *cluster) report(r model.Row, p model.Phase, snapshot string) model.Verdict {
	item := model.Report{Row: r.Key, Phase: p, Claim: r.Claim}
	if snapshot != "" {
		item.Snapshot = &model.Snapshot{ID: snapshot}
	}
	return c.apply(model.Reports{Node: r.Node, Epoch: c.s.Nodes.At(r.Node).Epoch, Items: []model.Report{item}})[0].Verdicts[0]
}

// moving has db active on n1, a generation that wants it on n2, and n2's row prepared.
func moving(t *testing.T) *cluster {
	c := newCluster(t, 3)
	c.run(dbOn("n1"))
	c.deploy(dbOn("n2"))
	if v := c.report(c.rowOn("n2"), model.Prepared, ""); v.Code != model.OK {
		t.Fatal(v)
	}
	return c
}

func TestRollbackWhileItsStateIsSaved(t *testing.T) {
	t.Parallel()
	c := moving(t)
	if v := c.claim(c.rowOn("n1"), model.Saving); v.Code != model.OK {
		t.Fatal(v)
	}
	c.deploy(dbOn("n1"))
	if v := c.report(c.rowOn("n1"), model.Saved, "state"); v.Code != model.OK {
		t.Fatal(v)
	}
	if cu := c.s.Custody.At(dbCustody); cu.Node != "id-n1" || cu.Snapshot != "" {
		t.Errorf("custody %+v", cu)
	}
	c.settle()
	if cu := c.s.Custody.At(dbCustody); c.where() != "db@n1" || cu.Node != "id-n1" || len(c.s.SystemRows("default")) != 1 {
		t.Errorf("%s, %+v, %+v", c.where(), cu, c.s.SystemRows("default"))
	}
}

func TestNothingIsSavedForANodeThatIsNotReady(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.run(dbOn("n1"))
	c.deploy(dbOn("n2"))
	c.down("n2")
	if why := model.CanSave(c.s, c.rowOn("n1")); why == "" {
		t.Error("the instance on n1 would be stopped for a node that is down")
	}
	c.up("n2")
	c.settle()
	if c.where() != "db@n2" {
		t.Error(c.where())
	}
}

func TestStateOfARemovedNode(t *testing.T) {
	t.Parallel()
	for _, held := range []bool{true, false} {
		c := newCluster(t, 3)
		c.run(dbOn("n1"))
		snap := model.Snapshot{System: "default", Service: "db", Container: "process", ID: "old", Node: "id-n1"}
		c.must(model.TakeSnapshot{Snapshot: snap, Epoch: c.s.Nodes.At("id-n1").Epoch})
		if held {
			c.must(model.HoldSnapshots{Node: "id-n3", Items: []model.HeldSnapshot{{Key: model.SnapshotKey("default", "db", "process", 1), ID: "old"}}})
		}
		c.down("n1")
		c.must(model.RemoveNode{ID: "id-n1", At: epoch})
		if cu, have := c.s.Custody.Get(dbCustody); have != held || held && cu.Snapshot != "old" {
			t.Errorf("held %v: custody %+v", held, cu)
		}
		c.run(dbOn("n2"))
		if c.where() != "db@n2" || c.s.Custody.At(dbCustody).Node != "id-n2" {
			t.Errorf("held %v: %s, %+v", held, c.where(), c.s.Custody.At(dbCustody))
		}
	}
}

// A restore waits for somebody who has the state, and does not fail for want of him.
func TestRestoreWaitsForAHolder(t *testing.T) {
	t.Parallel()
	c := moving(t)
	c.claim(c.rowOn("n1"), model.Saving)
	c.report(c.rowOn("n1"), model.Saved, "state")
	c.down("n1")
	if why := model.CanRestore(c.s, c.rowOn("n2")); why == "" {
		t.Error("there is nobody to restore it from")
	}
	c.up("n1")
	c.settle()
	if c.where() != "db@n2" {
		t.Error(c.where())
	}
}

func TestOwnerOfKeptStateStays(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(dbOn("n1"))
	uid := c.row("db").Spec.UID
	c.run(service("other", ""))
	c.run(dbOn("n1") + service("third", ""))
	if got := c.row("db").Spec.UID; got != uid || uid == 0 {
		t.Errorf("user id %d became %d, and its files belong to the first", uid, got)
	}
	if c.row("third").Spec.UID == uid {
		t.Error("the user id was given away")
	}
}

func TestSavingIsTriedAnewByTheNextDeploy(t *testing.T) {
	t.Parallel()
	c := moving(t)
	c.claim(c.rowOn("n1"), model.Saving)
	if v := c.report(c.rowOn("n1"), model.Failed, ""); v.Code != model.OK || !c.rowOn("n1").SaveFailed {
		t.Fatalf("%+v %+v", v, c.rowOn("n1"))
	}
	c.deploy(dbOn("n3"))
	if r := c.rowOn("n1"); r.SaveFailed {
		t.Errorf("%+v", r)
	}
	c.settle()
	if c.where() != "db@n3" {
		t.Error(c.where())
	}
}

// What was started before its node was cut off may run, though its row is planned again: nothing else of an exclusive
// service starts before it was stopped.
func TestWhatMayStillRunIsStopped(t *testing.T) {
	t.Parallel()
	c := moving(t)
	c.claim(c.rowOn("n1"), model.Saving)
	c.report(c.rowOn("n1"), model.Saved, "state")
	c.claim(c.rowOn("n2"), model.Restoring)
	c.report(c.rowOn("n2"), model.Restored, "state")
	if v := c.claim(c.rowOn("n2"), model.Starting); v.Code != model.OK {
		t.Fatal(v)
	}
	c.down("n2")
	c.up("n2")
	c.deploy(dbOn("n1"))
	if r := c.rowOn("n2"); r.Phase != model.Stopping || !r.Obsolete {
		t.Errorf("%+v", r)
	}
	c.report(c.rowOn("n1"), model.Prepared, "")
	if v := c.claim(c.rowOn("n1"), model.Starting); v.Code == model.OK {
		t.Error("it was started while it may run elsewhere")
	}
	c.settle()
	if c.where() != "db@n1" {
		t.Error(c.where())
	}
}

func TestWhichSnapshotsExpire(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.run(dbOn("n1"))
	day := func(n int) time.Time { return epoch.Add(time.Duration(n) * 24 * time.Hour) }
	for i := range 12 {
		snap := model.Snapshot{System: "default", Service: "db", Container: "process", ID: fmt.Sprint(i), Node: "id-n1", At: day(i)}
		if i == 1 {
			snap.Checked = day(i)
		}
		c.must(model.TakeSnapshot{Snapshot: snap, Epoch: 1})
	}
	last := model.Snapshot{System: "default", Service: "db", Container: "process", ID: "11", Node: "id-n1", At: day(12)}
	c.must(model.TakeSnapshot{Snapshot: last, Epoch: 1}) // the same again: no generation of its own
	if n := c.s.Snapshots.Len(); n != 12 {
		t.Fatalf("%d generations", n)
	}
	expired := model.Expired(c.s, "default", "db", model.StatePolicy{Keep: 10})
	if want := []string{model.SnapshotKey("default", "db", "process", 1)}; !slices.Equal(expired, want) {
		t.Errorf("%q: the last one that was checked stays while none is proven", expired)
	}
	c.must(model.DropSnapshots{Keys: append(expired, model.SnapshotKey("default", "db", "process", 12), model.SnapshotKey("default", "db", "process", 2))})
	if n := c.s.Snapshots.Len(); n != 11 {
		t.Errorf("%d generations: the newest and the last checked one may not go", n)
	}
}

// Nor does one that was claimed already when the only node with the state died.
func TestRestoreUnderWayWaitsForAHolder(t *testing.T) {
	t.Parallel()
	c := moving(t)
	c.claim(c.rowOn("n1"), model.Saving)
	c.report(c.rowOn("n1"), model.Saved, "state")
	if v := c.claim(c.rowOn("n2"), model.Restoring); v.Code != model.OK {
		t.Fatal(v)
	}
	r, now := c.rowOn("n2"), time.Unix(1000, 0)
	next := func(f model.Failure) string {
		f.Claim, f.At = r.Claim, now.Add(-time.Hour)
		steps, _ := model.Next(c.s, r.Node, model.Own{Failures: map[string]model.Failure{r.Key: f}}, now)
		for _, st := range steps {
			if st.Row == r.Key {
				return string(st.Kind)
			}
		}
		return ""
	}
	check := func(what string, f model.Failure, want string) {
		t.Helper()
		if got := next(f); got != want {
			t.Errorf("%s: %q, not %q", what, got, want)
		}
	}
	check("a state that cannot be loaded", model.Failure{Attempts: model.StartAttempts}, "give-up")
	check("a state that cannot be had", model.Failure{Attempts: model.StartAttempts, Missing: true}, "restore")
	check("a state that cannot be had for long", model.Failure{Attempts: model.FetchAttempts, Missing: true}, "give-up")
	c.down("n1")
	check("its only holder is down", model.Failure{Attempts: 1, Missing: true}, "")
	check("its only holder is down for long", model.Failure{Attempts: model.FetchAttempts, Missing: true}, "")
	c.up("n1")
	check("its holder is back", model.Failure{Attempts: model.StartAttempts, Missing: true}, "restore")
	c.settle()
	if c.where() != "db@n2" {
		t.Error(c.where())
	}
}
