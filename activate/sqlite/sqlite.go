// Package sqlite is the module sqlite-database: one SQLite database in a directory of its own, which those that depend
// on it open by its path.
//
// The first start loads *.sql of the package's root in the order of names. Its output is `path`. What opens it must be of
// the owner's group: the directory is theirs too, since SQLite makes files beside the database.
package sqlite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

const (
	// Type is the module's name in models.
	Type = "sqlite-database"

	file      = "database.sqlite" // in the state's directory, and in a payload
	maxSchema = 64 << 20          // bytes of a *.sql file
)

// Module keeps databases. A database is in in.StateDir/live while it is started.
type Module struct{ ledger.Directory }

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir.
func New(dir string) *Module { return &Module{ledger.Directory{Ledger: ledger.Open(dir)}} }

// Outputs are what a dependent needs: `path`, which holds on the instance's node only.
func Outputs(in activate.Instance) map[string]string {
	return map[string]string{"path": filepath.Join(place.Place(in.StateDir).Live(), file)}
}

// Prepare looks at the package's *.sql files.
func (m *Module) Prepare(_ context.Context, in activate.Instance) error {
	if _, err := place.OwnerOf(in.Spec); err != nil {
		return err
	}
	_, err := ledger.PackageFiles(in, ".sql", maxSchema)
	return err
}

// Create makes the database and loads the package's *.sql, each file as it is.
func (m *Module) Create(ctx context.Context, in activate.Instance) error {
	return m.MakeAbsent(in, func(dir string) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		files, err := ledger.PackageFiles(in, ".sql", maxSchema)
		if err != nil {
			return err
		}
		db, err := open(ctx, filepath.Join(dir, file), "rwc")
		if err != nil {
			return err
		}
		defer db.close()
		for _, f := range files {
			sql, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if err := db.exec(ctx, string(sql)); err != nil {
				return fmt.Errorf("load %q: %w", f, err)
			}
		}
		// A database without a table is no file yet.
		if err := db.exec(ctx, "PRAGMA user_version"); err != nil {
			return err
		}
		return db.close()
	})
}

// Start makes the database reachable.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	return m.Open(in)
}

// Dump copies the database page by page, as one transaction sees it, so that equal pages give equal chunks.
func (m *Module) Dump(ctx context.Context, in activate.Instance, dir string, final bool) (activate.Payload, error) {
	return m.CopyOut(in, dir, final, func(from string) (map[string]string, error) {
		return backup(ctx, filepath.Join(from, file), filepath.Join(dir, file))
	})
}

// Load puts the payload's database in the place of the state.
func (m *Module) Load(_ context.Context, in activate.Instance, p activate.Payload) error {
	if fi, err := os.Lstat(filepath.Join(p.Dir, file)); err != nil || !fi.Mode().IsRegular() {
		return fmt.Errorf("load %q: what should be loaded has no file %q: it is no state of a %s", in.Service, file, Type)
	}
	return m.Make(in, true, func(dir string) error {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		return place.Take(filepath.Join(p.Dir, file), filepath.Join(dir, file))
	})
}

// Verify checks the database's integrity and counts its rows again.
func (m *Module) Verify(ctx context.Context, in activate.Instance, p activate.Payload) error {
	return m.Compare(in, p, func(dir string, live bool) (map[string]string, error) {
		mode := "ro&immutable=1" // nothing is made beside it
		if live {
			mode = "ro"
		}
		return examine(ctx, filepath.Join(dir, file), mode)
	})
}
