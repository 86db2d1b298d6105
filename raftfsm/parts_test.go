package raftfsm

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestRoundsBeginAfterTheQuestion: nobody gets the answer of a round that began before he asked, and those who wait
// share one.
func TestRoundsBeginAfterTheQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var rs rounds[uint64]
		goOn := make(chan struct{})
		n := uint64(0)
		ask := func() (uint64, error) {
			n++
			<-goOn
			return n, nil
		}
		answers := make(chan uint64, 10)
		join := func() {
			i, err := rs.join(context.Background(), ask)
			if err != nil {
				t.Error(err)
			}
			answers <- i
		}
		go join()
		synctest.Wait() // round 1 runs
		for range 5 {
			go join()
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if _, err := rs.join(ctx, ask); !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		synctest.Wait() // the five wait for round 2
		for _, want := range []uint64{1, 2, 2, 2, 2, 2} {
			select {
			case goOn <- struct{}{}:
				synctest.Wait()
			default:
			}
			if got := <-answers; got != want {
				t.Errorf("round %d, want %d", got, want)
			}
		}
		if n != 2 {
			t.Errorf("%d rounds for six questions", n)
		}
	})
}

func TestPulse(t *testing.T) {
	t.Parallel()
	p := newPulse(200 * time.Millisecond)
	now := time.Now()
	at := func(term uint64, d time.Duration) uint64 {
		now = now.Add(d)
		pauses, _ := p.beat(term, now)
		return pauses
	}
	first := at(1, 0)
	if n := at(1, 150*time.Millisecond); n != first {
		t.Errorf("a tick within the lease is a pause")
	}
	if n := at(1, 201*time.Millisecond); n != first+1 {
		t.Errorf("a tick later than the lease is none")
	}
	if n := at(2, time.Millisecond); n != first+2 {
		t.Errorf("a new term is none")
	}
	if pauses, since := p.beat(2, now.Add(time.Millisecond)); pauses != first+2 || !since.Equal(now) {
		t.Errorf("%d pauses, running since %v", pauses, since)
	}
	// A suspended machine: the monotonic clock stood, the wall clock went on.
	if n, _ := p.beat(2, now.Round(0).Add(time.Hour)); n != first+3 {
		t.Errorf("a suspend is none")
	}
}

func TestDiskWatch(t *testing.T) {
	t.Parallel()
	d := newDisk(Timing{Election: time.Hour}, nil, slog.New(slog.DiscardHandler))
	if err := d.time(func() error { return nil }); err != nil || !d.healthy() || d.underWay() != 0 {
		t.Error("a good write makes it sick")
	}
	bad := errors.New("input/output error")
	if err := d.time(func() error { return bad }); !errors.Is(err, bad) || d.healthy() {
		t.Error("a failed write leaves it healthy")
	}
	if _, err := d.lastWrite(); !errors.Is(err, bad) {
		t.Errorf("last error %v", err)
	}
	slow := newDisk(Timing{Election: time.Nanosecond}, nil, slog.New(slog.DiscardHandler))
	_ = slow.time(func() error {
		for slow.underWay() == 0 {
		}
		if !slow.stalled() || slow.healthy() {
			t.Error("a slow write does not stall it")
		}
		return nil
	})
	if slow.stalled() {
		t.Error("it is stalled for ever")
	}
}

func TestBridge(t *testing.T) {
	t.Parallel()
	var buf bytes.Buffer
	l := newBridge(slog.New(slog.NewTextHandler(&buf, &slog.HandlerOptions{Level: slog.LevelInfo})))
	l.Error("failed to heartbeat to", "peer", "n2")          // everyday: not shown
	l.Info("initial configuration")                          // developers': not shown
	l.Info("entering leader state", "leader", stringer("x")) // told
	l.Named("net").With("peer", "n2").Error("broken", "error", errors.New("e"), "v", hclog.Fmt("%d/%d", 1, 2))
	want := []string{
		`level=INFO msg="entering leader state" component=raft leader=x`,
		`level=WARN msg=broken component=raft part=net peer=n2 error=e v=1/2`,
	}
	lines := strings.Split(strings.TrimSpace(buf.String()), "\n")
	if len(lines) != len(want) {
		t.Fatalf("lines: %q", lines)
	}
	for i, line := range lines {
		if _, rest, _ := strings.Cut(line, " "); rest != want[i] {
			t.Errorf("%q, want %q", rest, want[i])
		}
	}
	if l.IsDebug() || !l.IsInfo() || l.GetLevel() != hclog.Info {
		t.Error("levels")
	}
}

type stringer string

func (s stringer) String() string { return string(s) }

// TestCallsForgetTheOldest: the memory of what is done is bounded.
func TestCallsForgetTheOldest(t *testing.T) {
	t.Parallel()
	var c calls
	c.init()
	var first requestID
	for i := range maxCallsDone + 10 {
		id := newRequestID()
		if i == 0 {
			first = id
		}
		if _, mine, err := c.join(id); !mine || err != nil {
			t.Fatal(mine, err)
		}
		c.finish(id, nil, nil)
	}
	if len(c.byID) != maxCallsDone || len(c.done) != maxCallsDone {
		t.Errorf("%d calls, %d done", len(c.byID), len(c.done))
	}
	if _, mine, _ := c.join(first); !mine {
		t.Error("the oldest is remembered")
	}
	for range maxCallsUnderWay - 1 {
		if _, _, err := c.join(newRequestID()); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := c.join(newRequestID()); !errors.Is(err, errBusy) {
		t.Errorf("one too many: %v", err)
	}
}
