package model

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "write the golden files")

// testKnown has the modules that there are.
func testKnown() Known { return Known{Modules: Modules()} }

// readCase is the Source of a test file: the file itself, or the files of an archive.
func readCase(t testing.TB, path string) Source {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	src := Source{Files: map[string][]byte{}}
	if !strings.HasSuffix(path, ".txtar") {
		src.Files["services"+path[strings.Index(path, ".hcl"):]] = text
		return src
	}
	for _, f := range txtar.Parse(text).Files {
		src.Files[f.Name] = f.Data
	}
	return src
}

// cases are the files of a directory of testdata, by the name of the test.
func cases(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join("testdata", dir))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		if name := e.Name(); !strings.HasSuffix(name, ".txt") {
			out[name] = filepath.Join("testdata", dir, name)
		}
	}
	return out
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: write it with -update and look at it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("differs from %s (-want +got):\n%s", path, diff)
	}
}

func TestBrokenModels(t *testing.T) {
	t.Parallel()
	all := cases(t, "broken")
	if len(all) < 40 {
		t.Errorf("there are %d broken models, fewer than 40", len(all))
	}
	for name, path := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := readCase(t, path)
			m, diags := parseSource(src, testKnown())
			if m != nil || !diags.HasErrors() {
				t.Fatalf("parsed: %v", diags)
			}
			for _, d := range diags {
				if d.Hint == "" {
					t.Errorf("no way out: %s", d.Summary)
				}
				if _, ok := src.Files[d.Subject.File]; ok != (d.Subject.Line > 0) || !ok && name != "empty.txtar" {
					t.Errorf("no place: %s at %q", d.Summary, d.Subject)
				}
			}
			golden(t, path+".txt", diags.Text(src, 100, false))
		})
	}
}

func TestGoodModels(t *testing.T) {
	t.Parallel()
	for name, path := range cases(t, "good") {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			src := readCase(t, path)
			m, diags := parseSource(src, testKnown())
			if len(diags) > 0 {
				t.Fatalf("refused:\n%s", diags.Text(src, 100, false))
			}
			golden(t, path+".txt", dump(m, src))
		})
	}
}

// TestDesignExample takes the example of the design as it stands, with the block that comes later.
func TestDesignExample(t *testing.T) {
	t.Parallel()
	src := readCase(t, "testdata/good/design.hcl")
	text := strings.Replace(string(src.Files["services.hcl"]), "  health {", "  on_demand {\n    idle = \"5m\"\n  }\n  health {", 1)
	src.Files["services.hcl"] = []byte(text)
	_, diags := Parse(src, testKnown())
	if len(diags) != 1 || diags[0].Summary != "on_demand is not available yet" || diags[0].Subject.Line != 20 {
		t.Errorf("got\n%v", diags)
	}
}

// dumpPlacement writes what a service asks of its nodes.
func dumpPlacement(b *strings.Builder, s *Service) {
	for _, k := range s.Constraints {
		fmt.Fprintf(b, "%s constraint %s\n", s.Name, k.Text)
	}
	for _, a := range s.Apart {
		fmt.Fprintf(b, "%s apart %v %q\n", s.Name, a.Services, a.Attribute)
	}
	if len(s.Distinct)+len(s.Needs) > 0 {
		fmt.Fprintf(b, "%s distinct %v needs %v\n", s.Name, s.Distinct, s.Needs)
	}
}

