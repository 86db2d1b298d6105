package model

import (
	"time"

	"github.com/hashicorp/hcl/v2"
)

// Source is a model as the operator wrote it: complete, so that any later leader can compose it again from State
// alone. It is what travels in a deploy, never a path.
type Source struct {
	Files map[string][]byte `cbor:"1,keyasint" json:"files"` // by slash-separated name relative to the model's directory
}

// Limits on what Parse accepts; beyond them it answers with a diagnostic, never with half a model.
const (
	MaxSourceBytes = 4 << 20 // all files together
	MaxServices    = 20_000
	MaxNameLength  = 63 // names of services, nodes, ports and systems: a DNS label
)

// Model is a parsed and validated Source. Expressions stay unevaluated: what they may use (self, dep, node) is known
// only after placement, so Compose evaluates them.
type Model struct {
	Services     []*Service           // in name order
	Nodes        []*NodeDecl          // in name order
	Inventory    map[string]*NodeDecl // by node name: what generators say, which Nodes overrule
	IDs          map[string]IDRanges  // by resource: "ports", "uids"; absent means the defaults
	Distribution Distribution
}

// Service finds a service by name; nil if the model has none of that name.
func (m *Model) Service(name string) *Service {
	for _, s := range m.Services {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Service is a unit of independent deployment.
type Service struct {
	Name    string
	Type    string // its module
	Package string // directory relative to the model's; "" means none

	DependsOn      map[string]string // alias -> service: order and address
	ConnectsTo     map[string]string // alias -> service: address only
	ActivatesAfter []string          // order only, in name order

	Instances int  // default 1; 0 when All
	All       bool // one on every node that fits

	Build  *Build
	Ports  []*Port // in name order
	Run    *Run
	Health *Health
	State  *StatePolicy
	// Exclusive says whether at most one instance may run anywhere, even where machines cannot reach each other; nil
	// means exactly if its state is managed.
	Exclusive *bool
	Settings  map[string]hcl.Expression // module settings

	Constraints []*Constraint    // on its nodes; those of the distribution behind its own
	Distinct    []string         // attributes: its instances are on nodes with different values
	Apart       []AntiAffinity   // from other services
	Needs       map[string]int64 // of its node, by attribute, in thousandths

	Range hcl.Range // of its header, for diagnostics
}

// Build produces a package's files from its source directory.
type Build struct {
	Command []string // "${out}" and "${src}" stand for directories of the sandbox
	Env     map[string]string
	Timeout time.Duration // default 10 min
	Range   hcl.Range
}

// PortAssign says how a port gets its number.
type PortAssign string

// How a port gets its number.
const (
	PortPrivate PortAssign = "private" // unique on its node
	PortShared  PortAssign = "shared"  // unique in the network
	PortFixed   PortAssign = "fixed"   // the number written in the model
)

// Port is a number that a service listens on.
type Port struct {
	Name   string
	Assign PortAssign
	Number int // only for PortFixed
	Range  hcl.Range
}

// Run says what a process service executes.
type Run struct {
	Command   hcl.Expression // list of strings
	Env       hcl.Expression // map of strings; nil means none
	Dir       hcl.Expression // nil means the module's default
	User      string         // "" means a uid of the service's own where the agent is root
	Grace     time.Duration  // TERM to KILL, default 10 s
	StartWait time.Duration  // start deadline, default 30 s
	Range     hcl.Range
}

// Health says when an instance serves. Exactly one of HTTP, TCP and Command is set.
type Health struct {
	HTTP     string // path
	TCP      bool
	Command  hcl.Expression // list of strings
	Port     string         // name of the port that is asked
	Interval time.Duration  // default 5 s once active
	Timeout  time.Duration  // of one try, default 2 s
	Range    hcl.Range
}

// StatePolicy says that a service's state is managed, and how.
type StatePolicy struct {
	Managed bool          `cbor:"1,keyasint"`
	Copies  int           `cbor:"2,keyasint"` // 0 means 1
	Every   time.Duration `cbor:"3,keyasint"` // 0 means only when asked or moved
	Keep    int           `cbor:"4,keyasint"` // newest generations kept; 0 means DefaultKeep
	// Of each of so many days, weeks and months that have any, the newest generation is kept as well.
	Daily   int `cbor:"5,keyasint,omitempty"`
	Weekly  int `cbor:"6,keyasint,omitempty"`
	Monthly int `cbor:"7,keyasint,omitempty"`
	// NotAtUpgrade says that no snapshot is taken when a deployment replaces the service or what uses it.
	NotAtUpgrade bool `cbor:"8,keyasint,omitempty"`
	// TakeOver is how long the node of the state must have been fenced before another goes on from the newest snapshot that
	// is elsewhere. 0 means DefaultTakeOver where there are copies on a schedule, else never; negative means never.
	TakeOver time.Duration `cbor:"9,keyasint,omitempty"`
}

// NodeDecl adds to what a member announces.
type NodeDecl struct {
	Name       string
	Properties map[string]string
	Containers map[string]map[string]string // by container name: its settings
	Range      hcl.Range
}

// IDRanges are the ranges of one resource, both ends included.
type IDRanges struct {
	Private, Shared IDRange
	Nodes           map[string]IDRange // private range of a single node
	Range           hcl.Range
}

// IDRange is a range of numbers, both ends included.
type IDRange struct{ Min, Max int }

// Contains says whether n lies in the range.
func (r IDRange) Contains(n int) bool { return n >= r.Min && n <= r.Max }

// Size is how many numbers the range holds.
func (r IDRange) Size() int { return max(0, r.Max-r.Min+1) }

// Overlaps says whether the two ranges share a number.
func (r IDRange) Overlaps(o IDRange) bool { return r.Min <= o.Max && o.Min <= r.Max }

// DefaultIDs are used for a resource that the model does not name.
func DefaultIDs(resource string) IDRanges {
	switch resource {
	case "ports":
		return IDRanges{Private: IDRange{8000, 8999}, Shared: IDRange{3000, 3999}}
	case "uids": // clear of the ranges of Debian (1000-59999), systemd (61184-65519) and container tools (100000-)
		return IDRanges{Shared: IDRange{70000, 79999}}
	}
	return IDRanges{}
}

// Distribution says where services go.
type Distribution struct {
	Strategy string              // of package placement; "spread" is the default
	Pin      map[string][]string // service -> the nodes allowed, by name
	Resource string              // that bidders look at
	Sticky   string              // one of the Sticky constants
	Minimize string              // what "optimal" makes small; "" means load
	MoveCost int                 // for "optimal": of moving something without state, in units of what is made small; 0: more than anything
	Cost     string              // attribute of nodes that has their cost; default "cost"
	Moves    int                 // how many states may move at once in the cluster; 0: MovesAtOnce
	Range    hcl.Range
	PinRange map[string]hcl.Range
}

// AntiAffinity names services that must not be near a service.
type AntiAffinity struct {
	Services  []string
	Attribute string // nodes with one value of it are near each other; "" means that only the node itself is
	Range     hcl.Range
}
