//go:build linux

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// writer writes numbered lines into the state of a service, one after the other, wherever it is, and remembers which
// were acknowledged. What was not is written again.
type writer struct {
	c       *Cluster
	from    *Node
	service string
	stop    context.CancelFunc
	done    sync.WaitGroup
	random  *rand.Rand    // not nil: it goes on from another node after a failure
	rest    time.Duration // between two writes

	mu    sync.Mutex
	acked []int
	gap   time.Duration // the longest between two acknowledged writes
	last  time.Time
}

func startWriter(t *testing.T, c *Cluster, from *Node, service string) *writer {
	return startWriterAt(t, c, from, service, &writer{})
}

func (w *writer) end() {
	w.stop()
	w.done.Wait()
}

func (w *writer) run(ctx context.Context) {
	url := ""
	client := w.from.HTTP(2 * time.Second)
	for n := len(w.acked) + 1; ctx.Err() == nil; {
		if url == "" {
			url, _ = w.where()
		}
		err := post(context.WithoutCancel(ctx), client, url, strconv.Itoa(n)) // a write under way is not cut off
		rest := w.rest
		if err == nil {
			w.ack(n)
			n++
		} else {
			url, rest = "", 5*time.Millisecond // between two looks for where the service is
		}
		if up := w.c.Up(); err != nil && w.random != nil && len(up) > 0 {
			w.from = up[w.random.IntN(len(up))]
			client = w.from.HTTP(2 * time.Second)
		}
		select {
		case <-time.After(rest):
		case <-ctx.Done():
		}
	}
}

func (w *writer) ack(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.last.IsZero() {
		w.gap = max(w.gap, now.Sub(w.last))
	}
	w.last, w.acked = now, append(w.acked, n)
}

func (w *writer) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// pause is the longest gap between two acknowledged writes since it was asked last.
func (w *writer) pause() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	gap := w.gap
	w.gap = 0
	return gap
}

// where is the URL of the service's state.
func (w *writer) where() (string, error) {
	s, err := w.from.Status()
	if err != nil {
		return "", err
	}
	for _, i := range s.Instances {
		if i.Service == w.service && i.Phase == phaseActive {
			return "http://" + net.JoinHostPort(i.Address, strconv.Itoa(i.Ports["http"])) + "/state", nil
		}
	}
	return "", fmt.Errorf("%s is active nowhere", w.service)
}

// read gives the whole state of the service.
func (w *writer) read() (string, error) {
	url, err := w.where()
	if err != nil {
		return "", err
	}
	r, err := w.from.HTTP(5 * time.Second).Get(url)
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, r.Body); err != nil {
		return "", err
	}
	if r.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s", r.Status, b.String())
	}
	return b.String(), nil
}

func post(ctx context.Context, client *http.Client, url, text string) error {
	if url == "" {
		return errors.New("nowhere to write to")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(text))
	if err != nil {
		return err
	}
	r, err := client.Do(req)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusOK {
		return errors.New(r.Status)
	}
	return nil
}

// moreWrites awaits that so many writes more were acknowledged.
func (w *writer) moreWrites(t *testing.T, n int) {
	t.Helper()
	want := w.count() + n
	Await(t, fmt.Sprintf("%d acknowledged writes", want), smokeTimeout, func() error {
		if have := w.count(); have < want {
			return fmt.Errorf("%d", have)
		}
		return nil
	})
}

// nothingLost stops the writer and holds what the service has, which it returns, against what it acknowledged.
func (w *writer) nothingLost(t *testing.T) (text string) {
	t.Helper()
	w.end()
	text = stateOf(t, w)
	has := map[string]bool{}
	for line := range strings.Lines(text) {
		has[strings.TrimSpace(line)] = true
	}
	var lost []int
	for _, n := range w.acked {
		if !has[strconv.Itoa(n)] {
			lost = append(lost, n)
		}
	}
	if len(lost) > 0 {
		t.Errorf("%d of %d acknowledged writes are lost: %v", len(lost), len(w.acked), lost[:min(len(lost), 20)])
	}
	return text
}

// stateful is a service with state on one node, and one that depends on it.
func stateful(node string) Model {
	return Model{Services: []Service{{Name: "db", Exclusive: true, Pin: []string{node}}, {Name: "web", DependsOn: []string{"db"}}}}
}

