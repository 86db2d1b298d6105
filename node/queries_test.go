package node

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// What is asked of all nodes says which of them did not answer, and knows their names.
func TestAnswersOfAllNodes(t *testing.T) {
	t.Parallel()
	n1 := startNode(t, "n1", nil)
	n2 := startNode(t, "n2", n1)
	n1.deploy(`
service "sleeper" {
  type = "process"
  run {
    command = ["/bin/sleep", "1000"]
  }
}
`, nil)
	n2.stop()
	await(t, 30*time.Second, func() string {
		var unanswered []string
		query := api.EventQuery{Tail: 10, Unanswered: func(nodes []string) { unanswered = nodes }}
		for _, err := range n1.Events(t.Context(), query) {
			if err != nil {
				return err.Error()
			}
		}
		if !slices.Equal(unanswered, []string{"n2"}) {
			return "unanswered: " + strings.Join(unanswered, ", ")
		}
		return ""
	})
	for _, query := range []api.LogQuery{{Service: "sleeper", Node: "n9"}, {Service: "sleeper", System: "a/b"}} {
		var failed error
		for _, err := range n1.Logs(t.Context(), query) {
			failed = err
		}
		if code := api.CodeOf(failed); code != api.CodeNotFound && code != api.CodeUsage {
			t.Errorf("%+v: %v", query, failed)
		}
	}
	unasked := func(nodes []string) { t.Errorf("asked more than one: %q", nodes) }
	for _, err := range n1.Logs(t.Context(), api.LogQuery{Service: "sleeper", Node: "n1", Unanswered: unasked}) {
		if err != nil {
			t.Error(err)
		}
	}
	if _, err := n1.Plan(t.Context(), api.PlanRequest{System: "../x", Kind: "undeploy"}); api.CodeOf(err) != api.CodeUsage {
		t.Errorf("a path is planned as a system: %v", err)
	}
}
