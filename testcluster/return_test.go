//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// TestBackAfterReplacement: an agent dies, and what ran on its node is placed elsewhere while its keeper goes on. When the
// agent is back, what is obsolete there ends and nothing runs twice; what it wrote that no snapshot has is offered as one, and
// older ones can still be used.
func TestBackAfterReplacement(t *testing.T) {
	c := real(t, 3)
	from := c.Node(0)
	policy := "    every = \"1h\"\n    take_over = \"1s\"\n"
	m := Model{Services: []Service{
		{Name: "db", Exclusive: true, Pin: []string{"n2"}},
		{Name: "web", DependsOn: []string{"db"}, Pin: []string{"n2"}},
		{Name: "free", Pin: []string{"n2"}},
	}}
	deployed(t, from.Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	victim, other := c.Node(1), c.Node(2)
	w := startWriter(t, c, from, "db")
	w.moreWrites(t, 10)
	w.end()
	early := stateOf(t, w)
	deployed(t, cli(t, from, "snapshot", "db"))
	first := snapshots(t, from, "db")[0]

	pins := func(nodes ...string) Model {
		for _, s := range []string{"db", "web", "free"} {
			m = m.Change(s, func(s *Service) { s.Pin = nodes })
		}
		return m.Change("db", func(s *Service) { s.Copies, s.Policy = 2, policy })
	}
	deployed(t, from.Deploy(pins("n2", "n3")))
	c.AwaitSettled(smokeTimeout, 2)
	w = startWriterAt(t, c, from, "db", w)
	w.moreWrites(t, 10)
	w.end()
	state := stateOf(t, w)
	deployed(t, cli(t, from, "snapshot", "db"))
	Await(t, "a second copy", smokeTimeout, func() error {
		if list := snapshots(t, from, "db"); len(list[0].Holders) < 2 {
			return fmt.Errorf("held by %v", list[0].Holders)
		}
		return nil
	})
	w = startWriterAt(t, c, from, "db", w)
	w.moreWrites(t, 10)
	w.end()
	lost := stateOf(t, w)

	victim.KillAgent()
	awaitElsewhere(t, from, "db", victim)
	awaitElsewhere(t, from, "web", victim)
	awaitElsewhere(t, from, "free", victim)
	if got := stateOf(t, w); got != state {
		t.Errorf("it goes on from %d bytes, not from the %d that were copied", len(got), len(state))
	}
	pidOn(t, victim, "free") // its keeper was told nothing
	before := map[string]int{}
	for _, s := range []string{"db", "web", "free"} {
		before[s] = pidOn(t, other, s)
	}
	victim.Start()
	Await(t, "what is obsolete to end", smokeTimeout, func() error {
		world, err := victim.World()
		if err == nil && len(world.services()) > 0 {
			err = fmt.Errorf("%s runs %v", victim.Name, world.services())
		}
		return err
	})
	c.AwaitMembers(3)
	c.AwaitSettled(smokeTimeout, 2)
	for s, pid := range before {
		if now := pidOn(t, other, s); now != pid {
			t.Errorf("%s has pid %d, not %d", s, now, pid)
		}
	}

	deployed(t, cli(t, from, "gc", "--yes"))
	list := snapshots(t, from, "db")
	stray := slices.IndexFunc(list, func(s api.Snapshot) bool { return s.Stray })
	if stray < 0 {
		t.Fatalf("what only %s had is gone: %+v", victim.Name, list)
	}
	for generation, want := range map[uint64]string{first.Generation: early, list[stray].Generation: lost} {
		deployed(t, cli(t, from, "restore", fmt.Sprintf("db@%d", generation), "--yes"))
		if got := stateOf(t, w); got != want {
			t.Errorf("generation %d has %d bytes, not %d", generation, len(got), len(want))
		}
	}
}

// TestSnapshotOfANodeThatIsAway: a snapshot that only one node has cannot be restored while that is off, and can once it is
// back.
func TestSnapshotOfANodeThatIsAway(t *testing.T) {
	c := real(t, 3)
	from := c.Node(0)
	deployed(t, from.Deploy(stateful("n2")))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, from, "db")
	w.moreWrites(t, 10)
	w.end()
	then := stateOf(t, w)
	deployed(t, cli(t, from, "snapshot", "db"))
	snap := snapshots(t, from, "db")[0]
	if !slices.Equal(snap.Holders, []string{"n2"}) {
		t.Fatalf("held by %v", snap.Holders)
	}
	w = startWriterAt(t, c, from, "db", w)
	w.moreWrites(t, 10) // else what moves is the same snapshot
	w.end()
	deployed(t, from.Deploy(stateful("n3")))
	settledAnswers(t, c, 2, "1")
	w = startWriterAt(t, c, from, "db", w)
	w.moreWrites(t, 10)
	w.end()
	c.Node(1).PowerOff()
	awaitMember(t, from, "n2", "failed")
	at := fmt.Sprintf("db@%d", snap.Generation)
	if r := cli(t, from, "restore", at, "--yes"); r.Code != ExitFailed {
		t.Errorf("without the node that has it: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	c.Node(1).PowerOn()
	awaitMember(t, from, "n2", "alive")
	Await(t, "its restoration", smokeTimeout, func() error { return cli(t, from, "restore", at, "--yes").Failure() })
	Await(t, "its data", smokeTimeout, func() error {
		if got := stateOf(t, w); got != then {
			return errors.New("other data")
		}
		return nil
	})
}
