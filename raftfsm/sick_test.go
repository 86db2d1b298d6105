package raftfsm

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// sickDisk holds the writes of one node while it is stalled, and fails them while it is broken.
type sickDisk struct {
	mu     sync.Mutex
	stall  chan struct{} // nil = none
	broken error
}

func (d *sickDisk) write(write func() error) error {
	d.mu.Lock()
	stall, broken := d.stall, d.broken
	d.mu.Unlock()
	if stall != nil {
		<-stall
	}
	if broken != nil {
		return broken
	}
	return write()
}

func (d *sickDisk) set(stall chan struct{}, broken error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stall, d.broken = stall, broken
}

func sickCluster(t *testing.T) (*cluster, map[string]*sickDisk) {
	disks := map[string]*sickDisk{}
	c := grown(t, 3, func(cfg *Config) {
		d := &sickDisk{}
		disks[cfg.ID] = d
		cfg.disk = d.write
	})
	return c, disks
}

func TestStalledLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	c, disks := sickCluster(t)
	old := c.leader()
	rest := c.others(old)
	stall := make(chan struct{})
	disks[old.id].set(stall, nil)
	n := old.Node
	go func() { _, _ = n.Propose(c.ctx, set("k", "stalled")) }() // hangs in the old leader's write
	c.await("the stall shows", func() string {
		if old.DiskStall() == 0 {
			return "no write is under way"
		}
		return ""
	})
	// The old one cannot write, hence is replaced, though its process and its links live.
	var l *member
	c.await("another leader", func() string {
		if l = c.leader(rest...); l == old {
			return "not yet"
		}
		return ""
	})
	c.propose(l, set("k", "goes on"))
	if old.Eligible() {
		t.Error("a server with a stalled disk is eligible")
	}
	disks[old.id].set(nil, nil)
	close(stall)
	c.await("the disk counts as healthy again", func() string {
		if !old.Eligible() {
			return "not yet"
		}
		return ""
	})
	c.same()
}

func TestBrokenLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	c, disks := sickCluster(t)
	old := c.leader()
	disks[old.id].set(nil, errors.New("input/output error"))
	c.propose(c.others(old)[0], set("k", "1"))
	if l := c.leader(c.others(old)...); l == old {
		t.Errorf("%s leads with a broken disk", l.id)
	}
	disks[old.id].set(nil, nil)
	c.same()
}

// TestSickAloneGoesOn: with nobody to hand over to, a slow leader is better than none.
func TestSickAloneGoesOn(t *testing.T) {
	t.Parallel()
	var d sickDisk
	c := grown(t, 1, func(cfg *Config) { cfg.disk = d.write })
	m := c.any()
	stall := make(chan struct{})
	d.set(stall, nil)
	done := make(chan error, 1)
	go func() { _, err := m.Propose(c.ctx, set("k", "1")); done <- err }()
	c.await("stalled", func() string {
		if m.Eligible() {
			return "not yet"
		}
		return ""
	})
	d.set(nil, nil)
	close(stall)
	if err := <-done; err != nil {
		t.Error(err)
	}
	c.propose(m, set("k", "2"))
}

// TestUndecodableEntry: one node's binary does not know what the log holds. It keeps its State, does not lead, and
// the others go on.
func TestUndecodableEntry(t *testing.T) {
	t.Parallel()
	old := make(chan string, 1) // the id of the node with the old binary
	var mu sync.Mutex
	oldID := ""
	c := grown(t, 3, func(cfg *Config) {
		id := cfg.ID
		cfg.Apply = func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
			mu.Lock()
			defer mu.Unlock()
			if b, ok := cmds[0].(model.RecordBuild); ok && b.Build.Input == "new" && id == oldID {
				panic("no such case")
			}
			return Apply(s, index, cmds)
		}
	})
	l := c.leader()
	old <- l.id
	mu.Lock()
	oldID = <-old
	mu.Unlock()
	rest := c.others(l)
	before := Digest(l.State())
	c.propose(rest[0], set("new", "1")) // the leader cannot apply it: another node has to answer
	<-l.Failed()
	if must := (*MustUpgradeError)(nil); !errors.As(l.Err(), &must) || must.Index == 0 {
		t.Errorf("Err() = %v", l.Err())
	}
	next := c.leader(rest...)
	c.propose(next, set("k", "2"))
	if Digest(l.State()) != before || l.Eligible() {
		t.Error("the node that failed went on")
	}
	if err := l.Checkpoint(c.ctx); err == nil {
		t.Error("it writes checkpoints")
	}
	if _, err := l.Wait(c.ctx, next.State().Index); err == nil {
		t.Error("it waits for what it will never have")
	}
	// It never leads again, not even when it is asked to.
	ctx, cancel := context.WithTimeout(c.ctx, patience)
	defer cancel()
	if err := next.transferTo(ctx, l.id); err == nil {
		t.Error("it took leadership")
	}
	c.propose(rest[0], set("k", "3"))
	if l.IsLeader() {
		t.Error("it leads")
	}
}

func TestUndecodableAlone(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, func(cfg *Config) {
		cfg.Apply = func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
			next, res := Apply(s, index, cmds)
			if b, ok := cmds[0].(model.RecordBuild); ok && b.Build.Input == "raise" {
				next.Version = model.StateVersion + 1
			}
			return next, res
		}
	})
	m := c.any()
	entry, err := EncodeCommands([]model.Command{set("raise", "1")})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = m.submit(c.ctx, newRequestID(), entry)
	<-m.Failed()
	c.await("it leads no more", func() string {
		if m.IsLeader() {
			return "it leads"
		}
		return ""
	})
	if v := value(m.State(), "raise"); v != "" {
		t.Error("State went on")
	}
	c.close("n1")
}

// TestWedgedLeaderIsReplaced: a leader that would refuse entries for ever falls silent.
func TestWedgedLeaderIsReplaced(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	old := c.leader()
	now := time.Now()
	f := old.wedge.watch(func() raft.Future { return failedChange{} })
	old.wedge.refused(now.Add(time.Hour)) // a transfer is under way
	_ = f.Error()
	old.wedge.refused(now.Add(time.Second)) // it has just ended
	if old.wedge.wedged() {
		t.Fatal("wedged too early")
	}
	old.wedge.refused(now.Add(time.Hour))
	c.await("another leader", func() string {
		if c.leader() == old {
			return "not yet"
		}
		return ""
	})
	c.propose(old, set("k", "1"))
	if old.Eligible() {
		t.Error("it may lead again")
	}
}
