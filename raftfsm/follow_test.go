package raftfsm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// awaitServers waits until the leader has so many raft servers, and gives the members that follow.
func (c *cluster) awaitServers(n int) (followers []*member) {
	c.t.Helper()
	c.await("raft servers", func() string {
		followers = nil
		servers := c.leader().Servers()
		if len(servers) != n {
			return fmt.Sprintf("%d servers: %+v", len(servers), servers)
		}
		for _, m := range c.live() {
			follows := !slices.ContainsFunc(servers, func(s Server) bool { return s.ID == m.id })
			switch from := m.Following(); {
			case follows && from == "":
				return m.id + " follows nobody"
			case !follows && from != "":
				return m.id + " is a raft server, and follows " + from
			case follows && len(m.Servers()) != n:
				return fmt.Sprintf("%s was told of %+v", m.id, m.Servers())
			case follows:
				followers = append(followers, m)
			}
		}
		return ""
	})
	return followers
}

// standby is a raft server that is no voter.
func (c *cluster) standby() *member {
	for _, s := range c.leader().Servers() {
		if m := c.nodes[s.ID]; !s.Voter && m.Node != nil {
			return m
		}
	}
	c.t.Fatal("no standby")
	return nil
}

func TestFollowers(t *testing.T) {
	t.Parallel()
	c := grown(t, 11, nil)
	followers := c.awaitServers(5 + Standbys)
	if len(followers) != 2 {
		t.Fatalf("%d follow", len(followers))
	}
	for i, m := range followers {
		want := fmt.Sprint(i)
		res := c.propose(m, set("k", want))
		if s, err := m.Wait(c.ctx, res[0].Index); err != nil || value(s, "k") != want {
			t.Errorf("%s waits for what it wrote: %v", m.id, err)
		}
		for _, o := range append(c.others(m), m) {
			if s, err := o.Read(c.ctx); err != nil || value(s, "k") != want {
				t.Errorf("%s reads after %s wrote: %q, %v", o.id, m.id, value(s, "k"), err)
			}
		}
		if m.Eligible() || m.IsLeader() || m.Leader() != c.leader().id {
			t.Errorf("%s: eligible %v, leads %v, says %s leads", m.id, m.Eligible(), m.IsLeader(), m.Leader())
		}
		if last := m.raft.LastIndex(); last != 0 {
			t.Errorf("%s has %d entries in raft's log", m.id, last)
		}
	}
	c.same()
	for range 3 { // the leader goes, and with it, maybe, whom they follow
		old := c.leader()
		c.crash(old.id)
		for i, m := range followers {
			c.propose(m, set("k", old.id+fmt.Sprint(i)))
		}
		c.start(old.id)
		c.leader()
	}
	c.same()
}

// TestFollowerRestartsFromDisk: it has its State before anybody tells it anything, and is sent only what it lacks.
func TestFollowerRestartsFromDisk(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, nil)
	f := c.awaitServers(9)[0]
	c.propose(f, set("k", "1"))
	c.propose(f, set("k", "2"))
	c.same()
	before := f.State()
	c.kill(f.id)
	c.isolate(f.id)
	f = c.start(f.id)
	if s := f.State(); s.Index != before.Index || Digest(s) != Digest(before) {
		t.Fatalf("State at %d, was at %d", s.Index, before.Index)
	}
	base := f.follow.store.base // before it follows, so nobody else uses it
	c.propose(c.leader(c.others(f)...), set("k", "3"))
	c.rejoin(f.id)
	c.same()
	c.kill(f.id)
	c.isolate(f.id)
	f = c.start(f.id)
	if f.follow.store.base != base || value(f.State(), "k") != "3" {
		t.Errorf("it got a checkpoint at %d for one entry: %q", f.follow.store.base, value(f.State(), "k"))
	}
	c.rejoin(f.id)
}

