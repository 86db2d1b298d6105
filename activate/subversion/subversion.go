// Package subversion is the module subversion-repository: a repository in a directory of its own, which those that
// depend on it serve or use by its path.
//
// The first start loads *.dump of the package's root in the order of names. The outputs are `path` and `url`.
package subversion

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/place"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	// Type is the module's name in models.
	Type = "subversion-repository"

	dumpFile    = "repository.dump"
	longTimeout = 6 * time.Hour
	maxInitial  = 16 << 30 // bytes of a *.dump file
)

// beside are what a repository has that is in no dump.
var beside = []string{"conf", "hooks"}

// Module keeps repositories. A repository is in in.StateDir/live while it is started.
type Module struct{ ledger.Directory }

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir.
func New(dir string) *Module { return &Module{ledger.Directory{Ledger: ledger.Open(dir)}} }

// Outputs are what a dependent needs: `path` and `url`, which hold on the instance's node only.
func Outputs(in activate.Instance) map[string]string {
	path := place.Place(in.StateDir).Live()
	return map[string]string{"path": path, "url": (&url.URL{Scheme: "file", Path: path}).String()}
}

func command(in activate.Instance, program string, args ...string) tool.Command {
	return tool.Command{Program: program, Dirs: []string{in.Settings["subversionPrograms"]}, Args: args, Timeout: longTimeout}
}

// Prepare looks for the programs and the package's dumps.
func (m *Module) Prepare(_ context.Context, in activate.Instance) error {
	if _, err := place.OwnerOf(in.Spec); err != nil {
		return err
	}
	if _, err := tool.Find("svnadmin", in.Settings["subversionPrograms"]); err != nil {
		return err
	}
	_, err := ledger.PackageFiles(in, ".dump", maxInitial)
	return err
}

// Create makes the repository and loads the package's dumps.
func (m *Module) Create(ctx context.Context, in activate.Instance) error {
	return m.MakeAbsent(in, func(dir string) error {
		dumps, err := ledger.PackageFiles(in, ".dump", maxInitial)
		if err != nil {
			return err
		}
		return create(ctx, in, dir, "--ignore-uuid", dumps...)
	})
}

// create makes a repository and loads dumps into it.
func create(ctx context.Context, in activate.Instance, dir, uuid string, dumps ...string) error {
	if err := tool.Run(ctx, command(in, "svnadmin", "create", "--fs-type", "fsfs", dir)); err != nil {
		return err
	}
	for _, path := range dumps {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		c := command(in, "svnadmin", "load", "--quiet", "--bypass-prop-validation", uuid, dir)
		c.Stdin = f
		err = tool.Run(ctx, c)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %q: %w", path, err)
		}
	}
	return nil
}

// Start makes the repository reachable.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	return m.Open(in)
}

// Dump dumps all revisions up to the youngest one, and reads what was dumped to its end.
func (m *Module) Dump(ctx context.Context, in activate.Instance, dir string, final bool) (activate.Payload, error) {
	return m.CopyOut(in, dir, final, func(from string) (map[string]string, error) { return dump(ctx, in, from, dir) })
}

func dump(ctx context.Context, in activate.Instance, from, dir string) (map[string]string, error) {
	facts, err := look(ctx, in, from)
	if err != nil {
		return nil, err
	}
	dumped, err := svnDump(ctx, in, from, filepath.Join(dir, dumpFile), facts["youngest"])
	if err != nil {
		return nil, err
	}
	if err := activate.CompareFacts(facts, dumped); err != nil {
		return nil, err
	}
	for _, name := range beside {
		if err := copyFiles(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// look asks for the youngest revision and the repository's identity.
func look(ctx context.Context, in activate.Instance, dir string) (map[string]string, error) {
	facts := map[string]string{}
	for _, name := range []string{"youngest", "uuid"} {
		out, err := tool.Output(ctx, command(in, "svnlook", name, dir))
		if err != nil {
			return nil, err
		}
		facts[name] = strings.TrimSpace(out)
	}
	if _, err := strconv.ParseUint(facts["youngest"], 10, 63); err != nil || facts["uuid"] == "" {
		return nil, fmt.Errorf("svnlook says that the youngest revision is %q, and the uuid %q", facts["youngest"], facts["uuid"])
	}
	return facts, nil
}

// svnDump dumps the revisions to path, and returns what was seen of them in the stream.
func svnDump(ctx context.Context, in activate.Instance, from, path, youngest string) (facts map[string]string, err error) {
	said := &lastLine{}
	c := command(in, "svnadmin", "dump", "--revision", "0:"+youngest, from)
	c.Stderr = said
	err = tool.Into(ctx, c, path, func(w io.Writer, r io.Reader) (err error) {
		facts, err = scan(io.TeeReader(r, w))
		return err
	})
	if err != nil {
		return nil, err
	}
	// It says so of each revision after the last byte of it.
	if want := "* Dumped revision " + youngest + "."; said.line() != want {
		return nil, fmt.Errorf("svnadmin ended with %.200q, not %q", said.line(), want)
	}
	return facts, nil
}

// Load makes the repository anew from the payload.
func (m *Module) Load(ctx context.Context, in activate.Instance, p activate.Payload) error {
	f, err := os.Open(filepath.Join(p.Dir, dumpFile))
	if err != nil {
		return err
	}
	_, err = scan(f)
	f.Close()
	if err != nil {
		return fmt.Errorf("load %q: %w", in.Service, err)
	}
	return m.Make(in, true, func(dir string) error {
		if err := create(ctx, in, dir, "--force-uuid", filepath.Join(p.Dir, dumpFile)); err != nil {
			return err
		}
		for _, name := range beside {
			if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
				return err
			}
			if err := copyFiles(filepath.Join(p.Dir, name), filepath.Join(dir, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

// Verify checks every revision, and that they are all there.
func (m *Module) Verify(ctx context.Context, in activate.Instance, p activate.Payload) error {
	return m.Compare(in, p, func(dir string, _ bool) (map[string]string, error) {
		got, err := look(ctx, in, dir)
		if err == nil {
			err = tool.Run(ctx, command(in, "svnadmin", "verify", "--quiet", dir))
		}
		return got, err
	})
}

// copyFiles copies the files in a directory; links are passed over, and the templates that every repository is made with.
func copyFiles(from, to string) error {
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == from {
			return nil
		}
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".tmpl") {
			return err
		}
		name, _ := filepath.Rel(from, path)
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, name)), 0o755); err != nil {
			return err
		}
		return place.CopyFile(path, filepath.Join(to, name))
	})
}

// Available says why the programs that the module needs are not on this machine; nil if they are. Those that a service's
// settings name are not looked for.
func Available() error {
	_, err := tool.Find("svnadmin")
	return err
}
