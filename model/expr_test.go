package model

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

func parseExpr(t *testing.T, text string) hcl.Expression {
	t.Helper()
	e, diags := hclsyntax.ParseExpression([]byte(text), "a.hcl", hcl.InitialPos)
	if diags.HasErrors() {
		t.Fatalf("parse %s: %v", text, diags)
	}
	return e
}

func scopeForTests() Scope {
	return Scope{Host: "10.0.0.1", Node: "n1", Service: "web", Ports: map[string]int{"http": 8080, "my-port": 9},
		Deps: map[string][]DepScope{
			"db": {
				{Host: "10.0.0.2", Node: "n2", Service: "postgres", Ports: map[string]int{"sql": 5432}, Outputs: map[string]string{"path": "/data"}},
				{Host: "10.0.0.3", Node: "n3", Service: "postgres", Ports: map[string]int{"sql": 5433}, Outputs: map[string]string{"socket": "/run"}},
			},
			"none": nil,
		},
		NodeAttrs: map[string]string{"zone": "a"}}
}

func TestEvalString(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`self.host`: "10.0.0.1", `self.node`: "n1", `self.service`: "web", `self.port.http`: "8080", `self.port["my-port"]`: "9", `self.port.my-port`: "9",
		`"${self.host}:${self.port.http}"`: "10.0.0.1:8080", `dep.db.host`: "10.0.0.2", `dep.db.port.sql`: "5432", `dep.db.service`: "postgres",
		`dep["db"].host`: "10.0.0.2", `dep.db.path`: "/data", `dep.db.all[1].host`: "10.0.0.3", `join(",", dep.db.all[*].host)`: "10.0.0.2,10.0.0.3",
		`length(dep.none.all)`: "0", `length(dep.db.all)`: "2", `node.name`: "n1", `node.zone`: "a", `true`: "true", `1.5`: "1.5", `-3`: "-3",
		`self.port.http + 1`: "8081", `self.port.http > 8000 ? "high" : "low"`: "high", `format("%s-%d", self.host, 3)`: "10.0.0.1-3",
		`upper("a")`: "A", `replace("a.b", ".", "-")`: "a-b", `trimspace(" a ")`: "a", `lookup({a = "b"}, "c", "d")`: "d", `coalesce("", "x")`: "",
		`tostring(1)`: "1", `tonumber("8")`: "8", `min(1, 2)`: "1", `max(1, 2)`: "2", `lower("A")`: "a", `element(split(",", "a,b"), 1)`: "b",
		`jsonencode(concat(["a"], [1]))`: `["a",1]`, `10000000000`: "10000000000", `""`: "",
	} {
		got, diags := EvalString(parseExpr(t, text), scopeForTests())
		if got != want || len(diags) > 0 {
			t.Errorf("%s: got %q, want %q; %v", text, got, want, diags)
		}
	}
}

func TestEvalStrings(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]string{
		`["a", 1, true, self.port.http]`: {"a", "1", "true", "8080"}, `[]`: nil, `dep.db.all[*].node`: {"n2", "n3"},
		`[for d in dep.db.all : "${d.host}:${d.port.sql}"]`: {"10.0.0.2:5432", "10.0.0.3:5433"}, `concat(["x"], split(" ", "-v -w"))`: {"x", "-v", "-w"},
		`dep.none.all[*].host`: nil,
	} {
		got, diags := EvalStrings(parseExpr(t, text), scopeForTests())
		if diff := cmp.Diff(want, got); diff != "" || len(diags) > 0 {
			t.Errorf("%s: %s %v", text, diff, diags)
		}
	}
}

func TestEvalStringMap(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]map[string]string{
		`{ PORT = self.port.http, "A${1}" = true, (self.host) = "x", GONE = null }`: {"PORT": "8080", "A1": "true", "10.0.0.1": "x"},
		`merge({ A = "a" }, { B = "b" })`:                                           {"A": "a", "B": "b"}, `{ for d in dep.db.all : d.node => d.host }`: {"n2": "10.0.0.2", "n3": "10.0.0.3"}, `{}`: {},
		`self.port.http > 1 ? { A = "a" } : { A = "b" }`: {"A": "a"},
	} {
		got, diags := EvalStringMap(parseExpr(t, text), scopeForTests())
		if diff := cmp.Diff(want, got); diff != "" || len(diags) > 0 {
			t.Errorf("%s: %s %v", text, diff, diags)
		}
	}
}

