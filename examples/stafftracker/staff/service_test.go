package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
)

// TestMain lets the test binary be the service, so that a test can kill it.
func TestMain(m *testing.M) {
	if os.Getenv("BE_THE_SERVICE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func open(t testing.TB, path string) *table {
	t.Helper()
	tb, err := openTable(context.Background(), path, os.DirFS("sql"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tb.close() })
	return tb
}

func newServer(t *testing.T) string {
	t.Helper()
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), open(t, filepath.Join(t.TempDir(), "data.db"))))
	t.Cleanup(srv.Close)
	return srv.URL
}

// ask sends one request and compares the status and a part of the body.
func ask(t *testing.T, method, url, body string, status int, part string) {
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
	if err != nil || resp.StatusCode != status || !strings.Contains(string(got), part) {
		t.Errorf("%s %s %s: %d %s %v, want %d %s", method, url, body, resp.StatusCode, got, err, status, part)
	}
}

const somebody = `{"name":"Ivo","lastName":"Smit","room":"A101","ipAddress":"10.0.0.1"}`

func TestRows(t *testing.T) {
	t.Parallel()
	url := newServer(t)
	ask(t, "GET", url+"/rows/1", "", 200, `{"id":1,"ipAddress":"10.20.1.11","lastName":"de Vries","name":"Anna","room":"A101"}`)
	ask(t, "POST", url+"/rows", somebody, 201, `"id":9`)
	ask(t, "PUT", url+"/rows/9", strings.Replace(somebody, "Ivo", "Iva", 1), 200, `"name":"Iva"`)
	ask(t, "GET", url+"/rows", "", 200, `"name":"Iva"`)
	ask(t, "DELETE", url+"/rows/9", "", 200, "")
	ask(t, "DELETE", url+"/rows/9", "", 404, "no such row")
	ask(t, "GET", url+"/rows/9", "", 404, "no such row")
	ask(t, "PUT", url+"/rows/9", somebody, 404, "no such row")
	ask(t, "POST", url+"/rows", somebody, 201, `"id":10`) // 9 is not given again
	ask(t, "GET", url+"/healthz", "", 200, "staff")
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	url := newServer(t)
	for body, part := range map[string]string{
		``:                                       "invalid row",
		`null`:                                   "not an object",
		`[]`:                                     "invalid row",
		`{}`:                                     "NOT NULL",
		`{"name":"x"} {}`:                        "more than one value",
		`{"name":"x","shoe":"43"}`:               `no column \"shoe\"`,
		`{"name":7}`:                             `column \"name\" needs a string`,
		`{"id":"seven"}`:                         `column \"id\" needs an integer`,
		`{"id":1.5}`:                             `column \"id\" needs an integer`,
		strings.Replace(somebody, "Ivo", "", 1):  "CHECK",
		`{"name":"` + strings.Repeat("x", 1<<17): "too large",
		strings.Replace(somebody, "{", `{"x":`, 1): "invalid row",
	} {
		ask(t, "POST", url+"/rows", body, 400, part)
	}
	ask(t, "POST", url+"/rows", strings.Replace(somebody, "{", `{"id":1,`, 1), 409, "exists")
	ask(t, "PATCH", url+"/rows/1", "", 405, "")
	ask(t, "GET", url+"/rows/1'%20OR%20'1'='1", "", 404, "no such row")
}

// TestSeedOnce removes a seeded row: it must not come back.
func TestSeedOnce(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "a # b?c%20.db") // characters that mean something in a URI
	tb := open(t, path)
	if !tb.seeded {
		t.Error("a new database was not filled")
	}
	if err := tb.remove(t.Context(), "3"); err != nil {
		t.Fatal(err)
	}
	if err := tb.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
	again := open(t, path)
	if _, err := again.get(t.Context(), "3"); !errors.Is(err, errNoRow) || again.seeded {
		t.Errorf("after opening again: %v, seeded %v", err, again.seeded)
	}
}

// TestSeedWholeOrNot fails in the second script: the first must leave nothing.
func TestSeedWholeOrNot(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "data.db")
	good := "CREATE TABLE a (k TEXT PRIMARY KEY) STRICT; INSERT INTO a VALUES ('x');"
	broken := fstest.MapFS{"1.sql": {Data: []byte(good)}, "2.sql": {Data: []byte("INSERT INTO nowhere VALUES (1);")}}
	if _, err := openTable(t.Context(), path, broken); err == nil || !strings.Contains(err.Error(), `"2.sql"`) {
		t.Fatalf("a broken script: %v", err)
	}
	tb, err := openTable(t.Context(), path, fstest.MapFS{"1.sql": {Data: []byte(good)}})
	if err != nil {
		t.Fatal(err)
	}
	defer tb.close()
	if rows, err := tb.list(t.Context()); err != nil || len(rows) != 1 {
		t.Errorf("%v %v", rows, err)
	}
}

