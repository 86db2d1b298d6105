package api

import (
	"context"
	"net/http"
	"time"
)

// GCRequest is the body of POST /v1/gc: what to delete of what nobody wants any more.
type GCRequest struct {
	System   string   `json:"system"`
	Services []string `json:"services,omitempty"` // empty: all
	// Keep is how many snapshots of each service stay; nil: none is dropped. 0 drops, of services that are not deployed
	// and whose state is deleted, all.
	Keep       *int `json:"keep,omitempty"`
	Strays     bool `json:"strays,omitempty"`     // drop the snapshots of stale copies
	DryRun     bool `json:"dry_run,omitempty"`    // only say what would go
	Undeployed bool `json:"undeployed,omitempty"` // Services were just undeployed: that nothing is left of one is no error
}

// GC is its answer.
type GC struct {
	States    []CollectedState  `json:"states"`
	Snapshots []DroppedSnapshot `json:"snapshots"`
	Unreached []string          `json:"unreached"` // nodes that did nothing, each with the reason
}

// CollectedState is a state that lay on a node and was wanted no more.
type CollectedState struct {
	Service   string `json:"service"`
	Container string `json:"container"`
	Node      string `json:"node"` // name
	Why       string `json:"why"`
	Last      bool   `json:"last"` // the only one: a last snapshot of it is kept
	Deleted   bool   `json:"deleted"`
	Error     string `json:"error,omitempty"`
}

// DroppedSnapshot is a generation that is not kept any more.
type DroppedSnapshot struct {
	Service    string    `json:"service"`
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`
	Size       int64     `json:"size"` // bytes
}

// GC deletes states that nobody wants any more, and snapshots beyond what is to be kept.
func (c *Client) GC(ctx context.Context, req GCRequest) (GC, error) {
	return call[GC](ctx, c, stateTimeout, http.MethodPost, "/v1/gc", req)
}
