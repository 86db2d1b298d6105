//go:build linux

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// stub is built instead of the product.
var stub = sync.OnceValues(func() (string, error) { return build("stub", "./testcluster/testdata/stub", false) })

// bare is a cluster of machines on which the stub would run.
func bare(t *testing.T, n int, options ...Option) *Cluster {
	t.Helper()
	Require(t)
	t.Parallel()
	return New(t, n, append([]Option{WithAgent(must(t, stub))}, options...)...)
}

// serveOn runs a test service on a node.
func serveOn(t *testing.T, n *Node, service string, port int, env ...string) *Task {
	t.Helper()
	program := n.c.AddProgram(TestService(t), "testservice")
	task, err := n.Spawn(append([]string{
		"ISONOMIA_SERVICE=" + service, "ISONOMIA_NODE=" + n.Name, "JOURNAL=" + ObserverURL,
		"HOST=" + n.Address().String(), fmt.Sprint("PORT=", port)}, env...), program)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// get asks a test service from a node.
func get(from *Node, address netip.Addr, port int, timeout time.Duration) (string, error) {
	r, err := from.HTTP(timeout).Get(fmt.Sprintf("http://%s:%d/healthz", address, port))
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if r.StatusCode != http.StatusOK {
		err = errors.Join(err, errors.New(r.Status))
	}
	return string(body), err
}

// reach awaits that from reaches to, or that it does not.
func reach(t *testing.T, from, to *Node, want bool) {
	t.Helper()
	Await(t, fmt.Sprintf("%s reaches %s: %v", from.Name, to.Name, want), 20*time.Second, func() error {
		timeout := 5 * time.Second
		if !want {
			timeout = 300 * time.Millisecond
		}
		if _, err := get(from, to.Address(), 8000, timeout); (err == nil) != want {
			return errors.Join(fmt.Errorf("reached: %v", !want), err)
		}
		return nil
	})
}

func TestHostsAreSeparateMachines(t *testing.T) {
	c := bare(t, 3)
	for _, n := range c.Nodes() {
		serveOn(t, n, "s", 8000)
	}
	for _, from := range c.Nodes() {
		for _, to := range c.Nodes() {
			reach(t, from, to, true)
		}
	}
	os.WriteFile(filepath.Join(c.Node(0).DataDir(), "mine"), nil, 0o644)
	ctx := context.Background()
	for i, n := range c.Nodes() {
		ls := n.Exec(ctx, "/bin/ls", dataDir)
		if err := ls.Failure(); err != nil || strings.Contains(ls.Stdout, "mine") != (i == 0) {
			t.Errorf("%s sees %q: %v", n.Name, ls.Stdout, err)
		}
		find := n.Exec(ctx, "/usr/bin/find", baseDir(), "/tmp", "/run", "-name", "n[0-9]*")
		if find.Stdout != "" {
			t.Errorf("%s sees other nodes: %s", n.Name, find.Stdout)
		}
		if r := n.Exec(ctx, "/bin/hostname"); strings.TrimSpace(r.Stdout) != n.Name {
			t.Errorf("host name of %s is %q", n.Name, r.Stdout)
		}
		w, err := n.World()
		if err != nil || len(w.Processes) != 1 || w.Processes[0].Service != "s" || len(w.Listeners) != 1 {
			t.Errorf("world of %s: %+v, %v", n.Name, w, err)
		}
	}
}

func TestNetworkFaults(t *testing.T) {
	c := bare(t, 3)
	a, b, d := c.Node(0), c.Node(1), c.Node(2)
	for _, n := range c.Nodes() {
		serveOn(t, n, "s", 8000)
	}
	reach(t, a, b, true)
	c.Partition([]*Node{a, b})
	reach(t, a, b, true)
	reach(t, a, d, false)
	reach(t, d, b, false)
	if err := probeObserver(d); err != nil {
		t.Error("observer not reached in a partition:", err)
	}
	c.Heal()
	reach(t, d, b, true)
	d.Unplug()
	reach(t, a, d, false)
	d.Plug()
	reach(t, a, d, true)
	c.Lossy(100)
	reach(t, a, b, false)
	c.Lossy(0)
	reach(t, a, b, true)
	d.ChangeAddress(netip.MustParseAddr("10.20.3.3"))
	serveOn(t, d, "t", 8000)
	reach(t, a, d, true)
}

func probeObserver(n *Node) error {
	r, err := n.HTTP(5 * time.Second).Get(ObserverURL)
	if err == nil {
		r.Body.Close()
	}
	return err
}

func TestCutOneWay(t *testing.T) {
	c := bare(t, 2)
	a, b := c.Node(0), c.Node(1)
	received := make(chan string, 10)
	l := listenPacket(t, b)
	go func() {
		buf := make([]byte, 100)
		for {
			n, _, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			received <- string(buf[:n])
		}
	}()
	c.CutOneWay(b, a)
	// a cannot learn the hardware address of b while b's answers are dropped.
	for _, n := range [][2]*Node{{a, b}} {
		r := n[0].Exec(context.Background(), "/usr/sbin/ip", "neigh", "replace", n[1].Address().String(),
			"lladdr", "02:20:00:00:00:02", "dev", "eth0")
		if err := r.Failure(); err != nil {
			t.Fatal(err)
		}
	}
	conn, err := a.DialContext(context.Background(), "udp", l.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("one way"))
	select {
	case <-received:
	case <-time.After(10 * time.Second):
		t.Error("packets from a to b should arrive")
	}
	c.CutOneWay(a, b)
	conn.Write([]byte("no way"))
	select {
	case s := <-received:
		t.Errorf("%q arrived", s)
	case <-time.After(200 * time.Millisecond):
	}
}

func listenPacket(t *testing.T, n *Node) (l net.PacketConn) {
	t.Helper()
	h, err := n.running()
	if err == nil {
		err = inside(h.pid, []space{spaceNet}, func() (err error) {
			l, err = net.ListenPacket("udp4", n.Address().String()+":9000")
			return err
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// A connection to a machine that lost its power hangs; it is not reset.
func TestPowerOffIsSilent(t *testing.T) {
	c := bare(t, 2)
	a, b := c.Node(0), c.Node(1)
	task := serveOn(t, b, "s", 8000, "MODES=ignore-term,fork")
	reach(t, a, b, true)
	conn, err := a.DialContext(context.Background(), "tcp", b.Address().String()+":8000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b.PowerOff()
	<-task.Exited()
	conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	conn.Write([]byte("GET / HTTP/1.1\r\n"))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read from a dead machine: %v", err)
	}
	b.PowerOn()
	serveOn(t, b, "s", 8000)
	reach(t, a, b, true)
}

func TestFreezeStopsEverything(t *testing.T) {
	c := bare(t, 2)
	a, b := c.Node(0), c.Node(1)
	serveOn(t, b, "s", 8000)
	reach(t, a, b, true)
	b.Freeze()
	if _, err := get(a, b.Address(), 8000, 300*time.Millisecond); err == nil {
		t.Error("a frozen machine answers")
	}
	b.Thaw()
	reach(t, a, b, true)
}

func TestSmallDiskIsFullAndSurvivesPowerOff(t *testing.T) {
	c := bare(t, 1, WithDisk(1<<20))
	n := c.Node(0)
	r := n.Exec(context.Background(), "/bin/dd", "if=/dev/zero", "of="+dataDir+"/big", "bs=64k", "count=100")
	if r.Code == 0 || !strings.Contains(r.Stderr, "No space left") {
		t.Errorf("dd: %+v", r)
	}
	n.PowerOff()
	n.PowerOn()
	if info, err := os.Stat(filepath.Join(n.DataDir(), "big")); err != nil || info.Size() < 512<<10 {
		t.Errorf("after the power cut: %v, %v", info, err)
	}
	if r := n.Exec(context.Background(), "/usr/bin/stat", "-c", "%s", dataDir+"/big"); r.Failure() != nil {
		t.Error(r.Failure())
	}
}

func TestNodesHaveTheirOwnCgroups(t *testing.T) {
	c := bare(t, 2)
	if len(c.groups) == 0 {
		t.Skip("no cgroup hierarchy to be written here")
	}
	for _, n := range c.Nodes() {
		r := n.Exec(context.Background(), "/bin/sh", "-c", `cat /proc/1/cgroup; find /sys/fs/cgroup -name "cluster-*"`)
		if err := r.Failure(); err != nil || !strings.Contains(r.Stdout, ":/"+"init.scope\n") || strings.Contains(r.Stdout, clusterPrefix) {
			t.Errorf("%s sees %s (%v)", n.Name, r.Stdout, err)
		}
	}
}

// What a killed test process leaves is removed by the next one.
func TestSweepRemovesWhatTheDeadLeft(t *testing.T) {
	Require(t)
	in, err := hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	dir, release, err := claimDir()
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "n1", "data")
	os.MkdirAll(disk, 0o755)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	for _, h := range in {
		if err := os.Mkdir(filepath.Join(h.own, filepath.Base(dir)+"-n1"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := sweep(in); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(disk); err != nil {
		t.Fatal("a living cluster was swept:", err)
	}
	release()
	if err := sweep(in); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error("the directory is still there:", err)
	}
	for _, h := range in {
		if left, _ := filepath.Glob(filepath.Join(h.own, filepath.Base(dir)+"*")); len(left) > 0 {
			t.Error("still there:", left)
		}
	}
}

// The time is printed, not judged: the machine is shared.
func TestHowLongMachinesTake(t *testing.T) {
	Require(t)
	program := must(t, stub)
	hostInit(t)
	var gone time.Time
	t.Run("three", func(t *testing.T) {
		start := time.Now()
		New(t, 3, WithAgent(program))
		t.Logf("three machines up in %v", time.Since(start))
		gone = time.Now()
	})
	t.Logf("and gone in %v", time.Since(gone))
}
