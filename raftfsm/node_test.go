package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

func TestOneNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, nil)
	m := c.start("n1")
	if s := m.State(); s == nil || s.Cluster.ID != "" {
		t.Fatalf("State before Init: %+v", s)
	}
	c.kill("n1")
	m = c.bootstrap("n1")
	res := c.propose(m, set("k", "1"), set("k", "2"))
	if s := m.State(); value(s, "k") != "2" || s.Index != res[1].Index {
		t.Fatalf("after two commands: %q at %d, want 2 at %d", value(s, "k"), s.Index, res[1].Index)
	}
	err := m.Bootstrap(c.ctx, model.Init{})
	if refused := (*model.ResultError)(nil); !errors.As(err, &refused) || refused.Result.Code != model.ErrInitialised {
		t.Fatalf("second bootstrap: %v", err)
	}
	before := Digest(m.State())
	c.close("n1")
	m = c.start("n1")
	if s, err := m.Read(c.ctx); err != nil || Digest(s) != before {
		t.Fatalf("after a restart: %v, digests equal: %v", err, err == nil && Digest(s) == before)
	}
}

func TestProposeFromEveryNode(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	for i, m := range c.live() {
		want := fmt.Sprint(i)
		res := c.propose(m, set("k", want))
		if s, err := m.Wait(c.ctx, res[0].Index); err != nil || value(s, "k") != want {
			t.Errorf("%s: %v, %v", m.id, s, err)
		}
		for _, o := range c.live() { // linearizable: whoever reads after the answer sees it
			if s, err := o.Read(c.ctx); err != nil || value(s, "k") != want {
				t.Errorf("%s reads after %s wrote: %q, %v", o.id, m.id, value(s, "k"), err)
			}
		}
	}
	c.same()
}

func TestRefusedCommandIsNoError(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	res, err := c.any().Propose(c.ctx, model.RevokeToken{ID: "none"}, set("k", "1"))
	if err != nil || res[0].Code != model.ErrUnknown || res[1].Code != model.OK {
		t.Fatalf("%v, %v", res, err)
	}
}

func TestFailover(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	for round := range 3 {
		old := c.leader()
		want := fmt.Sprint("round ", round)
		c.crash(old.id)
		c.propose(c.any(), set("k", want)) // began without a leader, ends with one
		if l := c.leader(); l == old {
			t.Fatalf("%s still leads", l.id)
		}
		back := c.start(old.id)
		if s, err := back.Read(c.ctx); err != nil || value(s, "k") != want {
			t.Fatalf("%s after its return: %v", back.id, err)
		}
	}
	c.same()
}

func TestCloseHandsLeadershipOver(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	old := c.leader()
	rest := c.others(old)
	term := old.Stats().Term
	c.close(old.id)
	l := c.leader(rest...)
	// A handover is one election, begun by the old leader. Waiting for the heartbeat timeout is another way to a
	// new leader, and is seen by the followers having lost contact first: no absolute time is compared.
	if got := l.Stats().Term; got != term+1 {
		t.Errorf("term %d after %d: more than one election", got, term)
	}
	c.propose(l, set("k", "1"))
}

func TestMinorityHasNoQuorum(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	c.propose(c.any(), set("k", "old"))
	c.same()
	l := c.leader()
	c.isolate(l.id)
	rest := c.others(l)
	c.propose(rest[0], set("k", "new"))

	ctx, cancel := context.WithTimeout(c.ctx, 600*time.Millisecond)
	defer cancel()
	if _, err := l.Propose(ctx, set("k", "lost")); !errors.Is(err, ErrNoQuorum) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("propose on a minority: %v", err)
	}
	ctx, cancel = context.WithTimeout(c.ctx, 600*time.Millisecond)
	defer cancel()
	if s, err := l.Read(ctx); !errors.Is(err, ErrNoQuorum) {
		t.Errorf("read on a minority: %q, %v", value(s, "k"), err)
	}
	if v := value(l.State(), "k"); v != "old" { // the stale read, by its name
		t.Errorf("State on a minority has %q", v)
	}
	c.rejoin(l.id)
	if s, err := l.Read(c.ctx); err != nil || value(s, "k") != "new" {
		t.Errorf("after the return: %v", err)
	}
	c.same()
}

