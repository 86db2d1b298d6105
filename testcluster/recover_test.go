//go:build linux

package testcluster

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRecover: the machines of three of five voters, the leader's too, are gone. The others go on by one command, with the
// states of which they have copies. Then the three come back with their disks, which are a majority of what was: they enter
// what is.
func TestRecover(t *testing.T) {
	c := real(t, 5)
	from := c.Node(0)
	m := guarded("n1", "n2", "n3", "n4", "n5").Change("db", func(s *Service) { s.Copies = 5 }).Change("free", func(s *Service) { s.Pin = nil })
	deployed(t, from.Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	awaitRoles(t, c, 5, 0, 0)
	if r := cli(t, from, "recover", "--yes"); r.Code != ExitFailed || !strings.Contains(r.Stderr, "nothing is lost") {
		t.Errorf("with a leader: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	copied(t, c, from)
	Await(t, "copies everywhere", smokeTimeout, func() error {
		if list := snapshots(t, from, "db"); len(list[0].Holders) < 5 {
			return fmt.Errorf("held by %v", list[0].Holders)
		}
		return nil
	})
	deployed(t, cli(t, from, "check")) // that voters have all packages, too: a few seconds after a deployment they do
	leader := c.WaitLeader()
	rest := slices.DeleteFunc(slices.Clone(c.Nodes()), func(n *Node) bool { return n == leader })
	left, lost := rest[:2], append(rest[2:], leader)
	for _, n := range lost {
		n.PowerOff()
	}
	at := left[0]
	var said string
	Await(t, "a recovery", smokeTimeout, func() error {
		r := cli(t, at, "recover", "--yes")
		said = r.Stdout + r.Stderr
		return r.Failure()
	})
	if !strings.Contains(said, "3 of 5 voters are not there") {
		t.Errorf("it said: %s", said)
	}
	Await(t, "everything active on what is left", smokeTimeout, func() error {
		for _, service := range []string{"db", "web"} {
			if now, err := nodeOf(at, service); err != nil || !slices.Contains(left, now) {
				return fmt.Errorf("%s is on %v: %w", service, now, cmp.Or(err, errors.New("that is not what is left")))
			}
		}
		return nil
	})
	w := startWriterAt(t, c, at, "db", &writer{})
	w.moreWrites(t, 10)
	deployed(t, left[1].Deploy(m.WithVersion("2")))
	for _, n := range lost {
		n.switchOnUnready(t)
	}
	for _, n := range c.Nodes() {
		awaitMember(t, at, n.Name, "alive")
		awaitMember(t, n, at.Name, "alive")
	}
	awaitRoles(t, c, 5, 0, 0)
	w.moreWrites(t, 10)
	w.nothingLost(t)
	deployed(t, lost[0].Deploy(m.WithVersion("3")))
	c.AwaitSettled(smokeTimeout, 2)
	for _, n := range lost {
		if aside, _ := filepath.Glob(filepath.Join(n.DataDir(), "raft.aside-*", "log.db")); len(aside) != 1 {
			t.Errorf("%s has set aside %v", n.Name, aside)
		}
	}
	Await(t, "answers of the newest version", smokeTimeout, func() error {
		s, err := c.settled(0)
		if err == nil {
			err = answer(c, s, "3")
		}
		return err
	})
}

// TestRecoverOfTwo: of two nodes the one that votes is gone.
func TestRecoverOfTwo(t *testing.T) {
	c := real(t, 2)
	m := Chain(3)
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	voter := c.WaitLeader()
	at := c.Node(0)
	if at == voter {
		at = c.Node(1)
	}
	awaitRoles(t, c, 1, 1, 0)
	voter.PowerOff()
	Await(t, "a recovery", smokeTimeout, func() error { return cli(t, at, "recover", "--yes").Failure() })
	deployed(t, at.Deploy(m.WithVersion("2")))
	voter.switchOnUnready(t)
	awaitMember(t, at, voter.Name, "alive")
	c.AwaitMembers(2)
	deployed(t, voter.Deploy(m.WithVersion("3")))
	c.AwaitSettled(smokeTimeout, 2)
}
