package model

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// StateVersion is the newest version of State and of the gates that this binary understands. A State raised beyond it
// stops applying here: "this node must be upgraded".
const StateVersion = 1

// State is everything the nodes agree on, as one immutable value. Only raftfsm makes a new one, by applying commands.
// Times in it were stamped by proposers and are for people; no decision compares them with a clock, except that a
// token's expiry is compared with the stamped time of its use.
type State struct {
	Version int
	Index   uint64 // log index of the last command in it
	Cluster Cluster

	Nodes   Table[Node]       // by node id
	Removed Table[Removed]    // by node id; for ever
	Tokens  Table[Token]      // by token id
	Systems Table[System]     // by name
	Intents Table[Intent]     // by SystemKey(system, number)
	Gens    Table[Generation] // by SystemKey(system, number)
	Rows    Table[Row]        // by RowKey: newest generation, and older rows until they are gone
	Specs   Table[RowSpec]    // by RowKey: every row of a generation that is kept, for rollback

	Reservations Table[Reservation] // by Reservation.Key
	Counters     Table[int]         // last number given out, by resource and scope
	Builds       Table[BuildRecord] // by build input
	Custody      Table[Custody]     // by system/service/container
	Snapshots    Table[Snapshot]    // by Snapshot.Key
	Policies     Table[StatePolicy] // by system/service: of services with managed state
	Pending      Table[Pending]     // by proposal id: begun, not committed
	Proposals    Table[Proposal]    // by proposal id: the last MaxProposals results

	Numbers    Table[string]   // index: NumberKey -> Reservation.Key
	ByService  Table[struct{}] // index: system/service/rowkey
	Dependents Table[struct{}] // index: see RowSpec.DependentKeys
	Moving     Table[struct{}] // index: keys of the rows that are Moving
	Transit    Table[struct{}] // index: keys of the custodies that a snapshot has
}

// Newer compares by cluster epoch, then by index: a cluster that was made anew goes on from a State that may be older than what
// some node has.
func (s *State) Newer(than *State) bool {
	return s.Cluster.Epoch > than.Cluster.Epoch || s.Cluster.Epoch == than.Cluster.Epoch && s.Index > than.Index
}

// Bounds of tables; Apply trims to them.
const (
	MaxIntents     = 50    // per system, beyond those a rollback can reach
	MaxGenerations = 50    // per system, beyond those of the intents that are kept
	MaxProposals   = 1000  //
	MaxPending     = 16    //
	MaxTokens      = 1000  //
	MaxBuilds      = 10000 //
	MaxNodes       = 2000  //
)

// Cluster is what is true of the cluster as a whole.
type Cluster struct {
	ID       string    `cbor:"1,keyasint"`
	Created  time.Time `cbor:"2,keyasint"`
	CA       []byte    `cbor:"3,keyasint"` // certificate, DER
	StoreKey []byte    `cbor:"4,keyasint"` // names the objects of snapshots (keyed BLAKE3); members only
	// Sealed holds, by node id, the CA key sealed to that node (HPKE). Only raft servers have one.
	Sealed map[string][]byte `cbor:"5,keyasint"`
	Epoch  uint64            `cbor:"6,keyasint"`
	// LeafLife is how long the certificates of nodes live; 0 = the default.
	LeafLife time.Duration `cbor:"7,keyasint,omitempty"`
}

// Node is a member as admitted. What changes by itself (its address, whether gossip hears it) is not in State.
type Node struct {
	ID         string            `cbor:"1,keyasint"`
	Name       string            `cbor:"2,keyasint"`
	Key        []byte            `cbor:"3,keyasint"` // Ed25519 public key, pinned
	SealKey    []byte            `cbor:"4,keyasint"` // HPKE public key
	Attributes map[string]string `cbor:"5,keyasint"` // zone, os, arch ...
	Host       string            `cbor:"6,keyasint"` // what others use to reach services on it: no port
	Epoch      uint64            `cbor:"7,keyasint"` // raised each time it is marked down
	Down       bool              `cbor:"8,keyasint"`
	Server     bool              `cbor:"9,keyasint"` // may be a raft server: the leader picks some of those
	Admitted   time.Time         `cbor:"10,keyasint"`
	Version    string            `cbor:"11,keyasint"`
	StateMax   int               `cbor:"12,keyasint"`           // newest state version that its binary understands
	Left       bool              `cbor:"13,keyasint"`           // it left on purpose
	Draining   bool              `cbor:"14,keyasint,omitempty"` // an operator wants nothing to run there
	// Fenced says, of a node that is down, that its lease is over: nothing exclusive of an earlier epoch runs there.
	Fenced bool `cbor:"15,keyasint,omitempty"`
	// Sick is what keeps the node from taking anything new, in words ("disk full: ..."): what is there stays. "" = nothing.
	Sick string `cbor:"16,keyasint,omitempty"`
}

