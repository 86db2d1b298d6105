package node

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/node/api"
)

const notesModel = `
service "notes" {
  type    = "sqlite-database"
  package = "./notes"
}
`

// What was taken away as an archive can be brought in again, where nobody knows what was counted when it was dumped.
func TestArchiveOfADatabaseIsRestored(t *testing.T) {
	t.Parallel()
	n := startNode(t, "n1", nil)
	n.deploy(notesModel, map[string]string{"notes": putSource(t, n.Node, map[string]string{"1.sql": "CREATE TABLE note (text TEXT); INSERT INTO note VALUES ('kept');"})})
	if _, err := n.TakeSnapshot(t.Context(), api.SnapshotRequest{System: "default", Service: "notes"}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := n.ExportSnapshot(t.Context(), "default", "notes", 0, &archive); err != nil {
		t.Fatal(err)
	}
	taken, err := n.ImportSnapshot(t.Context(), "default", "notes", &archive)
	if err != nil || taken.Checked != nil {
		t.Fatalf("imported as %+v: %v", taken, err)
	}
	if r, err := n.Restore(t.Context(), api.RestoreRequest{System: "default", Service: "notes", Generation: taken.Generation}); err != nil {
		t.Errorf("restored as %+v: %v", r, err)
	}
	n.settled()

	junk, err := n.ImportSnapshot(t.Context(), "default", "notes", tarOf(t, map[string]string{"readme": "no database"}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = n.Restore(t.Context(), api.RestoreRequest{System: "default", Service: "notes", Generation: junk.Generation})
	if err == nil || !strings.Contains(err.Error(), `has no file "database.sqlite"`) {
		t.Errorf("what is no database was restored: %v", err)
	}
	n.settled()
	if _, err := n.TakeSnapshot(t.Context(), api.SnapshotRequest{System: "default", Service: "notes"}); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func tarOf(t testing.TB, files map[string]string) *bytes.Buffer {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(text)), Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &b
}
