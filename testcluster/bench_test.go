//go:build linux

package testcluster

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// These run whole clusters; one iteration is a whole run (-benchtime 1x).

// percentile of sorted values; p from 0 to 1.
func percentile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)-1, int(p*float64(len(sorted))))]
}

// witness is the idle process beside a measurement.
type witness struct {
	in  io.WriteCloser
	out *bufio.Scanner
}

func startWitness(t testing.TB) *witness {
	path, err := build("witness", "./testcluster/witness", false)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	return &witness{in, bufio.NewScanner(out)}
}

// worst is how late the witness was woken at the worst since it was asked last.
func (w *witness) worst() time.Duration {
	fmt.Fprintln(w.in)
	if !w.out.Scan() {
		return time.Hour
	}
	us, err := strconv.Atoi(w.out.Text())
	if err != nil {
		return time.Hour
	}
	return time.Duration(us) * time.Microsecond
}

// BenchmarkFailover kills the leader's agent and measures until the next write is committed through another node.
func BenchmarkFailover(b *testing.B) {
	kills := 50
	if v, err := strconv.Atoi(os.Getenv("ISONOMIA_KILLS")); err == nil {
		kills = v
	}
	for range b.N {
		c := Start(b, 3)
		w := startWitness(b)
		var calm, late []time.Duration
		for range kills {
			leader := c.WaitLeader()
			other := c.Up()[0]
			if other == leader {
				other = c.Up()[1]
			}
			w.worst()
			start := time.Now()
			leader.KillAgent()
			Await(b, "a committed write", smokeTimeout, func() error {
				_, err := other.CreateToken()
				return err
			})
			took := time.Since(start)
			if w.worst() > 100*time.Millisecond {
				late = append(late, took)
			} else {
				calm = append(calm, took)
			}
			leader.Revive()
			c.AwaitMembers(3)
			c.AwaitVoters(3)
		}
		slices.Sort(calm)
		b.ReportMetric(percentile(calm, 0.5).Seconds(), "p50-s")
		b.ReportMetric(percentile(calm, 0.99).Seconds(), "p99-s")
		b.ReportMetric(float64(len(calm)), "rounds")
		b.ReportMetric(float64(len(late)), "rounds-witness-late")
		if len(late) > 0 {
			slices.Sort(late)
			b.ReportMetric(percentile(late, 0.99).Seconds(), "late-p99-s")
		}
		b.ReportMetric(0, "ns/op")
	}
}

// BenchmarkPlannedStop stops the leader in good order: it hands over first.
func BenchmarkPlannedStop(b *testing.B) {
	for range b.N {
		c := Start(b, 3)
		var took []time.Duration
		for range 10 {
			leader := c.WaitLeader()
			other := c.Up()[0]
			if other == leader {
				other = c.Up()[1]
			}
			gap := writeGap(b, other, leader.StopGracefully)
			took = append(took, gap)
			leader.Start()
			c.AwaitMembers(3)
			c.AwaitVoters(3)
		}
		slices.Sort(took)
		b.ReportMetric(float64(percentile(took, 0.5).Milliseconds()), "p50-ms")
		b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "max-ms")
		b.ReportMetric(0, "ns/op")
	}
}

// writeGap is the longest time between two committed writes while f runs and for a second after.
func writeGap(t testing.TB, n *Node, f func()) time.Duration {
	stop := make(chan struct{})
	gap := make(chan time.Duration)
	go func() {
		var worst time.Duration
		last := time.Now()
		committed := func() { worst, last = max(worst, time.Since(last)), time.Now() }
		for {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			tok, err := n.API().CreateToken(ctx, api.TokenRequest{By: "bench", TTL: time.Minute})
			if err == nil {
				committed()
				if n.API().RevokeToken(ctx, tok.ID) == nil {
					committed()
				}
			}
			cancel()
			select {
			case <-stop:
				gap <- worst
				return
			default:
			}
		}
	}()
	f()
	time.Sleep(time.Second)
	close(stop)
	return <-gap
}

// trivial is a model of n services that only sleep.
func trivial(t testing.TB, n int, version string) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "service \"s%04d\" {\n  type = \"process\"\n  run {\n    command = [\"sleep\", \"1000000\"]\n    env     = { VERSION = %q }\n  }\n}\n", i, version)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "services.hcl"), []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// BenchmarkThousandServices deploys, upgrades and undeploys 1,000 trivial services on 5 nodes, next to the time that
// starting the same processes from a plain loop takes. A service without port and health check is ready when it lived
// for a second: that second is in every figure.
func BenchmarkThousandServices(b *testing.B) {
	services := 1000
	if v, err := strconv.Atoi(os.Getenv("ISONOMIA_SERVICES")); err == nil {
		services = v
	}
	for range b.N {
		b.ReportMetric(float64(services)/plainLoop(b, services).Seconds(), "plain-loop/s")
		c := Start(b, 5, WithoutInvariants())
		n := c.Node(1)
		run := func(what string, f func() Result) {
			before := index(b, n)
			start := time.Now()
			if err := f().Failure(); err != nil {
				b.Fatal(err)
			}
			took := time.Since(start).Seconds()
			b.ReportMetric(float64(services)/took, what+"/s")
			b.ReportMetric(float64(index(b, n)-before)/took, what+"-entries/s")
		}
		run("deploy", func() Result { return n.DeployDir(trivial(b, services, "1")) })
		run("upgrade", func() Result { return n.DeployDir(trivial(b, services, "2")) })
		rss, cpu := agentCost(b, c)
		b.ReportMetric(float64(rss)/1024, "agent+keeper-MB")
		b.ReportMetric(cpu.Seconds(), "agent+keeper-cpu-s")
		run("undeploy", func() Result {
			ctx, cancel := context.WithTimeout(context.Background(), deployTimeout)
			defer cancel()
			return n.CLI(ctx, "undeploy", "--yes", "--json")
		})
		b.ReportMetric(0, "ns/op")
	}
}

