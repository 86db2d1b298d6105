//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// ReadyTimeout is how long an agent may take from its start to its first answer,
// joining included. It is a limit for broken ones, not an expectation.
const ReadyTimeout = 30 * time.Second

// Cluster is a number of nodes, a network between them and an observer outside.
// Its methods fail the test where they cannot do what they say, and must then be
// called from the goroutine of the test; those that return an error need not.
type Cluster struct {
	t        testing.TB
	dir      string // of the cluster, below baseDir
	bin      string // programs, seen by nodes as binDir
	tools    tools
	config   config
	network  *network
	groups   []hierarchy
	hostLog  *boundedBuffer
	release  func()
	started  time.Time
	observer *Observer
	nodes    []*Node
}

type tools struct{ agent, hostinit string }

// config is what options change.
type config struct {
	disk       int64 // bytes of each node's data directory; 0: that of the machine
	agent      string
	args       []string
	first      []string // of the agent that makes the cluster
	ignored    map[string]bool
	invariants bool
	cgroups    bool
	syncs      bool
}

// Option changes a cluster.
type Option func(*config)

// WithDisk gives each node a data directory of its own of that many bytes, for
// tests of full disks. It is in memory, and survives a power cut.
func WithDisk(bytes int64) Option { return func(c *config) { c.disk = bytes } }

// WithAgent uses another program than the one of Build.
func WithAgent(program string) Option { return func(c *config) { c.agent = program } }

// WithAgentArgs appends arguments to every `isonomia agent`.
func WithAgentArgs(args ...string) Option {
	return func(c *config) { c.args = append(c.args, args...) }
}

// WithFirstArgs appends arguments to the `isonomia agent` that makes the cluster.
func WithFirstArgs(args ...string) Option {
	return func(c *config) { c.first = append(c.first, args...) }
}

// WithoutInvariants leaves out the check at the end of the test.
func WithoutInvariants() Option { return func(c *config) { c.invariants = false } }

// WithoutRule leaves out one rule of Invariants; a comment must say why.
func WithoutRule(rule string) Option { return func(c *config) { c.ignored[rule] = true } }

// WithoutCgroups leaves nodes in the cgroup of the test.
func WithoutCgroups() Option { return func(c *config) { c.cgroups = false } }

// WithSyncCounters puts Syncs between every agent and its disk; see Node.Syncs.
func WithSyncCounters() Option { return func(c *config) { c.syncs = true } }

// New makes n nodes n1, n2 ... that are switched on and run nothing. When the
// test ends the invariants are checked and all of it is removed.
func New(t testing.TB, n int, options ...Option) *Cluster {
	t.Helper()
	Require(t)
	if n < 1 || n > maxNodes {
		t.Fatalf("make cluster: %d nodes, not 1 to %d", n, maxNodes)
	}
	c := &Cluster{t: t, started: time.Now(), hostLog: &boundedBuffer{}, release: func() {},
		config: config{invariants: true, cgroups: true, ignored: map[string]bool{}}}
	for _, o := range options {
		o(&c.config)
	}
	c.tools.hostinit = hostInit(t)
	if c.tools.agent = c.config.agent; c.tools.agent == "" {
		c.tools.agent = Build(t)
	}
	t.Cleanup(c.finish)
	if err := c.open(n); err != nil {
		t.Fatalf("make cluster: %v", err)
	}
	return c
}

// Start is New with all agents running and members of one cluster, with as many voters as it will have: while voters
// are being added, a cluster survives less than it will.
func Start(t testing.TB, n int, options ...Option) *Cluster {
	t.Helper()
	c := New(t, n, options...)
	c.Start()
	c.AwaitMembers(n)
	c.AwaitVoters(wantedVoters(n))
	return c
}

// wantedVoters is how many voters a cluster of n nodes grows to.
func wantedVoters(n int) int {
	switch {
	case n < 3:
		return 1
	case n < 5:
		return 3
	}
	return 5
}

// AwaitVoters awaits that every node that is up sees so many voters, the leader among them, all alive.
func (c *Cluster) AwaitVoters(want int) {
	c.t.Helper()
	Await(c.t, fmt.Sprintf("%d voters", want), ReadyTimeout, func() error {
		for _, n := range c.Up() {
			members, err := n.Members()
			if err != nil {
				return err
			}
			voters := 0
			for _, m := range members {
				if (m.Role == "leader" || m.Role == "voter") && m.Status == "alive" {
					voters++
				}
			}
			if voters != want {
				return fmt.Errorf("%s sees %d", n.Name, voters)
			}
		}
		return nil
	})
}

