// Staff over HTTP, from the data service at $STAFF_URL.
//
//	GET    /staff      all people
//	POST   /staff      add one; the answer has the id
//	GET    /staff/ID   one person
//	PUT    /staff/ID   replace a person
//	DELETE /staff/ID   remove a person
package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxBody bounds a person as JSON, in bytes; maxField one field, in characters.
const (
	maxBody  = 16 << 10
	maxField = 100
)

// person is one row of the data service, in the form that this service promises.
type person struct {
	ID        int64  `json:"id"`
	Name      string `json:"name"`
	LastName  string `json:"lastName"`
	Room      string `json:"room"`
	IPAddress string `json:"ipAddress"`
}

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	staff, err := newUpstream("staff")
	if err != nil {
		return err
	}
	return serve(log, newHandler(log, staff))
}

func newHandler(log *slog.Logger, staff *upstream) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /staff", answer(log, 200, func(ctx context.Context, _ *http.Request) (any, error) {
		all := []person{}
		_, err := staff.call(ctx, http.MethodGet, nil, &all, "rows")
		return all, err
	}))
	mux.HandleFunc("GET /staff/{id}", answer(log, 200, func(ctx context.Context, r *http.Request) (any, error) {
		return forward(ctx, staff, r, nil)
	}))
	mux.HandleFunc("POST /staff", answer(log, 201, func(ctx context.Context, r *http.Request) (any, error) {
		p, err := readPerson(r)
		if err != nil {
			return nil, err
		}
		var stored person
		_, err = staff.call(ctx, http.MethodPost, p.row(), &stored, "rows")
		return stored, err
	}))
	mux.HandleFunc("PUT /staff/{id}", answer(log, 200, func(ctx context.Context, r *http.Request) (any, error) {
		p, err := readPerson(r)
		if err != nil {
			return nil, err
		}
		return forward(ctx, staff, r, p.row())
	}))
	mux.HandleFunc("DELETE /staff/{id}", answer(log, 200, func(ctx context.Context, r *http.Request) (any, error) {
		return forward(ctx, staff, r, nil)
	}))
	addHealth(log, mux, staff)
	return mux
}

// forward asks the data service for the same thing with the id of the path.
func forward(ctx context.Context, staff *upstream, r *http.Request, in any) (any, error) {
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id < 1 {
		return nil, errNotFound
	}
	var one person
	_, err = staff.call(ctx, r.Method, in, &one, "rows", strconv.FormatInt(id, 10))
	if r.Method == http.MethodDelete {
		return struct{}{}, err
	}
	return one, err
}

// row is a person without the id, which the data service gives or the path says.
func (p person) row() map[string]string {
	return map[string]string{"name": p.Name, "lastName": p.LastName, "room": p.Room, "ipAddress": p.IPAddress}
}

// readPerson reads a person from the body, trims it and checks it.
func readPerson(r *http.Request) (person, error) {
	d := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxBody))
	d.DisallowUnknownFields()
	var p person
	if err := d.Decode(&p); err != nil {
		return p, refusal{"the body is no person: " + err.Error()}
	}
	return p.checked()
}

// checked is the person with blanks cut off, if all fields are fit to store.
func (p person) checked() (person, error) {
	for _, f := range []struct {
		name  string
		value *string
	}{{"first name", &p.Name}, {"last name", &p.LastName}, {"room", &p.Room}, {"IP address", &p.IPAddress}} {
		*f.value = strings.TrimSpace(*f.value)
		switch {
		case *f.value == "":
			return p, refusal{"the " + f.name + " is missing"}
		case utf8.RuneCountInString(*f.value) > maxField:
			return p, refusal{"the " + f.name + " has more than 100 characters"}
		case strings.ContainsFunc(*f.value, unicode.IsControl):
			return p, refusal{"the " + f.name + " has a control character"}
		}
	}
	if _, err := netip.ParseAddr(p.IPAddress); err != nil {
		return p, refusal{strconv.Quote(p.IPAddress) + " is no IP address"}
	}
	return p, nil
}
