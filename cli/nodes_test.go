package cli

import (
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func TestArgumentsAreCounted(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	for _, args := range [][]string{{"drain"}, {"drain", "a", "b"}, {"remove"}, {"whatif", "down"}, {"snapshots", "export"}, {"restore", "a", "b"}} {
		if got := invoke(t, n, args); got.code != 2 {
			t.Errorf("%v: exit %d: %s", args, got.code, got.err)
		}
	}
}

func TestDrainAsksAndWaits(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("POST /v1/whatif", []api.Plan{{System: "default", Base: 3, Changes: []api.Change{{Action: "move", Service: "db", Node: "n1", From: "n2", Reasons: []string{"node n2 is drained"}}}}})
	n.answer("POST /v1/drain", api.Node{ID: "x", Name: "n2"})
	n.answer("GET /v1/status", api.Status{System: "default", Settled: true, Instances: []api.Instance{{Service: "db", Node: "n1", Phase: "active"}}})
	if got := invoke(t, n, []string{"drain", "n2"}); got.code != 2 {
		t.Errorf("without a terminal: exit %d: %s", got.code, got.err)
	}
	got := invoke(t, n, []string{"drain", "n2", "--yes"})
	if got.code != 0 {
		t.Fatalf("exit %d: %s", got.code, got.err)
	}
	wantContains(t, got.out+got.err, "node n2 is drained", "Nothing is left on n2.")
}
