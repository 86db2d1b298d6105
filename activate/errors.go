package activate

import (
	"fmt"
	"strings"
	"syscall"
	"time"
)

// PortTakenError says that somebody else has a port that the instance is to bind.
type PortTakenError struct {
	Name    string // the port's, in the model
	Host    string
	Port    int
	PID     int    // 0: not to be found, for lack of rights or because it has gone
	Program string // the command line, shortened
}

func (e *PortTakenError) Error() string {
	who := "a process that cannot be seen from here"
	if e.PID != 0 {
		who = fmt.Sprintf("pid %d (%s)", e.PID, e.Program)
	}
	return fmt.Sprintf("port %d (%s) is taken by %s", e.Port, e.Name, who)
}

// CommandError says why a command cannot be run.
type CommandError struct {
	Command string
	Where   string // what was searched: a directory, or a PATH
	Reason  string // "not found", "not executable"
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("command %q: %s in %s", e.Command, e.Reason, e.Where)
}

// NotReadyError says that an instance ran, but was not ready in time.
type NotReadyError struct {
	Within time.Duration
	Last   string   // what the last probe said, or what was waited for
	Output []string // its last lines
}

func (e *NotReadyError) Error() string {
	return fmt.Sprintf("not ready within %v: %s; %s", e.Within, e.Last, lastOutput(e.Output))
}

// ExitedError says that an instance ended before it was ready.
type ExitedError struct {
	Exit   Exit
	Output []string // its last lines
}

func (e *ExitedError) Error() string {
	return e.Exit.String() + "; " + lastOutput(e.Output)
}

// String says it for people: "exited with status 3 after 0.2 s".
func (e Exit) String() string {
	after := fmt.Sprintf("%.1f s", e.After.Seconds())
	if e.After >= time.Minute {
		after = e.After.Round(time.Second).String()
	}
	if e.Signal != 0 {
		return fmt.Sprintf("killed by signal %d (%v) after %s", e.Signal, syscall.Signal(e.Signal), after)
	}
	return fmt.Sprintf("exited with status %d after %s", e.Code, after)
}

func lastOutput(lines []string) string {
	if len(lines) == 0 {
		return "no output"
	}
	return "last output: " + strings.Join(lines, " | ")
}
