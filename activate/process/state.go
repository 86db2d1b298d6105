package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

// A program's state is what it keeps in STATE_DIRECTORY: in.StateDir itself. What is live is seen from what runs; what was
// started with a managed state is marked as other modules mark it, and nothing else is deleted.
var _ activate.Stateful = (*Module)(nil)

// markStarted comes before the program can write.
func (m *Module) markStarted(in activate.Instance) error {
	if m.marks == nil || !in.Managed {
		return nil
	}
	return m.marks.Activate(in)
}

// markStopped marks as garbage what was started, unless another row has been since.
func (m *Module) markStopped(in activate.Instance) error {
	if m.marks == nil {
		return nil
	}
	if own, err := m.marks.Owns(in); err != nil || !own {
		return err
	}
	return m.marks.Deactivate(in)
}

// Active returns what was started with a managed state and was not stopped, whether it runs or not.
func (m *Module) Active() ([]ledger.Entry, error) { return m.marks.Active() }

// Garbage returns what was stopped, made or loaded, and not started since, and what does not run any more although
// nobody stopped it: after a power cut there is no attempt of a row that is not wanted any more. Stop comes before Delete.
func (m *Module) Garbage(ctx context.Context) ([]activate.Instance, error) {
	all, err := m.marks.Garbage(ctx)
	if err != nil {
		return nil, err
	}
	started, err := m.Active()
	if err != nil {
		return nil, err
	}
	for _, e := range started {
		if in := e.Instance(); m.stopped(ctx, in) == nil {
			all = append(all, in)
		}
	}
	return all, nil
}

// Create makes the directory, for the instance's user. What is in it, the program makes at its first start.
func (m *Module) Create(_ context.Context, in activate.Instance) error {
	if err := m.marks.Made(in); err != nil {
		return err
	}
	return m.own(in)
}

func (m *Module) own(in activate.Instance) error {
	id, err := identify(in)
	if err != nil {
		return err
	}
	if err := adopt(in.StateDir, id.user); err != nil {
		return err
	}
	return ownDir(in.StateDir, id.user)
}

// Dump answers with the directory. While the program runs that is a warm copy only.
func (m *Module) Dump(ctx context.Context, in activate.Instance, _ string, final bool) (activate.Payload, error) {
	if fi, err := os.Lstat(in.StateDir); err != nil || !fi.IsDir() {
		return activate.Payload{}, fmt.Errorf("dump %q: no directory %q", in.Service, in.StateDir)
	}
	if final {
		if err := m.stopped(ctx, in); err != nil {
			return activate.Payload{}, fmt.Errorf("dump %q: %w", in.Service, err)
		}
	}
	return activate.Payload{Dir: in.StateDir, Ownership: true, Live: !final}, nil
}

// stopped returns an error if an attempt of the row runs.
func (m *Module) stopped(ctx context.Context, in activate.Instance) error {
	list, err := m.keeper.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range list {
		if row, _, ok := m.parseID(s.ID); ok && row == in.ID && s.State != keeper.Exited {
			return fmt.Errorf("pid %d of it runs", s.PID)
		}
	}
	return nil
}

// Load puts p.Dir in the place of the directory. A payload that was restored there already stays.
func (m *Module) Load(ctx context.Context, in activate.Instance, p activate.Payload) error {
	if err := m.stopped(ctx, in); err != nil {
		return fmt.Errorf("load %q: %w", in.Service, err)
	}
	if err := m.marks.Made(in); err != nil {
		return err
	}
	if p.Dir != in.StateDir {
		fresh := in.StateDir + ".new"
		err := errors.Join(os.MkdirAll(filepath.Dir(in.StateDir), 0o755), os.RemoveAll(fresh))
		if err == nil {
			err = place.Take(p.Dir, fresh)
		}
		if err == nil {
			err = place.Replace(fresh, in.StateDir)
		}
		if err != nil {
			return fmt.Errorf("load %q: %w", in.Service, err)
		}
	}
	return m.own(in)
}

// Verify has nothing to add to the hashes of who restored the files.
func (m *Module) Verify(context.Context, activate.Instance, activate.Payload) error { return nil }

// Delete removes the directory as a whole, if it is garbage.
func (m *Module) Delete(ctx context.Context, in activate.Instance) error {
	if err := m.stopped(ctx, in); err != nil {
		return &activate.NotGarbageError{Service: in.Service, Reason: err.Error()}
	}
	gone, fresh := in.StateDir+".gone", in.StateDir+".new" // of a deletion and of a load that were cut off
	if err := errors.Join(os.RemoveAll(gone), os.RemoveAll(fresh)); err != nil {
		return err
	}
	if _, err := os.Lstat(in.StateDir); err == nil {
		if err := m.marks.Deletable(in); err != nil {
			return err
		}
		if err := errors.Join(os.Rename(in.StateDir, gone), place.SyncDir(filepath.Dir(in.StateDir))); err != nil {
			return err
		}
		if err := os.RemoveAll(gone); err != nil {
			return err
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return m.marks.Deleted(in)
}
