package model_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

func kinds(cmds []model.Command) string {
	var out []string
	for _, c := range cmds {
		switch c := c.(type) {
		case model.MarkDown:
			out = append(out, "down "+c.ID)
		case model.MarkUp:
			out = append(out, "up "+c.ID)
		case model.Begin:
			out = append(out, "begin "+c.Kind)
		case model.Finish:
			out = append(out, "finish "+string(c.Outcome))
		case model.Retry:
			out = append(out, "retry")
		}
	}
	return strings.Join(out, ", ")
}

func TestDecideLiveness(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	view := func(silent, late time.Duration) model.View {
		return model.View{Self: "id-n1", Silent: map[string]time.Duration{"id-n1": silent, "id-n2": silent}, Late: late}
	}
	for _, k := range []struct {
		silent, late time.Duration
		want         string
		wake         time.Duration
	}{
		{0, 0, "", 3 * time.Second},
		{2999 * time.Millisecond, 0, "", time.Millisecond},
		{3 * time.Second, 0, "down id-n2", 0}, // never itself, nor a node that nobody listened for
		{3 * time.Second, time.Second, "", time.Second},
		{4 * time.Second, time.Second, "down id-n2", 0},
	} {
		cmds, _, wake := model.Decide(c.s, view(k.silent, k.late), model.Memory{}, epoch)
		if got := kinds(cmds); got != k.want {
			t.Errorf("silent %v, late %v: %q", k.silent, k.late, got)
		}
		if k.wake == 0 && !wake.IsZero() || k.wake != 0 && !wake.Equal(epoch.Add(k.wake)) {
			t.Errorf("silent %v: wake %v", k.silent, wake)
		}
	}
	c.down("n2")
	if cmds, _, _ := model.Decide(c.s, view(time.Second, 0), model.Memory{}, epoch); len(cmds) != 0 {
		t.Errorf("still silent: %s", kinds(cmds))
	}
	if cmds, _, _ := model.Decide(c.s, view(time.Second-1, 0), model.Memory{}, epoch); kinds(cmds) != "up id-n2" {
		t.Errorf("heard: %s", kinds(cmds))
	}
}

func (c *cluster) fail(service string) {
	c.t.Helper()
	r := c.row(service)
	c.must(model.Reports{Node: r.Node, Epoch: c.s.Nodes.At(r.Node).Epoch, Items: []model.Report{{Row: r.Key, Phase: model.Failed, Claim: r.Claim, Reason: "it broke"}}})
}

func (c *cluster) intent(n uint64) model.Intent {
	in, _ := c.s.Intent("default", n)
	return in
}

// TestFailureRollsBack: to exactly what ran before, and to nothing the first time.
func TestFailureRollsBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.deploy(service("a", port))
	c.fail("a")
	if got := c.decide(); !slices.Equal(got, []string{model.KindAuto}) {
		t.Fatalf("decided %v", got)
	}
	if in := c.intent(1); in.Outcome != model.RolledBack || !strings.Contains(in.Reason, "it broke") || len(c.keys()) != 0 {
		t.Errorf("%s %q, left %v", in.Outcome, in.Reason, c.keys())
	}
	if got := c.intent(2).Outcome; got != model.Settled {
		t.Errorf("the rollback to nothing is %s", got)
	}
	c.run(service("a", port) + service("b", port))
	was := c.keys()
	c.deploy(service("a", port+"\n"+`activates_after = ["x"]`) + service("x", ""))
	c.fail("x")
	c.decide()
	if !slices.Equal(c.keys(), was) || c.row("a").After != nil {
		t.Errorf("rolled back to %v, was %v, order %v", c.keys(), was, c.row("a").After)
	}
	c.settle()
	if got := c.decide(); got != nil {
		t.Errorf("decided %v after it settled", got)
	}
}

// TestStuckRollback: a rollback that fails is tried again with back-off, and meanwhile a node may still die.
func TestStuckRollback(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(service("a", "") + service("b", "") + pin(`a = ["n1"]`))
	c.deploy(service("a", port) + pin(`a = ["n1"]`))
	for c.row("a").Phase != model.Starting { // the old one is stopped by then
		for _, r := range c.s.SystemRows("default") {
			c.advance(r)
		}
	}
	c.fail("a")
	c.decide()
	c.fail("a") // the old one, which is being started again
	var mem model.Memory
	turn := func(after time.Duration) string {
		t.Helper()
		cmds, next, _ := model.Decide(c.s, model.View{}, mem, epoch.Add(after))
		mem = next
		if len(cmds) > 0 {
			c.must(cmds...)
		}
		return kinds(cmds)
	}
	for _, k := range []struct {
		after time.Duration
		want  string
	}{{0, "finish stuck"}, {0, ""}, {999 * time.Millisecond, ""}, {time.Second, "retry"}} {
		if got := turn(k.after); got != k.want {
			t.Fatalf("after %v: %q, want %q", k.after, got, k.want)
		}
	}
	if got := c.row("a").Phase; got != model.Planned {
		t.Errorf("a is %s", got)
	}
	c.fail("a")
	turn(2 * time.Second)
	b := c.row("b").Node
	c.down(c.s.NodeName(b))
	if got := turn(2 * time.Second); b != "id-n1" && got != "begin adapt" {
		t.Errorf("a node died while it is stuck: %q", got)
	}
}

