// StaffTracker: pages that show who works where.
//
//	GET  /                     everybody
//	GET  /displaystaff/ID      one person, with room, zip code, street and city
//	GET  /editstaff            a form for a new person
//	GET  /editstaff/ID         a form for a person who is there
//	GET  /modifystaff?id=ID    asks whether to remove that person
//	POST /modifystaff          adds, changes or removes a person
//
// It keeps nothing: people, rooms and zip codes are asked of the services at
// $STAFFSERVICE_URL, $ROOMSERVICE_URL and $ZIPCODESERVICE_URL. The pages
// show $VERSION.
package main

import (
	"log/slog"
	"net/http"
	"os"
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	d, err := newDirectory()
	if err != nil {
		return err
	}
	return serve(log, newHandler(log, d, os.Getenv("VERSION")))
}

// newHandler serves the pages. Forms are accepted only from our own pages:
// a page elsewhere cannot make a visitor's browser remove somebody.
func newHandler(log *slog.Logger, d *directory, version string) http.Handler {
	if version == "" {
		version = "unknown"
	}
	s := &site{log: log, directory: d, version: version, pages: parsePages()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.page(s.list))
	mux.HandleFunc("GET /displaystaff/{id}", s.page(s.display))
	mux.HandleFunc("GET /editstaff", s.page(s.edit))
	mux.HandleFunc("GET /editstaff/{id}", s.page(s.edit))
	mux.HandleFunc("GET /modifystaff", s.page(s.confirm))
	mux.HandleFunc("POST /modifystaff", s.page(s.modify))
	mux.HandleFunc("GET /style.css", sendStyle)
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context(), d.staff, d.rooms, d.zipcodes); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("/", s.page(s.lost))
	return http.NewCrossOriginProtection().Handler(mux)
}