// TestReadShowsNothingThatTheLeaderLacks: a follower has applied what the leader has committed but not yet applied. Shown
// there, it would be missing from the next read elsewhere.
func TestReadShowsNothingThatTheLeaderLacks(t *testing.T) {
	t.Parallel()
	var held atomic.Pointer[string] // the node that does not apply "new"
	goOn := make(chan struct{})
	c := grown(t, 3, func(cfg *Config) {
		id := cfg.ID
		cfg.Apply = func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
			next, results := Apply(s, index, cmds)
			if h := held.Load(); h != nil && *h == id && value(next, "k") == "new" {
				<-goOn
			}
			return next, results
		}
	})
	release := sync.OnceFunc(func() { close(goOn) })
	t.Cleanup(release)
	c.propose(c.any(), set("k", "old"))
	c.same()
	l := c.leader()
	ahead, other := c.others(l)[0], c.others(l)[1]
	held.Store(&l.id)
	wrote := make(chan error, 1)
	go func() { _, err := l.Propose(c.ctx, set("k", "new")); wrote <- err }()
	c.await("a follower that is ahead of the leader", func() string {
		if v := value(ahead.State(), "k"); v != "new" {
			return "k is " + v
		}
		return ""
	})
	ctx, cancel := context.WithTimeout(c.ctx, 500*time.Millisecond)
	defer cancel()
	if s, err := ahead.Read(ctx); err == nil && l.IsLeader() {
		t.Errorf("%s shows %q while the leader %s has %q", ahead.id, value(s, "k"), l.id, value(l.State(), "k"))
	}
	done := make(chan error, 1)
	var late string
	go func() { s, err := ahead.Read(c.ctx); late = value(s, "k"); done <- err }()
	release()
	if err := <-done; err != nil || late != "new" {
		t.Errorf("the read on %s: %q, %v", ahead.id, late, err)
	}
	if err := <-wrote; err != nil {
		t.Errorf("the write: %v", err)
	}
	if s, err := other.Read(c.ctx); err != nil || value(s, "k") != "new" {
		t.Errorf("a read after both: %q, %v", value(s, "k"), err)
	}
	c.same()
}

func TestWatchAndWait(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	m := c.any()
	wake, stop := m.Watch()
	defer stop()
	changed := m.Changed()
	for i := range 10 { // more changes than the channel holds: the wake stays one
		c.propose(m, set("k", fmt.Sprint(i)))
	}
	<-wake
	<-changed
	select {
	case <-wake:
		t.Error("two wakes for one look")
	default:
	}
	index := m.State().Index
	done := make(chan error, 1)
	go func() { _, err := m.Wait(c.ctx, index+1); done <- err }()
	c.propose(m, set("k", "last"))
	if err := <-done; err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(c.ctx)
	cancel()
	if _, err := m.Wait(ctx, index+100); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled wait: %v", err)
	}
}

