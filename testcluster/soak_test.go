//go:build linux

package testcluster

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// TestSoakLoad deploys for an hour (ISONOMIA_SOAK_FOR changes that), one version after the other, with nothing broken on
// purpose: nobody may be marked down and leadership may not move, except in rounds in which the machine itself stood
// still, which are counted apart. It runs with ISONOMIA_SOAK only.
func TestSoakLoad(t *testing.T) {
	if os.Getenv("ISONOMIA_SOAK") == "" {
		t.Skip("an hour of load: set ISONOMIA_SOAK=1 (make soak)")
	}
	length := time.Hour
	if d, err := time.ParseDuration(os.Getenv("ISONOMIA_SOAK_FOR")); err == nil {
		length = d
	}
	c := Start(t, 3)
	w := startWitness(t)
	w.worst()
	leader := c.WaitLeader()
	rounds, excused, worst := 0, 0, time.Duration(0)
	for end := time.Now().Add(length); time.Now().Before(end); rounds++ {
		deployed(t, c.Node(rounds%3).Deploy(Random(20, 2, 5).WithVersion(fmt.Sprint(rounds))))
		late, now := w.worst(), c.WaitLeader()
		worst = max(worst, late)
		switch {
		case now == leader:
		case late > lateMachine:
			excused++
		default:
			t.Errorf("round %d: leadership moved from %s to %s, and the witness was never later than %v", rounds, leader.Name, now.Name, late)
		}
		leader = now
	}
	t.Logf("%d deployments in %v; the witness was late by %v at the worst; leadership moved %d times while it was", rounds, length, worst, excused)
	for _, e := range events(t, c.Node(0)) {
		if e.Kind == "down" && worst < lateMachine {
			t.Errorf("%s: %s (the witness was late by %v)", e.At.Format(time.TimeOnly), e.Message, worst)
		}
	}
}

// lateMachine is the lateness of an idle process above which a machine may cost a leader its lease.
const lateMachine = 100 * time.Millisecond

func events(t *testing.T, n *Node) []api.Event {
	t.Helper()
	var out []api.Event
	for e, err := range n.API().Events(t.Context(), api.EventQuery{Tail: 1000}) {
		if err != nil {
			if strings.Contains(err.Error(), "EOF") {
				break
			}
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}
