package raftfsm

import (
	"errors"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// A server's vote speaks for what it has acknowledged. One whose directory was lost does not know that any more: together
// with a server that lags it would elect a leader which lacks what was committed by its own word. So a directory that is new
// gives no votes, and asks for none, until a leader has brought it up to date: until it has applied an entry of the term in which
// it first heard one, for that leader had all that was committed before. A server that is being added is brought up before it
// becomes a voter anyway.

// wholeKey is where the stable store says that a directory was brought up to date once.
var wholeKey = []byte("Whole")

var errForgotten = errors.New("this server has lost its log, or is new, and does not vote before a leader has brought it up to date")

// memory says whether this server may vote.
type memory struct {
	whole atomic.Bool
	store func() error
	logs  raft.LogStore
	raft  *atomic.Pointer[raft.Raft] // nil until it has started
	heard atomic.Uint64              // term in which it first heard a leader; 0 = it has not
}

func openMemory(s *stores, r *atomic.Pointer[raft.Raft]) (*memory, error) {
	m := &memory{logs: s.logs, raft: r, store: func() error {
		return s.stable.disk.time(func() error { return s.bolt.SetUint64(wholeKey, 1) })
	}}
	whole, err := s.number(wholeKey)
	m.whole.Store(whole != 0)
	return m, err
}

// hear notes a request of a leader.
func (m *memory) hear(term uint64) {
	if !m.isWhole() {
		m.heard.CompareAndSwap(0, term)
	}
}

// isWhole says whether this server knows what it may have acknowledged. Once that is so it is written down.
func (m *memory) isWhole() bool {
	if m.whole.Load() {
		return true
	}
	r, term := m.raft.Load(), m.heard.Load()
	return r != nil && term != 0 && m.appliedTerm(r) >= term && m.begin() == nil
}

// begin makes this server whole, as the first one of a cluster is from the beginning.
func (m *memory) begin() error {
	if err := m.store(); err != nil {
		return err
	}
	m.whole.Store(true)
	return nil
}

// appliedTerm is the term of the last entry applied, 0 where that cannot be told yet.
func (m *memory) appliedTerm(r *raft.Raft) uint64 {
	var e raft.Log
	at := r.AppliedIndex()
	if m.logs.GetLog(at, &e) == nil {
		return e.Term
	}
	if term, last := lastEntry(r); at == last {
		return term // of a checkpoint behind which there is no log
	}
	return 0
}
