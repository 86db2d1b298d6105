// Zip codes with their streets and cities, over HTTP, from the data service at $ZIPCODES_URL.
//
//	GET /zipcodes           all of them
//	GET /zipcodes/ZIPCODE   one of them
package main

import (
	"context"
	"log/slog"
	"net/http"
	"os"
)

// zipcode is one row of the data service, in the form that this service promises.
type zipcode struct {
	Zipcode string `json:"zipcode"`
	Street  string `json:"street"`
	City    string `json:"city"`
}

func main() {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(log); err != nil {
		log.Error("ended", "err", err)
		os.Exit(1)
	}
}

func run(log *slog.Logger) error {
	zipcodes, err := newUpstream("zipcodes")
	if err != nil {
		return err
	}
	return serve(log, newHandler(log, zipcodes))
}

func newHandler(log *slog.Logger, zipcodes *upstream) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /zipcodes", answer(log, 200, func(ctx context.Context, _ *http.Request) (any, error) {
		all := []zipcode{}
		_, err := zipcodes.call(ctx, http.MethodGet, nil, &all, "rows")
		return all, err
	}))
	mux.HandleFunc("GET /zipcodes/{key}", answer(log, 200, func(ctx context.Context, r *http.Request) (any, error) {
		var one zipcode
		_, err := zipcodes.call(ctx, http.MethodGet, nil, &one, "rows", r.PathValue("key"))
		return one, err
	}))
	addHealth(log, mux, zipcodes)
	return mux
}