// TestFollowerOfTooShortALog gets a checkpoint.
func TestFollowerOfTooShortALog(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, func(cfg *Config) { cfg.Checkpoints = Checkpoints{Entries: 1 << 20, Interval: time.Hour, Trailing: 4} })
	f := c.awaitServers(9)[0]
	c.propose(f, set("k", "1"))
	c.same()
	c.kill(f.id)
	for i := range 20 {
		c.propose(c.any(), set("k", fmt.Sprint(i)))
	}
	for _, m := range c.live() {
		if err := m.Checkpoint(c.ctx); err != nil {
			t.Fatal(err)
		}
		if first, err := m.stores.logs.FirstIndex(); err != nil || first < f.stored(t)+2 {
			t.Fatalf("%s has its log from %d on: %v", m.id, first, err)
		}
	}
	c.start(f.id)
	c.same()
	c.awaitServers(9)
}

// stored is the index that a node stored while it followed.
func (m *member) stored(t *testing.T) uint64 {
	t.Helper()
	s, err := newFollowed(m.dir, testLog()).load(func(s *model.State, e feedEntry) (*model.State, error) {
		cmds, err := DecodeCommands(e.entry)
		next, _ := Apply(s, e.index, cmds)
		return next, err
	})
	if err != nil || s == nil {
		t.Fatalf("%s has stored nothing: %v", m.id, err)
	}
	return s.Index
}

// TestFollowerLeavesASilentServer: the cable of its server is pulled. Whoever asks the leader through it notices soon.
func TestFollowerLeavesASilentServer(t *testing.T) {
	t.Parallel()
	c := grown(t, 11, nil)
	for _, f := range c.awaitServers(9) {
		server := f.Following()
		c.isolate(server)
		began := time.Now()
		c.propose(f, set("k", server))
		if now := f.Following(); now == server {
			// It may have written through a leader that it still reaches; then nothing was doubted.
			if f.Leader() == server {
				t.Errorf("%s still follows %s", f.id, server)
			}
		}
		t.Logf("%s wrote %v after its server %s fell silent", f.id, time.Since(began), server)
		c.rejoin(server)
		c.same()
	}
}

// TestSeats: a standby dies and a follower takes its place; the dead one comes back as a follower, though its own log
// says that it is a server; it keeps that log, and asks for no votes.
func TestSeats(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, nil)
	f := c.awaitServers(9)[0]
	c.propose(f, set("k", "1"))
	dead := c.standby()
	log := dead.raft.LastIndex()
	c.crash(dead.id)
	c.propose(c.any(), model.MarkDown{ID: dead.id, Epoch: 1, Why: "it is dead"})
	c.await("the follower to be a standby", func() string {
		if f.Following() != "" || !f.seated() {
			return "it follows " + f.Following()
		}
		if _, err := os.Stat(filepath.Join(f.dir, followedDir)); err == nil {
			return "it keeps what it followed"
		}
		return ""
	})
	c.propose(f, set("k", "2"))
	c.same()
	c.start(dead.id)
	c.await("the dead one to follow", func() string {
		if dead.Following() == "" || !dead.follow.unseated() {
			return "it follows nobody"
		}
		return ""
	})
	c.same()
	if dead.Eligible() || dead.raft.LastIndex() < log { // the leader may have told it of its removal even so, when it came back
		t.Errorf("it has %d of its log's %d entries; its log seats it: %v; eligible: %v", dead.raft.LastIndex(), log, dead.seated(), dead.Eligible())
	}
	c.propose(dead, model.MarkUp{ID: dead.id, Epoch: 2}, set("k", "3"))
	c.same()
	c.kill(dead.id)
	c.start(dead.id)
	c.same()
	c.awaitServers(9)

	// And back: it replaces another one, with the log that it kept.
	other := c.standby()
	c.crash(other.id)
	c.propose(c.any(), model.MarkDown{ID: other.id, Epoch: c.any().State().Nodes.At(other.id).Epoch, Why: "it is dead"})
	c.await("it to be a standby again", func() string {
		if dead.Following() != "" || dead.follow.unseated() || !dead.Eligible() {
			return "it follows " + dead.Following()
		}
		return ""
	})
	c.propose(dead, set("k", "4"))
	c.same()
}

