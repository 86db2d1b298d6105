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
