package mysql

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

// TestServer runs everything that needs a server on one.
func TestServer(t *testing.T) {
	t.Parallel()
	d := start(t)
	t.Run("group", func(t *testing.T) {
		t.Run("conformance", func(t *testing.T) { t.Parallel(); conformance(t, d) })
		t.Run("stop", func(t *testing.T) { t.Parallel(); stopEndsSessions(t, d) })
		t.Run("writes", func(t *testing.T) { t.Parallel(); dumpUnderWrites(t, d) })
		t.Run("tools", func(t *testing.T) { t.Parallel(); badTools(t, d) })
		t.Run("full", func(t *testing.T) { t.Parallel(); diskFull(t, d) })
		t.Run("halves", func(t *testing.T) { t.Parallel(); halves(t, d) })
		t.Run("remnant", func(t *testing.T) { t.Parallel(); remnant(t, d) })
		t.Run("foreign", func(t *testing.T) { t.Parallel(); foreign(t, d) })
		t.Run("deletion", func(t *testing.T) { t.Parallel(); deletionCutOff(t, d) })
		t.Run("patterns", func(t *testing.T) { t.Parallel(); patterns(t, d) })
	})
	crash(t, d)
}

func conformance(t *testing.T, d *daemon) {
	in := d.instance(t, "st_a`ff-db 'x' ü")
	statetest.Run(t, statetest.Subject{
		New: func(marks string) activate.Stateful { return New(marks) },
		In:  in,
		Write: func(ctx context.Context, name string) error {
			_, err := d.sql(ctx, in, "INSERT INTO `re \"cords` (name) VALUES ("+literal(name)+");")
			return err
		},
		Read: func(ctx context.Context) ([]string, error) {
			out, err := d.sql(ctx, in, "SELECT HEX(name) FROM names;")
			var all []string
			for hex := range strings.FieldsSeq(out) {
				var b []byte
				if _, err := fmt.Sscanf(hex, "%X", &b); err != nil {
					return nil, err
				}
				all = append(all, string(b))
			}
			slices.Sort(all)
			return all, err
		},
		Grow: func(ctx context.Context) error {
			_, err := d.sql(ctx, in, "CREATE TABLE later AS SELECT 1 AS x; CREATE VIEW seen AS SELECT * FROM later; CREATE FUNCTION one() RETURNS INT RETURN 1; CREATE TRIGGER t BEFORE INSERT ON later FOR EACH ROW SET NEW.x = 2; ALTER TABLE `re \"cords` ADD note TEXT;")
			return err
		},
		Initial: []string{"first"},
		Damage: func(t *testing.T, p *activate.Payload) { // one row less
			path := filepath.Join(p.Dir, dumpFile)
			b, err := os.ReadFile(path)
			bad := bytes.Replace(b, []byte("(1,'first',0x00FF0A286669727374),\n"), nil, 1)
			if bytes.Equal(bad, b) {
				t.Fatalf("no row in %s", b)
			}
			if err := errors.Join(err, os.WriteFile(path, bad, 0o600)); err != nil {
				t.Fatal(err)
			}
		},
	})
	rows, err := serverOf(in.Settings).ask(t.Context(), "SELECT JSON_ARRAY(Db) FROM mysql.db WHERE Db LIKE 'st%' UNION SELECT JSON_ARRAY(SCHEMA_NAME) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE 'st%';")
	if err != nil || len(rows) != 0 {
		t.Errorf("left behind: %v %v", rows, err)
	}
}

