// Package ledger remembers which components are activated on this node and which are garbage: a small file for each,
// written before anybody relies on it.
package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

const maxEntry = 1 << 20 // bytes of a file

// Entry is what is remembered of a component.
type Entry struct {
	ID        string            `json:"id"` // of the row that was activated last
	Attempt   int               `json:"attempt"`
	Service   string            `json:"service"`
	Container string            `json:"container"`
	Type      string            `json:"type"`
	StateDir  string            `json:"state_dir"`
	Settings  map[string]string `json:"settings,omitempty"` // how to ask its server; may hold a password
	Started   time.Time         `json:"started"`
	Boot      time.Duration     `json:"boot"` // CLOCK_BOOTTIME when it was activated
}

// Ledger is the files of one module. Its Watch is that of a module that starts no processes.
type Ledger struct {
	dir string

	mu      sync.Mutex
	changed chan struct{} // closed at the next change; guarded by mu
}

// Open returns the ledger in dir, which need not exist.
func Open(dir string) *Ledger { return &Ledger{dir: dir, changed: make(chan struct{})} }

// key names the component's file. The state's directory tells apart what has one name in two systems.
func key(in activate.Instance) string {
	sum := sha256.Sum256([]byte(in.Container + "\x00" + in.Service + "\x00" + in.StateDir))
	return in.LogName() + "-" + hex.EncodeToString(sum[:6]) + ".json"
}

func (l *Ledger) active(in activate.Instance) string {
	return filepath.Join(l.dir, "activated", key(in))
}
func (l *Ledger) garbage(in activate.Instance) string {
	return filepath.Join(l.dir, "garbage", key(in))
}

// Made marks a new state as garbage: it is, until somebody starts it.
func (l *Ledger) Made(in activate.Instance) error {
	if _, err := os.Stat(l.active(in)); err == nil {
		return nil
	}
	return l.write(l.garbage(in), in)
}

// Activate marks the component as active, by this row and attempt.
func (l *Ledger) Activate(in activate.Instance) error {
	if e, ok, err := read(l.active(in)); err == nil && ok && e.ID == in.ID && e.Attempt == in.Attempt {
		return l.remove(l.garbage(in)) // a repetition: it did not start again
	}
	if err := l.write(l.active(in), in); err != nil {
		return err
	}
	return l.remove(l.garbage(in))
}

// Owns says whether stopping in is stopping the component: no other row has activated it since.
func (l *Ledger) Owns(in activate.Instance) (bool, error) {
	e, ok, err := read(l.active(in))
	return err == nil && (!ok || e.ID == in.ID), err
}

// Deactivate marks as garbage what in activated. Never activated: nothing.
func (l *Ledger) Deactivate(in activate.Instance) error {
	if _, ok, err := read(l.active(in)); err != nil || !ok {
		return err
	}
	if err := l.write(l.garbage(in), in); err != nil {
		return err
	}
	return l.remove(l.active(in))
}

// Deletable returns a *activate.NotGarbageError unless the component is marked as garbage.
func (l *Ledger) Deletable(in activate.Instance) error {
	if _, err := os.Lstat(l.active(in)); err == nil {
		return &activate.NotGarbageError{Service: in.Service, Reason: "it is active"}
	}
	if _, err := os.Lstat(l.garbage(in)); errors.Is(err, fs.ErrNotExist) {
		return &activate.NotGarbageError{Service: in.Service, Reason: "it is not marked as garbage"}
	} else if err != nil {
		return err
	}
	return nil
}

// Deleted forgets the component.
func (l *Ledger) Deleted(in activate.Instance) error { return l.remove(l.garbage(in)) }

// Active returns what is activated, in the order of row ids. Files that say nothing sensible are an error.
func (l *Ledger) Active() ([]Entry, error) { return l.entries("activated") }

// Garbage returns what is marked as garbage, and not active, in the order of row ids.
func (l *Ledger) Garbage(context.Context) ([]activate.Instance, error) {
	list, err := l.entries("garbage")
	if err != nil {
		return nil, err
	}
	var all []activate.Instance
	for _, e := range list {
		in := e.Instance()
		if _, err := os.Lstat(l.active(in)); errors.Is(err, fs.ErrNotExist) {
			all = append(all, in)
		} else if err != nil {
			return nil, err
		}
	}
	return all, nil
}

func (l *Ledger) entries(kind string) ([]Entry, error) {
	dir := filepath.Join(l.dir, kind)
	names, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []Entry
	for _, n := range names {
		if !strings.HasSuffix(n.Name(), ".json") {
			continue // a file that did not come to its name
		}
		e, ok, err := read(filepath.Join(dir, n.Name()))
		if err != nil {
			return nil, err
		}
		if ok {
			all = append(all, e)
		}
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.ID, b.ID) })
	return all, nil
}

// IsActive says whether the component is activated.
func (l *Ledger) IsActive(in activate.Instance) (bool, error) {
	_, ok, err := read(l.active(in))
	return ok, err
}

// Running returns what is activated and, as there says, is there to be used.
func (l *Ledger) Running(there func(Entry) (bool, error)) ([]activate.Running, error) {
	list, err := l.Active()
	if err != nil {
		return nil, err
	}
	var all []activate.Running
	for _, e := range list {
		if ok, err := there(e); err != nil {
			return nil, err
		} else if ok {
			all = append(all, e.Running())
		}
	}
	return all, nil
}

// Running is the entry as a module says it.
func (e Entry) Running() activate.Running {
	age := boottime() - e.Boot
	if age < 0 { // the machine has been booted since
		age = max(0, time.Since(e.Started))
	}
	return activate.Running{ID: e.ID, Attempt: e.Attempt, StartedAt: e.Started, Age: age}
}

// Instance is as much of the instance as is remembered.
func (e Entry) Instance() activate.Instance {
	return activate.Instance{ID: e.ID, Attempt: e.Attempt, Service: e.Service, Container: e.Container, Type: e.Type, StateDir: e.StateDir, Settings: e.Settings}
}

// Watch calls changed at the start and whenever the ledger changes, until ctx ends.
func (l *Ledger) Watch(ctx context.Context, changed func()) error {
	for {
		l.mu.Lock()
		next := l.changed
		l.mu.Unlock()
		changed()
		select {
		case <-next:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (l *Ledger) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *Ledger) write(path string, in activate.Instance) error {
	b, err := json.MarshalIndent(Entry{ID: in.ID, Attempt: in.Attempt, Service: in.Service, Container: in.Container, Type: in.Type,
		StateDir: in.StateDir, Settings: in.Settings, Started: time.Now().UTC(), Boot: boottime()}, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := place.WriteFile(path, b, 0o600); err != nil {
		return fmt.Errorf("mark %q: %w", in.Service, err)
	}
	l.tell()
	return nil
}

func (l *Ledger) remove(path string) error {
	if err := os.Remove(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	l.tell()
	return place.SyncDir(filepath.Dir(path))
}

func read(path string) (Entry, bool, error) {
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, false, nil
	}
	if err != nil {
		return Entry{}, false, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxEntry {
		return Entry{}, false, fmt.Errorf("read mark %q: %d bytes, %v", path, fi.Size(), fi.Mode())
	}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Entry{}, false, nil
	}
	var e Entry
	if err := cmp.Or(err, json.Unmarshal(b, &e)); err != nil {
		return Entry{}, false, fmt.Errorf("read mark %q: %w", path, err)
	}
	return e, true, nil
}

func boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts) // cannot fail with a clock that exists
	return time.Duration(ts.Nano())
}
