package mysql

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

const password = "it's a \"secret\" \\"

// daemon is a MariaDB server of the test's own, on a socket in a directory of its own.
type daemon struct {
	dir, program string
	cmd          *exec.Cmd
	cred         *syscall.Credential
}

func start(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{program: statetest.Need(t, "mariadbd")}
	statetest.Need(t, "mariadb-dump")
	dir, err := os.MkdirTemp("", "my") // a short name: that of a socket has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d.dir = dir
	if os.Geteuid() == 0 { // it refuses to run as root
		u, err := user.Lookup("mysql")
		if err != nil {
			u, err = user.Lookup("nobody")
		}
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		d.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil { // dependents connect
		t.Fatal(err)
	}
	init := d.command(statetest.Need(t, "mariadb-install-db"), "--no-defaults", "--datadir="+filepath.Join(dir, "data"), "--auth-root-authentication-method=normal", "--skip-test-db")
	if out, err := init.CombinedOutput(); err != nil {
		t.Fatalf("mariadb-install-db: %v: %s", err, out)
	}
	d.run(t, "")
	if _, err := serverOf(map[string]string{"mysqlSocket": d.socket()}).ask(t.Context(), "SET PASSWORD = PASSWORD("+literal(password)+");"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.kill)
	return d
}

func (d *daemon) socket() string { return filepath.Join(d.dir, "s") }

func (d *daemon) settings() map[string]string {
	return map[string]string{"mysqlSocket": d.socket(), "mysqlPassword": password}
}

func (d *daemon) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir, cmd.SysProcAttr = d.dir, &syscall.SysProcAttr{Credential: d.cred, Pdeathsig: syscall.SIGKILL}
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=" + d.dir, "TMP=" + d.dir}
	return cmd
}

func (d *daemon) run(t *testing.T, pw string) {
	t.Helper()
	d.cmd = d.command(d.program, "--no-defaults", "--datadir="+filepath.Join(d.dir, "data"), "--socket="+d.socket(), "--skip-networking",
		"--pid-file="+filepath.Join(d.dir, "pid"), "--innodb-flush-log-at-trx-commit=0", "--tmpdir="+d.dir)
	log, err := os.Create(filepath.Join(d.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	d.cmd.Stdout, d.cmd.Stderr = log, log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	statetest.Await(t, "the server", func() error {
		_, err := serverOf(map[string]string{"mysqlSocket": d.socket(), "mysqlPassword": pw}).ask(t.Context(), "SELECT JSON_ARRAY(1);")
		return err
	})
}

func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	_ = d.cmd.Wait()
}

// sql is a client with the account that the package makes, as a dependent is one.
func (d *daemon) sql(ctx context.Context, in activate.Instance, statements string) (string, error) {
	o := Outputs(in)
	cmd := exec.CommandContext(ctx, "mariadb", "--no-defaults", "--socket="+o["socket"], "--user="+app(in), "--default-character-set=utf8mb4", "--batch", "--raw", "--skip-column-names",
		"--binary-mode", "--database="+o["database"])
	cmd.Env = []string{"MYSQL_PWD=app"}
	cmd.Stdin = strings.NewReader(statements)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, stderr.String())
	}
	return string(out), err
}

func app(in activate.Instance) string { return "a'p`p " + in.Service[:2] }

// schema has what makes dumps hard: a routine whose body looks like rows, a trigger, a view.
const schema = `
CREATE TABLE ` + "`re \"cords`" + ` (id INT AUTO_INCREMENT PRIMARY KEY, name VARCHAR(200) CHARACTER SET utf8mb4 COLLATE utf8mb4_bin NOT NULL UNIQUE, b BLOB);
CREATE TABLE nothing (a INT);
CREATE VIEW names AS SELECT name FROM ` + "`re \"cords`" + `;
DELIMITER ;;
CREATE TRIGGER tr BEFORE INSERT ON ` + "`re \"cords`" + ` FOR EACH ROW SET NEW.b = CONCAT(UNHEX('00ff0a28'), CAST(NEW.name AS BINARY));;
CREATE PROCEDURE proc()
BEGIN
INSERT INTO ` + "`nothing`" + ` VALUES
(1),
(2);
END;;
DELIMITER ;
`

func (d *daemon) instance(t *testing.T, service string) activate.Instance {
	t.Helper()
	pkg := t.TempDir()
	in := activate.Instance{ID: "n1/" + service + "/1", Attempt: 1, Service: service, Container: Type, Type: Type, Package: pkg, Settings: d.settings(),
		StateDir: filepath.Join(t.TempDir(), "state"), Spec: activate.Spec{Grace: 20 * time.Second, StartDeadline: 20 * time.Second}}
	who := account(app(in), "localhost")
	grant := fmt.Sprintf("CREATE USER IF NOT EXISTS %s IDENTIFIED BY 'app';\nGRANT ALL ON %s.* TO %[1]s;\n", who,
		identifier(strings.ReplaceAll(service, "_", `\_`)))
	err := errors.Join(os.WriteFile(filepath.Join(pkg, "01-schema.sql"), []byte(schema), 0o400), os.WriteFile(filepath.Join(pkg, "02-data.sql"), []byte("INSERT INTO `re \"cords` (name) VALUES ('first');"), 0o400),
		os.WriteFile(filepath.Join(pkg, "03-grants.sql"), []byte(grant), 0o400))
	if err != nil {
		t.Fatal(err)
	}
	return in
}
