package activate

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Stateful is what a type whose instances have state does beyond Module.
//
// A state is kept for a component in a container, not for a row: all rows of a service in one container have the same
// one, one after the other. It is absent, stopped (nobody but the module can reach it) or live. Start makes it live,
// after Create where there is none, and Stop makes it stopped: when Stop has returned nil, no user of the component
// can write any more, and nothing has been deleted. What is stopped is garbage until it is started again.
//
//	absent --Create--> stopped --Start--> live --Stop--> stopped --Delete--> absent
//	                   stopped <--Load--- (Dump of another one)
//
// Every method may be called again after a crash at any point.
type Stateful interface {
	Module

	// Create makes the component's state where there is none, from the package's initial contents. It is stopped then.
	// With state present, of whatever contents, it does nothing; a creation that did not come to its end is done anew.
	Create(ctx context.Context, in Instance) error

	// Dump makes a complete, consistent and portable copy of the state as files. dir is an empty directory made for it;
	// the Payload names what is in it, or a directory of the module's own. The same state gives the same bytes.
	// final says that the state is stopped; otherwise it may be live, and written to meanwhile. A Dump that returns a
	// nil error was seen to be complete: exit statuses alone are not trusted.
	Dump(ctx context.Context, in Instance, dir string, final bool) (Payload, error)

	// Load replaces the state by what Dump gave: what was created since is gone. The state must not be live. A crash
	// leaves the old, the new, or one that Load replaces when it is called again. Load may move what is in p.Dir away,
	// so who calls it again gives it a new one; on the file system of StateDir that saves a copy.
	Load(ctx context.Context, in Instance, p Payload) error

	// Verify reads back what Load loaded and compares it with the facts. It changes nothing.
	Verify(ctx context.Context, in Instance, p Payload) error

	// Garbage returns whose states are marked as garbage on this node, in the order of row ids: as much of each as is
	// remembered, which is what Delete needs. What is marked may be of a row that is about to start, and be started
	// meanwhile: who collects asks for itself what is still wanted, and calls Stop before Delete.
	Garbage(ctx context.Context) ([]Instance, error)

	// Delete removes the state for good, and its mark, if it is garbage; a *NotGarbageError says that it is not: it is
	// live, or no Create, Load, Start or Stop of this module has ever seen it. Absent: nil. A deletion that was cut off
	// is finished by the next one.
	Delete(ctx context.Context, in Instance) error
}

// Payload is a state as files.
type Payload struct {
	// Dir is the directory whose files are the state. If it is not the one that Dump was given, it is the module's, to
	// be read only, and before the next Start.
	Dir string

	// Facts are what was seen while dumping, for Verify and for people: rows of each table, a revision. They are small
	// and the same for the same state. nil: nobody saw any, as with an archive from elsewhere; then Verify only looks
	// whether what was loaded is sound.
	Facts map[string]string

	// Ownership says that owners, modes and times of the files are part of the state. Otherwise names and contents are
	// all of it.
	Ownership bool

	// Live says that Dir is the state itself, which may change while it is read: good for a warm copy that saves time
	// later, never for a snapshot that counts. Only where final was false.
	Live bool
}

// NotGarbageError says that a state was not deleted, since it is in use or was never this module's.
type NotGarbageError struct {
	Service string
	Reason  string
}

func (e *NotGarbageError) Error() string {
	return fmt.Sprintf("delete the state of %q: %s", e.Service, e.Reason)
}

// FactsError says in what a state differs from what it should be.
type FactsError struct {
	Differences []string // "rows.staff: 3, not 4"; at most maxDifferences, sorted
	More        int      // how many there are beyond those
}

const maxDifferences = 5

func (e *FactsError) Error() string {
	s := "the state is not what was dumped: " + strings.Join(e.Differences, "; ")
	if e.More > 0 {
		s += fmt.Sprintf("; and %d more", e.More)
	}
	return s
}

// CompareFacts returns a *FactsError unless got is want, or nothing is known of what it should be: want is nil.
func CompareFacts(want, got map[string]string) error {
	if want == nil {
		return nil
	}
	all := maps.Clone(want)
	maps.Copy(all, got)
	var e FactsError
	for _, name := range slices.Sorted(maps.Keys(all)) {
		w, wanted := want[name]
		g, there := got[name]
		if wanted == there && w == g {
			continue
		}
		if len(e.Differences) == maxDifferences {
			e.More++
			continue
		}
		e.Differences = append(e.Differences, fmt.Sprintf("%s: %s, not %s", name, orAbsent(g, there), orAbsent(w, wanted)))
	}
	if e.Differences == nil {
		return nil
	}
	return &e
}

func orAbsent(s string, there bool) string {
	if !there {
		return "absent"
	}
	return s
}
