// Package mysql is the module mysql-database: one database on a MariaDB server that is there.
//
// Settings, with their defaults: `mysqlUsername` (root), an account that may do everything; `mysqlPassword` (none);
// `mysqlSocket` (/run/mysqld/mysqld.sock); `mysqlDatabase` (the component's name); `mysqlPrograms`, where to look for
// the programs first. The first start loads *.sql of the package's root in the order of names, as that account, with the
// database as the current one: accounts for those that depend on it can be made there, and get what they are granted.
package mysql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/served"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	// Type is the module's name in models.
	Type = "mysql-database"

	// A database of such a name says that the component's is not complete.
	making  = ".making"  // it is being created
	loading = ".loading" // it is being loaded

	maxName   = 64 - len(suffix)
	maxSchema = 64 << 20 // bytes of a *.sql file
)

// Module keeps databases.
type Module struct{ *ledger.Ledger }

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir.
func New(dir string) *Module { return &Module{ledger.Open(dir)} }

// Prepare looks for the programs and the package's *.sql, and asks the server whether what is granted can be withheld, if
// it is there already: it may be started by the same deployment.
func (m *Module) Prepare(ctx context.Context, in activate.Instance) error {
	n := database(in)
	if n == "" || len(n) > maxName || strings.ContainsAny(n, "\x00/\\.") || strings.HasSuffix(n, " ") {
		return fmt.Errorf("database %q: its name must have 1 to %d bytes, no dot, slash or backslash, and no space at the end", n, maxName)
	}
	if _, err := ledger.PackageFiles(in, ".sql", maxSchema); err != nil {
		return err
	}
	s := serverOf(in.Settings)
	if _, err := tool.Find("mariadb-dump", s.dirs...); err != nil {
		return err
	}
	if _, err := os.Stat(s.socket); err != nil {
		return nil
	}
	return s.patterns(ctx, n)
}

// Observe returns what is activated, if its server says that the database is there and complete.
func (m *Module) Observe(ctx context.Context) ([]activate.Running, error) {
	return m.Running(func(e ledger.Entry) (bool, error) {
		there, complete, err := present(ctx, e.Instance())
		return err == nil && there && complete, ctx.Err()
	})
}

// present says whether the database is there, and as a whole.
func present(ctx context.Context, in activate.Instance) (there, complete bool, err error) {
	n := database(in)
	all, err := serverOf(in.Settings).databases(ctx, n)
	if err != nil {
		return false, false, fmt.Errorf("find database %q: %w", n, err)
	}
	return all[n], !all[n+making] && !all[n+loading], nil
}

// Create makes the database and loads the package's *.sql.
func (m *Module) Create(ctx context.Context, in activate.Instance) error {
	n := database(in)
	all, err := serverOf(in.Settings).databases(ctx, n)
	if err != nil || all[n] && !all[n+making] && !all[n+loading] {
		return err
	}
	if all[n+loading] {
		return fmt.Errorf("create database %q: it was loaded by halves, and must be loaded again", n)
	}
	files, err := ledger.PackageFiles(in, ".sql", maxSchema)
	if err != nil {
		return err
	}
	s := serverOf(in.Settings)
	return m.make(ctx, in, making, "", func(name string) error {
		return served.LoadFiles(files, func(r io.Reader) error { return s.run(ctx, name, r) })
	})
}

// make makes the database anew with options and has fill fill it. Until that is done, a database of its name and mark
// says that it is not. What is granted on it is withheld.
func (m *Module) make(ctx context.Context, in activate.Instance, mark, options string, fill func(name string) error) error {
	n, s := database(in), serverOf(in.Settings)
	if err := m.Made(in); err != nil {
		return err
	}
	_, err := s.ask(ctx, hide(n)+fmt.Sprintf("CREATE DATABASE IF NOT EXISTS %s;", identifier(n+mark)))
	if err == nil {
		// A session that went on with the old one, such as that of a load which was cut off, would go on with the new one.
		err = s.endSessions(ctx, n, in.Spec.StopGrace())
	}
	if err == nil {
		_, err = s.ask(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s; CREATE DATABASE %[1]s %s;", identifier(n), options))
	}
	if err != nil {
		return fmt.Errorf("make database %q: %w", n, err)
	}
	if err := fill(n); err != nil {
		return err
	}
	_, err = s.ask(ctx, hide(n))
	if err == nil {
		err = s.endSessions(ctx, n, in.Spec.StopGrace())
	}
	if err == nil {
		_, err = s.ask(ctx, fmt.Sprintf("DROP DATABASE IF EXISTS %s; DROP DATABASE IF EXISTS %s;", identifier(n+making), identifier(n+loading)))
	}
	if err != nil {
		return fmt.Errorf("make database %q: %w", n, err)
	}
	return nil
}

// Start gives back what is granted on the database.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	err := served.Await(ctx, in.Spec.ReadyWithin(), func() error {
		_, _, err := present(ctx, in)
		return err
	})
	if err != nil {
		return err
	}
	if err := m.start(ctx, in); err != nil {
		return fmt.Errorf("start database %q: %w", database(in), err)
	}
	return nil
}

