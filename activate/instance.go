package activate

import (
	"cmp"
	"strings"
	"time"
)

// Defaults of a Spec.
const (
	DefaultGrace         = 10 * time.Second
	DefaultStartDeadline = 30 * time.Second
	DefaultInterval      = time.Second
	DefaultTimeout       = 5 * time.Second
)

// Instance is one service on one node in one container, resolved: nothing in it is left to look up or to decide.
type Instance struct {
	ID        string // the row's; opaque, stable over restarts and attempts
	Service   string
	Node      string
	Container string
	Type      string // its module's
	Spec      Spec
	// Managed says that its state is kept when it stops, moves with it, and is deleted as garbage only. Types whose
	// instances always have state do not ask.
	Managed bool
	// Exclusive says that it may run only while its node has a lease.
	Exclusive bool
	// Settings are those of its container, and of the service over them: how to reach a server, where to put files.
	// Each module names what it reads and its defaults; it ignores the rest.
	Settings map[string]string

	Package  string // the materialised package, a read-only directory; absolute
	StateDir string // what the instance may keep; absolute
	RunDir   string // what it needs while it runs (sockets, temporary files); absolute, made anew at every start
	LogDir   string // its output; absolute

	// Attempt counts the starts of this row, 1 first. A start with an attempt that is known already is not a new one.
	Attempt int
	// Epoch is the index of the claim under which it starts, for resources that can check it.
	Epoch uint64
	// Replaces are the ids of rows that hold what this one will need (its ports) until they are stopped.
	Replaces []string
}

// LogName is the name of the instance's log in LogDir: that of its service, and of its container where that is not
// its type's own. It stays the same over attempts and generations.
func (in Instance) LogName() string {
	name := in.Service
	if in.Container != "" && in.Container != in.Type {
		name += "@" + in.Container
	}
	name = strings.Map(func(r rune) rune {
		if r == '/' || r < ' ' {
			return '_'
		}
		return r
	}, name)
	return cmp.Or(strings.TrimLeft(name, "."), "_")
}

// Spec is how to run it. Modules use the part that means something for their type.
type Spec struct {
	// Command is the program and its arguments. A program with a slash is a path in the package, or absolute; one
	// without is looked up in PATH.
	Command []string
	Env     map[string]string // added to the defaults, and stronger
	Dir     string            // working directory; relative: in the package; empty: the package itself

	// User is whom to run as, by name. If it is empty, a root agent takes UID, GID and Groups, which must then be
	// set, and any other agent runs the command as itself.
	User   string
	UID    int
	GID    int
	Groups []int // supplementary, in both cases

	Host  string         // the address to bind; empty: all
	Ports map[string]int // TCP ports that the program binds itself, by name

	Health        *Health       // nil: see the module
	Grace         time.Duration // from TERM to KILL; 0: DefaultGrace
	StartDeadline time.Duration // until it is ready; 0: DefaultStartDeadline
}

// Health is how to ask an instance whether it is well. Exactly one of HTTP, TCP, Command and Notify is set.
type Health struct {
	HTTP    string   // a path; 2xx and 3xx are well
	TCP     bool     // a connection is accepted
	Command []string // exits with 0; run as the instance is, in its environment
	Notify  bool     // it has sent READY=1 to $NOTIFY_SOCKET, and nothing else counts

	Port     string        // the name of the port for HTTP and TCP; empty: the only one
	Interval time.Duration // between two probes; 0: DefaultInterval. While starting, the first ones come sooner
	Timeout  time.Duration // of one probe; 0: DefaultTimeout
}

// StopGrace is Grace or its default.
func (s Spec) StopGrace() time.Duration { return cmp.Or(s.Grace, DefaultGrace) }

// ReadyWithin is StartDeadline or its default.
func (s Spec) ReadyWithin() time.Duration { return cmp.Or(s.StartDeadline, DefaultStartDeadline) }