// Takes says whether instances may be placed on the node. One that is sick keeps those that it has, see refusal.
func (n Node) Takes() bool { return !n.Down && !n.Left && !n.Draining }

// Zone is the attribute that placement and dep.x preference look at first.
func (n Node) Zone() string { return n.Attributes[AttrZone] }

// Removed bars a key for ever.
type Removed struct {
	Name string    `cbor:"1,keyasint"`
	At   time.Time `cbor:"2,keyasint"`
}

// Token lets a machine join. State knows only the hash of its secret.
type Token struct {
	ID       string    `cbor:"1,keyasint"`
	Role     string    `cbor:"2,keyasint"`
	Hash     []byte    `cbor:"3,keyasint"` // SHA-256 of the secret
	UsesLeft int       `cbor:"4,keyasint"`
	Expires  time.Time `cbor:"5,keyasint"`
	Created  time.Time `cbor:"6,keyasint"`
	By       string    `cbor:"7,keyasint"`
}

// System is a model's name with the numbers of its newest things.
type System struct {
	Name       string `cbor:"1,keyasint"`
	Generation uint64 `cbor:"2,keyasint"` // newest
	Intent     uint64 `cbor:"3,keyasint"` // newest
	Settled    uint64 `cbor:"4,keyasint"` // newest settled intent, 0 = none
	// Moves is how many states may move at once, as the newest generation's model says; 0 = it does not.
	Moves int `cbor:"5,keyasint,omitempty"`
}

// Outcome of an intent or a generation.
type Outcome string

// Outcomes, as history shows them.
const (
	Running    Outcome = "running"
	Settled    Outcome = "settled"
	RolledBack Outcome = "rolled_back"
	Superseded Outcome = "superseded"
	Aborted    Outcome = "aborted"
	Stuck      Outcome = "stuck"
)

// Final says that nothing more happens to the intent by itself.
func (o Outcome) Final() bool { return o != Running && o != Stuck }

// Kinds of intent.
const (
	KindDeploy   = "deploy"
	KindRollback = "rollback"
	KindUndeploy = "undeploy"
	KindAuto     = "auto-rollback" // proposed by the leader after a failure or an abort
	KindAdapt    = "adapt"         // only of a generation: composed anew for the nodes that are left
)

// Intent is what an operator asked for. Several generations may belong to it.
type Intent struct {
	System   string            `cbor:"1,keyasint"`
	Number   uint64            `cbor:"2,keyasint"`
	Kind     string            `cbor:"3,keyasint"`
	Source   Source            `cbor:"4,keyasint"`
	Packages map[string]string `cbor:"5,keyasint"` // service -> tree id
	Excluded []string          `cbor:"6,keyasint"` // services taken out by undeploy
	Parent   uint64            `cbor:"7,keyasint"` // the settled intent that it replaced, or X's parent for a rollback to X
	Target   uint64            `cbor:"8,keyasint"` // rollback: the intent that it goes back to, 0 = to nothing
	By       string            `cbor:"9,keyasint"`
	Why      string            `cbor:"10,keyasint"`
	At       time.Time         `cbor:"11,keyasint"`
	Outcome  Outcome           `cbor:"12,keyasint"`
	Reason   string            `cbor:"13,keyasint"` // of the outcome
	Last     uint64            `cbor:"14,keyasint"` // its newest generation
	Abort    string            `cbor:"15,keyasint"` // who asked to abort it; "" = nobody
	Retries  int               `cbor:"16,keyasint"`
	Origin   string            `cbor:"17,keyasint"` // node id that took the packages in
	Failed   Fault             `cbor:"18,keyasint"` // what it was rolled back for
}

