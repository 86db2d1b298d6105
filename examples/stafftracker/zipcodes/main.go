// A data service: one SQLite table behind a small HTTP interface.
//
// The program is the same for rooms, staff and zipcodes. What differs is the
// package's sql directory, which defines the table and fills it the first
// time. The database lies in $STATE_DIRECTORY and survives restarts,
// upgrades and kill -9.
//
//	GET    /rows        all rows, ordered by key
//	GET    /rows/KEY    one row
//	POST   /rows        add a row; the key may be left out if it is an integer
//	PUT    /rows/KEY    replace a row that exists
//	DELETE /rows/KEY    remove a row
//	GET    /healthz     200 while the table can be read
//
// A row is a JSON object with one field per column. A write is answered only
// when it is on disk.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

// run opens the table, serves it until SIGTERM, and closes it, which folds
// the write-ahead log back into the database file.
func run(log *slog.Logger) error {
	dir := os.Getenv("STATE_DIRECTORY")
	if dir == "" {
		return errors.New("STATE_DIRECTORY is not set")
	}
	scripts, err := scriptDirectory()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	t, err := openTable(ctx, filepath.Join(dir, "data.db"), os.DirFS(scripts))
	if err != nil {
		return err
	}
	log.Info("table open", "table", t.name, "key", t.key, "seeded", t.seeded)
	return errors.Join(serve(log, newHandler(log, t)), t.close())
}

// scriptDirectory is where the *.sql files are: $SQL_DIRECTORY, or the
// directory sql beside the directory bin that this program lies in.
func scriptDirectory() (string, error) {
	if dir := os.Getenv("SQL_DIRECTORY"); dir != "" {
		return dir, nil
	}
	exe, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find own package: %w", err)
	}
	return filepath.Join(filepath.Dir(filepath.Dir(exe)), "sql"), nil
}
