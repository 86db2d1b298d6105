package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func linksTo(m *Mesh, id string) int {
	return len(m.links.list(func(l *link) bool { return l.id == id }))
}

// A link that nobody needs is closed by whoever dialled it; the next stream gets
// a new one.
func TestUnusedLinkIsClosed(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	echo(t, b, ProtoBlob)
	if _, err := call(t.Context(), a, b.ID(), ProtoBlob, "x"); err != nil {
		t.Fatal(err)
	}
	first := linkRemote(t, a, b, ProtoBlob)
	await(t, "streams end", func() error { // the last one is released when the read sees its end
		if n := first.streams.Load(); n != 0 {
			return fmt.Errorf("%d streams", n)
		}
		return nil
	})
	first.used.Add(-int64(linkFresh))
	if l := linkRemote(t, a, b, ProtoBlob); l == first {
		t.Error("a stale link was used")
	}
	first.used.Add(-int64(2 * linkUnused))
	a.dropUnused()
	if first.alive() {
		t.Error("an unused link is still open")
	}
	if _, err := call(t.Context(), a, b.ID(), ProtoBlob, "x"); err != nil {
		t.Fatal(err)
	}
}

// A warm link comes back by itself when the peer does.
func TestWarmLinkReturns(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	cfg := c.config(t, "b")
	a, b := c.start(t, "a"), openTest(t, cfg)
	if err := b.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
	if err := a.Warm(t.Context(), b.ID()); err != nil {
		t.Fatal(err)
	}
	cfg.Bind = b.Addr()
	_ = b.Close()
	await(t, "link ends", func() error {
		if a.links.pick(linkKey{b.ID(), control}) != nil {
			return errors.New("still there")
		}
		return nil
	})
	openTest(t, cfg)
	await(t, "link returns", func() error {
		if a.links.pick(linkKey{b.ID(), control}) == nil {
			return errors.New("not there")
		}
		return nil
	})
}

func TestFullListenerIsBusy(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	b.Listener(ProtoRPC) // nobody accepts
	for range acceptQueue {
		s, err := a.Dial(t.Context(), b.ID(), ProtoRPC)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
	}
	await(t, "queue is full", func() error {
		if n := len(b.listeners.get(ProtoRPC, nil).queue); n != acceptQueue {
			return fmt.Errorf("%d wait", n)
		}
		return nil
	})
	if _, err := call(t.Context(), a, b.ID(), ProtoRPC, ""); !errors.Is(err, ErrBusy) {
		t.Errorf("one more: %v", err)
	}
}

// A stream on the wrong connection, or of no known protocol, gets nowhere.
func TestWrongFirstByte(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	for _, p := range []Proto{ProtoBlob, ProtoProxy, 0, ProtoFeed + 1, 255} {
		echo(t, b, p)
		l, err := a.linkTo(t.Context(), b.ID(), control)
		if err != nil {
			t.Fatal(err)
		}
		s, err := l.open(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrNotServed) {
			t.Errorf("%v on a control connection: %v", p, err)
		}
		_ = s.Close()
	}
}

// A peer that vanished is found out by the first read that runs into its
// deadline, not only by the idle timeout of the connection.
func TestDoubtedLinkIsDropped(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	var cable cutter
	b, err := open(t.Context(), c.config(t, "b"), cable.listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	a := c.start(t, "a", b)
	awaitStatus(t, StatusAlive, a, b)
	b.Listener(ProtoRPC)
	s, err := a.Dial(t.Context(), b.ID(), ProtoRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l := s.(*Conn).link
	cable.set(true)
	l.received.Add(-int64(keepAlive))
	_ = s.SetReadDeadline(time.Now())
	if _, err := s.Read(make([]byte, 1)); !timedOut(err) {
		t.Errorf("read past the deadline: %v", err)
	}
	if !l.doubted.Load() {
		t.Error("the link was not doubted")
	}
	await(t, "link ends", func() error {
		if l.alive() {
			return errors.New("alive")
		}
		return nil
	})
	_ = s.SetReadDeadline(time.Time{})
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read after that: %v", err)
	}
}

// At most so many links to one peer; a former life's links go at once.
func TestLinksAreBounded(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	for range linksPerPeer + 3 {
		if _, err := a.dialAddr(t.Context(), b.Addr(), b.ID(), bulk); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "links", func() error {
		if n := linksTo(a, b.ID()); n > linksPerPeer+linksPerPeer {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	l, err := a.dialAddr(t.Context(), b.Addr(), b.ID(), bulk)
	if err != nil {
		t.Fatal(err)
	}
	reborn := &link{m: a, qc: l.qc, id: l.id, class: bulk, boot: boot{1}, peer: l.peer}
	obsolete, err := a.links.add(reborn)
	if err != nil || len(obsolete) == 0 {
		t.Errorf("%d obsolete, %v", len(obsolete), err)
	}
	for _, o := range obsolete {
		if o.boot == reborn.boot {
			t.Error("a link of this life is called obsolete")
		}
	}
	a.links.remove(reborn)
}

// Names are resolved at each try; one of several addresses suffices.
func TestJoinAddressByName(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	b := c.start(t, "b")
	name := strings.Replace(a.Addr(), "127.0.0.1", "localhost", 1)
	if err := b.Rejoin("no.such.host.invalid:1", b.Addr(), name); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
}

func TestCancelledDial(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	id := fingerprint([]byte("nobody"))
	a.table.advertise(id, blackholeAddr)
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if _, err := a.Dial(ctx, id, ProtoRPC); !errors.Is(err, ErrUnreachable) || errors.Is(err, io.EOF) {
		t.Errorf("cancelled: %v", err)
	}
}
