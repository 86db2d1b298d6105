package postgresql

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/served"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

// server is how to reach a PostgreSQL server, from the settings.
type server struct {
	user, password, port, socket string
	dirs                         []string // of its programs
}

func serverOf(settings map[string]string) server {
	return server{
		user:     cmp.Or(settings["postgresqlUsername"], "postgres"),
		password: settings["postgresqlPassword"],
		port:     cmp.Or(settings["postgresqlPort"], "5432"),
		socket:   cmp.Or(settings["postgresqlRuntimeDir"], "/var/run/postgresql"),
		dirs:     append([]string{settings["postgresqlPrograms"]}, installed()...),
	}
}

// installed are the directories where Debian has the programs, of the newest version first. pg_dump must not be older
// than the server.
func installed() []string {
	dirs, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	version := func(dir string) int {
		v, _ := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		return v
	}
	slices.SortFunc(dirs, func(a, b string) int { return version(b) - version(a) })
	return dirs
}

// command runs a program of PostgreSQL's on database. What could be secret or misread is in the environment.
func (s server) command(database, program string, args ...string) tool.Command {
	env := []string{"PGHOST=" + s.socket, "PGPORT=" + s.port, "PGUSER=" + s.user, "PGDATABASE=" + database, "PGCONNECT_TIMEOUT=10",
		"PGCLIENTENCODING=UTF8", "PGAPPNAME=isonomia", "PGPASSFILE=/nonexistent", "PGSERVICEFILE=/nonexistent"}
	if s.password != "" {
		env = append(env, "PGPASSWORD="+s.password)
	}
	return tool.Command{Program: program, Dirs: s.dirs, Args: args, Env: env, User: tool.LookupUser(s.user), Timeout: served.AskTimeout}
}

// psql runs SQL on database, from its stdin; any error ends it.
func (s server) psql(database string, args ...string) tool.Command {
	return s.command(database, "psql", append([]string{"--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"}, args...)...)
}

// ask runs statements on the maintenance database, and decodes each line of the answer, a JSON array.
func (s server) ask(ctx context.Context, statements string) ([]served.Row, error) {
	c := s.psql("postgres")
	c.Stdin = strings.NewReader(statements)
	out, err := tool.Output(ctx, c)
	if err != nil {
		return nil, err
	}
	return served.Rows(out)
}

// run runs statements from r on database; together says in one transaction.
func (s server) run(ctx context.Context, database string, r io.Reader, together bool) error {
	c := s.psql(database)
	if together {
		c.Args = append(c.Args, "--single-transaction")
	}
	c.Stdin, c.Timeout = r, served.LoadTimeout
	return tool.Run(ctx, c)
}

// states of a component's databases: those that exist, and whether they admit connections.
func (s server) databases(ctx context.Context, name string) (map[string]bool, error) {
	rows, err := s.ask(ctx, fmt.Sprintf("SELECT json_build_array(datname, datallowconn) FROM pg_database WHERE datname IN (%s, %s, %s, %s);",
		literal(name), literal(name+stopped), literal(name+loading), literal(name+old)))
	if err != nil {
		return nil, err
	}
	all := map[string]bool{}
	for _, r := range rows {
		all[r.Text(0)] = r.Text(1) == "true"
	}
	return all, nil
}

// identifier and literal quote, whatever standard_conforming_strings says.
func identifier(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

func literal(s string) string {
	return `E'` + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + `'`
}

// Outputs are what a dependent needs to connect: `database`, `user`, `port`, and `socket`, the directory of the server's
// socket, which holds on the instance's node only.
func Outputs(in activate.Instance) map[string]string {
	s := serverOf(in.Settings)
	return map[string]string{"database": database(in), "user": s.user, "port": s.port, "socket": s.socket}
}

func database(in activate.Instance) string {
	return cmp.Or(in.Settings["postgresqlDatabase"], in.Service)
}
