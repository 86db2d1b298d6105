package model_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// versions is a model of db, with state, of what uses it and of what does not.
func versions(db, web, other string) string {
	env := func(v string) string {
		return fmt.Sprintf("run {\n command = [\"run\"]\n env = { V = %q }\n}\n", v)
	}
	one := func(name, v, more string) string {
		return fmt.Sprintf("service %q {\n type = \"process\"\n%s%s\n}\n", name, env(v), more)
	}
	return one("db", db, "state {}") + one("web", web, `depends_on = ["db"]`) + one("other", other, "state {}")
}

func (c *cluster) snapshotsOf(service string) []string {
	var ids []string
	for _, snap := range c.s.ServiceSnapshots("default", service) {
		ids = append(ids, fmt.Sprintf("%s of %d", snap.ID, snap.Of))
	}
	return ids
}

// back goes back to the intent of a generation, with the data.
func (c *cluster) back(generation uint64) (returns []model.Return, lack []string) {
	c.t.Helper()
	g, _ := c.s.Generation("default", generation)
	in := c.intent(g.Intent)
	returns, lack = model.ChooseReturns(c.s, "default", in)
	m, diags := model.ComposeRollback(c.s, "default", in.Number, returns)
	if diags.HasErrors() {
		c.t.Fatal(diags)
	}
	c.must(model.Diff(c.s, "default", m).Commands(model.Draft{ID: fmt.Sprint("back", c.index), Kind: model.KindRollback, Target: in.Number, Source: in.Source, At: epoch})...)
	return returns, lack
}

func TestDataOfAnUpgrade(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(versions("1", "1", "1"))
	c.data = "good"
	c.run(versions("2", "1", "1"))
	if got := c.snapshotsOf("db"); !slices.Equal(got, []string{"good of 1"}) {
		t.Fatalf("saved at the upgrade: %q", got)
	}
	if got := c.snapshotsOf("other"); len(got) != 0 {
		t.Errorf("what was not touched was saved: %q", got)
	}
	c.data = "bad"
	returns, lack := c.back(1)
	if len(returns) != 1 || returns[0].Service != "db" || returns[0].Snapshot != "good" || len(lack) != 0 {
		t.Fatalf("%+v, %v", returns, lack)
	}
	c.settle()
	cu := c.s.Custody.At(dbCustody)
	if cu.Node == "" || cu.Timeline == "" || cu.Wanted != "" || c.row("db").Spec.Timeline != cu.Timeline {
		t.Errorf("custody %+v, row %+v", cu, c.row("db").Spec)
	}
	if got := c.snapshotsOf("db"); !slices.Equal(got, []string{"good of 1", "bad of 2", "good of 3"}) {
		t.Errorf("what the data were is not kept: %q", got)
	}
	if p := c.plan(versions("1", "1", "1")); !p.Empty() {
		t.Errorf("the same model would change %+v", p.Changes)
	}
	c.data = "later"
	c.run(versions("3", "1", "1"))
	if c.s.Custody.At(dbCustody).Timeline != cu.Timeline {
		t.Errorf("a deployment changed the timeline: %+v", c.s.Custody.At(dbCustody))
	}
}