// TestFollowersThroughDeaths: nodes of all kinds crash and return while everybody writes; what was answered is in the end
// in every State.
func TestFollowersThroughDeaths(t *testing.T) {
	t.Parallel()
	c := grown(t, 11, func(cfg *Config) {
		cfg.Checkpoints = Checkpoints{Entries: 32, Interval: 100 * time.Millisecond, Trailing: 8}
	})
	c.awaitServers(9)
	rng := rand.New(rand.NewPCG(1, 2))
	want := map[string]string{}
	for round := range 6 {
		live := c.live()
		victim := live[rng.IntN(len(live))]
		c.crash(victim.id)
		for i := range 20 {
			live := c.live()
			k, v := fmt.Sprint("k", i), fmt.Sprint(round)
			c.propose(live[rng.IntN(len(live))], set(k, v))
			want[k] = v
		}
		c.start(victim.id)
	}
	c.same()
	s := c.any().State()
	for k, v := range want {
		if value(s, k) != v {
			t.Errorf("%s is %q, not %q", k, value(s, k), v)
		}
	}
	for _, m := range c.live() {
		if m.Err() != nil {
			t.Errorf("%s: %v", m.id, m.Err())
		}
	}
}

// TestDivergedFollowerStops: one node's Apply is wrong; it is found out at the next check, stops, and begins anew when it
// is started again. Nobody else stops.
func TestDivergedFollowerStops(t *testing.T) {
	t.Parallel()
	var wrong atomic.Value
	wrong.Store("")
	c := grown(t, 10, func(cfg *Config) {
		id := cfg.ID
		cfg.Checkpoints = Checkpoints{Entries: 16}
		cfg.Apply = func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
			if wrong.Load() == id {
				cmds = []model.Command{set("k", "wrong")}
			}
			return Apply(s, index, cmds)
		}
	})
	f := c.awaitServers(9)[0]
	wrong.Store(f.id)
	c.await("it to stop", func() string {
		c.propose(c.any(), set("k", "right"))
		if f.Err() == nil {
			return "it goes on"
		}
		return ""
	})
	diverged := (*DivergedError)(nil)
	if !errors.As(f.Err(), &diverged) || diverged.Index < 16 {
		t.Fatalf("%v", f.Err())
	}
	at := f.State()
	c.propose(f, set("k", "later")) // it still knows who leads
	if f.State() != at {
		t.Error("it goes on applying")
	}
	if _, err := f.Wait(c.ctx, at.Index+1); !errors.As(err, &diverged) {
		t.Errorf("wait: %v", err)
	}
	for _, m := range c.others(f) {
		if m.Err() != nil {
			t.Errorf("%s: %v", m.id, m.Err())
		}
	}
	wrong.Store("")
	c.kill(f.id)
	if _, err := os.Stat(filepath.Join(f.dir, followedDir+".diverged")); err != nil {
		t.Errorf("the wrong State is not kept: %v", err)
	}
	c.start(f.id)
	c.same()
}

// TestFollowerMustUpgrade: what a follower does not understand stops it; a binary that does goes on from there.
func TestFollowerMustUpgrade(t *testing.T) {
	t.Parallel()
	var old atomic.Value
	old.Store("")
	c := grown(t, 10, func(cfg *Config) {
		id := cfg.ID
		cfg.Apply = func(s *model.State, index uint64, cmds []model.Command) (*model.State, []model.Result) {
			next, results := Apply(s, index, cmds)
			if old.Load() == id && value(next, "k") == "new" {
				n := *next
				n.Version = model.StateVersion + 1
				next = &n
			}
			return next, results
		}
	})
	f := c.awaitServers(9)[0]
	c.same()
	old.Store(f.id)
	at := f.State()
	c.propose(f, set("k", "new"))
	<-f.Failed()
	must := (*MustUpgradeError)(nil)
	if !errors.As(f.Err(), &must) || f.State() != at {
		t.Fatalf("%v at %d, was at %d", f.Err(), f.State().Index, at.Index)
	}
	c.propose(f, set("other", "1"))
	c.kill(f.id)
	f = c.start(f.id) // as old as it was
	<-f.Failed()
	if f.State().Index != at.Index {
		t.Errorf("after a restart at %d, was at %d", f.State().Index, at.Index)
	}
	old.Store("")
	c.kill(f.id)
	c.start(f.id)
	c.same()
}

