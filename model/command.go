package model

import "time"

// Command is a decision for the log. Apply checks it against the State it meets and stores it, or answers with a
// code and changes nothing. Kinds are numbered for ever in raftfsm's codec.
type Command interface{ command() }

// Code says why a command was refused; "" means it was accepted.
type Code string

// Codes of Result. Never renamed: they travel on the wire and lie in Proposals.
const (
	OK             Code = ""
	ErrStale       Code = "stale"        // base is not the newest generation
	ErrUnknown     Code = "unknown"      // names something that is not there
	ErrConflict    Code = "conflict"     // would break a uniqueness rule
	ErrExpired     Code = "expired"      // token
	ErrUsed        Code = "used_up"      // token
	ErrRevoked     Code = "revoked"      // token unknown or revoked
	ErrSecret      Code = "wrong_secret" // token
	ErrRemoved     Code = "removed"      // node key is barred
	ErrLimit       Code = "limit"        // a table is full
	ErrGate        Code = "gate"         // a gate does not hold
	ErrPhase       Code = "phase"        // not possible in the row's phase
	ErrEpoch       Code = "epoch"        // the node was marked down since
	ErrInvalid     Code = "invalid"      // malformed
	ErrInitialised Code = "initialised"
)

// Result is the answer to one command.
type Result struct {
	Code       Code      `cbor:"1,keyasint,omitempty"`
	Message    string    `cbor:"2,keyasint,omitempty"`
	Generation uint64    `cbor:"3,keyasint,omitempty"`
	Intent     uint64    `cbor:"4,keyasint,omitempty"`
	Verdicts   []Verdict `cbor:"5,keyasint,omitempty"` // one per claim or report, in order
	Index      uint64    `cbor:"6,keyasint,omitempty"` // log index
	Value      string    `cbor:"7,keyasint,omitempty"`
}

// Err gives the result as an error, nil when accepted.
func (r Result) Err() error {
	if r.Code == OK {
		return nil
	}
	return &ResultError{r}
}

// ResultError is a refused command as an error.
type ResultError struct{ Result Result }

func (e *ResultError) Error() string {
	if e.Result.Message != "" {
		return e.Result.Message
	}
	return string(e.Result.Code)
}

// Verdict is the answer to one claim or report.
type Verdict struct {
	Code   Code   `cbor:"1,keyasint,omitempty"`
	Reason string `cbor:"2,keyasint,omitempty"`
}

// Init makes the cluster; only the first command of a log may be one.
type Init struct {
	Cluster Cluster `cbor:"1,keyasint"`
	Node    Node    `cbor:"2,keyasint"`
}

// Admit lets a machine in by a token. Idempotent per node key.
type Admit struct {
	Token  string    `cbor:"1,keyasint"`
	Secret []byte    `cbor:"2,keyasint"` // SHA-256 of the secret shown
	Node   Node      `cbor:"3,keyasint"`
	Now    time.Time `cbor:"4,keyasint"`
}

// CreateToken stores a new token. Expired ones are trimmed by its stamped time.
type CreateToken struct {
	Token Token `cbor:"1,keyasint"`
}

// RevokeToken deletes a token.
type RevokeToken struct {
	ID string `cbor:"1,keyasint"`
}

// UpdateNode changes what a node says of itself.
type UpdateNode struct {
	ID         string            `cbor:"1,keyasint"`
	Attributes map[string]string `cbor:"2,keyasint"`
	Host       string            `cbor:"3,keyasint"`
	Version    string            `cbor:"4,keyasint"`
	StateMax   int               `cbor:"5,keyasint"`
	Sick       string            `cbor:"6,keyasint,omitempty"` // at most MaxSick bytes
}

// MaxSick bounds what a node may say of why it is sick, in bytes.
const MaxSick = 512

// MarkDown says that the leader has not heard from a node for the grace time. Its rows become lost.
type MarkDown struct {
	ID    string `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"` // the one it is marked down in
	Why   string `cbor:"3,keyasint"`
}

// MarkUp says that a node that was down is heard again.
type MarkUp struct {
	ID    string `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"`
}

// Fence says that the lease of a node that is down is over: nothing exclusive runs there any more.
type Fence struct {
	ID    string `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"` // as it was raised when the node was marked down
}

// TakeOver ends the custody of a fenced node: the state goes on elsewhere, from a snapshot that others hold. What was
// written after it is on the fenced node only.
type TakeOver struct {
	System    string    `cbor:"1,keyasint"`
	Service   string    `cbor:"2,keyasint"`
	Container string    `cbor:"3,keyasint"`
	Node      string    `cbor:"4,keyasint"` // id, that has custody, or from which the state was on its way
	Epoch     uint64    `cbor:"5,keyasint"` // of the node
	Snapshot  uint64    `cbor:"6,keyasint"` // generation
	At        time.Time `cbor:"7,keyasint"`
}

