// Package postgresql is the module postgresql-database: one database on a PostgreSQL server that is there.
//
// Settings, with their defaults: `postgresqlUsername` (postgres), a superuser, as whose namesake of the system a root
// agent runs the programs; `postgresqlPassword` (none); `postgresqlPort` (5432); `postgresqlRuntimeDir`
// (/var/run/postgresql), where the socket is; `postgresqlDatabase` (the component's name); `postgresqlPrograms` (the
// newest in /usr/lib/postgresql). The first start loads *.sql of the package's root in the order of names.
package postgresql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/served"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	// Type is the module's name in models.
	Type = "postgresql-database"

	// A database is out of reach under another name: connections are made by name, a superuser's too.
	stopped = ".stopped"
	loading = ".loading" // being made
	old     = ".old"     // replaced, to be dropped

	maxName   = 63 - len(stopped) // PostgreSQL cuts longer names
	maxSchema = 64 << 20          // bytes of a *.sql file
)

// Module keeps databases.
type Module struct{ *ledger.Ledger }

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir.
func New(dir string) *Module { return &Module{ledger.Open(dir)} }

// Prepare looks for the programs and the package's *.sql. The server may be started by the same deployment.
func (m *Module) Prepare(_ context.Context, in activate.Instance) error {
	if n := database(in); n == "" || len(n) > maxName || strings.ContainsRune(n, 0) {
		return fmt.Errorf("database %q: its name must have 1 to %d bytes", n, maxName)
	}
	if _, err := ledger.PackageFiles(in, ".sql", maxSchema); err != nil {
		return err
	}
	_, err := tool.Find("pg_dump", serverOf(in.Settings).dirs...)
	return err
}

// Observe returns what is activated, if its server says that the database is there and admits connections.
func (m *Module) Observe(ctx context.Context) ([]activate.Running, error) {
	return m.Running(func(e ledger.Entry) (bool, error) {
		name := database(e.Instance())
		there, err := serverOf(e.Settings).databases(ctx, name)
		return err == nil && there[name], ctx.Err()
	})
}

// present says which of the component's databases is its state: "" if it has none.
func (m *Module) present(ctx context.Context, in activate.Instance) (name string, live bool, err error) {
	n := database(in)
	there, err := serverOf(in.Settings).databases(ctx, n)
	if err != nil {
		return "", false, fmt.Errorf("find database %q: %w", n, err)
	}
	_, isLive := there[n]
	_, isStopped := there[n+stopped]
	switch {
	case isLive && isStopped:
		return "", false, fmt.Errorf("find database %q: %q is there too; which of them is the component's state?", n, n+stopped)
	case isLive:
		return n, true, nil
	case isStopped:
		return n + stopped, false, nil
	}
	return "", false, nil
}

// Create makes the database and loads the package's *.sql.
func (m *Module) Create(ctx context.Context, in activate.Instance) error {
	if name, _, err := m.present(ctx, in); err != nil || name != "" {
		return err
	}
	files, err := ledger.PackageFiles(in, ".sql", maxSchema)
	if err != nil {
		return err
	}
	s := serverOf(in.Settings)
	return m.make(ctx, in, "", func(name string) error {
		return served.LoadFiles(files, func(r io.Reader) error { return s.run(ctx, name, r, false) })
	})
}

// make makes a database with options, has fill fill it, and puts it in the place of the state, all or nothing: names
// are changed in one transaction.
func (m *Module) make(ctx context.Context, in activate.Instance, options string, fill func(name string) error) error {
	n, s := database(in), serverOf(in.Settings)
	if err := m.Made(in); err != nil {
		return err
	}
	fresh := identifier(n + loading)
	_, err := s.ask(ctx, drop(n+loading)+fmt.Sprintf("CREATE DATABASE %s TEMPLATE template0 %s;", fresh, options))
	if err != nil {
		return fmt.Errorf("make database %q: %w", n, err)
	}
	if err := fill(n + loading); err != nil {
		_, dropping := s.ask(context.WithoutCancel(ctx), drop(n+loading))
		return errors.Join(err, dropping)
	}
	there, err := s.databases(ctx, n)
	if err != nil {
		return err
	}
	swap := fmt.Sprintf("ALTER DATABASE %s RENAME TO %s;", fresh, identifier(n+stopped))
	if _, ok := there[n+stopped]; ok {
		swap = fmt.Sprintf("ALTER DATABASE %s RENAME TO %s;", identifier(n+stopped), identifier(n+old)) + swap
	}
	_, err = s.ask(ctx, drop(n+old)+"BEGIN;"+swap+"COMMIT;"+drop(n+old))
	if err != nil {
		return fmt.Errorf("replace database %q: %w", n, err)
	}
	return nil
}

func drop(name string) string {
	return fmt.Sprintf("SET client_min_messages = error; DROP DATABASE IF EXISTS %s WITH (FORCE);", identifier(name))
}

