package node

import (
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// A node that joins was not silent before there was one.
func TestNodeThatJoinsIsNotDown(t *testing.T) {
	t.Parallel()
	began := time.Now()
	leader := startNode(t, "n1", nil)
	await(t, time.Minute, func() string {
		if led := time.Since(began); led < model.DownAfter+time.Second {
			return "it leads for " + led.String() + " only"
		}
		return ""
	})
	startNode(t, "n2", leader)
	startNode(t, "n3", leader)
	await(t, 30*time.Second, func() string {
		if len(leader.noted("join")) < 2 {
			return "it has not noted both joins"
		}
		return ""
	})
	if down := leader.noted("down"); len(down) > 0 {
		t.Errorf("noted: %q", down)
	}
}

// What is refused again and again for one reason is tried ever more seldom; another reason begins anew.
func TestRefusalsPause(t *testing.T) {
	t.Parallel()
	var r refusals
	for i, want := range []time.Duration{0, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond} {
		if got := r.pause("a"); got != want {
			t.Errorf("refusal %d: %v", i+1, got)
		}
	}
	for range 50 {
		if got := r.pause("a"); got > 10*time.Second || got <= 0 {
			t.Fatalf("%v", got)
		}
	}
	if got := r.pause("a"); got != 10*time.Second {
		t.Errorf("in the end: %v", got)
	}
	if got := r.pause("b"); got != 0 {
		t.Errorf("another reason: %v", got)
	}
}
