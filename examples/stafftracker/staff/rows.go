package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ncruces/go-sqlite3"
)

// row is one row as it travels: a value per column name. A value is a
// string, an int64 or nil.
type row map[string]any

// maxRows bounds what list returns.
const maxRows = 10_000

var (
	errNoRow   = errors.New("no such row")
	errTaken   = errors.New("a row with this key exists")
	errInvalid = errors.New("invalid row")
)

// list returns all rows in the order of their keys.
func (t *table) list(ctx context.Context) ([]row, error) {
	return t.query(ctx, "SELECT "+t.names()+" FROM "+quote(t.name)+
		" ORDER BY "+quote(t.key)+fmt.Sprintf(" LIMIT %d", maxRows))
}

// get returns the row with that key, or errNoRow.
func (t *table) get(ctx context.Context, key string) (row, error) {
	return one(t.query(ctx, "SELECT "+t.names()+" FROM "+quote(t.name)+
		" WHERE "+quote(t.key)+" = ?", key))
}

// insert adds a row and returns it as it was stored, with the key that an
// integer key without a value was given.
func (t *table) insert(ctx context.Context, r row) (row, error) {
	if err := t.check(r); err != nil {
		return nil, err
	}
	values, marks := make([]any, len(t.columns)), make([]string, len(t.columns))
	for i, c := range t.columns {
		values[i], marks[i] = r[c.name], "?"
	}
	return one(t.query(ctx, "INSERT INTO "+quote(t.name)+" ("+t.names()+") VALUES ("+
		strings.Join(marks, ", ")+") RETURNING "+t.names(), values...))
}

// update replaces the row with that key by r and returns it, or errNoRow.
// A key inside r is ignored.
func (t *table) update(ctx context.Context, key string, r row) (row, error) {
	if err := t.check(r); err != nil {
		return nil, err
	}
	var sets []string
	var values []any
	for _, c := range t.columns {
		if c.name != t.key {
			sets, values = append(sets, quote(c.name)+" = ?"), append(values, r[c.name])
		}
	}
	return one(t.query(ctx, "UPDATE "+quote(t.name)+" SET "+strings.Join(sets, ", ")+
		" WHERE "+quote(t.key)+" = ? RETURNING "+t.names(), append(values, key)...))
}

// remove deletes the row with that key, or returns errNoRow.
func (t *table) remove(ctx context.Context, key string) error {
	_, err := one(t.query(ctx, "DELETE FROM "+quote(t.name)+
		" WHERE "+quote(t.key)+" = ? RETURNING "+t.names(), key))
	return err
}

// ping reads from the table, so that a database that became unreadable shows.
func (t *table) ping(ctx context.Context) error {
	var one int
	err := t.db.QueryRowContext(ctx, "SELECT 1 FROM "+quote(t.name)+" LIMIT 1").Scan(&one)
	if errors.Is(err, sql.ErrNoRows) {
		return nil // an empty table is healthy
	}
	return err
}

// query runs a statement to its end, which commits it, and returns the rows
// that it gave.
func (t *table) query(ctx context.Context, statement string, args ...any) ([]row, error) {
	rows, err := t.db.QueryContext(ctx, statement, args...)
	if err != nil {
		return nil, explain(err)
	}
	defer rows.Close()
	found := []row{}
	for rows.Next() {
		values, into := make([]any, len(t.columns)), make([]any, len(t.columns))
		for i := range values {
			into[i] = &values[i]
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		r := row{}
		for i, c := range t.columns {
			r[c.name] = values[i]
		}
		found = append(found, r)
	}
	return found, explain(errors.Join(rows.Err(), rows.Close()))
}

// one is the single row of a result.
func one(rows []row, err error) (row, error) {
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errNoRow
	}
	return rows[0], nil
}

// explain turns SQLite's refusals into ours.
func explain(err error) error {
	switch {
	case errors.Is(err, sqlite3.CONSTRAINT_PRIMARYKEY), errors.Is(err, sqlite3.CONSTRAINT_UNIQUE):
		return errTaken
	case errors.Is(err, sqlite3.CONSTRAINT):
		return fmt.Errorf("%w: %w", errInvalid, err)
	}
	return err
}

// check refuses fields that are no column and values of the wrong type, and
// brings numbers into the form that the database takes.
func (t *table) check(r row) error {
	known := map[string]column{}
	for _, c := range t.columns {
		known[c.name] = c
	}
	for name, v := range r {
		c, ok := known[name]
		if !ok {
			return fmt.Errorf("%w: no column %q", errInvalid, name)
		}
		value, err := c.value(v)
		if err != nil {
			return err
		}
		r[name] = value
	}
	return nil
}

// value is v as the column takes it.
func (c column) value(v any) (any, error) {
	switch x := v.(type) {
	case nil:
		return nil, nil
	case string:
		if !c.integer {
			return x, nil
		}
	case json.Number:
		if n, err := x.Int64(); err == nil && c.integer {
			return n, nil
		}
	}
	want := "a string"
	if c.integer {
		want = "an integer"
	}
	return nil, fmt.Errorf("%w: column %q needs %s", errInvalid, c.name, want)
}

// names are the quoted columns, separated by commas.
func (t *table) names() string {
	quoted := make([]string, len(t.columns))
	for i, c := range t.columns {
		quoted[i] = quote(c.name)
	}
	return strings.Join(quoted, ", ")
}

// quote makes an SQL identifier of a name.
func quote(name string) string {
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}
