//go:build linux

package testcluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// stays says which instances of the second status have the process that they had in the first.
func stays(before, after Status) (services []string) {
	had := pids(before)
	for _, i := range after.Instances {
		if pid := had[i.Service+" on "+i.Node]; pid != 0 && pid == i.PID && i.Phase == phaseActive {
			services = append(services, i.Service)
		}
	}
	slices.Sort(services)
	return services
}

// Only what changed and what depends on it is started again, and the plan says why.
func TestOneServiceChanges(t *testing.T) {
	c := real(t, 3)
	m := Model{Services: []Service{{Name: "db"}, {Name: "api", DependsOn: []string{"db"}}, {Name: "web", DependsOn: []string{"api"}},
		{Name: "cron", ActivatesAfter: []string{"api"}}, {Name: "other"}}}
	deployed(t, c.Node(0).Deploy(m))
	before := c.AwaitSettled(smokeTimeout, 1)
	changed := m.WithVersion("2", "api")
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	plan := c.Node(1).CLI(ctx, "plan", changed.Write(t))
	deployed(t, plan)
	for _, want := range []string{"api", "web"} {
		if !strings.Contains(plan.Stdout, want) {
			t.Errorf("the plan does not name %s:\n%s", want, plan.Stdout)
		}
	}
	deployed(t, c.Node(1).Deploy(changed))
	after := c.AwaitSettled(smokeTimeout, before.Generation+1)
	if got := fmt.Sprint(stays(before, after)); got != "[cron db other]" {
		t.Errorf("these were left alone: %s\n%s", got, plan.Stdout)
	}
}

// Rolling back twice goes back two generations, not forward again.
func TestRollbackTwice(t *testing.T) {
	c := real(t, 3)
	m := Chain(3)
	for i, version := range []string{"1", "2", "3"} {
		deployed(t, c.Node(i).Deploy(m.WithVersion(version)))
		answers(t, c, c.AwaitSettled(smokeTimeout, uint64(i+1)), version)
	}
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	for i, version := range []string{"2", "1"} {
		deployed(t, c.Node(i).CLI(ctx, "rollback", "--yes"))
		answers(t, c, c.AwaitSettled(smokeTimeout, uint64(i+4)), version)
	}
	if r := c.Node(2).CLI(ctx, "rollback", "--yes", "--json"); r.Code == ExitDone {
		t.Errorf("there was something before the first: %s", r.Stdout)
	}
	answers(t, c, c.AwaitSettled(smokeTimeout, 5), "1")
}

// A machine goes, an upgrade goes on without it, and nothing obsolete runs on it when it comes back (an invariant).
func TestUpgradeWithoutAMachine(t *testing.T) {
	c := real(t, 3)
	m := Independent(6)
	deployed(t, c.Node(0).Deploy(m))
	before := c.AwaitSettled(smokeTimeout, 1)
	leader := c.WaitLeader()
	gone := c.Node((leader.index + 1) % 3)
	if !slices.ContainsFunc(before.Instances, func(i Instance) bool { return i.Node == gone.Name }) {
		t.Fatalf("nothing is on %s: %+v", gone.Name, before)
	}
	gone.PowerOff()
	adapted := c.AwaitSettled(smokeTimeout, before.Generation+1)
	answers(t, c, adapted, "1")
	deployed(t, leader.Deploy(m.WithVersion("2")))
	after := c.AwaitSettled(smokeTimeout, adapted.Generation+1)
	answers(t, c, after, "2")
	if slices.ContainsFunc(after.Instances, func(i Instance) bool { return i.Node == gone.Name }) {
		t.Errorf("something is said to be on %s: %+v", gone.Name, after)
	}
	gone.Revive()
	c.AwaitMembers(3)
	answers(t, c, c.AwaitSettled(smokeTimeout, after.Generation), "2")
}
