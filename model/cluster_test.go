package model_test

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

var epoch = time.Unix(1_800_000_000, 0).UTC()

// tester is *testing.T or *rapid.T.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}

// cluster is a State to which commands are applied, without machines: rows become what a test says.
type cluster struct {
	t     tester
	s     *model.State
	index uint64
	data  string // what is in snapshots that are saved from now on; default "state"
}

// newCluster has members n1 ... with the ids id-n1 ...
func newCluster(t tester, nodes int) *cluster {
	c := &cluster{t: t, s: &model.State{}}
	for i := range nodes {
		n := model.Node{ID: fmt.Sprintf("id-n%d", i+1), Name: fmt.Sprintf("n%d", i+1), Host: fmt.Sprintf("10.0.0.%d", i+1), Epoch: 1,
			Attributes: map[string]string{model.DataAttribute: fmt.Sprintf("/data/n%d", i+1)}}
		if i == 0 {
			c.must(model.Init{Cluster: model.Cluster{ID: "test"}, Node: n})
			continue
		}
		tok := fmt.Sprintf("t%d", i)
		c.must(model.CreateToken{Token: model.Token{ID: tok, UsesLeft: 1, Expires: epoch.Add(time.Hour), Created: epoch}},
			model.Admit{Token: tok, Node: n, Now: epoch})
	}
	return c
}

func (c *cluster) apply(cmds ...model.Command) []model.Result {
	var res []model.Result
	c.index++
	c.s, res = raftfsm.Apply(c.s, c.index, cmds)
	return res
}

func (c *cluster) must(cmds ...model.Command) {
	c.t.Helper()
	for i, r := range c.apply(cmds...) {
		if r.Code != model.OK {
			c.t.Fatalf("%T: %s %s", cmds[i], r.Code, r.Message)
		}
		for _, v := range r.Verdicts {
			if v.Code != model.OK {
				c.t.Fatalf("%T: %s %s", cmds[i], v.Code, v.Reason)
			}
		}
	}
}

func source(text string) model.Source {
	return model.Source{Files: map[string][]byte{"services.hcl": []byte(text)}}
}

// service is a process without a package.
func service(name, more string) string {
	return fmt.Sprintf("service %q {\n type = \"process\"\n run { command = [\"run\"] }\n%s\n}\n", name, more)
}

func parse(t tester, text string) *model.Model {
	t.Helper()
	m, diags := model.Parse(source(text), model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		t.Fatalf("parse: %v", diags)
	}
	return m
}

func (c *cluster) compose(text string) (model.Manifest, model.Diagnostics) {
	return model.Compose{State: c.s, System: "default", Model: parse(c.t, text)}.Run()
}

func (c *cluster) mustCompose(text string) model.Manifest {
	c.t.Helper()
	m, diags := c.compose(text)
	if diags.HasErrors() {
		c.t.Fatalf("compose: %v", diags)
	}
	return m
}

func (c *cluster) plan(text string) model.Plan {
	c.t.Helper()
	return model.Diff(c.s, "default", c.mustCompose(text))
}

// deploy commits a model; its rows are planned.
func (c *cluster) deploy(text string) {
	c.t.Helper()
	c.must(c.plan(text).Commands(model.Draft{ID: fmt.Sprint("p", c.index), Kind: model.KindDeploy, Source: source(text), At: epoch})...)
}

// settle brings everything to what the newest generation wants, and has the leader finish it.
func (c *cluster) settle() {
	c.t.Helper()
	for range 200 {
		if model.CanSettle(c.s, "default") == "" {
			sys := c.s.Systems.At("default")
			c.must(model.Finish{System: "default", Intent: sys.Intent, Generation: sys.Generation, Outcome: model.Settled})
			return
		}
		for _, r := range c.s.SystemRows("default") {
			c.advance(r)
		}
	}
	var rows []string
	for _, r := range c.s.SystemRows("default") {
		rows = append(rows, fmt.Sprintf("%s on %s: %s, obsolete %t, custody %+v; start: %q save: %q stop: %q restore: %q", r.Service, c.s.NodeName(r.Node), r.Phase, r.Obsolete,
			c.s.Custody.At(r.CustodyKey()), model.CanStart(c.s, r), model.CanSave(c.s, r), model.CanStop(c.s, r), model.CanRestore(c.s, r)))
	}
	c.t.Fatalf("it does not settle: %s\n%s", model.CanSettle(c.s, "default"), strings.Join(rows, "\n"))
}

