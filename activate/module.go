package activate

import (
	"context"
	"time"
)

// Module activates the instances of one type. All methods are idempotent and safe for concurrent use, one instance at
// a time: callers never have two under way for the same one.
//
// What a type with state needs beyond this is in Stateful, which such a module implements as well.
type Module interface {
	// Prepare says whether the instance could be started once what it replaces is gone. It changes nothing.
	Prepare(ctx context.Context, in Instance) error

	// Start returns nil when the instance is ready and healthy. When it returns an error that is not that of ctx,
	// nothing of the instance runs any more. When ctx ends, it is left as it is: a later Start with the same attempt
	// goes on waiting where this one stopped.
	Start(ctx context.Context, in Instance) error

	// Stop returns nil when nothing of the instance is left, of no attempt.
	Stop(ctx context.Context, in Instance) error

	// Observe returns what runs of this type on this node, and what has ended and was neither stopped nor started
	// again, in the order of row ids and attempts.
	Observe(ctx context.Context) ([]Running, error)

	// Watch calls changed once at the start, and then whenever Observe would return something new, until ctx ends or
	// what it watches is gone. Changes in quick succession may be one call.
	Watch(ctx context.Context, changed func()) error
}

// Running is one start of an instance as its module sees it.
type Running struct {
	ID        string // the row's
	Attempt   int
	PID       int // 0: it is no process
	StartedAt time.Time
	Age       time.Duration // since then, on a clock that does not jump
	Dropped   uint64        // lines of output that were not kept
	Exit      *Exit         // nil while it runs
	Ending    bool          // told to stop, or processes of it are left after its end
}

// Exit is how an instance ended.
type Exit struct {
	Code   int // exit status; -1 if a signal ended it
	Signal int // 0 unless one did
	At     time.Time
	After  time.Duration // since its start
	// Unleased: it was ended because its node's lease was over; no fault of its own.
	Unleased bool
}
