package sqlite

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strconv"
	"strings"

	driver "modernc.org/sqlite"
)

const (
	pagesAStep   = 2048    // between two looks at whether to go on
	maxTables    = 1000    // whose rows are facts by name
	busyMillisec = "30000" // for somebody else's write to end
)

// database is one connection: SQLite's transactions and its backup belong to one.
type database struct {
	pool *sql.DB
	conn *sql.Conn
}

// open opens the database at path, as mode says: ro, rwc (it is made if absent), rw. What is not a regular file is
// refused: the directory is its users', who could have put a link there.
func open(ctx context.Context, path, mode string) (*database, error) {
	for _, beside := range []string{"", "-journal", "-wal", "-shm"} {
		fi, err := os.Lstat(path + beside)
		if err == nil && !fi.Mode().IsRegular() {
			err = errors.New("not a regular file")
		}
		if err != nil && (!errors.Is(err, fs.ErrNotExist) || beside == "" && mode != "rwc") {
			return nil, fmt.Errorf("open database %q: %w", path+beside, err)
		}
	}
	u := url.URL{Scheme: "file", Path: path, RawQuery: "mode=" + mode + "&_pragma=busy_timeout(" + busyMillisec + ")&_pragma=trusted_schema(0)"}
	pool, err := sql.Open("sqlite", u.String())
	if err != nil {
		return nil, err
	}
	conn, err := pool.Conn(ctx)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %q: %w", path, err), pool.Close())
	}
	return &database{pool, conn}, nil
}

// close may be called again.
func (d *database) close() error {
	if d.pool == nil {
		return nil
	}
	err := errors.Join(d.conn.Close(), d.pool.Close())
	d.pool = nil
	return err
}

func (d *database) exec(ctx context.Context, statements string) error {
	_, err := d.conn.ExecContext(ctx, statements)
	return err
}

func (d *database) text(ctx context.Context, query string) (string, error) {
	var s string
	err := d.conn.QueryRowContext(ctx, query).Scan(&s)
	return s, err
}

// backup copies the database from as one transaction sees it to the new file to, and returns the facts about the copy.
func backup(ctx context.Context, from, to string) (map[string]string, error) {
	db, err := open(ctx, from, "rw") // rw: what a dead writer left in a log is brought in
	if err != nil {
		return nil, err
	}
	defer db.close()
	// The transaction keeps writers from making the copy start again and again. Its first read begins it.
	if err := db.exec(ctx, "BEGIN"); err != nil {
		return nil, err
	}
	if _, err := db.text(ctx, "SELECT count(*) FROM sqlite_schema"); err != nil {
		return nil, err
	}
	pages, err := db.text(ctx, "SELECT page_count || ' pages of ' || page_size FROM pragma_page_count, pragma_page_size")
	if err != nil {
		return nil, err
	}
	if err := db.conn.Raw(func(c any) error { return copyPages(ctx, c, to) }); err != nil {
		return nil, fmt.Errorf("copy pages: %w", err)
	}
	if err := errors.Join(db.exec(ctx, "ROLLBACK"), db.close()); err != nil {
		return nil, err
	}
	facts, err := examine(ctx, to, "ro&immutable=1")
	if err == nil && facts["size"] != pages {
		err = fmt.Errorf("the copy has %s, the database %s", facts["size"], pages)
	}
	return facts, err
}

type backuper interface {
	NewBackup(to string) (*driver.Backup, error)
}

func copyPages(ctx context.Context, conn any, to string) error {
	b, err := conn.(backuper).NewBackup((&url.URL{Scheme: "file", Path: to}).String())
	if err != nil {
		return err
	}
	for more := true; more && err == nil; {
		if more, err = b.Step(pagesAStep); err == nil {
			err = context.Cause(ctx)
		}
	}
	return errors.Join(err, b.Finish())
}

// examine checks the database's integrity and returns its size, the digest of its schema and the rows of each table.
func examine(ctx context.Context, path, mode string) (map[string]string, error) {
	db, err := open(ctx, path, mode)
	if err != nil {
		return nil, err
	}
	defer db.close()
	// An application's own functions and tables cannot be had here: such statements cannot be checked.
	if verdict, err := db.text(ctx, "PRAGMA integrity_check(1)"); err != nil {
		return nil, fmt.Errorf("check integrity: %w", err)
	} else if verdict != "ok" {
		return nil, fmt.Errorf("check integrity: %s", verdict)
	}
	facts := map[string]string{}
	if facts["size"], err = db.text(ctx, "SELECT page_count || ' pages of ' || page_size FROM pragma_page_count, pragma_page_size"); err != nil {
		return nil, err
	}
	schema, tables, err := db.schema(ctx)
	if err != nil {
		return nil, err
	}
	facts["schema"] = schema
	facts["tables"] = strconv.Itoa(len(tables))
	return facts, db.count(ctx, tables, facts)
}

// schema returns the digest of the schema and the names of the ordinary tables.
func (d *database) schema(ctx context.Context) (digest string, tables []string, err error) {
	rows, err := d.conn.QueryContext(ctx, "SELECT type, name, coalesce(sql, '') FROM sqlite_schema ORDER BY type, name")
	if err != nil {
		return "", nil, err
	}
	defer rows.Close()
	h := sha256.New()
	for rows.Next() {
		var kind, name, text string
		if err := rows.Scan(&kind, &name, &text); err != nil {
			return "", nil, err
		}
		fmt.Fprintf(h, "%q %q %q\n", kind, name, text)
		if kind == "table" && !strings.HasPrefix(strings.ToUpper(text), "CREATE VIRTUAL") {
			tables = append(tables, name)
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), tables, rows.Err()
}

func (d *database) count(ctx context.Context, tables []string, facts map[string]string) error {
	for i, name := range tables {
		if i == maxTables {
			return nil
		}
		n, err := d.text(ctx, "SELECT count(*) FROM "+quote(name))
		if err != nil {
			return fmt.Errorf("count the rows of %q: %w", name, err)
		}
		facts["rows."+name] = n
	}
	return nil
}

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }
