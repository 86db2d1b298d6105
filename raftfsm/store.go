package raftfsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bbolterrors "go.etcd.io/bbolt/errors"
)

// Errors of Open that an operator can act on.
var (
	ErrInUse   = errors.New("the data directory is in use by another process")
	ErrDamaged = errors.New("the data directory is damaged or half written")
)

const (
	logFile        = "log.db"      // bbolt: log entries, term and vote
	checkpointsDir = "checkpoints" // below it, raft's own layout: snapshots/TERM-INDEX-TIME/{meta.json,state.bin}
	lockWait       = 500 * time.Millisecond
	logCache       = 512 // entries
	keptCheckpoint = 2   // a damaged newest one may be replaced by the one before, if the log reaches back that far
)

// stores are what raft keeps on disk.
type stores struct {
	bolt        *raftboltdb.BoltStore
	logs        raft.LogStore
	stable      *timedStable
	checkpoints *raft.FileSnapshotStore
}

// openStores opens or makes the files in dir. The log is made first, so that checkpoints without a log are never the
// work of a crash.
func openStores(dir string, d *disk, log hclog.Logger) (*stores, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("open raft directory: %w", err)
	}
	path, checkpoints := filepath.Join(dir, logFile), filepath.Join(dir, checkpointsDir)
	if size, err := sizeOf(path); err != nil {
		return nil, fmt.Errorf("open raft directory: %w", err)
	} else if size == 0 && exists(checkpoints) {
		return nil, fmt.Errorf("open raft directory %s: %w: %s is missing or empty, and with it this server's term and vote",
			dir, ErrDamaged, logFile)
	}
	bolt, err := openLog(path)
	if err != nil {
		return nil, fmt.Errorf("open raft directory %s: %w", dir, err)
	}
	s := &stores{bolt: bolt, stable: &timedStable{StableStore: bolt, disk: d}}
	if s.logs, err = raft.NewLogCache(logCache, timedLogs{bolt, d}); err == nil {
		s.checkpoints, err = openCheckpoints(checkpoints, log)
	}
	if err == nil {
		err = s.check(checkpoints)
	}
	if err != nil {
		_ = bolt.Close()
		return nil, fmt.Errorf("open raft directory %s: %w", dir, err)
	}
	return s, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// sizeOf is a file's size, 0 when there is none.
func sizeOf(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// openLog is the one place that knows which log store is used.
func openLog(path string) (store *raftboltdb.BoltStore, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true)) // bbolt maps the file and believes what it reads
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %s: %v", ErrDamaged, logFile, p)
		}
	}()
	if size, err := sizeOf(path); err != nil {
		return nil, err
	} else if size > 0 {
		if err := checkLog(path, size); err != nil {
			return nil, logError(err)
		}
	}
	store, err = raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			Timeout:        lockWait,
			NoFreelistSync: true, // found again by a scan at start; saves a page write per commit
			FreelistType:   bbolt.FreelistMapType,
		},
		MsgpackUseNewTimeFormat: true,
	})
	return store, logError(err)
}

// checkLog sees that the file is as long as its newest header says. bbolt does not look, and a page beyond the end
// kills the process when it is read.
func checkLog(path string, size int64) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, ReadOnly: true})
	if err != nil {
		return err
	}
	err = db.View(func(tx *bbolt.Tx) error {
		if tx.Size() > size {
			return fmt.Errorf("it has %d of %d bytes", size, tx.Size())
		}
		return nil
	})
	return errors.Join(err, db.Close())
}

// logError tells a lock from an error of the system from a file that bbolt cannot make sense of.
func logError(err error) error {
	sys := (*fs.PathError)(nil)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, bbolterrors.ErrTimeout):
		return ErrInUse
	case errors.As(err, &sys):
		return err
	}
	return fmt.Errorf("%w: %s: %w", ErrDamaged, logFile, err)
}

// openCheckpoints also removes what a crash left unfinished: raft never looks at it again.
func openCheckpoints(dir string, log hclog.Logger) (*raft.FileSnapshotStore, error) {
	unfinished, err := filepath.Glob(filepath.Join(dir, "snapshots", "*.tmp"))
	if err != nil {
		return nil, err
	}
	for _, path := range unfinished {
		if err := os.RemoveAll(path); err != nil {
			return nil, fmt.Errorf("remove unfinished checkpoint: %w", err)
		}
	}
	return raft.NewFileSnapshotStoreWithLogger(dir, keptCheckpoint, log)
}

// check refuses a directory that raft would start from wrongly, or panic over.
func (s *stores) check(checkpoints string) error {
	list, err := s.checkpoints.List()
	if err != nil {
		return err
	}
	if len(list) < keptCheckpoint { // else raft lists no more
		if err := allListed(checkpoints, list); err != nil {
			return err
		}
	}
	first, err := s.logs.FirstIndex()
	if err != nil {
		return err
	}
	newest := uint64(0)
	if len(list) > 0 {
		newest = list[0].Index
	}
	if first > newest+1 {
		return fmt.Errorf("%w: the log begins at entry %d, the newest checkpoint ends at %d", ErrDamaged, first, newest)
	}
	return nil
}

// allListed looks for a checkpoint that raft passed over because it cannot read its description.
func allListed(checkpoints string, list []*raft.SnapshotMeta) error {
	known := map[string]bool{}
	for _, meta := range list {
		known[meta.ID] = true
	}
	entries, err := os.ReadDir(filepath.Join(checkpoints, "snapshots"))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() && !known[e.Name()] {
			return fmt.Errorf("%w: checkpoint %s has no readable meta.json", ErrDamaged, e.Name())
		}
	}
	return nil
}

func (s *stores) close() error { return s.bolt.Close() }
