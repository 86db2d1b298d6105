package raftfsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// A cluster that goes on without a majority of its voters, or without any log, does so in a new epoch. A raft directory
// belongs to one epoch for as long as it is there: that is written down before its first entry. Servers of two epochs
// exchange nothing but these numbers, for raft's own rules say nothing about two majorities of two configurations. Who sees
// a higher one was overtaken: what it has is set aside, and it enters the cluster of that epoch with nothing. A server that has no
// entries yet tells nobody its epoch but those of the same: it could only make others set aside what it cannot replace.
//
// (The epochs of nodes and of claims, in State, are other things.)

// epochKey is where the stable store has the directory's epoch.
var epochKey = []byte("ClusterEpoch")

// EpochError says that two raft servers are of different epochs of the cluster.
type EpochError struct{ Own, Other uint64 }

func (e *EpochError) Error() string {
	if e.Other > e.Own {
		return fmt.Sprintf("the cluster was rebuilt without this server: it is of epoch %d, this is of %d", e.Other, e.Own)
	}
	return fmt.Sprintf("that server is of epoch %d of the cluster, this is of %d", e.Other, e.Own)
}

// epoch is that of this node's raft directory.
type epoch struct {
	store func(of uint64) error
	raft  *atomic.Pointer[raft.Raft] // nil until it has started
	own   atomic.Uint64              // 0 while the directory is empty
	least atomic.Uint64              // what an empty directory does not go below: that of the State that this node has

	mu     sync.Mutex    // held while own is written
	higher chan struct{} // closed when a higher one was seen
	seen   uint64        // which; guarded by mu
}

// openEpoch reads it. A directory with entries but without an epoch is of a version that knew none: its epoch is that of the
// checkpoint, or the first.
func openEpoch(s *stores, r *atomic.Pointer[raft.Raft]) (*epoch, error) {
	e := &epoch{raft: r, higher: make(chan struct{}), store: func(of uint64) error {
		return s.stable.disk.time(func() error { return s.bolt.SetUint64(epochKey, of) })
	}}
	own, err := s.number(epochKey)
	if err != nil {
		return nil, err
	}
	if own == 0 {
		if own, err = s.oldEpoch(); err == nil && own != 0 {
			err = s.bolt.SetUint64(wholeKey, 1) // that version did not know this either
		}
	}
	if err == nil && own != 0 {
		err = e.adopt(own)
	}
	return e, err
}

// number reads one from the stable store; 0 where there is none.
func (s *stores) number(key []byte) (uint64, error) {
	v, err := s.bolt.GetUint64(key)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return 0, nil
	}
	return v, err
}

func (s *stores) oldEpoch() (uint64, error) {
	list, err := s.checkpoints.List()
	if err != nil {
		return 0, err
	}
	if len(list) > 0 {
		_, r, err := s.checkpoints.Open(list[0].ID)
		if err != nil {
			return 0, err
		}
		defer r.Close()
		st, err := ReadState(r)
		if err != nil {
			return 1, nil //nolint:nilerr // raft says what is wrong with it, or takes the one before
		}
		return max(st.Cluster.Epoch, 1), nil
	}
	last, err := s.logs.LastIndex()
	return min(last, 1), err
}

// adopt makes the directory one of that epoch. It is on disk when this returns.
func (e *epoch) adopt(of uint64) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch own := e.own.Load(); {
	case own == of:
		return nil
	case own != 0:
		return &EpochError{own, of}
	}
	if err := e.store(of); err != nil {
		return fmt.Errorf("store the cluster's epoch: %w", err)
	}
	e.own.Store(of)
	return nil
}

// meet compares with that of another server, which an empty one takes on. A nil error means that they are the same.
func (e *epoch) meet(of uint64) error {
	own := e.own.Load()
	if least := e.least.Load(); own == 0 && of != 0 {
		if of < least {
			return &EpochError{least, of}
		}
		return e.adopt(of)
	}
	e.hear(of)
	if own != of {
		return &EpochError{own, of}
	}
	return nil
}

// empty says that there are no entries in the directory.
func (e *epoch) empty() bool {
	r := e.raft.Load()
	return r == nil || r.LastIndex() == 0
}

// hear notes that there is a cluster of that epoch, by the word of who has its State or its log.
func (e *epoch) hear(of uint64) {
	for least := e.least.Load(); of > least && !e.least.CompareAndSwap(least, of); least = e.least.Load() {
	}
	own := e.own.Load()
	if own == 0 || of <= own {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.seen == 0 {
		close(e.higher)
	}
	e.seen = max(e.seen, of)
}

// Overtaken is closed once this server has seen that the cluster goes on in a higher epoch. It will never be of use again:
// close it, and open one in a directory made by SeedEmpty.
func (n *Node) Overtaken() <-chan struct{} { return n.epoch.higher }

// Epochs gives the cluster epoch of this node's raft directory, 0 while it has none, and the highest that it has seen beyond that, or 0.
func (n *Node) Epochs() (own, seen uint64) {
	n.epoch.mu.Lock()
	defer n.epoch.mu.Unlock()
	return n.epoch.own.Load(), n.epoch.seen
}

// SeedEmpty makes a raft directory with nothing in it, which takes entries of no epoch but that one. It appears whole, by
// rename; it must not exist.
func SeedEmpty(dir string, of uint64) error {
	return seed(dir, func(work string) error {
		return makeEmpty(work, func(log *raftboltdb.BoltStore) error { return log.SetUint64(epochKey, of) })
	})
}

// makeEmpty makes a raft directory without entries, whose stable store is filled in.
func makeEmpty(dir string, fill func(log *raftboltdb.BoltStore) error) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	log, err := openLog(filepath.Join(dir, logFile))
	if err != nil {
		return err
	}
	return errors.Join(fill(log), log.Close(), syncDir(dir))
}

// epochHello is the first byte that each side of a raft stream sends, before its epoch.
const epochHello = 0xe1

const epochHelloBytes = 1 + 8

func (e *epoch) hello() []byte {
	return binary.BigEndian.AppendUint64([]byte{epochHello}, e.own.Load())
}

// readHello reads what the other side says first, and says whether that is of the same epoch.
func (e *epoch) readHello(r io.Reader) error {
	var b [epochHelloBytes]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return err
	}
	if b[0] != epochHello {
		return fmt.Errorf("the raft server at the other end is of an older version: it does not say its epoch")
	}
	return e.meet(binary.BigEndian.Uint64(b[1:]))
}
