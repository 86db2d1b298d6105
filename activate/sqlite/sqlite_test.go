package sqlite

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/place"
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

// TestMain makes the test binary a client of its own process: `BINARY sql PATH STATEMENT...` prints the first column of
// what they return, and with `-` reads statements from stdin until it ends, as a service holds a connection open.
// `BINARY delete MARKS INSTANCE` deletes a state.
func TestMain(m *testing.M) {
	if len(os.Args) == 4 && os.Args[1] == "delete" {
		runtime.LockOSThread() // strace counts calls by thread
		var in activate.Instance
		if err := errors.Join(json.Unmarshal([]byte(os.Args[3]), &in), New(os.Args[2]).Delete(context.Background(), in)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if len(os.Args) > 3 && os.Args[1] == "sql" {
		if err := client(os.Args[2], os.Args[3:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func client(path string, statements []string) error {
	db, err := open(context.Background(), path, "rw")
	if err != nil {
		return err
	}
	run := func(s string) error {
		rows, err := db.conn.QueryContext(context.Background(), s)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v string
			if err := rows.Scan(&v); err != nil {
				return err
			}
			fmt.Printf("%q\n", v)
		}
		return rows.Err()
	}
	for _, s := range statements {
		if s == "-" {
			for in := bufio.NewScanner(os.Stdin); in.Scan(); {
				err := run(in.Text())
				fmt.Println("done", err)
			}
			continue
		}
		if err := run(s); err != nil {
			return err
		}
	}
	return db.close()
}

func query(ctx context.Context, in activate.Instance, statements ...string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "/proc/self/exe", append([]string{"sql", Outputs(in)["path"]}, statements...)...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, stderr.String())
	}
	var all []string
	for l := range strings.Lines(string(out)) {
		var v string
		if _, err := fmt.Sscanf(l, "%q", &v); err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

func instance(t *testing.T, pragma string) activate.Instance {
	t.Helper()
	dir := t.TempDir()
	pkg := filepath.Join(dir, "package")
	if err := os.Mkdir(pkg, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"10-data.sql":   "INSERT INTO \"re cords\" VALUES ('first');",
		"02-schema.sql": pragma + "CREATE TABLE \"re cords\" (name TEXT PRIMARY KEY); CREATE VIEW all_records AS SELECT * FROM \"re cords\"; CREATE VIRTUAL TABLE words USING fts5(word);",
		"readme.txt":    "not for loading",
	} {
		if err := os.WriteFile(filepath.Join(pkg, name), []byte(text), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	return activate.Instance{ID: "n1/staff/1", Attempt: 1, Service: "staff", Container: Type, Type: Type, Package: pkg,
		StateDir: filepath.Join(dir, "state"), Spec: activate.Spec{Grace: 10 * time.Second}}
}

func quoted(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func TestConformance(t *testing.T) {
	t.Parallel()
	for name, pragma := range map[string]string{"journal": "", "wal": "PRAGMA journal_mode=WAL;"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := instance(t, pragma)
			statetest.Run(t, statetest.Subject{
				New: func(marks string) activate.Stateful { return New(marks) },
				In:  in,
				Write: func(ctx context.Context, name string) error {
					_, err := query(ctx, in, "INSERT INTO \"re cords\" VALUES ("+quoted(name)+")", "INSERT INTO words VALUES ("+quoted(name)+")")
					return err
				},
				Read: func(ctx context.Context) ([]string, error) {
					return query(ctx, in, "SELECT name FROM all_records ORDER BY name")
				},
				Grow: func(ctx context.Context) error {
					_, err := query(ctx, in, "CREATE TABLE later (x)", "INSERT INTO later VALUES (1)", "CREATE VIEW seen AS SELECT * FROM later", "DELETE FROM \"re cords\" WHERE name = 'one'", "PRAGMA user_version = 7")
					return err
				},
				Initial: []string{"first"},
				Damage: func(t *testing.T, p *activate.Payload) {
					// An entry of the index that the table has otherwise: every row can be counted still.
					path := filepath.Join(p.Dir, file)
					b, err := os.ReadFile(path)
					if i := bytes.LastIndex(b, []byte("first")); err == nil && i > 0 {
						b[i] = 'F'
						err = os.WriteFile(path, b, 0o600)
					}
					if err != nil {
						t.Fatal(err)
					}
				},
			})
		})
	}
}

// TestStopWaitsForWriters holds a connection open over a stop: until it is closed, Stop does not say that nobody can
// write any more, and names who can.
func TestStopWaitsForWriters(t *testing.T) {
	t.Parallel()
	in, m := instance(t, "PRAGMA journal_mode=WAL;"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe", "sql", Outputs(in)["path"], "-")
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { stdin.Close(); _ = cmd.Wait() }()
	answers := bufio.NewScanner(stdout)
	insert := func(name string) string {
		fmt.Fprintf(stdin, "INSERT INTO \"re cords\" VALUES ('%s')\n", name)
		answers.Scan()
		return answers.Text()
	}
	if a := insert("a"); a != "done <nil>" {
		t.Fatal(a)
	}
	in.Spec.Grace = 50 * time.Millisecond
	err := m.Stop(t.Context(), in)
	var used *place.InUseError
	if !errors.As(err, &used) || used.PID != cmd.Process.Pid {
		t.Fatalf("stop with a connection open: %v", err)
	}
	t.Log(err)
	if a := insert("b"); a != "done <nil>" {
		t.Fatal(a)
	}
	in.Spec.Grace = time.Minute
	stopped := make(chan error)
	go func() { stopped <- m.Stop(t.Context(), in) }()
	stdin.Close()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil || p.Facts["rows.re cords"] != "3" {
		t.Fatalf("%+v: %v", p, err)
	}
}

// TestDumpUnderWrites dumps while a client writes: each dump is one moment of the database.
func TestDumpUnderWrites(t *testing.T) {
	t.Parallel()
	in, m := instance(t, "PRAGMA journal_mode=WAL; CREATE TABLE pairs (a INTEGER, b INTEGER);"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "sql", Outputs(in)["path"], "-")
	stdin, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan int)
	go func() {
		n := 0
		for answers := bufio.NewScanner(out); ; n++ {
			// One statement, many pages: half of it must never be seen.
			fmt.Fprintf(stdin, "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<500) INSERT INTO pairs SELECT %d, x FROM c\n", n)
			if !answers.Scan() || answers.Text() != "done <nil>" {
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
		rows := p.Facts["rows.pairs"]
		if len(rows) >= 3 && !strings.HasSuffix(rows, "00") {
			t.Fatalf("%s rows", rows)
		}
		if seen[rows] = true; len(seen) < 3 {
			return fmt.Errorf("seen %v", seen)
		}
		return nil
	})
	cancel()
	_ = cmd.Wait()
	t.Log(<-wrote, "statements,", len(seen), "dumps")
}

func TestDumpFailures(t *testing.T) {
	t.Parallel()
	in, m := instance(t, ""), New(t.TempDir())
	if err := errors.Join(m.Start(t.Context(), in)); err != nil {
		t.Fatal(err)
	}
	path := Outputs(in)["path"]
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"empty":     {},
		"truncated": good[:len(good)-4096],
		"garbage":   slices.Concat(good[:4096], make([]byte, len(good)-4096)),
		"text":      []byte(strings.Repeat("no database ", 1000)),
	} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := m.Dump(t.Context(), in, t.TempDir(), false)
		if err == nil {
			t.Errorf("%s: dumped: %+v", name, p)
		}
		t.Log(name, err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := errors.Join(os.WriteFile(secret, good, 0o600), os.Symlink(secret, path)); err != nil {
		t.Fatal(err)
	}
	if p, err := m.Dump(t.Context(), in, t.TempDir(), false); err == nil {
		t.Errorf("a link was dumped: %+v", p)
	}
}

func TestDiskFull(t *testing.T) {
	t.Parallel()
	in, m := instance(t, "CREATE TABLE big (b BLOB); INSERT INTO big SELECT randomblob(2000000);"), New(t.TempDir())
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	small := statetest.SmallDisk(t, "1m")
	if p, err := m.Dump(t.Context(), in, small, false); err == nil {
		t.Fatalf("dumped: %+v", p)
	} else {
		t.Log(err)
	}
	if err := m.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	p, err := m.Dump(t.Context(), in, t.TempDir(), true)
	if err != nil {
		t.Fatal(err)
	}
	// A load that has no room leaves nothing that could be taken for the state.
	in.StateDir = filepath.Join(small, "state")
	if err := os.Remove(filepath.Join(small, file)); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := m.Load(t.Context(), in, p); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("loaded: %v", err)
	}
	if dir, _, err := place.Place(in.StateDir).Find(); dir != "" || err != nil {
		t.Fatalf("there is a state: %s %v", dir, err)
	}
}

// TestDeleteIsFinished kills an agent at each step of a deletion: until a second one, all of the state is there or
// nothing, and after it nothing.
func TestDeleteIsFinished(t *testing.T) {
	t.Parallel()
	strace := statetest.Need(t, "strace")
	in, marks := instance(t, ""), t.TempDir()
	m := New(marks)
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for n, ended := 1, false; !ended; n++ {
		if err := errors.Join(m.Start(t.Context(), in), m.Stop(t.Context(), in)); err != nil {
			t.Fatal(err)
		}
		out, err := exec.CommandContext(t.Context(), strace, "-f", "-o", "/dev/null", "-e", "trace=renameat,unlinkat,fsync", "-e", fmt.Sprintf("inject=renameat,unlinkat,fsync:signal=KILL:when=%d", n),
			self, "delete", marks, string(b)).CombinedOutput()
		if ended = err == nil; ended && n < 5 || n > 50 || err != nil && len(out) > 0 {
			t.Fatalf("%d steps: %v: %s", n, err, out)
		}
		dir, _, err := place.Place(in.StateDir).Find()
		if err != nil {
			t.Fatal(err)
		}
		if dir != "" {
			if p, err := m.Dump(t.Context(), in, t.TempDir(), true); err != nil || p.Facts["rows.re cords"] != "1" {
				t.Fatalf("killed at %d (%s): %+v, %v", n, out, p, err)
			}
		}
		if err := m.Delete(t.Context(), in); err != nil {
			t.Fatalf("after a death at %d: %v", n, err)
		}
		statetest.Gone(t, in)
		if list, err := m.Garbage(t.Context()); err != nil || len(list) > 0 {
			t.Fatalf("after a death at %d: %+v, %v", n, list, err)
		}
	}
}

// TestCreateFails leaves nothing behind that would count as created.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	in, m := instance(t, "CREATE TABLE oops (;"), New(t.TempDir())
	err := m.Start(t.Context(), in)
	if err == nil || !strings.Contains(err.Error(), "02-schema.sql") {
		t.Fatal(err)
	}
	if dir, _, err := place.Place(in.StateDir).Find(); dir != "" || err != nil {
		t.Fatalf("there is a state: %s %v", dir, err)
	}
}