// stopEndsSessions has a session in the middle of a transaction, that uses another database.
func stopEndsSessions(t *testing.T, d *daemon) {
	in, m := d.instance(t, "sessions"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		_, err := d.sql(t.Context(), in, "USE information_schema; BEGIN; INSERT INTO sessions.`re \"cords` (name) VALUES ('lost'); SELECT SLEEP(100); COMMIT;")
		ended <- err
	}()
	s := serverOf(in.Settings)
	statetest.Await(t, "the session", func() error {
		rows, err := s.ask(t.Context(), "SELECT JSON_ARRAY(COUNT(*)) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP(100)%';")
		if err != nil || rows[0].Text(0) != "1" {
			return fmt.Errorf("%v, %w", rows, err)
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
	if err != nil || p.Facts["rows.re \"cords"] != "1" || p.Facts["rows"] != "1" || p.Facts["tables"] != "2" {
		t.Errorf("%+v, %v", p, err)
	}
	if err := m.Delete(t.Context(), in); err != nil {
		t.Error(err)
	}
}

// dumpUnderWrites dumps while pairs of rows are written: each dump is of one moment.
func dumpUnderWrites(t *testing.T, d *daemon) {
	in, m := d.instance(t, "writes"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wrote := make(chan int)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if _, err := d.sql(ctx, in, fmt.Sprintf("INSERT INTO `re \"cords` (name) VALUES ('%da'), ('%db');", n, n)); err != nil && ctx.Err() == nil {
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
		if n := rows["re \"cords"]; err != nil || fmt.Sprint(n) != p.Facts["rows"] || n%2 != 1 {
			t.Fatalf("%v, %v, %v", rows, p.Facts, err)
		}
		if seen[p.Facts["rows"]] = true; len(seen) < 3 {
			return fmt.Errorf("seen %v", seen)
		}
		return nil
	})
	cancel()
	<-wrote
}

// badTools replaces mariadb-dump by programs that fail in ways that a pipe would hide.
func badTools(t *testing.T, d *daemon) {
	in, m := d.instance(t, "tools"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	real := statetest.Need(t, "mariadb-dump")
	for name, script := range map[string]string{
		"fails":        `echo connection refused >&2; exit 1`,
		"empty":        `exit 0`,
		"truncated":    real + ` "$@" | head -c 700; exit 0`,
		"in a line":    real + ` "$@" | head -c -3; exit 0`,
		"last lines":   real + ` "$@" | head -n -3; exit 0`,
		"rows missing": real + ` "$@" | grep -v 'INSERT INTO .re\|^(1,.first'; exit 0`,
		"no data":      `shift; ` + real + ` --no-defaults --no-data "$@"; exit 0`,
		"fails late":   real + ` "$@"; exit 1`,
		"garbage":      `head -c 100000 /dev/urandom; exit 0`,
		"killed":       real + ` "$@"; kill -9 $$`,
	} {
		dir := t.TempDir()
		statetest.Program(t, dir, "mariadb-dump", script)
		bad := in
		bad.Settings = d.settings()
		bad.Settings["mysqlPrograms"] = dir
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

func diskFull(t *testing.T, d *daemon) {
	in, m := d.instance(t, "full"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sql(t.Context(), in, "CREATE TABLE big AS SELECT REPEAT('x', 1000) AS t FROM seq_1_to_2000;"); err != nil {
		t.Fatal(err)
	}
	if p, err := m.Dump(t.Context(), in, statetest.SmallDisk(t, "1m"), false); err == nil {
		t.Errorf("dumped: %+v", p)
	} else {
		t.Log(err)
	}
}

// halves lets a creation and a load fail in the middle. The one is done anew by the next start; after the other nothing
// starts until a load came to its end.
func halves(t *testing.T, d *daemon) {
	in, m := d.instance(t, "halves"), New(t.TempDir())
	oops := filepath.Join(in.Package, "02-oops.sql")
	if err := os.WriteFile(oops, []byte("SELECT oops;"), 0o400); err != nil {
		t.Fatal(err)
	}
	if err := m.Start(t.Context(), in); err == nil || !strings.Contains(err.Error(), oops) {
		t.Fatalf("started: %v", err)
	}
	if p, err := m.Dump(t.Context(), in, t.TempDir(), true); err == nil {
		t.Errorf("dumped: %+v", p)
	}
	if err := os.Remove(oops); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(filepath.Join(p.Dir, dumpFile))
	if err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(d.dir, "mark")
	for _, line := range []string{"SELECT oops;", "\\! touch " + mark + "\nSELECT oops;", "system touch " + mark + "\n;"} {
		bad := bytes.Replace(good, []byte("UNLOCK TABLES;\n"), []byte("UNLOCK TABLES;\n"+line+"\n"), 1)
		if err := os.WriteFile(filepath.Join(p.Dir, dumpFile), bad, 0o600); err != nil {
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
	if err := m.Start(t.Context(), in); err == nil {
		t.Error("started what was loaded by halves")
	} else {
		t.Log(err)
	}
	if err := m.Verify(t.Context(), in, p); err == nil {
		t.Error("verified what was loaded by halves")
	}
	if p, err := m.Dump(t.Context(), in, t.TempDir(), true); err == nil {
		t.Errorf("dumped: %+v", p)
	}
	if err := os.WriteFile(filepath.Join(p.Dir, dumpFile), good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(m.Load(t.Context(), in, p), m.Verify(t.Context(), in, p), m.Start(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sql(t.Context(), in, "INSERT INTO `re \"cords` (name) VALUES ('second');"); err != nil {
		t.Error(err)
	}
}

// remnant has a session of a load that was cut off, which is about to write more: not into what the next load makes.
func remnant(t *testing.T, d *daemon) {
	in, m := d.instance(t, "remnant"), New(t.TempDir())
	if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	s := serverOf(in.Settings)
	path := filepath.Join(p.Dir, dumpFile)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The load lasts longer than the session waits, and its tables are there by then.
	if err := os.WriteFile(path, bytes.Replace(b, []byte("-- Dump completed"), []byte("SELECT SLEEP(4);\n-- Dump completed"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() {
		ended <- s.run(t.Context(), "remnant", strings.NewReader("SELECT SLEEP(2);\nINSERT INTO `re \"cords` (name) VALUES ('late');\n"))
	}()
	statetest.Await(t, "the session", func() error {
		rows, err := s.ask(t.Context(), "SELECT JSON_ARRAY(COUNT(*)) FROM information_schema.PROCESSLIST WHERE INFO LIKE 'SELECT SLEEP(2)%';")
		if err != nil || rows[0].Text(0) != "1" {
			return fmt.Errorf("%v, %w", rows, err)
		}
		return nil
	})
	if err := m.Load(t.Context(), in, p); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the session of the load that was cut off went on to its end")
	}
	if err := m.Verify(t.Context(), in, p); err != nil {
		t.Error(err)
	}
}

// foreign has a database of the component's name that nobody of ours made.
func foreign(t *testing.T, d *daemon) {
	in, m := d.instance(t, "foreign"), New(t.TempDir())
	s := serverOf(in.Settings)
	who := account(app(in), "localhost")
	if _, err := s.ask(t.Context(), "CREATE DATABASE `foreign`; CREATE USER "+who+" IDENTIFIED BY 'app'; GRANT ALL ON `foreign`.* TO "+who+";"); err != nil {
		t.Fatal(err)
	}
	if err := m.Stop(t.Context(), in); err != nil {
		t.Error(err)
	}
	if err := m.Delete(t.Context(), in); !errors.As(err, new(*activate.NotGarbageError)) {
		t.Errorf("deleted: %v", err)
	}
	if out, err := d.sql(t.Context(), in, "SELECT 1;"); err != nil || out != "1\n" {
		t.Errorf("%q %v", out, err)
	}
}

// patterns has an account that may write to databases of which this one is only one.
func patterns(t *testing.T, d *daemon) {
	in, m := d.instance(t, "pa1"), New(t.TempDir())
	if _, err := serverOf(in.Settings).ask(t.Context(), "CREATE USER many@localhost; GRANT ALL ON `pa_`.* TO many@localhost;"); err != nil {
		t.Fatal(err)
	}
	if err := m.Prepare(t.Context(), in); err == nil || !strings.Contains(err.Error(), "many") {
		t.Errorf("prepared: %v", err)
	}
	if err := m.Start(t.Context(), in); err == nil || !strings.Contains(err.Error(), "many") {
		t.Errorf("started: %v", err)
	}
	if list, err := m.Observe(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("observed %+v, %v", list, err)
	}
}

// deletionCutOff ends a deletion after each of its statements: the next one finishes it, and until then nothing starts or
// is dumped that is not whole.
func deletionCutOff(t *testing.T, d *daemon) {
	in, m := d.instance(t, "deletion"), New(t.TempDir())
	s := serverOf(in.Settings)
	real := statetest.Need(t, "mariadb")
	for n, ended := 0, false; !ended; n++ {
		if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
			t.Fatal(err)
		}
		bad := in
		bad.Settings = d.settings()
		bad.Settings["mysqlPrograms"] = t.TempDir()
		// Each statement is a line, of which the first is of no account; what is no deletion goes through.
		statetest.Program(t, bad.Settings["mysqlPrograms"], "mariadb", `sed 's/; */;\n/g' > $0.in; if grep -q DROP $0.in; then head -n `+fmt.Sprint(n)+` $0.in > $0.cut; `+
			real+` "$@" < $0.cut; cmp -s $0.cut $0.in; else exec `+real+` "$@" < $0.in; fi`)
		err := m.Delete(t.Context(), bad)
		if ended = err == nil; ended && n < 6 {
			t.Fatalf("it was %d statements", n)
		}
		if p, err := m.Dump(t.Context(), in, t.TempDir(), true); err == nil && n > 2 {
			t.Fatalf("cut off after %d statements: dumped: %+v", n, p)
		}
		if err := m.Delete(t.Context(), in); err != nil {
			t.Fatalf("cut off after %d statements: %v", n, err)
		}
		left, err := s.ask(t.Context(), "SELECT JSON_ARRAY(SCHEMA_NAME) FROM information_schema.SCHEMATA WHERE SCHEMA_NAME LIKE 'deletion%' UNION SELECT JSON_ARRAY(Db) FROM mysql.db WHERE Db LIKE 'deletion%';")
		if err != nil || len(left) > 0 {
			t.Fatalf("cut off after %d statements: %v are left (%v)", n, left, err)
		}
		if list, err := m.Garbage(t.Context()); err != nil || len(list) > 0 {
			t.Fatalf("%+v, %v", list, err)
		}
	}
}

// crash kills the server in the middle of a dump.
func crash(t *testing.T, d *daemon) {
	in, m := d.instance(t, "crash"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if _, err := d.sql(t.Context(), in, "CREATE TABLE big AS SELECT REPEAT('x', 1000) AS t FROM seq_1_to_20000;"); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	// What mariadb-dump says after its first megabyte is read when the server is gone: more than pipes and buffers hold.
	statetest.Program(t, dir, "mariadb-dump", statetest.Need(t, "mariadb-dump")+` "$@" | { head -c 1000000; touch `+dir+`/dumped; while ! test -e `+dir+`/go; do sleep 0.02; done; cat; }`)
	in.Settings["mysqlPrograms"] = dir
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
	statetest.Await(t, "mariadb-dump", func() error { _, err := os.Stat(filepath.Join(dir, "dumped")); return err })
	d.kill()
	if err := os.WriteFile(filepath.Join(dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if list, err := m.Observe(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("observed %+v, %v", list, err)
	}
	in.Spec.StartDeadline = time.Millisecond
	if err := m.Start(t.Context(), in); err == nil {
		t.Error("started without a server")
	} else {
		t.Log(err)
	}
	d.run(t, password)
	if list, err := m.Observe(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("observed %+v, %v", list, err)
	}
}

const sample = "-- MariaDB dump 10\n--\n-- Host: localhost    Database: x\n-- Server version\t10\n\nSET x = 0;\n-- Table structure for table `a``b`\nCREATE TABLE `a``b` (\n  `x` int(11)\n);\n" +
	"-- Dumping data for table `a``b`\nLOCK TABLES `a``b` WRITE;\nINSERT INTO `a``b` VALUES\n('a\\n(1),(2'),\n(';');\nUNLOCK TABLES;\nINSERT INTO `in a routine` VALUES\n(1);\n-- Dump completed\n"

func TestScan(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	rows, err := scan(strings.NewReader(sample), &out)
	if err != nil || len(rows) != 1 || rows["a`b"] != 2 || strings.Contains(out.String(), "Server version") {
		t.Fatalf("%v, %v, %s", rows, err, out.String())
	}
	for n := range sample[:len(sample)-1] {
		if rows, err := scan(strings.NewReader(sample[:n]), io.Discard); err == nil {
			t.Errorf("cut after %d bytes: taken for complete: %v", n, rows)
		}
	}
	long := strings.Replace(sample, "(';');", "('"+strings.Repeat("1", 200_000)+"'),\n('2');", 1)
	if rows, err := scan(strings.NewReader(long), io.Discard); err != nil || rows["a`b"] != 3 {
		t.Errorf("a long row: %v, %v", rows, err)
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
		again, err := scan(bytes.NewReader(out.Bytes()), io.Discard)
		if err != nil || activate.CompareFacts(rows.Facts(), again.Facts()) != nil {
			t.Errorf("%v, and scanned again %v: %v", rows, again, err)
		}
	})
}