func TestAbort(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.run(service("a", ""))
	was := c.keys()
	c.deploy(service("b", ""))
	c.must(model.Abort{Proposal: "stop", System: "default", By: "ann"})
	c.decide()
	if in := c.intent(2); in.Outcome != model.Aborted || in.Reason != "aborted by ann" || !slices.Equal(c.keys(), was) {
		t.Errorf("%s %q, %v", in.Outcome, in.Reason, c.keys())
	}
	if got := c.apply(model.Abort{Proposal: "again", System: "default"})[0].Code; got != model.ErrPhase && c.intent(3).Outcome == model.Running {
		t.Errorf("a rollback was aborted: %q", got)
	}
}

// TestRollbackTwice goes back two generations, and not to and fro.
func TestRollbackTwice(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	var keys [][]string
	for _, name := range []string{"a", "b", "c"} {
		c.run(service(name, ""))
		keys = append(keys, c.keys())
	}
	for want := 1; want >= 0; want-- {
		target := c.intent(c.s.Systems.At("default").Settled).Parent
		m, diags := model.ComposeRollback(c.s, "default", target, nil)
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		in := c.intent(target)
		c.must(model.Diff(c.s, "default", m).Commands(model.Draft{ID: m.Digest, Kind: model.KindRollback, Target: target, Source: in.Source})...)
		c.settle()
		if !slices.Equal(c.keys(), keys[want]) {
			t.Errorf("went back to intent %d, not %d", target, want+1)
		}
	}
	if got := c.intent(c.s.Systems.At("default").Settled).Parent; got != 0 {
		t.Errorf("there is still %d to go back to", got)
	}
}

// TestTrimKeepsWhatARollbackReaches: after many deploys each intent that is kept can be gone back to, row for row.
func TestTrimKeepsWhatARollbackReaches(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	manifests := map[uint64][]string{}
	for i := range 2*model.MaxIntents + 10 {
		c.run(service([]string{"a", "b", "c"}[i%3], port))
		if i%7 == 0 { // more than one generation for an intent, so that several are trimmed at once
			c.down("n2")
			c.decide()
			c.settle()
			c.up("n2")
		}
		manifests[c.s.Systems.At("default").Intent] = c.keys()
	}
	if n := c.s.Intents.Len(); n > 2*model.MaxIntents {
		t.Errorf("%d intents are kept", n)
	}
	if n := c.s.Specs.Len(); n > 200 {
		t.Errorf("%d specs are kept", n)
	}
	for _, in := range c.s.Intents.All() {
		keys, complete := c.s.Manifest("default", in.Last)
		if want := manifests[in.Number]; !complete || !slices.Equal(keys, want) {
			t.Errorf("intent %d: %v, was %v", in.Number, keys, want)
		}
		for _, k := range keys {
			if !c.s.Specs.Has(k) {
				t.Errorf("intent %d: %s is forgotten", in.Number, k)
			}
		}
	}
}

// TestHistoryOutlivesAnAdaptation: who deployed what runs, and why, is known after its node has died.
func TestHistoryOutlivesAnAdaptation(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(service("a", port))
	for range 3 {
		for _, node := range []string{"n1", "n2"} {
			c.down(node)
			c.decide()
			c.settle()
			c.up(node)
		}
	}
	if newest := c.s.Systems.At("default").Generation; newest < 2 {
		t.Fatalf("generation %d: nothing was adapted", newest)
	}
	if g, ok := c.s.Generation("default", 1); !ok || g.Kind != model.KindDeploy {
		t.Errorf("the deployment's generation is %+v", g)
	}
}

// TestReasons is what an operator reads in a plan.
func TestReasons(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	base := `service "a" {
 type = "process"
 depends_on = { d = "db" }
 run {
  command = ["run"]
  env = { MODE = "x" }
 }
 port "http" {}
}
` + service("db", "") + service("gone", "") + service("two", "instances = 2") + service("move", "")
	c.run(base + pin(`move = ["n1"], db = ["n1"], a = ["n1"], gone = ["n1"]`))
	next := strings.NewReplacer(`MODE = "x"`, `MODE = "y", NEW = "1"`, `port "http" {}`, "port \"http\" {}\n port \"admin\" {}\n health {\n tcp = true\n port = \"http\"\n }", `"run"]`, `"run", "-v"]`,
		service("gone", ""), "", "instances = 2", "instances = 1").Replace(base)
	p := c.plan(next + service("new", "") + pin(`move = ["n2"], db = ["n1"], a = ["n1"], new = ["n2"]`))
	var got []string
	for _, ch := range p.Changes {
		got = append(got, strings.Join([]string{string(ch.Action), ch.Service, c.s.NodeName(ch.Node), strings.Join(ch.Reasons, "; ")}, " | "))
	}
	want := []string{
		"restart | a | n1 | its command changed; env MODE changed; env NEW changed; port admin: new, 8001; its health check changed; db, which it depends on, is replaced",
		"restart | db | n1 | its command changed",
		"stop | gone | n1 | it is not in the model any more",
		"move | move | n2 | it cannot stay on n1: pinned to n2",
		"start | new | n2 | it is new",
		"restart | two | n1 | its command changed",
		"stop | two | n2 | one instance less",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s", strings.Join(got, "\n"))
	}
}
