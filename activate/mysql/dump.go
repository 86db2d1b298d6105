package mysql

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/served"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	dumpFile     = "dump.sql"
	accountsFile = "accounts.json"
	maxHead      = 1 << 16 // bytes of a line that are looked at
)

// Dump runs mariadb-dump in one transaction and counts the rows in what it says.
func (m *Module) Dump(ctx context.Context, in activate.Instance, dir string, final bool) (activate.Payload, error) {
	facts, err := m.dump(ctx, in, dir, final)
	if err != nil {
		return activate.Payload{}, fmt.Errorf("dump database %q: %w", database(in), err)
	}
	return activate.Payload{Dir: dir, Facts: facts}, nil
}

func (m *Module) dump(ctx context.Context, in activate.Instance, dir string, final bool) (map[string]string, error) {
	n, s := database(in), serverOf(in.Settings)
	there, complete, err := present(ctx, in)
	if err != nil {
		return nil, err
	}
	live, err := m.IsActive(in)
	if err != nil || !there || !complete || final && live {
		return nil, errors.Join(err, errors.New("it is absent, not complete, or not stopped"))
	}
	accounts, err := s.accounts(ctx, n)
	if err != nil {
		return nil, err
	}
	before, err := count(ctx, s, n)
	if err != nil {
		return nil, err
	}
	rows, err := mariadbDump(ctx, s, n, filepath.Join(dir, dumpFile))
	if err != nil {
		return nil, err
	}
	facts := rows.Facts()
	facts["charset"], facts["collation"] = before["charset"], before["collation"]
	if err := plausible(before, facts, final); err != nil {
		return nil, err
	}
	return facts, served.WriteList(filepath.Join(dir, accountsFile), accounts)
}

// plausible compares what was dumped with what was counted before. Nobody wrote to what is stopped; otherwise tables may
// have gone, or lost rows, meanwhile, but not all of them.
func plausible(before, dumped map[string]string, final bool) error {
	if final {
		return activate.CompareFacts(before, dumped)
	}
	if dumped["rows"] == "0" && before["rows"] != "0" || dumped["tables"] == "0" && before["tables"] != "0" {
		return fmt.Errorf("the dump has %s rows in %s tables, the database %s in %s", dumped["rows"], dumped["tables"], before["rows"], before["tables"])
	}
	return nil
}

func mariadbDump(ctx context.Context, s server, name, path string) (rows served.Tally, err error) {
	// Rows are lines of their own, in the order of the primary key.
	c := s.command("mariadb-dump", "--single-transaction", "--quick", "--routines", "--triggers", "--events", "--hex-blob", "--order-by-primary",
		"--skip-dump-date", "--no-tablespaces", "--max-allowed-packet=1G", "--", name)
	c.Timeout = served.LoadTimeout
	err = tool.Into(ctx, c, path, func(w io.Writer, r io.Reader) (err error) {
		rows, err = scan(r, w)
		return err
	})
	return rows, err
}

const structure = "-- Table structure for table "

// scan copies a dump from r to w without what tells of the programs, and counts the rows of each table. A dump that does
// not end as one does is an error. Strings hold no line ends of their own: they are escaped.
func scan(r io.Reader, w io.Writer) (served.Tally, error) {
	in, out := bufio.NewReaderSize(r, 1<<16), bufio.NewWriterSize(w, 1<<16)
	rows := served.Tally{}
	var table string                   // whose rows follow
	var data, inserting, complete bool // between the comment that announces rows and their end; in a statement of them
	header := true
	for {
		line, long, err := head(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		text := strings.TrimSuffix(string(line[:min(len(line), maxHead)]), "\n")
		header = header && (text == "" || strings.HasPrefix(text, "--") || strings.HasPrefix(text, "/*M!999999"))
		if header && varies(text) && !long {
			continue
		}
		end, err := copyLine(in, out, line, long)
		if err != nil {
			return nil, err
		}
		switch {
		case inserting:
			rows[table]++
			inserting = !bytes.HasSuffix(end, []byte(";\n"))
		case strings.HasPrefix(text, structure):
			if name, _, ok := quoted(text[len(structure):]); ok {
				rows[name] += 0
			}
		case strings.HasPrefix(text, "-- Dumping data for table `"):
			data = true
		case text == "UNLOCK TABLES;":
			data = false
		case data && strings.HasPrefix(text, "INSERT INTO `"): // elsewhere it is a routine's
			name, rest, ok := quoted(text[len("INSERT INTO "):])
			if !ok || !strings.HasPrefix(rest, " ") || !strings.HasSuffix(text, " VALUES") {
				return nil, fmt.Errorf("the dump has rows in a form that is not known: %.100q", text)
			}
			table, inserting = name, true
		}
		if text != "" {
			complete = !inserting && text == "-- Dump completed"
		}
	}
	if !complete {
		return nil, errors.New("the dump is not complete: its last line is missing")
	}
	return rows, out.Flush()
}

// head reads a line, or the beginning of a long one.
func head(in *bufio.Reader) (line []byte, long bool, err error) {
	line, err = in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return line, true, nil
	}
	if errors.Is(err, io.EOF) && len(line) > 0 {
		return nil, false, errors.New("the dump ends in the middle of a line")
	}
	return line, false, err
}

