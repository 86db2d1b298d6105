//go:build linux

package testcluster

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
