package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func before(d time.Duration) time.Time { return epoch.Add(-d) }

func samplePlan() api.Plan {
	return api.Plan{
		System: "default", Base: 6, Digest: "d6", Fetch: 3_200_000,
		Changes: []api.Change{
			{Action: "start", Service: "homework", Node: "n2", Reasons: []string{"new in the model"}},
			{Action: "restart", Service: "staff", Node: "n1", Reasons: []string{"package changed", "env of run changed: STAFF_DB is resolved to another path on this node"}},
			{Action: "restart", Service: "stafftracker-frontend", Node: "n3", Reasons: []string{"its dependency staff is replaced"}},
			{Action: "move", Service: "zipcodes", Node: "n3", From: "n2", Reasons: []string{"n2 is down"}},
			{Action: "retry", Service: "rooms", Node: "n1", Reasons: []string{"failed before"}},
			{Action: "stop", Service: "old", Node: "n1", Reasons: []string{"no longer in the model"}},
			{Action: "keep", Service: "proxy", Node: "n1"},
			{Action: "keep", Service: "cities", Node: "n2"},
			{Action: "teleport", Service: "future", Node: "n2", Reasons: []string{"an action of a later release"}},
		},
		Ports: []api.Reservation{
			{Service: "homework", Name: "http", Resource: "ports", Number: 8003, Scope: "private", Node: "n2"},
			{Service: "homework", Name: "web", Resource: "ports", Number: 3001, Scope: "shared"},
		},
		Released: []api.Reservation{{Service: "old", Name: "http", Resource: "ports", Number: 8001, Scope: "private", Node: "n1"}},
		Warnings: []string{"fewer than three nodes: no failover"},
	}
}

func sampleStatus() api.Status {
	return api.Status{
		Cluster: "c0ffee", Leader: "n1", System: "default", Generation: 7, Outcome: "running", Index: 120,
		Warning:      "fewer than three nodes: no failover",
		NotAnswering: []string{"n3 does not answer shared port 3001 (homework.web): in use by pid 12 (nginx)"},
		Sick:         []api.SickNode{{Node: "n2", Why: "disk full: 12 MB free of 1.0 GB at /var/lib/isonomia"}},
		Instances: []api.Instance{
			{Service: "web", Node: "n3", Phase: "starting", Generation: 7, Reason: "waits for port http to accept", Since: before(3 * time.Second), Attempts: 2, Ports: map[string]int{"http": 8002}},
			{Service: "web", Node: "n2", Phase: "stopping", Generation: 6, Obsolete: true, Since: before(time.Second), Ports: map[string]int{"http": 8000}},
			{Service: "staff", Node: "n1", Phase: "active", Health: "healthy", Reason: "ready", Generation: 7, Since: before(2 * time.Minute), Ports: map[string]int{"http": 8000, "admin": 8001}},
			{Service: "proxy", Node: "n1", Phase: "active", Health: "degraded", Generation: 7, Reason: "its dependency staff crashed and is being restarted", Since: before(26 * time.Hour)},
			{Service: "cron", Node: "n1", Phase: "sleeping", Generation: 7, Since: before(90 * time.Minute)},
			{Service: "rooms", Node: "n2", Phase: "failed", Generation: 7, Reason: "exit status 1 before it was ready", Attempts: 3, Since: before(12 * time.Second), Output: "listen tcp :8004\nbind: \x1b[31maddress in use\n"},
			{Service: "zip", Node: "n4", Phase: "lost", Generation: 7, Reason: "n4 is down", Since: before(30 * time.Minute)},
		},
	}
}

