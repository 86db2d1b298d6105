package model_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

// nodesWith are node blocks with so many of a property, n1 first.
func nodesWith(property string, values ...string) string {
	var b strings.Builder
	for i, v := range values {
		fmt.Fprintf(&b, "node \"n%d\" {\n properties = { %s = %q }\n}\n", i+1, property, v)
	}
	return b.String()
}

func distribution(text string) string { return "distribution {\n" + text + "\n}\n" }

func TestConstraints(t *testing.T) {
	t.Parallel()
	nodes := "node \"n1\" {\n properties = { zone = \"a\", cores = \"2\", memory = \"1GiB\", kinds = \"x, y\" }\n}\n" +
		"node \"n2\" {\n properties = { zone = \"b\", cores = \"16\", memory = \"8GiB\", kinds = \"y\" }\n}\n" +
		"node \"n3\" {}\n"
	for constraint, want := range map[string]string{
		`attribute = "zone"` + "\n" + `value = "b"`:                                          "n2",
		`attribute = "zone"` + "\n" + `value = ["a", "b"]`:                                   "n1 n2",
		`attribute = "zone"` + "\n" + `operator = "!="` + "\n" + `value = "a"`:               "n2 n3",
		`attribute = "zone"` + "\n" + `operator = "is_set"`:                                  "n1 n2",
		`attribute = "zone"` + "\n" + `operator = "is_not_set"`:                              "n3",
		`attribute = "cores"` + "\n" + `operator = ">"` + "\n" + `value = 2`:                 "n2",
		`attribute = "cores"` + "\n" + `operator = "<="` + "\n" + `value = 2`:                "n1",
		`attribute = "memory"` + "\n" + `operator = ">="` + "\n" + `value = "1GiB"`:          "n1 n2",
		`attribute = "memory"` + "\n" + `operator = "<"` + "\n" + `value = "1.5GB"`:          "n1",
		`attribute = "zone"` + "\n" + `operator = "<"` + "\n" + `value = 9`:                  "",
		`attribute = "kinds"` + "\n" + `operator = "contains"` + "\n" + `value = "x"`:        "n1",
		`attribute = "kinds"` + "\n" + `operator = "contains"` + "\n" + `value = ["x", "y"]`: "n1",
		`expression = node.zone != "a"`:                                                      "n2",
		`expression = lookup(node, "zone", "") != "a"`:                                       "n2 n3",
		`expression = node.cores >= 4 && node.name != "n3"`:                                  "n2",
		`expression = node.cores`:                                                            "",
		`distinct_property = "zone"`:                                                         "n1 n2",
	} {
		c := newCluster(t, 3)
		m := c.mustCompose(nodes + service("a", "instances = \"all\"\nconstraint {\n"+constraint+"\n}"))
		var got []string
		for _, r := range m.Rows {
			got = append(got, c.s.NodeName(r.Node))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != want {
			t.Errorf("%s: on %v, want %s", constraint, got, want)
		}
		common := nodes + service("a", "instances = \"all\"") + service("b", "instances = \"all\"") + distribution("constraint {\n"+constraint+"\nservices = [\"a\"]\n}")
		if got, want := len(c.mustCompose(common).Rows), len(strings.Fields(want))+3; got != want {
			t.Errorf("%s in the distribution: %d rows, want %d", constraint, got, want)
		}
	}
}

// What a service needs is taken from its node, whatever system it belongs to.
func TestCapacity(t *testing.T) {
	t.Parallel()
	nodes := nodesWith("memory", "4GiB", "2GiB", "none")
	needs := func(name, memory string) string { return service(name, "resources {\n memory = "+memory+"\n}") }
	c := newCluster(t, 3)
	c.run(nodes + needs("a", `"3GiB"`) + needs("b", `"2GiB"`))
	if got := c.where(); got != "a@n1 b@n2" {
		t.Fatal(got)
	}
	other := func(text string) (model.Manifest, model.Diagnostics) {
		return model.Compose{State: c.s, System: "other", Model: parse(t, text)}.Run()
	}
	if m, diags := other(nodes + needs("x", `"1GiB"`)); diags.HasErrors() || c.s.NodeName(m.Rows[0].Node) != "n1" {
		t.Errorf("%v %+v", diags, m.Rows)
	}
	_, diags := other(nodes + needs("x", `"1.5GiB"`))
	if len(diags) != 1 || diags[0].Summary != `there is no place for service "x"` || diags[0].Detail !=
		`n1: no room: it needs 1.5 GiB memory, and 1 GiB of 4 GiB is free; n2: no room: it needs 1.5 GiB memory, and 0 of 2 GiB is free; n3: its memory is "none", which is no amount.` {
		t.Errorf("%+v", diags)
	}
	if r := c.row("a"); r.Needs["memory"] != 3<<30*1000 {
		t.Errorf("%v", r.Needs)
	}
	p := c.plan(nodes + needs("a", `"4GiB"`) + needs("b", `"2GiB"`))
	if len(p.Changes) != 1 || p.Changes[0].Reasons[0] != "its resources changed" {
		t.Errorf("%+v", p.Changes)
	}
}

// To make room, as little as possible moves, and the plan says why.
func TestMakingRoom(t *testing.T) {
	t.Parallel()
	nodes := nodesWith("cores", "4", "4")
	needs := func(name string, cores int) string {
		return service(name, fmt.Sprintf("resources {\n cores = %d\n}", cores))
	}
	c := newCluster(t, 2)
	c.run(nodes + needs("a", 2) + needs("b", 2))
	if got := c.where(); got != "a@n1 b@n2" && got != "a@n2 b@n1" {
		t.Fatal(got)
	}
	p := c.plan(nodes + needs("a", 2) + needs("b", 2) + needs("c", 4))
	if len(p.Changes) != 2 {
		t.Fatalf("%+v", p.Changes)
	}
	for _, ch := range p.Changes {
		switch {
		case ch.Service == "c" && ch.Action == model.ActStart:
		case ch.Action == model.ActMove && strings.Contains(ch.Reasons[0], "it cannot stay on n") && strings.Contains(ch.Reasons[0], "no room: it needs 2 cores, and 0 of 4 is free"):
		default:
			t.Errorf("%+v", ch)
		}
	}
}

// A node whose attribute changes loses what may not be there any more, and nothing else moves.
func TestAttributeChange(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	zone := func(n, zone string) {
		c.must(model.UpdateNode{ID: "id-" + n, Attributes: map[string]string{"zone": zone, model.DataAttribute: "/data/" + n}, Host: "10.0.0." + n[1:]})
	}
	zone("n1", "a")
	zone("n2", "a")
	zone("n3", "b")
	text := service("a", "constraint {\n attribute = \"zone\"\n value = \"a\"\n}") + service("b", "") + service("c", "")
	c.run(text)
	was := c.where()
	home := c.s.NodeName(c.row("a").Node)
	zone(home, "b")
	if got := c.decide(); !slices.Equal(got, []string{model.KindAdapt}) {
		t.Fatalf("decided %v", got)
	}
	c.settle()
	if strings.Contains(c.where(), "a@"+home) || !strings.Contains(c.where(), was[strings.Index(was, "b@"):]) {
		t.Errorf("%s became %s", was, c.where())
	}
	if g, _ := c.s.Generation("default", c.s.Systems.At("default").Generation); !strings.Contains(g.Why, "constraint zone = a: its zone is \"b\"") {
		t.Errorf("why: %s", g.Why)
	}
}

func TestAntiAffinity(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 4)
	nodes := nodesWith("zone", "a", "a", "b", "b")
	apart := func(more string) string { return "anti_affinity {\n services = [\"a\"]\n" + more + "\n}" }
	for range 2 { // whichever of the two is looked at first
		m := c.mustCompose(nodes + service("a", "instances = 2\nconstraint {\n distinct_property = \"zone\"\n}") + service("b", "instances = 2\n"+apart("")))
		on := map[string]string{}
		for _, r := range m.Rows {
			on[c.s.NodeName(r.Node)] += r.Service
		}
		if len(on) != 4 || on["n1"] == on["n2"] || on["n3"] == on["n4"] {
			t.Errorf("%v", on)
		}
	}
	_, diags := c.compose(nodes + service("a", "instances = 2\nconstraint {\n distinct_property = \"zone\"\n}") + service("b", apart("attribute = \"zone\"")))
	if len(diags) != 1 || !strings.Contains(diags[0].Detail, "with the same zone, and they are to be apart") {
		t.Errorf("%+v", diags)
	}
	_, diags = c.compose(service("a", "instances = 5"))
	if len(diags) != 1 || !strings.Contains(diags[0].Summary, "wants 5 instances and only 4 of the nodes may run it") {
		t.Errorf("%+v", diags)
	}
	local := "service \"db\" {\n type = \"sqlite-database\"\n}\n" +
		"service \"user\" {\n type = \"process\"\n depends_on = [\"db\"]\n run {\n command = [dep.db.path]\n }\n anti_affinity {\n services = [\"db\"]\n }\n}\n"
	_, diags = c.compose(local)
	if len(diags) != 1 || !strings.Contains(diags[0].Summary, "both must be on one node") {
		t.Errorf("%+v", diags)
	}
}

