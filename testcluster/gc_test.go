//go:build linux

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// statesOn are the nodes that have a directory with the state of a service.
func statesOn(c *Cluster, service string) (names []string) {
	for i := range 3 {
		if _, err := os.Stat(filepath.Join(c.Node(i).DataDir(), "state", "default", service, "state")); err == nil {
			names = append(names, c.Node(i).Name)
		}
	}
	return names
}

func collect(t *testing.T, n *Node, args ...string) (gc api.GC) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	if err := n.Query(ctx, &gc, append([]string{"gc", "--yes"}, args...)...); err != nil {
		t.Fatal(err)
	}
	return gc
}

// TestGarbage: what a move leaves behind and what is undeployed goes when asked, and nothing else does; a last snapshot
// stays, and is what a restore brings back.
func TestGarbage(t *testing.T) {
	c := real(t, 3)
	deployed(t, c.Node(0).Deploy(stateful("n2")))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, c.Node(0), "db")
	w.moreWrites(t, 10)
	if gc := collect(t, c.Node(0)); len(gc.States) != 0 {
		t.Errorf("deleted of what is in use: %+v", gc.States)
	}
	deployed(t, c.Node(1).Deploy(stateful("n3")))
	settledAnswers(t, c, 2, "1")
	w.moreWrites(t, 10)
	w.end()
	before := stateOf(t, w)
	if on := statesOn(c, "db"); !slices.Equal(on, []string{"n2", "n3"}) {
		t.Fatalf("states on %v", on)
	}
	if gc := collect(t, c.Node(0)); len(gc.States) != 1 || gc.States[0].Node != "n2" || !gc.States[0].Deleted || gc.States[0].Last {
		t.Errorf("after a move: %+v", gc)
	}
	if on := statesOn(c, "db"); !slices.Equal(on, []string{"n3"}) {
		t.Fatalf("states on %v", on)
	}
	deployed(t, cli(t, c.Node(2), "undeploy", "--yes"))
	if on := statesOn(c, "db"); !slices.Equal(on, []string{"n3"}) {
		t.Fatalf("undeployed: states on %v", on)
	}
	deployed(t, c.Node(1).Deploy(stateful("n3"))) // as it was
	settledAnswers(t, c, 4, "1")
	if got := stateOf(t, w); got != before {
		t.Errorf("deployed again: %d bytes, not %d", len(got), len(before))
	}
	deployed(t, cli(t, c.Node(0), "undeploy", "--yes", "--delete-state"))
	if on := statesOn(c, "db"); len(on) != 0 {
		t.Errorf("states on %v", on)
	}
	deployed(t, c.Node(0).Deploy(stateful("n1"))) // anew
	settledAnswers(t, c, 6, "1")
	if got := stateOf(t, w); got != "" {
		t.Errorf("it did not begin anew: %q", got)
	}
	deployed(t, cli(t, c.Node(1), "restore", "db", "--yes"))
	if got := stateOf(t, w); got != before {
		t.Errorf("restored %d bytes, not %d, from %+v", len(got), len(before), snapshots(t, c.Node(0), "db"))
	}
	deployed(t, cli(t, c.Node(0), "undeploy", "db", "web", "--yes", "--delete-state"))
	if gc := collect(t, c.Node(0), "--keep", "0", "--service", "db"); len(gc.Snapshots) < 2 {
		t.Errorf("dropped %+v", gc)
	}
	if list := snapshots(t, c.Node(0), "db"); len(list) != 0 {
		t.Errorf("kept %+v", list)
	}
}

// TestGarbageOfANodeThatDies: the node that deletes dies in the middle; either it was deleted or it can be again, and a
// service that is deployed meanwhile has its state or begins without.
func TestGarbageOfANodeThatDies(t *testing.T) {
	Require(t)
	t.Parallel()
	c := Start(t, 3, WithSyncCounters())
	leader := c.WaitLeader()
	holder := c.Node((leader.index + 1) % 3)
	for nth := 1; nth <= 8; nth++ {
		deployed(t, leader.Deploy(stateful(holder.Name)))
		s := c.AwaitSettled(smokeTimeout, uint64(2*nth-1))
		w := startWriter(t, c, leader, "db")
		w.moreWrites(t, 3)
		w.end()
		before := stateOf(t, w)
		deployed(t, cli(t, leader, "undeploy", "--yes"))
		holder.Syncs().Arm(nth, AgentKilled)
		ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
		gc := leader.CLI(ctx, "gc", "--yes", "--json")
		cancel()
		fired := false
		select {
		case <-holder.Syncs().Fired():
			fired = true
			Await(t, "the death", smokeTimeout, func() error {
				if slices.Contains(c.Up(), holder) {
					return errors.New("the killed agent is not gone yet")
				}
				return nil
			})
		default:
		}
		holder.Syncs().Disarm()
		holder.Revive()
		c.AwaitMembers(3)
		t.Logf("sync %d: killed %t; generation %d; %s", nth, fired, s.Generation, strings.TrimSpace(gc.Stdout))
		Await(t, "the deletion", smokeTimeout, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
			defer cancel()
			if r := leader.CLI(ctx, "gc", "--yes"); r.Code != ExitDone {
				return r.Failure()
			}
			if on := statesOn(c, "db"); len(on) > 0 {
				return fmt.Errorf("on %v", on)
			}
			return nil
		})
		kept := snapshots(t, leader, "db")
		if len(kept) == 0 {
			t.Fatalf("sync %d: no last snapshot of %d bytes is kept", nth, len(before))
		}
		if kept[0].Size < int64(len(before)) {
			t.Errorf("sync %d: the last snapshot has %d bytes, not %d", nth, kept[0].Size, len(before))
		}
	}
}