// TestFollowerOfAClusterMadeAnew: the logs are gone, and a cluster goes on from an older State in a higher epoch. A follower
// that knows what came after goes back to that.
func TestFollowerOfAClusterMadeAnew(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, nil)
	f := c.awaitServers(9)[0]
	c.propose(f, set("k", "1"))
	c.same()
	old := *f.State()
	for i := range 20 {
		c.propose(f, set("k", fmt.Sprint("lost ", i)))
	}
	c.same()
	for _, m := range c.live() {
		if c.kill(m.id); m != f {
			if err := os.RemoveAll(m.dir); err != nil {
				t.Fatal(err)
			}
		}
	}
	old.Cluster.Epoch++
	seed := nodeID(1)
	if seed == f.id {
		seed = nodeID(2)
	}
	if err := Seed(c.nodes[seed].dir, seed, &old); err != nil {
		t.Fatal(err)
	}
	f = c.start(f.id)
	if !f.Empty() || value(f.State(), "k") != "lost 19" {
		t.Errorf("the follower has a log: %v, k = %q", !f.Empty(), value(f.State(), "k"))
	}
	for id := range c.nodes {
		if id != f.id {
			c.start(id)
		}
	}
	c.awaitServers(9)
	c.propose(f, set("new", "1"))
	c.same()
	if s := f.State(); value(s, "k") != "1" || value(s, "new") != "1" {
		t.Errorf("k = %q, new = %q", value(s, "k"), value(s, "new"))
	}
}

// TestSlowFollowerIsDropped: it reads nothing; its server has no queue for it, and lets it go.
func TestSlowFollowerIsDropped(t *testing.T) {
	t.Parallel()
	c := grown(t, 1, nil)
	m := c.any()
	conn, err := c.wires.dialFeed(c.ctx, "slow", m.id)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(hello{id: "slow", epoch: m.State().Cluster.Epoch, index: m.State().Index}.encode()); err != nil {
		t.Fatal(err)
	}
	c.await("it to follow", func() string {
		if n := m.Stats().Followers; n != 1 {
			return fmt.Sprint(n, " followers")
		}
		return ""
	})
	c.await("it to be dropped", func() string {
		c.propose(m, set("k", strings.Repeat("x", 512<<10)))
		if n := m.Stats().Followers; n != 0 {
			return "it is not"
		}
		return ""
	})
}

func TestFeedsAreLimited(t *testing.T) {
	t.Parallel()
	fs := newFeeds()
	ended := map[string]int{}
	enter := func(id string, insist bool) (*feed, bool) {
		f := &feed{to: hello{id: id, insist: insist}, end: func() { ended[id]++ }}
		return f, fs.enter(f)
	}
	var first *feed
	for i := range maxFollowers {
		f, ok := enter(fmt.Sprint(i), false)
		if !ok {
			t.Fatalf("%d followers are too many", i)
		}
		if i == 0 {
			first = f
		}
	}
	if _, ok := enter("more", false); ok {
		t.Error("one too many")
	}
	if _, ok := enter("0", false); !ok || ended["0"] != 1 {
		t.Errorf("one that comes back: %v, its old feed was ended %d times", ok, ended["0"])
	}
	if fs.leave(first); fs.count() != maxFollowers {
		t.Errorf("%d followers after the end of a feed that was replaced", fs.count())
	}
	for i := maxFollowers; i < mostInsist; i++ {
		if _, ok := enter(fmt.Sprint(i), true); !ok {
			t.Fatalf("%d followers that insist are too many", i)
		}
	}
	if _, ok := enter("more", true); ok {
		t.Error("one too many that insists")
	}
}

