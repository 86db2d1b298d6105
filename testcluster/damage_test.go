//go:build linux

package testcluster

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// damagePacks flips a bit in the middle of everything that a node's store has packed, or one in every hundred bytes, and
// says in how many files.
func damagePacks(t *testing.T, n *Node, all bool) (damaged int) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(n.DataDir(), "store", "packs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			return err
		}
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		damaged++
		for at := 50; all && at < len(b); at += 100 {
			b[at] ^= 1
		}
		b[len(b)/2] ^= 1
		_, err = f.WriteAt(b, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return damaged
}

// TestDamageIsHealed: what a disk has damaged is found, named and fetched from another node, by a check or by who needs
// it; where nobody has it whole, the snapshot and its service are named, and nothing wrong is restored.
func TestDamageIsHealed(t *testing.T) {
	c := real(t, 3)
	deployed(t, c.Node(0).Deploy(stateful("n2").Change("db", func(s *Service) { s.Copies = 2 })))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, c.Node(0), "db")
	w.moreWrites(t, 20)
	w.end()
	before := stateOf(t, w)
	deployed(t, cli(t, c.Node(0), "snapshot", "db"))
	var copyOn string
	Await(t, "a second copy", smokeTimeout, func() error {
		list := snapshots(t, c.Node(1), "db")
		for _, h := range list[0].Holders {
			if h != "n2" {
				copyOn = h
				return nil
			}
		}
		return fmt.Errorf("held by %v", list[0].Holders)
	})
	if damagePacks(t, c.Node(1), false) == 0 {
		t.Fatal("nothing was damaged")
	}
	r := cli(t, c.Node(0), "check")
	if r.Code != ExitFailed || !strings.Contains(r.Stdout+r.Stderr, "healed from other nodes") {
		t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	deployed(t, cli(t, c.Node(0), "check"))

	damagePacks(t, c.Node(1), false)
	w = startWriterAt(t, c, c.Node(0), "db", w)
	w.moreWrites(t, 5)
	w.end()
	deployed(t, cli(t, c.Node(2), "restore", "db@1", "--yes"))
	if got := stateOf(t, w); got != before {
		t.Errorf("restored %d bytes, not %d", len(got), len(before))
	}
	settledAnswers(t, c, 1, "1")

	damagePacks(t, c.Node(1), true)
	damagePacks(t, c.Node(2), true)
	damagePacks(t, c.Node(0), true)
	r = cli(t, c.Node(0), "check")
	if out := r.Stdout + r.Stderr; r.Code != ExitFailed || !strings.Contains(out, "lost: snapshot 1 of db") {
		t.Errorf("damaged on n2 and %s; exit %d: %s", copyOn, r.Code, out)
	}
}