// dump writes a model without places. Expressions are evaluated as on a node where everything is.
func dump(m *Model, src Source) string {
	var b strings.Builder
	for _, s := range m.Services {
		dumpService(&b, m, s, src)
	}
	for _, n := range m.Nodes {
		fmt.Fprintf(&b, "node %s %v %v\n", n.Name, n.Properties, n.Containers)
	}
	for _, k := range sortedKeys(m.IDs) {
		r := m.IDs[k]
		fmt.Fprintf(&b, "ids %s private=%v shared=%v nodes=%v\n", k, r.Private, r.Shared, r.Nodes)
	}
	d := m.Distribution
	fmt.Fprintf(&b, "distribution %s %v\n", d.Strategy, d.Pin)
	if more := fmt.Sprintf("  resource=%q sticky=%q minimize=%q move_cost=%d cost=%q", d.Resource, d.Sticky, d.Minimize, d.MoveCost, d.Cost); more != `  resource="" sticky="" minimize="" move_cost=0 cost="cost"` {
		fmt.Fprintln(&b, more)
	}
	for _, s := range m.Services {
		dumpPlacement(&b, s)
	}
	return b.String()
}

func dumpService(b *strings.Builder, m *Model, s *Service, src Source) {
	fmt.Fprintf(b, "service %s type=%s package=%s instances=%d all=%v\n", s.Name, s.Type, s.Package, s.Instances, s.All)
	fmt.Fprintf(b, "  depends_on=%v connects_to=%v activates_after=%v\n", s.DependsOn, s.ConnectsTo, s.ActivatesAfter)
	if x := s.Build; x != nil {
		fmt.Fprintf(b, "  build %q env=%v timeout=%v\n", x.Command, x.Env, x.Timeout)
	}
	for _, x := range s.Ports {
		fmt.Fprintf(b, "  port %s %s %d\n", x.Name, x.Assign, x.Number)
	}
	scope := testScope(m, s)
	if x := s.Run; x != nil {
		fmt.Fprintf(b, "  run user=%s grace=%v start=%v\n", x.User, x.Grace, x.StartWait)
		dumpExpr(b, "command", x.Command, src, scope)
		dumpExpr(b, "env", x.Env, src, scope)
		dumpExpr(b, "dir", x.Dir, src, scope)
	}
	if x := s.Health; x != nil {
		fmt.Fprintf(b, "  health http=%s tcp=%v port=%s interval=%v timeout=%v\n", x.HTTP, x.TCP, x.Port, x.Interval, x.Timeout)
		dumpExpr(b, "command", x.Command, src, scope)
	}
	if x := s.State; x != nil {
		fmt.Fprintf(b, "  state managed=%v copies=%d every=%v keep=%d\n", x.Managed, x.Copies, x.Every, x.Keep)
	}
	for _, k := range sortedKeys(s.Settings) {
		dumpExpr(b, "dir", s.Settings[k], src, scope)
	}
}

func dumpExpr(b *strings.Builder, kind string, e hcl.Expression, src Source, scope Scope) {
	if e == nil {
		return
	}
	var v any
	var diags Diagnostics
	switch kind {
	case "command":
		v, diags = EvalStrings(e, scope)
	case "env":
		v, diags = EvalStringMap(e, scope)
	default:
		v, diags = EvalString(e, scope)
	}
	fmt.Fprintf(b, "    %s = %q\n%s", kind, v, diags.Text(src, 0, false))
}

// testScope places a service and two instances of everything it links to.
func testScope(m *Model, s *Service) Scope {
	sc := Scope{Host: "10.0.0.1", Node: "n1", Service: s.Name, Ports: testPorts(s), Deps: map[string][]DepScope{}, NodeAttrs: map[string]string{"zone": "a"}}
	for _, links := range []map[string]string{s.DependsOn, s.ConnectsTo} {
		for alias, target := range links {
			t := m.Service(target)
			for i := 1; i <= 2; i++ {
				d := DepScope{Host: fmt.Sprintf("10.0.0.%d", i), Node: fmt.Sprintf("n%d", i), Service: target, Ports: testPorts(t)}
				d.Outputs = ModuleOutputs(t.Type, "default", target, nil, "/data")
				sc.Deps[alias] = append(sc.Deps[alias], d)
			}
		}
	}
	return sc
}

func testPorts(s *Service) map[string]int {
	out := map[string]int{}
	for i, p := range s.Ports {
		if out[p.Name] = p.Number; p.Number == 0 {
			out[p.Name] = 8000 + i
		}
	}
	return out
}

