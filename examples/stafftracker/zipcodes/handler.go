package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"
)

const (
	requestTime = 5 * time.Second // for one statement, its fsync included
	maxBody     = 64 << 10        // bytes of a row
)

// newHandler is the HTTP interface that the package comment lists.
func newHandler(log *slog.Logger, t *table) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, status int, answer func(context.Context, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), requestTime)
			defer cancel()
			r.Body = http.MaxBytesReader(w, r.Body, maxBody)
			v, err := answer(ctx, r)
			if err != nil {
				refuse(log, w, r, err)
				return
			}
			if stored, ok := v.(row); ok && status == http.StatusCreated {
				w.Header().Set("Location", "/rows/"+url.PathEscape(fmt.Sprint(stored[t.key])))
			}
			reply(w, status, v)
		})
	}
	handle("GET /rows", 200, func(ctx context.Context, r *http.Request) (any, error) { return t.list(ctx) })
	handle("GET /rows/{key}", 200, func(ctx context.Context, r *http.Request) (any, error) {
		return t.get(ctx, r.PathValue("key"))
	})
	handle("POST /rows", 201, func(ctx context.Context, r *http.Request) (any, error) {
		return withRow(r, func(in row) (row, error) { return t.insert(ctx, in) })
	})
	handle("PUT /rows/{key}", 200, func(ctx context.Context, r *http.Request) (any, error) {
		return withRow(r, func(in row) (row, error) { return t.update(ctx, r.PathValue("key"), in) })
	})
	handle("DELETE /rows/{key}", 200, func(ctx context.Context, r *http.Request) (any, error) {
		return row{}, t.remove(ctx, r.PathValue("key"))
	})
	handle("GET /healthz", 200, func(ctx context.Context, r *http.Request) (any, error) {
		return row{"table": t.name}, t.ping(ctx)
	})
	return mux
}

// withRow gives the row in the request's body to do.
func withRow(r *http.Request, do func(row) (row, error)) (row, error) {
	d := json.NewDecoder(r.Body)
	d.UseNumber()
	var in row
	if err := d.Decode(&in); err != nil {
		return nil, fmt.Errorf("%w: %w", errInvalid, err)
	}
	if in == nil {
		return nil, fmt.Errorf("%w: not an object", errInvalid)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: more than one value in the body", errInvalid)
	}
	return do(in)
}

// refuse answers with the status that fits err.
func refuse(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, errNoRow):
		status = http.StatusNotFound
	case errors.Is(err, errTaken):
		status = http.StatusConflict
	case errors.Is(err, errInvalid):
		status = http.StatusBadRequest
	default:
		log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	reply(w, status, problem{Error: err.Error()})
}
