package node

import (
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// What a process's first snapshot adds to the store is said, though most of it came with the copy made before the stop.
func TestFirstSnapshotSaysWhatItStored(t *testing.T) {
	t.Parallel()
	n := startNode(t, "n1", nil)
	n.deploy(`
service "notes" {
  type = "process"
  state {
    managed = true
  }
  run {
    command = ["/bin/sh", "-c", "echo kept > $STATE_DIRECTORY/notes; exec sleep 1000"]
  }
}
`, nil)
	taken, err := n.TakeSnapshot(t.Context(), api.SnapshotRequest{System: "default", Service: "notes"})
	if err != nil || taken.Files != 1 || taken.Stored == 0 {
		t.Errorf("%+v, %v", taken, err)
	}
}
