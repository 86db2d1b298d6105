//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// fill takes what is free of a node's disk but so many bytes, and says how to give it back.
func fill(t *testing.T, n *Node, left int64) (empty func()) {
	t.Helper()
	path := filepath.Join(n.DataDir(), "filler")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for page := make([]byte, 4096); ; {
		var fs unix.Statfs_t
		if err := unix.Statfs(n.DataDir(), &fs); err != nil {
			t.Fatal(err)
		}
		free := int64(fs.Bavail) * fs.Bsize
		if free <= left {
			break
		}
		if _, err := f.Write(page); err != nil && !errors.Is(err, syscall.ENOSPC) {
			t.Fatal(err)
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Error(err)
		}
	}
}

// awaitSick waits until a node says of another, or of itself, that it is sick for a reason; "" = that it is not.
func awaitSick(t *testing.T, from *Node, name, why string) {
	t.Helper()
	Await(t, fmt.Sprintf("that %s is sick: %q", name, why), smokeTimeout, func() error {
		members, err := from.API().Members(t.Context())
		if err != nil {
			return err
		}
		for _, m := range members.Members {
			if m.Name == name && (m.Sick == "") == (why == "") && strings.HasPrefix(m.Sick, why) {
				return nil
			} else if m.Name == name {
				err = fmt.Errorf("%s says %q", from.Name, m.Sick)
			}
		}
		return err
	})
}

// ledByAnother waits for a leader other than old in the eyes of another node, and returns it.
func ledByAnother(t *testing.T, c *Cluster, old *Node) (now *Node) {
	t.Helper()
	other := c.Node((old.index + 1) % 3)
	Await(t, "a leader other than "+old.Name, smokeTimeout, func() (err error) {
		if now, err = other.leader(); err == nil && now == old {
			err = errors.New("it still leads")
		}
		return err
	})
	return now
}

func noted(events []api.Event, node, kind, text string) bool {
	return slices.ContainsFunc(events, func(e api.Event) bool { return e.Node == node && e.Kind == kind && strings.Contains(e.Message, text) })
}