func (m *Module) start(ctx context.Context, in activate.Instance) error {
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	s := serverOf(in.Settings)
	if err := s.patterns(ctx, database(in)); err != nil {
		return err
	}
	if err := m.Activate(in); err != nil {
		return err
	}
	_, err := s.ask(ctx, show(database(in)))
	return err
}

// Stop withholds what is granted on the database, and ends the sessions of those who had it.
func (m *Module) Stop(ctx context.Context, in activate.Instance) error {
	if own, err := m.Owns(in); err != nil || !own {
		return err
	}
	// What was never activated here is somebody's own.
	if live, err := m.IsActive(in); err != nil || !live {
		return err
	}
	n, s := database(in), serverOf(in.Settings)
	err := s.patterns(ctx, n)
	if err == nil {
		_, err = s.ask(ctx, hide(n))
	}
	if err == nil {
		err = s.endSessions(ctx, n, in.Spec.StopGrace())
	}
	if err != nil {
		return fmt.Errorf("stop database %q: %w", n, err)
	}
	return m.Deactivate(in)
}

// Load makes the database anew from the payload.
func (m *Module) Load(ctx context.Context, in activate.Instance, p activate.Payload) error {
	if err := m.load(ctx, in, p); err != nil {
		return fmt.Errorf("load database %q: %w", database(in), err)
	}
	return nil
}

func (m *Module) load(ctx context.Context, in activate.Instance, p activate.Payload) error {
	if live, err := m.IsActive(in); err != nil || live {
		return errors.Join(err, errors.New("it is live"))
	}
	s := serverOf(in.Settings)
	accounts, err := served.ReadList[grant](filepath.Join(p.Dir, accountsFile))
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(p.Dir, dumpFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := scan(f, io.Discard); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	var options string
	if c := p.Facts["charset"]; c != "" {
		options = "CHARACTER SET " + literal(c) + " COLLATE " + literal(p.Facts["collation"])
	}
	return m.make(ctx, in, loading, options, func(name string) error {
		if err := s.run(ctx, name, f); err != nil {
			return err
		}
		_, err := s.ask(ctx, forget(name)+grants(accounts).grant(name))
		return err
	})
}

// Verify counts again.
func (m *Module) Verify(ctx context.Context, in activate.Instance, p activate.Payload) error {
	there, complete, err := present(ctx, in)
	if err != nil {
		return err
	}
	if !there || !complete {
		return fmt.Errorf("verify database %q: it is not there, or not complete", database(in))
	}
	got, err := count(ctx, serverOf(in.Settings), database(in))
	if err != nil {
		return fmt.Errorf("verify database %q: %w", database(in), err)
	}
	return activate.CompareFacts(p.Facts, got)
}

// Delete drops the database and what was granted on it, if it is garbage. Accounts stay.
func (m *Module) Delete(ctx context.Context, in activate.Instance) error {
	n, s := database(in), serverOf(in.Settings)
	all, err := s.databases(ctx, n)
	if err != nil {
		return err
	}
	if len(all) > 0 {
		if err := m.Deletable(in); err != nil {
			return err
		}
		_, err := s.ask(ctx, fmt.Sprintf("CREATE DATABASE IF NOT EXISTS %s; DROP DATABASE IF EXISTS %s; %s DROP DATABASE IF EXISTS %s; DROP DATABASE %[1]s;",
			identifier(n+making), identifier(n), forget(n), identifier(n+loading)))
		if err != nil {
			return fmt.Errorf("drop database %q: %w", n, err)
		}
	}
	return m.Deleted(in)
}

// Available says why the programs that the module needs are not on this machine; nil if they are. Those that a service's
// settings name are not looked for. Whether a server runs is not asked.
func Available() error {
	_, err := tool.Find("mariadb")
	if err == nil {
		_, err = tool.Find("mariadb-dump")
	}
	return err
}
