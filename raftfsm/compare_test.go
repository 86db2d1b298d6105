package raftfsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// wrongNode makes the Apply of one node at a time, or of none, wrong.
func wrongNode() (wrong *atomic.Value, cfg func(*Config)) {
	wrong = &atomic.Value{}
	wrong.Store("")
	return wrong, func(cfg *Config) {
		id := cfg.ID
		cfg.Checkpoints = Checkpoints{Entries: 16}
		cfg.Apply = func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
			if wrong.Load() == id {
				cmds = []model.Command{set("k", "wrong")}
			}
			return Apply(s, index, cmds)
		}
	}
}

// awaitDiverged writes until a node has stopped.
func (c *cluster) awaitDiverged(m *member) *DivergedError {
	c.t.Helper()
	c.await(m.id+" to stop", func() string {
		c.propose(c.others(m)[0], set("k", "right"))
		if m.Err() == nil {
			return "it goes on"
		}
		return ""
	})
	diverged := (*DivergedError)(nil)
	if !errors.As(m.Err(), &diverged) || diverged.Index == 0 || diverged.Earlier {
		c.t.Fatalf("%v", m.Err())
	}
	return diverged
}

// TestDivergedServer: the State of one raft server is wrong. It alone stops, whichever it is, and does not lead; the others
// go on. After a restart it still knows, and begins anew when it is told to.
func TestDivergedServer(t *testing.T) {
	t.Parallel()
	for name, pick := range map[string]func(c *cluster) *member{
		"the leader": func(c *cluster) *member { return c.leader() },
		"a voter": func(c *cluster) *member {
			for _, m := range c.others(c.leader()) {
				if m != c.standby() {
					return m
				}
			}
			return nil
		},
		"a standby": func(c *cluster) *member { return c.standby() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong, cfg := wrongNode()
			c := grown(t, 4, cfg)
			c.awaitServers(4)
			m := pick(c)
			rest := c.others(m)
			wrong.Store(m.id)
			c.awaitDiverged(m)
			c.leader(rest...)
			at := m.State()
			for i := range 48 {
				c.propose(rest[i%3], set("k", fmt.Sprint(i)))
			}
			if m.State() != at || m.Eligible() || m.IsLeader() {
				t.Errorf("it goes on: eligible %v, leader %v", m.Eligible(), m.IsLeader())
			}
			for _, o := range rest {
				if o.Err() != nil {
					t.Errorf("%s: %v", o.id, o.Err())
				}
			}
			wrong.Store("")
			c.kill(m.id)
			m = c.start(m.id)
			if d := (*DivergedError)(nil); !errors.As(m.Err(), &d) || !d.Earlier || m.Eligible() {
				t.Errorf("after a restart: %v, eligible %v", m.Err(), m.Eligible())
			}
			c.propose(m, set("k", "later")) // it knows who leads
			if err := m.BeginAnew(); err != nil {
				t.Fatal(err)
			}
			c.kill(m.id)
			m = c.start(m.id)
			c.same()
			c.await("its vote and its seat", func() string {
				if !m.Eligible() || !m.seated() {
					return fmt.Sprintf("eligible %v, seated %v", m.Eligible(), m.seated())
				}
				return ""
			})
			aside, _ := filepath.Glob(m.dir + ".diverged-*")
			if len(aside) != 1 || !exists(filepath.Join(aside[0], logFile)) {
				t.Errorf("set aside: %v", aside)
			}
		})
	}
}

// TestFollowerOfADivergedServer: the server stops, not who follows it.
func TestFollowerOfADivergedServer(t *testing.T) {
	t.Parallel()
	wrong, cfg := wrongNode()
	c := grown(t, 10, cfg)
	f := c.awaitServers(9)[0]
	m := c.nodes[f.Following()]
	wrong.Store(m.id)
	c.awaitDiverged(m)
	c.await("another server", func() string {
		c.propose(f, set("k", "right"))
		if from := f.Following(); from == "" || from == m.id {
			return "it follows " + from
		}
		return ""
	})
	for _, o := range c.others(m) {
		if o.Err() != nil {
			t.Errorf("%s: %v", o.id, o.Err())
		}
	}
}

// TestBegunAnewGivesNoVote: with an empty log a server must not make somebody the leader who lacks what it once stored.
func TestBegunAnewGivesNoVote(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	l := c.leader()
	m, o := c.others(l)[0], c.others(l)[1]
	c.propose(l, set("k", "1"))
	term := m.raft.CurrentTerm()
	if err := m.BeginAnew(); err != nil {
		t.Fatal(err)
	}
	c.kill(m.id)
	c.kill(l.id)
	m = c.start(m.id)
	if got := m.raft.CurrentTerm(); got < term {
		t.Errorf("term %d, it was %d", got, term)
	}
	if m.memory.isWhole() || !m.Empty() {
		t.Error("it has what it had")
	}
	never := time.After(2 * time.Second) // several elections
	for tick := time.Tick(20 * time.Millisecond); ; {
		select {
		case <-tick:
			if o.IsLeader() {
				t.Fatal("it was elected")
			}
			continue
		case <-never:
		}
		break
	}
	c.start(l.id)
	c.same()
	c.propose(m, set("k", "2"))
	c.await("its vote", func() string {
		if !m.memory.isWhole() {
			return "it still waits"
		}
		return ""
	})
}

// aside is the number under which the test, or beginAnew, set a directory aside.
func aside(last uint64, cut string) uint64 {
	if strings.HasPrefix(cut, "between") {
		return 9
	}
	return last
}

// TestBeginAnewIsCut: wherever the power fails, the next start goes on.
func TestBeginAnewIsCut(t *testing.T) {
	t.Parallel()
	for name, cut := range map[string]func(dir, next string) error{
		"nowhere": func(string, string) error { return nil },
		"while the new directory is made": func(dir, next string) error {
			return errors.Join(os.Mkdir(next, 0o700), os.WriteFile(filepath.Join(next, logFile), []byte("half"), 0o600))
		},
		"between the renames": func(dir, next string) error {
			_, err := makeAnew(dir, next)
			return errors.Join(err, os.Rename(dir, dir+".diverged-9"))
		},
		"between the renames, and the directory is made": func(dir, next string) error {
			_, err := makeAnew(dir, next)
			return errors.Join(err, os.Rename(dir, dir+".diverged-9"), os.Mkdir(dir, 0o700))
		},
	} {
		c := grown(t, 1, nil)
		m := c.any()
		c.propose(m, set("k", "1"))
		last, term := m.raft.LastIndex(), m.raft.CurrentTerm()
		if err := errors.Join(m.BeginAnew(), m.Checkpoint(c.ctx)); err != nil {
			t.Fatal(err)
		}
		c.kill(m.id)
		if err := cut(m.dir, m.dir+".anew"); err != nil {
			t.Fatal(err)
		}
		m = c.start(m.id)
		if m.raft.CurrentTerm() != term || !exists(fmt.Sprintf("%s.diverged-%d", m.dir, aside(last, name))) || !m.Empty() {
			t.Errorf("%s: term %d of %d, the log reached to %d", name, m.raft.CurrentTerm(), term, last)
		}
		if exists(m.dir + ".anew") {
			t.Errorf("%s: the work is not ended", name)
		}
	}
}
