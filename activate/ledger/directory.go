package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

// Directory is what modules have in common whose state is a directory: its marks and its place.
type Directory struct{ *Ledger }

// Present says whether there is a state, of whatever contents.
func (d Directory) Present(in activate.Instance) (bool, error) {
	dir, _, err := place.Place(in.StateDir).Find()
	return dir != "", err
}

// Observe returns what is activated and can be reached: what a Stop took out of reach that did not come to its end is to be
// started again, or stopped.
func (d Directory) Observe(context.Context) ([]activate.Running, error) {
	return d.Running(func(e Entry) (bool, error) {
		_, live, err := place.Place(e.StateDir).Find()
		return live, err
	})
}

// Make puts what fill makes at a name, whose parent is there, in the place of the state, which is garbage until it is
// opened. shared: everything in it is given to the instance's owner and group then.
func (d Directory) Make(in activate.Instance, shared bool, fill func(dir string) error) error {
	owner, err := place.OwnerOf(in.Spec)
	if err != nil {
		return err
	}
	if err := d.Made(in); err != nil {
		return err
	}
	return place.Place(in.StateDir).Make(func(dir string) error {
		if err := fill(dir); err != nil || !shared {
			return err
		}
		return place.Give(dir, owner)
	})
}

// Open makes the state reachable. The mark comes first: what is reachable and not marked would be nobody's.
func (d Directory) Open(in activate.Instance) error {
	if err := d.Activate(in); err != nil {
		return err
	}
	return place.Place(in.StateDir).Open()
}

// Stop takes the state out of reach and waits until no process has anything of it open, for the spec's grace: whoever
// had could go on writing.
func (d Directory) Stop(ctx context.Context, in activate.Instance) error {
	if own, err := d.Owns(in); err != nil || !own {
		return err
	}
	if err := place.Place(in.StateDir).Close(ctx, in.Spec.StopGrace()); err != nil {
		return fmt.Errorf("stop %q: %w", in.Service, err)
	}
	return d.Deactivate(in)
}

// MakeAbsent makes the state as Make does, for its owner, where there is none.
func (d Directory) MakeAbsent(in activate.Instance, fill func(dir string) error) error {
	if there, err := d.Present(in); err != nil || there {
		return err
	}
	return d.Make(in, true, fill)
}

// Source returns the state's directory for a dump.
func (d Directory) Source(in activate.Instance, final bool) (string, error) {
	dir, live, err := place.Place(in.StateDir).Find()
	if err != nil {
		return "", err
	}
	if dir == "" || final && live {
		return "", errors.New("its state is absent, or not stopped")
	}
	return dir, nil
}

// CopyOut is a dump into dir that copy makes of the state's directory, and gives the facts of.
func (d Directory) CopyOut(in activate.Instance, dir string, final bool, copy func(from string) (map[string]string, error)) (activate.Payload, error) {
	from, err := d.Source(in, final)
	var facts map[string]string
	if err == nil {
		facts, err = copy(from)
	}
	if err != nil {
		return activate.Payload{}, fmt.Errorf("dump %q: %w", in.Service, err)
	}
	return activate.Payload{Dir: dir, Facts: facts}, nil
}

// Compare compares what look finds in the state's directory with the facts of a payload.
func (d Directory) Compare(in activate.Instance, p activate.Payload, look func(dir string, live bool) (map[string]string, error)) error {
	dir, live, err := place.Place(in.StateDir).Find()
	if err != nil {
		return err
	}
	got, err := look(dir, live)
	if err != nil {
		return fmt.Errorf("verify %q: %w", in.Service, err)
	}
	return activate.CompareFacts(p.Facts, got)
}

// Delete removes the state, if it is garbage.
func (d Directory) Delete(_ context.Context, in activate.Instance) error {
	there, err := d.Present(in)
	if err != nil {
		return err
	}
	if there {
		if err := d.Deletable(in); err != nil {
			return err
		}
	}
	if err := place.Place(in.StateDir).Delete(); err != nil {
		return err
	}
	return d.Deleted(in)
}

// PackageFiles are the files of the package's root whose names end in suffix, by name. One of more than max bytes, and
// what is not a regular file, is an error.
func PackageFiles(in activate.Instance, suffix string, max int64) ([]string, error) {
	if in.Package == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(in.Package)
	if err != nil {
		return nil, fmt.Errorf("read package: %w", err)
	}
	var all []string
	for _, e := range entries { // sorted by name
		if !strings.HasSuffix(e.Name(), suffix) {
			continue
		}
		path := filepath.Join(in.Package, e.Name())
		fi, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if fi.Mode()&fs.ModeType != 0 || fi.Size() > max {
			return nil, fmt.Errorf("read %q: not a file of at most %d bytes", path, max)
		}
		all = append(all, path)
	}
	return all, nil
}
