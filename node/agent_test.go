package node

import (
	"testing"
	"time"
)

// A node that sees the log late starts what dies at once as often as any other: three times, with pauses.
func TestStartsAreCountedWhereTheLogIsSeenLate(t *testing.T) {
	t.Parallel()
	leader := startNode(t, "n1", nil)
	follower := startNode(t, "n2", leader)
	startNode(t, "n3", leader)
	leader.submit(`
service "dies" {
  type = "process"
  run {
    command = ["/bin/false"]
  }
}
distribution {
  pin = { dies = ["n2"] }
}
`, nil)
	await(t, 30*time.Second, func() string {
		history, err := leader.History(t.Context(), "", true)
		if err != nil {
			return err.Error()
		}
		for _, e := range history {
			if e.Outcome == "rolled_back" {
				return ""
			}
		}
		return "not rolled back yet"
	})
	if failed := follower.noted("start-failed"); len(failed) != 3 {
		t.Errorf("it was started %d times: %q", len(failed), failed)
	}
}
