package cli

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// deployNode is a fake node that accepts a rollback after a number of refusals and then streams events.
type deployNode struct {
	*fakeNode
	mu        sync.Mutex
	refusals  []api.Error // given first, in order
	proposals []api.DeployRequest
}

func newDeployNode(t *testing.T, refusals []api.Error, events ...any) *deployNode {
	t.Helper()
	n := &deployNode{fakeNode: newFakeNode(t), refusals: refusals}
	n.answer("POST /v1/plan", api.Plan{System: "default", Base: 6, Digest: "d", Changes: []api.Change{{Action: "restart", Service: "web", Node: "n1", Reasons: []string{"rollback"}}}})
	n.mux.HandleFunc("POST /v1/deploy", func(w http.ResponseWriter, r *http.Request) {
		var req api.DeployRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		n.proposals = append(n.proposals, req)
		if len(n.refusals) > 0 {
			e := n.refusals[0]
			n.refusals = n.refusals[1:]
			writeError(w, e)
			return
		}
		json.NewEncoder(w).Encode(api.DeployReply{System: "default", Generation: 7, Intent: 5})
	})
	if len(events) > 0 {
		n.stream("GET /v1/watch", events...)
	}
	return n
}

func watchEvent(outcome, why string, done bool, instances ...api.Instance) api.WatchEvent {
	return api.WatchEvent{Outcome: outcome, Why: why, Done: done, Status: api.Status{System: "default", Generation: 7, Settled: done, Instances: instances}}
}

func instance(service, node, phase string) api.Instance {
	return api.Instance{Service: service, Node: node, Phase: phase, Generation: 7, Row: service + "@" + node}
}

func settledEvents() []any {
	return []any{
		watchEvent("running", "", false, instance("staff", "n1", "prepared"), instance("web", "n2", "planned")),
		watchEvent("running", "", false, instance("staff", "n1", "starting"), instance("web", "n2", "planned")),
		watchEvent("running", "", false, instance("staff", "n1", "active"), instance("web", "n2", "starting")),
		watchEvent("settled", "", true, instance("staff", "n1", "active"), instance("web", "n2", "active")),
	}
}

func TestRollbackSettles(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil, settledEvents()...)
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes", "--to", "4", "--why", "page is broken"})
	got.want(t, 0)
	wantContains(t, got.out, "Plan for system default", "Accepted as generation 7.", "  staff on n1: starting\n", "  staff on n1: active\n",
		"  web on n2: starting\n", "  web on n2: active\n", "Settled: generation 7, 2 active instances, in ")
	if strings.Contains(got.out, "prepared") || strings.Contains(got.out, "[y/N]") {
		t.Errorf("says too much:\n%s", got.out)
	}
	req := n.proposals[0]
	if req.Kind != "rollback" || req.To != 4 || req.Base != 6 || req.Digest != "d" || req.Why != "page is broken" || len(req.Proposal) != 32 || !strings.Contains(req.By, "@") {
		t.Errorf("proposed %+v", req)
	}
}

func TestResultAsJSON(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil, settledEvents()...)
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes", "--json"})
	got.want(t, 0)
	var result map[string]any
	if err := json.Unmarshal([]byte(got.out), &result); err != nil {
		t.Fatalf("%v in %q", err, got.out)
	}
	if result["generation"] != 7.0 || result["outcome"] != "settled" || result["unchanged"] != false {
		t.Errorf("got %v", result)
	}
	wantContains(t, got.err, "web on n2: active")
}

func TestQuestion(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]int{"y\n": 0, "YES\n": 0, "n\n": 1, "\n": 1, "": 1, "yep\n": 1} {
		n := newDeployNode(t, nil, settledEvents()...)
		got := invoke(t, n.fakeNode, []string{"rollback"}, asTerminal(answer))
		got.want(t, want)
		wantContains(t, got.err, "Roll back? [y/N] ")
		if agreed := len(n.proposals) > 0; agreed != (want == 0) {
			t.Errorf("%q: proposed %v", answer, agreed)
		}
	}
}

