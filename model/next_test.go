package model_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

func own() model.Own {
	return model.Own{Processes: map[string]model.Process{}, Packages: map[string]bool{}, Busy: map[string]bool{}, Failures: map[string]model.Failure{}}
}

// withRow gives a State in which one row is changed, whatever led to it.
func withRow(s *model.State, r model.Row, change func(*model.Row)) *model.State {
	next := *s
	change(&r)
	next.Rows = next.Rows.Set(r.Key, r)
	return &next
}

func stepsOf(steps []model.Step) string {
	var out []string
	for _, st := range steps {
		out = append(out, strings.TrimSpace(string(st.Kind)+" "+string(st.Claim)))
	}
	return strings.Join(out, ", ")
}

func TestNext(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.run(service("a", ""))
	r := c.row("a")
	failure := func(row model.Row, attempts int, at time.Duration) model.Failure {
		return model.Failure{Claim: row.Claim, Retry: row.Retry, Attempts: attempts, At: epoch.Add(at), Reason: "it broke"}
	}
	runs := model.Process{Running: true, Claim: r.Claim}
	for _, k := range []struct {
		name   string
		change func(*model.Row)
		own    func(model.Own)
		want   string
		wake   time.Duration // after now; 0 = never
	}{
		{"planned", func(r *model.Row) { r.Phase = model.Planned }, nil, "prepare", 0},
		{"planned, no package", func(r *model.Row) { r.Phase, r.Spec.Package = model.Planned, "tree" }, nil, "fetch", 0},
		{"planned, fetch under way", func(r *model.Row) { r.Phase, r.Spec.Package = model.Planned, "tree" }, func(o model.Own) { o.Busy["package tree"] = true }, "", 0},
		{"planned, fetch failed", func(r *model.Row) { r.Phase, r.Spec.Package = model.Planned, "tree" }, func(o model.Own) {
			o.Failures["package tree"] = model.Failure{Attempts: 3, At: epoch.Add(-time.Second)}
		}, "", 3 * time.Second},
		{"planned, fetch failed for good", func(r *model.Row) { r.Phase, r.Spec.Package = model.Planned, "tree" }, func(o model.Own) {
			o.Failures["package tree"] = model.Failure{Attempts: model.FetchAttempts}
		}, "give-up", 0},
		{"planned, preparing failed for good", func(r *model.Row) { r.Phase = model.Planned }, func(o model.Own) { o.Failures[r.Key] = failure(r, 3, 0) }, "give-up", 0},
		{"prepared", func(r *model.Row) { r.Phase = model.Prepared }, nil, "start starting", 0},
		{"starting", func(r *model.Row) { r.Phase = model.Starting }, nil, "start", 0},
		{"starting, failed just now", func(r *model.Row) { r.Phase = model.Starting }, func(o model.Own) { o.Failures[r.Key] = failure(r, 2, 0) }, "", 2 * time.Second},
		{"starting, failed some time ago", func(r *model.Row) { r.Phase = model.Starting }, func(o model.Own) { o.Failures[r.Key] = failure(r, 2, -2*time.Second) }, "start", 0},
		{"starting, failed for good", func(r *model.Row) { r.Phase = model.Starting }, func(o model.Own) { o.Failures[r.Key] = failure(r, 3, 0) }, "give-up", 0},
		{"starting again, failed in another life", func(r *model.Row) { r.Phase, r.Retry = model.Starting, 1 }, func(o model.Own) { o.Failures[r.Key] = failure(r, 3, 0) }, "start", 0},
		{"starting, busy", func(r *model.Row) { r.Phase = model.Starting }, func(o model.Own) { o.Busy[r.Key] = true }, "", 0},
		{"starting, obsolete", func(r *model.Row) { r.Phase, r.Obsolete = model.Starting, true }, nil, "stop stopping", 0},
		{"active", func(*model.Row) {}, func(o model.Own) { o.Processes[r.Key] = runs }, "", 0},
		{"active, its process died", func(*model.Row) {}, nil, "repair", 0},
		{"active, died nine times", func(*model.Row) {}, func(o model.Own) { o.Failures[r.Key] = failure(r, 9, 0) }, "", time.Minute},
		{"active, died too often", func(*model.Row) {}, func(o model.Own) { o.Failures[r.Key] = failure(r, 10, 0) }, "give-up", 0},
		{"active, obsolete", func(r *model.Row) { r.Obsolete = true }, func(o model.Own) { o.Processes[r.Key] = runs }, "stop stopping", 0},
		{"stopping", func(r *model.Row) { r.Phase = model.Stopping }, nil, "stop", 0},
		{"failed", func(r *model.Row) { r.Phase = model.Failed }, nil, "", 0},
		{"failed, something runs", func(r *model.Row) { r.Phase = model.Failed }, func(o model.Own) { o.Processes[r.Key] = runs }, "kill", 0},
		{"lost", func(r *model.Row) { r.Phase = model.Lost }, nil, "", 0},
		{"a stranger runs", func(*model.Row) {}, func(o model.Own) {
			o.Processes[r.Key], o.Processes["id-n1/x"] = runs, model.Process{Running: true, Claim: 1}
		}, "kill", 0},
		{"what runs is newer than State", func(*model.Row) {}, func(o model.Own) {
			o.Processes[r.Key], o.Processes["id-n1/x"] = runs, model.Process{Running: true, Claim: c.index + 1}
		}, "", 0},
		{"a stranger that is being ended stands in the way", func(r *model.Row) { r.Phase = model.Prepared }, func(o model.Own) {
			o.Processes["id-n1/x"], o.Busy["id-n1/x"] = model.Process{Running: true, Claim: 1}, true
		}, "", 0},
		{"so does a start that is not wanted any more", func(r *model.Row) { r.Phase = model.Planned }, func(o model.Own) { o.Busy["id-n1/x"] = true }, "", 0},
	} {
		t.Run(k.name, func(t *testing.T) {
			o := own()
			if k.own != nil {
				k.own(o)
			}
			steps, wake := model.Next(withRow(c.s, r, k.change), "id-n1", o, epoch)
			if got := stepsOf(steps); got != k.want {
				t.Errorf("got %q, want %q", got, k.want)
			}
			if k.wake == 0 && !wake.IsZero() || k.wake != 0 && !wake.Equal(epoch.Add(k.wake)) {
				t.Errorf("wake %v, want after %v", wake, k.wake)
			}
		})
	}
	c.down("n1")
	if steps, _ := model.Next(c.s, "id-n1", own(), epoch); len(steps) != 0 {
		t.Errorf("a node that is down does %v", steps)
	}
}

