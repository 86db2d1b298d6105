package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/ncruces/go-sqlite3/driver" // SQLite without cgo
)

// table is the one table of a data service's database.
type table struct {
	db      *sql.DB
	name    string
	key     string // the single column of the primary key
	columns []column
	seeded  bool // the scripts ran during this start
}

// column is one column of the table, in the order of its definition.
type column struct {
	name    string
	integer bool
}

// openTable opens the database file at path. A new database gets the tables
// and rows of the *.sql files in scripts, in name order and in one
// transaction; a database that has them is left as it is. It must then hold
// exactly one table, whose primary key is one column.
func openTable(ctx context.Context, path string, scripts fs.FS) (*table, error) {
	db, err := openDatabase(ctx, path)
	if err != nil {
		return nil, err
	}
	t := &table{db: db}
	if err := t.prepare(ctx, scripts); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %q: %w", path, err), db.Close())
	}
	return t, nil
}

func (t *table) prepare(ctx context.Context, scripts fs.FS) error {
	seeded, err := seed(ctx, t.db, scripts)
	if err != nil {
		return err
	}
	t.seeded = seeded
	return t.describe(ctx)
}

// openDatabase opens or creates the file with a write-ahead log that is
// fsynced at each commit. One connection is enough: a request takes less
// than a millisecond, and it spares us from answering "database is locked".
func openDatabase(ctx context.Context, path string) (*sql.DB, error) {
	pragmas := "?_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=synchronous(full)&_txlock=immediate"
	name := url.URL{Scheme: "file", Path: path}
	db, err := sql.Open("sqlite3", name.String()+pragmas)
	if err != nil {
		return nil, fmt.Errorf("open database %q: %w", path, err)
	}
	db.SetMaxOpenConns(1)
	var mode string
	err = db.QueryRowContext(ctx, "PRAGMA journal_mode").Scan(&mode)
	if err == nil && mode != "wal" {
		err = fmt.Errorf("journal mode is %q, not wal", mode)
	}
	if err == nil {
		err = syncDirectory(filepath.Dir(path)) // the new file's name must last too
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %q: %w", path, err), db.Close())
	}
	return db, nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// seed runs the scripts in a database that has not seen them, and marks it
// in the same transaction: a crash leaves all of it or nothing. A row that
// was deleted later therefore does not come back at the next start.
func seed(ctx context.Context, db *sql.DB, scripts fs.FS) (bool, error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()
	var version int
	if err := tx.QueryRowContext(ctx, "PRAGMA user_version").Scan(&version); err != nil || version > 0 {
		return false, err
	}
	names, err := fs.Glob(scripts, "*.sql")
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if err := runScript(ctx, tx, scripts, name); err != nil {
			return false, err
		}
	}
	if _, err := tx.ExecContext(ctx, "PRAGMA user_version = 1"); err != nil {
		return false, err
	}
	return true, tx.Commit()
}

func runScript(ctx context.Context, tx *sql.Tx, scripts fs.FS, name string) error {
	script, err := fs.ReadFile(scripts, name)
	if err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, string(script)); err != nil {
		return fmt.Errorf("run script %q: %w", name, err)
	}
	return nil
}

// describe reads the definition of the one table.
func (t *table) describe(ctx context.Context) error {
	var tables int
	err := t.db.QueryRowContext(ctx, `SELECT count(*), coalesce(max(name), '') FROM sqlite_schema
		WHERE type = 'table' AND name NOT LIKE 'sqlite\_%' ESCAPE '\'`).Scan(&tables, &t.name)
	if err != nil {
		return err
	}
	if tables != 1 {
		return fmt.Errorf("%d tables where there must be one (are the *.sql files in place?)", tables)
	}
	rows, err := t.db.QueryContext(ctx, "SELECT name, type, pk FROM pragma_table_info(?)", t.name)
	if err != nil {
		return err
	}
	defer rows.Close()
	keys := 0
	for rows.Next() {
		var name, kind string
		var pk int
		if err := rows.Scan(&name, &kind, &pk); err != nil {
			return err
		}
		if pk > 0 {
			keys++
			t.key = name
		}
		t.columns = append(t.columns, column{name: name, integer: strings.EqualFold(kind, "INTEGER")})
	}
	if keys != 1 {
		return fmt.Errorf("table %q: %d columns in its primary key, where there must be one", t.name, keys)
	}
	return rows.Err()
}

func (t *table) close() error { return t.db.Close() }
