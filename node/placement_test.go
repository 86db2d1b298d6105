package node

import (
	"errors"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// A plan of a real cluster says why a service goes where it goes, by the facts that nodes announced and the model.
func TestPlanExplains(t *testing.T) {
	t.Parallel()
	a := startNode(t, "a", nil)
	startNode(t, "b", a)
	text := "service \"idle\" {\n type = \"process\"\n run {\n command = [\"/bin/sleep\", \"1000\"]\n }\n resources {\n memory = \"1MiB\"\n }\n" +
		" constraint {\n attribute = \"zone\"\n value = \"east\"\n }\n}\nnode \"a\" {}\nnode \"b\" {\n properties = { zone = \"east\" }\n}\n"
	req := api.PlanRequest{Kind: model.KindDeploy, Files: map[string][]byte{"s.hcl": []byte(text)}, Explain: []string{"*"}}
	plan, err := a.Plan(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if len(plan.Changes) != 1 || plan.Changes[0].Node != "b" || len(plan.Placements) != 1 {
		t.Fatalf("%+v", plan)
	}
	p := plan.Placements[0]
	if len(p.On) != 1 || p.On[0].Node != "b" || p.On[0].Why == "" || len(p.Not) != 1 || p.Not[0] != (api.NodeReason{Node: "a", Why: "constraint zone = east: it has no zone"}) {
		t.Errorf("%+v", p)
	}
	req.Explain = []string{"nobody"}
	if _, err := a.Plan(t.Context(), req); api.CodeOf(err) != api.CodeNotFound {
		t.Errorf("%v", err)
	}
	req.Files["s.hcl"] = []byte(strings.Replace(text, "1MiB", "900TiB", 1))
	var refused *api.Error
	if _, err := a.Plan(t.Context(), req); !errors.As(err, &refused) || refused.Code != api.CodeInvalidModel || !strings.Contains(strings.Join(refused.Diagnostics, ""), "no room: it needs") {
		t.Errorf("%v", err)
	}
}
