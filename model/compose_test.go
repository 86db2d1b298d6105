package model_test

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/isonomia-mesh/isonomia/model"
)

func TestPlacement(t *testing.T) {
	t.Parallel()
	six := ""
	for i := range 6 {
		six += service(fmt.Sprintf("s%d", i), "")
	}
	t.Run("spread", func(t *testing.T) {
		c := newCluster(t, 3)
		c.run(six)
		for n := range 3 {
			if got := strings.Count(c.where(), fmt.Sprintf("@n%d", n+1)); got != 2 {
				t.Errorf("n%d has %d: %s", n+1, got, c.where())
			}
		}
	})
	t.Run("nothing moves without need", func(t *testing.T) {
		c := newCluster(t, 3)
		c.run(six)
		was := c.where()
		c.run(six + service("a", ""))
		if got := c.where(); !strings.HasSuffix(got, was) {
			t.Errorf("%s became %s", was, got)
		}
		c.down("n3")
		if got := c.decide(); !reflect.DeepEqual(got, []string{model.KindAdapt}) {
			t.Fatalf("decided %v", got)
		}
		for _, at := range strings.Fields(was) {
			if !strings.HasSuffix(at, "@n3") && !strings.Contains(c.where(), at) {
				t.Errorf("%s moved: %s", at, c.where())
			}
		}
		if strings.Contains(c.where(), "@n3") {
			t.Errorf("something is on n3: %s", c.where())
		}
		c.settle()
		c.up("n3")
		if got := c.decide(); got != nil {
			t.Errorf("decided %v after the return", got)
		}
	})
	t.Run("instances and pins", func(t *testing.T) {
		c := newCluster(t, 3)
		c.run(service("a", "instances = \"all\"") + service("b", "instances = 2") + service("c", "") + pin(`b = ["n1", "n3"], c = ["n2"]`))
		if got, want := c.where(), "a@n1 a@n2 a@n3 b@n1 b@n3 c@n2"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("node blocks", func(t *testing.T) {
		c := newCluster(t, 3)
		c.run("node \"n2\" {}\n" + service("a", "instances = \"all\""))
		if got := c.where(); got != "a@n2" {
			t.Error(got)
		}
	})
	t.Run("unknown nodes", func(t *testing.T) {
		c := newCluster(t, 3)
		_, diags := c.compose("node \"n22\" {}\n" + service("a", "") + pin(`a = ["m1"]`))
		if len(diags) != 2 || diags[0].Hint != `Did you mean "n2"?` || diags[1].Subject.Line == 0 {
			t.Errorf("%+v", diags)
		}
	})
	t.Run("no node fits", func(t *testing.T) {
		c := newCluster(t, 2)
		c.down("n2")
		_, diags := c.compose(service("a", "") + pin(`a = ["n2"]`))
		if !strings.Contains(diags.Error(), `no node may run service "a"`) || !strings.Contains(diags[0].Hint, "up: n1.") {
			t.Errorf("%v: %s", diags, diags[0].Hint)
		}
	})
}

func TestPinnedAndManagedWaitForTheirNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	managed := "state {\n managed = true\n}"
	c.run(service("db", managed) + service("p", "") + service("web", `depends_on = { db = "db" }`) + pin(`p = ["n2"], db = ["n2", "n1"]`))
	c.down(c.s.NodeName(c.row("db").Node))
	was := c.row("db").Node
	c.decide()
	if c.row("db").Node != was || c.row("db").Phase != model.Lost {
		t.Errorf("db is %s on %s", c.row("db").Phase, c.row("db").Node)
	}
	c.up(c.s.NodeName(was))
	c.settle()
	if got := c.decide(); got != nil {
		t.Errorf("decided %v", got)
	}
}

// TestDependentsWaitTogether: a service that has no node left does not keep the others from being adapted.
func TestDependentsWaitTogether(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.run(service("all", "instances = \"all\"\n"+port) + service("free", "") +
		"service \"web\" {\n type = \"process\"\n depends_on = { x = \"all\" }\n run { command = [\"run\", dep.x.port.http] }\n}\n" +
		pin(`all = ["n3"], web = ["n2"], free = ["n3", "n1"]`))
	c.down("n3")
	c.decide()
	if got := c.where(); got != "free@n1" {
		t.Errorf("left: %s", got)
	}
	c.settle()
	c.up("n3")
	c.decide()
	if got := c.where(); got != "all@n3 free@n1 web@n2" {
		t.Errorf("after the return: %s", got)
	}
}

// TestHashes: a changed service changes its own rows and those of its dependents, and nothing else; order is in none.
func TestHashes(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	text := func(v string) string {
		return service("db", "") + strings.Replace(service("mid", `depends_on = { d = "db" }`), `"run"`, `"run", "`+v+`"`, 1) +
			service("web", `depends_on = { m = "mid" }`) + service("peer", `connects_to = { m = "mid" }`) + service("late", `activates_after = ["mid"]`)
	}
	c.run(text("1"))
	p := c.plan(text("2"))
	var changed []string
	for _, ch := range p.Changes {
		changed = append(changed, ch.Service+" "+string(ch.Action)+": "+strings.Join(ch.Reasons, ", "))
	}
	want := []string{"mid restart: its command changed", "web restart: mid, which it depends on, is replaced"}
	if !reflect.DeepEqual(changed, want) {
		t.Errorf("got %q", changed)
	}
	p = c.plan(strings.Replace(text("1"), `activates_after = ["mid"]`, "", 1))
	if len(p.Changes) != 0 || len(p.Order) != 1 {
		t.Errorf("order only: %+v", p)
	}
}

// TestComposeAgain: composing what was just committed, or settled, changes nothing, with Adapt too; reservations are
// unique; the same State and model give the same manifest.
func TestComposeAgain(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		c := newCluster(t, 1+rng.IntN(4))
		for range 1 + rng.IntN(3) {
			text := randomModel(rng, 1+rng.IntN(6))
			m, diags := c.compose(text)
			if diags.HasErrors() && strings.Contains(diags.Error(), "is taken by") {
				continue // a number written in the model that somebody has
			}
			if again := c.mustCompose(text); !reflect.DeepEqual(m, again) {
				t.Fatalf("two manifests of one model:\n%+v\n%+v", m, again)
			}
			c.deploy(text)
			c.unchanged(text)
			c.settle()
			c.unchanged(text)
		}
	})
}

