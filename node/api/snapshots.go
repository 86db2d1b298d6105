package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Snapshot is a row of GET /v1/snapshots?system=NAME&service=NAME: one kept generation of a service's state.
type Snapshot struct {
	System     string     `json:"system"`
	Service    string     `json:"service"`
	Container  string     `json:"container"`
	Component  string     `json:"component"` // the service's own, in its container
	ID         string     `json:"id"`
	Generation uint64     `json:"generation"`
	Size       int64      `json:"size"`   // bytes
	Stored     int64      `json:"stored"` // bytes that it added to the store of the node that took it
	Files      int64      `json:"files"`
	At         time.Time  `json:"at"`
	Node       string     `json:"node"` // name; that took it
	Holders    []string   `json:"holders"`
	Checked    *time.Time `json:"checked"` // null: not
	Proven     *time.Time `json:"proven"`
	Encrypted  bool       `json:"encrypted"`
	Why        string     `json:"why,omitempty"`
	// Stray: of a copy that was not in use any more, kept before it was deleted. It is never the newest.
	Stray bool `json:"stray,omitempty"`
}

// SnapshotRequest is the body of POST /v1/snapshots.
type SnapshotRequest struct {
	System  string `json:"system"`
	Service string `json:"service"`
	Why     string `json:"why,omitempty"`
}

// SnapshotTaken is its answer.
type SnapshotTaken struct {
	Snapshot
	New   bool          `json:"new"`   // false: nothing had changed since the newest one
	Pause time.Duration `json:"pause"` // nanoseconds for which the service was stopped
}

// RestoreRequest is the body of POST /v1/restore.
type RestoreRequest struct {
	System     string `json:"system"`
	Service    string `json:"service"`
	Generation uint64 `json:"generation"` // 0: the newest
	// TakeOver has a state whose node is down go on elsewhere from the snapshot: what the node wrote since is on it only.
	TakeOver bool `json:"take_over,omitempty"`
}

// Restored is its answer. After a take-over the service is not there yet: only Service, Generation and Size are known.
type Restored struct {
	Service    string        `json:"service"`
	Node       string        `json:"node"`
	Generation uint64        `json:"generation"` // that was restored
	Now        uint64        `json:"now"`        // the generation that its content has as the newest one
	Safety     uint64        `json:"safety"`     // the generation of what there was before
	Size       int64         `json:"size"`
	Pause      time.Duration `json:"pause"` // nanoseconds
}

// stateTimeout bounds work whose time grows with the size of a state.
const stateTimeout = 6 * time.Hour

// Snapshots lists the kept snapshots of a system, of one service or, where it is empty, of all, newest first.
func (c *Client) Snapshots(ctx context.Context, system, service string) ([]Snapshot, error) {
	path := "/v1/snapshots?" + url.Values{"system": {system}, "service": {service}, "consistent": {"1"}}.Encode()
	return call[[]Snapshot](ctx, c, queryTimeout, http.MethodGet, path, nil)
}

// TakeSnapshot takes a snapshot of a service's state, wherever it is.
func (c *Client) TakeSnapshot(ctx context.Context, req SnapshotRequest) (SnapshotTaken, error) {
	return call[SnapshotTaken](ctx, c, stateTimeout, http.MethodPost, "/v1/snapshots", req)
}

// Restore replaces the state of a service by a kept snapshot of it.
func (c *Client) Restore(ctx context.Context, req RestoreRequest) (Restored, error) {
	return call[Restored](ctx, c, stateTimeout, http.MethodPost, "/v1/restore", req)
}