// Leave takes a node that has nothing left out of the cluster until it comes back.
type Leave struct {
	ID    string `cbor:"1,keyasint"`
	Epoch uint64 `cbor:"2,keyasint"`
}

// Rejoin has a node that left be a member as before.
type Rejoin struct {
	ID string `cbor:"1,keyasint"`
}

// DrainNode asks that everything on a node goes elsewhere, or that things may go there again.
type DrainNode struct {
	ID string `cbor:"1,keyasint"`
	On bool   `cbor:"2,keyasint"`
}

// RemoveNode frees what a node held and bars its key.
type RemoveNode struct {
	ID string    `cbor:"1,keyasint"`
	At time.Time `cbor:"2,keyasint"`
}

// SealCA replaces the sealed copies of the CA key: one for each raft server.
type SealCA struct {
	Sealed map[string][]byte `cbor:"1,keyasint"`
}

// Begin opens a generation. Nothing of it counts before Commit.
type Begin struct {
	Proposal string    `cbor:"1,keyasint"`
	System   string    `cbor:"2,keyasint"`
	Base     uint64    `cbor:"3,keyasint"`
	Kind     string    `cbor:"4,keyasint"`
	Excluded []string  `cbor:"6,keyasint"`
	Target   uint64    `cbor:"7,keyasint"` // rollback
	Intent   uint64    `cbor:"8,keyasint"` // adapt: the intent it belongs to; else 0 = a new one
	By       string    `cbor:"9,keyasint"`
	Why      string    `cbor:"10,keyasint"`
	At       time.Time `cbor:"11,keyasint"`
	Origin   string    `cbor:"12,keyasint"`
	Digest   string    `cbor:"13,keyasint"`
	Ending   Outcome   `cbor:"14,keyasint"` // outcome given to the running intent it replaces: superseded, rolled_back, aborted
	Reason   string    `cbor:"15,keyasint"` // of that outcome
	Failed   Fault     `cbor:"16,keyasint"` // what failed, when it is rolled back for that
	Moves    int       `cbor:"17,keyasint,omitempty"`
}

// Part carries the rows that change, reservations and source files of a begun generation, at most PartBytes.
type Part struct {
	Proposal string            `cbor:"1,keyasint"`
	Number   int               `cbor:"2,keyasint"` // 0, 1, 2 ...: a part that came before is ignored
	Files    map[string][]byte `cbor:"3,keyasint,omitempty"`
	Added    []RowSpec         `cbor:"4,keyasint,omitempty"`
	Retry    []string          `cbor:"5,keyasint,omitempty"` // rows that stay but failed: planned again
	Gone     []string          `cbor:"6,keyasint,omitempty"`
	Reserve  []Reservation     `cbor:"7,keyasint,omitempty"`
	Release  []string          `cbor:"8,keyasint,omitempty"` // reservation keys
	Counters map[string]int    `cbor:"9,keyasint,omitempty"`
	Order    []Order           `cbor:"10,keyasint,omitempty"`
	Packages map[string]string `cbor:"11,keyasint,omitempty"` // service -> tree id
	// Policies are those that change; one that is not managed ends the service's.
	Policies map[string]StatePolicy `cbor:"12,keyasint,omitempty"`
	Returns  []Return               `cbor:"13,keyasint,omitempty"`
}

// Order changes what a row that stays activates after: order is not in a row's hash, so it is no reason to restart.
type Order struct {
	Row   string   `cbor:"1,keyasint"`
	After []string `cbor:"2,keyasint"`
}

// PartBytes bounds a Part's encoding.
const PartBytes = 256 << 10

// Commit makes the begun generation the newest one.
type Commit struct {
	Proposal string `cbor:"1,keyasint"`
	Parts    int    `cbor:"2,keyasint"` // how many it must have
}

// Claims asks for phases before acting. Accepted only while the gates hold.
type Claims struct {
	Node  string    `cbor:"1,keyasint"`
	Epoch uint64    `cbor:"2,keyasint"`
	Items []Claim   `cbor:"3,keyasint"`
	At    time.Time `cbor:"4,keyasint"`
}

// Claim is one row's.
type Claim struct {
	Row        string `cbor:"1,keyasint"`
	Phase      Phase  `cbor:"2,keyasint"` // Starting, Stopping, Saving or Restoring
	Generation uint64 `cbor:"3,keyasint"` // newest that the claimant saw
}

