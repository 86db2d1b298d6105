// Package served is what modules have in common whose state is a database on a server that somebody else runs: waiting for
// the server, reading the answers of its client program, counting rows, and the small files beside a dump.
package served

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// AskTimeout is for statements that only ask or rename.
	AskTimeout = 30 * time.Second
	// LoadTimeout is for a dump, a load, and the scripts of a package.
	LoadTimeout = 6 * time.Hour

	askAgain  = 200 * time.Millisecond
	maxTables = 1000 // whose rows are facts by name
)

// Await asks until there is no error, and for so long; then the error is the last one.
func Await(ctx context.Context, within time.Duration, ask func() error) error {
	for end := time.Now().Add(within); ; {
		err := ask()
		if err == nil || time.Now().After(end) {
			return err
		}
		select {
		case <-time.After(askAgain):
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		}
	}
}

// Row is one row of an answer. Statements give rows as JSON arrays, a line each, which no value can be mistaken for.
type Row []any

// Rows decodes an answer.
func Rows(answer string) ([]Row, error) {
	var rows []Row
	for line := range strings.Lines(answer) {
		if strings.TrimSpace(line) == "" {
			continue
		}
		var row Row
		if err := json.Unmarshal([]byte(line), &row); err != nil {
			return nil, fmt.Errorf("read answer %.100q: %w", line, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Text is a field as text; "" if there is none.
func (r Row) Text(i int) string {
	if i >= len(r) {
		return ""
	}
	switch v := r[i].(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	default:
		return fmt.Sprint(v)
	}
}

// Count is a field as a whole number.
func (r Row) Count(i int) (int64, error) { return strconv.ParseInt(r.Text(i), 10, 64) }

// Tally counts the rows of each table.
type Tally map[string]int64

// Facts are `tables`, `rows`, and `rows.TABLE` for the first tables by name, a thousand at most.
func (t Tally) Facts() map[string]string {
	facts, total := map[string]string{"tables": strconv.Itoa(len(t))}, int64(0)
	names := make([]string, 0, len(t))
	for name, n := range t {
		names, total = append(names, name), total+n
	}
	slices.Sort(names)
	for _, name := range names[:min(len(names), maxTables)] {
		facts["rows."+name] = strconv.FormatInt(t[name], 10)
	}
	facts["rows"] = strconv.FormatInt(total, 10)
	return facts
}

// LoadFiles has run load each file, and says in an error which it was.
func LoadFiles(paths []string, run func(io.Reader) error) error {
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		err = run(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %q: %w", path, err)
		}
	}
	return nil
}

const (
	maxList      = 10_000   // entries of a file beside a dump
	maxListBytes = 16 << 20 // of it
)

// WriteList writes what a dump has beside its rows: the same list gives the same bytes.
func WriteList[T any](path string, list []T) error {
	b, err := json.MarshalIndent(list, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o600)
}

// ReadList reads it again.
func ReadList[T any](path string) ([]T, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxListBytes))
	if err != nil {
		return nil, err
	}
	var all []T
	if err := json.Unmarshal(b, &all); err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	if len(all) > maxList {
		return nil, fmt.Errorf("read %q: %d entries, more than %d", path, len(all), maxList)
	}
	return all, nil
}
