// Rooms and the zip code areas they lie in, over HTTP, from the data service at $ROOMS_URL.
//
//	GET /rooms        all of them
//	GET /rooms/ROOM   one of them
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
)

// room is one row of the data service, in the form that this service promises.
type room struct {
	Room    string `json:"room"`
	Zipcode string `json:"zipcode"`
}

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	rooms, err := newUpstream("rooms")
	if err != nil {
		return err
	}
	return serve(log, newHandler(log, rooms))
}

func newHandler(log *slog.Logger, rooms *upstream) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rooms", answer(log, 200, func(ctx context.Context, _ *http.Request) (any, error) {
		all := []room{}
		_, err := rooms.call(ctx, http.MethodGet, nil, &all, "rows")
		return all, err
	}))
	mux.HandleFunc("GET /rooms/{key}", answer(log, 200, func(ctx context.Context, r *http.Request) (any, error) {
		var one room
		_, err := rooms.call(ctx, http.MethodGet, nil, &one, "rows", r.PathValue("key"))
		return one, err
	}))
	addHealth(log, mux, rooms)
	return mux
}
