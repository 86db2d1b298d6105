//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// What every node sees, at the same place.
const (
	nodeDir = "/run/node"
	dataDir = nodeDir + "/data" // the node's disk
	etcDir  = nodeDir + "/etc"  // the token
	binDir  = nodeDir + "/bin"  // programs
)

// meshPort is the UDP port of every node.
const meshPort = 7878

// privateDirs are empty and its own on every node; what is in them ends with a
// power cut.
var privateDirs = []string{"/run", "/tmp", "/var/tmp", "/dev/shm"}

// Node is one machine of the cluster.
type Node struct {
	// Name is what the agent is called: n1, n2 ... It may be changed while the
	// agent is not running.
	Name string

	c       *Cluster
	index   int
	dir     string // of the node, below that of the cluster
	program string // the CLI, as the test sees it
	api     *api.Client

	mu      sync.Mutex
	host    *host      // nil: switched off. Guarded by mu, as all below
	agent   *agent     // the last one started
	address netip.Addr // of eth0
	member  bool       // the data directory knows its cluster
	frozen  bool
}

func newNode(c *Cluster, index int) *Node {
	name := fmt.Sprintf("n%d", index+1)
	n := &Node{Name: name, c: c, index: index, dir: filepath.Join(c.dir, name),
		program: filepath.Join(c.bin, "isonomia"), address: nodeAddress(index + 1)}
	n.api = api.NewClient(n.Socket())
	return n
}

// number is that of the node's port on the switch.
func (n *Node) number() int { return n.index + 1 }

// DataDir is the node's data directory as the test sees it. To the node it is
// the same as that of all others.
func (n *Node) DataDir() string { return filepath.Join(n.dir, "data") }

// Address is the node's address in the network of the cluster.
func (n *Node) Address() netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.address
}

// Bind is the address of the node's mesh, HOST:PORT.
func (n *Node) Bind() string { return netip.AddrPortFrom(n.Address(), meshPort).String() }

// running is the host if it is switched on.
func (n *Node) running() (*host, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.host == nil {
		return nil, fmt.Errorf("%s is switched off", n.Name)
	}
	return n.host, nil
}

// switchOn makes the machine run, without an agent.
func (n *Node) switchOn() error {
	if err := n.makeDisk(); err != nil {
		return err
	}
	h, err := startHost(n.c.tools.hostinit, n.c.log())
	if err != nil {
		return err
	}
	if err := n.bringUp(h); err != nil {
		h.kill()
		return errors.Join(err, h.group.remove())
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host, n.frozen = h, false
	return nil
}

func (n *Node) bringUp(h *host) (err error) {
	if len(n.c.groups) > 0 {
		name := filepath.Base(n.c.dir) + "-" + fmt.Sprintf("n%d", n.number())
		if h.group, err = newCgroup(name, h.pid, n.c.groups); err != nil {
			return err
		}
	}
	if err := n.c.network.attach(h, n.number(), n.Address()); err != nil {
		return err
	}
	return h.setup(hostSetup{
		Hostname: n.Name,
		Hide:     append([]string{baseDir()}, privateDirs...),
		Binds:    map[string]string{dataDir: n.DataDir(), etcDir: filepath.Join(n.dir, "etc"), binDir: n.c.bin, "/etc/hosts": n.hostsFile()},
		Cgroups:  n.c.groups,
	})
}

// makeDisk makes the directories of the node that outlive a power cut.
func (n *Node) makeDisk() error {
	if _, err := os.Stat(n.DataDir()); err == nil {
		return nil
	}
	for _, dir := range []string{n.DataDir(), filepath.Join(n.dir, "etc")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	if err := n.writeHosts(nil); err != nil {
		return err
	}
	if n.c.config.disk == 0 {
		return nil
	}
	size := fmt.Sprintf("size=%d,mode=755", n.c.config.disk)
	if err := unix.Mount("tmpfs", n.DataDir(), "tmpfs", 0, size); err != nil {
		return fmt.Errorf("make disk: %w", err)
	}
	return nil
}

func (n *Node) hostsFile() string { return filepath.Join(n.dir, "etc", "hosts") }

// writeHosts says which names the node resolves, besides localhost. The file is changed in place: it is bound.
func (n *Node) writeHosts(names map[string]netip.Addr) error {
	text := "127.0.0.1 localhost\n"
	for name, address := range names {
		text += address.String() + " " + name + "\n"
	}
	return os.WriteFile(n.hostsFile(), []byte(text), 0o644)
}

// PowerOff ends everything of the node at the same instant, and nothing of it,
// not even a reset of a connection, reaches the others. What was written stays,
// also what was not synced: the machine below goes on.
func (n *Node) PowerOff() {
	n.c.t.Helper()
	n.c.observer.Fault(n.Name, faultPowerOff)
	if err := n.powerOff(); err != nil {
		n.c.t.Fatalf("power off %s: %v", n.Name, err)
	}
}

func (n *Node) powerOff() error {
	h, err := n.running()
	if err != nil {
		return err
	}
	if err := n.c.network.plug(n.number(), false); err != nil {
		return err
	}
	n.forgetHost()
	h.kill()
	// The device dies with its namespace, but not at once: the name must be free.
	_ = n.c.network.detach(n.number()) // fails if it is gone already
	return h.group.remove()
}

func (n *Node) forgetHost() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.host = nil
	if n.agent != nil {
		n.agent.expected()
	}
}

// destroy is powerOff without manners, at the end of the test.
func (n *Node) destroy() error {
	n.api.Close()
	h, err := n.running()
	if err != nil {
		return nil
	}
	n.forgetHost()
	h.kill()
	return h.group.remove()
}

// PowerOn switches the machine on. Its agent starts as it would at boot, if it
// has ever been started.
func (n *Node) PowerOn() {
	n.c.t.Helper()
	n.c.observer.Fault(n.Name, "power on")
	if err := n.switchOn(); err != nil {
		n.c.t.Fatalf("power on %s: %v", n.Name, err)
	}
	if n.everStarted() {
		n.Start()
	}
}

// Wipe empties the data directory; the agent must not be running. The node is
// then no member any more and joins anew when it starts.
func (n *Node) Wipe() {
	n.c.t.Helper()
	if n.agentAlive() {
		n.c.t.Fatalf("wipe %s: its agent is running", n.Name)
	}
	entries, err := os.ReadDir(n.DataDir())
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(n.DataDir(), e.Name())))
	}
	if err != nil {
		n.c.t.Fatalf("wipe %s: %v", n.Name, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.member = false
}

// ChangeAddress gives the running machine another address, below 10.20/16. The
// agent is not told.
func (n *Node) ChangeAddress(address netip.Addr) {
	n.c.t.Helper()
	h, err := n.running()
	if err == nil {
		err = n.c.network.readdress(h, address)
	}
	if err != nil {
		n.c.t.Fatalf("change address of %s: %v", n.Name, err)
	}
	n.c.observer.Fault(n.Name, "address is "+address.String())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.address = address
}

// Unplug takes the cable out: the node loses the carrier.
func (n *Node) Unplug() { n.c.t.Helper(); n.cable(false, "unplugged") }

// Plug puts the cable back.
func (n *Node) Plug() { n.c.t.Helper(); n.cable(true, "plugged in") }

func (n *Node) cable(connected bool, what string) {
	n.c.t.Helper()
	if err := n.c.network.plug(n.number(), connected); err != nil {
		n.c.t.Fatalf("%s: %v", n.Name, err)
	}
	n.c.observer.Fault(n.Name, what)
}