// TestFullDisk: a leader whose disk fills hands over while it still can write, keeps what it runs, takes nothing new and is
// named; filled to the last byte it survives; with room again it is as before.
func TestFullDisk(t *testing.T) {
	c := real(t, 3, WithDisk(96<<20))
	leader := c.WaitLeader()
	stays := Service{Name: "stays", Pin: []string{leader.Name}}
	deployed(t, leader.Deploy(Model{Services: []Service{stays}}))
	c.AwaitSettled(smokeTimeout, 1)
	pid, agent := pidOn(t, leader, "stays"), leader.lastAgent().cmd.Process.Pid

	began := time.Now()
	fill(t, leader, 3<<20)
	now := ledByAnother(t, c, leader)
	t.Logf("another leads %v after the disk filled", time.Since(began).Round(time.Millisecond))
	awaitSick(t, now, leader.Name, "disk full: 3.1 MB free of 101 MB at /run/node/data")
	t.Logf("\n%s\n%s", cli(t, now, "members").Stdout, cli(t, now, "status").Stdout)
	began = time.Now()
	r := now.Deploy(Model{Services: []Service{stays, {Name: "pinned", Pin: []string{leader.Name}}}})
	t.Logf("refused after %v: %s", time.Since(began).Round(time.Millisecond), r.Stdout+r.Stderr)
	if r.Code != ExitFailed || !strings.Contains(r.Stdout+r.Stderr, leader.Name+": disk full") {
		t.Errorf("pinned to the sick node: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	m := Model{Services: []Service{stays, {Name: "a"}, {Name: "b"}, {Name: "c"}}}
	deployed(t, leader.Deploy(m))
	for _, i := range c.AwaitSettled(smokeTimeout, 2).Instances {
		if (i.Node == leader.Name) != (i.Service == "stays") {
			t.Errorf("%s is on %s", i.Service, i.Node)
		}
	}

	empty := fill(t, leader, 0)
	deployed(t, now.Deploy(m.WithVersion("2", "a", "b", "c")))
	if r := cli(t, leader, "status"); r.Code != ExitNoQuorum || !strings.Contains(r.Stderr, "disk full") {
		t.Errorf("what the full node says: exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	if now, err := now.leader(); err != nil || now == leader {
		t.Errorf("led by %v, %v", now, err)
	}
	if pidOn(t, leader, "stays") != pid || leader.lastAgent().cmd.Process.Pid != agent || !leader.agentAlive() {
		t.Error("its service or its agent is not what it was")
	}

	empty()
	for _, n := range c.Nodes() {
		awaitSick(t, n, leader.Name, "")
	}
	deployed(t, leader.Deploy(Model{Services: []Service{stays, {Name: "pinned", Pin: []string{leader.Name}}}}))
	settledAnswers(t, c, 4, "1")
	if e := events(t, now); !noted(e, leader.Name, "sick", "disk full: 3.1 MB free") || !noted(e, leader.Name, "well", "the disk is well again") {
		t.Errorf("events: %v", e)
	}
}

// TestBrokenDisk: a leader whose disk takes no more writes, because it was made read-only or broke, or because it stalls, is
// replaced, says so, and does not lead again before it is well.
func TestBrokenDisk(t *testing.T) {
	for name, k := range map[string]struct {
		breaks, mends func(*Syncs)
		says          string
	}{
		"read-only": {func(s *Syncs) { s.Fail(unix.EROFS) }, func(s *Syncs) { s.Fail(0) }, "disk read-only at /run/node/data"},
		"broken":    {func(s *Syncs) { s.Fail(unix.EIO) }, func(s *Syncs) { s.Fail(0) }, "disk fails at /run/node/data: input/output error"},
		"stalled":   {(*Syncs).Hold, (*Syncs).Release, "disk stalls: a write at /run/node/data"},
	} {
		t.Run(name, func(t *testing.T) {
			c := real(t, 3, WithSyncCounters())
			leader := c.WaitLeader()
			pin := Service{Name: "stays", Pin: []string{leader.Name}}
			deployed(t, leader.Deploy(Model{Services: []Service{pin}}))
			c.AwaitSettled(smokeTimeout, 1)
			pid := pidOn(t, leader, "stays")
			k.breaks(leader.Syncs())
			began := time.Now()
			other := c.Node((leader.index + 1) % 3)
			m := Model{Services: []Service{pin, {Name: "more", Instances: "2"}}}
			deployed(t, other.Deploy(m))
			t.Logf("deployed %v after the disk broke", time.Since(began).Round(time.Millisecond))
			now := ledByAnother(t, c, leader)
			awaitSick(t, now, leader.Name, k.says)
			awaitSick(t, leader, leader.Name, k.says)
			t.Logf("named %v after the disk broke", time.Since(began).Round(time.Millisecond))
			if r := now.Deploy(Model{Services: []Service{pin, {Name: "pinned", Pin: []string{leader.Name}}}}); r.Code != ExitFailed || !strings.Contains(r.Stdout+r.Stderr, leader.Name+": "+k.says) {
				t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
			}
			third := c.Node((leader.index + 2) % 3)
			if now == third {
				third = other
			}
			now.KillAgent() // one of the two that are left: the sick one votes, or cannot, but does not lead
			stays := time.Now().Add(5 * time.Second)
			Await(t, "five seconds without the sick one as leader", smokeTimeout, func() error {
				if l, err := third.leader(); err == nil && l == leader {
					t.Fatal("the sick one leads")
				}
				if time.Now().Before(stays) {
					return errors.New("not yet")
				}
				return nil
			})
			k.mends(leader.Syncs())
			now.Start()
			for _, n := range c.Nodes() {
				awaitSick(t, n, leader.Name, "")
			}
			if pidOn(t, leader, "stays") != pid {
				t.Error("what runs there was restarted")
			}
			settledAnswers(t, c, 2, "1")
		})
	}
}

// busy makes a node a slow machine, of half a CPU, and has programs compute on it without end.
func busy(t *testing.T, n *Node) (end func()) {
	t.Helper()
	i := slices.IndexFunc(n.c.groups, func(h hierarchy) bool { return slices.Contains(strings.Split(h.Options, ","), "cpu") })
	if i < 0 {
		t.Skip("no cgroup in which CPU time can be limited")
	}
	group := filepath.Join(n.c.groups[i].own, n.host.group.name)
	quota := filepath.Join(group, "cpu.cfs_quota_us")
	if err := os.WriteFile(quota, []byte("50000"), 0); err != nil {
		t.Skip("CPU time cannot be limited:", err)
	}
	var tasks []*Task
	for range 4 {
		task, err := n.Spawn(nil, "/bin/sh", "-c", "while :; do :; done")
		if err != nil {
			t.Fatal(err)
		}
		tasks = append(tasks, task)
		pid := strconv.Itoa(task.cmd.Process.Pid)
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), []byte(pid), 0); err != nil {
			t.Fatal(err)
		}
	}
	return func() {
		for _, task := range tasks {
			task.Stop()
		}
		stat, err := os.ReadFile(filepath.Join(group, "cpu.stat"))
		var throttled int
		if _, after, ok := strings.Cut(string(stat), "nr_throttled "); ok {
			_, err = fmt.Sscan(after, &throttled)
		}
		if err != nil || throttled < 50 {
			t.Errorf("it was not busy: %s (%v)", stat, err)
		}
		if err := os.WriteFile(quota, []byte("-1"), 0); err != nil {
			t.Error(err)
		}
	}
}

// TestBusyNodeEvictsNobody: a machine without CPU time to spare, leading or not, has nobody marked down, and is not itself;
// deployments work.
func TestBusyNodeEvictsNobody(t *testing.T) {
	for name, which := range map[string]int{"leader": 0, "follower": 1} {
		t.Run(name, func(t *testing.T) {
			c := real(t, 3)
			leader := c.WaitLeader()
			n := c.Node((leader.index + which) % 3)
			m := Independent(6)
			deployed(t, leader.Deploy(m))
			before := c.AwaitSettled(smokeTimeout, 1)
			end := busy(t, n)
			until := time.Now().Add(20 * time.Second)
			Await(t, "twenty seconds of load", smokeTimeout, func() error {
				for _, from := range c.Nodes() {
					members, err := from.Members()
					if err != nil {
						return err
					}
					for _, m := range members {
						if m.Status == "failed" {
							t.Fatalf("%s says that %s is down", from.Name, m.Name)
						}
					}
				}
				if time.Now().Before(until) {
					return errors.New("not yet")
				}
				return nil
			})
			if after := c.AwaitSettled(smokeTimeout, 1); fmt.Sprint(pids(after)) != fmt.Sprint(pids(before)) || after.Generation != 1 {
				t.Errorf("%v became %v, generation %d", pids(before), pids(after), after.Generation)
			}
			began := time.Now()
			deployed(t, n.Deploy(m.WithVersion("2")))
			t.Logf("deployed on the busy node in %v", time.Since(began).Round(time.Millisecond))
			end()
			settledAnswers(t, c, 2, "2")
			leads := 0
			for _, e := range events(t, leader) {
				if e.Kind == "leader" {
					leads++
				}
				if e.Kind == "down" {
					t.Errorf("somebody was evicted: %+v", e)
				}
			}
			t.Logf("%d leaders", leads)
		})
	}
}
