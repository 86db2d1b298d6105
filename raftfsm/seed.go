package raftfsm

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// Seed makes a raft directory whose only server is id and whose State is s, for a cluster that goes on in the epoch of s. What
// a lost log held after s.Index is not in it. The directory appears whole, by rename; it must not exist.
func Seed(dir, id string, s *model.State) error {
	return seed(dir, func(work string) error { return seedInto(work, id, s) })
}

// seed has a directory made beside its place, and renames it.
func seed(dir string, fill func(work string) error) (err error) {
	if exists(dir) {
		return fmt.Errorf("seed %s: %w", dir, os.ErrExist)
	}
	work := dir + ".tmp"
	if err := os.RemoveAll(work); err != nil {
		return fmt.Errorf("seed %s: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("seed %s: %w", dir, err), os.RemoveAll(work))
		}
	}()
	if err := fill(work); err != nil {
		return err
	}
	if err := os.Rename(work, dir); err != nil {
		return err
	}
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return errors.Join(err, os.RemoveAll(dir))
	}
	return nil
}

// seedTerm is that of the first entry after the State. Who knew a higher one is of another epoch.
const seedTerm = 1

func seedInto(dir, id string, s *model.State) error {
	quiet := slog.New(slog.DiscardHandler)
	st, err := openStores(dir, newDisk(LAN(), nil, quiet), newBridge(quiet))
	if err != nil {
		return err
	}
	_, trans := raft.NewInmemTransport("") // it only writes addresses down
	defer func() { _ = trans.Close() }()
	servers := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(id), Address: raft.ServerAddress(id)}}}
	err = errors.Join(st.bolt.SetUint64([]byte("CurrentTerm"), seedTerm), st.bolt.SetUint64(epochKey, max(s.Cluster.Epoch, 1)), st.bolt.SetUint64(wholeKey, 1))
	var sink raft.SnapshotSink
	if err == nil {
		sink, err = st.checkpoints.Create(raft.SnapshotVersionMax, s.Index, seedTerm, servers, s.Index, trans)
	}
	if err == nil {
		if err = WriteState(sink, s); err != nil {
			_ = sink.Cancel()
		} else {
			err = sink.Close() // synced, the directory too
		}
	}
	return errors.Join(err, st.close(), syncDir(dir))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Empty says that this node has no log, and no State of one: it waits to be added to a cluster, follows, or has lost what
// it had.
func (n *Node) Empty() bool {
	return n.raft.LastIndex() == 0 && n.machine.line.Load().state.Index == 0 && len(n.configuration()) == 0
}