func TestGoldenText(t *testing.T) {
	t.Parallel()
	settled := api.Status{System: "default", Leader: "n2", Generation: 3, Settled: true, Outcome: "settled",
		Instances: []api.Instance{{Service: "web", Node: "n1", Phase: "active", Health: "healthy", Generation: 3, Since: before(time.Hour)}}}
	members := api.Members{Members: []api.Member{
		{ID: "a1", Name: "n1", Address: "10.0.0.1:7878", Status: "alive", Role: "leader", Zone: "a", Version: "0.1.0", Attributes: map[string]string{"zone": "a", "disk": "ssd"}},
		{ID: "b2", Name: "n2", Address: "10.0.0.2:7878", Status: "suspect", Role: "voter", Zone: "b", Version: "0.1.0"},
		{ID: "c3", Name: "backup-machine", Address: "10.0.0.3:7878", Status: "failed", Role: "follower", Version: "0.2.0", Note: "must be upgraded"},
	}}
	bare := api.Members{Members: []api.Member{{Name: "n1", Address: "127.0.0.1:7878", Status: "alive", Role: "leader", Version: "0.1.0"}}}
	history := []api.HistoryEntry{
		{Generation: 12, Base: 11, Intent: 9, Kind: "deploy", At: before(4 * time.Minute), By: "alice@desk", Outcome: "running"},
		{Generation: 11, Base: 10, Intent: 8, Kind: "rollback", At: before(49 * time.Hour), By: "n1", Outcome: "settled", Why: "intent 8 failed"},
		{Generation: 10, Base: 9, Intent: 8, Kind: "deploy", At: before(49 * time.Hour), By: "bob@laptop", Outcome: "rolled_back", Why: "web on n2: health check answered 500 for 30 s"},
	}
	ports := append(samplePlan().Ports, api.Reservation{Service: "proxy", Name: "http", Resource: "ports", Number: 3002, Scope: "shared", NotAnswering: []string{"n2", "n3"}}, api.Reservation{Service: "staff", Name: "self", Resource: "uids", Number: 70000, Scope: "shared"})
	tokens := []api.Token{
		{ID: "7Q2K", Role: "node", UsesLeft: 2, Expires: epoch.Add(59 * time.Minute), Created: before(time.Minute), By: "alice@desk"},
		{ID: "9XZA", Role: "node", UsesLeft: 0, Expires: before(time.Minute), Created: before(2 * time.Hour), By: "bob@laptop"},
	}
	for name, render := range map[string]func(p painter, width int) string{
		"plan": func(p painter, w int) string { return renderPlan(samplePlan(), p, w) },
		"plan-empty": func(p painter, w int) string {
			return renderPlan(api.Plan{System: "default", Base: 4, Empty: true}, p, w)
		},
		"status":         func(p painter, w int) string { return renderStatus(sampleStatus(), epoch, p, w) },
		"status-settled": func(p painter, w int) string { return renderStatus(settled, epoch, p, w) },
		"status-none": func(p painter, w int) string {
			return renderStatus(api.Status{System: "default", Stale: true}, epoch, p, w)
		},
		"members":      func(p painter, w int) string { return renderMembers(members, p, w) },
		"members-bare": func(p painter, w int) string { return renderMembers(bare, p, w) },
		"history":      func(p painter, w int) string { return renderHistory(history, epoch, p, w) },
		"ports":        func(p painter, w int) string { return renderPorts(ports, p, w) },
		"tokens":       func(p painter, w int) string { return renderTokens(tokens, epoch, p, w) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			narrow, wide := render(painter{}, 80), render(painter{}, 0)
			golden(t, name+".golden", narrow)
			if strings.Join(strings.Fields(narrow), " ") != strings.Join(strings.Fields(wide), " ") {
				t.Errorf("folding changed the words:\n%s\n%s", narrow, wide)
			}
			for line := range strings.SplitSeq(narrow, "\n") {
				if n := utf8.RuneCountInString(line); n > 80 {
					t.Errorf("%d columns: %s", n, line)
				}
				if strings.TrimRight(line, " ") != line {
					t.Errorf("ends in blanks: %q", line)
				}
			}
			if stripped := stripColor(render(painter{true}, 80)); stripped != narrow {
				t.Errorf("colours change the layout:\n%s", stripped)
			}
		})
	}
}

func stripColor(text string) string {
	var b strings.Builder
	for {
		before, after, found := strings.Cut(text, "\x1b[")
		b.WriteString(before)
		if !found {
			return b.String()
		}
		_, text, _ = strings.Cut(after, "m")
	}
}

