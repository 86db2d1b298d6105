//go:build linux

package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// TestRestoreOnto: a service goes to a node that the operator names, with the data of a snapshot; what it had then is kept.
func TestRestoreOnto(t *testing.T) {
	c := real(t, 3)
	from := c.Node(0)
	m := stateful("n2").Change("db", func(s *Service) { s.Pin = []string{"n2", "n3"} })
	deployed(t, from.Deploy(m))
	s := c.AwaitSettled(smokeTimeout, 1)
	old, err := nodeOf(from, "db")
	if err != nil {
		t.Fatal(err)
	}
	to := map[string]string{"n2": "n3", "n3": "n2"}[old.Name]
	w := startWriter(t, c, from, "db")
	w.moreWrites(t, 20)
	w.end()
	then := stateOf(t, w)
	deployed(t, cli(t, from, "snapshot", "db"))
	dir := filepath.Join(t.TempDir(), "resolved")
	r := cli(t, c.Node(2), "snapshots", "resolve", "db@1", dir)
	deployed(t, r)
	if files, err := os.ReadDir(dir); err != nil || len(files) == 0 || strings.TrimSpace(r.Stdout) != dir {
		t.Errorf("the snapshot was laid out as %q: %v, %v", r.Stdout, files, err)
	}
	w = startWriterAt(t, c, from, "db", w)
	w.moreWrites(t, 20)
	w.end()
	now := stateOf(t, w)
	for _, args := range [][]string{{"restore", "--node", to, "--yes"}, {"restore", "db@1", "--node", "n1", "--yes"}, {"restore", "db@9", "--node", to, "--yes"}, {"restore", "db@1", "--node", "nobody", "--yes"}} {
		if r := cli(t, from, args...); r.Code == 0 {
			t.Errorf("%v: %s%s", args, r.Stdout, r.Stderr)
		}
	}
	deployed(t, cli(t, c.Node(2), "restore", "db@1", "--node", to, "--yes"))
	settledAnswers(t, c, s.Generation+1, "1")
	if on, err := nodeOf(from, "db"); err != nil || on.Name != to {
		t.Errorf("db is on %v, %v", on, err)
	}
	if got := stateOf(t, w); got != then {
		t.Errorf("it has %d bytes, and the snapshot has %d", len(got), len(then))
	}
	list := snapshots(t, from, "db")
	kept := list[slices.IndexFunc(list, func(s api.Snapshot) bool { return !strings.Contains(s.Why, "again") })]
	deployed(t, cli(t, from, "restore", fmt.Sprintf("db@%d", kept.Generation), "--yes"))
	if got := stateOf(t, w); got != now {
		t.Errorf("what it was before is not generation %d: %d bytes, not %d", kept.Generation, len(got), len(now))
	}
}

// TestTakeOverByHand: a state without a schedule waits for its node, until an operator says otherwise.
func TestTakeOverByHand(t *testing.T) {
	c := real(t, 3)
	from := c.Node(0)
	deployed(t, from.Deploy(stateful("n2").Change("db", func(s *Service) { s.Pin, s.Copies = []string{"n2", "n3"}, 2 })))
	c.AwaitSettled(smokeTimeout, 1)
	victim, err := nodeOf(from, "db")
	if err != nil {
		t.Fatal(err)
	}
	w, state := copied(t, c, from)
	victim.PowerOff()
	awaitMember(t, from, victim.Name, "failed")
	r := cli(t, from, "restore", "db", "--yes")
	if r.Code != ExitFailed || !strings.Contains(r.Stderr, "--take-over") {
		t.Errorf("without being told: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if r := cli(t, from, "status"); !strings.Contains(r.Stdout, "waits for the node") {
		t.Errorf("status does not say what db waits for:\n%s", r.Stdout)
	}
	Await(t, "a take-over", smokeTimeout, func() error { return cli(t, from, "restore", "db", "--take-over", "--yes").Failure() })
	awaitElsewhere(t, from, "db", victim)
	if got := stateOf(t, w); got != state {
		t.Errorf("it goes on from %d bytes, not from the %d that were copied", len(got), len(state))
	}
}
