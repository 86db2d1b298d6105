package model_test

import (
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// view is what a leader sees who has heard everybody who is not down just now, and has known of those who are for so long.
func (c *cluster) view(downFor time.Duration) model.View {
	v := model.View{Silent: map[string]time.Duration{}, DownFor: map[string]time.Duration{}}
	for id, n := range c.s.Nodes.All() {
		v.Silent[id] = 0
		if n.Down {
			v.Silent[id], v.DownFor[id] = time.Minute, downFor
		}
	}
	return v
}

// copied is a deployed service on n1 whose state has a snapshot that n2 holds.
func copied(t *testing.T, policy string) *cluster {
	c := newCluster(t, 3)
	for _, pin := range []string{`"n1"`, `"n1", "n2"`} {
		c.run(service("db", "state {\n"+policy+"\n}") + "distribution {\n pin = { db = [" + pin + "] }\n}\n")
	}
	if c.where() != "db@n1" {
		t.Fatalf("db is elsewhere: %s", c.where())
	}
	c.must(model.TakeSnapshot{Epoch: 1, Snapshot: model.Snapshot{System: "default", Service: "db", Container: "process", ID: "copy", Node: "id-n1", At: epoch}})
	c.must(model.HoldSnapshots{Node: "id-n2", Items: []model.HeldSnapshot{{Key: model.SnapshotKey("default", "db", "process", 1), ID: "copy"}}})
	return c
}

const scheduled = "copies = 2\n every = \"1h\"\n"

// A leader fences a node that is down, and only after the lease; then it waits as the policy says, and the state goes on from
// the copy on a timeline of its own.
func TestFenceAndTakeOver(t *testing.T) {
	t.Parallel()
	c := copied(t, scheduled)
	// What was only brought in from outside is nothing to go on from.
	c.must(model.TakeSnapshot{Epoch: 1, Foreign: true, Snapshot: model.Snapshot{System: "default", Service: "db", Container: "process", ID: "imported", Node: "id-n2", At: epoch}})
	c.down("n1")
	now := epoch.Add(time.Minute)
	cmds, mem, wake := model.Decide(c.s, c.view(model.FenceAfter-time.Second), model.Memory{}, now)
	for _, cmd := range cmds {
		if _, early := cmd.(model.Fence); early {
			t.Fatal("fenced while the lease may run")
		}
	}
	if !wake.Equal(now.Add(time.Second)) {
		t.Errorf("it looks again at %v", wake)
	}
	cmds, mem, _ = model.Decide(c.s, c.view(model.FenceAfter), mem, now)
	if len(cmds) != 1 || cmds[0] != (model.Fence{ID: "id-n1", Epoch: 2}) {
		t.Fatalf("%+v", cmds)
	}
	c.must(cmds...)
	if cmds, mem, _ = model.Decide(c.s, c.view(time.Minute), mem, now); len(cmds) != 0 {
		t.Fatalf("right after: %+v", cmds)
	}
	if cmds, mem, _ = model.Decide(c.s, c.view(time.Minute), mem, now.Add(model.DefaultTakeOver-1)); len(cmds) != 0 {
		t.Fatalf("too early: %+v", cmds)
	}
	later := now.Add(model.DefaultTakeOver)
	cmds, mem, _ = model.Decide(c.s, c.view(time.Minute), mem, later)
	if len(cmds) != 1 {
		t.Fatalf("after the wait: %+v", cmds)
	}
	c.must(cmds...)
	custody := c.s.Custody.At(dbCustody)
	if custody.Node != "" || custody.Snapshot != "copy" || !model.WasTakenOver(custody.Timeline) {
		t.Fatalf("%+v", custody)
	}
	cmds, _, _ = model.Decide(c.s, c.view(time.Minute), mem, later)
	if len(cmds) == 0 {
		t.Fatal("nothing is composed after a take-over")
	}
	if begin, ok := cmds[0].(model.Begin); !ok || !strings.Contains(begin.Why, "goes on from snapshot 1") || !strings.Contains(begin.Why, "is on n1 only") {
		t.Errorf("%+v", cmds[0])
	}
	c.must(cmds...)
	c.settle()
	if c.where() != "db@n2" || c.row("db").Spec.Timeline != custody.Timeline {
		t.Errorf("%s on timeline %q", c.where(), c.row("db").Spec.Timeline)
	}
	c.up("n1")
	c.decide()
	c.settle()
	if c.where() != "db@n2" || c.s.Nodes.At("id-n1").Fenced || len(c.s.ServiceRows("default", "db")) != 1 {
		t.Errorf("after the return: %s, %+v, %d rows", c.where(), c.s.Nodes.At("id-n1"), len(c.s.ServiceRows("default", "db")))
	}
}

// Who is not fenced holds what is exclusive against everybody; who is fenced holds nothing.
func TestFencedHoldsNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(service("one", "exclusive = true"))
	on := c.row("one").Node
	c.down(c.s.NodeName(on))
	c.decide()
	for range 5 {
		for _, r := range c.s.SystemRows("default") {
			c.advance(r)
		}
	}
	if r := c.row("one"); r.Node == on || r.Phase != model.Prepared || !strings.Contains(model.CanStart(c.s, r), "may still be running") {
		t.Fatalf("%s on %s: %q", r.Phase, r.Node, model.CanStart(c.s, r))
	}
	if res := c.apply(model.Fence{ID: on, Epoch: 1})[0]; res.Code != model.ErrEpoch {
		t.Fatalf("fenced in an old epoch: %+v", res)
	}
	c.must(model.Fence{ID: on, Epoch: 2})
	c.settle()
	if r := c.row("one"); r.Node == on || r.Phase != model.Active {
		t.Errorf("%s on %s", r.Phase, r.Node)
	}
}