// TestRefusals: each kind of node that cannot feed says so, and who can.
func TestRefusals(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, nil)
	f := c.awaitServers(9)[0]
	ask := func(to string, h hello) (frameKind, refusal) {
		t.Helper()
		conn, err := c.wires.dialFeed(c.ctx, "stranger", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		if _, err := conn.Write(h.encode()); err != nil {
			t.Fatal(err)
		}
		k, body, err := readFrame(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if k != frameRefusal {
			return k, refusal{}
		}
		r, err := decodeRefusal(body)
		if err != nil {
			t.Fatal(err)
		}
		return k, r
	}
	l := c.leader()
	if k, _ := ask(l.id, hello{id: "stranger"}); k != frameStatus {
		t.Errorf("frame %d", k)
	}
	for name, k := range map[string]struct {
		to   string
		h    hello
		want reason
	}{
		"a follower":    {f.id, hello{id: "stranger"}, reasonNoServer},
		"ahead":         {l.id, hello{id: "stranger", index: 1 << 40}, reasonBehind},
		"a raft server": {l.id, hello{id: c.others(l)[0].id}, reasonServer},
	} {
		if _, r := ask(k.to, k.h); r.Reason != k.want || len(r.Servers) != 9 || r.Leader != l.id {
			t.Errorf("%s: %v, %d servers, leader %s", name, r, len(r.Servers), r.Leader)
		}
	}
}

// TestFeedOfAServerWithoutALeader ends: its followers look for one that has.
func TestFeedOfAServerWithoutALeader(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, nil)
	f := c.awaitServers(9)[0]
	server := f.Following()
	for _, m := range c.others(f) { // it reaches only its follower
		c.wires.cutLink(server, m.id)
	}
	rest := slices.DeleteFunc(c.others(c.nodes[server]), func(m *member) bool { return m == f })
	c.propose(rest[0], set("k", "1"))
	c.await("State by another server", func() string {
		if v := value(f.State(), "k"); v != "1" {
			return fmt.Sprintf("%q, following %s", v, f.Following())
		}
		return ""
	})
	c.rejoin(server)
	c.same()
}

func TestRendezvousSpreads(t *testing.T) {
	t.Parallel()
	var servers []string
	for i := range 9 {
		servers = append(servers, fmt.Sprintf("server-%d", i))
	}
	had := map[string]int{}
	for i := range 900 {
		f := fmt.Sprintf("follower-%d", i)
		order := byRendezvous(f, servers)
		had[order[0]]++
		without := slices.DeleteFunc(slices.Clone(servers), func(s string) bool { return s == order[0] })
		if got := byRendezvous(f, without); !slices.Equal(got, order[1:]) {
			t.Fatalf("the loss of one moves others: %v, %v", order, got)
		}
	}
	for s, n := range had {
		if n < 60 || n > 150 {
			t.Errorf("%s has %d of 900", s, n)
		}
	}
}