func TestClosedNode(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	n := c.any().Node
	c.close("n1")
	if _, err := n.Propose(c.ctx, set("k", "1")); !errors.Is(err, ErrClosed) {
		t.Errorf("propose: %v", err)
	}
	if _, err := n.Read(c.ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := n.Wait(c.ctx, 1<<40); !errors.Is(err, ErrClosed) {
		t.Errorf("wait: %v", err)
	}
	if err := n.Close(c.ctx); !errors.Is(err, ErrClosed) {
		t.Errorf("close: %v", err)
	}
}

// TestLostReplies loses the replies of the first tries on the way back: the follower tries again with the same bytes,
// and the command, which is not idempotent, must have been written once.
func TestLostReplies(t *testing.T) {
	t.Parallel()
	lost := make(chan struct{}, 3)
	for range cap(lost) {
		lost <- struct{}{}
	}
	c := grown(t, 3, func(cfg *Config) {
		forward := cfg.Forward
		cfg.Forward = func(ctx context.Context, to string, req []byte) ([]byte, error) {
			rep, err := forward(ctx, to, req)
			if cfg.ID != "n1" && err == nil && len(req) > 0 && string(req[len(req)-2:]) == "tx" {
				select {
				case <-lost:
					return nil, errors.New("the reply was lost")
				default:
				}
			}
			return rep, err
		}
	})
	l := c.leader()
	c.propose(l, model.CreateToken{Token: model.Token{ID: "tx", Hash: []byte("x"), Expires: time.Now().Add(time.Hour)}})
	f := c.others(l)[0]
	if f.id == "n1" {
		f = c.others(l)[1]
	}
	before := l.raft.LastIndex()
	res := c.propose(f, model.RevokeToken{ID: "tx"})
	if len(lost) != 0 {
		t.Fatalf("%d replies were not lost", len(lost))
	}
	if after := l.raft.LastIndex(); after != before+1 || res[0].Index != after {
		t.Errorf("%d entries for one proposal", after-before)
	}
}

// TestSameProposalSameAnswer goes through a change of leader, where only the proposal id in State helps.
func TestSameProposalSameAnswer(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	deploy := []model.Command{
		model.Begin{Proposal: "p1", System: "default", Kind: model.KindDeploy},
		model.Commit{Proposal: "p1"},
	}
	first := c.propose(c.leader(), deploy...)
	old := c.leader()
	c.await("another leader", func() string {
		l := c.leader()
		if l != old {
			return ""
		}
		return fmt.Sprint(l.TransferLeadership(c.ctx))
	})
	again := c.propose(c.any(), deploy...)
	if first[1].Generation != 1 || again[1].Generation != 1 || again[1].Intent != first[1].Intent {
		t.Errorf("first %+v, again %+v", first, again)
	}
}

func TestProposeTooLarge(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	if _, err := c.any().Propose(c.ctx, set("k", string(make([]byte, MaxEntryBytes)))); !errors.Is(err, ErrTooLarge) {
		t.Error(err)
	}
}

func TestHandleForwardOfNonsense(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	m := c.any()
	if _, err := m.HandleForward(c.ctx, []byte("x")); err == nil {
		t.Error("garbage was taken")
	}
	before := m.raft.LastIndex()
	b, err := m.HandleForward(c.ctx, encodeRequest(newRequestID(), []byte{EntryVersion + 1, 0x80}))
	if err != nil {
		t.Fatal(err)
	}
	rep, err := decodeReply(b)
	if err != nil || rep.Status != statusRefused {
		t.Errorf("an entry of a newer version: %+v, %v", rep, err)
	}
	if m.raft.LastIndex() != before {
		t.Error("it is in the log")
	}
}

func TestReplyOfANewerLeader(t *testing.T) {
	t.Parallel()
	b := append([]byte{requestVersion}, mustMarshal(t, map[int]any{1: 1, 2: []any{map[int]any{6: 7, 99: "new"}}, 98: "new"})...)
	r, err := decodeReply(b)
	if err != nil || r.Status != statusDone || len(r.Results) != 1 || r.Results[0].Index != 7 {
		t.Errorf("%+v, %v", r, err)
	}
}

func FuzzForwarded(f *testing.F) {
	entry, err := EncodeCommands([]model.Command{set("k", "v")})
	if err != nil {
		f.Fatal(err)
	}
	rep, err := encodeReply(reply{Status: statusDone, Results: []model.Result{{Value: "v"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encodeRequest(requestID{1}, entry))
	f.Add(rep)
	f.Fuzz(func(t *testing.T, b []byte) {
		if id, entry, err := decodeRequest(b); err == nil && string(encodeRequest(id, entry)) != string(b) {
			t.Error("request changes")
		}
		if r, err := decodeReply(b); err == nil {
			_, _ = r.outcome()
			if _, err := encodeReply(r); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestOtherTerm: an entry stamped for a term that is over changes nothing, on every node alike.
func TestOtherTerm(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	m := c.any()
	entry, err := EncodeCommands([]model.Command{set("k", "late")})
	if err != nil {
		t.Fatal(err)
	}
	f := m.raft.ApplyLog(raft.Log{Data: entry, Extensions: stampTerm(m.Stats().Term - 1)}, enqueueTime)
	if err := f.Error(); err != nil {
		t.Fatal(err)
	}
	if answer, _ := f.Response().(error); !errors.Is(answer, errOtherTerm) {
		t.Fatal(f.Response())
	}
	if v := value(m.State(), "k"); v != "" {
		t.Errorf("it was applied: %q", v)
	}
	old := context.WithValue(c.ctx, termKey{}, m.Stats().Term-1)
	if _, err := m.ProposeLocal(old, set("k", "late")); !errors.Is(err, ErrNotLeader) {
		t.Errorf("ProposeLocal in an old term: %v", err)
	}
	if _, err := m.ProposeLocal(c.ctx, set("k", "now")); err != nil || value(m.State(), "k") != "now" {
		t.Errorf("ProposeLocal: %v", err)
	}
}

// Who asks a leader that does not answer is told as soon as another leads.
func TestWithLeaderEndsWithTheLeader(t *testing.T) {
	t.Parallel()
	c := grown(t, 3, nil)
	asker := c.others(c.leader())[0]
	asked := make(chan string, 1)
	done := make(chan error, 1)
	go func() {
		err := ErrNoQuorum
		for errors.Is(err, ErrNoQuorum) && c.ctx.Err() == nil { // on a busy machine none is known for a moment
			err = asker.WithLeader(c.ctx, func(ctx context.Context, leader string) error {
				asked <- leader
				<-ctx.Done()
				return context.Cause(ctx)
			})
		}
		done <- err
	}()
	leader := <-asked // on a busy machine leadership may have moved by itself
	if leader == asker.id {
		if err := asker.TransferLeadership(c.ctx); err != nil {
			t.Fatal(err)
		}
	} else {
		c.isolate(leader)
	}
	if err := <-done; err == nil || !strings.HasSuffix(err.Error(), " leads now") || strings.HasPrefix(err.Error(), leader) {
		t.Errorf("%s asked %s until: %v", asker.id, leader, err)
	}
}
