package mysql

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/served"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const quiet = "--loose-skip-print-query-on-error" // statements hold data, and digests of passwords

// server is how to reach a MariaDB server, from the settings.
type server struct {
	user, password, socket string
	dirs                   []string // of its programs
}

func serverOf(settings map[string]string) server {
	return server{
		user:     cmp.Or(settings["mysqlUsername"], "root"),
		password: settings["mysqlPassword"],
		socket:   cmp.Or(settings["mysqlSocket"], "/run/mysqld/mysqld.sock"),
		dirs:     []string{settings["mysqlPrograms"]},
	}
}

// command runs a program of MariaDB's. The password is in its environment.
func (s server) command(program string, args ...string) tool.Command {
	all := []string{"--no-defaults", "--socket=" + s.socket, "--user=" + s.user, "--default-character-set=utf8mb4"}
	var env []string
	if s.password != "" {
		env = []string{"MYSQL_PWD=" + s.password}
	}
	return tool.Command{Program: program, Dirs: s.dirs, Args: append(all, args...), Env: env, User: tool.LookupUser(s.user), Timeout: served.AskTimeout}
}

// ask runs statements, of which each but the last ends in a semicolon, and decodes each line of the answer, a JSON
// array. A statement that fails is the end of it.
func (s server) ask(ctx context.Context, statements string) ([]served.Row, error) {
	c := s.command("mariadb", "--batch", "--raw", "--skip-column-names", "--connect-timeout=10", quiet, "--database=mysql")
	c.Stdin = strings.NewReader("SET SESSION sql_mode = '';\n" + statements)
	out, err := tool.Output(ctx, c)
	if err != nil {
		return nil, err
	}
	return served.Rows(out)
}

// texts runs one statement whose answer is lines of text.
func (s server) texts(ctx context.Context, statement string) ([]string, error) {
	c := s.command("mariadb", "--batch", "--raw", "--skip-column-names", "--connect-timeout=10", quiet, "--database=mysql")
	c.Stdin = strings.NewReader(statement)
	out, err := tool.Output(ctx, c)
	return strings.Split(strings.TrimSuffix(out, "\n"), "\n"), err
}

// run runs statements from r in database. In binary mode the client runs no commands of its own, which a dump must not
// be able to give.
func (s server) run(ctx context.Context, database string, r io.Reader) error {
	c := s.command("mariadb", "--batch", "--binary-mode", "--connect-timeout=10", quiet, "--max-allowed-packet=1G", "--database="+database)
	c.Stdin, c.Timeout = r, served.LoadTimeout
	return tool.Run(ctx, c)
}

// databases says which of the component's are there.
func (s server) databases(ctx context.Context, name string) (map[string]bool, error) {
	rows, err := s.ask(ctx, fmt.Sprintf("SELECT JSON_ARRAY(SCHEMA_NAME) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME IN (%s, %s, %s);",
		literal(name), literal(name+making), literal(name+loading)))
	all := map[string]bool{}
	for _, r := range rows {
		all[r.Text(0)] = true
	}
	return all, err
}

func identifier(s string) string { return "`" + strings.ReplaceAll(s, "`", "``") + "`" }

func literal(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'"
}

// account quotes a user and a host.
func account(user, host string) string { return identifier(user) + "@" + identifier(host) }

// Grants on a database are rows whose Db is a pattern: a name, in which _ and % may be escaped. plain is what such an
// expression means if it is no pattern.
func plain(column string) string {
	return `REPLACE(REPLACE(` + column + `, '\\_', '_'), '\\%', '%')`
}

const suffix = ".stopped" // of Db, for grants that are withheld

// hide withholds every grant on the database: its rows get the name of a database that is not there.
func hide(name string) string { return move(name, "", suffix) }

// show gives the grants back.
func show(name string) string { return move(name, suffix, "") }

func move(name, from, to string) string {
	var b strings.Builder
	match := func(column string) string { return plain(column) + " = " + literal(name+from) }
	stem := fmt.Sprintf("LEFT(Db, CHAR_LENGTH(Db) - %d)", len(from))
	// What was granted meanwhile goes: the grants that are moved are those that count.
	fmt.Fprintf(&b, "DELETE a FROM mysql.db a JOIN mysql.db b ON a.User = b.User AND a.Host = b.Host AND a.Db = CONCAT(%s, %s) WHERE %s;\n",
		strings.ReplaceAll(stem, "Db", "b.Db"), literal(to), match("b.Db"))
	for _, table := range []string{"db", "tables_priv", "columns_priv", "procs_priv"} {
		fmt.Fprintf(&b, "UPDATE mysql.%s SET Db = CONCAT(%s, %s) WHERE %s;\n", table, stem, literal(to), match("Db"))
	}
	return b.String() + "FLUSH PRIVILEGES;\n"
}

// forget removes the grants that are withheld.
func forget(name string) string {
	var b strings.Builder
	for _, table := range []string{"db", "tables_priv", "columns_priv", "procs_priv"} {
		fmt.Fprintf(&b, "DELETE FROM mysql.%s WHERE %s = %s;\n", table, plain("Db"), literal(name+suffix))
	}
	return b.String() + "FLUSH PRIVILEGES;\n"
}

// patterns returns an error if an account has privileges on databases of names like this one's, which cannot be
// withheld for one of them.
func (s server) patterns(ctx context.Context, name string) error {
	rows, err := s.ask(ctx, fmt.Sprintf("SELECT JSON_ARRAY(User, Host, Db) FROM mysql.db WHERE %s LIKE Db AND %s <> %[1]s;", literal(name), plain("Db")))
	if err == nil && len(rows) > 0 {
		err = fmt.Errorf("%s has privileges on databases like %q: they cannot be withheld for %q alone", account(rows[0].Text(0), rows[0].Text(1)), rows[0].Text(2), name)
	}
	return err
}

// sessions are those that use the database, or belong to an account that is granted something on it, itself or by a
// role: such a one could commit what it began.
func sessions(name string) string {
	granted := fmt.Sprintf("SELECT User FROM mysql.db WHERE %s IN (%s, %s)", plain("Db"), literal(name), literal(name+suffix))
	return fmt.Sprintf(`SELECT JSON_ARRAY(ID) FROM information_schema.PROCESSLIST WHERE ID <> CONNECTION_ID() AND USER <> 'system user' AND COMMAND NOT IN ('Daemon', 'Binlog Dump')
	AND (DB = %s OR USER IN (%s) OR USER IN (SELECT User FROM mysql.roles_mapping WHERE Role IN (%[2]s)));`, literal(name), granted)
}

// endSessions kills the sessions and waits until they are gone.
func (s server) endSessions(ctx context.Context, name string, patience time.Duration) error {
	end := time.Now().Add(patience)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		rows, err := s.ask(ctx, sessions(name))
		if err != nil || len(rows) == 0 {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d sessions do not end", len(rows))
		}
		for _, r := range rows {
			// One that has ended by now is an error that means nothing: what is left is seen above.
			if _, err := s.ask(ctx, "KILL CONNECTION "+r.Text(0)+";"); err != nil && ctx.Err() != nil {
				return errors.Join(context.Cause(ctx), err)
			}
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Outputs are what a dependent needs to connect: `database`, and `socket`, which holds on the instance's node only.
// Accounts are the package's or the operator's.
func Outputs(in activate.Instance) map[string]string {
	return map[string]string{"database": database(in), "socket": serverOf(in.Settings).socket}
}

func database(in activate.Instance) string {
	return cmp.Or(in.Settings["mysqlDatabase"], in.Service)
}
