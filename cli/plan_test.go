package cli

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func TestPlanExplains(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text := "service \"web\" {\n type = \"process\"\n run {\n command = [\"/bin/true\"]\n }\n}\n"
	if err := os.WriteFile(filepath.Join(dir, "s.hcl"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	n := newFakeNode(t)
	asked := make(chan []string, 2)
	n.mux.HandleFunc("POST /v1/plan", func(w http.ResponseWriter, r *http.Request) {
		var req api.PlanRequest
		_ = json.NewDecoder(r.Body).Decode(&req)
		asked <- req.Explain
		_ = json.NewEncoder(w).Encode(api.Plan{System: "default", Changes: []api.Change{{Action: "start", Service: "web", Node: "n1", Reasons: []string{"it is new"}}},
			Placements: []api.Placement{{Service: "web", On: []api.NodeReason{{Node: "n1", Why: "it has the fewest instances, 0"}},
				Not: []api.NodeReason{{Node: "n2", Why: "it is down"}, {Node: "n3", Why: "pinned to n1"}, {Node: "n4", Why: "it is down"}}}}})
	})
	got := invoke(t, n, []string{"plan", "--explain", dir})
	got.want(t, 0)
	wantContains(t, got.out, "on   n1      it has the fewest instances, 0", "not  n2, n4  it is down", "not  n3      pinned to n1")
	if services := <-asked; !slices.Equal(services, []string{"*"}) {
		t.Errorf("asked for %v", services)
	}
	invoke(t, n, []string{"plan", "--explain=web,db", dir}).want(t, 0)
	if services := <-asked; !slices.Equal(services, []string{"web", "db"}) {
		t.Errorf("asked for %v", services)
	}
}