// run deploys and settles.
func (c *cluster) run(text string) {
	c.t.Helper()
	c.deploy(text)
	c.settle()
}

func (c *cluster) advance(r model.Row) {
	n := c.s.Nodes.At(r.Node)
	report := func(p model.Phase) {
		c.apply(model.Reports{Node: r.Node, Epoch: n.Epoch, Items: []model.Report{{Row: r.Key, Phase: p, Claim: r.Claim}}})
	}
	claim := func(p model.Phase) {
		c.apply(model.Claims{Node: r.Node, Epoch: n.Epoch, Items: []model.Claim{{Row: r.Key, Phase: p, Generation: c.s.Systems.At(r.System).Generation}}})
	}
	switch {
	case n.Down:
	case model.CanSave(c.s, r) == "":
		claim(model.Saving)
	case r.Phase == model.Saving:
		c.apply(model.Reports{Node: r.Node, Epoch: n.Epoch, Items: []model.Report{{Row: r.Key, Phase: model.Saved, Claim: r.Claim, Snapshot: &model.Snapshot{ID: cmp.Or(c.data, "state")}}}})
	case model.CanRestore(c.s, r) == "":
		claim(model.Restoring)
	case r.Phase == model.Restoring:
		c.apply(model.Reports{Node: r.Node, Epoch: n.Epoch, Items: []model.Report{{Row: r.Key, Phase: model.Restored, Claim: r.Claim, Snapshot: &model.Snapshot{ID: c.s.Custody.At(r.CustodyKey()).Snapshot}}}})
	case r.Phase == model.Planned:
		report(model.Prepared)
	case r.Phase == model.Prepared || r.Phase == model.Restored:
		claim(model.Starting)
	case r.Phase == model.Starting:
		report(model.Active)
	case r.Phase == model.Active && r.Obsolete:
		claim(model.Stopping)
	case r.Phase == model.Stopping:
		report(model.Stopped)
	}
}

// ports says the numbers of the newest generation: service@node=number, in order.
func (c *cluster) ports() string {
	var out []string
	for _, r := range c.s.SystemRows("default") {
		for _, n := range r.Spec.Ports {
			if !r.Obsolete {
				out = append(out, fmt.Sprintf("%s@%s=%d", r.Service, c.s.NodeName(r.Node), n))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// where says where the newest generation's instances are.
func (c *cluster) where() string {
	var out []string
	for _, r := range c.s.SystemRows("default") {
		if !r.Obsolete {
			out = append(out, r.Service+"@"+c.s.NodeName(r.Node))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (c *cluster) keys() []string {
	keys, _ := c.s.Manifest("default", c.s.Systems.At("default").Generation)
	return keys
}

func (c *cluster) row(service string) model.Row {
	for _, r := range c.s.ServiceRows("default", service) {
		if !r.Obsolete {
			return r
		}
	}
	return model.Row{}
}

func (c *cluster) down(name string) {
	c.t.Helper()
	n, _ := c.s.NodeByName(name)
	c.must(model.MarkDown{ID: n.ID, Epoch: n.Epoch, Why: "test"})
}

func (c *cluster) up(name string) {
	c.t.Helper()
	n, _ := c.s.NodeByName(name)
	c.must(model.MarkUp{ID: n.ID, Epoch: n.Epoch})
}

// decide lets a new leader decide until it has nothing more to do.
func (c *cluster) decide() (kinds []string) {
	c.t.Helper()
	v := model.View{Silent: map[string]time.Duration{}}
	for id, n := range c.s.Nodes.All() {
		v.Silent[id] = 0
		if n.Down {
			v.Silent[id] = time.Minute
		}
	}
	var mem model.Memory
	for range 10 {
		cmds, next, _ := model.Decide(c.s, v, mem, epoch)
		if mem = next; len(cmds) == 0 {
			return kinds
		}
		for _, cmd := range cmds {
			if b, ok := cmd.(model.Begin); ok {
				kinds = append(kinds, b.Kind)
			}
		}
		c.must(cmds...)
	}
	c.t.Fatal("the leader does not come to rest")
	return nil
}

// encodedBytes is what a command takes in the log.
func encodedBytes(t tester, cmd model.Command) int {
	t.Helper()
	b, err := raftfsm.EncodeCommands([]model.Command{cmd})
	if err != nil {
		t.Fatal(err)
	}
	return len(b)
}