func TestStaleIsPlannedAgain(t *testing.T) {
	t.Parallel()
	stale := api.Error{Code: api.CodeStale, Message: "generation 7 was made meanwhile"}
	t.Run("yes retries", func(t *testing.T) {
		t.Parallel()
		n := newDeployNode(t, []api.Error{stale, stale, stale}, settledEvents()...)
		got := invoke(t, n.fakeNode, []string{"rollback", "--yes"})
		got.want(t, 0)
		wantContains(t, got.out, "Somebody else deployed meanwhile.")
		if n.asked("POST /v1/plan") != 4 || len(n.proposals) != 4 {
			t.Errorf("%d plans, %d proposals", n.asked("POST /v1/plan"), len(n.proposals))
		}
		if n.proposals[0].Proposal == n.proposals[1].Proposal {
			t.Error("a fresh plan was proposed under the old id")
		}
	})
	t.Run("yes gives up", func(t *testing.T) {
		t.Parallel()
		n := newDeployNode(t, []api.Error{stale, stale, stale, stale, stale})
		got := invoke(t, n.fakeNode, []string{"rollback", "--yes", "--json"})
		got.want(t, 1)
		wantContains(t, got.out, `"code":"stale"`)
		if len(n.proposals) != 4 {
			t.Errorf("%d proposals", len(n.proposals))
		}
	})
	t.Run("asks again", func(t *testing.T) {
		t.Parallel()
		n := newDeployNode(t, []api.Error{stale, stale, stale, stale}, settledEvents()...)
		got := invoke(t, n.fakeNode, []string{"rollback"}, asTerminal("y\ny\ny\ny\nn\n"))
		got.want(t, 1)
		if asked := strings.Count(got.err, "Roll back?"); asked != 5 {
			t.Errorf("asked %d times", asked)
		}
		if shown := strings.Count(got.out, "Plan for system"); shown != 5 {
			t.Errorf("shown %d times", shown)
		}
	})
}

func TestLostReplyIsAskedForAgain(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, []api.Error{{Code: api.CodeNoQuorum, Message: "no leader"}, {Code: api.CodeUnreachable, Message: "leader died"}}, settledEvents()...)
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes"})
	got.want(t, 0)
	if len(n.proposals) != 3 || n.proposals[0].Proposal != n.proposals[2].Proposal {
		t.Errorf("proposals %+v", n.proposals)
	}
}

func TestNoQuorumForGood(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil)
	n.refusals = slices.Repeat([]api.Error{{Code: api.CodeNoQuorum, Message: "no leader"}}, 1000)
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes"})
	got.want(t, 3)
	wantContains(t, got.err, "no leader; it is not known whether the change was accepted", "isonomia history")
}

func TestRolledBack(t *testing.T) {
	t.Parallel()
	failed := instance("web", "n2", "failed")
	failed.Reason, failed.Attempts, failed.Output = "exit status 1", 3, "cannot open database\n"
	events := []any{
		watchEvent("running", "", false, instance("web", "n2", "starting")),
		watchEvent("rolled_back", "web on n2: exit status 1", false, failed),
		watchEvent("rolled_back", "web on n2: exit status 1", true, instance("web", "n1", "active")),
	}
	got := invoke(t, newDeployNode(t, nil, events...).fakeNode, []string{"rollback", "--yes"})
	got.want(t, 4)
	wantContains(t, got.out, "rolled back: web on n2: exit status 1; going back")
	wantContains(t, got.err, "isonomia: rollback was rolled back: web on n2: exit status 1", "Its last output:\n  | cannot open database\n", "isonomia logs web")
	got = invoke(t, newDeployNode(t, nil, events...).fakeNode, []string{"rollback", "--yes", "--json"})
	got.want(t, 4)
	wantContains(t, got.out, `"code":"rolled_back"`, `"where":"web on n2"`, `"output":"cannot open database\n"`)
}

func TestOtherOutcomes(t *testing.T) {
	t.Parallel()
	for outcome, want := range map[string]int{"superseded": 1, "aborted": 1, "stuck": 1, "from the future": 1} {
		got := invoke(t, newDeployNode(t, nil, watchEvent(outcome, "because", true)).fakeNode, []string{"rollback", "--yes"})
		got.want(t, want)
		wantContains(t, got.err, "because")
	}
}

func TestUnchanged(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("POST /v1/plan", api.Plan{System: "default", Base: 6, Digest: "d", Empty: true})
	n.answer("POST /v1/deploy", api.DeployReply{System: "default", Generation: 6, Intent: 4, Unchanged: true})
	n.answer("GET /v1/status", api.Status{System: "default", Generation: 6, Settled: true})
	got := invoke(t, n, []string{"rollback"}, asTerminal(""))
	got.want(t, 0)
	wantContains(t, got.out, "Unchanged: generation 6 is just this. Nothing was done.")
	if n.asked("GET /v1/watch") != 0 {
		t.Error("watched what was settled")
	}
}

func TestUnchangedButUnderWay(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("POST /v1/plan", api.Plan{System: "default", Base: 7, Digest: "d", Empty: true})
	n.answer("POST /v1/deploy", api.DeployReply{System: "default", Generation: 7, Intent: 5, Unchanged: true})
	n.answer("GET /v1/status", api.Status{System: "default", Generation: 7, Outcome: "running"})
	n.stream("GET /v1/watch", settledEvents()...)
	got := invoke(t, n, []string{"rollback", "--yes"})
	got.want(t, 0)
	wantContains(t, got.out, "is under way", "Settled: generation 7")
}

