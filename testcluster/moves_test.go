//go:build linux

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// movable is a kind of state that goes from one node to another.
type movable struct {
	name   string
	needs  []string // programs, as patterns of paths
	writer string   // the service that clients write to
	// model writes a model whose state is on the node at. What needs servers has them on both nodes.
	model func(t *testing.T, m *mover, at string) string
	// reach returns nil if the state can be reached on a node. In the end that is one node.
	reach func(m *mover, n *Node) error
	// syncs is about how many each role's agent makes during a move, for one that was not counted before.
	syncs map[moveRole]int
}

// syncsOfMany is what was counted of the kinds that modules keep: a point beyond the last means that nobody dies.
var syncsOfMany = map[moveRole]int{leaderDies: 28, oldDies: 40, newDies: 58}

// movables are the kinds; the first keeps what a program has in a directory.
var movables = []movable{
	{name: "process", writer: "db", model: func(t *testing.T, _ *mover, at string) string { return stateful(at).Write(t) }},
	{name: "sqlite", writer: "web", syncs: syncsOfMany,
		model: func(t *testing.T, _ *mover, at string) string {
			return writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(sqliteModel, at), "staff/1.sql": "CREATE TABLE line (text TEXT); PRAGMA journal_mode = WAL;" + bulk("WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < %d) SELECT i, hex(randomblob(50)) AS t FROM i")},
				map[string]string{"web/bin/sqliteservice": SQLiteService(t)})
		},
		reach: func(_ *mover, n *Node) error {
			_, err := os.Stat(filepath.Join(n.DataDir(), "state/default/staff/live"))
			return err
		}},
	{name: "postgresql", writer: "web", needs: []string{"/usr/lib/postgresql/*/bin/initdb"}, syncs: syncsOfMany,
		model: func(t *testing.T, m *mover, at string) string { return postgresLines(t, m, at, bulkRows) },
		reach: func(m *mover, n *Node) error {
			return m.ask(n, "server", "psql -h /tmp/server -p $PORT -U postgres -d lines -XAtqc 'SELECT count(*) FROM line'")
		}},
	{name: "mysql", writer: "web", needs: []string{"/usr/sbin/mariadbd", "/usr/bin/mariadb-install-db", "/usr/bin/mariadb-dump"}, syncs: syncsOfMany,
		model: func(t *testing.T, m *mover, at string) string {
			return writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(linesModel, "mysql-database", mysqlServer, `mysqlSocket = "/tmp/server/s"`,
				`""`, m.from.Name, m.to.Name, at), "lines/1.sql": bulk("SELECT seq AS i, REPEAT(MD5(seq), 3) AS t FROM seq_1_to_%d") + "CREATE TABLE line (text text); CREATE USER IF NOT EXISTS app@localhost; GRANT ALL ON `lines`.* TO app@localhost;",
				"web/add": `echo "INSERT INTO line VALUES ('$LINE');" | mariadb --no-defaults -u app -S "$SOCKET" lines`, "web/list": `echo "SELECT text FROM line;" | mariadb --no-defaults -u app -S "$SOCKET" -N lines`},
				map[string]string{"web/bin/lineservice": LineService(t)})
		},
		reach: func(m *mover, n *Node) error {
			return m.ask(n, "server", "echo 'SELECT COUNT(*) FROM line;' | mariadb --no-defaults -u app -S /tmp/server/s lines")
		}},
	{name: "redis", writer: "web", needs: []string{"/usr/bin/redis-server", "/usr/bin/redis-cli"}, syncs: syncsOfMany,
		model: func(t *testing.T, m *mover, at string) string {
			return writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(redisModel, at),
				// Redis promises nothing for what it has not saved.
				"web/add": `redis-cli -e -h "$REDIS" -p "$SQL" RPUSH lines "$LINE" && redis-cli -e -h "$REDIS" -p "$SQL" SAVE`, "web/list": `redis-cli -e -h "$REDIS" -p "$SQL" LRANGE lines 0 -1`},
				map[string]string{"web/bin/lineservice": LineService(t)})
		},
		reach: func(m *mover, n *Node) error {
			return m.ask(n, "lines", "REDISCLI_AUTH=secret redis-cli -e -h $HOST -p $PORT LLEN lines")
		}},
}

