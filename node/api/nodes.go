package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// WhatIfRequest is the body of POST /v1/whatif: how would the systems be, were these nodes down, or drained?
type WhatIfRequest struct {
	Nodes   []string `json:"nodes"` // names
	Drained bool     `json:"drained,omitempty"`
}

// DrainRequest is the body of POST /v1/drain.
type DrainRequest struct {
	Node string `json:"node"` // name
	Undo bool   `json:"undo,omitempty"`
}

// Node names a member.
type Node struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// RemoveRequest is the body of POST /v1/remove.
type RemoveRequest struct {
	Node   string `json:"node"` // name
	DryRun bool   `json:"dry_run,omitempty"`
}

// Removal is its answer.
type Removal struct {
	Node   string         `json:"node"`
	States []RemovedState `json:"states"` // that it has
}

// RemovedState is a state that a removed node had, and the snapshot that takes its place.
type RemovedState struct {
	System     string     `json:"system"`
	Service    string     `json:"service"`
	Generation uint64     `json:"generation"` // 0: nobody else has a snapshot, the state is lost with the node
	At         *time.Time `json:"at"`
}

// WhatIf plans what would be done if nodes were down or drained: one plan for each system.
func (c *Client) WhatIf(ctx context.Context, req WhatIfRequest) ([]Plan, error) {
	return call[[]Plan](ctx, c, queryTimeout, http.MethodPost, "/v1/whatif", req)
}

// Drain has everything on a node go elsewhere, or lets things go there again.
func (c *Client) Drain(ctx context.Context, req DrainRequest) (Node, error) {
	return call[Node](ctx, c, changeTimeout, http.MethodPost, "/v1/drain", req)
}

// Leave takes a node that has nothing left out of the cluster, until its agent is started with --rejoin. CodeConflict says
// what is still there.
func (c *Client) Leave(ctx context.Context, node string) (Node, error) {
	return call[Node](ctx, c, changeTimeout, http.MethodPost, "/v1/leave", DrainRequest{Node: node})
}

// ReconstructRequest is the body of POST /v1/reconstruct.
type ReconstructRequest struct {
	Digest string `json:"digest"`         // of the journal that was shown; "" only shows
	From   string `json:"from,omitempty"` // node with whose journal to go on; "": the newest
}

// Reconstruction is its answer: what every node has, and what the cluster goes on from.
type Reconstruction struct {
	From    string         `json:"from"`  // the node with the newest journal
	Index   uint64         `json:"index"` // entry up to which that goes
	Digest  string         `json:"digest"`
	Nodes   []SurveyedNode `json:"nodes"`
	Missing []string       `json:"missing"` // members that did not answer
	// Later is a node that knows of a later rebuilding of the cluster, which nobody has who answers: that is lost; "" when there is none.
	Later string `json:"later,omitempty"`
}

// SurveyedNode is what one node has.
type SurveyedNode struct {
	Name        string            `json:"name"`
	Voter       bool              `json:"voter"` // as the log has it that the cluster goes on from
	Term        uint64            `json:"term"`  // of the last entry of its raft log
	Last        uint64            `json:"last"`  // index of that; 0: it has no log
	Index       uint64            `json:"index"` // entry up to which it knows what is committed; 0: it has no journal
	Generations map[string]uint64 `json:"generations"`
	Chosen      bool              `json:"chosen"`
	Conflict    bool              `json:"conflict,omitempty"` // it knows another State than the chosen one at the same entry
	Error       string            `json:"error,omitempty"`
}

// Reconstruct has a cluster whose raft log is lost everywhere go on from the newest journal.
func (c *Client) Reconstruct(ctx context.Context, req ReconstructRequest) (Reconstruction, error) {
	return call[Reconstruction](ctx, c, changeTimeout, http.MethodPost, "/v1/reconstruct", req)
}

// RecoverRequest is the body of POST /v1/recover.
type RecoverRequest struct {
	Digest string `json:"digest"` // of the State that was shown; "" only shows
}

// Recovery is its answer: what every node has, and what the cluster goes on from.
type Recovery struct {
	Reconstruction
	Log    bool     `json:"log"`    // it goes on from a raft log; else from what a node followed, which is newer than any log
	Voters []string `json:"voters"` // by that log
	Silent []string `json:"silent"` // voters that do not answer, or have no log any more
	Newest []Newest `json:"newest"` // deployments, by system
}

// Newest is the newest deployment of a system.
type Newest struct {
	System     string    `json:"system"`
	Generation uint64    `json:"generation"`
	At         time.Time `json:"at"`
}

// Recover has a cluster that lost the majority of its voters go on from the best log that is left.
func (c *Client) Recover(ctx context.Context, req RecoverRequest) (Recovery, error) {
	return call[Recovery](ctx, c, changeTimeout, http.MethodPost, "/v1/recover", req)
}

// Remove takes a node that is down out of the cluster for ever.
func (c *Client) Remove(ctx context.Context, req RemoveRequest) (Removal, error) {
	return call[Removal](ctx, c, changeTimeout, http.MethodPost, "/v1/remove", req)
}

// InventoryNode is a row of GET /v1/infrastructure?system=NAME: what is known of a member, by its own word and by the newest
// model of the system.
type InventoryNode struct {
	Name       string                       `json:"name"`
	Address    string                       `json:"address"` // host at which its services are reached
	Status     string                       `json:"status"`  // as in Member
	Attributes map[string]string            `json:"attributes"`
	Containers map[string]map[string]string `json:"containers"` // by container: its settings
	// Provenance says where each attribute, and each setting as CONTAINER.SETTING, comes from: announced|generator|model.
	Provenance map[string]string `json:"provenance"`
}

// Infrastructure lists what is known of the members.
func (c *Client) Infrastructure(ctx context.Context, system string) ([]InventoryNode, error) {
	return call[[]InventoryNode](ctx, c, queryTimeout, http.MethodGet, "/v1/infrastructure?"+url.Values{"system": {system}}.Encode(), nil)
}
