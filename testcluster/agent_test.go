//go:build linux

package testcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// give writes one of the files that the stub reads.
func give(t *testing.T, n *Node, name string, v any) {
	t.Helper()
	content, err := json.Marshal(v)
	if err == nil {
		err = os.WriteFile(filepath.Join(n.DataDir(), name), content, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type stubRun struct {
	Program string
	Env     []string
}

// service is a line of the stub's services.json.
func service(c *Cluster, n *Node, name, port string, env ...string) stubRun {
	return stubRun{Program: c.AddProgram(TestService(c.t), "testservice"), Env: append([]string{
		"ISONOMIA_SERVICE=" + name, "ISONOMIA_NODE=" + n.Name, "ISONOMIA_EPOCH=1", "JOURNAL=" + ObserverURL,
		"VERSION=1", "HOST=" + n.Address().String(), "PORT=" + port, "MODES=no-health"}, env...)}
}

func TestAgentKilledLeavesKeeperAndServices(t *testing.T) {
	c := bare(t, 1)
	n := c.Node(0)
	give(t, n, "services.json", []stubRun{service(c, n, "s", "8000")})
	sayActive(t, n, "s", 8000)
	n.Start()
	before := awaitService(t, n, "s")
	n.KillAgent()
	if w, _ := n.World(); w.Agent || w.Died != "" || w.Service("s")[0].PID != before.PID {
		t.Errorf("after the agent was killed: %+v", w)
	}
	if r := n.CLI(context.Background(), "members", "--json"); r.Code != ExitFailed || r.Failure() == nil {
		t.Errorf("a dead agent answered: %+v", r)
	}
	n.Start()
	if now := awaitService(t, n, "s"); now.PID != before.PID {
		t.Errorf("service was %v, is %v", before, now)
	}
}

// sayActive makes the stub say what is true of a service on its node.
func sayActive(t *testing.T, n *Node, name string, port int) {
	t.Helper()
	i := Instance{Service: name, Node: n.Name, Phase: phaseActive, Ports: map[string]int{"http": port}}
	if w, err := n.World(); err == nil && len(w.Service(name)) > 0 {
		i.PID = w.Service(name)[0].PID
	}
	give(t, n, "world.json", map[string]any{
		"status": Status{Leader: "n1", Settled: true, Generation: 1, Instances: []Instance{i}}})
}

// awaitService waits for the one process of a service and lets the stub tell of it.
func awaitService(t *testing.T, n *Node, name string) (p Process) {
	t.Helper()
	Await(t, "service "+name, 20*time.Second, func() error {
		w, err := n.World()
		if roots := w.Service(name); err == nil && len(roots) == 1 && len(w.Listeners) > 0 {
			p = roots[0]
			return nil
		}
		return giveUpIf(err)
	})
	sayActive(t, n, name, 8000)
	return p
}

func giveUpIf(err error) error {
	if err != nil {
		return giveUp{err}
	}
	return os.ErrNotExist
}

func TestPowerCycleStartsTheAgentAgain(t *testing.T) {
	c := bare(t, 2)
	c.Start()
	c.AwaitMembers(1) // the stub knows of one only
	if leader := c.WaitLeader(); leader != c.Node(0) {
		t.Errorf("leader is %v", leader.Name)
	}
	n := c.Node(1)
	n.PowerOff()
	if up := c.Up(); len(up) != 1 || up[0] != c.Node(0) {
		t.Errorf("up: %v", up)
	}
	if w, err := n.World(); err != nil || w.On || w.Died != "" {
		t.Errorf("world of a dead machine: %+v, %v", w, err)
	}
	n.PowerOn()
	if len(c.Up()) != 2 || strings.Contains(n.LogTail(1), "--join") {
		t.Errorf("log: %s", n.LogTail(5))
	}
	n.StopGracefully()
	n.Wipe()
	n.Start()
	if !strings.Contains(n.LogTail(3), "--join 10.20.0.1:7878 --token-file") {
		t.Errorf("after a wipe it did not join: %s", n.LogTail(3))
	}
	c.AwaitSettled(time.Second, 0)
}

func TestAgentThatEndsByItselfIsReported(t *testing.T) {
	c := bare(t, 1, WithoutRule(RuleAgent))
	n := c.Node(0)
	if err := n.startAgent(WithArgs("--exit")); err == nil || !strings.Contains(err.Error(), "told to exit") {
		t.Errorf("start said %v", err)
	}
	if w, _ := n.World(); w.Died != "exit status 1" {
		t.Errorf("died: %q", w.Died)
	}
	n.Launch(WithArgs("--exit"))
	if code := n.AwaitExit(10 * time.Second); code != 1 {
		t.Errorf("exit code %d", code)
	}
	if w, _ := n.World(); w.Died != "" {
		t.Errorf("an expected end was counted: %q", w.Died)
	}
}

func TestFrozenAgentDoesNotAnswer(t *testing.T) {
	c := bare(t, 1)
	n := c.Node(0)
	n.Start()
	n.FreezeAgent()
	if len(c.Up()) != 0 {
		t.Error("a frozen agent counts as up")
	}
	w, err := n.World()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range w.Processes {
		if (p.State == "T") != p.isAgent() {
			t.Errorf("state of %v", p)
		}
	}
	n.Thaw()
	if _, err := n.Members(); err != nil {
		t.Error(err)
	}
}

func TestSyncsAreCountedExactly(t *testing.T) {
	c := bare(t, 1)
	n := c.Node(0)
	s := CountSyncs()
	n.Start(WithSyncs(s), WithArgs("--sync", "12"))
	if s.Count() != 12 {
		t.Errorf("counted %d of 12", s.Count())
	}
}

func TestAgentIsKilledAtTheNthSync(t *testing.T) {
	c := bare(t, 1)
	n := c.Node(0)
	s := KillAtSync(7)
	n.Launch(WithSyncs(s), WithArgs("--sync", "12"))
	<-s.Fired()
	<-n.lastAgent().exited
	content, err := os.ReadFile(filepath.Join(n.DataDir(), "synced"))
	if err != nil || string(content) != "7" || s.Count() != 7 {
		t.Errorf("file says %s, counter %d: %v", content, s.Count(), err)
	}
	if w, _ := n.World(); w.Died != "" || len(w.Processes) != 1 || !w.Processes[0].isKeeper() {
		t.Errorf("after the kill: %+v", w)
	}
	n.Start() // the keeper still has the filter, and must not hang in it
}

func TestPowerIsCutAtASync(t *testing.T) {
	c := bare(t, 1, WithSyncCounters())
	n := c.Node(0)
	n.Launch(WithArgs("--sync", "1000000"))
	s := n.Syncs()
	s.Arm(5, PowerCut)
	<-s.Fired()
	if w, err := n.World(); err != nil || w.On || w.Died != "" {
		t.Errorf("%+v, %v", w, err)
	}
	n.Revive()
	if n.Syncs() == s || len(c.Up()) != 1 {
		t.Error("not revived")
	}
}

func TestNthSyncFails(t *testing.T) {
	c := bare(t, 1)
	n := c.Node(0)
	n.Start(WithSyncs(FailSync(3, syscall.ENOSPC)), WithArgs("--sync", "5"))
	log := n.LogTail(10)
	if !strings.Contains(log, "sync 3 failed: sync /run/node/data/synced: no space left on device") || strings.Count(log, "failed") != 1 {
		t.Error(log)
	}
}

func TestWrapperStandsBeforeTheAgent(t *testing.T) {
	c := bare(t, 1)
	n := c.Node(0)
	n.Start(WithWrapper("/usr/bin/env", "WRAPPED=1"))
	n.Restart()
	n.KillAgent()
}

// recorder is a test that goes on after a failure.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper()      {}
func (r *recorder) Failed() bool { return len(r.errors) > 0 }
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// A fault planted in the world itself is seen from outside.
func TestInvariantsSeeTheWorld(t *testing.T) {
	plant := map[string]func(*testing.T, *Node){
		"one-process: s runs 2 times on n1": func(t *testing.T, n *Node) {
			give(t, n, "services.json", []stubRun{service(n.c, n, "s", "8000"), service(n.c, n, "s", "8001")})
		},
		"state-is-true: s runs on n1, but State has nothing alive there": func(t *testing.T, n *Node) {
			give(t, n, "services.json", []stubRun{service(n.c, n, "s", "8000")})
		},
		"state-is-true: s is active on n1, but has no process": func(t *testing.T, n *Node) {
			give(t, n, "world.json", map[string]any{"status": Status{Settled: true, Instances: []Instance{
				{Service: "s", Node: "n1", Phase: phaseActive, PID: 4711}}}})
		},
		"no-process-left: n1 still has process": func(t *testing.T, n *Node) {
			if _, err := n.Spawn(nil, "/bin/sleep", "1000"); err != nil {
				t.Fatal(err)
			}
		},
		"no-file-left: n1 still has /run/node/data/x.tmp1": func(t *testing.T, n *Node) {
			os.WriteFile(filepath.Join(n.DataDir(), "x.tmp1"), nil, 0o644)
		},
	}
	for want, do := range plant {
		t.Run(want[:strings.Index(want, ":")], func(t *testing.T) {
			c := bare(t, 1, WithoutInvariants())
			n := c.Node(0)
			do(t, n)
			n.Start()
			settled(t, n)
			r := &recorder{TB: t}
			complain(r, c.settle(200*time.Millisecond), nil)
			complain(r, c.end(200*time.Millisecond), nil)
			if all := strings.Join(r.errors, "\n"); !strings.Contains(all, want) {
				t.Errorf("want %q, got %q", want, all)
			}
		})
	}
}

// settled waits until all processes of the keeper have become what they shall be.
func settled(t *testing.T, n *Node) {
	t.Helper()
	var services []stubRun
	if content, err := os.ReadFile(filepath.Join(n.DataDir(), "services.json")); err == nil {
		json.Unmarshal(content, &services)
	}
	Await(t, "services", 20*time.Second, func() error {
		if w, err := n.World(); err != nil || len(w.Listeners) != len(services) {
			return giveUpIf(err)
		}
		return nil
	})
}
