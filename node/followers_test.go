package node

import (
	"fmt"
	"testing"
	"time"
)

// TestTenthNodeFollows: it is no raft server, and does all that others do.
func TestTenthNodeFollows(t *testing.T) {
	t.Parallel()
	first := startNode(t, "n1", nil)
	nodes := []*testNode{first}
	for i := 2; i <= 10; i++ {
		nodes = append(nodes, startNode(t, fmt.Sprint("n", i), first))
	}
	var follower *testNode
	await(t, 60*time.Second, func() string {
		roles := map[string]int{}
		for _, n := range nodes {
			m, err := n.Members(t.Context())
			if err != nil {
				return err.Error()
			}
			for _, m := range m.Members {
				roles[m.Role]++
				if m.Role == "follower" && m.Name == n.cfg.Name {
					follower = n
				}
			}
		}
		if got := fmt.Sprint(roles); got != "map[follower:10 leader:10 standby:40 voter:40]" {
			return got
		}
		return ""
	})
	if follower.fsm.Following() == "" {
		t.Errorf("%s follows nobody", follower.cfg.Name)
	}
	follower.deploy(echoModel(t, follower.cfg.Name, "1"), nil)
	for _, n := range nodes {
		s, err := n.Status(t.Context(), "", true)
		if err != nil || !s.Settled || len(s.Instances) != 1 || s.Instances[0].Node != follower.cfg.Name {
			t.Errorf("%s: %+v, %v", n.cfg.Name, s, err)
		}
	}
	sealed := follower.fsm.State().Cluster.Sealed
	if _, ok := sealed[follower.id.ID]; ok || len(sealed) != 9 {
		t.Errorf("the CA's key is sealed to %d nodes, the follower among them: %v", len(sealed), ok)
	}
	if err := follower.renew(t.Context()); err != nil { // the leader signs
		t.Error(err)
	}
}