// TestGates changes one thing at a time in a State in which web may start, or db may stop.
func TestGates(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	text := service("db", "state {\n managed = true\n}") + service("first", "") +
		service("web", "depends_on = { d = \"db\" }\n activates_after = [\"first\"]\n"+port)
	pins := pin(`db = ["n1"], first = ["n1"], web = ["n1"]`)
	c.run(text + pins)
	web, db, first := c.row("web"), c.row("db"), c.row("first")
	prepared := withRow(c.s, web, func(r *model.Row) { r.Phase = model.Prepared })
	with := func(key string, base model.Row, change func(*model.Row)) *model.State {
		s := *prepared
		change(&base)
		base.Key = key
		s.Rows, s.ByService = s.Rows.Set(key, base), s.ByService.Set(model.ServiceKey(base.RowSpec), struct{}{})
		return &s
	}
	for name, k := range map[string]struct {
		s    *model.State
		want string
	}{
		"it may":                 {prepared, ""},
		"dependency":             {with(db.Key, db, func(r *model.Row) { r.Phase = model.Starting }), "db on n1 is starting"},
		"order":                  {with(first.Key, first, func(r *model.Row) { r.Phase = model.Prepared }), "first is prepared"},
		"what it replaces":       {with("id-n1/old", web, func(r *model.Row) { r.Obsolete, r.Phase, r.Spec.Ports = true, model.Stopping, nil }), "the web it replaces is stopping"},
		"elsewhere is no matter": {with("id-n2/old", web, func(r *model.Row) { r.Node, r.Obsolete = "id-n2", true }), ""},
		"port":                   {with("id-n1/other", web, func(r *model.Row) { r.Service, r.Obsolete = "other", true }), "port 8000 is still http of other, which is active"},
		"obsolete":               {withRow(prepared, web, func(r *model.Row) { r.Phase, r.Obsolete = model.Prepared, true }), "it is not part of the newest generation"},
		"phase":                  {withRow(prepared, web, func(r *model.Row) { r.Phase = model.Planned }), "it is planned"},
	} {
		if got := model.CanStart(k.s, k.s.Rows.At(web.Key)); got != k.want {
			t.Errorf("start, %s: %q, want %q", name, got, k.want)
		}
	}
	closed := *prepared
	g, _ := closed.Generation("default", 1)
	g.Opened = false
	closed.Gens = closed.Gens.Set(model.SystemKey("default", 1), g)
	if got := model.CanStart(&closed, closed.Rows.At(web.Key)); got != "the generation is not prepared yet" {
		t.Errorf("start, closed: %q", got)
	}
	db.Phase = model.Prepared
	for phase, want := range map[model.Phase]string{model.Lost: "db on n2 may still be running", model.Active: "db on n2 may still be running", model.Stopped: ""} {
		s := with("id-n2/old", db, func(r *model.Row) { r.Node, r.Obsolete, r.Phase = "id-n2", true, phase })
		if got := model.CanStart(s, db); got != want {
			t.Errorf("exclusive, the other is %s: %q", phase, got)
		}
	}
	s := *prepared
	s.Custody = s.Custody.Set(model.CustodyKey("default", "db", "process"), model.Custody{Node: "id-n2"})
	if got := model.CanStart(&s, db); got != "its state is on n2" {
		t.Errorf("custody: %q", got)
	}
}

