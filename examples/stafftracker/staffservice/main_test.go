package main

import (
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// record is a data service that remembers the last request.
type record struct{ method, path, body string }

func newService(t *testing.T) (string, *record) {
	t.Helper()
	var last record
	data := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		last = record{r.Method, r.URL.Path, string(body)}
		io.WriteString(w, `{"id":7,"name":"Ivo","lastName":"Smit","room":"A101","ipAddress":"10.0.0.1"}`)
	}))
	t.Cleanup(data.Close)
	staff := &upstream{name: "staff", base: data.URL, client: data.Client()}
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), staff))
	t.Cleanup(srv.Close)
	return srv.URL, &last
}

func send(t *testing.T, method, url, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(got)
}

// TestForwards sees each request arrive at the data service.
func TestForwards(t *testing.T) {
	t.Parallel()
	url, last := newService(t)
	in := `{"id":99,"name":" Ivo ","lastName":"Smit","room":"A101","ipAddress":"2001:db8::1"}`
	out := `{"ipAddress":"2001:db8::1","lastName":"Smit","name":"Ivo","room":"A101"}` // trimmed, and without the id
	for _, c := range []struct {
		method, path, body string
		status             int
		want               record
	}{
		{"GET", "/staff/7", "", 200, record{"GET", "/rows/7", ""}},
		{"GET", "/staff/007", "", 200, record{"GET", "/rows/7", ""}},
		{"POST", "/staff", in, 201, record{"POST", "/rows", out}},
		{"PUT", "/staff/7", in, 200, record{"PUT", "/rows/7", out}},
		{"DELETE", "/staff/7", "", 200, record{"DELETE", "/rows/7", ""}},
	} {
		if status, body := send(t, c.method, url+c.path, c.body); status != c.status || *last != c.want {
			t.Errorf("%s %s: %d %s; asked %v, want %v", c.method, c.path, status, body, *last, c.want)
		}
	}
}

// TestRefuses sees that nothing invalid reaches the data service.
func TestRefuses(t *testing.T) {
	t.Parallel()
	url, last := newService(t)
	good := map[string]string{"name": "Ivo", "lastName": "Smit", "room": "A101", "ipAddress": "10.0.0.1"}
	for field, bad := range map[string][]string{
		"name":      {"", "  ", "a\x00b", "a\nb", strings.Repeat("ü", 101)},
		"room":      {""},
		"ipAddress": {"", "10.0.0", "10.0.0.1/8", "localhost"},
		"shoe":      {"43"},
	} {
		for _, value := range bad {
			p := map[string]string{field: value}
			for k, v := range good {
				if k != field {
					p[k] = v
				}
			}
			body, _ := json.Marshal(p)
			if status, answer := send(t, "POST", url+"/staff", string(body)); status != 400 || !strings.Contains(answer, `"error"`) {
				t.Errorf("%s: %d %s", body, status, answer)
			}
		}
	}
	for _, id := range []string{"0", "-1", "x", "1.5", "9223372036854775808"} {
		if status, _ := send(t, "DELETE", url+"/staff/"+id, ""); status != 404 {
			t.Errorf("DELETE /staff/%s: %d", id, status)
		}
	}
	if status, _ := send(t, "POST", url+"/staff", strings.Repeat(" ", maxBody+1)); status != 400 {
		t.Errorf("a large body: %d", status)
	}
	if *last != (record{}) {
		t.Errorf("the data service was asked %v", *last)
	}
}
