package raftfsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// ApplyFunc makes the next State of one log entry. It must be total and deterministic: see Apply.
type ApplyFunc func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result)

// errOtherTerm answers an entry that was proposed for one term and came into the log in another.
var errOtherTerm = errors.New("the entry was meant for another term")

// machine is what raft applies the log to. Only raft's own goroutine calls ApplyBatch, Snapshot and Restore.
type machine struct {
	apply ApplyFunc
	log   *slog.Logger

	state  atomic.Pointer[model.State] // never nil
	failed atomic.Pointer[MustUpgradeError]
	stop   chan struct{} // closed when failed is set

	configIndex atomic.Uint64 // log index of the last configuration applied; 0 = not known

	news news
}

func newMachine(apply ApplyFunc, log *slog.Logger) *machine {
	m := &machine{apply: apply, log: log, stop: make(chan struct{})}
	m.state.Store(&model.State{})
	m.news.init()
	return m
}

// ApplyBatch applies entries in log order and publishes the State once. The answer to a command entry is a
// []model.Result, or an error that says why it changed nothing.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	first := m.state.Load()
	s := first
	for i, l := range logs {
		switch l.Type {
		case raft.LogConfiguration:
			m.configIndex.Store(l.Index)
		case raft.LogCommand:
			s, answers[i] = m.entry(s, l)
		}
	}
	if s != first {
		m.publish(s)
	}
	return answers
}

// Apply is the part of raft.FSM that raft does not call on a raft.BatchingFSM.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

func (m *machine) entry(s *model.State, l *raft.Log) (*model.State, any) {
	if err := m.failed.Load(); err != nil {
		return s, error(err)
	}
	if term, stamped := stampedTerm(l.Extensions); stamped && term != l.Term {
		return s, errOtherTerm
	}
	next, results, err := m.safeApply(s, l)
	if err == nil && next.Version > model.StateVersion {
		err = &MustUpgradeError{Index: l.Index, What: fmt.Sprintf("State of version %d", next.Version)}
	}
	if err != nil {
		m.fail(err)
		return s, error(err)
	}
	return next, results
}

// safeApply decodes and applies. An entry that cannot be decoded and one on which apply panics have one fate: this
// binary cannot go on, another may.
func (m *machine) safeApply(s *model.State, l *raft.Log) (next *model.State, results []model.Result, err *MustUpgradeError) {
	defer func() {
		if p := recover(); p != nil {
			err = &MustUpgradeError{Index: l.Index, What: "the entry cannot be applied", Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	cmds, derr := DecodeCommands(l.Data)
	if errors.As(derr, &err) {
		err.Index = l.Index
		return nil, nil, err
	}
	if derr != nil {
		return nil, nil, &MustUpgradeError{Index: l.Index, What: "the entry cannot be decoded", Err: derr}
	}
	next, results = m.apply(s, l.Index, cmds)
	return next, results, nil
}

// fail stops applying for the life of the process.
func (m *machine) fail(err *MustUpgradeError) {
	if m.failed.CompareAndSwap(nil, err) {
		m.log.Error("log is not applied any more", "error", err)
		close(m.stop)
	}
}

func (m *machine) publish(s *model.State) {
	m.state.Store(s)
	m.news.tell()
}

// Snapshot keeps the pointer: a State does not change. A machine that stopped must not write one, for raft would
// give it an index that the State does not have.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if err := m.failed.Load(); err != nil {
		return nil, err
	}
	return checkpoint{m.state.Load()}, nil
}

// Restore replaces the State by a checkpoint, found on disk at start or sent by the leader.
func (m *machine) Restore(r io.ReadCloser) error {
	defer func() { _ = r.Close() }()
	s, err := ReadState(r)
	if must := (*MustUpgradeError)(nil); errors.As(err, &must) {
		m.fail(must)
	}
	if err != nil {
		return err
	}
	m.configIndex.Store(0)
	m.publish(s)
	return nil
}

// checkpoint is a State on its way to disk.
type checkpoint struct{ s *model.State }

// Persist writes the checkpoint; raft cancels the sink on an error.
func (c checkpoint) Persist(sink raft.SnapshotSink) error { return WriteState(sink, c.s) }

// Release has nothing to free.
func (c checkpoint) Release() {}

// stampTerm makes the extension of an entry that counts only in the term it was proposed for.
func stampTerm(term uint64) []byte { return binary.BigEndian.AppendUint64(nil, term) }

func stampedTerm(ext []byte) (uint64, bool) {
	if len(ext) != 8 {
		return 0, false
	}
	return binary.BigEndian.Uint64(ext), true
}

// news tells of a change to everybody who waits for one. It carries nothing: who is woken looks at the whole again.
type news struct {
	mu      sync.Mutex
	changed chan struct{}          // closed at the next change
	wakes   map[chan struct{}]bool // capacity 1 each
}

func (n *news) init() { n.changed, n.wakes = make(chan struct{}), map[chan struct{}]bool{} }

func (n *news) tell() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.changed)
	n.changed = make(chan struct{})
	for w := range n.wakes {
		select {
		case w <- struct{}{}:
		default: // it has a wake that it did not take yet
		}
	}
}

func (n *news) next() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

func (n *news) watch() (<-chan struct{}, func()) {
	w := make(chan struct{}, 1)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.wakes[w] = true
	return w, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.wakes, w)
	}
}
