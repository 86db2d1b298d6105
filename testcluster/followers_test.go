//go:build linux

package testcluster

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"
)

// awaitRoles awaits that every node that is up sees these roles, and gives the nodes of each.
func awaitRoles(t *testing.T, c *Cluster, voters, standbys, followers int) (roles map[string][]*Node) {
	t.Helper()
	Await(t, "roles", smokeTimeout, func() error {
		for _, n := range c.Up() {
			members, err := n.Members()
			if err != nil {
				return err
			}
			roles = map[string][]*Node{}
			for _, m := range members {
				if m.Status == "alive" {
					roles[m.Role] = append(roles[m.Role], c.NodeNamed(m.Name))
				}
			}
			if len(roles["leader"]) != 1 || len(roles["voter"]) != voters-1 || len(roles["standby"]) != standbys || len(roles["follower"]) != followers {
				return fmt.Errorf("%s sees %d leaders, %d voters, %d standbys, %d followers", n.Name, len(roles["leader"]), len(roles["voter"]), len(roles["standby"]), len(roles["follower"]))
			}
		}
		return nil
	})
	return roles
}

var followingLine = regexp.MustCompile(`msg=following .*server=(\S+)`)

// serverOf is the raft server that a follower says it follows.
func serverOf(t *testing.T, c *Cluster, n *Node) *Node {
	t.Helper()
	log, err := os.ReadFile(n.LogFile())
	if err != nil {
		t.Fatal(err)
	}
	found := followingLine.FindAllSubmatch(log, -1)
	members, err := n.Members()
	if err != nil || len(found) == 0 {
		t.Fatalf("%s follows nobody: %v", n.Name, err)
	}
	for _, m := range members {
		if m.ID == string(found[len(found)-1][1]) {
			return c.NodeNamed(m.Name)
		}
	}
	t.Fatalf("%s follows a stranger", n.Name)
	return nil
}

// TestFollowers: nodes beyond the raft servers do all that others do, whoever dies: deploy, run services, die, come back.
func TestFollowers(t *testing.T) {
	c := real(t, 11)
	roles := awaitRoles(t, c, 5, 4, 2)
	f, g := roles["follower"][0], roles["follower"][1]
	m := Model{Services: []Service{{Name: "db", Pin: []string{g.Name}}, {Name: "api", DependsOn: []string{"db"}, Pin: []string{f.Name}},
		{Name: "web", DependsOn: []string{"api"}, Instances: "all"}}}
	deployed(t, f.Deploy(m))
	answers(t, c, c.AwaitSettled(smokeTimeout, 1), "1")

	// Its server dies in the middle of a deployment that came through it.
	server := serverOf(t, c, f)
	deployed(t, f.Deploy(m.WithVersion("2"), "--no-wait"))
	server.PowerOff()
	settledAnswers(t, c, 2, "2")
	if now := serverOf(t, c, f); now == server {
		t.Errorf("%s still follows %s", f.Name, server.Name)
	}
	// A follower takes the dead one's place, and it comes back as a follower.
	awaitMember(t, f, server.Name, "failed")
	awaitRoles(t, c, 5, 4, 1)
	server.Revive()
	c.AwaitMembers(11)
	awaitRoles(t, c, 5, 4, 2)
	settledAnswers(t, c, 2, "2")

	// A follower dies: the rest takes over what may run elsewhere.
	dies := awaitRoles(t, c, 5, 4, 2)["follower"][0]
	last := c.AwaitSettled(smokeTimeout, 2).Generation
	deployed(t, dies.Deploy(m.WithVersion("3").Change("db", func(s *Service) { s.Pin = nil }).Change("api", func(s *Service) { s.Pin = nil })))
	answers(t, c, c.AwaitSettled(smokeTimeout, last+1), "3")
	other := c.WaitLeader()
	began := time.Now()
	dies.PowerOff()
	awaitMember(t, other, dies.Name, "failed")
	t.Logf("a follower is down %v after its death", time.Since(began).Round(100*time.Millisecond))
	settledAnswers(t, c, last+1, "3")
	dies.Revive()
	c.AwaitMembers(11)
	settledAnswers(t, c, last+1, "3")
	idleCosts(t, c)
}

// idleCosts prints what agents use while nothing happens, by role. The machine may be busy with other things: it is no
// condition.
func idleCosts(t *testing.T, c *Cluster) {
	t.Helper()
	const watch = 10 * time.Second
	roles, agents := awaitRoles(t, c, 5, 4, 2), map[*Node]int{}
	for _, n := range c.Nodes() {
		w, err := n.World()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range w.Processes {
			if p.isAgent() {
				agents[n] = p.PID
			}
		}
	}
	used := func() map[string]time.Duration {
		sum := map[string]time.Duration{}
		for role, nodes := range roles {
			for _, n := range nodes {
				_, _, cpu := procCost(n, agents[n])
				sum[role] += cpu / time.Duration(len(nodes))
			}
		}
		return sum
	}
	before := used()
	<-time.After(watch)
	after := used()
	for role := range after {
		t.Logf("idle: a %s uses %.2f %% of a core", role, (after[role]-before[role]).Seconds()/watch.Seconds()*100)
	}
}
