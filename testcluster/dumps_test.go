//go:build linux

package testcluster

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// failingDump is a pg_dump that does what is in a file beside it, each of which a pipe hides from its reader.
const failingDump = `#!/bin/sh
real=$(ls -d /usr/lib/postgresql/*/bin | tail -n 1)/pg_dump
test "$1" = --help && exec $real --help
case "$(cat /tmp/tools/mode)" in
fails)       echo connection refused >&2; exit 1 ;;
"fails late") $real "$@"; exit 1 ;;
empty)       exit 0 ;;
truncated)   $real "$@" | head -c 100000; exit 0 ;;
"few rows")  $real "$@" | sed '/^[0-9][0-9][0-9]*\t/d'; exit 0 ;;
esac
exec $real "$@"
`

// TestBadDumpIsNoGeneration: a database that did not change is no new generation of it (pg_dump's own output differs each
// time), and what a dump that failed said is none, nor what a service would be moved with.
func TestBadDumpIsNoGeneration(t *testing.T) {
	needs(t, "/usr/lib/postgresql/*/bin/initdb")
	rows, timeout := bulkRows, smokeTimeout
	if os.Getenv("ISONOMIA_SOAK") != "" {
		rows, timeout = 1_000_000, 10*time.Minute // 100 MB
	}
	c := real(t, 3)
	m := &mover{c: c, leader: c.Node(0), from: c.Node(1), to: c.Node(2)}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	for _, n := range c.Nodes() {
		deployed(t, n.Exec(ctx, "/bin/sh", "-ec", `mkdir -m 755 /tmp/tools; echo well > /tmp/tools/mode; printf %s "$0" > /tmp/tools/pg_dump; chmod 755 /tmp/tools/pg_dump`, failingDump))
	}
	deployed(t, c.Node(0).DeployDir(postgresLines(t, m, m.from.Name, rows)))
	c.AwaitSettled(timeout, 1)
	snapshot := func(generations int) api.Snapshot {
		t.Helper()
		began := time.Now()
		deployed(t, c.Node(0).CLI(ctx, "snapshot", "lines"))
		took := time.Since(began)
		list := snapshots(t, c.Node(0), "lines")
		if len(list) != generations {
			t.Fatalf("%d generations, not %d: %+v", len(list), generations, list)
		}
		t.Logf("a snapshot of %d bytes in %v", list[0].Size, took)
		return list[0]
	}
	first := snapshot(1)
	if first.Size < int64(rows)*90 {
		t.Errorf("%d bytes of %d rows", first.Size, rows)
	}
	snapshot(1)
	mode := func(what string) {
		t.Helper()
		deployed(t, m.from.Exec(ctx, "/bin/sh", "-ec", `echo "$0" > /tmp/tools/mode`, what))
	}
	for _, what := range []string{"fails", "fails late", "empty", "truncated", "few rows"} {
		mode(what)
		r := c.Node(0).CLI(ctx, "snapshot", "lines")
		if r.Code != ExitFailed {
			t.Errorf("%s: exit %d, %s%s", what, r.Code, r.Stdout, r.Stderr)
		}
		t.Logf("%s: %s", what, r.Stderr)
		if list := snapshots(t, c.Node(0), "lines"); len(list) != 1 || list[0].ID != first.ID {
			t.Fatalf("%s: it became a generation: %+v", what, list)
		}
	}
	w := startWriter(t, c, c.Node(0), "web")
	w.moreWrites(t, 5)
	if r := c.Node(0).DeployDir(postgresLines(t, m, m.to.Name, rows)); r.Code != ExitRolledBack {
		t.Errorf("moved without a dump: exit %d, %s", r.Code, r.Stdout)
	}
	w.moreWrites(t, 5)
	if at := where(t, c, "lines").Node; at != m.from.Name {
		t.Errorf("lines is on %s", at)
	}
	mode("well")
	w.nothingLost(t)
	if again := snapshot(2); again.ID == first.ID {
		t.Error("what was written is not in the snapshot")
	}
	deployed(t, c.Node(0).CLI(ctx, "restore", "lines@1", "--yes"))
	Await(t, "the restored state", timeout, func() error {
		text, err := w.read()
		if err == nil && text != "" {
			err = fmt.Errorf("%q", text)
		}
		return err
	})
}