func TestNoWait(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil)
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes", "--no-wait", "--json"})
	got.want(t, 0)
	wantContains(t, got.out, `"outcome": "running"`)
}

// hang answers with one event and then nothing, until the client goes.
func (n *deployNode) hang(started chan<- struct{}) {
	n.mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(watchEvent("running", "", false, instance("web", "n1", "starting")))
		w.(http.Flusher).Flush()
		started <- struct{}{}
		<-r.Context().Done()
	})
}

func TestTimeoutEndsTheWatching(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil)
	n.hang(make(chan struct{}, 10))
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes", "--timeout", "50ms"})
	got.want(t, 1)
	wantContains(t, got.err, "has not settled within 50ms; it goes on", "isonomia status")
}

func TestInterruptEndsTheWatching(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil)
	started := make(chan struct{}, 10)
	n.hang(started)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-started; cancel() }()
	got := invokeContext(ctx, n.fakeNode, []string{"rollback", "--yes"})
	got.want(t, 1)
	wantContains(t, got.err, "stopped watching; generation 7 is still being deployed", "isonomia abort")
	if n.asked("POST /v1/abort") != 0 {
		t.Error("Ctrl-C aborted")
	}
}

func TestBrokenWatchIsTakenUpAgain(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil)
	calls := 0
	n.mux.HandleFunc("GET /v1/watch", func(w http.ResponseWriter, _ *http.Request) {
		if calls++; calls == 1 {
			json.NewEncoder(w).Encode(watchEvent("running", "", false, instance("web", "n1", "starting")))
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		json.NewEncoder(w).Encode(watchEvent("settled", "", true, instance("web", "n1", "active")))
	})
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes"})
	got.want(t, 0)
	wantContains(t, got.out, "broke; trying again", "The node answers again.", "web on n1: active", "Settled")
}

func TestNodeThatStaysAway(t *testing.T) {
	t.Parallel()
	n := newDeployNode(t, nil)
	n.mux.HandleFunc("GET /v1/watch", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	got := invoke(t, n.fakeNode, []string{"rollback", "--yes"})
	got.want(t, 3)
	wantContains(t, got.err, "the deployment goes on without it", "isonomia status --node SOCKET")
}

func TestUndeployOfUnknownService(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/status", api.Status{System: "default", Instances: []api.Instance{{Service: "staff"}}})
	got := invoke(t, n, []string{"undeploy", "--yes", "staf"})
	got.want(t, 1)
	wantContains(t, got.err, `has no service "staf"`, `did you mean "staff"?`)
}

func TestAbort(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/history", []api.HistoryEntry{{Generation: 6, Intent: 4, Outcome: "settled"}, {Generation: 7, Intent: 5, Outcome: "running"}})
	n.answer("POST /v1/abort", struct{}{})
	n.stream("GET /v1/watch", watchEvent("aborted", "by alice", false), watchEvent("aborted", "by alice", true))
	got := invoke(t, n, []string{"abort"})
	got.want(t, 0)
	wantContains(t, got.out, "Aborting generation 7.", "Aborted; generation 7 runs.")
}

func TestAbortOfNothing(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/history", []api.HistoryEntry{{Generation: 6, Intent: 4, Outcome: "settled"}})
	got := invoke(t, n, []string{"abort"})
	got.want(t, 1)
	wantContains(t, got.err, "no deployment of system default is under way", "isonomia rollback")
	if n.asked("POST /v1/abort") != 0 {
		t.Error("aborted all the same")
	}
}

func TestTrackerSaysWhatIsNew(t *testing.T) {
	t.Parallel()
	obsolete := instance("old", "n1", "active")
	obsolete.Obsolete, obsolete.Generation = true, 6
	kept := instance("web", "n1", "active")
	kept.Generation = 8
	var track tracker
	step := func(want string, instances ...api.Instance) {
		t.Helper()
		if got := strings.Join(track.observe(api.Status{Instances: instances}, painter{}), "|"); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	retried := instance("web", "n1", "starting")
	retried.Attempts, retried.Reason = 2, "exit status 1"
	step("", obsolete, instance("web", "n1", "planned"))
	step("", obsolete, instance("web", "n1", "prepared"))
	step("  web on n1: starting", obsolete, instance("web", "n1", "starting"))
	step("  web on n1: starting, exit status 1 (attempt 2)", obsolete, retried)
	step("  web on n1: active", obsolete, instance("web", "n1", "active"))
	step("  old on n1: stopped", instance("web", "n1", "active"))
	step("", kept)
}