// bulk makes a table of rows that are never changed, so that dumping and loading take their time and are hit too.
func bulk(query string) string {
	return " CREATE TABLE bulk AS " + fmt.Sprintf(query, bulkRows) + ";\n"
}

const bulkRows = 20_000 // about 2 MB

// postgresLines is linesModel with PostgreSQL, and so many rows beside the lines. Its programs are looked for in /tmp/tools
// first.
func postgresLines(t *testing.T, m *mover, at string, rows int) string {
	settings := `postgresqlPort = dep.server.port.sql, postgresqlRuntimeDir = "/tmp/server", postgresqlPrograms = "/tmp/tools"`
	return writeModel(t, map[string]string{"services.hcl": fmt.Sprintf(linesModel, "postgresql-database", postgresServer, settings, "dep.lines.port", m.from.Name, m.to.Name, at),
		"lines/1.sql": "CREATE TABLE line (text text);" + fmt.Sprintf(" CREATE TABLE bulk AS SELECT i, repeat(md5(i::text), 3) AS t FROM generate_series(1, %d) i;", rows),
		"web/add":     `psql -h "$SOCKET" -p "$SQL" -U postgres -d lines -Xqtv ON_ERROR_STOP=1 -c "INSERT INTO line VALUES ('$LINE')"`,
		"web/list":    `psql -h "$SOCKET" -p "$SQL" -U postgres -d lines -XAtqc "SELECT text FROM line"`},
		map[string]string{"web/bin/lineservice": LineService(t)})
}

// linesModel has a server on each of two nodes, a database on one of them and a program that writes to it: the database's
// type, the server's program, the database's settings, its port, the two nodes and the database's.
const linesModel = `
service "server" {
  type      = "process"
  instances = 2
  port "sql" {}
  run {
    %[2]s
    env = {
      HOST = self.host
      PORT = self.port.sql
    }
  }
}

service "lines" {
  type       = %[1]q
  package    = "./lines"
  depends_on = ["server"]
  settings   = { %[3]s }
}

service "web" {
  type       = "process"
  package    = "./web"
  depends_on = ["lines"]
  port "http" {}
  run {
    command = ["bin/lineservice"]
    env = {
      HOST    = self.host
      PORT    = self.port.http
      ADD     = ". ./add"
      LIST    = ". ./list"
      SOCKET  = dep.lines.socket
      SQL     = %[4]s
      VERSION = "1"
    }
  }
  health {
    http = "/healthz"
  }
}

distribution {
  pin = { server = [%[5]q, %[6]q], lines = [%[7]q] }
}
`

const postgresServer = `
    user    = "postgres"
    command = ["sh", "-ec", <<-EOT
      PATH=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1):$PATH
      mkdir -p /tmp/server
      [ -s $STATE_DIRECTORY/data/PG_VERSION ] || initdb --no-sync -U postgres -A trust -D $STATE_DIRECTORY/data
      exec postgres -D $STATE_DIRECTORY/data -k /tmp/server -p $PORT -c listen_addresses=$HOST -c max_connections=20 -c shared_buffers=1MB
    EOT
    ]`

const mysqlServer = `
    user    = "mysql"
    command = ["sh", "-ec", <<-EOT
      mkdir -p /tmp/server
      [ -d $STATE_DIRECTORY/data/mysql ] || mariadb-install-db --no-defaults --datadir=$STATE_DIRECTORY/data --auth-root-authentication-method=normal --skip-test-db
      exec mariadbd --no-defaults --datadir=$STATE_DIRECTORY/data --socket=/tmp/server/s --bind-address=$HOST --port=$PORT --pid-file=/tmp/server/pid --tmpdir=/tmp/server --innodb-buffer-pool-size=8M
    EOT
    ]`

