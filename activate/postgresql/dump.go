package postgresql

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/served"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	dumpFile  = "dump.sql"
	rolesFile = "roles.json"
	key       = "isonomia" // of \restrict while dumping: the lines are dropped
	maxLine   = 1 << 20    // bytes of an answer
)

// Dump runs pg_dump on the snapshot of a transaction in which the rows of all tables are counted.
func (m *Module) Dump(ctx context.Context, in activate.Instance, dir string, final bool) (activate.Payload, error) {
	name, live, err := m.present(ctx, in)
	if err != nil {
		return activate.Payload{}, err
	}
	if name == "" || final && live {
		return activate.Payload{}, fmt.Errorf("dump database %q: it is absent, or not stopped", database(in))
	}
	s := serverOf(in.Settings)
	if !live { // a stop that did not come to its end
		if _, err := s.ask(ctx, fmt.Sprintf("ALTER DATABASE %s ALLOW_CONNECTIONS true;", identifier(name))); err != nil {
			return activate.Payload{}, err
		}
	}
	facts, err := dump(ctx, s, name, dir)
	if err != nil {
		return activate.Payload{}, fmt.Errorf("dump database %q: %w", name, err)
	}
	return activate.Payload{Dir: dir, Facts: facts}, nil
}

func dump(ctx context.Context, s server, name, dir string) (map[string]string, error) {
	restrict, err := s.restricts(ctx)
	if err != nil {
		return nil, err
	}
	t, err := begin(ctx, s, name)
	if err != nil {
		return nil, err
	}
	rows, err := pgDump(ctx, s, name, filepath.Join(dir, dumpFile), t.snapshot, restrict)
	// The transaction must have lived as long as the dump.
	if err := errors.Join(err, t.end()); err != nil {
		return nil, err
	}
	if want, _ := strconv.ParseInt(t.facts["rows"], 10, 64); rows < want {
		return nil, fmt.Errorf("the dump has %d rows, the database %d", rows, want)
	}
	return t.facts, served.WriteList(filepath.Join(dir, rolesFile), t.roles)
}

// pgDump dumps to path and returns how many rows were written.
func pgDump(ctx context.Context, s server, name, path, snapshot string, restrict bool) (rows int64, err error) {
	c := s.command(name, "pg_dump", "--format=plain", "--encoding=UTF8", "--snapshot="+snapshot, "--no-password")
	c.Timeout = served.LoadTimeout
	if restrict {
		c.Args = append(c.Args, "--restrict-key="+key)
	}
	err = tool.Into(ctx, c, path, func(w io.Writer, r io.Reader) (err error) {
		rows, err = scan(r, w)
		return err
	})
	return rows, err
}

// scan copies a dump from r to w without what differs between two dumps of the same state, and returns how many rows
// of tables it has. A dump that does not end as one does is an error.
func scan(r io.Reader, w io.Writer) (rows int64, err error) {
	in, out := bufio.NewReaderSize(r, 1<<16), bufio.NewWriterSize(w, 1<<16)
	var data, copying, complete, begun bool // a comment announces data; rows follow; the last line was seen; the first
	header := true                          // nothing but comments yet
	for start := true; ; {
		line, err := in.ReadSlice('\n')
		whole := err == nil
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			if !errors.Is(err, io.EOF) {
				return 0, err
			}
			if len(line) > 0 {
				return 0, errors.New("the dump ends in the middle of a line")
			}
			break
		}
		text := bytes.TrimSuffix(line, []byte("\n"))
		switch {
		case !start: // the rest of a long line
		case copying && whole && string(text) == `\.`:
			copying = false
		case copying:
			rows++
		case varies(text, header):
			start = whole
			continue
		case bytes.HasPrefix(text, []byte("-- Data for Name: ")):
			data = true
		case data && bytes.HasPrefix(text, []byte("COPY ")) && bytes.HasSuffix(text, []byte(" FROM stdin;")):
			data, copying = false, true
		case string(text) == "-- PostgreSQL database dump":
			begun = true
		}
		header = header && (len(text) == 0 || bytes.HasPrefix(text, []byte("--")))
		if start && len(text) > 0 && string(text) != "--" {
			complete = !copying && string(text) == "-- PostgreSQL database dump complete"
		}
		if _, err := out.Write(line); err != nil {
			return 0, err
		}
		start = whole
	}
	if !begun || !complete {
		return 0, errors.New("the dump is not complete: its first or its last line is missing")
	}
	return rows, out.Flush()
}

