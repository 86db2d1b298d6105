// Command sqliteservice is a service that keeps numbered lines in an SQLite database that another service provides.
//
// Environment: HOST, PORT, where to listen; DB, the database's file; VERSION, ISONOMIA_SERVICE and ISONOMIA_NODE, who
// answers. Served: /state (GET reads the lines in order, POST appends one), /healthz, and for anything else one line that
// says who answers.
package main

import (
	"database/sql"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"

	_ "modernc.org/sqlite"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "sqliteservice:", err)
		os.Exit(1)
	}
}

func serve() error {
	file := url.URL{Scheme: "file", Path: os.Getenv("DB"), RawQuery: "mode=rw&_pragma=busy_timeout(30000)&_pragma=synchronous(FULL)"}
	db, err := sql.Open("sqlite", file.String())
	if err != nil {
		return err
	}
	if err := db.Ping(); err != nil {
		return fmt.Errorf("open %q: %w", os.Getenv("DB"), err)
	}
	db.SetMaxOpenConns(1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, r *http.Request) { tell(w, read(db, w)) })
	mux.HandleFunc("POST /state", func(w http.ResponseWriter, r *http.Request) { tell(w, add(db, r)) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s\n", os.Getenv("ISONOMIA_SERVICE"), os.Getenv("VERSION"), os.Getenv("ISONOMIA_NODE"))
	})
	return http.ListenAndServe(net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")), mux)
}

func tell(w http.ResponseWriter, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func read(db *sql.DB, w io.Writer) error {
	rows, err := db.Query("SELECT text FROM line ORDER BY rowid")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var text string
		if err := rows.Scan(&text); err != nil {
			return err
		}
		fmt.Fprintln(w, text)
	}
	return rows.Err()
}

func add(db *sql.DB, r *http.Request) error {
	text, err := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if err == nil {
		_, err = db.Exec("INSERT INTO line (text) VALUES (?)", string(text))
	}
	return err
}
