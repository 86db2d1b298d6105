package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// shutdownTime is how long requests under way may take to finish after
// SIGTERM. It is shorter than the 10 s after which a service gets SIGKILL.
const shutdownTime = 8 * time.Second

// serve answers requests on $HOST:$PORT until SIGTERM or SIGINT, lets the
// requests under way finish, and returns. HOST defaults to 127.0.0.1; PORT
// must be set, and 0 picks a free port, which the log then names.
func serve(log *slog.Logger, h http.Handler) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	ln, err := listen()
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler:           nameNode(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       15 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(ln) }()
	log.Info("listening", "addr", ln.Addr().String())
	select {
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", ln.Addr(), err)
	case <-ctx.Done():
	}
	return shutDown(log, srv)
}

// listen opens the port that the environment names.
func listen() (net.Listener, error) {
	host, port := os.Getenv("HOST"), os.Getenv("PORT")
	if port == "" {
		return nil, errors.New("PORT is not set")
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.Listen("tcp", net.JoinHostPort(host, port))
}

// shutDown stops accepting at once and waits for requests under way.
func shutDown(log *slog.Logger, srv *http.Server) error {
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTime)
	defer cancel()
	log.Info("stopping")
	if err := srv.Shutdown(ctx); err != nil {
		return errors.Join(fmt.Errorf("finish requests: %w", err), srv.Close())
	}
	return nil
}

// nameNode tells in each answer which node gave it, so that the page at the
// end of the chain can show where its parts came from.
func nameNode(h http.Handler) http.Handler {
	node := os.Getenv("ISONOMIA_NODE")
	if node == "" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Node", node)
		h.ServeHTTP(w, r)
	})
}