func index(t testing.TB, n *Node) uint64 {
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	return s.Index
}

// plainLoop starts the same processes one after the other and ends them.
func plainLoop(t testing.TB, n int) time.Duration {
	start := time.Now()
	var cmds []*exec.Cmd
	for range n {
		cmd := exec.Command("sleep", "1000000")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	took := time.Since(start)
	for _, cmd := range cmds {
		_ = cmd.Process.Signal(syscall.SIGKILL)
		_ = cmd.Wait()
	}
	return took
}

// agentCost is the largest resident set of agent and keeper together in KiB, and the mean CPU time of both. Both map
// the same binary: its pages are counted once, with whichever has more of them.
func agentCost(t testing.TB, c *Cluster) (rss int, cpu time.Duration) {
	for _, n := range c.Up() {
		sum, file := 0, 0
		w, err := n.World()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range w.Processes {
			if p.isAgent() || p.isKeeper() {
				own, mapped, used := procCost(n, p.PID)
				sum += own
				file = max(file, mapped)
				cpu += used / time.Duration(len(c.Up()))
			}
		}
		rss = max(rss, sum+file)
	}
	return rss, cpu
}

// procCost reads the resident KiB of a process of the node, its own ones and those of files that it maps, and its CPU time.
func procCost(n *Node, pid int) (own, mapped int, cpu time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	r := n.Exec(ctx, "/bin/cat", fmt.Sprintf("/proc/%d/status", pid), fmt.Sprintf("/proc/%d/stat", pid))
	for line := range strings.Lines(r.Stdout) {
		if v, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			fmt.Sscan(v, &own)
		}
		if v, ok := strings.CutPrefix(line, "RssFile:"); ok {
			fmt.Sscan(v, &mapped)
		}
		if strings.HasPrefix(line, strconv.Itoa(pid)+" (") {
			f := strings.Fields(line[strings.LastIndexByte(line, ')')+1:])
			user, _ := strconv.Atoi(f[11])
			sys, _ := strconv.Atoi(f[12])
			cpu = time.Duration(user+sys) * 10 * time.Millisecond
		}
	}
	return own, mapped, cpu
}

// BenchmarkIdle measures a cluster that does nothing, next to bare raft and serf with the same timers and with lazier ones.
func BenchmarkIdle(b *testing.B) {
	const watch = 20 * time.Second
	for range b.N {
		c := Start(b, 3)
		c.AwaitVoters(3)
		_, before := agentCost(b, c)
		time.Sleep(watch) // what is measured is this time passing
		rss, after := agentCost(b, c)
		own := (after - before).Seconds() / watch.Seconds() * 100
		b.ReportMetric(float64(rss)/1024, "agent+keeper-MB")
		b.ReportMetric(own, "agent+keeper-%cpu")
		c.StopGracefully()
		mb, cpu := bareCost(b, watch, "250ms", "200ms")
		b.ReportMetric(mb, "bare-MB")
		b.ReportMetric(cpu, "bare-%cpu")
		_, lazy := bareCost(b, watch, "1s", "500ms")
		b.ReportMetric(lazy, "bare-1s-%cpu")
		b.ReportMetric(own/cpu, "cpu-ratio")
		b.ReportMetric(0, "ns/op")
	}
}

// bareCost runs three bare programs on loopback addresses.
func bareCost(t testing.TB, watch time.Duration, heartbeat, lease string) (mb, cpu float64) {
	path, err := build("bare", "./testcluster/bare", false)
	if err != nil {
		t.Fatal(err)
	}
	peers := []string{"b1=127.9.0.1", "b2=127.9.0.2", "b3=127.9.0.3"}
	var cmds []*exec.Cmd
	for i, p := range peers {
		name, ip, _ := strings.Cut(p, "=")
		args := append([]string{filepath.Join(t.TempDir(), name), ip, p}, slices.Delete(slices.Clone(peers), i, i+1)...)
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "HEARTBEAT="+heartbeat, "LEASE="+lease)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		cmds = append(cmds, cmd)
	}
	defer func() {
		for _, cmd := range cmds {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}()
	time.Sleep(5 * time.Second) // they elect and converge
	before := cpuOf(cmds)
	time.Sleep(watch)
	for _, cmd := range cmds {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
		for line := range strings.Lines(string(raw)) {
			if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				var kb float64
				fmt.Sscan(v, &kb)
				mb = max(mb, kb/1024)
			}
		}
	}
	return mb, (cpuOf(cmds) - before).Seconds() / float64(len(cmds)) / watch.Seconds() * 100
}

func cpuOf(cmds []*exec.Cmd) (sum time.Duration) {
	for _, cmd := range cmds {
		raw, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid))
		s := string(raw)
		f := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
		if len(f) < 13 {
			continue
		}
		user, _ := strconv.Atoi(f[11])
		sys, _ := strconv.Atoi(f[12])
		sum += time.Duration(user+sys) * 10 * time.Millisecond
	}
	return sum
}
