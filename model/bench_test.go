package model_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// large is a State with so many nodes in ten zones, and nothing deployed.
func large(nodes int) *model.State {
	s := &model.State{Version: 1, Cluster: model.Cluster{ID: "test"}}
	for i := range nodes {
		id := fmt.Sprintf("%04x-%04d", i*7919%65536, i)
		s.Nodes = s.Nodes.Set(id, model.Node{ID: id, Name: fmt.Sprintf("n%04d", i), Host: fmt.Sprintf("10.0.%d.%d", i/250, i%250), Epoch: 1,
			Attributes: map[string]string{model.DataAttribute: "/data", "zone": fmt.Sprint("z", i%10), "arch": "amd64", "os": "linux", "cores": "32", "memory": "68719476736", "disk": "1000000000000", "disk_free": "500000000000", "modules": "process"}})
	}
	return s
}

// system is a model with so many services: each second one depends on the one before it and has its address.
func system(services int, more, distribution string) string {
	var b strings.Builder
	for i := range services {
		fmt.Fprintf(&b, "service \"s%05d\" {\n type = \"process\"\n port \"http\" {}\n", i)
		if i%2 == 1 {
			fmt.Fprintf(&b, " depends_on = { up = \"s%05d\" }\n run {\n command = [\"run\", self.port.http]\n env = { UP = \"${dep.up.host}:${dep.up.port.http}\" }\n }\n", i-1)
		} else {
			b.WriteString(" run {\n command = [\"run\", self.port.http]\n }\n")
		}
		b.WriteString(more + "}\n")
	}
	return b.String() + "distribution {\n" + distribution + "\n}\n"
}

// cpuTime reports what an iteration takes of the processors, which other work on the machine does not change much.
func cpuTime(b *testing.B) func() {
	used := func() int64 {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return u.Utime.Nano() + u.Stime.Nano()
	}
	before := used()
	return func() { b.ReportMetric(float64(used()-before)/1e6/float64(b.N), "cpu-ms/op") }
}

const (
	benchNodes    = 1_000
	benchServices = 10_000
	benchNeeds    = " resources {\n memory = \"2GiB\"\n cores = 1\n }\n constraint {\n attribute = \"arch\"\n value = \"amd64\"\n }\n constraint {\n expression = node.zone != \"z9\"\n }\n"
)

// BenchmarkCompose composes 10,000 services on 1,000 nodes: placement, numbers, resolving and hashing, all that the leader
// does before it writes. Parsing is not in it; BenchmarkParse is its own.
func BenchmarkCompose(b *testing.B) {
	for _, bc := range []struct{ name, more, distribution string }{
		{"spread", "", ""},
		{"constraints", benchNeeds, ""},
		{"round-robin", benchNeeds, `strategy = "round-robin"`},
		{"lowest-bidder", benchNeeds, "strategy = \"lowest-bidder\"\nresource = \"memory\""},
		{"min-set-cover", benchNeeds, `strategy = "min-set-cover"`},
		{"multiway-cut", benchNeeds, `strategy = "multiway-cut"`},
		{"graph-colouring", benchNeeds, `strategy = "graph-colouring"`},
		{"optimal", benchNeeds, `strategy = "optimal"`},
	} {
		b.Run(bc.name, func(b *testing.B) {
			s := large(benchNodes)
			m := parse(b, system(benchServices, bc.more, bc.distribution))
			defer cpuTime(b)()
			for b.Loop() {
				manifest, diags := model.Compose{State: s, System: "default", Model: m}.Run()
				if diags.HasErrors() || len(manifest.Rows) != benchServices {
					b.Fatalf("%d rows: %v", len(manifest.Rows), diags)
				}
			}
		})
	}
}

// BenchmarkAdapt composes anew what is deployed, when nothing changed, and when a node is down: what the leader does
// whenever that happens.
func BenchmarkAdapt(b *testing.B) {
	text := system(benchServices, benchNeeds, "")
	m := parse(b, text)
	s := large(benchNodes)
	manifest, diags := model.Compose{State: s, System: "default", Model: m}.Run()
	if diags.HasErrors() {
		b.Fatal(diags)
	}
	for i, cmd := range model.Diff(s, "default", manifest).Commands(model.Draft{ID: "p", Kind: model.KindDeploy, At: epoch}) {
		var res []model.Result
		if s, res = raftfsm.Apply(s, uint64(i+1), []model.Command{cmd}); res[0].Code != model.OK {
			b.Fatal(res[0])
		}
	}
	down, _ := s.NodeByName("n0500")
	for name, s := range map[string]*model.State{"nothing changed": s, "a node is down": model.WithNodes(s, func(n model.Node) model.Node { n.Down = true; return n }, down.ID)} {
		b.Run(name, func(b *testing.B) {
			moved := 0
			defer cpuTime(b)()
			for b.Loop() {
				m, diags := model.Compose{State: s, System: "default", Model: m, Adapt: true}.Run()
				if diags.HasErrors() {
					b.Fatal(diags)
				}
				moved = 0
				for _, c := range model.Diff(s, "default", m).Changes {
					if c.Action == model.ActMove {
						moved++
					}
				}
			}
			b.ReportMetric(float64(moved), "moves")
		})
	}
}
