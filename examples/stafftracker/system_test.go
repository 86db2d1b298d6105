package stafftracker

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestStaffTracker runs the eight services as eight processes and uses them
// as a visitor does, through the proxy. Its parts build on each other.
func TestStaffTracker(t *testing.T) {
	if testing.Short() {
		t.Skip("builds eight programs")
	}
	s := startSystem(t)
	for _, part := range []struct {
		name string
		do   func(*testing.T, *system)
	}{
		{"seeds", testSeeds}, {"list", testList}, {"join", testJoin}, {"forms", testForms}, {"foreign form", testForeignForm},
		{"not found", testNotFound}, {"durable", testDurable}, {"version 2", testVersion}, {"failure is named", testFailure}, {"stop", testStop},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.do(t, s) }) {
			t.FailNow()
		}
	}
}

// testSeeds counts what the services hold at first.
func testSeeds(t *testing.T, s *system) {
	for path, want := range map[string]int{"roomservice/rooms": 20, "staffservice/staff": 8, "zipcodeservice/zipcodes": 5} {
		service, table, _ := strings.Cut(path, "/")
		var rows []map[string]any
		_, body := get(t, s.running[service].url()+"/"+table)
		if err := json.Unmarshal([]byte(body), &rows); err != nil || len(rows) != want {
			t.Errorf("%s: %d rows, not %d (%v)", path, len(rows), want, err)
		}
	}
	wantPage(t, s.running["roomservice"].url()+"/rooms/C102", 200, `{"room":"C102","zipcode":"3511EF"}`)
	wantPage(t, s.running["zipcodeservice"].url()+"/zipcodes/3511EF", 200, `"city":"Utrecht"`)
}

func testList(t *testing.T, s *system) {
	wantPage(t, s.running["proxy"].url()+"/", 200, "Version 1", "Anna de Vries", "Grace O&#39;Connor", "Müller", `href="/displaystaff/8"`)
}

// testJoin looks at a person whose street and city come from three data services.
func testJoin(t *testing.T, s *system) {
	wantPage(t, s.running["proxy"].url()+"/displaystaff/5", 200, "Emre", "Yılmaz", "C102", "3511EF", "Oudegracht 158", "Utrecht", "10.20.3.31",
		"staffservice on node-of-staffservice, roomservice on node-of-roomservice, zipcodeservice on node-of-zipcodeservice")
}

// testForms adds somebody with a hostile name, corrects and removes them.
func testForms(t *testing.T, s *system) {
	base := s.running["proxy"].url()
	wantPage(t, base+"/editstaff", 200, `<option value="E202">`)
	form := url.Values{"action": {"save"}, "name": {"<script>alert(1)</script>"}, "lastName": {"Tables"}, "room": {"A102"}, "ipAddress": {"not one"}}
	wantPost(t, base, form, 422, "is no IP address", "&lt;script&gt;")
	form.Set("ipAddress", "10.20.1.99")
	wantPost(t, base, form, 200, "&lt;script&gt;", "Kanaalkade 12", "Amsterdam", "/editstaff/9") // after the redirect
	wantPage(t, base+"/editstaff/9", 200, `value="10.20.1.99"`)
	form.Set("id", "9")
	form.Set("name", "Bobby")
	form.Set("room", "Z999")
	wantPost(t, base, form, 200, "Bobby", "This room is in no list")
	wantPage(t, base+"/modifystaff?id=9", 200, "Remove <strong>Bobby Tables</strong>")
	_, page := post(t, base, url.Values{"action": {"remove"}, "id": {"9"}}, "")
	if strings.Contains(page, "Bobby") || !strings.Contains(page, "Anna") {
		t.Errorf("after removing:\n%s", page)
	}
	wantPost(t, base, url.Values{"action": {"explode"}}, 400, "neither save nor remove")
}

func testForeignForm(t *testing.T, s *system) {
	base := s.running["proxy"].url()
	if status, _ := post(t, base, url.Values{"action": {"remove"}, "id": {"1"}}, "http://evil.example"); status != 403 {
		t.Errorf("a form from another site: %d", status)
	}
	wantPage(t, base+"/displaystaff/1", 200, "Anna")
}

func testNotFound(t *testing.T, s *system) {
	for _, path := range []string{"/displaystaff/99", "/displaystaff/x", "/displaystaff/-1", "/editstaff/99", "/modifystaff?id=99", "/nothing"} {
		wantPage(t, s.running["proxy"].url()+path, 404, "Not found")
	}
	wantPage(t, s.running["roomservice"].url()+"/rooms/..%2Fhealthz", 404, "not found")
}

