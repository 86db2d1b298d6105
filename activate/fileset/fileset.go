// Package fileset is the module fileset: the files of a package, and among them directories that can be written to and
// whose contents are the state.
//
// Settings: `stateDirs`, the paths of those directories in the package, separated by spaces (none: it has no state);
// `targetDir`, the absolute name under which all of it is seen (default: StateDir/files). That name is a symbolic link
// to a directory in which what comes from the package is links to it, and the state directories are links to the state.
// What the package has in a state directory is its initial contents. The output is `path`, the target.
package fileset

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

// Type is the module's name in models.
const Type = "fileset"

const maxStateDirs = 1000

// Module keeps filesets.
type Module struct{ ledger.Directory }

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir.
func New(dir string) *Module { return &Module{ledger.Directory{Ledger: ledger.Open(dir)}} }

// Outputs are what a dependent needs: `path`, which holds on the instance's node only.
func Outputs(in activate.Instance) map[string]string { return map[string]string{"path": target(in)} }

func target(in activate.Instance) string {
	if t := in.Settings["targetDir"]; t != "" {
		return filepath.Clean(t)
	}
	return filepath.Join(in.StateDir, "files")
}

// view is the directory of links that the target leads to.
func view(in activate.Instance) string { return filepath.Join(in.StateDir, "view") }

// stateDirs are the state's directories, sorted: relative, and none in another.
func stateDirs(in activate.Instance) ([]string, error) {
	dirs := strings.Fields(in.Settings["stateDirs"])
	if len(dirs) > maxStateDirs {
		return nil, fmt.Errorf("setting stateDirs: more than %d", maxStateDirs)
	}
	for i, d := range dirs {
		if dirs[i] = filepath.Clean(d); !filepath.IsLocal(d) || dirs[i] == "." {
			return nil, fmt.Errorf("setting stateDirs: %q is not a path below the package", d)
		}
	}
	slices.Sort(dirs)
	for _, d := range dirs {
		if slices.ContainsFunc(dirs, func(o string) bool { return strings.HasPrefix(o, d+"/") }) {
			return nil, fmt.Errorf("setting stateDirs: one is in %q, which is one too", d)
		}
	}
	return slices.Compact(dirs), nil
}

// Prepare checks the settings and that nothing is in the way of the target.
func (m *Module) Prepare(_ context.Context, in activate.Instance) error {
	if _, err := stateDirs(in); err != nil {
		return err
	}
	if _, err := place.OwnerOf(in.Spec); err != nil {
		return err
	}
	if t := target(in); !filepath.IsAbs(t) {
		return fmt.Errorf("setting targetDir: %q is not absolute", t)
	}
	return inTheWay(in)
}

// inTheWay returns an error if something is at the target that is not a link to this fileset.
func inTheWay(in activate.Instance) error {
	to, err := os.Readlink(target(in))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("target %q: something is there: %w", target(in), err)
	case to != view(in):
		return fmt.Errorf("target %q: a link to %q is there", target(in), to)
	}
	return nil
}

// Create makes the state directories with the contents that the package gives them.
func (m *Module) Create(_ context.Context, in activate.Instance) error {
	dirs, err := stateDirs(in)
	if err != nil {
		return err
	}
	return m.MakeAbsent(in, func(dir string) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		for _, d := range dirs {
			if err := initial(filepath.Join(dir, d), filepath.Join(in.Package, d), in.Package != ""); err != nil {
				return err
			}
		}
		return writable(dir)
	})
}

// initial makes the state directory with what the package has there.
func initial(dir, pkg string, some bool) error {
	if err := os.MkdirAll(dir, 0o700); err != nil || !some {
		return err
	}
	if _, err := os.Stat(pkg); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.CopyFS(dir, os.DirFS(pkg))
}

// writable lets the owner write to copies of what could only be read in the package.
func writable(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return os.Chmod(path, fi.Mode().Perm()|0o600)
	})
}

// Start makes the target.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	if err := m.Prepare(ctx, in); err != nil {
		return err
	}
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	dirs, err := stateDirs(in)
	if err != nil {
		return err
	}
	if err := m.ensure(in, dirs); err != nil {
		return err
	}
	if err := m.Open(in); err != nil {
		return err
	}
	return show(in, dirs)
}

