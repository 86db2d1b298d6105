package node

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

func stateStore(t *testing.T) *snapshotstore.Store {
	t.Helper()
	s, err := snapshotstore.Open(t.TempDir(), snapshotstore.Options{Keys: [][32]byte{{1}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// What has changed in a state comes over the blob routes as a difference, and whole from a node of an older version.
func TestDeltasBetweenNodes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	data := make([]byte, 1<<20)
	for i := range data {
		data[i] = byte(i * i >> 7)
	}
	put := func(s *snapshotstore.Store) snapshotstore.ID {
		if err := os.WriteFile(filepath.Join(dir, "db"), data, 0o600); err != nil {
			t.Fatal(err)
		}
		info, err := s.PutState(t.Context(), dir, snapshotstore.StateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return info.Root
	}
	n := &Node{store: stateStore(t), log: slog.New(slog.DiscardHandler)}
	first := put(n.store)
	copy(data[300_000:], strings.Repeat("changed", 100))
	second := put(n.store)

	for _, old := range []bool{false, true} {
		var asked atomic.Int32
		routes := n.blobRoutes()
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/deltas" {
				asked.Add(1)
				if old {
					http.NotFound(w, r)
					return
				}
			}
			routes.ServeHTTP(w, r)
		}))
		defer srv.Close()
		src := source{&peers{blob: srv.Client()}, strings.TrimPrefix(srv.URL, "http://"), "n2"}
		to := stateStore(t)
		for _, root := range []snapshotstore.ID{first, second} {
			if err := to.FetchWith(t.Context(), root, []snapshotstore.Source{src}, snapshotstore.FetchOptions{Name: "a state"}); err != nil {
				t.Fatal(err)
			}
		}
		if whole, err := to.HasTree(t.Context(), second); err != nil || !whole || asked.Load() == 0 {
			t.Fatalf("old %v: whole %v after asking for deltas %d times: %v", old, whole, asked.Load(), err)
		}
		if _, err := src.Deltas(context.Background(), nil); errors.Is(err, snapshotstore.ErrNoDeltas) != old {
			t.Fatalf("old %v: %v", old, err)
		}
		resp, err := srv.Client().Post(srv.URL+"/deltas", "", bytes.NewReader([]byte("nonsense")))
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				t.Fatal("nonsense is answered")
			}
		}
	}
}
