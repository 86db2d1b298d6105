package main

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// world is the three services behind the pages, in one.
type world struct {
	answers map[string]string // by method and path; "!" begins a failure that blames a service
	asked   []string
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	key := r.Method + " " + r.URL.Path
	w.asked = append(w.asked, strings.TrimSpace(key+" "+string(body)))
	answer, ok := w.answers[key]
	blamed, failed := strings.CutPrefix(answer, "!")
	switch {
	case !ok:
		rw.WriteHeader(http.StatusNotFound)
	case failed:
		rw.WriteHeader(http.StatusBadGateway)
		answer = `{"error":"down","service":"` + blamed + `"}`
	case answer == "refused":
		rw.WriteHeader(http.StatusBadRequest)
		answer = `{"error":"the room is <odd>"}`
	}
	io.WriteString(rw, answer)
}

func newSite(t *testing.T, answers map[string]string) (string, *world) {
	t.Helper()
	w := &world{answers: answers}
	behind := httptest.NewServer(w)
	t.Cleanup(behind.Close)
	to := func(name string) *upstream { return &upstream{name: name, base: behind.URL, client: behind.Client()} }
	d := &directory{to("staffservice"), to("roomservice"), to("zipcodeservice")}
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), d, "7"))
	t.Cleanup(srv.Close)
	return srv.URL, w
}

const (
	eve  = `{"id":3,"name":"Eve <b>","lastName":"O'Neil","room":"A/1","ipAddress":"10.0.0.3"}`
	room = `{"room":"A/1","zipcode":"1011AB"}`
	zip  = `{"zipcode":"1011AB","street":"Kade 1","city":"Amsterdam"}`
)

func want(t *testing.T, resp *http.Response, err error, status int, parts ...string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		t.Errorf("%d (%v), want %d", resp.StatusCode, err, status)
	}
	for _, part := range parts {
		if !strings.Contains(string(body), part) {
			t.Errorf("no %q in\n%s", part, body)
		}
	}
}

// TestJoin makes one person's page from three services' answers, with each
// of them missing or failing once.
func TestJoin(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, staff, room, zip string
		status                 int
		parts                  []string
	}{
		{"all", eve, room, zip, 200, []string{"Version 7", "Eve &lt;b&gt;", "O&#39;Neil", "A/1", "1011AB", "Kade 1", "Amsterdam"}},
		{"no person", "", room, zip, 404, []string{"Not found"}},
		{"no room", eve, "", zip, 200, []string{"This room is in no list"}},
		{"no zip code", eve, room, "", 200, []string{"1011AB", "This zip code is in no list"}},
		{"staff fails", "!staff", room, zip, 502, []string{"<strong>staff</strong> failed"}},
		{"rooms fail", eve, "!rooms", zip, 502, []string{"<strong>rooms</strong> failed"}},
		{"zip codes fail", eve, room, "!zipcodes", 502, []string{"<strong>zipcodes</strong> failed"}},
		{"nonsense", eve, "[", zip, 502, []string{"<strong>roomservice</strong> failed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := map[string]string{}
			for path, answer := range map[string]string{"GET /staff/3": c.staff, "GET /rooms/A/1": c.room, "GET /zipcodes/1011AB": c.zip} {
				if answer != "" {
					answers[path] = answer
				}
			}
			site, _ := newSite(t, answers)
			resp, err := http.Get(site + "/displaystaff/3")
			want(t, resp, err, c.status, c.parts...)
		})
	}
}

// TestForms follows what the forms ask of staffservice.
func TestForms(t *testing.T) {
	t.Parallel()
	site, w := newSite(t, map[string]string{"POST /staff": eve, "PUT /staff/3": "refused", "GET /staff/3": eve, "GET /rooms/A/1": room, "GET /zipcodes/1011AB": zip, "GET /staff": "[" + eve + "]", "DELETE /staff/3": "{}"})
	form := url.Values{"action": {"save"}, "name": {" Eve <b>"}, "lastName": {"O'Neil"}, "room": {"A/1"}, "ipAddress": {"10.0.0.3"}}
	resp, err := http.PostForm(site+"/modifystaff", form)
	want(t, resp, err, 200, "Amsterdam") // goes on to the new person
	if first := w.asked[0]; first != `POST /staff {"id":0,"name":"Eve \u003cb\u003e","lastName":"O'Neil","room":"A/1","ipAddress":"10.0.0.3"}` {
		t.Errorf("asked %s", first)
	}
	form.Set("id", "3")
	resp, err = http.PostForm(site+"/modifystaff", form)
	want(t, resp, err, 422, "the room is &lt;odd&gt;", `value="Eve &lt;b&gt;"`) // the form again, with what was typed
	resp, err = http.PostForm(site+"/modifystaff", url.Values{"action": {"remove"}, "id": {"3"}})
	want(t, resp, err, 200, "Everybody")
	resp, err = http.PostForm(site+"/modifystaff", url.Values{"action": {"remove"}})
	want(t, resp, err, 400, "neither")
	resp, err = http.PostForm(site+"/modifystaff", url.Values{"action": {"save"}, "id": {"x"}})
	want(t, resp, err, 404)
	before := len(w.asked)
	resp, err = http.Get(site + "/modifystaff?id=3&action=remove") // asks only
	want(t, resp, err, 200, "cannot be undone")
	if asked := w.asked[before:]; len(asked) != 1 || asked[0] != "GET /staff/3" {
		t.Errorf("asked %v", asked)
	}
}

// TestForeignForm comes from a page of another site.
func TestForeignForm(t *testing.T) {
	t.Parallel()
	site, w := newSite(t, map[string]string{"DELETE /staff/3": "{}"})
	req, err := http.NewRequest("POST", site+"/modifystaff", strings.NewReader("action=remove&id=3"))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := http.DefaultClient.Do(req)
	want(t, resp, err, 403)
	if len(w.asked) > 0 {
		t.Errorf("asked %v", w.asked)
	}
}

func TestOtherAddresses(t *testing.T) {
	t.Parallel()
	site, _ := newSite(t, map[string]string{"GET /staff": "[]"})
	for path, status := range map[string]int{"/": 200, "/style.css": 200, "/healthz": 200, "/readyz": 503, "/editstaff": 200, "/web/list.html": 404, "/displaystaff/": 404} {
		resp, err := http.Get(site + path)
		want(t, resp, err, status)
	}
}
