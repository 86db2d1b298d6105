package model_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

const diskFull = "disk full: 12 MB free of 1.0 GB at /data"

func (c *cluster) sick(node, why string) {
	c.t.Helper()
	n, _ := c.s.NodeByName(node)
	c.must(model.UpdateNode{ID: n.ID, Attributes: n.Attributes, Host: n.Host, Sick: why})
}

func pinned(service, node string) string {
	return "distribution {\n pin = { " + service + " = [\"" + node + "\"] }\n}\n"
}

// TestSickNodeTakesNothingNew: what is there stays and may be replaced there; the rest goes elsewhere, or is refused by name.
func TestSickNodeTakesNothingNew(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	old := service("old", "") + pinned("old", "n1")
	c.run(old)
	c.sick("n1", diskFull)
	if got := c.decide(); len(got) > 0 {
		t.Fatalf("something moves: %v", got)
	}
	for range 3 {
		c.run(old + service("new", ""))
		if got := c.where(); got != "new@n2 old@n1" {
			t.Fatal(got)
		}
	}
	again := strings.Replace(old, `"run"`, `"run", "2"`, 1)
	c.run(again + service("new", ""))
	if got := c.where(); got != "new@n2 old@n1" {
		t.Fatalf("replaced where it is: %s", got)
	}
	_, diags := c.compose(service("new", "") + pinned("new", "n1"))
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, "n1: "+diskFull) {
		t.Errorf("a pinned service: %v", diags)
	}
	all := service("every", "instances = \"all\"")
	c.run(all)
	if got := c.where(); got != "every@n2" {
		t.Errorf("while it is sick: %s", got)
	}
	c.sick("n1", "")
	c.decide()
	c.settle()
	if got := c.where(); got != "every@n1 every@n2" {
		t.Errorf("when it is well again: %s", got)
	}
}

// TestSickStateStays: what has its state on a sick node stays there, and no snapshot is copied there.
func TestSickStateStays(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	db := service("db", "state {\n managed = true\n}")
	c.run(db)
	home := c.s.NodeName(c.row("db").Node)
	c.sick(home, diskFull)
	c.run(strings.Replace(db, `"run"`, `"run", "2"`, 1))
	if got := c.where(); got != "db@"+home {
		t.Fatal(got)
	}
	snap := model.Snapshot{System: "default", Service: "db", ID: "x"}
	for _, id := range model.WantedHolders(c.s, snap) {
		if c.s.NodeName(id) == home {
			t.Error("a copy is wanted on the sick node")
		}
	}
	snap.Holders = []string{"id-" + home}
	if got := model.WantedHolders(c.s, snap); len(got) != 1 || got[0] != "id-"+home {
		t.Errorf("the copy that is there: %v", got)
	}
}

// TestSickWhilePreparing: a deployment whose part a node does not prepare because it is sick ends, and says so; what may go
// elsewhere does at once.
func TestSickWhilePreparing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(service("old", ""))
	text := service("old", "") + service("web", "") + pinned("web", "n1")
	c.deploy(text)
	c.sick("n1", diskFull)
	view := model.View{Self: "id-n2", Silent: map[string]time.Duration{"id-n1": 0, "id-n2": 0}}
	cmds, mem, wake := model.Decide(c.s, view, model.Memory{}, epoch)
	if kinds(cmds) != "" || !wake.Equal(epoch.Add(model.DownAfter)) {
		t.Fatalf("at first: %s, wake %v", kinds(cmds), wake)
	}
	cmds, _, _ = model.Decide(c.s, view, mem, epoch.Add(model.SickPatience-1))
	if kinds(cmds) != "" {
		t.Fatalf("too early: %s", kinds(cmds))
	}
	cmds, _, _ = model.Decide(c.s, view, mem, epoch.Add(model.SickPatience))
	if kinds(cmds) != "begin auto-rollback" {
		t.Fatalf("then: %s", kinds(cmds))
	}
	c.must(cmds...)
	c.settle()
	if got := c.where(); !strings.HasPrefix(got, "old@") {
		t.Error(got)
	}
	if in := c.intent(2); in.Outcome != model.RolledBack || !strings.Contains(in.Reason, "web on n1: it was not prepared: "+diskFull) || in.Failed.Node != "n1" {
		t.Errorf("%s: %s, %+v", in.Outcome, in.Reason, in.Failed)
	}

	c.deploy(service("old", "") + service("free", "") + service("more", ""))
	on := c.s.NodeName(c.row("free").Node)
	c.sick("n1", "")
	c.sick(on, diskFull)
	if got := c.decide(); len(got) != 1 || got[0] != model.KindAdapt {
		t.Fatalf("decided %v", got)
	}
	if now := c.s.NodeName(c.row("free").Node); now == on {
		t.Errorf("free is still planned on %s", now)
	}
}