func TestCanStop(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.run(service("db", "") + service("web", `depends_on = { d = "db" }`) + service("late", `activates_after = ["db"]`))
	db, web, late := c.row("db").Key, c.row("web").Key, c.row("late").Key
	can := func(key string) string { return model.CanStop(c.s, c.s.Rows.At(key)) }
	if got := can(db); got != "it is part of the newest generation" {
		t.Error(got)
	}
	c.deploy(service("x", ""))
	if got := can(web); got != "the generation is not prepared yet" {
		t.Error(got)
	}
	c.advance(c.row("x"))
	if got := can(db); got != "web depends on it and is active" {
		t.Error(got)
	}
	for range 2 {
		c.advance(c.s.Rows.At(web))
	}
	if got := can(db); got != "late activates after it and is active" {
		t.Error(got)
	}
	for range 2 {
		c.advance(c.s.Rows.At(late))
	}
	if got := can(db); got != "" {
		t.Error(got)
	}
}

// TestOrdersOfTwoGenerations: what is left of two generations whose orders contradict each other can still be stopped.
func TestOrdersOfTwoGenerations(t *testing.T) {
	t.Parallel()
	s := &model.State{}
	add := func(service, after string, first, last uint64) model.Row {
		r := model.Row{RowSpec: model.RowSpec{Key: "n/" + service, System: "default", Service: service, After: []string{after}},
			First: first, Last: last, Obsolete: true, Phase: model.Active}
		s.Rows, s.ByService = s.Rows.Set(r.Key, r), s.ByService.Set(model.ServiceKey(r.RowSpec), struct{}{})
		for _, k := range r.DependentKeys() {
			s.Dependents = s.Dependents.Set(k, struct{}{})
		}
		return r
	}
	s.Systems = s.Systems.Set("default", model.System{Generation: 3})
	s.Gens = s.Gens.Set(model.SystemKey("default", 3), model.Generation{Opened: true})
	a, b := add("a", "b", 1, 1), add("b", "a", 2, 2)
	for _, r := range []model.Row{a, b} {
		if why := model.CanStop(s, r); why != "" {
			t.Errorf("%s: %s", r.Service, why)
		}
	}
	b = add("b", "none", 1, 1)
	if why := model.CanStop(s, b); !strings.Contains(why, "a activates after it") {
		t.Errorf("b: %q", why)
	}
}

// TestPartsAreSmall: whatever changes, no part is above PartBytes, and what comes out is what went in.
func TestPartsAreSmall(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	p := model.Plan{System: "default", Counters: map[string]int{"ports/shared": 7}}
	for i := range 6000 {
		key := fmt.Sprintf("%064d/%024d", 1, i)
		p.Gone = append(p.Gone, key)
		p.Reserve = append(p.Reserve, model.Reservation{System: "default", Service: fmt.Sprint("s", i), Resource: "ports", Node: "id-n1", Number: i})
		p.Added = append(p.Added, model.RowSpec{Key: fmt.Sprintf("id-n1/%d", i), System: "default", Service: fmt.Sprint("s", i), Node: "id-n1",
			Spec: model.Spec{Command: []string{strings.Repeat("x", 100)}}})
	}
	big := []byte(strings.Repeat("0123456789abcdef", 40_000))
	src := model.Source{Files: map[string][]byte{"a.hcl": big, "empty.hcl": {}, "z.hcl": []byte("# end")}}
	cmds := p.Commands(model.Draft{ID: "big", Kind: model.KindDeploy, Source: src})
	for i, cmd := range cmds {
		if n := encodedBytes(t, cmd); n > model.PartBytes {
			t.Errorf("command %d of %d has %d bytes", i, len(cmds), n)
		}
	}
	c.must(cmds...)
	in, _ := c.s.Intent("default", 1)
	if len(in.Source.Files) != 3 || !slices.Equal(in.Source.Files["a.hcl"], big) || string(in.Source.Files["z.hcl"]) != "# end" {
		t.Error("the source did not come through")
	}
	if c.s.Rows.Len() != 6000 || c.s.Reservations.Len() != 6000 || c.s.Counters.At("ports/shared") != 7 {
		t.Errorf("%d rows, %d reservations", c.s.Rows.Len(), c.s.Reservations.Len())
	}
}