// A change of a program is no reason to doubt the data of what it does not use, and so are nodes that come and go.
func TestWhatReturns(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(versions("1", "1", "1"))
	take := func(service, id string) {
		c.must(model.TakeSnapshot{Epoch: 1, Snapshot: model.Snapshot{System: "default", Service: service, Container: "process", ID: id,
			Node: c.s.Custody.At("default/" + service + "/process").Node, At: epoch}})
	}
	take("db", "db at 1")
	take("other", "other at 1")
	c.run(versions("1", "2", "1"))
	take("db", "db at 2")
	first := c.intent(1)
	if returns, _ := model.ChooseReturns(c.s, "default", first); len(returns) != 1 || returns[0].Snapshot != "db at 1" {
		t.Errorf("after web changed: %+v", returns)
	}
	c.run(versions("1", "1", "2"))
	returns, _ := model.ChooseReturns(c.s, "default", first)
	ids := []string{returns[0].Snapshot, returns[len(returns)-1].Snapshot}
	if slices.Sort(ids); !slices.Equal(ids, []string{"db at 1", "other at 1"}) {
		t.Errorf("after web changed to and fro, and other: %+v", returns)
	}
	c.must(model.DropSnapshots{Keys: []string{model.SnapshotKey("default", "other", "process", 1)}}) // the newest stays
	if second := c.intent(2); len(c.s.ServiceSnapshots("default", "other")) == 0 || second.Number != 2 {
		t.Fatal("the newest snapshot was dropped")
	}
}

// An automatic rollback of one that returns data finds them where they are: not yet touched, or to be brought back.
func TestUndoOfAReturn(t *testing.T) {
	t.Parallel()
	for _, done := range []bool{false, true} {
		c := newCluster(t, 1)
		c.run(versions("1", "1", "1"))
		c.data = "good"
		c.run(versions("2", "1", "1"))
		before := c.row("db")
		c.data = "bad"
		c.back(1)
		for i := 0; done && c.s.Custody.At(dbCustody).Timeline == ""; i++ {
			for _, r := range c.s.SystemRows("default") {
				c.advance(r)
			}
			if i > 100 {
				t.Fatal("the data did not return")
			}
		}
		c.must(model.Abort{Proposal: "abort", System: "default", By: "ann"})
		c.data = "good again"
		if got := c.decide(); !slices.Contains(got, model.KindAuto) {
			t.Fatalf("the leader decides %q", got)
		}
		c.settle()
		cu, r := c.s.Custody.At(dbCustody), c.row("db")
		if r.Key != before.Key || cu.Timeline != "" || cu.Wanted != "" || cu.Node == "" {
			t.Errorf("returned %t: row %+v, custody %+v", done, r, cu)
		}
		if done != (r.Snapshot == "bad") {
			t.Errorf("returned %t: it was started with %q; snapshots %q", done, r.Snapshot, c.snapshotsOf("db"))
		}
	}
}

func TestPolicyKeeps(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.run(dbOn("n1"))
	start := time.Date(2026, 1, 1, 6, 0, 0, 0, time.UTC) // a Thursday
	for i := range 120 {                                 // every 12 hours, at 6:00 and 18:00
		c.must(model.TakeSnapshot{Epoch: 1, Snapshot: model.Snapshot{System: "default", Service: "db", Container: "process", ID: fmt.Sprint(i), Node: "id-n1",
			At: start.Add(time.Duration(i) * 12 * time.Hour)}})
	}
	for _, want := range []struct {
		policy model.StatePolicy
		kept   string
	}{
		{model.StatePolicy{Keep: 2}, "Mar 1 06h, Mar 1 18h"},
		{model.StatePolicy{Daily: 3}, "Feb 27 18h, Feb 28 18h, Mar 1 18h"},
		{model.StatePolicy{Weekly: 3}, "Feb 15 18h, Feb 22 18h, Mar 1 18h"},
		{model.StatePolicy{Monthly: 12}, "Jan 31 18h, Feb 28 18h, Mar 1 18h"},
		{model.StatePolicy{Keep: 2, Daily: 2, Monthly: 2}, "Feb 28 18h, Mar 1 06h, Mar 1 18h"},
	} {
		expired := model.Expired(c.s, "default", "db", want.policy)
		var kept []string
		for _, snap := range c.s.ServiceSnapshots("default", "db") {
			if !slices.Contains(expired, snap.Key()) {
				kept = append(kept, snap.At.Format("Jan 2 15h"))
			}
		}
		if got := strings.Join(kept, ", "); got != want.kept {
			t.Errorf("%+v keeps %s, not %s", want.policy, got, want.kept)
		}
	}
}
