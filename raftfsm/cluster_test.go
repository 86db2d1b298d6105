package raftfsm

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isonomia-mesh/isonomia/model"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests; it is no measure of anything.
const patience = 30 * time.Second

// cluster is some nodes of one process on real disks and loopback TCP.
type cluster struct {
	t     testing.TB
	ctx   context.Context
	wires *wires
	nodes map[string]*member
	cfg   func(*Config) // changes every node's configuration
}

type member struct {
	*Node
	id   string
	dir  string
	stop context.CancelFunc // of its loops
	done chan struct{}
}

func newCluster(t testing.TB, cfg func(*Config)) *cluster {
	t.TempDir() // the first call registers the removal; what is registered later, the end of the nodes, comes before it
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	c := &cluster{t: t, ctx: ctx, wires: newWires(), nodes: map[string]*member{}, cfg: cfg}
	_ = t.TempDir() // its cleanup is then known before ours: nodes end before their directories go
	t.Cleanup(func() {
		for _, m := range c.nodes {
			if m.Node != nil {
				c.kill(m.id)
			}
		}
		cancel()
	})
	return c
}

func nodeID(i int) string { return fmt.Sprintf("n%d", i) }

// grown is a cluster with so many members and the voters that they should have.
func grown(t testing.TB, members int, cfg func(*Config)) *cluster {
	c := newCluster(t, cfg)
	c.bootstrap("n1")
	for i := 2; i <= members; i++ {
		c.start(nodeID(i))
		c.admit(nodeID(i))
	}
	c.awaitVoters(Voters(members))
	return c
}

func (c *cluster) start(id string) *member {
	c.t.Helper()
	m := c.nodes[id]
	if m == nil {
		m = &member{id: id, dir: c.t.TempDir()}
		c.nodes[id] = m
	}
	n, err := c.open(m)
	if err != nil {
		c.t.Fatalf("open %s: %v", id, err)
	}
	m.Node, m.done = n, make(chan struct{})
	var ctx context.Context
	ctx, m.stop = context.WithCancel(c.ctx)
	go func() { defer close(m.done); n.ShapeLoop(ctx) }()
	c.wires.up(id, n)
	return m
}

func (c *cluster) open(m *member) (*Node, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	feed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	id := m.id
	cfg := Config{ID: id, Dir: m.dir, Listener: l, Feed: feed,
		DialFeed: func(ctx context.Context, to string) (net.Conn, error) { return c.wires.dialFeed(ctx, id, to) },
		Members:  c.wires.members,
		Dial:     func(ctx context.Context, to string) (net.Conn, error) { return c.wires.dial(ctx, id, to) },
		Forward: func(ctx context.Context, to string, req []byte) ([]byte, error) {
			return remote(ctx, c.wires, id, to, func(n *Node) ([]byte, error) { return n.HandleForward(ctx, req) })
		},
		LeaderIndex: func(ctx context.Context, to string) (uint64, error) {
			return remote(ctx, c.wires, id, to, func(n *Node) (uint64, error) { return n.HandleReadIndex(ctx) })
		},
		Timing: Timing{Heartbeat: 250 * time.Millisecond, Election: 250 * time.Millisecond, Lease: 200 * time.Millisecond,
			Commit: 20 * time.Millisecond, RPC: 2 * time.Second},
	}
	if os.Getenv("RAFTFSM_LOG") != "" {
		cfg.Log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id)
	}
	if c.cfg != nil {
		c.cfg(&cfg)
	}
	n, err := Open(cfg)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	c.wires.join(id, l.Addr().String())
	c.wires.join(feedOf(id), feed.Addr().String())
	return n, nil
}

func (c *cluster) bootstrap(id string) *member {
	c.t.Helper()
	m := c.start(id)
	init := model.Init{Cluster: model.Cluster{ID: "c1"}, Node: model.Node{ID: id, Name: id, Server: true, Epoch: 1, StateMax: model.StateVersion}}
	if err := m.Bootstrap(c.ctx, init); err != nil {
		c.t.Fatalf("bootstrap %s: %v", id, err)
	}
	c.propose(m, model.CreateToken{Token: model.Token{ID: "t1", Hash: []byte("h"), UsesLeft: 1000, Expires: time.Now().Add(time.Hour)}})
	return m
}

func (c *cluster) admit(id string) {
	c.t.Helper()
	c.propose(c.any(), model.Admit{Token: "t1", Secret: []byte("h"), Node: model.Node{ID: id, Name: id, StateMax: model.StateVersion}, Now: time.Now()})
}

