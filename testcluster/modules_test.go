//go:build linux

package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// writeModel makes a directory of the files given, and programs by their names in it.
func writeModel(t *testing.T, files map[string]string, programs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, program := range programs {
		if err := copyProgram(program, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const sqliteModel = `
service "staff" {
  type    = "sqlite-database"
  package = "./staff"
}

service "web" {
  type       = "process"
  package    = "./web"
  depends_on = ["staff"]
  port "http" {}
  run {
    command = ["bin/sqliteservice"]
    env = {
      HOST    = self.host
      PORT    = self.port.http
      DB      = dep.staff.path
      VERSION = "1"
    }
  }
  health {
    http = "/healthz"
  }
}

distribution {
  pin = { staff = [%q] }
}
`

// TestDatabaseMoves: a database and the program that has it open go to another node, and nothing that was acknowledged is
// lost. Only the database is pinned: its user follows it.
func TestDatabaseMoves(t *testing.T) {
	c := real(t, 3)
	model := func(node string) string {
		return writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(sqliteModel, node),
			"staff/1.sql": "CREATE TABLE line (text TEXT);", "staff/2.sql": "INSERT INTO line VALUES ('first'); PRAGMA journal_mode = WAL;"},
			map[string]string{"web/bin/sqliteservice": SQLiteService(t)})
	}
	deployed(t, c.Node(0).DeployDir(model("n2")))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, c.Node(0), "web")
	for i, to := range []string{"n3", "n2", "n1"} { // also to where an old copy is
		w.moreWrites(t, 10)
		w.pause()
		deployed(t, c.Node(i).DeployDir(model(to)))
		settledAnswers(t, c, uint64(i+2), "1")
		s, err := c.Node(0).Status()
		if err != nil {
			t.Fatal(err)
		}
		for _, in := range s.Instances {
			if in.Node != to {
				t.Errorf("%s is on %s", in.Service, in.Node)
			}
		}
		w.moreWrites(t, 1)
		t.Logf("to %s: no write for %v", to, w.pause())
	}
	if text := w.nothingLost(t); !strings.HasPrefix(text, "first\n") || strings.Count(text, "first\n") != 1 {
		t.Errorf("the package's rows: %.50q", text)
	}
}

// TestDatabaseOutlivesAgents: what is activated is found again by the next agent, and after a power cut.
func TestDatabaseOutlivesAgents(t *testing.T) {
	c := real(t, 3)
	deployed(t, c.Node(0).DeployDir(writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(sqliteModel, "n2"), "staff/1.sql": "CREATE TABLE line (text TEXT);"},
		map[string]string{"web/bin/sqliteservice": SQLiteService(t)})))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, c.Node(0), "web")
	w.moreWrites(t, 5)
	c.Node(1).KillAgent()
	c.Node(1).Revive()
	w.moreWrites(t, 5)
	c.Node(1).PowerOff()
	c.Node(1).Revive()
	c.AwaitMembers(3)
	settledAnswers(t, c, 1, "1")
	w.moreWrites(t, 5)
	w.nothingLost(t)
}

const postgresModel = `
service "server" {
  type      = "process"
  instances = 2
  port "sql" {}
  run {
    user    = "postgres"
    command = ["sh", "-ec", <<-EOT
      PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH
      mkdir -p $SOCKET
      [ -s $STATE_DIRECTORY/data/PG_VERSION ] || initdb --no-sync -U postgres -A trust -D $STATE_DIRECTORY/data
      exec postgres -D $STATE_DIRECTORY/data -k $SOCKET -p $PORT -c listen_addresses=$HOST -c max_connections=20 -c shared_buffers=1MB
    EOT
    ]
    env = {
      HOST   = self.host
      PORT   = self.port.sql
      SOCKET = "%[1]s-${self.node}"
    }
  }
}

service "accounts" {
  type       = "postgresql-database"
  package    = "./accounts"
  depends_on = ["server"]
  settings = {
    postgresqlPort       = dep.server.port.sql
    postgresqlRuntimeDir = "%[1]s-${dep.server.node}"
  }
}

service "web" {
  type       = "process"
  package    = "./web"
  depends_on = ["accounts"]
  port "http" {}
  run {
    command = ["bin/testservice"]
    env = {
      HOST    = self.host
      PORT    = self.port.http
      VERSION = "1"
    }
  }
  health {
    command = ["psql", "-h", dep.accounts.socket, "-p", dep.accounts.port, "-U", dep.accounts.user, "-d", dep.accounts.database, "-Atqc", "SELECT 1 FROM account"]
  }
}

distribution {
  pin = { server = ["n2", "n3"], accounts = [%[2]q] }
}
`

// TestServedDatabaseMoves: a database on a PostgreSQL server goes to the server of another node. The servers are services of
// the same model, so the database's module waits for them.
func TestServedDatabaseMoves(t *testing.T) {
	needs(t, "/usr/lib/postgresql/*/bin/initdb")
	c := real(t, 3)
	sockets := filepath.Join(os.TempDir(), fmt.Sprintf("isopg%d-%d", os.Getpid(), c.Node(0).index+int(servers.Add(1))))
	t.Cleanup(func() {
		for _, n := range []string{"n2", "n3"} {
			os.RemoveAll(sockets + "-" + n)
		}
	})
	model := func(node string) string {
		return writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(postgresModel, sockets, node),
			"accounts/1.sql": "CREATE TABLE account (name text PRIMARY KEY); INSERT INTO account VALUES ('root');"},
			map[string]string{"web/bin/testservice": TestService(t)})
	}
	deployed(t, c.Node(0).DeployDir(model("n2")))
	c.AwaitSettled(smokeTimeout, 1)
	want := "root\n"
	for i, to := range []int{2, 1} {
		want += fmt.Sprintf("user%d\n", i)
		sql(t, c, fmt.Sprintf("INSERT INTO account VALUES ('user%d')", i), "", sockets)
		deployed(t, c.Node(i).DeployDir(model(c.Node(to).Name)))
		settledAnswers(t, c, uint64(i+2), "1")
		if at := where(t, c, "accounts"); at.Node != c.Node(to).Name || where(t, c, "web").Node != at.Node {
			t.Errorf("accounts is on %s, web on %s", at.Node, where(t, c, "web").Node)
		}
		sql(t, c, "SELECT name FROM account ORDER BY name", want, sockets)
	}
}

var servers atomic.Int32 // counts the clusters with servers, for names of their own

// where is the instance of a service.
func where(t *testing.T, c *Cluster, service string) Instance {
	t.Helper()
	s, err := c.Node(0).Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range s.Instances {
		if in.Service == service && in.Phase == phaseActive {
			return in
		}
	}
	t.Fatalf("%s is active nowhere", service)
	return Instance{}
}

// sql asks the database accounts, on its node.
func sql(t *testing.T, c *Cluster, statement, want, sockets string) {
	t.Helper()
	at := where(t, c, "accounts").Node
	s, err := c.Node(0).Status()
	if err != nil {
		t.Fatal(err)
	}
	for _, in := range s.Instances {
		if in.Service != "server" || in.Node != at {
			continue
		}
		n := c.Node(int(at[1] - '1'))
		r := n.Exec(t.Context(), "/usr/bin/psql", "-h", sockets+"-"+at, "-p", fmt.Sprint(in.Ports["sql"]), "-U", "postgres", "-d", "accounts", "-Atqc", statement)
		if err := r.Failure(); err != nil || r.Stdout != want {
			t.Fatalf("%s: %q, not %q; %v", statement, r.Stdout, want, err)
		}
		return
	}
	t.Fatalf("no server on %s", at)
}