func TestWhyNoTakeOver(t *testing.T) {
	t.Parallel()
	now := epoch.Add(time.Minute)
	for _, x := range []struct {
		policy string
		do     func(c *cluster)
		at     time.Time
		want   string
	}{
		{scheduled, func(*cluster) {}, now, "its node is up"},
		{scheduled, func(c *cluster) { c.down("n1") }, now, "not fenced yet"},
		{scheduled, func(c *cluster) { c.fenced("n1") }, now, ""},
		{scheduled + `take_over = "never"`, func(c *cluster) { c.fenced("n1") }, now, `take_over = "never"`},
		{"copies = 2", func(c *cluster) { c.fenced("n1") }, now, "no schedule"},
		{`copies = 2
			take_over = "5m"`, func(c *cluster) { c.fenced("n1") }, now.Add(1000 * time.Hour), ""},
		{scheduled, func(c *cluster) { c.fenced("n1") }, now.Add(3 * time.Hour), "older than twice its schedule"},
		{scheduled, func(c *cluster) { c.fenced("n1"); c.down("n2") }, now, "no other node that is up"},
	} {
		c := copied(t, x.policy)
		x.do(c)
		cmd, _, why := model.TakeOverOf(c.s, dbCustody, x.at)
		if (x.want == "") != (why == "") || !strings.Contains(why, x.want) {
			t.Errorf("%s: %q, want %q", x.policy, why, x.want)
		}
		if why == "" && c.apply(cmd)[0].Code != model.OK {
			t.Errorf("%s: refused", x.policy)
		}
	}
}

func (c *cluster) fenced(name string) {
	c.t.Helper()
	c.down(name)
	n, _ := c.s.NodeByName(name)
	c.must(model.Fence{ID: n.ID, Epoch: n.Epoch})
}

// A state whose service may run nowhere else is left where it is: nothing would be won.
func TestNoTakeOverForNobody(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	c.run(service("db", "state {\n"+scheduled+"}") + "distribution {\n pin = { db = [\"n1\"] }\n}\n")
	c.must(model.TakeSnapshot{Epoch: 1, Snapshot: model.Snapshot{System: "default", Service: "db", Container: "process", ID: "copy", Node: "id-n1", At: epoch}})
	c.must(model.HoldSnapshots{Node: "id-n2", Items: []model.HeldSnapshot{{Key: model.SnapshotKey("default", "db", "process", 1), ID: "copy"}}})
	c.fenced("n1")
	mem := model.Memory{}
	for i := range 5 {
		var cmds []model.Command
		cmds, mem, _ = model.Decide(c.s, c.view(time.Minute), mem, epoch.Add(time.Duration(i)*model.DefaultTakeOver/2))
		for _, cmd := range cmds {
			if _, ok := cmd.(model.TakeOver); ok {
				t.Fatalf("%+v", cmd)
			}
		}
		c.apply(cmds...)
	}
	c.up("n1")
	c.decide()
	c.settle()
	if custody := c.s.Custody.At(dbCustody); custody.Node != "id-n1" || custody.Timeline != "" {
		t.Errorf("%+v", custody)
	}
}