// TestEvalErrors: each names its column and a way out.
func TestEvalErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`self.hots`:                `a.hcl:1:1: service "web" has no attribute "hots" | Did you mean "host"?`,
		`"x${self.port.htp}"`:      `a.hcl:1:5: service "web" has no port "htp" | Did you mean "http"?`,
		`dep.db.hosts`:             `a.hcl:1:1: dependency "db" (service "postgres") has no attribute "hosts" | Did you mean "host"?`,
		`dep.db.port.sq`:           `a.hcl:1:1: service "postgres" has no port "sq" | Did you mean "sql"?`,
		`dep.dbb.host`:             `a.hcl:1:1: service "web" has no dependency "dbb" | Did you mean "db"?`,
		`dep.postgres.host`:        `a.hcl:1:1: service "web" has no dependency "postgres" | Service "postgres" is dep.db here.`,
		`dep.none.host`:            `a.hcl:1:1: dependency "none" has no instance | Look at where it is placed, or ask for dep.none.all, which may be empty.`,
		`node.zoen`:                `a.hcl:1:1: node "n1" has no attribute "zoen" | Did you mean "zone"? Or give it one: node "n1" { properties = { zoen = ... } }.`,
		`secret.password`:          `a.hcl:1:1: secret. is reserved: secrets are not available yet | Until they are, put the value in a file on the nodes and give the program its path.`,
		`["a", slef.host][1]`:      `a.hcl:1:7: unknown name "slef" | Did you mean "self"?`,
		`[self.host]`:              `a.hcl:1:1: a list where a string is needed | Make one string of it, as join(",", ...) does.`,
		`null`:                     `a.hcl:1:1: null where a string is needed | Give it a value, or leave it out.`,
		`jion(",", ["a"])`:         `a.hcl:1:1: there is no function "jion" | Did you mean "join"?`,
		`dep.db.all[5].host`:       `a.hcl:1:11: invalid index | Use an element that it has.`,
		`tonumber("1e2000000000")`: `a.hcl:1:1: the number is too large or too small | Write a number that a program would understand.`,
	} {
		_, diags := EvalString(parseExpr(t, text), scopeForTests())
		if len(diags) != 1 {
			t.Errorf("%s: %v", text, diags)
			continue
		}
		if got := diags.Error() + " | " + diags[0].Hint; got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", text, got, want)
		}
	}
	if _, diags := EvalStrings(parseExpr(t, `"a"`), scopeForTests()); !diags.HasErrors() {
		t.Error("a string is no list")
	}
	if _, diags := EvalStringMap(parseExpr(t, `["a"]`), scopeForTests()); !diags.HasErrors() {
		t.Error("a list is no map")
	}
}

// TestDryRunAgrees: what the check before placement accepts can be evaluated after it.
func TestDryRunAgrees(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		`length(dep.db.all) > 1 ? dep.db.all[1].host : "none"`, `join(",", [for i, d in dep.db.all : "${i}=${d.host}" if d.node != self.node])`,
		`dep.db.all[0].port.sql`, `element(dep.db.all, 0).host`, `jsonencode(dep.db)`, `lookup(dep.db.port, "sql", 0)`, `self.port[join("", ["ht", "tp"])]`,
		`coalesce(node.zone, "x")`, `dep[lower("DB")].host`, `max([for d in dep.db.all : d.port.sql]...)`, `keys(self.port)[0]`,
	} {
		src := Source{Files: map[string][]byte{"a.hcl": []byte(strings.ReplaceAll(`
service "postgres" {
  type = "process"
  port "sql" {}
  run { command = ["x"] }
}
service "web" {
  type       = "process"
  depends_on = { db = "postgres" }
  port "http" {}
  run { command = ["x", EXPR] }
}`, "EXPR", text))}}
		m, diags := Parse(src, testKnown())
		if m == nil {
			t.Errorf("%s:\n%s", text, diags.Text(src, 0, false))
			continue
		}
		s := m.Service("web")
		if _, diags := EvalStrings(s.Run.Command, testScope(m, s)); diags.HasErrors() {
			t.Errorf("%s: accepted, and then %v", text, diags)
		}
	}
}
