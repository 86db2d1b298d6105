package model_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

func (c *cluster) drain(name string, on bool) {
	c.t.Helper()
	n, _ := c.s.NodeByName(name)
	c.must(model.DrainNode{ID: n.ID, On: on})
}

// What is on a node that is drained goes elsewhere with its state, what may run nowhere else waits, and nothing new comes.
func TestDrain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	text := service("db", "state {}") + service("web", `depends_on = ["db"]`) + service("fixed", "") + "distribution {\n pin = { db = [\"n1\", \"n2\"], fixed = [\"n1\"] }\n}\n"
	c.run(text)
	on := c.s.NodeName(c.row("db").Node)
	other := map[string]string{"n1": "n2", "n2": "n1"}[on]
	c.drain(on, true)
	then, diags := model.Adaptation(c.s, c.intent(1))
	if diags.HasErrors() || then.Empty() || !slices.ContainsFunc(then.Changes, func(ch model.Change) bool {
		return ch.Service == "db" && ch.Action == model.ActMove && strings.Contains(strings.Join(ch.Reasons, " "), "is drained")
	}) {
		t.Fatalf("%+v, %v", then, diags)
	}
	if got := c.decide(); !slices.Equal(got, []string{model.KindAdapt}) {
		t.Fatalf("the leader decides %q", got)
	}
	c.settle()
	if c.row("db").Node != "id-"+other || c.s.Custody.At(dbCustody).Node != "id-"+other {
		t.Errorf("%s; custody %+v", c.where(), c.s.Custody.At(dbCustody))
	}
	for _, r := range c.s.SystemRows("default") {
		if c.s.NodeName(r.Node) == on {
			t.Errorf("%s is left on %s, %s", r.Service, on, r.Phase)
		}
	}
	c.drain("n1", on != "n1") // n1, to which fixed is pinned, last
	c.drain("n1", true)
	c.decide()
	c.settle()
	if strings.Contains(c.where(), "fixed") {
		t.Errorf("fixed was placed: %s", c.where())
	}
	c.drain("n1", false)
	c.decide()
	c.settle()
	if !strings.Contains(c.where(), "fixed@n1") {
		t.Errorf("fixed did not come back: %s", c.where())
	}
}

// What stops on a node that is drained is still in the model.
func TestDrainSaysWhyItStops(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(service("fixed", "") + "distribution {\n pin = { fixed = [\"n1\"] }\n}\n")
	c.drain("n1", true)
	p, diags := model.Adaptation(c.s, c.intent(1))
	want := []string{"node n1 is drained, and no other may run it now"}
	if diags.HasErrors() || len(p.Changes) != 1 || p.Changes[0].Action != model.ActStop || !slices.Equal(p.Changes[0].Reasons, want) {
		t.Errorf("%+v, %v", p.Changes, diags)
	}
}

// Looking changes nothing, and says what the leader will do.
func TestWhatIf(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.run(service("a", "") + service("b", "") + service("c", ""))
	before := c.s
	victim := c.row("a").Node
	then := model.WithNodes(c.s, func(n model.Node) model.Node { n.Down = true; return n }, victim, "id-nobody")
	p, diags := model.Adaptation(then, c.intent(1))
	if diags.HasErrors() || len(p.Changes) == 0 || c.s != before || c.s.Nodes.At(victim).Down {
		t.Fatalf("%+v, %v", p, diags)
	}
	c.down(c.s.NodeName(victim))
	c.decide()
	g, _ := c.s.Generation("default", 2)
	if g.Digest != p.Digest {
		t.Errorf("the leader made %s, not %s", g.Digest, p.Digest)
	}
}