// What works on the files of a state is as exclusive as the state.
func TestExclusive(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.run(service("plain", "") + service("alone", "exclusive = true") + service("kept", "state {}") + service("shared", "state {}\nexclusive = false") +
		`service "data" {
			type = "sqlite-database"
		}
		service "user" {
			type = "process"
			depends_on = ["data"]
			run {
				command = ["run", dep.data.path]
			}
		}`)
	for name, want := range map[string]bool{"plain": false, "alone": true, "kept": true, "shared": false, "data": true, "user": true} {
		if got := c.row(name).Exclusive; got != want {
			t.Errorf("%s: exclusive %t", name, got)
		}
	}
	if !model.NeedsLease(c.s, c.row("alone").Node) || model.NeedsLease(c.s, "id-nobody") {
		t.Error("who needs a lease")
	}
}

// Without a quorum only what was active, needs no lease and does not run is started.
func TestOffline(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	c.run(service("a", "") + service("b", "") + service("kept", "state {}"))
	own := model.Own{Processes: map[string]model.Process{c.row("b").Key: {Running: true}}}
	steps := model.Offline(c.s, "id-n1", own, epoch)
	if len(steps) != 1 || steps[0].Row != c.row("a").Key || steps[0].Kind != model.StepRepair {
		t.Errorf("%+v", steps)
	}
	c.down("n1")
	if steps := model.Offline(c.s, "id-n1", own, epoch); len(steps) != 0 {
		t.Errorf("of what was lost: %+v", steps)
	}
}

// A node that comes and goes is believed later each time; one that was up for long at once.
func TestFlappingNodeWaits(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	now, mem := epoch, model.Memory{}
	round := func(silent time.Duration) (cmds []model.Command) {
		t.Helper()
		v := model.View{Silent: map[string]time.Duration{"id-n1": 0, "id-n2": silent}}
		cmds, mem, _ = model.Decide(c.s, v, mem, now)
		c.must(cmds...)
		return cmds
	}
	upAfter := func() time.Duration {
		t.Helper()
		if cmds := round(time.Minute); len(cmds) != 1 {
			t.Fatalf("not marked down: %+v", cmds)
		}
		now = now.Add(5 * time.Second)
		for began := now; ; now = now.Add(100 * time.Millisecond) {
			if len(round(0)) == 1 {
				return now.Sub(began)
			}
			if now.Sub(began) > 2*time.Minute {
				t.Fatal("never marked up")
			}
		}
	}
	for i, want := range []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second} {
		if got := upAfter(); got != want {
			t.Errorf("time %d: after %v, want %v", i+1, got, want)
		}
	}
	if round(time.Minute); len(round(0)) > 0 {
		t.Error("heard for an instant, and marked up")
	}
	if round(2 * time.Second); len(round(0)) > 0 {
		t.Error("silent in between, and that is not counted")
	}
	now = now.Add(time.Minute)
	round(0)
	now = now.Add(model.FlapMemory + time.Second)
	round(0)
	if got := upAfter(); got != 0 {
		t.Errorf("after a long time up: %v", got)
	}
}

// A node leaves only with nothing left on it, and does not come back by being heard.
func TestLeave(t *testing.T) {
	t.Parallel()
	c := copied(t, "copies = 1")
	leave := func() model.Result { return c.apply(model.Leave{ID: "id-n1", Epoch: c.s.Nodes.At("id-n1").Epoch})[0] }
	if res := leave(); res.Code != model.ErrGate || !strings.Contains(res.Message, "db is still there") {
		t.Fatalf("%+v", res)
	}
	c.drain("n1", true)
	c.decide()
	c.settle()
	if res := leave(); res.Code != model.ErrGate || !strings.Contains(res.Message, "no other node that is up has snapshot 2") {
		t.Fatalf("%+v", res) // that of the move
	}
	c.must(model.HoldSnapshots{Node: "id-n2", Items: []model.HeldSnapshot{{Key: model.SnapshotKey("default", "db", "process", 2), ID: "state"}}})
	c.must(model.Leave{ID: "id-n1", Epoch: c.s.Nodes.At("id-n1").Epoch})
	if n := c.s.Nodes.At("id-n1"); !n.Left || !n.Down || !n.Fenced || n.Takes() {
		t.Errorf("%+v", n)
	}
	if cmds, _, _ := model.Decide(c.s, model.View{Silent: map[string]time.Duration{"id-n1": 0}}, model.Memory{}, epoch); len(cmds) > 0 {
		t.Errorf("heard on its way out: %+v", cmds)
	}
	c.must(model.Rejoin{ID: "id-n1"})
	c.up("n1")
	if n := c.s.Nodes.At("id-n1"); n.Left || n.Down || n.Fenced || !n.Takes() {
		t.Errorf("after its return: %+v", n)
	}
}