// Sticky services wait rather than move.
func TestSticky(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	db := "service \"db\" {\n type = \"sqlite-database\"\n}\n"
	text := func(sticky string) string { return db + service("web", "") + distribution(sticky) }
	c.run(text(""))
	home, web := c.s.NodeName(c.row("db").Node), c.s.NodeName(c.row("web").Node)
	n, _ := c.s.NodeByName(home)
	c.must(model.DrainNode{ID: n.ID, On: true})
	if p := c.plan(text("")); len(p.Changes) == 0 || p.Changes[0].Action != model.ActMove {
		t.Errorf("without sticky: %+v", p.Changes)
	}
	for _, sticky := range []string{"stateful", "all"} {
		_, diags := c.compose(text(fmt.Sprintf("sticky = %q", sticky)))
		if len(diags) != 1 || !strings.Contains(diags[0].Detail, "it is deployed on "+home+" and does not move (sticky = \""+sticky+"\")") {
			t.Errorf("%s: %+v", sticky, diags)
		}
	}
	c.must(model.DrainNode{ID: n.ID})
	m, _ := c.s.NodeByName(web)
	if web == home {
		t.Fatalf("both are on %s", web)
	}
	c.must(model.DrainNode{ID: m.ID, On: true})
	if _, diags := c.compose(text(`sticky = "stateful"`)); diags.HasErrors() {
		t.Errorf("a service without state does not move: %v", diags)
	}
	if _, diags := c.compose(text(`sticky = "all"`)); !diags.HasErrors() {
		t.Error("a bound service moved")
	}
}

