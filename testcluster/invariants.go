//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// settleTimeout is how long the cluster may take at the end of a test to bring
// the world in line with what State says.
const settleTimeout = 60 * time.Second

// endTimeout is how long what was told to end may take for it, the ten seconds
// until KILL included.
const endTimeout = 20 * time.Second

// Invariants checks what must hold after every test, whatever the test did: it
// ends the faults, lets the cluster settle, compares State with the world, ends
// everything and looks for what is left. New arranges for it to be called. In a
// test that has failed already only the rules that hold at every moment are
// checked.
func Invariants(t testing.TB, c *Cluster) {
	t.Helper()
	if t.Failed() {
		o, err := c.Observe()
		complain(t, check(o, checkAlways, c.config.ignored), err)
		return
	}
	c.Heal()
	for _, n := range c.nodes {
		if n.isFrozen() {
			n.Thaw()
		}
	}
	complain(t, c.settle(settleTimeout), nil)
	complain(t, c.end(endTimeout), nil)
}

func complain(t testing.TB, list []Violation, err error) {
	t.Helper()
	for _, v := range list {
		t.Errorf("invariant %v", v)
	}
	if err != nil {
		t.Errorf("invariants: %v", err)
	}
}

// settle looks until State and the world agree, and returns what is wrong if
// they do not. A breach of what must always hold ends the wait at once.
func (c *Cluster) settle(timeout time.Duration) (bad []Violation) {
	err := Poll(timeout, func() error {
		o, err := c.Observe()
		if err != nil {
			return err
		}
		if bad = check(o, checkAlways, c.config.ignored); len(bad) > 0 {
			return giveUp{errors.New("broken")}
		}
		if len(c.Up()) == 0 {
			return nil // nobody there to be true or false
		}
		if o.Settling != "" && !c.config.ignored[RuleState] {
			return errors.New(o.Settling)
		}
		bad = check(o, checkSettled, c.config.ignored)
		return join(bad)
	})
	if err != nil && len(bad) == 0 {
		bad = []Violation{{RuleState, fmt.Sprintf("not after %v: %v", timeout, err)}}
	}
	return bad
}

func join(list []Violation) error {
	if len(list) == 0 {
		return nil
	}
	var lines []string
	for _, v := range list {
		lines = append(lines, v.String())
	}
	return errors.New(strings.Join(lines, "\n"))
}

// end stops every agent, keeper and service in good order and returns what is
// left of them.
func (c *Cluster) end(timeout time.Duration) (bad []Violation) {
	err := c.each(c.Up(), (*Node).stopAgent)
	err = errors.Join(err, c.each(c.nodes, (*Node).endServices))
	if err != nil {
		bad = append(bad, Violation{RuleProcesses, err.Error()})
	}
	var left []Violation
	if err := Poll(timeout, func() error {
		o, err := c.Observe()
		left = check(o, checkEnd, c.config.ignored)
		return errors.Join(err, join(left))
	}); err != nil && len(left) == 0 {
		bad = append(bad, Violation{RuleProcesses, err.Error()})
	}
	return append(bad, left...)
}

// EndServices asks the keeper of the node, and with it the services, to end. The
// agent should have been stopped before.
func (n *Node) EndServices() {
	n.c.t.Helper()
	if err := n.endServices(); err != nil {
		n.c.t.Fatalf("end services of %s: %v", n.Name, err)
	}
}

func (n *Node) endServices() error {
	if _, err := n.running(); err != nil {
		return nil // nothing runs
	}
	n.c.observer.Fault(n.Name, "services ended")
	return n.signalKeepers(syscall.SIGTERM)
}