// TestFeedSendsOnlyWhatWasApplied: below the State that was restored, and up to the first entry applied since, the log may
// hold what was never committed.
func TestFeedSendsOnlyWhatWasApplied(t *testing.T) {
	t.Parallel()
	entry := func(v string) []byte {
		b, err := EncodeCommands([]model.Command{set("k", v)})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	logs := raft.NewInmemStore()
	for i := uint64(1); i <= 12; i++ {
		l := &raft.Log{Index: i, Term: 3, Type: raft.LogCommand, Data: entry(fmt.Sprint("stale ", i))}
		switch {
		case i == 9:
			l.Type = raft.LogNoop
		case i == 11:
			l.Extensions = stampTerm(2)
		case i > 9:
			l.Data = entry("applied")
		}
		if err := logs.StoreLog(l); err != nil {
			t.Fatal(err)
		}
	}
	// A checkpoint of State 6 covered the log to 8; 10 and 12 were applied since, 11 counted for nothing.
	state := &model.State{Version: 1, Index: 12, Cluster: model.Cluster{ID: "c", Epoch: 1}}
	n := &Node{log: testLog(), machine: newMachine(Apply, 0, testLog()), stores: &stores{logs: logs}, feeds: newFeeds()}
	n.machine.line.Store(&line{state: state, base: 6, from: 10})
	for _, k := range []struct {
		epoch, at uint64
		want      string
	}{{1, 0, "checkpoint"}, {1, 5, "checkpoint"}, {1, 6, "6-10 10-12"}, {1, 10, "10-12"}, {1, 12, ""},
		{0, 10, "checkpoint"}, {0, 12, "checkpoint"}, {0, 20, "checkpoint"}} {
		var out bytes.Buffer
		at, want := k.at, k.want
		f := &feed{n: n, to: hello{epoch: k.epoch}, at: at, ctx: t.Context(), w: bufio.NewWriter(&out)}
		if err := f.catchUp(); err != nil {
			t.Fatal(err)
		}
		if err := f.w.Flush(); err != nil {
			t.Fatal(err)
		}
		var got []string
		for r := bufio.NewReader(&out); ; {
			k, body, err := readFrame(r, nil)
			if err != nil {
				break
			}
			switch k {
			case frameEntry:
				e, err := decodeFeedEntry(body)
				if err != nil || bytes.Contains(e.entry, []byte("stale")) {
					t.Errorf("at %d: %v, entry %q", at, err, e.entry)
				}
				got = append(got, fmt.Sprintf("%d-%d", e.prev, e.index))
			case frameEnd:
				got = append(got, "checkpoint")
			}
		}
		if strings.Join(got, " ") != want || f.at != 12 {
			t.Errorf("a follower at %d gets %q, and is at %d; want %q", at, got, f.at, want)
		}
	}
}

// TestMachineFollows: what does not follow on State is not applied, and what State has is not applied again.
func TestMachineFollows(t *testing.T) {
	t.Parallel()
	m := newMachine(Apply, 0, testLog())
	at := func(index, epoch uint64) *model.State {
		return &model.State{Version: 1, Index: index, Cluster: model.Cluster{ID: "c", Epoch: epoch}}
	}
	m.publish(at(10, 1))
	e := fedEntry(t, 10, "v")
	for _, k := range []struct {
		prev, index uint64
		err         error
		want        uint64
	}{{9, 12, errGap, 10}, {11, 12, errGap, 10}, {8, 10, nil, 10}, {10, 12, nil, 12}, {10, 12, nil, 12}, {12, 13, nil, 13}} {
		if err := m.follow(k.prev, k.index, e.entry); !errors.Is(err, k.err) || m.state.Load().Index != k.want {
			t.Errorf("%d after %d: %v, State is at %d, want %d", k.index, k.prev, err, m.state.Load().Index, k.want)
		}
	}
	for _, k := range []struct {
		s    *model.State
		want uint64
	}{{at(12, 1), 13}, {at(20, 0), 13}, {at(14, 1), 14}, {at(3, 2), 3}} {
		if m.publish(k.s); m.state.Load().Index != k.want {
			t.Errorf("State is at %d, want %d", m.state.Load().Index, k.want)
		}
	}
}

// TestCloseEndsFeeds: a node with followers, and a follower, end in good time.
func TestCloseEndsFeeds(t *testing.T) {
	t.Parallel()
	c := grown(t, 10, nil)
	f := c.awaitServers(9)[0]
	server := c.nodes[f.Following()]
	began := time.Now()
	c.close(server.id)
	c.close(f.id)
	if took := time.Since(began); took > patience/2 {
		t.Errorf("it took %v", took)
	}
}

// TestManyFollowers has them all in this process, and prints what they cost while nothing happens.
func TestManyFollowers(t *testing.T) {
	n := 60
	if os.Getenv("ISONOMIA_SOAK") != "" {
		n = 200
	}
	c := grown(t, 9, nil)
	alone := idleCPU()
	for i := 10; i < 10+n; i++ {
		c.admit(nodeID(i))
	}
	began := time.Now()
	for i := 10; i < 10+n; i++ {
		c.start(nodeID(i))
	}
	followers := c.awaitServers(9)
	c.same()
	t.Logf("%d followers after %v", len(followers), time.Since(began))
	began = time.Now()
	res := c.propose(followers[0], set("k", "v"))
	for _, f := range followers {
		if _, err := f.Wait(c.ctx, res[0].Index); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("an entry is everywhere after %v", time.Since(began))
	most := 0
	for _, m := range c.live() {
		most = max(most, m.Stats().Followers)
	}
	if most > maxFollowers {
		t.Errorf("one server has %d followers", most)
	}
	with := idleCPU()
	t.Logf("idle: nine raft servers %.2f %% of a core, with %d followers %.2f %%: %.4f %% for each, both ends; one server has at most %d, the leader has %d",
		alone, n, with, (with-alone)/float64(n), most, c.leader().Stats().Followers)
}
