package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"
)

const requestTime = 10 * time.Second

// answer makes a handler of a function that returns what to send as JSON.
func answer(log *slog.Logger, status int, f func(context.Context, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), requestTime)
		defer cancel()
		v, err := f(ctx, r)
		if err != nil {
			refuse(log, w, r, err)
			return
		}
		reply(w, status, v)
	}
}

// refuse answers with the status that fits err: 502 if a service behind this
// one is to blame, naming it.
func refuse(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) {
	var f failure
	var bad refusal
	switch {
	case errors.Is(err, errNotFound):
		reply(w, http.StatusNotFound, problem{Error: "not found"})
	case errors.As(err, &bad):
		reply(w, http.StatusBadRequest, problem{Error: bad.reason})
	case errors.As(err, &f):
		log.Warn("upstream", "method", r.Method, "path", r.URL.Path, "err", err)
		reply(w, http.StatusBadGateway, problem{Error: f.reason, Service: f.service})
	default:
		log.Error("request", "method", r.Method, "path", r.URL.Path, "err", err)
		reply(w, http.StatusInternalServerError, problem{Error: err.Error()})
	}
}

// addHealth adds /healthz, which is about this process alone, and /readyz,
// which asks the services behind it.
func addHealth(log *slog.Logger, mux *http.ServeMux, behind ...*upstream) {
	mux.HandleFunc("GET /healthz", answer(log, 200, func(context.Context, *http.Request) (any, error) {
		return map[string]bool{"ok": true}, nil
	}))
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		if err := ready(r.Context(), behind...); err != nil {
			reply(w, http.StatusServiceUnavailable, problem{Error: err.Error()})
			return
		}
		reply(w, http.StatusOK, map[string]bool{"ok": true})
	})
}
