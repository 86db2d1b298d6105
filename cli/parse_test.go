package cli

import (
	"path/filepath"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

const smallModel = `
service "web" {
  type    = "process"
  package = "./web"
  run {
    command = ["./run"]
  }
}
`

func TestDeployReadsTheModel(t *testing.T) {
	t.Parallel()
	n, _ := storeNode(t)
	n.answer("POST /v1/plan", api.Plan{System: "default", Base: 0, Digest: "d", Changes: []api.Change{{Action: "start", Service: "web", Node: "n1"}}})
	n.answer("POST /v1/deploy", api.DeployReply{System: "default", Generation: 7, Intent: 5})
	n.stream("GET /v1/watch", settledEvents()...)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"services.hcl": smallModel, "web/run": "#!/bin/sh\n"})
	got := invoke(t, n, []string{"deploy", "--yes", dir})
	got.want(t, 0)
	wantContains(t, got.out, "Sent ", "start  web  n1", "Settled")
	got = invoke(t, n, []string{"plan", dir})
	got.want(t, 0)
	wantContains(t, got.out, "1 to start.")
	if n.asked("POST /v1/deploy") != 1 {
		t.Error("plan deployed")
	}
}

func TestBrokenModel(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"services.hcl": "service \"web\" {\n  type = \"process\"\n  depends_on = {\n}\n"})
	got := invoke(t, n, []string{"deploy", "--yes", dir})
	got.want(t, 1)
	wantContains(t, got.err, "isonomia: the model has 1 problem\n", "services.hcl")
	got = invoke(t, n, []string{"plan", "--json", filepath.Join(dir)})
	got.want(t, 1)
	wantContains(t, got.out, `"code":"invalid_model"`, `"where":"services.hcl:`, `"diagnostics":[`)
	if len(n.requests) > 0 {
		t.Errorf("asked the node: %v", n.requests)
	}
}

func TestModelThatTheNodeRefuses(t *testing.T) {
	t.Parallel()
	n, _ := storeNode(t)
	n.refuse("POST /v1/plan", api.Error{Code: api.CodeInvalidModel, Message: "a\nb", Diagnostics: []string{"Error: no node fits\n", "Error: other\n"}})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"services.hcl": smallModel, "web/run": "x"})
	got := invoke(t, n, []string{"plan", dir})
	got.want(t, 1)
	wantContains(t, got.err, "the model has 2 problems\n\nError: no node fits\n\nError: other\n")
}
