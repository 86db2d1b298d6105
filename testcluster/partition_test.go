//go:build linux

package testcluster

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// cut is one way in which a network can part.
type cut struct {
	name string
	make func(c *Cluster, random *rand.Rand)
}

func shuffled(c *Cluster, random *rand.Rand) []*Node {
	nodes := slices.Clone(c.Nodes())
	random.Shuffle(len(nodes), func(i, j int) { nodes[i], nodes[j] = nodes[j], nodes[i] })
	return nodes
}

var cuts = []cut{
	{"two sides", func(c *Cluster, random *rand.Rand) {
		nodes := shuffled(c, random)
		n := 1 + random.IntN(len(nodes)-1)
		c.Partition(nodes[:n], nodes[n:])
	}},
	{"three sides", func(c *Cluster, random *rand.Rand) {
		nodes := shuffled(c, random)
		c.Partition(nodes[:1], nodes[1:3], nodes[3:])
	}},
	{"one way", func(c *Cluster, random *rand.Rand) {
		nodes := shuffled(c, random)
		for _, other := range nodes[1 : 2+random.IntN(len(nodes)-1)] {
			if random.IntN(2) == 0 {
				c.CutOneWay(nodes[0], other)
			} else {
				c.CutOneWay(other, nodes[0])
			}
		}
	}},
	{"bridge", func(c *Cluster, random *rand.Rand) { // the first still reaches both sides
		nodes := shuffled(c, random)
		for _, a := range nodes[1:3] {
			for _, b := range nodes[3:] {
				c.CutOneWay(a, b)
				c.CutOneWay(b, a)
			}
		}
	}},
}

// TestPartitions cuts the network in random ways, for longer than leases last, and heals it: nothing exclusive has two
// holders at any time, which the invariants ask the lock server, and all see the same again within convergence. With
// ISONOMIA_SOAK it does so 50 times, for 30 s to 5 min.
func TestPartitions(t *testing.T) {
	rounds, shortest, longest := 2, 9*time.Second, 14*time.Second
	if os.Getenv("ISONOMIA_SOAK") != "" {
		rounds, shortest, longest = 50, 30*time.Second, 5*time.Minute
	}
	if n, err := strconv.Atoi(os.Getenv("ISONOMIA_SOAK_ROUNDS")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("ISONOMIA_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("ISONOMIA_TEST_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	c := real(t, 5)
	m := Model{Services: []Service{{Name: "web", DependsOn: []string{"x1"}}, {Name: "free", Instances: "2"}}}
	for i := range 3 {
		m.Services = append(m.Services, Service{Name: fmt.Sprintf("x%d", i+1), Exclusive: true, Copies: 3, Policy: "    every = \"10h\"\n    take_over = \"1s\"\n"})
	}
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	machine, disk := startWitness(t), startDiskWitness(t)
	var worst time.Duration
	for round := range rounds {
		copiesEverywhere(t, c.Node(round%5))
		kind := cuts[random.IntN(len(cuts))]
		length := shortest + time.Duration(random.Int64N(int64(longest-shortest)))
		kind.make(c, random)
		<-time.After(length)
		machine.worst()
		disk.worst()
		c.Heal()
		healed := time.Now()
		for _, n := range c.Nodes() {
			for _, other := range c.Nodes() {
				awaitMember(t, n, other.Name, "alive")
			}
		}
		c.AwaitSettled(smokeTimeout, 1)
		for _, n := range c.Nodes() {
			Await(t, n.Name+" knows what the leader does", smokeTimeout, func() error {
				_, err := n.History() // a linearizable read: its own State has all of it
				return err
			})
		}
		took := time.Since(healed)
		worst = max(worst, took)
		late, synced := machine.worst(), disk.worst()
		t.Logf("round %d: %s for %v; all settled %v after; the witness was late by %v, a sync took %v", round, kind.name,
			length.Round(time.Second), took.Round(100*time.Millisecond), late.Round(time.Millisecond), synced.Round(time.Millisecond))
		if took > convergence && late < stoppedMachine && synced < slowDisk {
			t.Errorf("round %d: views converged %v after healing, not within %v", round, took, convergence)
		}
	}
	took := 0
	for _, e := range events(t, c.Node(0)) {
		if e.Kind == "take-over" {
			took++
		}
	}
	t.Logf("%d rounds, %d states taken over, settled %v after healing at the worst", rounds, took, worst.Round(100*time.Millisecond))
}

// convergence is how long after healing all nodes may take until they see all others alive and all settled.
const convergence = 30 * time.Second

// stoppedMachine is the lateness of an idle process from which on a machine stood still, so that nobody else is to blame for
// what took long.
const stoppedMachine = time.Second

// copiesEverywhere takes a snapshot of every state, and awaits that three nodes have it.
func copiesEverywhere(t *testing.T, n *Node) {
	t.Helper()
	Await(t, "a snapshot of every state", smokeTimeout, func() error { // what lost its lease may be being started again
		return cli(t, n, "snapshot").Failure()
	})
	Await(t, "copies of every snapshot", smokeTimeout, func() error {
		var list []api.Snapshot
		if err := n.Query(t.Context(), &list, "snapshots", "--latest"); err != nil {
			return err
		}
		for _, s := range list {
			if len(s.Holders) < 3 {
				return fmt.Errorf("%s@%d is held by %v", s.Service, s.Generation, s.Holders)
			}
		}
		return nil
	})
}
