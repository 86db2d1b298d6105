package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

// A program's state is what it keeps in STATE_DIRECTORY: in.StateDir itself. What is live is seen from what runs.
var _ activate.Stateful = (*Module)(nil)

// Create makes the directory, for the instance's user. What is in it, the program makes at its first start.
func (m *Module) Create(_ context.Context, in activate.Instance) error {
	id, err := identify(in)
	if err != nil {
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
	return m.Create(ctx, in)
}

// Verify has nothing to add to the hashes of who restored the files.
func (m *Module) Verify(context.Context, activate.Instance, activate.Payload) error { return nil }

// Delete removes the directory, of which the caller says that it is garbage, as a whole.
func (m *Module) Delete(ctx context.Context, in activate.Instance) error {
	if err := m.stopped(ctx, in); err != nil {
		return &activate.NotGarbageError{Service: in.Service, Reason: err.Error()}
	}
	gone := in.StateDir + ".gone"
	if err := os.RemoveAll(gone); err != nil {
		return err
	}
	if err := os.Rename(in.StateDir, gone); errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return os.RemoveAll(gone)
}
