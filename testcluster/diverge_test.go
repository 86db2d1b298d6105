//go:build linux

package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestBeginsAnew: a raft server whose State was found to differ is started again. It waits for a leader, sets its raft
// directory aside and gets what the others have; its services do not notice.
func TestBeginsAnew(t *testing.T) {
	c := real(t, 3)
	m := Chain(3)
	c.Node(0).await(t, m, "1")
	starts := countStarts(c)
	n := c.Node(2)
	n.KillAgent()
	raft := filepath.Join(n.DataDir(), "raft")
	if err := os.WriteFile(filepath.Join(raft, "diverged"), []byte(`{"Index":9,"Server":"n1"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, other := range c.Nodes()[:2] {
		other.KillAgent()
	}
	n.Launch()
	Await(t, "the node to wait for a leader", smokeTimeout, func() error {
		s, err := n.Status()
		if err == nil && !strings.Contains(s.Warning, "applies the log no more") {
			err = fmt.Errorf("status says %q", s.Warning)
		}
		return err
	})
	aside := func() []string {
		list, _ := filepath.Glob(raft + ".diverged-*")
		return list
	}
	if len(aside()) != 0 {
		t.Error("it begins anew without a leader")
	}
	for _, other := range c.Nodes()[:2] {
		other.Launch()
	}
	Await(t, "it to begin anew", smokeTimeout, func() error {
		if list := aside(); len(list) != 1 {
			return fmt.Errorf("set aside: %v", list)
		}
		s, err := n.Status()
		if err == nil && (s.Index == 0 || s.Warning != "") {
			err = fmt.Errorf("its State is at %d: %s", s.Index, s.Warning)
		}
		return err
	})
	c.AwaitVoters(3)
	c.AwaitSettled(smokeTimeout, 1)
	if now := countStarts(c); now != starts {
		t.Errorf("%d services were started again", now-starts)
	}
	if r := cli(t, n, "events"); !strings.Contains(r.Stdout, "begins anew") {
		t.Errorf("events: %s", r.Stdout)
	}
	// Its vote counts again: the other two in turn may be away.
	for _, other := range c.Nodes()[:2] {
		other.KillAgent()
		n.await(t, m.WithVersion("2"+other.Name), "2"+other.Name)
		other.Start()
		c.AwaitMembers(3)
	}
}