func (c *cluster) unchanged(text string) {
	c.t.Helper()
	for _, adapt := range []bool{false, true} {
		m, diags := model.Compose{State: c.s, System: "default", Model: parse(c.t, text), Adapt: adapt}.Run()
		if p := model.Diff(c.s, "default", m); diags.HasErrors() || !p.Empty() {
			c.t.Fatalf("adapt=%t: %v %+v of\n%s", adapt, diags, p, text)
		}
	}
	holders := map[string]string{}
	for key, r := range c.s.Reservations.All() {
		if other, taken := holders[r.NumberKey()]; taken {
			c.t.Fatalf("%s and %s have number %s", key, other, r.NumberKey())
		}
		holders[r.NumberKey()] = key
	}
}

func randomModel(rng *rand.Rand, n int) string {
	var b strings.Builder
	for i := range n {
		more := ""
		for j := range i {
			if rng.IntN(3) == 0 {
				more += fmt.Sprintf(" %s = { x = \"s%d\" }\n", []string{"depends_on", "connects_to"}[rng.IntN(2)], j)
				break
			}
		}
		switch rng.IntN(5) {
		case 0:
			more += " instances = \"all\"\n"
		case 1:
			more += " state {\n managed = true\n }\n"
		}
		for p := range rng.IntN(3) {
			assign := []string{`"private"`, `"shared"`, fmt.Sprint(8000 + i)}[rng.IntN(3)]
			if p == 1 {
				assign = `"private"`
			}
			more += fmt.Sprintf(" port \"p%d\" {\n assign = %s\n }\n", p, assign)
		}
		b.WriteString(service(fmt.Sprintf("s%d", i), more))
	}
	return b.String()
}

// A state whose node is down is waited for where it was about to go; and it leaves a node on which its service is no
// more deployed.
func TestStateThatHasToMove(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	on := func(node string) string {
		return service("db", "state { managed = true }") + fmt.Sprintf("distribution {\n pin = { db = [%q] }\n}\n", node)
	}
	c.run(on("n1"))
	c.deploy(on("n2"))
	c.down("n1")
	c.decide()
	if got := c.where(); got != "db@n2" {
		t.Errorf("while n1, which has its state, is down: %q", got)
	}
	c.up("n1")
	c.settle()
	if got := c.where(); got != "db@n2" || c.s.Custody.At("default/db/process").Node != "id-n2" {
		t.Errorf("%q, %+v", got, c.s.Custody.At("default/db/process"))
	}
	c.run("") // undeployed: its state stays where it was
	c.run(on("n3"))
	if got := c.where(); got != "db@n3" || c.s.Custody.At("default/db/process").Node != "id-n3" {
		t.Errorf("deployed anew: %q, %+v", got, c.s.Custody.At("default/db/process"))
	}
	if n := c.s.Snapshots.Len(); n != 1 {
		t.Errorf("%d snapshots", n)
	}
	for _, r := range c.s.SystemRows("default") {
		if r.Obsolete {
			t.Errorf("%s is left: %+v", r.Key, r)
		}
	}
}