const redisModel = `
service "lines" {
  type     = "redis"
  settings = { redisPassword = "secret" }
  port "main" {}
}

service "web" {
  type       = "process"
  package    = "./web"
  depends_on = ["lines"]
  port "http" {}
  run {
    command = ["bin/lineservice"]
    env = {
      HOST    = self.host
      PORT    = self.port.http
      ADD     = ". ./add"
      LIST    = ". ./list"
      REDIS   = dep.lines.host
      SQL     = dep.lines.port.main
      REDISCLI_AUTH = "secret"
      VERSION = "1"
    }
  }
  health {
    http = "/healthz"
  }
}

distribution {
  pin = { lines = [%[1]q] }
}
`

// needs skips the test, or fails it on CI, unless each pattern is there.
func needs(t *testing.T, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if found, _ := filepath.Glob(p); len(found) > 0 {
			continue
		}
		if os.Getenv("CI") == "true" {
			t.Fatalf("no %s (make deps)", p)
		}
		t.Skipf("no %s (make deps)", p)
	}
}

// moveRole is who dies during a move.
type moveRole string

const (
	leaderDies moveRole = "leader"
	oldDies    moveRole = "old node"
	newDies    moveRole = "new node"
)

var moveRoles = []moveRole{leaderDies, oldDies, newDies}

// mover is a cluster whose state is on one node and is to go to another; neither is the leader.
type mover struct {
	movable
	c        *Cluster
	leader   *Node
	from, to *Node
	w        *writer
}

func (m *mover) node(role moveRole) *Node {
	return map[moveRole]*Node{leaderDies: m.leader, oldDies: m.from, newDies: m.to}[role]
}

func readyToMove(t *testing.T, kind movable) *mover {
	c := Start(t, 3, WithSyncCounters())
	m := &mover{movable: kind, c: c, leader: c.WaitLeader()}
	m.from, m.to = c.Node((m.leader.index+1)%3), c.Node((m.leader.index+2)%3)
	deployed(t, m.leader.DeployDir(m.model(t, m, m.from.Name)))
	c.AwaitSettled(smokeTimeout, 1)
	m.w = startWriter(t, c, m.leader, kind.writer)
	m.w.moreWrites(t, 20)
	return m
}

// ask runs a shell command on a node, with HOST and PORT of a service that is active there.
func (m *mover) ask(n *Node, service, command string) error {
	s, err := n.Status()
	if err != nil {
		return err
	}
	for _, in := range s.Instances {
		if in.Service != service || in.Node != n.Name || in.Phase != phaseActive {
			continue
		}
		for _, port := range in.Ports {
			ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
			defer cancel()
			return n.Exec(ctx, "/bin/sh", "-ec", fmt.Sprintf("HOST=%s PORT=%d; %s", in.Address, port, command)).Failure()
		}
	}
	return fmt.Errorf("%s is not active on %s", service, n.Name)
}

// arrived awaits that the move is over and the state can be reached on the new node, and on no other.
func (m *mover) arrived(t *testing.T) {
	t.Helper()
	settledAnswers(t, m.c, 2, "1")
	if m.reach == nil {
		return
	}
	Await(t, "one copy that can be reached", smokeTimeout, func() error {
		var at []string
		var why error
		for _, n := range m.c.Nodes() {
			if err := m.reach(m, n); err == nil {
				at = append(at, n.Name)
			} else if n == m.to {
				why = err
			}
		}
		if !slices.Equal(at, []string{m.to.Name}) {
			return errors.Join(fmt.Errorf("on %q, not on %s", at, m.to.Name), why)
		}
		return nil
	})
}