var topLevel = regexp.MustCompile(`(?m)^}\n`)

// shuffled puts the blocks of a model in another order and into other files.
func shuffled(src Source, r *rand.Rand) Source {
	var blocks []string
	out := Source{Files: map[string][]byte{}}
	for name, text := range src.Files {
		if strings.HasSuffix(name, ".json") {
			out.Files[fmt.Sprintf("%d.hcl.json", r.IntN(1000))] = text
			continue
		}
		rest := string(text)
		for loc := topLevel.FindStringIndex(rest); loc != nil; loc = topLevel.FindStringIndex(rest) {
			blocks, rest = append(blocks, rest[:loc[1]]), rest[loc[1]:]
		}
		blocks = append(blocks, rest)
	}
	r.Shuffle(len(blocks), func(i, j int) { blocks[i], blocks[j] = blocks[j], blocks[i] })
	for _, b := range blocks {
		name := fmt.Sprintf("%c.hcl", 'a'+r.IntN(4))
		out.Files[name] = append(out.Files[name], b+"\n"...)
	}
	return out
}

func TestOrderMeansNothing(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for _, path := range cases(t, "good") {
		src := readCase(t, path)
		m, _ := Parse(src, testKnown())
		want := dump(m, src)
		for range 30 {
			other := shuffled(src, r)
			m, diags := Parse(other, testKnown())
			if m == nil {
				t.Fatalf("%s refused:\n%s", path, diags.Text(other, 0, false))
			}
			if diff := cmp.Diff(want, dump(m, other)); diff != "" {
				t.Fatalf("%s in another order:\n%s", path, diff)
			}
		}
	}
}

// TestOrderMeansNothingToProblems: the same is wrong, whatever the order. Syntax errors are of a file, so left out.
func TestOrderMeansNothingToProblems(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(1, 2))
	for name, path := range cases(t, "broken") {
		if strings.HasPrefix(name, "syntax") || strings.HasSuffix(name, ".json") || name == "empty.txtar" || name == "not-utf8.hcl" {
			continue
		}
		src := readCase(t, path)
		_, diags := Parse(src, testKnown())
		want := summaries(diags)
		for range 10 {
			other := shuffled(src, r)
			_, diags := Parse(other, testKnown())
			if diff := cmp.Diff(want, summaries(diags)); diff != "" {
				t.Fatalf("%s in another order:\n%s", path, diff)
			}
		}
	}
}

func summaries(diags Diagnostics) []string {
	var out []string
	for _, d := range diags {
		out = append(out, d.Summary+" | "+d.Hint)
	}
	slices.Sort(out)
	return out
}

func TestParseIsRepeatable(t *testing.T) {
	t.Parallel()
	for _, path := range cases(t, "broken") {
		src := readCase(t, path)
		_, want := Parse(src, testKnown())
		for range 5 {
			if _, got := Parse(src, testKnown()); cmp.Diff(want, got) != "" {
				t.Fatalf("%s:\n%s", path, cmp.Diff(want, got))
			}
		}
	}
}

func TestLimits(t *testing.T) {
	t.Parallel()
	big := Source{Files: map[string][]byte{"a.hcl": make([]byte, MaxSourceBytes/2), "b.hcl": make([]byte, MaxSourceBytes/2+1)}}
	_, diags := Parse(big, testKnown())
	if len(diags) != 1 || !strings.Contains(diags[0].Summary, "bytes, more than") {
		t.Errorf("too large: %v", diags)
	}
	var many strings.Builder
	for i := range MaxServices + 1 {
		fmt.Fprintf(&many, "service s%d {}\n", i)
	}
	_, diags = Parse(Source{Files: map[string][]byte{"a.hcl": []byte(many.String())}}, testKnown())
	if len(diags) != 1 || !strings.Contains(diags[0].Summary, "more than the 20000 services") {
		t.Errorf("too many services: %v", diags)
	}
}

