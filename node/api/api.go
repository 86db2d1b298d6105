// Package api holds the types of the HTTP API under /v1 and a client for it.
//
// It imports nothing of the project, so that tools can speak to a node without the node's code. Fields may be
// added; none is renamed or reused. A failed request answers with an Error as its body and a status of 4xx or 5xx.
//
// The API listens on the Unix socket DIR/api.sock (permission 0660: who may open it, may do everything).
package api

import "time"

// Error is how every failure travels, over HTTP and under --json.
type Error struct {
	Code    string `json:"code"` // one of the Code constants
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
	Where   string `json:"where,omitempty"` // file:line, or the service or node concerned
	// Diagnostics is rendered text, one per problem, when Code is CodeInvalidModel.
	Diagnostics []string `json:"diagnostics,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// Codes of Error. Never renamed, never reused; an unknown one means failed.
const (
	CodeFailed       = "failed"
	CodeUsage        = "usage"
	CodeInvalidModel = "invalid_model"
	CodeStale        = "stale"     // somebody else deployed meanwhile: plan again
	CodeNoQuorum     = "no_quorum" // no leader could be reached in time
	CodeNotFound     = "not_found"
	CodeConflict     = "conflict"
	CodeUnreachable  = "unreachable" // the node asked could not be reached
	CodeBuildFailed  = "build_failed"
	CodeRolledBack   = "rolled_back"
	CodeAborted      = "aborted"
	CodeDenied       = "denied"
)

// Member is a row of GET /v1/members.
type Member struct {
	ID         string            `json:"id"`
	Name       string            `json:"name"`
	Address    string            `json:"address"` // host:port of the mesh
	Status     string            `json:"status"`  // alive|suspect|failed|left|draining
	Role       string            `json:"role"`    // leader|voter|standby|follower
	Zone       string            `json:"zone"`
	Attributes map[string]string `json:"attributes"`
	Version    string            `json:"version"`
	Note       string            `json:"note,omitempty"` // what an operator should know, e.g. "must be upgraded"
	Sick       string            `json:"sick,omitempty"` // why it takes nothing new, e.g. "disk full: 12 MB free of 1.0 GB at /var/lib/isonomia"
}

// Members is the answer of GET /v1/members.
type Members struct {
	Members []Member `json:"members"`
	Warning string   `json:"warning,omitempty"` // e.g. no failover with fewer than three nodes
}

// Instance is one row of Status.
type Instance struct {
	System     string         `json:"system"`
	Service    string         `json:"service"`
	Node       string         `json:"node"` // name
	Address    string         `json:"address"`
	Container  string         `json:"container"`
	Phase      string         `json:"phase"`
	Reason     string         `json:"reason"`
	Generation uint64         `json:"generation"`
	Ports      map[string]int `json:"ports"`
	PID        int            `json:"pid,omitempty"`
	Health     string         `json:"health"` // healthy|degraded|unknown|""
	Since      time.Time      `json:"since"`
	Row        string         `json:"row"`
	Obsolete   bool           `json:"obsolete,omitempty"`
	Managed    bool           `json:"managed,omitempty"` // its state is
	Attempts   int            `json:"attempts,omitempty"`
	Output     string         `json:"output,omitempty"` // last lines, when failed
}

// Status is the answer of GET /v1/status?system=NAME&consistent=1.
type Status struct {
	Cluster    string     `json:"cluster"`
	Leader     string     `json:"leader"` // name; "" while there is none
	System     string     `json:"system"`
	Generation uint64     `json:"generation"`
	Settled    bool       `json:"settled"`
	Outcome    string     `json:"outcome"` // of the newest intent
	Why        string     `json:"why,omitempty"`
	Index      uint64     `json:"index"`
	Stale      bool       `json:"stale"` // read from this node's own State without asking the leader
	Warning    string     `json:"warning,omitempty"`
	Instances  []Instance `json:"instances"`
	// Systems names those of which something is deployed, if of this one nothing is.
	Systems []string `json:"systems,omitempty"`
	// NotAnswering says, a line each, which node cannot answer which shared port, and why.
	NotAnswering []string `json:"not_answering,omitempty"`
	// Sick are the nodes that take nothing new, by name.
	Sick []SickNode `json:"sick,omitempty"`
}

// SickNode is a node that takes nothing new; what is there stays.
type SickNode struct {
	Node string `json:"node"` // name
	Why  string `json:"why"`
}

// Reservation is a row of GET /v1/ports.
type Reservation struct {
	System   string `json:"system"`
	Service  string `json:"service"`
	Name     string `json:"name"`
	Resource string `json:"resource"`
	Number   int    `json:"number"`
	Scope    string `json:"scope"`          // private|shared|fixed
	Node     string `json:"node,omitempty"` // name, for private
	// NotAnswering names the nodes that cannot answer a shared port for others: somebody else has the number there.
	NotAnswering []string `json:"not_answering,omitempty"`
}

// HistoryEntry is a row of GET /v1/history?system=NAME&consistent=1.
type HistoryEntry struct {
	Generation uint64    `json:"generation"`
	Base       uint64    `json:"base"`
	Intent     uint64    `json:"intent"`
	Kind       string    `json:"kind"` // deploy|rollback|undeploy|auto-rollback|adapt
	At         time.Time `json:"at"`
	By         string    `json:"by"`
	Why        string    `json:"why"`
	Outcome    string    `json:"outcome"` // running|settled|rolled_back|superseded|aborted|stuck
}

// TokenRequest is the body of POST /v1/tokens.
type TokenRequest struct {
	Role string        `json:"role"` // node
	Uses int           `json:"uses"` // default 1
	TTL  time.Duration `json:"ttl"`  // nanoseconds, default one hour
	By   string        `json:"by"`
}

// TokenCreated is the answer of POST /v1/tokens: the only time that the secret is shown.
type TokenCreated struct {
	ID    string `json:"id"`
	Token string `json:"token"`
}

// Token is a row of GET /v1/tokens; DELETE /v1/tokens/{id} revokes one.
type Token struct {
	ID       string    `json:"id"`
	Role     string    `json:"role"`
	UsesLeft int       `json:"uses_left"`
	Expires  time.Time `json:"expires"`
	Created  time.Time `json:"created"`
	By       string    `json:"by"`
}

// MissingRequest is the body of POST /v1/objects/missing: hex ids, at most 10,000. The answer is MissingReply.
// What is missing is sent with PUT /v1/objects, a stream of snapshotstore frames.
type MissingRequest struct {
	IDs []string `json:"ids"`
}

// MissingReply names the objects that the node's store lacks.
type MissingReply struct {
	IDs []string `json:"ids"`
}

// BuildRequest is the body of POST /v1/builds. The answer is a stream of BuildEvent, one JSON object per line.
type BuildRequest struct {
	System  string            `json:"system"`
	Service string            `json:"service"`
	Source  string            `json:"source"` // tree id, hex; its objects are in the node's store already
	Command []string          `json:"command"`
	Env     map[string]string `json:"env,omitempty"`
	Timeout time.Duration     `json:"timeout,omitempty"`
	Rebuild bool              `json:"rebuild,omitempty"`
}

// BuildEvent is one line of the answer to POST /v1/builds; the last one has Output or Error set.
type BuildEvent struct {
	Log    string `json:"log,omitempty"`
	Output string `json:"output,omitempty"` // tree id of the package
	Cached bool   `json:"cached,omitempty"` // known before: nothing was built
	Error  *Error `json:"error,omitempty"`
}

// PlanRequest is the body of POST /v1/plan.
type PlanRequest struct {
	System   string            `json:"system"`
	Kind     string            `json:"kind"`               // deploy|undeploy|rollback|restore
	Files    map[string][]byte `json:"files,omitempty"`    // the model, for deploy
	Packages map[string]string `json:"packages,omitempty"` // service -> tree id, for deploy
	Services []string          `json:"services,omitempty"` // for undeploy: empty means all; for restore: the one
	To       uint64            `json:"to,omitempty"`       // for rollback: a generation; 0 means the one before
	// WithState brings, for a rollback, the data of what changed back as well.
	WithState bool `json:"with_state,omitempty"`
	// Node is, for a restore, where the service will be, and Snapshot the generation of its state; 0: the newest.
	Node     string `json:"node,omitempty"`
	Snapshot uint64 `json:"snapshot,omitempty"`
	// Explain names services of which a deploy's plan says why they are where they are; "*" means all that would start or
	// move, or if nothing would, all. At most MaxExplained are explained.
	Explain []string `json:"explain,omitempty"`
}

// MaxExplained bounds the services that a plan explains.
const MaxExplained = 100

// Placement says why a service is on nodes, and why not on the others.
type Placement struct {
	Service string       `json:"service"`
	On      []NodeReason `json:"on"`
	Not     []NodeReason `json:"not"`
}

// NodeReason is a node with a reason.
type NodeReason struct {
	Node string `json:"node"` // name
	Why  string `json:"why"`
}

// Change is one line of a Plan.
type Change struct {
	Action  string   `json:"action"` // start|stop|restart|move|keep|retry
	Service string   `json:"service"`
	Node    string   `json:"node"`           // where it will be (or was, for stop)
	From    string   `json:"from,omitempty"` // for move
	Reasons []string `json:"reasons"`
}

// Plan is the answer of POST /v1/plan: a value that deploy hands back. Digest names the manifest that it leads to;
// a deploy that would lead to another one is refused as stale.
type Plan struct {
	System   string        `json:"system"`
	Base     uint64        `json:"base"`
	Digest   string        `json:"digest"`
	Empty    bool          `json:"empty"` // nothing would change
	Changes  []Change      `json:"changes"`
	Ports    []Reservation `json:"ports,omitempty"` // new ones
	Released []Reservation `json:"released,omitempty"`
	Warnings []string      `json:"warnings,omitempty"`
	Fetch    int64         `json:"fetch_bytes,omitempty"`
	// Placements are those that were asked for.
	Placements []Placement `json:"placements,omitempty"`
}

// DeployRequest is the body of POST /v1/deploy, for all three kinds.
type DeployRequest struct {
	PlanRequest
	Proposal string `json:"proposal"` // id drawn by the client: a retry after a lost reply gets the same answer
	Base     uint64 `json:"base"`
	Digest   string `json:"digest"`
	By       string `json:"by"`
	Why      string `json:"why,omitempty"`
}

// DeployReply says which generation was made. Unchanged means that there was nothing to do and nothing was written.
type DeployReply struct {
	System     string `json:"system"`
	Generation uint64 `json:"generation"`
	Intent     uint64 `json:"intent"`
	Unchanged  bool   `json:"unchanged"`
	Index      uint64 `json:"index,omitempty"` // of the log; the node that answers has seen it
}

// AbortRequest is the body of POST /v1/abort.
type AbortRequest struct {
	System   string `json:"system"`
	By       string `json:"by"`
	Proposal string `json:"proposal"`
}

// WatchEvent is one line of GET /v1/watch?system=NAME&intent=N: the Status whenever it changed, until the intent has
// an outcome other than running (and, when it was rolled back or aborted, until the rollback has settled).
type WatchEvent struct {
	Status  Status `json:"status"`
	Outcome string `json:"outcome"` // of the intent asked for
	Why     string `json:"why,omitempty"`
	Service string `json:"service,omitempty"` // that failed, when it was rolled back
	Node    string `json:"node,omitempty"`    // where
	Output  string `json:"output,omitempty"`  // its last lines
	Done    bool   `json:"done"`
}

// LogLine is one line of GET /v1/logs?system=&service=&node=&tail=N&follow=1&since=RFC3339.
type LogLine struct {
	At      time.Time `json:"at"`
	Node    string    `json:"node"`
	Service string    `json:"service"`
	Stream  string    `json:"stream"` // stdout|stderr|keeper
	Text    string    `json:"text"`
}

// Event is one line of GET /v1/events?tail=N&follow=1: what nodes noticed; kept in a ring on each node, merged here.
type Event struct {
	At      time.Time `json:"at"`
	Node    string    `json:"node"`
	Kind    string    `json:"kind"`
	System  string    `json:"system,omitempty"`
	Service string    `json:"service,omitempty"`
	Message string    `json:"message"`
}

// Version is the answer of GET /v1/version.
type Version struct {
	Version string `json:"version"`
	Go      string `json:"go"`
	Node    string `json:"node"`
	ID      string `json:"id"`
}