// varies says whether a line tells of the programs and not of the state.
func varies(line []byte, header bool) bool {
	s := string(line[:min(len(line), 100)])
	return s == `\restrict `+key || s == `\unrestrict `+key ||
		header && (strings.HasPrefix(s, "-- Dumped from database version ") || strings.HasPrefix(s, "-- Dumped by pg_dump version "))
}

// restricts says whether these programs know \restrict, which keeps a dump from running programs where it is loaded.
func (s server) restricts(ctx context.Context) (bool, error) {
	out, err := tool.Output(ctx, s.command("postgres", "pg_dump", "--help"))
	return strings.Contains(out, "--restrict-key"), err
}

// restrict is what goes before a dump that is loaded: with a key that the dump cannot have known.
func (s server) restrict(ctx context.Context) (string, error) {
	if ok, err := s.restricts(ctx); err != nil || !ok {
		return "", err
	}
	return `\restrict ` + rand.Text() + "\n", nil
}

// transaction is one that stays open while its snapshot is used.
type transaction struct {
	snapshot string
	facts    map[string]string
	roles    roles
	end      func() error
}

const counting = `BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL search_path = pg_catalog;
SET LOCAL row_security = off;
SELECT json_build_array('snapshot', pg_export_snapshot());
SELECT json_build_array('option', pg_encoding_to_char(encoding), datcollate, datctype) FROM pg_database WHERE datname = current_database();
SELECT json_build_array('role', rolname, rolcanlogin) FROM pg_roles WHERE oid IN (SELECT refobjid FROM pg_shdepend
	WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND refclassid = 'pg_authid'::regclass) ORDER BY rolname;
SELECT format('SELECT json_build_array(''rows'', %L, count(*)) FROM ONLY %I.%I', nspname || '.' || relname, nspname, relname)
	FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
	WHERE relkind = 'r' AND nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
	ORDER BY nspname, relname \gexec
SELECT json_build_array('end');
`

// begin begins a transaction, exports its snapshot and counts in it.
func begin(ctx context.Context, s server, name string) (*transaction, error) {
	stdin, feed, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer stdin.Close()
	out, stdout, err := os.Pipe()
	if err != nil {
		feed.Close()
		return nil, err
	}
	defer stdout.Close()
	c := s.psql(name)
	c.Stdin, c.Stdout, c.Timeout = stdin, stdout, served.LoadTimeout
	t := &transaction{roles: roles{}}
	wait, err := tool.Start(ctx, c)
	if err != nil {
		feed.Close()
		out.Close()
		return nil, err
	}
	t.end = func() error {
		_, _ = io.WriteString(feed, "COMMIT;\n") // fails, in psql, if the server has gone
		feed.Close()
		out.Close()
		return wait()
	}
	stdout.Close() // so that reading ends with psql
	// Shorter than a pipe's buffer.
	if _, err := io.WriteString(feed, counting); err != nil {
		return nil, errors.Join(err, t.end())
	}
	if err := t.read(out); err != nil {
		return nil, errors.Join(err, t.end())
	}
	return t, nil
}

// read reads what counting says, up to its end.
func (t *transaction) read(r io.Reader) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	rows, options := served.Tally{}, map[string]string{}
	for lines.Scan() {
		answer, err := served.Rows(lines.Text())
		if err != nil {
			return err
		}
		for _, row := range answer {
			switch row.Text(0) {
			case "snapshot":
				t.snapshot = row.Text(1)
			case "option":
				options["encoding"], options["collate"], options["ctype"] = row.Text(1), row.Text(2), row.Text(3)
			case "role":
				t.roles = append(t.roles, role{row.Text(1), row.Text(2) == "true"})
			case "rows":
				if rows[row.Text(1)], err = row.Count(2); err != nil {
					return err
				}
			case "end":
				t.facts = rows.Facts()
				maps.Copy(t.facts, options)
				return nil
			}
		}
	}
	return errors.Join(lines.Err(), errors.New("count the rows: psql ended"))
}
