// The proxy stands in front of StaffTracker: the one address that visitors
// know. It passes requests on to $STAFFTRACKER_URL with the host that the
// visitor asked for, and answers 502, naming the service, when that one does
// not answer. /healthz is about the proxy alone and is not passed on.
package main

import (
	"context"
	"fmt"
	"html"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"time"
)

// How long the service behind may take to accept a connection, and then to
// begin its answer. The page may ask three others, 5 s each.
const (
	dialTime   = 2 * time.Second
	answerTime = 20 * time.Second
	maxBody    = 1 << 20 // bytes of a request
)

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	target, err := url.Parse(os.Getenv("STAFFTRACKER_URL"))
	if err != nil || target.Scheme != "http" || target.Host == "" {
		return fmt.Errorf("STAFFTRACKER_URL is %q, not an address like http://127.0.0.1:8000", os.Getenv("STAFFTRACKER_URL"))
	}
	return serve(log, newHandler(log, target))
}

func newHandler(log *slog.Logger, target *url.URL) http.Handler {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // forms are accepted from the visitor's own host only
			r.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:           (&net.Dialer{Timeout: dialTime}).DialContext,
			ResponseHeaderTimeout: answerTime,
			IdleConnTimeout:       time.Minute,
			MaxIdleConnsPerHost:   64,
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) { explain(log, w, r, err) },
		ErrorLog:     slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("ok\n")) })
	mux.Handle("/", http.MaxBytesHandler(proxy, maxBody))
	return mux
}

// explain is the page for a service that does not answer. A visitor who went
// away needs none.
func explain(log *slog.Logger, w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() == context.Canceled {
		return
	}
	log.Warn("stafftracker does not answer", "path", r.URL.Path, "err", err)
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Retry-After", "2")
	w.WriteHeader(http.StatusBadGateway)
	fmt.Fprintf(w, `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>StaffTracker is out of reach</title></head>
<body><main><h1>StaffTracker is out of reach</h1>
<p>The service <strong>stafftracker</strong> failed: %s</p></main></body></html>
`, html.EscapeString(err.Error()))
}