func TestStateMoves(t *testing.T) {
	c := real(t, 3)
	deployed(t, c.Node(0).Deploy(stateful("n2")))
	c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, c.Node(0), "db")
	for i, to := range []string{"n3", "n2", "n1"} { // also to where an old copy is
		w.moreWrites(t, 50)
		w.pause()
		deployed(t, c.Node(i).Deploy(stateful(to)))
		settledAnswers(t, c, uint64(i+2), "1")
		w.moreWrites(t, 1)
		t.Logf("to %s: no write for %v", to, w.pause())
	}
	w.nothingLost(t)
}

// startWriterAt goes on from another node with what a writer has acknowledged.
func startWriterAt(t *testing.T, c *Cluster, from *Node, service string, old *writer) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{c: c, from: from, service: service, stop: cancel, acked: old.acked}
	w.done.Go(func() { w.run(ctx) })
	t.Cleanup(w.end)
	return w
}

// snapshots are the kept generations of a service, newest first.
func snapshots(t *testing.T, n *Node, service string) []api.Snapshot {
	t.Helper()
	var list []api.Snapshot
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	if err := n.Query(ctx, &list, "snapshots", service); err != nil {
		t.Fatal(err)
	}
	return list
}

// stateOf is what a service has in its state.
func stateOf(t *testing.T, w *writer) (text string) {
	t.Helper()
	Await(t, "the state", smokeTimeout, func() (err error) {
		text, err = w.read()
		return err
	})
	return text
}

func TestSnapshotAndRestore(t *testing.T) {
	c := real(t, 3)
	m := stateful("n2").Change("db", func(s *Service) { s.Copies = 2 })
	deployed(t, c.Node(0).Deploy(m))
	c.AwaitSettled(smokeTimeout, 1)
	run := func(i int, args ...string) Result {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
		defer cancel()
		return c.Node(i).CLI(ctx, args...)
	}
	w := startWriter(t, c, c.Node(0), "db")
	w.moreWrites(t, 20)
	w.end()
	first := stateOf(t, w)
	deployed(t, run(0, "snapshot", "db"))
	deployed(t, run(2, "snapshot")) // unchanged: no new generation
	if list := snapshots(t, c.Node(0), "db"); len(list) != 1 || list[0].Generation != 1 || list[0].Size == 0 {
		t.Fatalf("after two snapshots of one state: %+v", list)
	}
	Await(t, "a second copy", smokeTimeout, func() error {
		if list := snapshots(t, c.Node(1), "db"); len(list[0].Holders) != 2 {
			return fmt.Errorf("held by %v", list[0].Holders)
		}
		return nil
	})

	w = startWriterAt(t, c, c.Node(0), "db", w)
	w.moreWrites(t, 20)
	w.end()
	second := stateOf(t, w)
	if second == first {
		t.Fatal("nothing was written")
	}
	deployed(t, run(0, "restore", "db@1", "--yes"))
	if got := stateOf(t, w); got != first {
		t.Errorf("restored %d bytes, not %d", len(got), len(first))
	}
	list := snapshots(t, c.Node(2), "db")
	if len(list) != 3 || list[0].ID != list[2].ID || list[1].ID == list[0].ID {
		t.Fatalf("A, B and A again are not three generations of two snapshots: %+v", list)
	}
	deployed(t, run(1, "restore", "db@2", "--yes"))
	if got := stateOf(t, w); got != second {
		t.Errorf("what was there before the restore is not what its snapshot has: %d bytes, not %d", len(got), len(second))
	}
	away := run(0, "snapshots", "export", "db@1")
	deployed(t, away)
	diff := run(2, "snapshots", "diff", "db@1", "2")
	if deployed(t, diff); !strings.Contains(diff.Stdout, "~ state") {
		t.Errorf("the difference: %s", diff.Stdout)
	}
	if err := c.Node(1).WriteEtc("away.tar", away.Stdout); err != nil {
		t.Fatal(err)
	}
	deployed(t, run(1, "snapshots", "import", "db", filepath.Join(c.Node(1).dir, "etc", "away.tar")))
	deployed(t, run(2, "restore", "db", "--yes"))
	if got := stateOf(t, w); got != first {
		t.Errorf("taken away and brought in again: %d bytes, not %d", len(got), len(first))
	}
	deployed(t, run(0, "check"))
	for _, bad := range [][]string{{"restore", "db@77", "--yes"}, {"restore", "web", "--yes"}, {"snapshot", "nobody"}} {
		if r := run(1, bad...); r.Code != ExitFailed && r.Code != 2 {
			t.Errorf("%v: exit %d, %v", bad, r.Code, r.Failure())
		}
	}
	settledAnswers(t, c, 1, "1")
}

