//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// awaitMember awaits that a node has another one as such: what members shows may be behind.
func awaitMember(t *testing.T, n *Node, name, status string) {
	t.Helper()
	Await(t, name+" "+status, smokeTimeout, func() error {
		members, err := n.Members()
		got := "no member"
		for _, m := range members {
			if m.Name == name {
				got = m.Status
			}
		}
		if err == nil && got != status {
			err = errors.New(got)
		}
		return err
	})
}

// TestDrain: everything leaves a node, with its state, and comes back to it only when that is allowed again.
func TestDrain(t *testing.T) {
	c := real(t, 3)
	m := stateful("n2").Change("db", func(s *Service) { s.Pin = []string{"n2", "n3"} })
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	holder, err := nodeOf(c.Node(0), "db")
	if err != nil {
		t.Fatal(err)
	}
	on := holder.Name
	w := startWriter(t, c, c.Node(0), "db")
	w.moreWrites(t, 20)
	look := cli(t, c.Node(0), "whatif", "drain", on)
	if deployed(t, look); !strings.Contains(look.Stdout, "its state moves with it") {
		t.Errorf("what would happen: %s", look.Stdout)
	}
	deployed(t, cli(t, c.Node(0), "drain", on, "--yes"))
	awaitMember(t, c.Node(2), on, "draining")
	settledAnswers(t, c, 2, "1")
	s := c.AwaitSettled(smokeTimeout, 2)
	for _, i := range s.Instances {
		if i.Node == on {
			t.Errorf("%s is %s on %s", i.Service, i.Phase, on)
		}
	}
	w.moreWrites(t, 5)
	w.nothingLost(t)
	if r := c.Node(0).Deploy(m.Change("db", func(s *Service) { s.Pin = []string{on} })); r.Code != ExitFailed || !strings.Contains(r.Stdout+r.Stderr, "no node may run") {
		t.Errorf("pinned to a node that is drained: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	deployed(t, cli(t, c.Node(1), "drain", on, "--undo"))
	awaitMember(t, c.Node(2), on, "alive")
	deployed(t, c.Node(0).Deploy(m.Change("db", func(s *Service) { s.Pin = []string{on} })))
	settledAnswers(t, c, s.Generation+1, "1")
}

// TestRemove: a node that is gone for good is removed; its state goes on from the newest copy.
func TestRemove(t *testing.T) {
	c := real(t, 3)
	m := stateful("n3").Change("db", func(s *Service) { s.Pin, s.Copies = []string{"n3", "n2"}, 2 })
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	victim, err := nodeOf(c.Node(0), "db")
	if err != nil {
		t.Fatal(err)
	}
	w, before := copied(t, c, c.Node(0))
	if r := cli(t, c.Node(0), "remove", victim.Name, "--yes"); r.Code != ExitFailed {
		t.Errorf("a node that is up was removed: exit %d", r.Code)
	}
	victim.PowerOff()
	awaitMember(t, c.Node(0), victim.Name, "failed")
	deployed(t, cli(t, c.Node(0), "remove", victim.Name, "--yes"))
	awaitElsewhere(t, c.Node(0), "db", victim)
	if got := stateOf(t, w); got != before {
		t.Errorf("its state has %d bytes, not %d", len(got), len(before))
	}
	awaitMember(t, c.Node(0), victim.Name, "no member")
}

// TestLeave: a node that has a state leaves. What it has goes elsewhere, copies too, its agent ends and stays away until it is
// told to come back.
func TestLeave(t *testing.T) {
	c := real(t, 3)
	m := stateful("n2").Change("db", func(s *Service) { s.Pin = []string{"n2", "n3"} })
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	victim, err := nodeOf(c.Node(0), "db")
	if err != nil {
		t.Fatal(err)
	}
	w := startWriter(t, c, c.Node(0), "db")
	w.moreWrites(t, 20)
	deployed(t, cli(t, c.Node(0), "leave", victim.Name, "--yes"))
	if code := victim.AwaitExit(smokeTimeout); code != 0 {
		t.Errorf("its agent ended with %d", code)
	}
	Await(t, "no keeper", smokeTimeout, func() error {
		world, err := victim.World()
		if err == nil && len(world.Processes) > 0 {
			err = fmt.Errorf("%v", world.Processes)
		}
		return err
	})
	awaitMember(t, c.Node(0), victim.Name, "left")
	w.moreWrites(t, 5)
	w.nothingLost(t)
	victim.Launch()
	if code := victim.AwaitExit(smokeTimeout); code != 1 {
		t.Errorf("started again without --rejoin: it ended with %d", code)
	}
	victim.Start(WithArgs("--rejoin"))
	awaitMember(t, c.Node(0), victim.Name, "alive")
	deployed(t, c.Node(0).Deploy(m.Change("db", func(s *Service) { s.Pin = []string{victim.Name} })))
	w = startWriterAt(t, c, c.Node(0), "db", w)
	w.moreWrites(t, 5)
	w.nothingLost(t)
}
