//go:build linux

package testcluster

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// shortLife is the shortest life of certificates that a cluster may be given.
const shortLife = 10 * time.Second

// leafExpires is when the certificate of a node expires, as its disk has it.
func leafExpires(t *testing.T, n *Node) time.Time {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(n.DataDir(), "cluster.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Leaf []byte `json:"leaf"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(file.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	return leaf.NotAfter
}

func awaitExpired(t *testing.T, nodes ...*Node) {
	t.Helper()
	Await(t, "expired certificates", 3*shortLife, func() error {
		for _, n := range nodes {
			if left := time.Until(leafExpires(t, n)); left > -time.Second {
				return fmt.Errorf("%s: %v left", n.Name, left)
			}
		}
		return nil
	})
}

func awaitRenewed(t *testing.T, nodes ...*Node) {
	t.Helper()
	Await(t, "renewed certificates", smokeTimeout, func() error {
		for _, n := range nodes {
			if time.Until(leafExpires(t, n)) <= 0 {
				return errors.New(n.Name + " has an expired one")
			}
		}
		return nil
	})
}

// TestBackAfterItsCertificateExpired: two machines are away for longer than certificates live, and meanwhile another one,
// which they do not know, becomes a member. One of them has its log, the other has lost it. Both rejoin unaided.
func TestBackAfterItsCertificateExpired(t *testing.T) {
	Require(t)
	t.Parallel()
	c := New(t, 5, WithFirstArgs("--cert-life", shortLife.String()))
	for _, n := range c.Nodes()[:4] {
		n.Start()
	}
	c.AwaitVoters(3)
	m := Chain(4)
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	away, amnesiac, unknown := c.Node(2), c.Node(3), c.Node(4)
	for _, n := range []*Node{away, amnesiac} {
		n.PowerOff()
		awaitMember(t, c.Node(0), n.Name, "failed")
	}
	unknown.Start()
	c.Node(0).await(t, m.WithVersion("2"), "2")
	if err := os.RemoveAll(filepath.Join(amnesiac.DataDir(), "raft")); err != nil {
		t.Fatal(err)
	}
	awaitExpired(t, away, amnesiac)
	away.PowerOn()
	amnesiac.PowerOn()
	c.AwaitMembers(5)
	awaitRenewed(t, c.Nodes()...)
	unknown.await(t, m.WithVersion("3"), "3")
	for _, n := range []*Node{away, amnesiac} {
		n.await(t, m.WithVersion("4"+n.Name), "4"+n.Name)
	}
}

// await deploys through a node and awaits that all nodes show it settled, and that it answers.
func (n *Node) await(t *testing.T, m Model, version string) {
	t.Helper()
	deployed(t, n.Deploy(m))
	settledAnswers(t, n.c, 1, version)
}

// TestAllCertificatesExpired: the whole site is off for longer than certificates live. Nobody has one that is accepted, and
// nobody can renew before there is a leader: the nodes know each other by their keys.
func TestAllCertificatesExpired(t *testing.T) {
	c := real(t, 3, WithFirstArgs("--cert-life", shortLife.String()))
	m := Chain(3)
	c.Node(0).await(t, m, "1")
	awaitJournals(t, c)
	for _, n := range c.Nodes() {
		n.PowerOff()
	}
	awaitExpired(t, c.Nodes()...)
	for _, n := range c.Nodes() {
		n.switchOnUnready(t)
	}
	c.AwaitMembers(3)
	awaitRenewed(t, c.Nodes()...)
	c.Node(2).await(t, m.WithVersion("2"), "2")
}

// TestAllAddressesChange: every node has a new address at once, so that none is where another one looks for it. The
// cluster re-forms if the name by which nodes joined resolves anew, or if all but one are told of one address; nodes that
// listen on all addresses and keep running need no more than one node that the others find.
func TestAllAddressesChange(t *testing.T) {
	const seed = "seed.example"
	named := net.JoinHostPort(seed, strconv.Itoa(meshPort))
	for name, tc := range map[string]struct {
		nodes   int
		join    string                   // to which all but the first join
		args    []string                 // of every agent
		restart func(first *Node) string // gives what the others are told; nil = agents go on
	}{
		"the name resolves":       {3, named, nil, func(*Node) string { return "" }},
		"an address is told":      {5, "", nil, func(first *Node) string { return first.Bind() }},
		"the agents keep running": {3, named, []string{"--bind", "0.0.0.0:" + strconv.Itoa(meshPort)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			Require(t)
			t.Parallel()
			c := New(t, tc.nodes, WithAgentArgs(tc.args...))
			first := c.Node(0)
			c.SetHosts(map[string]netip.Addr{seed: first.Address()})
			first.Start()
			for _, n := range c.Nodes()[1:] {
				n.joinAt(t, tc.join)
			}
			c.AwaitVoters(wantedVoters(tc.nodes))
			m := Chain(2 * tc.nodes)
			first.await(t, m, "1")
			for i, n := range c.Nodes() {
				if tc.restart != nil {
					n.KillAgent()
				}
				n.ChangeAddress(nodeAddress(101 + i))
			}
			c.SetHosts(map[string]netip.Addr{seed: first.Address()})
			if tc.restart != nil {
				for i, n := range c.Nodes() {
					join := WithJoin()
					if told := tc.restart(first); i > 0 && told != "" {
						join = WithJoin("--join", told)
					}
					n.Launch(join)
				}
			}
			began := time.Now()
			c.AwaitMembers(tc.nodes)
			t.Logf("%d members after %v", tc.nodes, time.Since(began).Round(100*time.Millisecond))
			settledAnswers(t, c, 1, "1")
			t.Logf("services answer after %v", time.Since(began).Round(100*time.Millisecond))
			c.Node(tc.nodes-1).await(t, m.WithVersion("2"), "2")
		})
	}
}

// joinAt starts the agent, which joins at an address; "" = as it does otherwise.
func (n *Node) joinAt(t *testing.T, address string) {
	t.Helper()
	if address == "" {
		n.Start()
		return
	}
	args, err := n.joinArgs()
	if err != nil {
		t.Fatal(err)
	}
	args[1] = address
	n.Start(WithJoin(args...))
}