func TestOneTable(t *testing.T) {
	t.Parallel()
	for script, part := range map[string]string{
		"": "0 tables",
		"CREATE TABLE a (k TEXT PRIMARY KEY); CREATE TABLE b (k TEXT PRIMARY KEY);": "2 tables",
		"CREATE TABLE a (k TEXT, l TEXT, PRIMARY KEY (k, l));":                      "2 columns in its primary key",
		"CREATE TABLE a (k TEXT);":                                                  "0 columns in its primary key",
	} {
		tb, err := openTable(t.Context(), filepath.Join(t.TempDir(), "data.db"), fstest.MapFS{"1.sql": {Data: []byte(script)}})
		if err == nil {
			tb.close()
		}
		if err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v, want %s", script, err, part)
		}
	}
}

// TestSyncs looks at what makes a commit outlive a power cut.
func TestSyncs(t *testing.T) {
	t.Parallel()
	tb := open(t, filepath.Join(t.TempDir(), "data.db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2"} {
		var got string
		if err := tb.db.QueryRow("PRAGMA " + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %q, not %q (%v)", pragma, got, want, err)
		}
	}
}

// TestHealthIsTrue breaks the database: the service must not say it is well.
func TestHealthIsTrue(t *testing.T) {
	t.Parallel()
	tb := open(t, filepath.Join(t.TempDir(), "data.db"))
	srv := httptest.NewServer(newHandler(slog.New(slog.DiscardHandler), tb))
	defer srv.Close()
	ask(t, "GET", srv.URL+"/healthz", "", 200, "")
	if _, err := tb.db.Exec("DROP TABLE staff"); err != nil {
		t.Fatal(err)
	}
	ask(t, "GET", srv.URL+"/healthz", "", 500, "no such table")
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

// TestKill writes rows, kills the process the moment each is answered, and
// finds them all.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const rounds = 5
	for round := range rounds {
		url, kill := startProcess(t, dir)
		for i := range 3 {
			ask(t, "POST", url+"/rows", fmt.Sprintf(`{"name":"Round %d","lastName":"Row %d","room":"A101","ipAddress":"10.0.0.1"}`, round, i), 201, `"id"`)
		}
		kill()
	}
	rows, err := open(t, filepath.Join(dir, "data.db")).list(t.Context())
	if err != nil || len(rows) != 8+3*rounds {
		t.Errorf("%d rows after %d kills, not %d (%v)", len(rows), rounds, 8+3*rounds, err)
	}
}

// startProcess runs the service on dir and returns its address and what kills it.
func startProcess(t *testing.T, dir string) (url string, kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BE_THE_SERVICE=1", "PORT=0", "STATE_DIRECTORY="+dir, "SQL_DIRECTORY=sql")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() { cmd.Process.Kill(); cmd.Wait() }
	t.Cleanup(kill)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			return "http://" + m[1], kill
		}
	}
	t.Fatal("the service ended before it listened")
	return "", nil
}

// FuzzInsert feeds bodies to the parser and the database: a body is refused
// as invalid, or what was stored reads back the same.
func FuzzInsert(f *testing.F) {
	tb := open(f, filepath.Join(f.TempDir(), "data.db"))
	for _, seed := range []string{somebody, `{}`, `null`, `{"id":9223372036854775808}`, `{"id":-1,"name":null}`, `{"name":"\u0000","lastName":"\ud800","room":"","ipAddress":""}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		r := httptest.NewRequest("POST", "/rows", strings.NewReader(string(body)))
		stored, err := withRow(r, func(in row) (row, error) { return tb.insert(t.Context(), in) })
		if err != nil {
			if !errors.Is(err, errInvalid) && !errors.Is(err, errTaken) {
				t.Errorf("insert %q: %v", body, err)
			}
			return
		}
		again, err := tb.get(t.Context(), fmt.Sprint(stored[tb.key]))
		want, _ := json.Marshal(stored)
		got, _ := json.Marshal(again)
		if err != nil || string(got) != string(want) {
			t.Errorf("stored %s, read %s (%v)", want, got, err)
		}
		if err := tb.remove(t.Context(), fmt.Sprint(stored[tb.key])); err != nil {
			t.Error(err)
		}
	})
}
