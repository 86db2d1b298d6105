package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestZipcodes asks for all zip codes and for one.
func TestZipcodes(t *testing.T) {
	t.Parallel()
	const row = `{"zipcode":"3511EF","street":"Oudegracht 158","city":"Utrecht"}`
	mux := http.NewServeMux()
	mux.HandleFunc("GET /rows", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "["+row+"]") })
	mux.HandleFunc("GET /rows/3511EF", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, row) })
	data := httptest.NewServer(mux)
	defer data.Close()
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), &upstream{name: "zipcodes", base: data.URL, client: data.Client()}))
	defer srv.Close()
	for path, want := range map[string]string{
		"/zipcodes": "[" + row + "]\n", "/zipcodes/3511EF": row + "\n", "/zipcodes/1": `{"error":"not found"}` + "\n",
	} {
		resp, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if got, err := io.ReadAll(resp.Body); err != nil || string(got) != want {
			t.Errorf("%s: %s (%v)", path, got, err)
		}
	}
}