// The strategies are reached from a model, with the reference's StaffTracker.
func TestStrategiesOfAModel(t *testing.T) {
	t.Parallel()
	nodes := nodesWith("mem", "100", "150", "120")
	text := nodes
	for _, s := range []struct {
		name string
		mem  int
		uses string
	}{{"nginx", 20, `"stafftracker"`}, {"rooms", 10, ""}, {"roomservice", 40, `"rooms"`}, {"staff", 10, ""}, {"staffservice", 40, `"staff"`},
		{"stafftracker", 60, `"roomservice", "staffservice", "zipcodeservice"`}, {"zipcodes", 10, ""}, {"zipcodeservice", 40, `"zipcodes"`}} {
		text += service(s.name, fmt.Sprintf("depends_on = [%s]\nresources {\n mem = %d\n}", s.uses, s.mem))
	}
	for strategy, want := range map[string]string{
		`strategy = "greedy"`:         "n1: nginx rooms roomservice staff zipcodes n2: staffservice stafftracker zipcodeservice",
		`strategy = "highest-bidder"`: "n1: stafftracker n2: nginx rooms roomservice zipcodes zipcodeservice n3: staff staffservice",
		`strategy = "lowest-bidder"`:  "n1: nginx rooms roomservice staff zipcodes n2: zipcodeservice n3: staffservice stafftracker",
	} {
		c := newCluster(t, 3)
		on := map[string][]string{}
		for _, r := range c.mustCompose(text + distribution(strategy)).Rows {
			on[c.s.NodeName(r.Node)] = append(on[c.s.NodeName(r.Node)], r.Service)
		}
		var got []string
		for _, n := range []string{"n1", "n2", "n3"} {
			if slices.Sort(on[n]); len(on[n]) > 0 {
				got = append(got, n+": "+strings.Join(on[n], " "))
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %s", strategy, got)
		}
	}
	c := newCluster(t, 3)
	m := c.mustCompose(text + distribution("strategy = \"optimal\"\nminimize = \"links\""))
	if len(m.Warnings) != 1 || !strings.Contains(m.Warnings[0], "the number of links between nodes is optimal: 2") {
		t.Errorf("%v", m.Warnings)
	}
}

// For each node there is a reason why a service is there, or is not.
func TestExplain(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 6)
	c.down("n4")
	text := nodesWith("zone", "a", "a", "b", "a", "a") + service("a", "constraint {\n attribute = \"zone\"\n value = \"a\"\n}") + service("b", "") + pin(`a = ["n1", "n2", "n3", "n4"]`)
	explain := func(services ...string) []model.Placement {
		m, diags := model.Compose{State: c.s, System: "default", Model: parse(t, text), Explain: services}.Run()
		if diags.HasErrors() {
			t.Fatal(diags)
		}
		return m.Placements
	}
	got := explain("a", "nobody")
	if len(got) != 1 || len(got[0].On) != 1 || len(got[0].Not) != 5 {
		t.Fatalf("%+v", got)
	}
	on, not := got[0].On[0], map[string]string{}
	for _, r := range got[0].Not {
		not[c.s.NodeName(r.Node)] = r.Why
	}
	other := map[string]string{"id-n1": "n2", "id-n2": "n1"}[on.Node]
	for node, want := range map[string]string{other: "as few instances as", "n3": `constraint zone = a: its zone is "b"`, "n4": "it is down", "n5": "pinned to n1, n2, n3, n4", "n6": "the model has node blocks, and none for it"} {
		if !strings.Contains(not[node], want) {
			t.Errorf("%s: %q, want %q", node, not[node], want)
		}
	}
	if !strings.Contains(on.Why, "fewest instances") {
		t.Errorf("chosen: %q", on.Why)
	}
	c.run(text)
	if got := explain("a")[0]; got.On[0].Why != "it is there already" {
		t.Errorf("%+v", got)
	}
}

