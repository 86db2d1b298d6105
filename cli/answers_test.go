package cli

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// Lines of several nodes are shown without those of nodes that could not be asked, and not as if that were all.
func TestMissingLinesAreNoticed(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/status", api.Status{})
	for _, path := range []string{"GET /v1/logs", "GET /v1/events"} {
		n.mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set(api.UnansweredHeader, "n2,n3") })
	}
	for _, args := range [][]string{{"logs", "web"}, {"logs", "web", "--json"}, {"events"}} {
		got := invoke(t, n, args)
		got.want(t, 0)
		wantContains(t, got.err, "what n2, n3 has is missing")
	}
}

func TestHistoryWithoutLeader(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.mux.HandleFunc("GET /v1/history", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("consistent") != "" {
			writeError(w, api.Error{Code: api.CodeNoQuorum, Message: "no leader answered in time"})
			return
		}
		w.Write([]byte(`[{"generation":7,"kind":"deploy","outcome":"running"}]`))
	})
	got := invoke(t, n, []string{"history"})
	got.want(t, 0)
	wantContains(t, got.out, "7")
	wantContains(t, got.err, "as this node knows it")
	invoke(t, n, []string{"abort"}).want(t, 3) // what is not sure to be under way is not aborted
}

func TestCheckOfANodeThatIsDown(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("POST /v1/check", []api.NodeCheck{{Node: "n1", Objects: 3}, {Node: "n2", Error: "it is down"}})
	got := invoke(t, n, []string{"check"})
	got.want(t, 1)
	wantContains(t, got.err, "no problem found, but not all was read: n2")
	if strings.Contains(got.err, "disk") {
		t.Errorf("a disk is blamed: %s", got.err)
	}
}

func TestWhatIfShowsWhatWouldChange(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	plans := []api.Plan{{System: "idle", Empty: true}, {System: "web", Changes: []api.Change{{Action: "move", Service: "a", Node: "n1", From: "n2", Reasons: []string{"node n2 is down"}}}}}
	n.mux.HandleFunc("POST /v1/whatif", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(plans) })
	got := invoke(t, n, []string{"whatif", "down", "n2"})
	wantContains(t, got.out, "node n2 is down")
	if strings.Contains(got.out, "idle") {
		t.Errorf("it shows what stays: %s", got.out)
	}
	plans = plans[:1]
	wantContains(t, invoke(t, n, []string{"whatif", "down", "n2"}).out, "Nothing would change.")
}

// A plan without changes of instances has no empty table and no empty sum.
func TestPlanOfTextOnly(t *testing.T) {
	t.Parallel()
	got := renderPlan(api.Plan{System: "default", Base: 5, Warnings: []string{"only the model's text changed"}}, painter{}, 80)
	if want := "Plan for system default, which is at generation 5:\nwarning: only the model's text changed\n"; got != want {
		t.Errorf("got %q", got)
	}
}

func TestPortsOfSeveralSystems(t *testing.T) {
	t.Parallel()
	ports := []api.Reservation{{System: "a", Service: "web", Resource: "ports", Number: 1}, {System: "a", Service: "web", Resource: "ports", Number: 2}}
	if got := renderPorts(ports, painter{}, 80); strings.Contains(got, "SYSTEM") {
		t.Errorf("one system: %s", got)
	}
	ports[1].System = "b"
	wantContains(t, renderPorts(ports, painter{}, 80), "SYSTEM", "2       b ")
}

func TestNameOfASystem(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	for _, name := range []string{"../x", "a/b", "A", ""} {
		got := invoke(t, n, []string{"undeploy", "--yes", "--system", name})
		got.want(t, 2)
		wantContains(t, got.err, "cannot be the name of a system")
	}
	if n.asked("POST /v1/plan") > 0 {
		t.Error("the node was asked")
	}
}

// On a terminal that is narrower than the columns nothing is folded: the terminal breaks the lines.
func TestNarrowTable(t *testing.T) {
	t.Parallel()
	var tab table
	tab.head(painter{}, "NAME", "WHY")
	tab.row(plain(strings.Repeat("n", 30)), plain("a reason of several words"))
	if got := tab.render(40); strings.Count(got, "\n") != 2 {
		t.Errorf("got\n%s", got)
	}
	if got := tab.render(50); strings.Count(got, "\n") != 3 {
		t.Errorf("got\n%s", got)
	}
}