func TestQueriesAsJSON(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/members", api.Members{Members: []api.Member{{ID: "a", Name: "n1"}}, Warning: "alone"})
	n.answer("GET /v1/status", sampleStatus())
	n.answer("GET /v1/ports", nil)
	n.answer("GET /v1/history", []api.HistoryEntry{{Generation: 1}, {Generation: 2}})
	n.answer("GET /v1/tokens", []api.Token{})
	n.answer("GET /v1/version", api.Version{Version: "9", Node: "n1"})
	for command, want := range map[string][]string{
		"members":    {"id", "name", "address", "status", "role", "zone", "attributes", "version"},
		"status":     {"cluster", "leader", "generation", "settled", "instances"},
		"ports":      {},
		"history":    {"generation", "base", "intent", "at", "by", "why", "outcome"},
		"token list": {},
		"version":    {"version", "go", "node"},
	} {
		got := invoke(t, n, append(strings.Fields(command), "--json"))
		got.want(t, 0)
		var value any
		if err := json.Unmarshal([]byte(got.out), &value); err != nil {
			t.Errorf("%s: %v in %q", command, err, got.out)
			continue
		}
		list, isList := value.([]any)
		if isList && len(want) == 0 && len(list) == 0 {
			continue
		}
		object, _ := value.(map[string]any)
		if isList {
			object, _ = list[0].(map[string]any)
		}
		for _, field := range want {
			if _, ok := object[field]; !ok {
				t.Errorf("%s: no field %q in %s", command, field, got.out)
			}
		}
		if got.err != "" {
			t.Errorf("%s: wrote to stderr: %s", command, got.err)
		}
	}
	if out := invoke(t, n, []string{"history", "--json"}).out; strings.Index(out, `"generation": 2`) > strings.Index(out, `"generation": 1`) {
		t.Errorf("the oldest is first: %s", out)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("POST /v1/tokens", api.TokenCreated{ID: "id1", Token: "secret-1"})
	n.answer("DELETE /v1/tokens/{id}", struct{}{})
	got := invoke(t, n, []string{"token", "create"})
	got.want(t, 0)
	if got.out != "secret-1\n" || got.err != "" {
		t.Errorf("the token is not alone: %q, %q", got.out, got.err)
	}
	got = invoke(t, n, []string{"token", "revoke", "id1"})
	got.want(t, 0)
	if n.asked("DELETE /v1/tokens/id1") != 1 {
		t.Error("not revoked")
	}
}

func TestWarningsGoToStderr(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/members", api.Members{Warning: "fewer than three nodes"})
	got := invoke(t, n, []string{"members"})
	got.want(t, 0)
	wantContains(t, got.err, "warning: fewer than three nodes")
}

func TestLogs(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/status", api.Status{System: "default", Instances: []api.Instance{{Service: "web"}}})
	n.stream("GET /v1/logs",
		api.LogLine{At: epoch, Node: "n1", Service: "web", Stream: "stdout", Text: "hello \x1b[31mred"},
		api.LogLine{At: epoch, Node: "n2", Service: "web", Stream: "stderr", Text: "oops"})
	got := invoke(t, n, []string{"logs", "web"})
	got.want(t, 0)
	wantContains(t, got.out, " web@n1 hello \x1b[31mred\n", " web@n2 oops\n")
	onTerminal := invoke(t, n, []string{"logs", "web"}, func(c *console) { c.live = true })
	wantContains(t, onTerminal.out, " web@n1 hello red\n")
	wantContains(t, invoke(t, n, []string{"logs", "--json", "web"}).out, `"stream":"stderr","text":"oops"}`)
	got = invoke(t, n, []string{"logs", "wbe"})
	got.want(t, 1)
	wantContains(t, got.err, `no service "wbe"`, `did you mean "web"?`)
}

func TestEvents(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.stream("GET /v1/events", api.Event{At: epoch, Node: "n1", Kind: "crash", Service: "web", Message: "exit status 2"},
		map[string]any{"error": api.Error{Code: api.CodeDenied, Message: "no"}})
	got := invoke(t, n, []string{"events"})
	got.want(t, 1)
	wantContains(t, got.out, "n1 crash web: exit status 2\n")
	wantContains(t, got.err, "isonomia: no")
	got = invoke(t, n, []string{"events", "--json"})
	wantContains(t, got.out, `"kind":"crash"`, "\n"+`{"error":{"code":"denied","message":"no"}}`)
}

func TestColors(t *testing.T) {
	t.Parallel()
	p := painter{true}
	if got := p.red("x"); got != "\x1b[31mx\x1b[0m" {
		t.Errorf("got %q", got)
	}
	if got := (painter{}).red("x"); got != "x" {
		t.Errorf("got %q", got)
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		-time.Second: "0s", 0: "0s", 59 * time.Second: "59s", 61 * time.Second: "1m01s", 4 * time.Minute: "4m", 11 * time.Minute: "11m",
		90 * time.Minute: "1h30m", 47 * time.Hour: "47h", 49 * time.Hour: "2d",
	} {
		if got := duration(d); got != want {
			t.Errorf("duration(%v) = %q, want %q", d, got, want)
		}
	}
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 999_960: "1.0 MB", 3_200_000: "3.2 MB", 5e18: "5.0 EB"} {
		if got := byteSize(n); got != want {
			t.Errorf("byteSize(%d) = %q, want %q", n, got, want)
		}
	}
}

func FuzzFold(f *testing.F) {
	f.Add("one two three", 5)
	f.Add("averyverylongword and more", 4)
	f.Fuzz(func(t *testing.T, text string, width int) {
		text = oneLine(text)
		if got := strings.Join(fold(text, width), " "); got != text {
			t.Fatalf("fold lost something of %q: %q", text, got)
		}
	})
}