// Fault names the row that made a deployment fail; the row itself is gone by the time somebody asks.
type Fault struct {
	Service string `cbor:"1,keyasint"`
	Node    string `cbor:"2,keyasint"` // name
	Output  string `cbor:"3,keyasint"` // its last lines
}

// Generation is a numbered manifest, stored as the difference from its base.
type Generation struct {
	System string    `cbor:"1,keyasint"`
	Number uint64    `cbor:"2,keyasint"`
	Base   uint64    `cbor:"3,keyasint"`
	Intent uint64    `cbor:"4,keyasint"`
	Kind   string    `cbor:"5,keyasint"`
	Added  []string  `cbor:"6,keyasint"` // row keys
	Gone   []string  `cbor:"7,keyasint"` // row keys
	Opened bool      `cbor:"8,keyasint"` // every new row was prepared: stops and starts may begin
	By     string    `cbor:"9,keyasint"`
	Why    string    `cbor:"10,keyasint"`
	At     time.Time `cbor:"11,keyasint"`
	Digest string    `cbor:"12,keyasint"` // of the manifest
}

// RowSpec is the decided part of a row: it never changes under the same key.
type RowSpec struct {
	Key       string   `cbor:"1,keyasint"` // RowKey(Node, id)
	System    string   `cbor:"2,keyasint"`
	Service   string   `cbor:"3,keyasint"`
	Node      string   `cbor:"4,keyasint"` // node id
	Container string   `cbor:"5,keyasint"`
	Spec      Spec     `cbor:"6,keyasint"`
	DependsOn []string `cbor:"7,keyasint"` // row keys: each must be active before this one starts
	After     []string `cbor:"8,keyasint"` // services: order only
	Exclusive bool     `cbor:"9,keyasint"` // at most one alive anywhere
	Managed   bool     `cbor:"10,keyasint"`
	// Needs is what it takes of its node, by attribute, in thousandths.
	Needs map[string]int64 `cbor:"11,keyasint,omitempty" json:",omitempty"`
}

// Spec is what a module needs, fully resolved.
type Spec struct {
	Type      string                `cbor:"1,keyasint"`
	Package   string                `cbor:"2,keyasint"` // tree id; "" = none
	Command   []string              `cbor:"3,keyasint"`
	Env       map[string]string     `cbor:"4,keyasint"`
	Dir       string                `cbor:"5,keyasint"`
	User      string                `cbor:"6,keyasint"`
	Host      string                `cbor:"7,keyasint"`
	Ports     map[string]int        `cbor:"8,keyasint"`
	Health    *HealthSpec           `cbor:"9,keyasint"`
	Grace     time.Duration         `cbor:"10,keyasint"`
	StartWait time.Duration         `cbor:"11,keyasint"`
	Settings  map[string]string     `cbor:"12,keyasint"`
	UID       int                   `cbor:"13,keyasint"` // of the service's own, where the agent is root and User is ""
	Scopes    map[string]PortAssign `cbor:"14,keyasint"` // of Ports
	// Timeline is that of the data that the instance works on: see Custody.
	Timeline string `cbor:"15,keyasint,omitempty" json:",omitempty"`
}

// HealthSpec is a resolved Health.
type HealthSpec struct {
	HTTP     string        `cbor:"1,keyasint"`
	TCP      bool          `cbor:"2,keyasint"`
	Command  []string      `cbor:"3,keyasint"`
	Port     string        `cbor:"4,keyasint"`
	Interval time.Duration `cbor:"5,keyasint"`
	Timeout  time.Duration `cbor:"6,keyasint"`
}