// What has no place when nodes die stops, and the plan does not say that the model forgot it.
func TestWhyStopped(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	nodes := nodesWith("cores", "1", "1")
	one := func(name, more string) string { return service(name, more+"\nresources {\n cores = 1\n}") }
	c.run(nodes + one("a", "") + one("b", "") + "service \"c\" {\n type = \"process\"\n depends_on = [\"b\"]\n run { command = [\"run\", dep.b.host] }\n}\n")
	home := c.s.NodeName(c.row("b").Node)
	in, _ := c.s.Intent("default", c.s.Systems.At("default").Intent)
	p, diags := model.Adaptation(model.WithNodes(c.s, func(n model.Node) model.Node { n.Down = true; return n }, c.row("b").Node), in)
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	why := map[string]string{}
	for _, ch := range p.Changes {
		if ch.Action == model.ActStop {
			why[ch.Service] = ch.Reasons[0]
		}
	}
	if !strings.Contains(why["b"], "node "+home+" is down, and no other may run it now") || !strings.Contains(why["c"], "it waits for b") {
		t.Errorf("%v", why)
	}
}

// The example composes on three nodes, and its services are as its README says.
func TestPlacementExample(t *testing.T) {
	t.Parallel()
	src := model.Source{Files: map[string][]byte{}}
	for from, to := range map[string]string{"services.hcl": "services.hcl", "distribution.hcl": "distribution.hcl", "inventory.json": "01-inventory.inventory.json"} {
		text, err := os.ReadFile(filepath.Join("..", "examples", "placement", from))
		if err != nil {
			t.Fatal(err)
		}
		src.Files[to] = text
	}
	m, diags := model.Parse(src, model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	c := newCluster(t, 3)
	for _, n := range []string{"n1", "n2", "n3"} {
		c.must(model.UpdateNode{ID: "id-" + n, Host: n, Attributes: map[string]string{model.DataAttribute: "/data", "os": "linux", "arch": "arm64", "cores": "2", "memory": "4294967296", "disk": "100000000000"}})
	}
	got, diags := model.Compose{State: c.s, System: "default", Model: m}.Run()
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	on := map[string][]string{}
	for _, r := range got.Rows {
		on[r.Service] = append(on[r.Service], c.s.NodeName(r.Node))
	}
	if len(on["orders"]) != 1 || len(on["shop"]) != 2 || !slices.Contains(on["shop"], "n1") || len(on["reports"]) != 1 || slices.Contains(on["shop"], on["reports"][0]) {
		t.Errorf("%v", on)
	}
}
