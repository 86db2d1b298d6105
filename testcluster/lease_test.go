//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// guarded is a service with state that may be on two nodes and is taken over from a copy after a second, one that depends on
// it, and one on the first of the nodes that needs no lease.
func guarded(nodes ...string) Model {
	return Model{Services: []Service{
		{Name: "db", Exclusive: true, Pin: nodes, Copies: 2, Policy: "    every = \"1h\"\n    take_over = \"1s\"\n"},
		{Name: "web", DependsOn: []string{"db"}},
		{Name: "free", Pin: nodes[:1]},
	}}
}

// nodeOf is where a service is active, as from sees it.
func nodeOf(from *Node, service string) (*Node, error) {
	s, err := from.Status()
	if err != nil {
		return nil, err
	}
	for _, i := range s.Instances {
		if i.Service == service && i.Phase == phaseActive {
			return from.c.NodeNamed(i.Node), nil
		}
	}
	return nil, fmt.Errorf("%s is active nowhere: %s", service, phases(s))
}

func awaitElsewhere(t *testing.T, from *Node, service string, old *Node) (now *Node) {
	t.Helper()
	Await(t, service+" on another node than "+old.Name, smokeTimeout, func() (err error) {
		now, err = nodeOf(from, service)
		if err == nil && now == old {
			err = errors.New("it is not")
		}
		return err
	})
	return now
}

// copied writes, has that snapshotted and copied, and returns what the copy holds.
func copied(t *testing.T, c *Cluster, from *Node) (w *writer, state string) {
	t.Helper()
	w = startWriter(t, c, from, "db")
	w.moreWrites(t, 20)
	w.end()
	state = stateOf(t, w)
	deployed(t, cli(t, from, "snapshot", "db"))
	Await(t, "a second copy", smokeTimeout, func() error {
		if list := snapshots(t, from, "db"); len(list[0].Holders) < 2 {
			return fmt.Errorf("held by %v", list[0].Holders)
		}
		return nil
	})
	return w, state
}

// TestTakeOver: the node that has a state dies. The state goes on from the newest copy elsewhere, what is lost is said, and
// the node comes back to what is true then.
func TestTakeOver(t *testing.T) {
	c := real(t, 3)
	from := c.Node(0)
	deployed(t, from.Deploy(guarded("n2", "n3")))
	c.AwaitSettled(smokeTimeout, 1)
	victim, err := nodeOf(from, "db")
	if err != nil {
		t.Fatal(err)
	}
	w, state := copied(t, c, from)
	w = startWriterAt(t, c, from, "db", w)
	w.moreWrites(t, 10) // that nobody else has
	w.end()
	lost := stateOf(t, w)
	victim.PowerOff()
	awaitElsewhere(t, from, "db", victim)
	if got := stateOf(t, w); got != state {
		t.Errorf("it goes on from %d bytes, not from the %d that were copied", len(got), len(state))
	}
	said := slices.ContainsFunc(events(t, from), func(e api.Event) bool {
		return e.Kind == "take-over" && e.Service == "db" && strings.Contains(e.Message, "is on "+victim.Name+" only")
	})
	if !said {
		t.Errorf("no event says what may be lost: %v", events(t, from))
	}
	after := startWriterAt(t, c, from, "db", &writer{})
	after.moreWrites(t, 10)
	victim.PowerOn()
	awaitMember(t, from, victim.Name, "alive")
	c.AwaitSettled(smokeTimeout, 2)
	if now, err := nodeOf(from, "db"); err != nil || now == victim {
		t.Errorf("after its return: db is on %v, %v", now, err)
	}
	after.moreWrites(t, 5)
	after.nothingLost(t)
	deployed(t, cli(t, from, "gc", "--yes"))
	list := snapshots(t, from, "db")
	stray := slices.IndexFunc(list, func(s api.Snapshot) bool { return s.Stray })
	if stray < 0 {
		t.Fatalf("what only %s had is gone: %+v", victim.Name, list)
	}
	deployed(t, cli(t, from, "restore", fmt.Sprintf("db@%d", list[stray].Generation), "--yes"))
	if got := stateOf(t, w); got != lost {
		t.Errorf("the stray has %d bytes, and what was lost had %d", len(got), len(lost))
	}
	deployed(t, cli(t, from, "gc", "--strays", "--yes"))
	if list := snapshots(t, from, "db"); slices.ContainsFunc(list, func(s api.Snapshot) bool { return s.Stray }) {
		t.Errorf("a stray is left: %+v", list)
	}
}

// TestCutOffHolderStops: a node that is cut off ends what is exclusive before another starts it, and nothing else.
func TestCutOffHolderStops(t *testing.T) {
	c := real(t, 3)
	leader := c.WaitLeader()
	rest := slices.DeleteFunc(slices.Clone(c.Nodes()), func(n *Node) bool { return n == leader })
	holder, other := rest[0], rest[1]
	deployed(t, leader.Deploy(guarded(holder.Name)))
	deployed(t, leader.Deploy(guarded(holder.Name, other.Name)))
	c.AwaitSettled(smokeTimeout, 2)
	copied(t, c, leader)
	free := pidOn(t, holder, "free")
	c.Partition([]*Node{holder}, []*Node{leader, other})
	awaitElsewhere(t, leader, "db", holder)
	if now := pidOn(t, holder, "free"); now != free {
		t.Errorf("what needs no lease has pid %d, not %d", now, free)
	}
	if w, err := holder.World(); err != nil || len(w.Service("db")) > 0 {
		t.Errorf("the cut-off node still runs db: %v, %v", w.Service("db"), err)
	}
	c.Heal()
	awaitMember(t, leader, holder.Name, "alive")
	settledAnswers(t, c, 3, "1")
}

func pidOn(t *testing.T, n *Node, service string) int {
	t.Helper()
	w, err := n.World()
	if err != nil || len(w.Service(service)) != 1 {
		t.Fatalf("%s on %s: %v, %v", service, n.Name, w.Service(service), err)
	}
	return w.Service(service)[0].PID
}
