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

// machine makes State of entries. They come from two sides: from raft's log, in raft's own goroutine, which alone calls
// ApplyBatch, Snapshot and Restore; and from the feed of another server, see follow.go. Both tell one history, and one
// may be ahead of the other while a node becomes a raft server: State is the newer, so that it never goes back.
type machine struct {
	apply ApplyFunc
	log   *slog.Logger
	every uint64 // entries between two marks

	line atomic.Pointer[line]        // what raft's log led to; never nil
	mark atomic.Pointer[model.State] // that of line whose index last passed a multiple of every; nil = none yet
	// markBefore is the mark before, for servers that compare and are a little behind.
	markBefore atomic.Pointer[model.State]
	marked     chan struct{} // capacity 1: there is a new mark

	mu     sync.Mutex                  // held while state is replaced
	state  atomic.Pointer[model.State] // never nil
	failed atomic.Pointer[failure]
	stop   chan struct{} // closed when failed is set

	configIndex atomic.Uint64 // log index of the last configuration applied; 0 = not known

	news   news // of State and of the raft configuration
	config news // of the raft configuration alone
}

// line is where raft's log has led to.
type line struct {
	state *model.State
	base  uint64 // index of the State that was restored from the last checkpoint
	from  uint64 // log index of the first entry applied since; 0 = none
}

// failure is why nothing is applied any more: a *MustUpgradeError or a *DivergedError.
type failure struct{ err error }

func newMachine(apply ApplyFunc, every uint64, log *slog.Logger) *machine {
	m := &machine{apply: apply, every: every, log: log, stop: make(chan struct{}), marked: make(chan struct{}, 1)}
	m.state.Store(&model.State{})
	m.line.Store(&line{state: m.state.Load()})
	m.news.init()
	m.config.init()
	return m
}

// err is why nothing is applied any more, nil while entries are.
func (m *machine) err() error {
	if f := m.failed.Load(); f != nil {
		return f.err
	}
	return nil
}

// ApplyBatch applies entries in log order and publishes the State once. The answer to a command entry is a
// []model.Result, or an error that says why it changed nothing.
func (m *machine) ApplyBatch(logs []*raft.Log) []any {
	answers := make([]any, len(logs))
	first := m.line.Load()
	s, config := first.state, false
	for i, l := range logs {
		switch l.Type {
		case raft.LogConfiguration:
			m.configIndex.Store(l.Index)
			config = true
		case raft.LogCommand:
			s, answers[i] = m.entry(s, l)
		}
	}
	if s != first.state || first.from == 0 {
		m.line.Store(&line{state: s, base: first.base, from: or(first.from, logs[0].Index)})
	}
	if s != first.state {
		m.publish(s)
	}
	if config {
		m.config.tell()
		m.news.tell()
	}
	return answers
}

// Apply is the part of raft.FSM that raft does not call on a raft.BatchingFSM.
func (m *machine) Apply(l *raft.Log) any { return m.ApplyBatch([]*raft.Log{l})[0] }

func (m *machine) entry(s *model.State, l *raft.Log) (*model.State, any) {
	if inOtherTerm(l) {
		return s, errOtherTerm
	}
	next, results, err := m.next(s, l.Index, l.Data)
	if err != nil {
		return s, err
	}
	if m.every > 0 && next.Index/m.every != s.Index/m.every {
		m.markBefore.Store(m.mark.Swap(next))
		select {
		case m.marked <- struct{}{}:
		default:
		}
	}
	return next, results
}

// next gives the State after an entry. An error is for ever.
func (m *machine) next(s *model.State, index uint64, entry []byte) (*model.State, []model.Result, error) {
	if err := m.err(); err != nil {
		return nil, nil, err
	}
	next, results, must := m.safeApply(s, index, entry)
	if must == nil && next.Version > model.StateVersion {
		must = &MustUpgradeError{Index: index, What: fmt.Sprintf("State of version %d", next.Version)}
	}
	if must != nil {
		m.fail(must)
		return nil, nil, must
	}
	return next, results, nil
}

// safeApply decodes and applies. An entry that cannot be decoded and one on which apply panics have one fate: this
// binary cannot go on, another may.
func (m *machine) safeApply(s *model.State, index uint64, entry []byte) (next *model.State, results []model.Result, err *MustUpgradeError) {
	defer func() {
		if p := recover(); p != nil {
			err = &MustUpgradeError{Index: index, What: "the entry cannot be applied", Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	cmds, derr := DecodeCommands(entry)
	if errors.As(derr, &err) {
		err.Index = index
		return nil, nil, err
	}
	if derr != nil {
		return nil, nil, &MustUpgradeError{Index: index, What: "the entry cannot be decoded", Err: derr}
	}
	next, results = m.apply(s, index, cmds)
	return next, results, nil
}

// fail stops applying for the life of the process.
func (m *machine) fail(err error) {
	if m.failed.CompareAndSwap(nil, &failure{err}) {
		m.log.Error("log is not applied any more", "error", err)
		close(m.stop)
	}
}

// publish makes s the State, unless that is newer.
func (m *machine) publish(s *model.State) {
	m.mu.Lock()
	newer := s.Newer(m.state.Load())
	if newer {
		m.state.Store(s)
	}
	m.mu.Unlock()
	if newer {
		m.news.tell()
	}
}

var errGap = errors.New("entries are missing")

// follow applies an entry of a feed: the one that comes next after the State of index prev.
func (m *machine) follow(prev, index uint64, entry []byte) error {
	s := m.state.Load()
	switch {
	case index <= s.Index:
		return nil // raft's log led there already
	case prev != s.Index:
		return fmt.Errorf("%w: entry %d follows %d, State is at %d", errGap, index, prev, s.Index)
	}
	next, _, err := m.next(s, index, entry)
	if err == nil {
		m.publish(next)
	}
	return err
}

// Snapshot keeps the pointer: a State does not change. A machine that stopped must not write one, for raft would
// give it an index that the State does not have.
func (m *machine) Snapshot() (raft.FSMSnapshot, error) {
	if err := m.err(); err != nil {
		return nil, err
	}
	return checkpoint{m.line.Load().state}, nil
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
	m.line.Store(&line{state: s, base: s.Index})
	m.publish(s)
	m.config.tell()
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

// inOtherTerm says of an entry that it counts for nothing where it stands.
func inOtherTerm(l *raft.Log) bool {
	term, stamped := stampedTerm(l.Extensions)
	return stamped && term != l.Term
}

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
