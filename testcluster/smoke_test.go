//go:build linux

package testcluster

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"
)

// real is a running cluster of the product.
func real(t *testing.T, n int, options ...Option) *Cluster {
	t.Helper()
	Require(t)
	t.Parallel()
	return Start(t, n, options...)
}

// smokeTimeout is a limit for broken clusters, not an expectation.
const smokeTimeout = 2 * time.Minute

// deployed fails the test unless the command worked.
func deployed(t *testing.T, r Result) {
	t.Helper()
	if err := r.Failure(); err != nil {
		t.Fatal(err)
	}
}

// answers awaits that every active instance answers in the wanted version, from
// another node.
func answers(t *testing.T, c *Cluster, s Status, version string) {
	t.Helper()
	Await(t, "answers", smokeTimeout, func() error { return answer(c, s, version) })
}

// settledAnswers awaits that the cluster is settled and all of it answers: what
// it says of itself may be a moment old when a node dies.
func settledAnswers(t *testing.T, c *Cluster, generation uint64, version string) {
	t.Helper()
	Await(t, "a settled cluster that answers", smokeTimeout, func() error {
		s, err := c.settled(generation)
		if err == nil {
			err = answer(c, s, version)
		}
		return err
	})
}

func answer(c *Cluster, s Status, version string) error {
	from := c.Up()[0]
	for _, i := range s.Instances {
		if i.Phase != phaseActive || i.Ports["http"] == 0 {
			continue
		}
		want := fmt.Sprintf("%s %s %s\n", i.Service, version, i.Node)
		url := "http://" + net.JoinHostPort(i.Address, strconv.Itoa(i.Ports["http"])) + "/who"
		got, err := fetch(from, url)
		if err == nil && got != want {
			err = fmt.Errorf("%s says %q, not %q", url, got, want)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func fetch(from *Node, url string) (string, error) {
	r, err := from.HTTP(5 * time.Second).Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	buf := make([]byte, 1000)
	n, _ := r.Body.Read(buf)
	return string(buf[:n]), nil
}

// pids are the processes of all instances.
func pids(s Status) map[string]int {
	m := map[string]int{}
	for _, i := range s.Instances {
		m[i.Service+" on "+i.Node] = i.PID
	}
	return m
}

func TestThreeNodesDeploy(t *testing.T) {
	c := real(t, 3)
	m := Random(8, 2, 1)
	dir := m.Write(t)
	deployed(t, c.Node(1).DeployDir(dir))
	first := c.AwaitSettled(smokeTimeout, 1)
	answers(t, c, first, "1")

	deployed(t, c.Node(2).DeployDir(dir))
	again := c.AwaitSettled(smokeTimeout, 1)
	if again.Generation != first.Generation || fmt.Sprint(pids(again)) != fmt.Sprint(pids(first)) {
		t.Errorf("an unchanged model changed something: %+v, %+v", first, again)
	}

	deployed(t, c.Node(0).Deploy(m.WithVersion("2")))
	answers(t, c, c.AwaitSettled(smokeTimeout, first.Generation+1), "2")
}

func TestDeployOutlivesTheLeader(t *testing.T) {
	for name, die := range map[string]func(*Node){"agent killed": (*Node).KillAgent, "power off": (*Node).PowerOff} {
		t.Run(name, func(t *testing.T) {
			c := real(t, 3)
			m := Random(20, 2, 2)
			deployed(t, c.WaitLeader().Deploy(m, "--no-wait"))
			leader := c.WaitLeader()
			Await(t, "a first start", smokeTimeout, func() error {
				if len(c.Observer().Events()) == 0 {
					return os.ErrNotExist
				}
				return nil
			})
			die(leader)
			settledAnswers(t, c, 1, "1")
			leader.Revive()
			c.AwaitMembers(3)
			settledAnswers(t, c, 1, "1")
		})
	}
}

func TestAgentRestartTouchesNoService(t *testing.T) {
	c := real(t, 1)
	n := c.Node(0)
	deployed(t, n.Deploy(Chain(3)))
	before := c.AwaitSettled(smokeTimeout, 1)
	n.KillAgent()
	n.Start()
	n.Restart()
	if after := c.AwaitSettled(smokeTimeout, 1); fmt.Sprint(pids(after)) != fmt.Sprint(pids(before)) {
		t.Errorf("%v became %v", pids(before), pids(after))
	}
}

func TestUnhealthyServiceRollsBack(t *testing.T) {
	c := real(t, 3)
	m := Chain(3)
	deployed(t, c.Node(0).Deploy(m))
	before := c.AwaitSettled(smokeTimeout, 1)
	bad := m.Change("s2", func(s *Service) {
		s.Version, s.Modes = "2", []string{"fail"}
	})
	if r := c.Node(1).Deploy(bad); r.Code != ExitRolledBack {
		t.Errorf("exit code %d: %v", r.Code, r.Failure())
	}
	answers(t, c, c.AwaitSettled(smokeTimeout, before.Generation+1), "1")
	history, err := c.Node(2).History()
	if err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]bool{}
	for _, g := range history {
		outcomes[g.Outcome] = true
	}
	if !outcomes["rolled_back"] {
		t.Errorf("history is %+v", history)
	}
}

func TestMinorityRefusesAndMajorityGoesOn(t *testing.T) {
	c := real(t, 3)
	deployed(t, c.Node(0).Deploy(Chain(2)))
	leader := c.WaitLeader()
	var others []*Node
	for _, n := range c.Nodes() {
		if n != leader {
			others = append(others, n)
		}
	}
	c.Partition([]*Node{leader}, others)
	Await(t, "another leader", smokeTimeout, func() error {
		now, err := others[0].leader()
		if err == nil && now == leader {
			err = fmt.Errorf("still %s", now.Name)
		}
		return err
	})
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	if r := leader.CLI(ctx, "deploy", "--yes", "--json", Chain(3).Write(t)); r.Code != ExitNoQuorum {
		t.Errorf("a minority deployed: %d, %v", r.Code, r.Failure())
	}
	deployed(t, others[1].Deploy(Chain(2).WithVersion("2")))
	c.Heal()
	c.AwaitMembers(3)
	answers(t, c, c.AwaitSettled(smokeTimeout, 2), "2")
}

func TestTwoOperatorsAtOnce(t *testing.T) {
	c := real(t, 3)
	dirs := []string{Chain(3).Write(t), Chain(3).WithVersion("2").Write(t)}
	results := make([]Result, 2)
	var wg sync.WaitGroup
	for i := range results {
		wg.Go(func() { results[i] = c.Node(i).DeployDir(dirs[i]) })
	}
	wg.Wait()
	for _, r := range results {
		if r.Code != ExitDone && r.Code != ExitFailed {
			t.Errorf("exit code %d: %v", r.Code, r.Failure())
		}
	}
	c.AwaitSettled(smokeTimeout, 1)
}

func TestAddressMayChange(t *testing.T) {
	c := real(t, 3)
	n := c.Node(2)
	n.ChangeAddress(nodeAddress(77))
	n.StopGracefully()
	n.Start(WithJoin())
	c.AwaitMembers(3)
	deployed(t, n.Deploy(Chain(3)))
	c.AwaitSettled(smokeTimeout, 1)
}

// The leader dies at a sync of a deployment: three of them with either death, or
// with ISONOMIA_SOAK every one.
func TestCrashPoints(t *testing.T) {
	Require(t)
	t.Parallel()
	m := Random(20, 2, 3)
	total := countSyncs(t, m)
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("ISONOMIA_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("the leader syncs %d times; ISONOMIA_TEST_SEED=%d", total, seed)
	points := rand.New(rand.NewPCG(seed, 0)).Perm(total)
	if os.Getenv("ISONOMIA_SOAK") == "" {
		points = points[:min(3, total)]
	}
	for _, p := range points {
		t.Run(fmt.Sprintf("agent killed at %d", p+1), func(t *testing.T) { crash(t, m, p+1, AgentKilled) })
		t.Run(fmt.Sprintf("power off at %d", p+1), func(t *testing.T) { crash(t, m, p+1, PowerCut) })
	}
}

// countSyncs is how often the leader syncs while a model is deployed.
func countSyncs(t *testing.T, m Model) (total int) {
	t.Run("clean run", func(t *testing.T) {
		c := Start(t, 3, WithSyncCounters())
		leader := c.WaitLeader()
		before := leader.Syncs().Count()
		deployed(t, leader.Deploy(m))
		c.AwaitSettled(smokeTimeout, 1)
		total = leader.Syncs().Count() - before
	})
	return total
}

// crash deploys through another node while the leader dies at its nth sync.
func crash(t *testing.T, m Model, nth int, fate Fate) {
	c := real(t, 3, WithSyncCounters())
	leader := c.WaitLeader()
	other := c.Node((leader.index + 1) % 3)
	leader.Syncs().Arm(nth, fate)
	deployed(t, other.Deploy(m))
	settledAnswers(t, c, 1, "1")
	leader.Syncs().Disarm()
	leader.Revive()
	c.AwaitMembers(3)
	settledAnswers(t, c, 1, "1")
}