// Whose state directory is gone is not started with an empty one.
func TestMissingStateIsNotReplacedByNothing(t *testing.T) {
	c := real(t, 1)
	n := c.Node(0)
	deployed(t, n.Deploy(Model{Services: []Service{{Name: "db", Exclusive: true}}}))
	before := c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, n, "db")
	w.moreWrites(t, 5)
	w.end()
	want := stateOf(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	deployed(t, n.CLI(ctx, "snapshot", "db"))
	state := "/run/node/data/state/default/db"
	deployed(t, n.Exec(ctx, "/bin/mv", state, state+".away"))
	s, err := n.Status()
	if err != nil {
		t.Fatal(err)
	}
	deployed(t, n.Exec(ctx, "/bin/kill", "-9", strconv.Itoa(pids(s)["db on n1"])))
	Await(t, "a reason", smokeTimeout, func() error {
		s, err := n.Status()
		if err == nil && (s.Instances[0].PID != 0 || !strings.Contains(s.Instances[0].Reason, "which is gone")) {
			err = fmt.Errorf("%+v", s.Instances[0])
		}
		return err
	})
	deployed(t, n.Exec(ctx, "/bin/mkdir", state))
	c.AwaitSettled(smokeTimeout, before.Generation)
	Await(t, "the restore", smokeTimeout, func() error { return n.CLI(ctx, "restore", "db", "--yes").Failure() })
	if got := stateOf(t, w); got != want {
		t.Errorf("restored %q, not %q", got, want)
	}
}

// Two services with state change places.
func TestStatesSwap(t *testing.T) {
	c := real(t, 3)
	model := func(a, b string) Model {
		return Model{Services: []Service{{Name: "a", Exclusive: true, Pin: []string{a}}, {Name: "b", Exclusive: true, Pin: []string{b}}, {Name: "web", DependsOn: []string{"a", "b"}}}}
	}
	deployed(t, c.Node(0).Deploy(model("n2", "n3")))
	c.AwaitSettled(smokeTimeout, 1)
	var writers []*writer
	for _, service := range []string{"a", "b"} {
		w := startWriter(t, c, c.Node(0), service)
		w.moreWrites(t, 20)
		writers = append(writers, w)
	}
	deployed(t, c.Node(0).Deploy(model("n3", "n2")))
	settledAnswers(t, c, 2, "1")
	for _, w := range writers {
		w.moreWrites(t, 5)
		w.nothingLost(t)
	}
}

// A state that has no room on its new node stays where it is, and is not stopped for that.
func TestNoRoomForAState(t *testing.T) {
	Require(t)
	t.Parallel()
	c := Start(t, 3, WithDisk(128<<20))
	leader := c.WaitLeader()
	from, to := c.Node((leader.index+1)%3), c.Node((leader.index+2)%3)
	on := func(node string) Model { // what uses it is where it goes, so that the package is there
		return stateful(node).Change("web", func(s *Service) { s.Pin = []string{to.Name} })
	}
	deployed(t, leader.Deploy(on(from.Name)))
	before := c.AwaitSettled(smokeTimeout, 1)
	w := startWriter(t, c, leader, "db")
	w.end()
	url, err := w.where()
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 700<<10)
	for i := range noise {
		noise[i] = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"[rand.N(64)]
	}
	for i := range 30 { // 20 MB that no compression makes small
		noise[0] = byte('A' + i)
		rand.Shuffle(len(noise)/8, func(a, b int) { noise[8*a], noise[8*b+3] = noise[8*b+3], noise[8*a] })
		if err := post(t.Context(), leader.HTTP(10*time.Second), url, string(noise)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), smokeTimeout)
	defer cancel()
	deployed(t, to.Exec(ctx, "/bin/sh", "-c", fmt.Sprintf("free=$(df -k --output=avail %s | tail -1); dd if=/dev/zero of=%s/big bs=1k count=$((free - 8192))", dataDir, dataDir)))
	r := leader.Deploy(on(to.Name))
	if r.Code != 4 || !strings.Contains(r.Stdout+r.Stderr, "no room") {
		t.Errorf("exit %d: %s%s", r.Code, r.Stdout, r.Stderr)
	}
	s := c.AwaitSettled(smokeTimeout, 2)
	if a, b := pids(before)["db on "+from.Name], pids(s)["db on "+from.Name]; a != b {
		t.Errorf("db was stopped for it: pid %d, now %d", a, b)
	}
	deployed(t, to.Exec(ctx, "/bin/rm", dataDir+"/big"))
	deployed(t, leader.Deploy(on(to.Name)))
	settledAnswers(t, c, s.Generation+1, "1")
}
