package raftfsm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

// A raft server whose State diverged begins anew: with an empty log, which the leader then fills. Its directory is set
// aside as a whole. What it promised stays promised: the new one has its term and its vote, and the server gives no further
// vote before a leader has brought it up to date (see memory).
//
//	DIR/diverged     that State diverged: at which entry, from whom
//	DIR/anew         that the next start is to begin anew
//	DIR.anew         the new directory, until it has taken the place of the old one
//	DIR.diverged-N   what was set aside; N is the last index of its log
const (
	divergedFile = "diverged"
	anewFile     = "anew"
)

func markDiverged(dir string, err error) error {
	d := &DivergedError{}
	errors.As(err, &d)
	b, jerr := json.Marshal(d)
	if jerr != nil {
		return jerr
	}
	return replaceBytes(filepath.Join(dir, divergedFile), b)
}

// earlier gives the *DivergedError that was written down, nil when none was.
func earlier(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, divergedFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	d := &DivergedError{}
	if err == nil {
		_ = json.Unmarshal(b, d) // that the file is there says enough
	}
	d.Earlier = true
	return d
}

// BeginAnew has the next Open of this directory set what there is aside, and begin with an empty log. It is for a server
// whose Err is an Earlier *DivergedError, and should wait for a leader: without one nobody fills the log, and meanwhile
// the server gives no vote.
func (n *Node) BeginAnew() error { return replaceBytes(filepath.Join(n.cfg.Dir, anewFile), nil) }

func replaceBytes(path string, data []byte) error {
	return replaceFile(path, func(w *os.File) error {
		_, err := w.Write(data)
		return err
	})
}

// beginAnew does what BeginAnew asked for. Cut off anywhere, the next start goes on.
func beginAnew(dir string) error {
	next := dir + ".anew"
	if exists(filepath.Join(dir, anewFile)) {
		last, err := makeAnew(dir, next)
		if err != nil {
			return fmt.Errorf("begin anew in %s: %w", dir, err)
		}
		if err := os.Rename(dir, asideName(dir, last)); err != nil {
			return fmt.Errorf("set the raft directory aside: %w", err)
		}
	}
	if !exists(next) || exists(filepath.Join(dir, logFile)) {
		return nil
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) { // the caller may have made it
		return fmt.Errorf("begin anew in %s: %w", dir, err)
	}
	if err := os.Rename(next, dir); err != nil {
		return fmt.Errorf("begin anew in %s: %w", dir, err)
	}
	return syncDir(filepath.Dir(dir))
}

func asideName(dir string, last uint64) string {
	name := fmt.Sprintf("%s.diverged-%d", dir, last)
	for i := 2; exists(name); i++ {
		name = fmt.Sprintf("%s.diverged-%d-%d", dir, last, i)
	}
	return name
}

// makeAnew makes the new directory, and gives the last index of the old log.
func makeAnew(dir, next string) (last uint64, err error) {
	if err := os.RemoveAll(next); err != nil {
		return 0, err
	}
	old, err := openLog(filepath.Join(dir, logFile))
	if err != nil {
		return 0, err
	}
	defer old.Close()
	if last, err = old.LastIndex(); err != nil {
		return 0, err
	}
	last = max(last, newestCheckpoint(filepath.Join(dir, checkpointsDir)))
	return last, makeEmpty(next, func(log *raftboltdb.BoltStore) error { return copyPromises(log, old) })
}

// newestCheckpoint is the index of the newest one by the names TERM-INDEX-TIME, 0 when there is none.
func newestCheckpoint(dir string) (newest uint64) {
	entries, _ := os.ReadDir(filepath.Join(dir, "snapshots"))
	for _, e := range entries {
		if parts := strings.Split(e.Name(), "-"); len(parts) == 3 {
			if i, err := strconv.ParseUint(parts[1], 10, 64); err == nil {
				newest = max(newest, i)
			}
		}
	}
	return newest
}

// copyPromises copies raft's term and vote, and the epoch of the cluster.
func copyPromises(to, from *raftboltdb.BoltStore) error {
	for _, key := range []string{"CurrentTerm", "LastVoteTerm", "LastVoteCand", string(epochKey)} {
		v, err := from.Get([]byte(key))
		if errors.Is(err, raftboltdb.ErrKeyNotFound) {
			continue
		}
		if err == nil {
			err = to.Set([]byte(key), v)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