// Row is an instance with its place in life.
type Row struct {
	RowSpec
	Last     uint64    `cbor:"20,keyasint"` // newest generation that contains it, once it is obsolete; see State.RowGeneration
	First    uint64    `cbor:"21,keyasint"` // the one that brought it in
	Obsolete bool      `cbor:"22,keyasint"` // not in the newest generation
	Phase    Phase     `cbor:"23,keyasint"`
	Reason   string    `cbor:"24,keyasint"`
	Claim    uint64    `cbor:"25,keyasint"` // log index of the last claim
	Epoch    uint64    `cbor:"26,keyasint"` // of its node at that claim
	Attempts int       `cbor:"27,keyasint"`
	Output   string    `cbor:"28,keyasint"` // last output, when failed
	At       time.Time `cbor:"29,keyasint"` // of the last change of phase
	Retry    int       `cbor:"30,keyasint"` // how often the leader asked to try again
	// Snapshot is what a restored row has loaded.
	Snapshot string `cbor:"31,keyasint,omitempty"`
	// SaveFailed says that the row gave up saving its state for a move.
	SaveFailed bool `cbor:"32,keyasint,omitempty"`
	// MayRun says that the row had a claim when its node was marked down and has had none since: its process may be there.
	MayRun bool `cbor:"33,keyasint,omitempty"`
}

// Phase is a row's place in its life. Written only by claims and reports, and by the leader where the table says so.
type Phase string

// Phases.
const (
	Planned  Phase = "planned"  // leader: decided, nothing done
	Prepared Phase = "prepared" // report: package verified on disk, ports free, module present
	Starting Phase = "starting" // claim
	Active   Phase = "active"   // report: ready and healthy
	Stopping Phase = "stopping" // claim
	Stopped  Phase = "stopped"  // report: not running, state kept
	Failed   Phase = "failed"   // report: gave up and stopped
	Lost     Phase = "lost"     // leader: its node is down

	// Of state that moves. A saved row is dropped: what it was is in Custody and Snapshots.
	Saving    Phase = "saving"    // claim: stopped, then its final snapshot taken
	Saved     Phase = "saved"     // report: with the snapshot
	Restoring Phase = "restoring" // claim
	Restored  Phase = "restored"  // report: loaded and verified
)

// Alive says that something may be running for the row.
func (p Phase) Alive() bool {
	return p == Starting || p == Active || p == Stopping || p == Saving || p == Restoring
}

// Gone is the opposite of Alive.
func (p Phase) Gone() bool { return !p.Alive() }

// Reservation is a number held by a service until it is undeployed.
type Reservation struct {
	System   string     `cbor:"1,keyasint"`
	Service  string     `cbor:"2,keyasint"`
	Name     string     `cbor:"3,keyasint"` // of the port; "" for uids
	Resource string     `cbor:"4,keyasint"` // ports, uids
	Scope    PortAssign `cbor:"5,keyasint"`
	Node     string     `cbor:"6,keyasint"` // id, for private ones
	Number   int        `cbor:"7,keyasint"`
}

// Key orders reservations by system and service.
func (r Reservation) Key() string {
	return r.System + "/" + r.Service + "/" + r.Resource + "/" + r.Name + "/" + r.Node
}

// NumberKey is the reservation's key in the Numbers index: numbers with scope private are taken on their node only.
func (r Reservation) NumberKey() string { return NumberKey(r.Resource, r.Number, r.Node) }

// NumberKey names a number on a node, or in the whole network where node is "".
func NumberKey(resource string, number int, node string) string {
	digits := strconv.Itoa(number)
	if pad := 6 - len(digits); pad > 0 && number >= 0 {
		digits = "000000"[:pad] + digits
	}
	return resource + "/" + digits + "/" + node // as "%s/%06d/%s": the key of an index that is asked for each number tried
}

// BuildRecord maps an input to the tree it produced. The first output wins.
type BuildRecord struct {
	Input  string    `cbor:"1,keyasint"`
	Output string    `cbor:"2,keyasint"`
	At     time.Time `cbor:"3,keyasint"`
	Origin string    `cbor:"4,keyasint"` // node id that built it
}

// Pending is a generation being written, part by part.
type Pending struct {
	Begin Begin  `cbor:"1,keyasint"`
	Parts []Part `cbor:"2,keyasint"`
	Index uint64 `cbor:"3,keyasint"`
}

// Proposal is the remembered answer to a proposal id.
type Proposal struct {
	Index  uint64 `cbor:"1,keyasint"`
	Result Result `cbor:"2,keyasint"`
}

// SystemKey orders numbers of a system numerically.
func SystemKey(system string, n uint64) string { return fmt.Sprintf("%s/%020d", system, n) }

// RowKey joins a node's id and a row's id, so that all rows of a node lie together.
func RowKey(node, id string) string { return node + "/" + id }