// propose expects every command to be accepted.
func (c *cluster) propose(m *member, cmds ...model.Command) []model.Result {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	results, err := m.Propose(ctx, cmds...)
	if err != nil {
		c.t.Fatalf("propose on %s: %v", m.id, err)
	}
	for _, r := range results {
		if err := r.Err(); err != nil {
			c.t.Fatalf("propose on %s: refused: %v", m.id, err)
		}
	}
	return results
}

// set writes a register: the table of builds serves as one.
func set(key, value string) model.Command {
	return model.RecordBuild{Build: model.BuildRecord{Input: key, Output: value}, Replace: true}
}

func value(s *model.State, key string) string { return s.Builds.At(key).Output }

// crash ends a node without a word to the others.
func (c *cluster) crash(id string) {
	for other := range c.nodes {
		c.wires.cutLink(id, other)
	}
	c.kill(id)
	for other := range c.nodes {
		c.wires.heal(id, other)
	}
}

// kill stops a node without handing leadership over.
func (c *cluster) kill(id string) {
	m := c.nodes[id]
	c.wires.down(id)
	m.stop()
	m.once.Do(func() {
		close(m.closing)
		if err := m.shutDown(c.ctx); err != nil {
			c.t.Errorf("kill %s: %v", id, err)
		}
	})
	<-m.done
	m.Node = nil
}

// close stops a node as an operator would.
func (c *cluster) close(id string) {
	c.t.Helper()
	m := c.nodes[id]
	if err := m.Close(c.ctx); err != nil {
		c.t.Errorf("close %s: %v", id, err)
	}
	c.wires.down(id)
	m.stop()
	<-m.done
	m.Node = nil
}

func (c *cluster) isolate(id string) {
	for other := range c.nodes {
		c.wires.cutLink(id, other)
	}
}

func (c *cluster) rejoin(id string) {
	for other := range c.nodes {
		c.wires.heal(id, other)
	}
}

func (c *cluster) live() []*member {
	var list []*member
	for _, m := range c.nodes {
		if m.Node != nil {
			list = append(list, m)
		}
	}
	slices.SortFunc(list, func(a, b *member) int {
		return len(a.id)*1000 - len(b.id)*1000 + int(a.id[len(a.id)-1]) - int(b.id[len(b.id)-1])
	})
	return list
}

func (c *cluster) any() *member { return c.live()[0] }

// await polls until there is nothing to complain of.
func (c *cluster) await(what string, complaint func() string) {
	c.t.Helper()
	last := "never looked"
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if last = complaint(); last == "" {
			return
		}
	}
	c.t.Fatalf("%s: %s", what, last)
}

// leader waits until every live node of those given (default: all) names one leader, which knows that it leads.
func (c *cluster) leader(among ...*member) *member {
	c.t.Helper()
	if len(among) == 0 {
		among = c.live()
	}
	var found *member
	c.await("one leader", func() string {
		found = nil
		for _, m := range among {
			id := m.Leader()
			l := c.nodes[id]
			switch {
			case l == nil || l.Node == nil || !l.IsLeader():
				return fmt.Sprintf("%s says %q leads", m.id, id)
			case found != nil && found != l:
				return fmt.Sprintf("%s and %s lead", found.id, id)
			}
			found = l
		}
		return ""
	})
	return found
}

func (c *cluster) others(m *member) []*member {
	return slices.DeleteFunc(c.live(), func(o *member) bool { return o == m })
}

func voters(m *member) []string {
	var ids []string
	for _, s := range m.Servers() {
		if s.Voter {
			ids = append(ids, s.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// awaitVoters waits until every node knows of so many voters: a leader that dies while only it knows takes the new
// ones' votes with it.
func (c *cluster) awaitVoters(n int) []string {
	c.t.Helper()
	var ids []string
	c.await("voters", func() string {
		ids = voters(c.leader())
		for _, m := range c.live() {
			if got := voters(m); len(got) != n || !slices.Equal(got, ids) {
				return fmt.Sprintf("%s knows of voters %v, want %d", m.id, got, n)
			}
		}
		return ""
	})
	return ids
}

// same waits until every live node has one State.
func (c *cluster) same() {
	c.t.Helper()
	c.await("one State on all nodes", func() string {
		live := c.live()
		first := live[0].State()
		for _, m := range live[1:] {
			if s := m.State(); s.Index != first.Index || Digest(s) != Digest(first) {
				return fmt.Sprintf("%s is at %d, %s at %d", live[0].id, first.Index, m.id, s.Index)
			}
		}
		return ""
	})
}