// copyLine copies a line of which the beginning was read, and returns its last bytes.
func copyLine(in *bufio.Reader, out io.Writer, line []byte, long bool) (end []byte, err error) {
	for {
		end = append(end, line[max(0, len(line)-2):]...)
		end = end[max(0, len(end)-2):]
		if _, err := out.Write(line); err != nil || !long {
			return end, err
		}
		if line, long, err = head(in); err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the dump ends in the middle of a line")
			}
			return nil, err
		}
	}
}

// quoted reads an identifier in backquotes.
func quoted(s string) (name, rest string, ok bool) {
	if !strings.HasPrefix(s, "`") {
		return "", "", false
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '`' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 == len(s) || s[i+1] != '`' {
			return b.String(), s[i+1:], true
		}
		i++
		b.WriteByte('`')
	}
	return "", "", false
}

// varies says whether a line of the header tells of the programs and not of the state.
func varies(line string) bool {
	for _, p := range []string{"/*M!999999", "-- MariaDB dump ", "-- Host: ", "-- Server version"} {
		if strings.HasPrefix(line, p) {
			return true
		}
	}
	return false
}

// count counts the rows of all tables in the database.
func count(ctx context.Context, s server, name string) (map[string]string, error) {
	tables, err := s.ask(ctx, fmt.Sprintf(`SELECT JSON_ARRAY('option', DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME = %s;
		SELECT JSON_ARRAY('table', TABLE_NAME) FROM information_schema.TABLES WHERE TABLE_SCHEMA = %[1]s AND TABLE_TYPE IN ('BASE TABLE', 'SYSTEM VERSIONED');`, literal(name)))
	if err != nil {
		return nil, err
	}
	var charset, collation string
	var b strings.Builder
	b.WriteString("START TRANSACTION WITH CONSISTENT SNAPSHOT;\n")
	for _, r := range tables {
		switch r.Text(0) {
		case "option":
			charset, collation = r.Text(1), r.Text(2)
		case "table":
			fmt.Fprintf(&b, "SELECT JSON_ARRAY(%s, COUNT(*)) FROM %s.%s;\n", literal(r.Text(1)), identifier(name), identifier(r.Text(1)))
		}
	}
	counts, err := s.ask(ctx, b.String())
	if err != nil {
		return nil, err
	}
	t := served.Tally{}
	for _, r := range counts {
		if t[r.Text(0)], err = r.Count(1); err != nil {
			return nil, fmt.Errorf("count the rows of %q: %w", r.Text(0), err)
		}
	}
	facts := t.Facts()
	facts["charset"], facts["collation"] = charset, collation
	return facts, nil
}

// grant is what an account may do in the database, and how it is made where it is not there.
type grant struct {
	User       string `json:"user"`
	Host       string `json:"host"`
	Create     string `json:"create"`     // a statement; holds the digest of its password
	Privileges string `json:"privileges"` // as GRANT takes them
	Grantable  bool   `json:"grantable,omitempty"`
}

type grants []grant

// accounts are those that are granted something on the database, roles aside.
func (s server) accounts(ctx context.Context, name string) (grants, error) {
	rows, err := s.ask(ctx, fmt.Sprintf("SELECT JSON_ARRAY(User, Host, Db) FROM mysql.db WHERE Host <> '' AND %s IN (%s, %s) ORDER BY User, Host;",
		plain("Db"), literal(name), literal(name+suffix)))
	if err != nil {
		return nil, err
	}
	all := grants{}
	for _, r := range rows {
		g := grant{User: r.Text(0), Host: r.Text(1)}
		created, err := s.texts(ctx, "SHOW CREATE USER "+account(g.User, g.Host))
		if err != nil {
			return nil, err
		}
		g.Create = strings.Join(created, "\n")
		given, err := s.texts(ctx, "SHOW GRANTS FOR "+account(g.User, g.Host))
		if err != nil {
			return nil, err
		}
		on := " ON " + identifier(r.Text(2)) + ".* TO "
		for _, line := range given {
			if privileges, rest, ok := strings.Cut(strings.TrimPrefix(line, "GRANT "), on); ok {
				g.Privileges, g.Grantable = privileges, strings.HasSuffix(rest, " WITH GRANT OPTION")
				all = append(all, g)
			}
		}
	}
	return all, nil
}

// grant makes the accounts that are not there, and withholds what they are granted until the start.
func (gs grants) grant(name string) string {
	var b strings.Builder
	db := strings.NewReplacer("_", `\_`, "%", `\%`).Replace(name + suffix)
	for _, g := range gs {
		if rest, ok := strings.CutPrefix(g.Create, "CREATE USER "); ok {
			fmt.Fprintf(&b, "CREATE USER IF NOT EXISTS %s;\n", rest)
		}
		option := ""
		if g.Grantable {
			option = " WITH GRANT OPTION"
		}
		fmt.Fprintf(&b, "GRANT %s ON %s.* TO %s%s;\n", g.Privileges, identifier(db), account(g.User, g.Host), option)
	}
	return b.String()
}
