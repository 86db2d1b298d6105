package postgresql

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	loadTimeout = 6 * time.Hour    // for a dump, a load, and the scripts of a package
	askTimeout  = 30 * time.Second // for everything else
)

// server is how to reach a PostgreSQL server, from the settings.
type server struct {
	user, password, port, socket string
	dirs                         []string // of its programs
}

func serverOf(settings map[string]string) server {
	s := server{
		user:     cmp.Or(settings["postgresqlUsername"], "postgres"),
		password: settings["postgresqlPassword"],
		port:     cmp.Or(settings["postgresqlPort"], "5432"),
		socket:   cmp.Or(settings["postgresqlRuntimeDir"], "/var/run/postgresql"),
	}
	if d := settings["postgresqlPrograms"]; d != "" {
		s.dirs = []string{d}
	}
	s.dirs = append(s.dirs, installed()...)
	return s
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
	return tool.Command{Program: program, Dirs: s.dirs, Args: args, Env: env, User: tool.LookupUser(s.user), Timeout: askTimeout}
}

// psql runs SQL on database, from its stdin; any error ends it.
func (s server) psql(database string, args ...string) tool.Command {
	return s.command(database, "psql", append([]string{"--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", "--file=-"}, args...)...)
}

// ask runs statements on the maintenance database, and decodes each line of the answer, a JSON array.
func (s server) ask(ctx context.Context, statements string) ([][]any, error) {
	c := s.psql("postgres")
	c.Stdin = strings.NewReader(statements)
	out, err := tool.Output(ctx, c)
	if err != nil {
		return nil, err
	}
	return decode(out)
}

func decode(out string) ([][]any, error) {
	var rows [][]any
	for line := range strings.Lines(out) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var row []any
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			return nil, fmt.Errorf("read answer %.100q: %w", line, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// run runs statements from r on database; together says in one transaction.
func (s server) run(ctx context.Context, database string, r io.Reader, together bool) error {
	c := s.psql(database)
	if together {
		c.Args = append(c.Args, "--single-transaction")
	}
	c.Stdin, c.Timeout = r, loadTimeout
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
		if len(r) != 2 {
			return nil, fmt.Errorf("read answer: %d columns", len(r))
		}
		n, ok1 := r[0].(string)
		admits, ok2 := r[1].(bool)
		if !ok1 || !ok2 {
			return nil, fmt.Errorf("read answer: %v", r)
		}
		all[n] = admits
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
