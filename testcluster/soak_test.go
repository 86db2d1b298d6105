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
// purpose: nobody may be marked down and leadership may not move. It runs with ISONOMIA_SOAK only.
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
	rounds := 0
	for end := time.Now().Add(length); time.Now().Before(end); rounds++ {
		deployed(t, c.Node(rounds%3).Deploy(Random(20, 2, 5).WithVersion(fmt.Sprint(rounds))))
	}
	late := w.worst()
	t.Logf("%d deployments in %v; the witness was late by %v at the worst", rounds, length, late)
	for _, e := range events(t, c.Node(0)) {
		if e.Kind == "down" {
			t.Errorf("%s: %s (the witness was late by %v)", e.At.Format(time.TimeOnly), e.Message, late)
		}
	}
	if now := c.WaitLeader(); now != leader {
		t.Errorf("leadership moved from %s to %s (the witness was late by %v)", leader.Name, now.Name, late)
	}
}

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