// NodeByName finds a node that was not removed.
func (s *State) NodeByName(name string) (Node, bool) {
	for _, n := range s.Nodes.All() {
		if n.Name == name {
			return n, true
		}
	}
	return Node{}, false
}

// Generation gives a generation that is still kept.
func (s *State) Generation(system string, n uint64) (Generation, bool) {
	return s.Gens.Get(SystemKey(system, n))
}

// Intent gives an intent that is still kept.
func (s *State) Intent(system string, n uint64) (Intent, bool) {
	return s.Intents.Get(SystemKey(system, n))
}

// RowGeneration is the newest generation that contains the row.
func (s *State) RowGeneration(r Row) uint64 {
	if r.Obsolete {
		return r.Last
	}
	return s.Systems.At(r.System).Generation
}

// Manifest gives the keys of the rows of a generation that is still kept, sorted.
func (s *State) Manifest(system string, generation uint64) ([]string, bool) {
	in := map[string]bool{}
	for _, r := range s.SystemRows(system) {
		if !r.Obsolete {
			in[r.Key] = true
		}
	}
	for n := s.Systems.At(system).Generation; n > generation; n-- {
		g, ok := s.Generation(system, n)
		if !ok {
			return nil, false
		}
		for _, k := range g.Added {
			delete(in, k)
		}
		for _, k := range g.Gone {
			in[k] = true
		}
	}
	return slices.Sorted(maps.Keys(in)), true
}

// SystemRows gives every row of a system, newest generation and obsolete, in key order of (service, row).
func (s *State) SystemRows(system string) []Row {
	var rows []Row
	prefix := system + "/"
	for k := range s.ByService.Prefix(prefix) {
		rows = append(rows, s.Rows.At(rowOfServiceKey(k)))
	}
	return rows
}

// ServiceRows gives every row of one service.
func (s *State) ServiceRows(system, service string) []Row {
	var rows []Row
	for k := range s.ByService.Prefix(system + "/" + service + "/") {
		rows = append(rows, s.Rows.At(rowOfServiceKey(k)))
	}
	return rows
}

// NumberHolders gives the reservations that hold a number on a node: that node's, and one of the whole network. Where
// node is "" the number is meant in the whole network, and every node's reservation of it counts.
func (s *State) NumberHolders(resource string, number int, node string) []Reservation {
	var out []Reservation
	for _, key := range s.Numbers.Prefix(NumberKey(resource, number, "")) {
		if r, ok := s.Reservations.Get(key); ok && (node == "" || r.Node == "" || r.Node == node) {
			out = append(out, r)
		}
	}
	return out
}

// ServiceKey is a row's key in the ByService index.
func ServiceKey(r RowSpec) string { return r.System + "/" + r.Service + "/" + r.Key }

func rowOfServiceKey(k string) string {
	slashes := 0
	for i := range len(k) {
		if k[i] == '/' {
			if slashes++; slashes == 2 {
				return k[i+1:]
			}
		}
	}
	return ""
}

// DependentKeys are a row's keys in the Dependents index: below each row that it depends on, and below each service
// that it activates after.
func (r RowSpec) DependentKeys() []string {
	keys := make([]string, 0, len(r.DependsOn)+len(r.After))
	for _, on := range r.DependsOn {
		keys = append(keys, on+"|"+r.Key)
	}
	for _, service := range r.After {
		keys = append(keys, afterKey(r.System, service)+r.Key)
	}
	return keys
}

// afterKey is what the keys of the rows that activate after a service begin with. A row key begins with a node id,
// which has no blank.
func afterKey(system, service string) string { return "after " + system + "/" + service + "|" }

// KnownServices are those of a system of which there is an instance, a state or a snapshot; in order.
func KnownServices(s *State, system string) []string {
	known := map[string]bool{}
	prefix := system + "/"
	note := func(key string) {
		_, service, _ := SplitCustodyKey(key)
		known[service] = true
	}
	for key := range s.ByService.Prefix(prefix) {
		note(key)
	}
	for key := range s.Custody.Prefix(prefix) {
		note(key)
	}
	for key := range s.Snapshots.Prefix(prefix) {
		note(key)
	}
	return sortedKeys(known)
}
