//go:build linux

package testcluster

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// TestSoakLoad deploys for an hour (ISONOMIA_SOAK_FOR changes that), one version after the other, with nothing broken on
// purpose: nobody may be marked down and leadership may not move, except in rounds in which the machine itself or its disk
// stood still, which are counted apart. It runs with ISONOMIA_SOAK only.
func TestSoakLoad(t *testing.T) {
	if os.Getenv("ISONOMIA_SOAK") == "" {
		t.Skip("an hour of load: set ISONOMIA_SOAK=1 (make soak)")
	}
	length := time.Hour
	if d, err := time.ParseDuration(os.Getenv("ISONOMIA_SOAK_FOR")); err == nil {
		length = d
	}
	c := Start(t, 3)
	w, disk := startWitness(t), startDiskWitness(t)
	w.worst()
	leader := c.WaitLeader()
	rounds, excused, worst, slowest := 0, 0, time.Duration(0), time.Duration(0)
	for end := time.Now().Add(length); time.Now().Before(end); rounds++ {
		deployed(t, c.Node(rounds%3).Deploy(Random(20, 2, 5).WithVersion(fmt.Sprint(rounds))))
		late, synced, now := w.worst(), disk.worst(), c.WaitLeader()
		worst, slowest = max(worst, late), max(slowest, synced)
		switch {
		case now == leader:
		case late > lateMachine || synced > slowDisk:
			excused++
			t.Logf("round %d: leadership moved from %s to %s; the witness was late by %v, a sync took %v", rounds, leader.Name, now.Name, late, synced)
		default:
			t.Errorf("round %d: leadership moved from %s to %s, the witness was never later than %v, and no sync took more than %v", rounds, leader.Name, now.Name, late, synced)
		}
		leader = now
	}
	t.Logf("%d deployments in %v; the witness was late by %v, and a sync took %v, at the worst; leadership moved %d times in such rounds", rounds, length, worst, slowest, excused)
	for _, e := range events(t, c.Node(0)) {
		if e.Kind == "down" && worst < lateMachine {
			t.Errorf("%s: %s (the witness was late by %v)", e.At.Format(time.TimeOnly), e.Message, worst)
		}
	}
}

// lateMachine is the lateness of an idle process above which a machine may cost a leader its lease.
const lateMachine = 100 * time.Millisecond

// slowDisk is a sync from which on a disk may cost a leader its leadership: raftfsm calls 2 s a stall, and what it syncs is
// larger than what the witness does.
const slowDisk = time.Second

// diskWitness syncs a small file, on the file system that the nodes are on, ten times a second.
type diskWitness struct{ longest atomic.Int64 }

func startDiskWitness(t *testing.T) *diskWitness {
	f, err := os.CreateTemp(baseDir(), "witness-")
	if err != nil {
		t.Fatal(err)
	}
	w := &diskWitness{}
	ctx, cancel := context.WithCancel(t.Context())
	var done sync.WaitGroup
	done.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			began := time.Now()
			if _, err := f.WriteAt([]byte(began.String()), 0); err == nil && f.Sync() == nil {
				w.longest.Store(max(w.longest.Load(), int64(time.Since(began))))
			}
		}
	})
	t.Cleanup(func() { cancel(); done.Wait(); _ = f.Close(); _ = os.Remove(f.Name()) })
	return w
}

// worst is the longest sync since it was asked last.
func (w *diskWitness) worst() time.Duration { return time.Duration(w.longest.Swap(0)) }

func events(t *testing.T, n *Node) []api.Event {
	t.Helper()
	var out []api.Event
	for e, err := range n.API().Events(t.Context(), api.EventQuery{Tail: 1000}) {
		if err != nil {
			if strings.Contains(err.Error(), "EOF") {
				break
			}
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}
