package main

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"html/template"
	"log/slog"
	"net/http"
	"os"
	"time"
)

//go:embed web
var files embed.FS

const pageTime = 20 * time.Second

// site makes the pages.
type site struct {
	log       *slog.Logger
	directory *directory
	version   string
	pages     map[string]*template.Template
}

// view is what a page's template sees.
type view struct {
	Version string
	Node    string // that this service runs on; "" if unknown
	Title   string
	Sources []source
	People  []person
	Person  person
	Place   place
	Rooms   []string // to choose from
	Problem string   // why a form was not accepted, or a page could not be made
	Service string   // the service that failed
}

// outcome is a page to show, or a place to go to.
type outcome struct {
	status   int // 0: 200
	template string
	view     view
	redirect string
}

var errNoSuchPage = errors.New("no such page")

func parsePages() map[string]*template.Template {
	pages := map[string]*template.Template{}
	for _, name := range []string{"list", "display", "edit", "confirm", "error"} {
		pages[name] = template.Must(template.ParseFS(files, "web/layout.html", "web/"+name+".html"))
	}
	return pages
}

// page makes a handler of a function that decides what to show.
func (s *site) page(decide func(context.Context, *http.Request) (outcome, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), pageTime)
		defer cancel()
		out, err := decide(ctx, r)
		if err != nil {
			out = s.trouble(r, err)
		}
		if out.redirect != "" {
			http.Redirect(w, r, out.redirect, http.StatusSeeOther)
			return
		}
		s.send(w, r, out)
	}
}

// send writes a page whole or not at all.
func (s *site) send(w http.ResponseWriter, r *http.Request, out outcome) {
	out.view.Version, out.view.Node = s.version, os.Getenv("ISONOMIA_NODE")
	var b bytes.Buffer
	if err := s.pages[out.template].ExecuteTemplate(&b, "layout", out.view); err != nil {
		s.log.Error("make page", "page", out.template, "err", err)
		http.Error(w, "this page cannot be made", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "same-origin")
	if out.status != 0 {
		w.WriteHeader(out.status)
	}
	w.Write(b.Bytes())
}

// trouble is the page that explains err. If another service is to blame it
// names that one.
func (s *site) trouble(r *http.Request, err error) outcome {
	out := outcome{status: http.StatusInternalServerError, template: "error", view: view{Title: "Something went wrong", Problem: err.Error()}}
	var f failure
	var bad refusal
	switch {
	case errors.Is(err, errNotFound), errors.Is(err, errNoSuchPage):
		out.status, out.view.Title, out.view.Problem = http.StatusNotFound, "Not found", "There is nobody and nothing at this address."
	case errors.As(err, &bad):
		out.status, out.view.Title = http.StatusBadRequest, "That cannot be done"
	case errors.As(err, &f):
		out.status, out.view.Title, out.view.Service = http.StatusBadGateway, "Part of StaffTracker is out of reach", f.service
	}
	if out.status >= 500 {
		s.log.Warn("page", "path", r.URL.Path, "status", out.status, "err", err)
	}
	return out
}

func sendStyle(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "max-age=300")
	http.ServeFileFS(w, r, files, "web/style.css")
}