// ensure makes the state directories that this version of the package has and the one before had not.
func (m *Module) ensure(in activate.Instance, dirs []string) error {
	state, _, err := place.Place(in.StateDir).Find()
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(state) // links in the state lead nowhere else
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range dirs {
		if _, err := root.Stat(d); err == nil {
			continue
		}
		if err := root.MkdirAll(d, 0o770); err != nil {
			return fmt.Errorf("make state directory %q: %w", d, err)
		}
		owner, err := place.OwnerOf(in.Spec)
		if err != nil {
			return err
		}
		if owner != nil {
			if err := root.Lchown(d, owner.UID, owner.GID); err != nil {
				return err
			}
		}
	}
	return nil
}

// show makes the view anew and the target a link to it.
func show(in activate.Instance, dirs []string) error {
	fresh := view(in) + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return err
	}
	if err := link(in, dirs, fresh, "."); err != nil {
		return fmt.Errorf("link the files of %q: %w", in.Service, err)
	}
	if err := place.Replace(fresh, view(in)); err != nil {
		return err
	}
	t := target(in)
	if err := os.MkdirAll(filepath.Dir(t), 0o755); err != nil {
		return err
	}
	if err := os.Symlink(view(in), t); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return place.SyncDir(filepath.Dir(t))
}

// link makes the view of one directory that is above a state directory, or is the package itself: a directory of
// links, in root.
func link(in activate.Instance, dirs []string, root, at string) error {
	if err := os.Mkdir(filepath.Join(root, at), 0o755); err != nil {
		return err
	}
	var names []string
	if in.Package != "" {
		entries, err := os.ReadDir(filepath.Join(in.Package, at))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			names = append(names, e.Name())
		}
	}
	for _, d := range dirs {
		rest, err := filepath.Rel(at, d)
		if err == nil && filepath.IsLocal(rest) {
			name, _, _ := strings.Cut(rest, "/")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		path := filepath.Join(at, name)
		var err error
		switch {
		case slices.Contains(dirs, path):
			err = os.Symlink(filepath.Join(place.Place(in.StateDir).Live(), path), filepath.Join(root, path))
		case slices.ContainsFunc(dirs, func(d string) bool { return strings.HasPrefix(d, path+"/") }):
			err = link(in, dirs, root, path)
		default:
			err = os.Symlink(filepath.Join(in.Package, path), filepath.Join(root, path))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Stop removes the target and takes the state out of reach.
func (m *Module) Stop(ctx context.Context, in activate.Instance) error {
	if own, err := m.Owns(in); err != nil || !own {
		return err
	}
	if inTheWay(in) == nil { // somebody else's stays
		if err := os.Remove(target(in)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := errors.Join(os.RemoveAll(view(in)), os.RemoveAll(view(in)+".new")); err != nil {
		return err
	}
	return m.Directory.Stop(ctx, in)
}

// Dump answers with the state's own directory.
func (m *Module) Dump(_ context.Context, in activate.Instance, _ string, final bool) (activate.Payload, error) {
	dir, err := m.Source(in, final)
	var facts map[string]string
	if err == nil {
		facts, err = count(dir)
	}
	if err != nil && !final && errors.Is(err, fs.ErrNotExist) {
		facts, err = nil, nil // something was removed meanwhile
	}
	if err != nil {
		return activate.Payload{}, fmt.Errorf("dump %q: %w", in.Service, err)
	}
	_, live, err := place.Place(in.StateDir).Find()
	return activate.Payload{Dir: dir, Facts: facts, Ownership: true, Live: live}, err
}

// Load puts the payload's directory in the place of the state, with the owners and modes that it has.
func (m *Module) Load(_ context.Context, in activate.Instance, p activate.Payload) error {
	owner, err := place.OwnerOf(in.Spec)
	if err != nil {
		return err
	}
	dirs, err := stateDirs(in)
	if err != nil {
		return err
	}
	return m.Make(in, false, func(dir string) error {
		if err := place.Take(p.Dir, dir); err != nil {
			return err
		}
		for _, d := range dirs {
			if err := place.Adopt(filepath.Join(dir, d), owner); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verify counts again. What the files hold is known to who restored them.
func (m *Module) Verify(_ context.Context, in activate.Instance, p activate.Payload) error {
	return m.Compare(in, p, func(dir string, _ bool) (map[string]string, error) { return count(dir) })
}

// count returns how many files there are and how long they are together.
func count(dir string) (map[string]string, error) {
	var files, others, size int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if !d.Type().IsRegular() {
			others++
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		files, size = files+1, size+fi.Size()
		return nil
	})
	return map[string]string{"files": strconv.FormatInt(files, 10), "others": strconv.FormatInt(others, 10), "bytes": strconv.FormatInt(size, 10)}, err
}
