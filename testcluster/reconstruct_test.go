//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStartsWithoutQuorum: the power fails everywhere and one machine comes back. It starts what needs no lease; the others
// come later, and nothing runs twice.
func TestStartsWithoutQuorum(t *testing.T) {
	c := real(t, 3)
	m := Model{Services: []Service{{Name: "free", Instances: "all"}, {Name: "db", Exclusive: true, Pin: []string{"n2"}}}}
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	awaitJournals(t, c)
	for _, n := range c.Nodes() {
		n.PowerOff()
	}
	alone := c.Node(1)
	alone.switchOnUnready(t)
	Await(t, "free on the node that is back", smokeTimeout, func() error {
		w, err := alone.World()
		if err == nil && len(w.Service("free")) != 1 {
			err = fmt.Errorf("%v", w.services())
		}
		return err
	})
	if w, err := alone.World(); err != nil || len(w.Service("db")) > 0 {
		t.Errorf("what needs a lease runs without: %v, %v", w.Service("db"), err)
	}
	c.Node(0).switchOnUnready(t)
	c.Node(2).PowerOn()
	settledAnswers(t, c, 1, "1")
}

// switchOnUnready is PowerOn for a node that cannot become ready alone.
func (n *Node) switchOnUnready(t *testing.T) {
	t.Helper()
	n.c.observer.Fault(n.Name, "power on")
	if err := n.switchOn(); err != nil {
		t.Fatal(err)
	}
	n.Launch()
}

// awaitJournals awaits that every node has written down what its State is.
func awaitJournals(t *testing.T, c *Cluster) {
	t.Helper()
	Await(t, "journals of what is settled", smokeTimeout, func() error {
		for _, n := range c.Nodes() {
			s, err := n.Status()
			if err != nil {
				return err
			}
			file, err := os.Stat(filepath.Join(n.DataDir(), "journal.state"))
			if err != nil {
				return err
			}
			for _, i := range s.Instances {
				if i.Since.After(file.ModTime()) {
					return fmt.Errorf("%s wrote at %v and %s became %s at %v", n.Name, file.ModTime(), i.Service, i.Phase, i.Since)
				}
			}
		}
		return nil
	})
}

// TestReconstruct: the raft directories of all nodes are deleted. The cluster goes on from a journal, with the same manifest
// and without a restart. With ISONOMIA_SOAK it does so with 200 services on five nodes.
func TestReconstruct(t *testing.T) {
	nodes, services := 3, 12
	if os.Getenv("ISONOMIA_SOAK") != "" {
		nodes, services = 5, 200
	}
	c := real(t, nodes)
	m := Random(services, 2, 1)
	deployed(t, c.Node(0).Deploy(m))
	before := c.AwaitSettled(smokeTimeout, 1)
	if r := cli(t, c.Node(0), "reconstruct", "--yes"); r.Code != ExitFailed || !strings.Contains(r.Stderr, "nothing is lost") {
		t.Errorf("with a leader: exit %d, %s%s", r.Code, r.Stdout, r.Stderr)
	}
	awaitJournals(t, c)
	starts := countStarts(c)
	for _, n := range c.Nodes() {
		n.KillAgent()
		if err := os.RemoveAll(filepath.Join(n.DataDir(), "raft")); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range c.Nodes() {
		n.Launch()
	}
	at := c.Node(2)
	Await(t, "a reconstruction", smokeTimeout, func() error {
		r := cli(t, at, "reconstruct", "--yes")
		if err := r.Failure(); err != nil {
			return err
		}
		if strings.Contains(r.Stdout+r.Stderr, "do not answer") {
			return errors.New("somebody was missing: " + r.Stdout)
		}
		return nil
	})
	after := c.AwaitSettled(smokeTimeout, 1)
	c.AwaitMembers(nodes)
	if r := c.Node(1).Deploy(m); r.Code != 0 || after.Generation != 1 {
		t.Errorf("the same model on generation %d: exit %d, %s%s", after.Generation, r.Code, r.Stdout, r.Stderr)
	} else if s := c.AwaitSettled(smokeTimeout, 1); s.Generation != 1 {
		t.Errorf("the same model made generation %d", s.Generation)
	}
	if n := countStarts(c); n != starts || len(after.Instances) != len(before.Instances) {
		t.Errorf("%d processes were started, %d instances of %d", n-starts, len(after.Instances), len(before.Instances))
	}
	deployed(t, c.Node(1).Deploy(m.WithVersion("2")))
	settledAnswers(t, c, 2, "2")
}

func countStarts(c *Cluster) (n int) {
	for _, e := range c.Observer().Events() {
		if e.Kind == EventStart {
			n++
		}
	}
	return n
}