// TestStateMovesThroughDeaths kills the leader, the old or the new node at a sync of a move or a moment later, with either
// death: of a process's state one point each and of the other kinds one, or with ISONOMIA_SOAK every one of each. Nothing
// that was acknowledged may be lost.
func TestStateMovesThroughDeaths(t *testing.T) {
	Require(t)
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("ISONOMIA_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("ISONOMIA_TEST_SEED=%d", seed)
	for i, kind := range movables {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			needs(t, kind.needs...)
			soak := os.Getenv("ISONOMIA_SOAK") != ""
			totals := kind.syncs
			if soak || totals == nil {
				t.Run("clean run", func(t *testing.T) { totals = syncsOfMove(t, kind) })
			}
			t.Logf("syncs during a move: %v", totals)
			points := deathsOf(totals, random)
			if !soak && kind.syncs != nil {
				points = points[:1]
			} else if !soak {
				points = slices.Collect(onePerRole(points))
			}
			for _, p := range points {
				t.Run(p.String(), func(t *testing.T) { moveThrough(t, kind, p) })
			}
		})
	}
}

// deathPoint is when who dies of what during a move.
type deathPoint struct {
	role  moveRole
	sync  int // of its agent, 1 first
	after time.Duration
	power bool // its node goes off; otherwise its agent is killed
}

func (p deathPoint) String() string {
	what := "agent killed"
	if p.power {
		what = "power off"
	}
	return fmt.Sprintf("%s, %s at %d and %v", p.role, what, p.sync, p.after)
}

// deathsOf are all points of a move in random order: at each sync, and as often up to 200 ms after it.
func deathsOf(totals map[moveRole]int, random *rand.Rand) (all []deathPoint) {
	for _, role := range moveRoles {
		for n := range totals[role] {
			for _, power := range []bool{false, true} {
				all = append(all, deathPoint{role, n + 1, 0, power}, deathPoint{role, n + 1, time.Duration(1+random.IntN(200)) * time.Millisecond, power})
			}
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// onePerRole are the first of each role.
func onePerRole(points []deathPoint) func(yield func(deathPoint) bool) {
	return func(yield func(deathPoint) bool) {
		for _, role := range moveRoles {
			if i := slices.IndexFunc(points, func(p deathPoint) bool { return p.role == role }); i >= 0 && !yield(points[i]) {
				return
			}
		}
	}
}

// syncsOfMove counts each role's syncs in a move with nobody's death.
func syncsOfMove(t *testing.T, kind movable) map[moveRole]int {
	m := readyToMove(t, kind)
	totals := map[moveRole]int{}
	for _, role := range moveRoles {
		totals[role] = -m.node(role).Syncs().Count()
	}
	deployed(t, m.leader.DeployDir(m.model(t, m, m.to.Name)))
	m.arrived(t)
	for _, role := range moveRoles {
		totals[role] += m.node(role).Syncs().Count()
	}
	m.w.nothingLost(t)
	return totals
}

func moveThrough(t *testing.T, kind movable, p deathPoint) {
	t.Parallel()
	m := readyToMove(t, kind)
	victim, other := m.node(p.role), m.leader
	if p.role == leaderDies {
		other = m.to
		m.w.end()
		m.w = startWriterAt(t, m.c, m.to, kind.writer, m.w)
	}
	fate := AgentKilled
	if p.power {
		fate = PowerCut
	}
	syncs := victim.Syncs()
	syncs.ArmAfter(p.sync, p.after, fate)
	deployed(t, other.DeployDir(m.model(t, m, m.to.Name), "--no-wait"))
	Await(t, "the death, or the end of the move", smokeTimeout, func() error {
		select {
		case <-syncs.Fired():
			return nil
		default:
			_, err := m.c.settled(2)
			return err
		}
	})
	if syncs.Disarm() {
		Await(t, "the death", smokeTimeout, func() error {
			select {
			case <-syncs.Fired():
				if slices.Contains(m.c.Up(), victim) {
					return errors.New("the killed agent is not gone yet")
				}
				return nil
			default:
				return errors.New("it is about to strike")
			}
		})
	} else {
		t.Log("nobody died: the move had fewer syncs")
	}
	victim.Revive()
	m.c.AwaitMembers(3)
	m.arrived(t)
	m.w.moreWrites(t, 1)
	if text := m.w.nothingLost(t); strings.TrimSpace(text) == "" {
		t.Error("nothing was written")
	}
}
