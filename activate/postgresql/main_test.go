package postgresql

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

// cluster is a PostgreSQL server of the test's own, on a socket in a directory of its own.
type cluster struct {
	dir, bin string
	cmd      *exec.Cmd
	cred     *syscall.Credential
}

const password = "it's a \"secret\" \\"

// start makes a cluster that asks for a password, and runs it until the test ends.
func start(t *testing.T) *cluster {
	t.Helper()
	bin := filepath.Dir(statetest.Need(t, "initdb", "/usr/lib/postgresql/*/bin"))
	// A short name: that of a socket has at most 107 bytes.
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	c := &cluster{dir: dir, bin: bin}
	if os.Geteuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	pw := filepath.Join(dir, "pw")
	if err := os.WriteFile(pw, []byte(password+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	init := c.command("initdb", "--username=postgres", "--auth=scram-sha-256", "--pwfile="+pw, "--no-sync", "--encoding=UTF8", "--locale=C.UTF-8", filepath.Join(dir, "data"))
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	c.run(t)
	t.Cleanup(c.kill)
	return c
}

func (c *cluster) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, program), args...)
	cmd.Dir, cmd.SysProcAttr = c.dir, &syscall.SysProcAttr{Credential: c.cred, Pdeathsig: syscall.SIGINT}
	cmd.Env = []string{"LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin"}
	return cmd
}

func (c *cluster) run(t *testing.T) {
	t.Helper()
	c.cmd = c.command("postgres", "-D", filepath.Join(c.dir, "data"), "-c", "listen_addresses=", "-c", "unix_socket_directories="+c.dir, "-c", "fsync=off", "-c", "max_connections=20")
	log, err := os.Create(filepath.Join(c.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	statetest.Await(t, "the server", func() error {
		_, err := serverOf(c.settings()).ask(t.Context(), "SELECT json_build_array(1);")
		return err
	})
}

// kill ends the server as a crash does.
func (c *cluster) kill() {
	_ = c.cmd.Process.Signal(syscall.SIGQUIT)
	_ = c.cmd.Wait()
}

// programs is a directory for programs in the place of the server's, which its user can write to.
func (c *cluster) programs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir, "bin")
	if err := errors.Join(err, os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (c *cluster) settings() map[string]string {
	return map[string]string{"postgresqlRuntimeDir": c.dir, "postgresqlPassword": password}
}

// sql is a client, as a dependent is one.
func (c *cluster) sql(ctx context.Context, in activate.Instance, statements string) (string, error) {
	o := Outputs(in)
	cmd := exec.CommandContext(ctx, filepath.Join(c.bin, "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1")
	cmd.Env = []string{"PGHOST=" + o["socket"], "PGPORT=" + o["port"], "PGUSER=" + o["user"], "PGDATABASE=" + o["database"], "PGPASSWORD=" + password}
	cmd.Stdin = strings.NewReader(statements)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

const schema = `
CREATE ROLE "the app's" LOGIN;
CREATE SCHEMA "my schema" AUTHORIZATION "the app's";
CREATE TABLE "my schema"."re cords" (id serial, name text PRIMARY KEY);
GRANT SELECT ON "my schema"."re cords" TO "the app's";
CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM "my schema"."re cords";
CREATE FUNCTION nothing() RETURNS text LANGUAGE sql AS $$ SELECT '
-- Data for Name: x
' $$;
`

func letters(r rune) rune {
	if r < 'a' || r > 'z' {
		return -1
	}
	return r
}

func (c *cluster) instance(t *testing.T, service string) activate.Instance {
	t.Helper()
	pkg := t.TempDir()
	err := errors.Join(os.WriteFile(filepath.Join(pkg, "01-schema.sql"), []byte(strings.ReplaceAll(schema, "the app's", "the app's of "+strings.Map(letters, service))), 0o400),
		os.WriteFile(filepath.Join(pkg, "02-data.sql"), []byte("INSERT INTO \"my schema\".\"re cords\" (name) VALUES ('first');"), 0o400))
	if err != nil {
		t.Fatal(err)
	}
	return activate.Instance{ID: "n1/" + service + "/1", Attempt: 1, Service: service, Container: Type, Type: Type, Package: pkg, Settings: c.settings(),
		StateDir: filepath.Join(t.TempDir(), "state"), Spec: activate.Spec{Grace: 20 * time.Second, StartDeadline: 20 * time.Second}}
}
