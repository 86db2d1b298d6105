package postgresql

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

// TestServer runs everything that needs a server on one.
func TestServer(t *testing.T) {
	t.Parallel()
	c := start(t)
	t.Run("group", func(t *testing.T) {
		t.Run("conformance", func(t *testing.T) { t.Parallel(); conformance(t, c) })
		t.Run("stop", func(t *testing.T) { t.Parallel(); stopEndsSessions(t, c) })
		t.Run("writes", func(t *testing.T) { t.Parallel(); dumpUnderWrites(t, c) })
		t.Run("tools", func(t *testing.T) { t.Parallel(); badTools(t, c) })
		t.Run("full", func(t *testing.T) { t.Parallel(); diskFull(t, c) })
		t.Run("load", func(t *testing.T) { t.Parallel(); hostileDump(t, c) })
		t.Run("foreign", func(t *testing.T) { t.Parallel(); foreign(t, c) })
		t.Run("deletion", func(t *testing.T) { t.Parallel(); deletionCutOff(t, c) })
		t.Run("creation", func(t *testing.T) { t.Parallel(); creationDeleted(t, c) })
	})
	crash(t, c)
}

func conformance(t *testing.T, c *cluster) {
	in := c.instance(t, `st"aff-db 'x' \ ü`)
	statetest.Run(t, statetest.Subject{
		New: func(marks string) activate.Stateful { return New(marks) },
		In:  in,
		Write: func(ctx context.Context, name string) error {
			_, err := c.sql(ctx, in, "BEGIN; INSERT INTO \"my schema\".\"re cords\" (name) VALUES ("+literal(name)+"); REFRESH MATERIALIZED VIEW counted; COMMIT;")
			return err
		},
		Read: func(ctx context.Context) ([]string, error) {
			out, err := c.sql(ctx, in, "SELECT json_agg(name ORDER BY name COLLATE \"C\") FROM \"my schema\".\"re cords\"")
			var all []string
			return all, errors.Join(err, json.Unmarshal([]byte(out), &all))
		},
		Grow: func(ctx context.Context) error {
			_, err := c.sql(ctx, in, `CREATE SCHEMA later; CREATE TABLE later.t AS SELECT 1 AS x; CREATE FUNCTION later() RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW seen AS SELECT * FROM later.t;
				CREATE SEQUENCE numbers; CREATE TYPE mood AS ENUM ('good'); SELECT lo_from_bytea(0, 'large'); ALTER TABLE "my schema"."re cords" ADD note text;`)
			return err
		},
		Initial: []string{"first"},
		Damage: func(t *testing.T, p *activate.Payload) { // one row less
			path := filepath.Join(p.Dir, dumpFile)
			b, err := os.ReadFile(path)
			if i := bytes.Index(b, []byte("\n1\tfirst\n")); err == nil && i > 0 {
				err = os.WriteFile(path, append(b[:i:i], b[i+len("\n1\tfirst"):]...), 0o600)
			} else {
				t.Fatalf("no row in %s", b)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	})
	out, err := c.sql(t.Context(), activate.Instance{Service: "postgres", Settings: in.Settings}, "SELECT datname FROM pg_database WHERE datname LIKE 'st%'")
	if err != nil || out != "" {
		t.Errorf("left behind: %s %v", out, err)
	}
}

// stopEndsSessions has a superuser in the middle of a transaction.
func stopEndsSessions(t *testing.T, c *cluster) {
	in, m := c.instance(t, "sessions"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := c.sql(t.Context(), in, "BEGIN; INSERT INTO \"my schema\".\"re cords\" (name) VALUES ('lost'); SELECT pg_sleep(100); COMMIT;")
		ended <- err
	}()
	statetest.Await(t, "the session", func() error {
		out, err := c.sql(t.Context(), in, "SELECT count(*) FROM pg_stat_activity WHERE datname = 'sessions' AND query LIKE '%pg_sleep%' AND state = 'active' AND pid <> pg_backend_pid()")
		if err != nil || strings.TrimSpace(out) != "1" {
			return errors.Join(fmt.Errorf("%q are active", out), err)
		}
		return nil
	})
	if err := m.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("a transaction was committed while the database was stopped")
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil || p.Facts["rows.my schema.re cords"] != "1" || p.Facts["rows"] != "1" {
		t.Errorf("%+v, %v", p, err)
	}
	if err := m.Delete(t.Context(), in); err != nil {
		t.Error(err)
	}
}

// dumpUnderWrites dumps while pairs of rows are written: the facts are of the very moment of the dump.
func dumpUnderWrites(t *testing.T, c *cluster) {
	in, m := c.instance(t, "writes"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wrote := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := c.sql(ctx, in, fmt.Sprintf("INSERT INTO \"my schema\".\"re cords\" (name) VALUES ('%da'), ('%db')", n, n)); err != nil && ctx.Err() == nil {
				t.Error(err)
				break
			}
		}
		wrote <- n
	}()
	seen := map[string]bool{}
	statetest.Await(t, "three different dumps", func() error {
		p, err := m.Dump(ctx, in, t.TempDir(), false)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.Open(filepath.Join(p.Dir, dumpFile))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		rows, err := scan(f, io.Discard)
		if err != nil || fmt.Sprint(rows) != p.Facts["rows"] || rows%2 != 1 {
			t.Fatalf("%d rows, %v, %v", rows, p.Facts, err)
		}
		if seen[p.Facts["rows"]] = true; len(seen) < 3 {
			return fmt.Errorf("seen %v", seen)
		}
		return nil
	})
	cancel()
	<-wrote
}

// badTools replaces pg_dump by programs that fail in ways that a pipe would hide.
func badTools(t *testing.T, c *cluster) {
	in, m := c.instance(t, "tools"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	real := filepath.Join(c.bin, "pg_dump")
	for name, script := range map[string]string{
		"fails":        `echo connection refused >&2; exit 1`,
		"empty":        `exit 0`,
		"truncated":    real + ` "$@" | head -c 700; exit 0`,
		"in a line":    real + ` "$@" | head -c -3; exit 0`,
		"last lines":   real + ` "$@" | head -n -8; exit 0`,
		"rows missing": real + ` "$@" | sed '/^1\tfirst$/d'; exit 0`,
		"fails late":   real + ` "$@"; exit 1`,
		"garbage":      `head -c 100000 /dev/urandom; exit 0`,
		"killed":       real + ` "$@"; kill -9 $$`,
	} {
		dir, err := os.MkdirTemp("", "pgtool")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		statetest.Program(t, dir, "pg_dump", `test "$1" = --help && exec `+real+` --help; `+script)
		bad := in
		bad.Settings = map[string]string{"postgresqlRuntimeDir": c.dir, "postgresqlPassword": password, "postgresqlPrograms": dir}
		if p, err := m.Dump(t.Context(), bad, t.TempDir(), false); err == nil {
			t.Errorf("%s: dumped: %+v", name, p)
		} else {
			t.Log(name+":", err)
		}
	}
	if _, err := m.Dump(t.Context(), in, t.TempDir(), false); err != nil {
		t.Error(err)
	}
}

func diskFull(t *testing.T, c *cluster) {
	in, m := c.instance(t, "full"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := c.sql(t.Context(), in, "CREATE TABLE big AS SELECT repeat('x', 1000) FROM generate_series(1, 2000)"); err != nil {
		t.Fatal(err)
	}
	if p, err := m.Dump(t.Context(), in, statetest.SmallDisk(t, "1m"), false); err == nil {
		t.Errorf("dumped: %+v", p)
	} else {
		t.Log(err)
	}
}

// hostileDump loads a dump that wants to run a program where it is loaded, and one that fails in the middle: the old
// state stays.
func hostileDump(t *testing.T, c *cluster) {
	in, m := c.instance(t, "hostile"), New(t.TempDir())
	if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(p.Dir, dumpFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(c.dir, "mark")
	for _, line := range []string{"\\unrestrict isonomia\n\\! touch " + mark, "\\! touch " + mark, "SELECT 1/0;", "\\connect postgres"} {
		bad := bytes.Replace(b, []byte("SET statement_timeout = 0;"), []byte(line), 1)
		if bytes.Equal(bad, b) {
			t.Fatal("nothing replaced")
		}
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := m.Load(t.Context(), in, p); err == nil {
			t.Errorf("%q was loaded", line)
		} else {
			t.Log(err)
		}
		if _, err := os.Stat(mark); err == nil {
			t.Errorf("%q ran a program", line)
		}
	}
	if err := m.Verify(t.Context(), in, p); err != nil {
		t.Errorf("the old state is not there: %v", err)
	}
}

// foreign has a database of the component's name that nobody of ours made.
func foreign(t *testing.T, c *cluster) {
	in, m := c.instance(t, "foreign"), New(t.TempDir())
	if _, err := serverOf(in.Settings).ask(t.Context(), "CREATE DATABASE \"foreign\";"); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context(), in); err != nil {
		t.Error(err)
	}
	if err := m.Delete(t.Context(), in); !errors.As(err, new(*activate.NotGarbageError)) {
		t.Errorf("deleted: %v", err)
	}
	if out, err := c.sql(t.Context(), in, "SELECT 1"); err != nil || out != "1\n" {
		t.Errorf("%q %v", out, err)
	}
}

// deletionCutOff ends a deletion after each of its statements, with what a load left behind by halves: the next one
// finishes it.
func deletionCutOff(t *testing.T, c *cluster) {
	in, m := c.instance(t, "deletion"), New(t.TempDir())
	if err := os.Remove(filepath.Join(in.Package, "01-schema.sql")); err != nil { // its role would be there already
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(in.Package, "02-data.sql"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	s := serverOf(in.Settings)
	for n := 0; n <= 6; n++ {
		if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
			t.Fatal(err)
		}
		if _, err := s.ask(t.Context(), `CREATE DATABASE "deletion.loading"; CREATE DATABASE "deletion.old";`); err != nil {
			t.Fatal(err)
		}
		bad := in
		bad.Settings = c.settings()
		bad.Settings["postgresqlPrograms"] = c.programs(t)
		// Each statement is a line then; those that are no deletion go through.
		statetest.Program(t, bad.Settings["postgresqlPrograms"], "psql", `sed 's/; */;\n/g' > $0.in; if grep -q DROP $0.in; then head -n `+fmt.Sprint(n)+` $0.in > $0.cut; `+
			filepath.Join(c.bin, "psql")+` "$@" < $0.cut; exit 1; else exec `+filepath.Join(c.bin, "psql")+` "$@" < $0.in; fi`)
		if err := m.Delete(t.Context(), bad); err == nil {
			t.Fatalf("cut off after %d statements: nothing said", n)
		}
		left, err := s.databases(t.Context(), "deletion")
		if want := 3 - n/2; err != nil || len(left) != want {
			t.Fatalf("cut off after %d statements: %v are left (%v)", n, left, err)
		}
		if err := m.Delete(t.Context(), in); err != nil {
			t.Fatalf("cut off after %d statements: %v", n, err)
		}
		if left, err := s.databases(t.Context(), "deletion"); err != nil || len(left) > 0 {
			t.Fatalf("%v are left (%v)", left, err)
		}
		if list, err := m.Garbage(t.Context()); err != nil || len(list) > 0 {
			t.Fatalf("%+v, %v", list, err)
		}
	}
}

// creationDeleted has what a creation left that did not come to its end.
func creationDeleted(t *testing.T, c *cluster) {
	in, m := c.instance(t, "creation"), New(t.TempDir())
	s := serverOf(in.Settings)
	if err := m.Made(in); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ask(t.Context(), `CREATE DATABASE "creation.loading";`); err != nil {
		t.Fatal(err)
	}
	if err := m.Delete(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if left, err := s.databases(t.Context(), "creation"); err != nil || len(left) > 0 {
		t.Errorf("%v are left (%v)", left, err)
	}
}

// crash kills the server in the middle of a dump.
func crash(t *testing.T, c *cluster) {
	in, m := c.instance(t, "crash"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pgtool")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// pg_dump says its first lines, and then waits until the server is gone.
	statetest.Program(t, dir, "pg_dump", `test "$1" = --help && exec `+filepath.Join(c.bin, "pg_dump")+` --help
		`+filepath.Join(c.bin, "pg_dump")+` "$@" > `+dir+`/all; cat `+dir+`/all; touch `+dir+`/dumped; while ! test -e `+dir+`/go; do sleep 0.02; done`)
	in.Settings["postgresqlPrograms"] = dir
	ended := make(chan error)
	go func() {
		p, err := m.Dump(t.Context(), in, t.TempDir(), false)
		if err == nil {
			err = fmt.Errorf("dumped: %+v", p)
		} else {
			t.Log(err)
			err = nil
		}
		ended <- err
	}()
	statetest.Await(t, "pg_dump", func() error { _, err := os.Stat(filepath.Join(dir, "dumped")); return err })
	c.kill()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	// Down, it is not observed; up again, it is.
	if list, err := m.Observe(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("observed %+v, %v", list, err)
	}
	if _, err := m.Dump(t.Context(), in, t.TempDir(), false); err == nil {
		t.Error("dumped without a server")
	}
	in.Spec.StartDeadline = time.Millisecond
	if err := m.Start(t.Context(), in); err == nil {
		t.Error("started without a server")
	} else {
		t.Log(err)
	}
	c.run(t)
	if list, err := m.Observe(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("observed %+v, %v", list, err)
	}
}

const sample = "--\n-- PostgreSQL database dump\n--\n\n\\restrict isonomia\n\n-- Dumped from database version 15\n-- Dumped by pg_dump version 15\n\nSET x = 0;\n\n--\n" +
	"-- Data for Name: t; Type: TABLE DATA\n--\n\nCOPY public.t (a) FROM stdin;\n1\n-- PostgreSQL database dump complete\n\\.\n\n\n--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict isonomia\n\n"

func TestScan(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	rows, err := scan(strings.NewReader(sample), &out)
	if err != nil || rows != 2 || strings.Contains(out.String(), "restrict") || strings.Contains(out.String(), "version") {
		t.Fatalf("%d, %v, %s", rows, err, out.String())
	}
	again, err := scan(strings.NewReader(out.String()), io.Discard)
	if err != nil || again != 2 {
		t.Errorf("%d, %v", again, err)
	}
	end := strings.LastIndex(sample, "complete")
	for n := range end + len("complete") {
		if _, err := scan(strings.NewReader(sample[:n]), io.Discard); err == nil {
			t.Errorf("cut after %d bytes: taken for complete", n)
		}
	}
	long := strings.Replace(sample, "\n1\n", "\n"+strings.Repeat("1", 200_000)+"\n", 1)
	if rows, err := scan(strings.NewReader(long), io.Discard); err != nil || rows != 2 {
		t.Errorf("a long row: %d, %v", rows, err)
	}
}

func FuzzScan(f *testing.F) {
	f.Add([]byte(sample))
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		rows, err := scan(bytes.NewReader(b), &out)
		if err != nil {
			return
		}
		if again, err := scan(bytes.NewReader(out.Bytes()), io.Discard); err != nil || again != rows {
			t.Errorf("%d rows, and scanned again %d: %v", rows, again, err)
		}
	})
}

func FuzzCount(f *testing.F) {
	f.Add(`["snapshot", "1"]` + "\n" + `["role", "a", true]` + "\n" + `["rows", "t", 3]` + "\n" + `["end"]`)
	f.Fuzz(func(t *testing.T, s string) {
		x := transaction{}
		_ = x.read(strings.NewReader(s))
	})
}

// TestLarge prints what a dump and a load of a larger database cost, and that nothing changed is nothing new.
func TestLarge(t *testing.T) {
	if os.Getenv("ISONOMIA_SOAK") == "" {
		t.Skip("long: 100 MB (ISONOMIA_SOAK=1)")
	}
	c := start(t)
	in, m := c.instance(t, "large"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := c.sql(t.Context(), in, "CREATE TABLE big AS SELECT i, md5(i::text) || repeat(md5(i::text), 2) AS t FROM generate_series(1, 1000000) i"); err != nil {
		t.Fatal(err)
	}
	var trees []map[string]string
	for range 2 {
		began := time.Now()
		p, err := m.Dump(t.Context(), in, t.TempDir(), false)
		if err != nil {
			t.Fatal(err)
		}
		size, _ := exec.Command("du", "-sh", p.Dir).Output()
		t.Logf("dump %s in %v", size, time.Since(began))
		trees = append(trees, statetest.Tree(t, p.Dir))
		if len(trees) == 2 {
			began = time.Now()
			if err := errors.Join(m.Stop(t.Context(), in), m.Load(t.Context(), in, p), m.Verify(t.Context(), in, p)); err != nil {
				t.Fatal(err)
			}
			t.Logf("stop, load and verify in %v", time.Since(began))
		}
	}
	if trees[0][dumpFile] != trees[1][dumpFile] {
		t.Error("unchanged, and different")
	}
}