func (c *Cluster) open(n int) (err error) {
	if c.config.cgroups {
		if c.groups, err = hierarchies(); err != nil {
			return err
		}
	}
	if err := sweep(c.groups); err != nil {
		return fmt.Errorf("sweep up after dead test runs: %w", err)
	}
	if c.dir, c.release, err = claimDir(); err != nil {
		return err
	}
	c.bin = filepath.Join(c.dir, "bin")
	if err := errors.Join(place(c.tools.agent, c.bin, "isonomia"), place(c.tools.hostinit, c.bin, "hostinit")); err != nil {
		return err
	}
	if c.network, err = newNetwork(c.tools.hostinit, c.hostLog); err != nil {
		return err
	}
	l, err := c.network.listen(observerPort)
	if err != nil {
		return err
	}
	c.observer = NewObserver(l)
	for i := range n {
		c.nodes = append(c.nodes, newNode(c, i))
	}
	return c.each(c.nodes, (*Node).switchOn)
}

// each calls f for all nodes at once.
func (c *Cluster) each(nodes []*Node, f func(*Node) error) error {
	errs := make([]error, len(nodes))
	var wg sync.WaitGroup
	for i, n := range nodes {
		wg.Go(func() {
			if err := f(n); err != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// finish is the end of the test, however it came.
func (c *Cluster) finish() {
	defer c.close()
	if c.config.invariants && c.anyAgent() {
		Invariants(c.t, c)
	}
	if c.t.Failed() {
		c.report()
	}
}

// close removes everything. It goes on after an error.
func (c *Cluster) close() {
	err := c.each(c.nodes, (*Node).destroy)
	if c.observer != nil {
		c.observer.Close()
	}
	if c.network != nil {
		c.network.sw.kill()
	}
	if c.dir != "" && os.Getenv(KeepEnv) == "" {
		err = errors.Join(err, removeDir(c.dir))
	}
	c.release()
	if err != nil {
		c.t.Errorf("remove cluster: %v", err)
	}
}

// Node is node n(i+1).
func (c *Cluster) Node(i int) *Node { return c.nodes[i] }

// Nodes are all nodes, in order.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// NodeNamed finds a node by its name.
func (c *Cluster) NodeNamed(name string) *Node {
	c.t.Helper()
	for _, n := range c.nodes {
		if n.Name == name {
			return n
		}
	}
	c.t.Fatalf("no node named %q", name)
	return nil
}

// Observer is the outside witness. Its address is the same in every cluster:
// ObserverURL.
func (c *Cluster) Observer() *Observer { return c.observer }

// observerPort is the port of the observer; ObserverURL is where test services
// find it from every node.
const observerPort = 80

// ObserverURL is what a test service gets as $JOURNAL.
var ObserverURL = "http://" + ObserverHost + ":80"

// AddProgram makes a program of the test machine available on every node and
// returns its path there. Another version of the agent must be given a name that
// begins with isonomia: c.Node(0).Restart(WithProgram(c.AddProgram(p, "isonomia2"))).
func (c *Cluster) AddProgram(program, name string) string {
	c.t.Helper()
	if err := place(program, c.bin, name); err != nil {
		c.t.Fatalf("add program: %v", err)
	}
	return filepath.Join(binDir, name)
}

// Start starts every agent: n1 begins a cluster, the others join it.
func (c *Cluster) Start() {
	c.t.Helper()
	c.nodes[0].Start()
	join := func(n *Node) error { return n.startAgent() }
	if err := c.each(c.nodes[1:], join); err != nil {
		c.t.Fatalf("start cluster: %v", err)
	}
}

// SetHosts makes these names, and localhost, the only ones that nodes resolve, by their /etc/hosts.
func (c *Cluster) SetHosts(names map[string]netip.Addr) {
	c.t.Helper()
	if err := c.each(c.nodes, func(n *Node) error { return n.writeHosts(names) }); err != nil {
		c.t.Fatalf("set names: %v", err)
	}
}

// StopGracefully ends every agent as its service manager would; keepers and
// services go on.
func (c *Cluster) StopGracefully() {
	c.t.Helper()
	if err := c.each(c.Up(), (*Node).stopAgent); err != nil {
		c.t.Fatalf("stop cluster: %v", err)
	}
}

// Up are the nodes whose agent runs and is not frozen.
func (c *Cluster) Up() (up []*Node) {
	for _, n := range c.nodes {
		if n.agentAlive() && !n.isFrozen() {
			up = append(up, n)
		}
	}
	return up
}

func (c *Cluster) anyAgent() bool {
	for _, n := range c.nodes {
		if n.everStarted() {
			return true
		}
	}
	return false
}

// Partition lets only nodes of the same group talk. A node in no group talks to
// nobody. The observer is reached by all.
func (c *Cluster) Partition(groups ...[]*Node) {
	c.t.Helper()
	named := map[int]bool{}
	var numbers [][]int
	for _, g := range groups {
		var list []int
		for _, n := range g {
			list, named[n.number()] = append(list, n.number()), true
		}
		numbers = append(numbers, list)
	}
	for _, n := range c.nodes {
		if !named[n.number()] {
			numbers = append(numbers, []int{n.number()})
		}
	}
	c.changeNetwork(faults{cut: between(numbers), lost: c.network.faults.lost})
	for _, n := range c.nodes {
		c.observer.Fault(n.Name, "partition")
	}
}

// CutOneWay drops what a sends to b, besides what is dropped already.
func (c *Cluster) CutOneWay(a, b *Node) {
	c.t.Helper()
	f := faults{cut: map[[2]int]bool{{a.number(), b.number()}: true}, lost: c.network.faults.lost}
	for pair := range c.network.faults.cut {
		f.cut[pair] = true
	}
	c.changeNetwork(f)
	c.observer.Fault(a.Name, "cut off from "+b.Name)
	c.observer.Fault(b.Name, "does not hear "+a.Name)
}

// Lossy drops that percentage of the packets between nodes, at random.
func (c *Cluster) Lossy(percent int) {
	c.t.Helper()
	c.changeNetwork(faults{cut: c.network.faults.cut, lost: percent})
	for _, n := range c.nodes {
		c.observer.Fault(n.Name, fmt.Sprintf("%d %% loss", percent))
	}
}

// Heal ends partitions and losses.
func (c *Cluster) Heal() {
	c.t.Helper()
	if len(c.network.faults.cut) == 0 && c.network.faults.lost == 0 {
		return
	}
	c.changeNetwork(faults{})
	for _, n := range c.nodes {
		c.observer.Fault(n.Name, "healed")
	}
}

func (c *Cluster) changeNetwork(f faults) {
	c.t.Helper()
	if err := c.network.apply(f); err != nil {
		c.t.Fatal(err)
	}
}

// Leader is the node that most nodes of the cluster, itself included, take for
// the leader; nil and the reason if there is none.
func (c *Cluster) Leader() (*Node, error) {
	votes := map[*Node]int{}
	var mu sync.Mutex
	err := c.each(c.Up(), func(n *Node) error {
		leader, err := n.leader()
		mu.Lock()
		defer mu.Unlock()
		votes[leader]++
		return err
	})
	for n, v := range votes {
		if n != nil && 2*v > len(c.Up()) && n.agentAlive() {
			return n, nil
		}
	}
	if err == nil {
		err = fmt.Errorf("%d nodes up do not agree", len(c.Up()))
	}
	return nil, fmt.Errorf("find leader: %w", err)
}

// WaitLeader waits until there is a leader.
func (c *Cluster) WaitLeader() (leader *Node) {
	c.t.Helper()
	Await(c.t, "leader", ReadyTimeout, func() (err error) {
		leader, err = c.Leader()
		return err
	})
	return leader
}

// AwaitMembers waits until every node that is up sees exactly n members alive.
func (c *Cluster) AwaitMembers(n int) {
	c.t.Helper()
	Await(c.t, fmt.Sprintf("%d members", n), ReadyTimeout, func() error {
		return c.each(c.Up(), func(node *Node) error {
			members, err := node.Members()
			if err != nil {
				return err
			}
			return countAlive(members, n)
		})
	})
}

func countAlive(members []Member, want int) error {
	alive := 0
	for _, m := range members {
		if m.Status == "alive" {
			alive++
		}
	}
	if alive != want {
		return fmt.Errorf("%d members alive, not %d: %+v", alive, want, members)
	}
	return nil
}

// AwaitSettled waits until every node that is up says that a generation not
// older than the given one is settled, and returns what the first one says.
func (c *Cluster) AwaitSettled(timeout time.Duration, generation uint64) (s Status) {
	c.t.Helper()
	Await(c.t, fmt.Sprintf("generation %d settled", generation), timeout, func() (err error) {
		s, err = c.settled(generation)
		return err
	})
	return s
}

func (c *Cluster) settled(generation uint64) (first Status, err error) {
	up := c.Up()
	if len(up) == 0 {
		return first, errors.New("no agent runs")
	}
	err = c.each(up, func(n *Node) error {
		s, err := n.Status()
		switch {
		case err != nil:
			return err
		case s.Generation < generation || !s.Settled:
			return fmt.Errorf("generation %d, settled %v: %s", s.Generation, s.Settled, phases(s))
		}
		if n == up[0] {
			first = s
		}
		return nil
	})
	return first, err
}

// phases lists the rows that are not active, at most ten.
func phases(s Status) string {
	var list []string
	for _, i := range s.Instances {
		if i.Phase != phaseActive && i.Phase != phaseSleeping {
			list = append(list, fmt.Sprintf("%s on %s is %s %s", i.Service, i.Node, i.Phase, i.Reason))
		}
	}
	if len(list) > 10 {
		list = append(list[:10], fmt.Sprintf("and %d more", len(list)-10))
	}
	return fmt.Sprint(list)
}

const (
	phaseActive   = "active"
	phaseSleeping = "sleeping"
)

// log is where the test machine's own complaints about hosts go.
func (c *Cluster) log() io.Writer { return c.hostLog }