// TestManyProblems: a file full of mistakes is answered briefly and in time, suggestions included.
func TestManyProblems(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for i := range 500 {
		fmt.Fprintf(&b, "service s%d {\n type=\"proces\"\n depends_on=[\"t%d\"]\n zzz = 1\n}\n", i, i)
	}
	src := Source{Files: map[string][]byte{"a.hcl": []byte(b.String())}}
	_, diags := Parse(src, testKnown())
	if len(diags) != maxDiagnostics+1 || !strings.Contains(diags[maxDiagnostics].Summary, "more problems") {
		t.Errorf("got %d diagnostics", len(diags))
	}
	if text := diags.Text(src, 80, true); len(text) > 100_000 {
		t.Errorf("the text has %d bytes", len(text))
	}
}

// TestLongChain: a long chain is followed without recursion, and its end found.
func TestLongChain(t *testing.T) {
	t.Parallel()
	const n = 2000
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "service s%d {\ntype=\"process\"\ndepends_on=[\"s%d\"]\nrun{\ncommand=[\"x\"]\n}\n}\n", i, (i+1)%n)
	}
	_, diags := Parse(Source{Files: map[string][]byte{"a.hcl": []byte(b.String())}}, testKnown())
	if len(diags) != 1 || !strings.HasPrefix(diags[0].Summary, "services wait for each other: s0 -> s1 -> s2") || len(diags[0].Related) != 20 {
		t.Fatalf("got %v", diags)
	}
}

func FuzzParse(f *testing.F) {
	for _, dir := range []string{"good", "broken"} {
		for _, path := range cases(f, dir) {
			for name, text := range readCase(f, path).Files {
				f.Add(text, strings.HasSuffix(name, ".json"))
			}
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, inJSON bool) {
		name := "a.hcl"
		if inJSON {
			name = "a.hcl.json"
		}
		src := Source{Files: map[string][]byte{name: text}}
		m, diags := parseSource(src, testKnown()) // without the net under Parse
		if (m == nil) != diags.HasErrors() {
			t.Fatalf("model %v with %v", m, diags)
		}
		if len(diags) > maxDiagnostics+1 {
			t.Fatalf("%d diagnostics", len(diags))
		}
		if rendered := diags.Text(src, 80, false); strings.ContainsFunc(rendered, func(r rune) bool { return r < ' ' && r != '\n' || r == 0x7f }) {
			t.Fatalf("control characters in %q", rendered)
		}
		if m != nil {
			for _, s := range m.Services {
				dumpService(&strings.Builder{}, m, s, src)
			}
		}
	})
}

// thousand is a model of n services in chains of ten.
func thousand(n int) Source {
	var b strings.Builder
	for i := range n {
		dep := ""
		if i%10 > 0 {
			dep = fmt.Sprintf("depends_on = { before = \"service-%d\" }", i-1)
		}
		fmt.Fprintf(&b, `service "service-%d" {
  type    = "process"
  package = "./package"
  %s
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/service", "--port", self.port.http]
    env = {
      HOST   = self.host
      PORT   = self.port.http
      BEFORE = "%s"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
}
`, i, dep, map[bool]string{true: "${dep.before.host}:${dep.before.port.http}"}[dep != ""])
	}
	return Source{Files: map[string][]byte{"services.hcl": []byte(b.String())}}
}

func BenchmarkParse(b *testing.B) {
	src := thousand(1000)
	b.SetBytes(int64(len(src.Files["services.hcl"])))
	b.ReportAllocs()
	for b.Loop() {
		if _, diags := Parse(src, testKnown()); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}

func BenchmarkEval(b *testing.B) {
	m, _ := Parse(thousand(2), testKnown())
	s := m.Services[1]
	scope := testScope(m, s)
	b.ReportAllocs()
	for b.Loop() {
		if _, diags := EvalStringMap(s.Run.Env, scope); diags.HasErrors() {
			b.Fatal(diags)
		}
	}
}
