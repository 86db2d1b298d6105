package api

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// SnapshotChange is one path in which two snapshots differ.
type SnapshotChange struct {
	Path string `json:"path"`
	What string `json:"what"` // added|removed|changed
	Old  int64  `json:"old"`  // bytes
	New  int64  `json:"new"`
}

// SnapshotDiff is the answer of GET /v1/snapshots/diff.
type SnapshotDiff struct {
	Changes []SnapshotChange `json:"changes"`
	More    bool             `json:"more"` // there are more than fit
}

// NodeCheck is what one node's store was found to be; POST /v1/check answers with one for each node.
type NodeCheck struct {
	Node     string        `json:"node"`
	Problems []string      `json:"problems"`        // what is damaged; it is set aside
	Healed   int           `json:"healed"`          // packages and snapshots that were made whole from other nodes
	Lost     []string      `json:"lost"`            // those that nobody has whole, and what of them is gone
	Error    string        `json:"error,omitempty"` // what kept it from looking
	Objects  int64         `json:"objects"`
	Bytes    int64         `json:"bytes"`
	Took     time.Duration `json:"took"` // nanoseconds
}

func snapshotQuery(system, service string, generations map[string]uint64) string {
	q := url.Values{"system": {system}, "service": {service}, "consistent": {"1"}}
	for name, g := range generations {
		q.Set(name, strconv.FormatUint(g, 10))
	}
	return q.Encode()
}

// ExportSnapshot writes a snapshot, 0 the newest, as a tar archive. An error means that what was written is not whole.
func (c *Client) ExportSnapshot(ctx context.Context, system, service string, generation uint64, w io.Writer) error {
	path := "/v1/snapshots/archive?" + snapshotQuery(system, service, map[string]uint64{"generation": generation})
	resp, err := c.do(ctx, http.MethodGet, path, "", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("export snapshot of %s: %w", service, err)
	}
	return nil
}

// ImportSnapshot makes a tar archive the newest snapshot of a service. Nothing is restored by that.
func (c *Client) ImportSnapshot(ctx context.Context, system, service string, tar io.Reader) (SnapshotTaken, error) {
	var out SnapshotTaken
	path := "/v1/snapshots/archive?" + snapshotQuery(system, service, nil)
	resp, err := c.do(ctx, http.MethodPut, path, "application/x-tar", tar)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return out, fmt.Errorf("decode answer to %s: %w", path, err)
	}
	return out, nil
}

// DiffSnapshots says in what generation to differs from generation from.
func (c *Client) DiffSnapshots(ctx context.Context, system, service string, from, to uint64) (SnapshotDiff, error) {
	path := "/v1/snapshots/diff?" + snapshotQuery(system, service, map[string]uint64{"from": from, "to": to})
	return call[SnapshotDiff](ctx, c, stateTimeout, http.MethodGet, path, nil)
}

// Check has every node read all that its store holds.
func (c *Client) Check(ctx context.Context) ([]NodeCheck, error) {
	return call[[]NodeCheck](ctx, c, stateTimeout, http.MethodPost, "/v1/check", struct{}{})
}
