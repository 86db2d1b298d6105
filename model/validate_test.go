package model

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
)

// TestCyclesAreFound compares with a search by removal: a graph has a cycle if something is left once everything
// that waits for nothing has been taken away. What is told must be a cycle of the graph.
func TestCyclesAreFound(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	found := 0
	for range 300 {
		n := 1 + r.IntN(8)
		edges := map[string]map[string]string{} // from -> to -> relation
		for i := range n {
			to := map[string]string{}
			for j := range n {
				if r.IntN(n*2) == 0 {
					to[fmt.Sprintf("s%d", j)] = []string{"depends_on", "activates_after", "connects_to"}[r.IntN(3)]
				}
			}
			edges[fmt.Sprintf("s%d", i)] = to
		}
		_, diags := Parse(graphSource(edges), testKnown())
		if diags.HasErrors() != hasCycle(edges) {
			t.Fatalf("%v: got %v", edges, diags)
		}
		for _, d := range diags {
			found++
			checkCycle(t, edges, d)
		}
	}
	if found < 30 {
		t.Errorf("only %d cycles: the test sees too little", found)
	}
}

func graphSource(edges map[string]map[string]string) Source {
	var b strings.Builder
	for from, to := range edges {
		fmt.Fprintf(&b, "service %q {\n  type = \"process\"\n  run { command = [\"x\"] }\n", from)
		byRelation := map[string][]string{}
		for name, relation := range to {
			byRelation[relation] = append(byRelation[relation], fmt.Sprintf("%q", name))
		}
		for relation, names := range byRelation {
			fmt.Fprintf(&b, "  %s = [%s]\n", relation, strings.Join(names, ", "))
		}
		b.WriteString("}\n")
	}
	return Source{Files: map[string][]byte{"a.hcl": []byte(b.String())}}
}

func hasCycle(edges map[string]map[string]string) bool {
	left := map[string]bool{}
	for from := range edges {
		left[from] = true
	}
	for removed := true; removed; {
		removed = false
		for from := range left {
			waits := false
			for to, relation := range edges[from] {
				waits = waits || left[to] && relation != "connects_to"
			}
			if !waits {
				delete(left, from)
				removed = true
			}
		}
	}
	return len(left) > 0
}

func checkCycle(t *testing.T, edges map[string]map[string]string, d Diagnostic) {
	t.Helper()
	_, path, ok := strings.Cut(d.Summary, "each other: ")
	if !ok {
		name := strings.Split(d.Summary, `"`)[1]
		path = name + " -> " + name
	}
	names := strings.Split(path, " -> ")
	if names[0] != names[len(names)-1] || ok && len(d.Related) != len(names)-1 {
		t.Errorf("not a cycle: %s with %v", d.Summary, d.Related)
	}
	for i, to := range names[1:] {
		if relation := edges[names[i]][to]; relation == "" || relation == "connects_to" {
			t.Errorf("%s: %s does not wait for %s", d.Summary, names[i], to)
		}
	}
}

func TestParseDoesNotShareState(t *testing.T) {
	t.Parallel()
	src := thousand(20)
	a, _ := Parse(src, testKnown())
	b, _ := Parse(src, testKnown())
	a.Services[0].Ports[0].Number = 1
	a.Distribution.Pin["x"] = []string{"y"}
	if b.Services[0].Ports[0].Number == 1 || len(b.Distribution.Pin) > 0 {
		t.Error("two models share memory")
	}
}