// Reports tells facts. Accepted even when the generation has moved on.
type Reports struct {
	Node  string    `cbor:"1,keyasint"`
	Epoch uint64    `cbor:"2,keyasint"`
	Items []Report  `cbor:"3,keyasint"`
	At    time.Time `cbor:"4,keyasint"`
}

// Report is one row's.
type Report struct {
	Row      string `cbor:"1,keyasint"`
	Phase    Phase  `cbor:"2,keyasint"` // Prepared, Active, Stopped or Failed
	Claim    uint64 `cbor:"3,keyasint"` // the claim that it answers; 0 for Prepared and its failure
	Reason   string `cbor:"4,keyasint"`
	Attempts int    `cbor:"5,keyasint"`
	Output   string `cbor:"6,keyasint"` // at most MaxOutput bytes
	// Snapshot is what was saved, or of what was restored the ID.
	Snapshot *Snapshot `cbor:"7,keyasint,omitempty"`
}

// MaxOutput bounds the last output kept with a failed row, in bytes.
const MaxOutput = 2 << 10

// Finish gives an intent its outcome.
type Finish struct {
	System     string  `cbor:"1,keyasint"`
	Intent     uint64  `cbor:"2,keyasint"`
	Generation uint64  `cbor:"3,keyasint"` // newest that the leader saw: refused when it moved on
	Outcome    Outcome `cbor:"4,keyasint"` // Settled or Stuck
	Reason     string  `cbor:"5,keyasint"`
}

// Retry plans failed rows again: those of a rollback, which is never rolled back itself.
type Retry struct {
	System     string   `cbor:"1,keyasint"`
	Generation uint64   `cbor:"2,keyasint"`
	Rows       []string `cbor:"3,keyasint"`
}

// Abort asks the leader to roll the running intent back.
type Abort struct {
	Proposal string `cbor:"1,keyasint"`
	System   string `cbor:"2,keyasint"`
	By       string `cbor:"3,keyasint"`
}

// RecordBuild stores a build's output unless one is known.
type RecordBuild struct {
	Build   BuildRecord `cbor:"1,keyasint"`
	Replace bool        `cbor:"2,keyasint"` // --rebuild
}

func (Init) command()          {}
func (Admit) command()         {}
func (CreateToken) command()   {}
func (RevokeToken) command()   {}
func (UpdateNode) command()    {}
func (MarkDown) command()      {}
func (MarkUp) command()        {}
func (RemoveNode) command()    {}
func (SealCA) command()        {}
func (Begin) command()         {}
func (Part) command()          {}
func (Commit) command()        {}
func (Claims) command()        {}
func (Reports) command()       {}
func (Finish) command()        {}
func (Retry) command()         {}
func (Abort) command()         {}
func (RecordBuild) command()   {}
func (TakeSnapshot) command()  {}
func (HoldSnapshots) command() {}
func (DropSnapshots) command() {}
func (GiveUpState) command()   {}
func (DrainNode) command()     {}
func (Fence) command()         {}
func (TakeOver) command()      {}
func (Leave) command()         {}
func (Rejoin) command()        {}

// TakeSnapshot puts a snapshot into the catalogue, at its generation or as the newest one if nothing changed.
type TakeSnapshot struct {
	Snapshot Snapshot `cbor:"1,keyasint"`
	Epoch    uint64   `cbor:"2,keyasint"` // of the node that took it
	Foreign  bool     `cbor:"3,keyasint"` // imported: the node need not have custody
}

// HoldSnapshots says that a node holds snapshots, or has lost them.
type HoldSnapshots struct {
	Node  string         `cbor:"1,keyasint"`
	Items []HeldSnapshot `cbor:"2,keyasint"`
}

// HeldSnapshot is one of them.
type HeldSnapshot struct {
	Key  string `cbor:"1,keyasint"`
	ID   string `cbor:"2,keyasint"`
	Lost bool   `cbor:"3,keyasint"`
}

// DropSnapshots takes snapshots out of the catalogue. What must stay (the newest, the last proven or checked one, what
// custody refers to) stays.
type DropSnapshots struct {
	Keys []string `cbor:"1,keyasint"`
	// Undeployed lets those of services go, to the last one, that are not deployed and whose state nobody has.
	Undeployed bool `cbor:"2,keyasint,omitempty"`
}

// GiveUpState ends the custody of the state of a service that is not deployed, before its node deletes it.
type GiveUpState struct {
	System    string `cbor:"1,keyasint"`
	Service   string `cbor:"2,keyasint"`
	Container string `cbor:"3,keyasint"`
	Node      string `cbor:"4,keyasint"` // id, that has it
	Epoch     uint64 `cbor:"5,keyasint"` // of the node
}
