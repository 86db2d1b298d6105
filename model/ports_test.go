package model_test

import (
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

const port = ` port "http" {}`

func pin(pins string) string { return "distribution {\n pin = {" + pins + "}\n}\n" }

// TestPortsOfTheReference is the vector of the Disnix reference, and what follows from it: numbers stay, and a freed
// one is not given again before the counter wrapped.
func TestPortsOfTheReference(t *testing.T) {
	t.Parallel()
	ids := "ids \"ports\" {\n private = \"3000-3003\"\n shared = \"5000-5001\"\n}\n"
	abc := ids + service("a", port+"\n instances = 2") + service("b", port) + service("c", port)
	pins := pin(`a = ["n1", "n2"], b = ["n2"], c = ["n1"]`)
	c := newCluster(t, 2)
	c.run(abc + pins)
	if got, want := c.ports(), "a@n1=3000 a@n2=3000 b@n2=3001 c@n1=3001"; got != want {
		t.Fatalf("got %s, want %s", got, want)
	}
	c.run(ids + service("a", port+"\n instances = 2") + service("c", port) + pin(`a = ["n1", "n2"], c = ["n1"]`))
	c.run(abc + pins)
	if got, want := c.ports(), "a@n1=3000 a@n2=3000 b@n2=3002 c@n1=3001"; got != want {
		t.Fatalf("a service that came back: got %s, want %s", got, want)
	}
	d := service("d", port) + service("e", port)
	c.run(abc + d + pin(`a = ["n1", "n2"], b = ["n2"], c = ["n1"], d = ["n2"], e = ["n2"]`))
	if got, want := c.ports(), "a@n1=3000 a@n2=3000 b@n2=3002 c@n1=3001 d@n2=3003 e@n2=3001"; got != want {
		t.Fatalf("after the wrap: got %s, want %s", got, want)
	}
	_, diags := c.compose(abc + d + service("f", port) + pin(`a = ["n1", "n2"], b = ["n2"], c = ["n1"], d = ["n2"], e = ["n2"], f = ["n2"]`))
	if !strings.Contains(diags.Error(), "the private ports of 3000-3003 are used up") {
		t.Errorf("depleted: %v", diags)
	}
}

func TestSharedAndFixedNumbers(t *testing.T) {
	t.Parallel()
	ids := "ids \"ports\" {\n private = \"3000-3009\"\n shared = \"5000-5001\"\n}\n"
	fixed := ` port "http" { 
 assign = 3000
}`
	t.Run("a fixed one is private on no node", func(t *testing.T) {
		c := newCluster(t, 2)
		c.run(ids + service("a", port+"\n instances = \"all\"") + service("z", fixed) + pin(`z = ["n1"]`))
		if got, want := c.ports(), "a@n1=3001 a@n2=3001 z@n1=3000"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("fixed on two nodes", func(t *testing.T) {
		c := newCluster(t, 2)
		c.run(ids + service("z", fixed+"\n instances = 2"))
		if got, want := c.ports(), "z@n1=3000 z@n2=3000"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("fixed twice on a node", func(t *testing.T) {
		_, diags := newCluster(t, 1).compose(service("y", fixed) + service("z", fixed))
		if !strings.Contains(diags.Error(), "port 3000 on n1 is taken by y.http") {
			t.Errorf("%v", diags)
		}
	})
	t.Run("shared: one in the network", func(t *testing.T) {
		c := newCluster(t, 3)
		shared := " port \"http\" {\n assign = \"shared\"\n}"
		c.run(ids + service("a", shared+"\n instances = 2") + service("b", shared))
		for _, r := range c.s.Reservations.All() {
			if want := map[string]int{"a": 5000, "b": 5001}[r.Service]; r.Resource == "ports" && (r.Number != want || r.Node != "") {
				t.Errorf("%+v", r)
			}
		}
		_, diags := c.compose(ids + service("a", shared) + service("b", shared) + service("c", shared))
		if !strings.Contains(diags.Error(), "shared ports of 5000-5001 are used up") {
			t.Errorf("%v", diags)
		}
	})
}

func TestRollbackGetsItsNumbersBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	both := service("a", port) + service("b", port)
	c.run(both)
	was, keys := c.ports(), c.keys()
	c.run(service("a", port))
	c.run(service("a", port) + service("x", port)) // takes the next number, not b's
	m, diags := model.ComposeRollback(c.s, "default", 1, nil)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	c.must(model.Diff(c.s, "default", m).Commands(model.Draft{ID: "back", Kind: model.KindRollback, Target: 1, Source: source(both)})...)
	c.settle()
	if got := c.ports(); got != was || strings.Join(c.keys(), " ") != strings.Join(keys, " ") {
		t.Errorf("got %s, had %s", got, was)
	}
}

// TestSystemsRace: two systems planned on one State; the second to commit is stale if it wants a number of the first.
func TestSystemsRace(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	m := parse(t, service("a", port))
	var plans []model.Plan
	for _, system := range []string{"one", "two"} {
		man, _ := model.Compose{State: c.s, System: system, Model: m}.Run()
		plans = append(plans, model.Diff(c.s, system, man))
	}
	c.must(plans[0].Commands(model.Draft{ID: "1"})...)
	res := c.apply(plans[1].Commands(model.Draft{ID: "2"})...)
	if got := res[len(res)-1]; got.Code != model.ErrStale || !strings.Contains(got.Message, "was reserved for a meanwhile") {
		t.Errorf("%+v", got)
	}
	if c.s.Pending.Len() != 0 {
		t.Error("what was refused is still pending")
	}
	man, _ := model.Compose{State: c.s, System: "two", Model: m}.Run()
	c.must(model.Diff(c.s, "two", man).Commands(model.Draft{ID: "3"})...)
}