// Start makes the database reachable.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	err := served.Await(ctx, in.Spec.ReadyWithin(), func() error {
		_, err := serverOf(in.Settings).databases(ctx, database(in))
		return err
	})
	if err != nil {
		return err
	}
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	name, live, err := m.present(ctx, in)
	if err != nil {
		return err
	}
	if err := m.Activate(in); err != nil {
		return err
	}
	n := identifier(database(in))
	var statements string
	if !live {
		statements = fmt.Sprintf("ALTER DATABASE %s RENAME TO %s;", identifier(name), n)
	}
	if _, err := serverOf(in.Settings).ask(ctx, statements+fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true;", n)); err != nil {
		return fmt.Errorf("start database %q: %w", database(in), err)
	}
	return nil
}

// Stop admits no more connections, ends those that there are, and renames the database.
func (m *Module) Stop(ctx context.Context, in activate.Instance) error {
	if own, err := m.Owns(in); err != nil || !own {
		return err
	}
	name, live, err := m.present(ctx, in)
	if err != nil {
		return err
	}
	if live && name != "" {
		// What was never activated here is somebody's own.
		if active, err := m.IsActive(in); err != nil || !active {
			return err
		}
		if err := m.close(ctx, in); err != nil {
			return fmt.Errorf("stop database %q: %w", name, err)
		}
	}
	return m.Deactivate(in)
}

func (m *Module) close(ctx context.Context, in activate.Instance) error {
	n, s := database(in), serverOf(in.Settings)
	end := time.Now().Add(in.Spec.StopGrace())
	for {
		_, err := s.ask(ctx, fmt.Sprintf(`ALTER DATABASE %[1]s ALLOW_CONNECTIONS false;
			SELECT json_build_array(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = %[3]s;
			ALTER DATABASE %[1]s RENAME TO %[2]s;`, identifier(n), identifier(n+stopped), literal(n)))
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// Load puts what the payload holds in the place of the state.
func (m *Module) Load(ctx context.Context, in activate.Instance, p activate.Payload) error {
	if name, live, err := m.present(ctx, in); err != nil {
		return err
	} else if live {
		return fmt.Errorf("load database %q: it is live", name)
	}
	s := serverOf(in.Settings)
	all, err := served.ReadList[role](filepath.Join(p.Dir, rolesFile))
	if err != nil {
		return err
	}
	f, err := os.Open(filepath.Join(p.Dir, dumpFile))
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := scan(f, io.Discard); err != nil {
		return fmt.Errorf("load database %q: %w", database(in), err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := s.ask(ctx, roles(all).create()); err != nil {
		return fmt.Errorf("make roles: %w", err)
	}
	guard, err := s.restrict(ctx)
	if err != nil {
		return err
	}
	return m.make(ctx, in, createOptions(p.Facts), func(name string) error {
		err := s.run(ctx, name, io.MultiReader(strings.NewReader(guard), f), true)
		if err != nil {
			return fmt.Errorf("load database %q: %w", database(in), err)
		}
		return nil
	})
}

// createOptions are those of the database that was dumped.
func createOptions(facts map[string]string) string {
	var all []string
	for fact, option := range map[string]string{"encoding": "ENCODING", "collate": "LC_COLLATE", "ctype": "LC_CTYPE"} {
		if v := facts[fact]; v != "" {
			all = append(all, option+" "+literal(v))
		}
	}
	return strings.Join(all, " ")
}

// Verify counts again.
func (m *Module) Verify(ctx context.Context, in activate.Instance, p activate.Payload) error {
	name, _, err := m.present(ctx, in)
	if err != nil {
		return err
	}
	if name == "" {
		return fmt.Errorf("verify database %q: it is not there", database(in))
	}
	t, err := begin(ctx, serverOf(in.Settings), name)
	if err != nil {
		return fmt.Errorf("verify database %q: %w", name, err)
	}
	if err := t.end(); err != nil {
		return err
	}
	return activate.CompareFacts(p.Facts, t.facts)
}

// Delete drops the database, if it is garbage.
func (m *Module) Delete(ctx context.Context, in activate.Instance) error {
	n := database(in)
	there, err := serverOf(in.Settings).databases(ctx, n)
	if err != nil {
		return err
	}
	if len(there) > 0 {
		if err := m.Deletable(in); err != nil {
			return err
		}
		if _, live := there[n]; live {
			return &activate.NotGarbageError{Service: in.Service, Reason: "its database is live"}
		}
		if _, err := serverOf(in.Settings).ask(ctx, drop(n+loading)+drop(n+old)+drop(n+stopped)); err != nil {
			return fmt.Errorf("drop database %q: %w", n, err)
		}
	}
	return m.Deleted(in)
}

// role is a role that objects of a database belong to or grant something to.
type role struct {
	Name  string `json:"name"`
	Login bool   `json:"login"`
}

type roles []role

// create makes the roles that are not there. They have no passwords: those are no part of a database.
func (rs roles) create() string {
	var b strings.Builder
	for _, r := range rs {
		login := "NOLOGIN"
		if r.Login {
			login = "LOGIN"
		}
		fmt.Fprintf(&b, "SELECT %s WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %s) \\gexec\n",
			literal("CREATE ROLE "+identifier(r.Name)+" "+login), literal(r.Name))
	}
	return b.String()
}

// Available says why the programs that the module needs are not on this machine; nil if they are. Those that a service's
// settings name are not looked for. Whether a server runs is not asked.
func Available() error {
	_, err := tool.Find("psql", installed()...)
	if err == nil {
		_, err = tool.Find("pg_dump", installed()...)
	}
	return err
}