// testDurable kills a data service right after it answered a write, and then
// its whole chain: the write is there, and rows removed stay removed.
func testDurable(t *testing.T, s *system) {
	base := s.running["proxy"].url()
	wantPost(t, base, url.Values{"action": {"save"}, "id": {"2"}, "name": {"Bram"}, "lastName": {"Visser"}, "room": {"D202"}, "ipAddress": {"10.9.9.9"}}, 200, "Visser")
	post(t, base, url.Values{"action": {"remove"}, "id": {"8"}}, "")
	s.restart("staff", syscall.SIGKILL)
	wantPage(t, base+"/displaystaff/2", 200, "Visser", "D202", "Stationsplein 7", "Eindhoven", "10.9.9.9")
	wantPage(t, base+"/displaystaff/8", 404, "Not found")
	if log := s.running["staff"].output(); !strings.Contains(log, "seeded=false") {
		t.Errorf("the second start filled the table again:\n%s", log)
	}
}

// testVersion replaces the web application only, as an upgrade does.
func testVersion(t *testing.T, s *system) {
	s.restart("stafftracker", syscall.SIGTERM, "VERSION=2")
	wantPage(t, s.running["proxy"].url()+"/displaystaff/2", 200, "Version 2", "Visser", "Eindhoven")
}

// testFailure ends services one after the other. The page names the one that
// is to blame, and the health of the others does not suffer.
func testFailure(t *testing.T, s *system) {
	base := s.running["proxy"].url()
	s.running["zipcodes"].end(t, syscall.SIGKILL)
	wantPage(t, base+"/displaystaff/1", 502, "The service <strong>zipcodes</strong> failed")
	wantPage(t, base+"/", 200, "Anna")
	for _, healthy := range []string{"zipcodeservice", "stafftracker", "proxy"} {
		wantPage(t, s.running[healthy].url()+"/healthz", 200, "")
	}
	wantPage(t, s.running["zipcodeservice"].url()+"/readyz", 503, "zipcodes")
	wantPage(t, s.running["stafftracker"].url()+"/readyz", 200, "") // zipcodeservice itself answers
	s.running["staffservice"].end(t, syscall.SIGTERM)
	wantPage(t, base+"/", 502, "The service <strong>staffservice</strong> failed")
	s.running["stafftracker"].end(t, syscall.SIGTERM)
	wantPage(t, base+"/", 502, "The service <strong>stafftracker</strong> failed")
	wantPage(t, base+"/healthz", 200, "ok")
}

// testStop ends the data services with SIGTERM: exit status 0, and the
// write-ahead log folded into the database.
func testStop(t *testing.T, s *system) {
	for _, name := range []string{"rooms", "staff", "proxy"} {
		p := s.running[name]
		p.end(t, syscall.SIGTERM)
		if code := p.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("%s exits %d after SIGTERM:\n%s", name, code, p.output())
		}
	}
	files, err := os.ReadDir(s.state["staff"])
	if err != nil || len(files) != 1 || files[0].Name() != "data.db" {
		t.Errorf("state directory of staff: %v %v", files, err)
	}
}

func get(t *testing.T, address string) (int, string) {
	t.Helper()
	resp, err := http.Get(address)
	return answered(t, resp, err)
}

// post sends a form from a page of the given site; "" is our own.
func post(t *testing.T, base string, form url.Values, origin string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, base+"/modifystaff", strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if origin == "" {
		origin = base
	}
	req.Header.Set("Origin", origin)
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := http.DefaultClient.Do(req)
	return answered(t, resp, err)
}

func answered(t *testing.T, resp *http.Response, err error) (int, string) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func wantPage(t *testing.T, address string, status int, parts ...string) {
	t.Helper()
	got, body := get(t, address)
	check(t, "GET "+address, got, body, status, parts)
}

func wantPost(t *testing.T, base string, form url.Values, status int, parts ...string) {
	t.Helper()
	got, body := post(t, base, form, "")
	check(t, "POST "+form.Encode(), got, body, status, parts)
}

func check(t *testing.T, what string, got int, body string, status int, parts []string) {
	t.Helper()
	if got != status {
		t.Errorf("%s: %d, not %d\n%s", what, got, status, body)
	}
	for _, part := range parts {
		if !strings.Contains(body, part) {
			t.Errorf("%s: no %q in\n%s", what, part, body)
		}
	}
}
