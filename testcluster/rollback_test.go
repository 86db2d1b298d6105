//go:build linux

package testcluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const spoiled = "spoiled\n"

// cli runs a command on a node, with the tests' patience.
func cli(t *testing.T, n *Node, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	return n.CLI(ctx, args...)
}

// upgraded is a cluster whose db has had some lines written to it and was then replaced by a version that spoils its data.
func upgraded(t *testing.T, spread bool) (c *Cluster, w *writer, before string) {
	c = real(t, 3)
	m := stateful("n2")
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	w = startWriter(t, c, c.Node(0), "db")
	w.moreWrites(t, 20)
	w.end()
	before = stateOf(t, w)
	bad := m.Change("db", func(s *Service) {
		s.Version, s.Modes = "2", []string{"spoil"}
		if spread {
			s.Pin = []string{"n3"}
		}
	})
	deployed(t, c.Node(1).Deploy(bad))
	c.AwaitSettled(smokeTimeout, 2)
	if got := stateOf(t, w); got != spoiled {
		t.Fatalf("the upgrade did not spoil the data: %q", got)
	}
	return c, w, before
}

// TestRollbackWithState: an upgrade spoils the data; going back with them brings what there was when it was replaced.
func TestRollbackWithState(t *testing.T) {
	c, w, before := upgraded(t, false)
	plan := cli(t, c.Node(2), "rollback", "--with-state", "--yes")
	deployed(t, plan)
	settledAnswers(t, c, 3, "1")
	if got := stateOf(t, w); got != before {
		t.Errorf("the data are %.40q, %d bytes; they were %d bytes", got, len(got), len(before))
	}
	if !strings.Contains(plan.Stderr+plan.Stdout, "its state goes back to snapshot 1") {
		t.Errorf("the plan does not say so: %s", plan.Stderr+plan.Stdout)
	}
	again := c.Node(0).Deploy(stateful("n2"))
	deployed(t, again)
	if s := c.AwaitSettled(smokeTimeout, 3); s.Generation > 4 {
		t.Errorf("generation %d", s.Generation)
	}
	list := snapshots(t, c.Node(0), "db")
	deployed(t, cli(t, c.Node(0), "restore", fmt.Sprintf("db@%d", list[0].Generation), "--yes"))
	if got := stateOf(t, w); got != spoiled && got != before {
		t.Errorf("restored %q", got)
	}
	found := false
	for _, s := range list {
		found = found || s.Why == "before it returns to an earlier snapshot"
	}
	if !found {
		t.Errorf("what the data were is not kept: %+v", list)
	}
}

// TestRollbackKeepsState: without being asked, going back leaves the data as they are, after a rollback with them, too.
func TestRollbackKeepsState(t *testing.T) {
	c, w, before := upgraded(t, true)
	deployed(t, cli(t, c.Node(2), "rollback", "--yes"))
	settledAnswers(t, c, 3, "1")
	if got := stateOf(t, w); got != spoiled {
		t.Errorf("the data are %.40q", got)
	}
	deployed(t, cli(t, c.Node(2), "rollback", "--yes", "--with-state", "--to", "1"))
	settledAnswers(t, c, 4, "1")
	if got := stateOf(t, w); got != before {
		t.Errorf("the data are %.40q, %d bytes; they were %d bytes", got, len(got), len(before))
	}
	w = startWriterAt(t, c, c.Node(0), "db", w)
	w.moreWrites(t, 20)
	w.end()
	now := stateOf(t, w)
	deployed(t, c.Node(1).Deploy(stateful("n1")))
	settledAnswers(t, c, 5, "1")
	deployed(t, cli(t, c.Node(2), "rollback", "--yes"))
	settledAnswers(t, c, 6, "1")
	if got := stateOf(t, w); got != now {
		t.Errorf("the data are %.40q, %d bytes; they were %d bytes", got, len(got), len(now))
	}
}

// TestRollbackWithStateThroughDeath: the leader, the node with the data, or the one that they go to dies at a moment of the
// way back.
func TestRollbackWithStateThroughDeath(t *testing.T) {
	c, w, before := upgraded(t, true) // from n3 back to n2
	deployed(t, cli(t, c.Node(0), "rollback", "--with-state", "--yes", "--no-wait"))
	after := rand.N(900 * time.Millisecond)
	victim := c.Node(rand.N(3))
	t.Logf("%s loses its power after %v", victim.Name, after)
	select {
	case <-time.After(after): // when, not whether: the way back takes about that long
	case <-t.Context().Done():
	}
	victim.PowerOff()
	victim.Revive()
	c.AwaitMembers(3)
	settledAnswers(t, c, 3, "1")
	if got := stateOf(t, w); got != before {
		t.Errorf("the data are %.40q, %d bytes; they were %d bytes", got, len(got), len(before))
	}
}

// TestAheadOfAnUpgrade: a database that can be copied while it runs is, before what uses it is replaced, and is not
// stopped for that.
func TestAheadOfAnUpgrade(t *testing.T) {
	c := real(t, 3)
	model := func(version string) string {
		return writeModel(t, map[string]string{"services.hcl": strings.Replace(fmt.Sprintf(sqliteModel, "n2"), `VERSION = "1"`, `VERSION = "`+version+`"`, 1),
			"staff/1.sql": "CREATE TABLE line (text TEXT);"}, map[string]string{"web/bin/sqliteservice": SQLiteService(t)})
	}
	deployed(t, c.Node(0).DeployDir(model("1")))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, c.Node(0), "web")
	w.moreWrites(t, 10)
	w.end()
	before := stateOf(t, w)
	deployed(t, c.Node(1).DeployDir(model("2")))
	c.AwaitSettled(smokeTimeout, 2)
	list := snapshots(t, c.Node(0), "staff")
	if len(list) != 1 || list[0].Why != "ahead of generation 2" {
		t.Fatalf("%+v", list)
	}
	w = startWriterAt(t, c, c.Node(0), "web", w)
	w.moreWrites(t, 10)
	w.end()
	if stateOf(t, w) == before {
		t.Fatal("nothing was written")
	}
	deployed(t, cli(t, c.Node(2), "rollback", "--with-state", "--yes"))
	settledAnswers(t, c, 3, "1")
	if got := stateOf(t, w); got != before {
		t.Errorf("the data are %.40q, %d bytes; they were %d bytes", got, len(got), len(before))
	}
}
