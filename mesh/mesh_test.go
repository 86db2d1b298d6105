package mesh

import (
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

func TestThreeNodesConverge(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	b := c.start(t, "b", a)
	d := c.start(t, "d", b)
	awaitStatus(t, StatusAlive, a, b, d)
	for _, x := range a.Members() {
		if x.Name == "" || len(x.Tags) != 1 {
			t.Errorf("tags of %v: %v", x.ID, x.Tags)
		}
	}
	if err := d.SetTags(map[string]string{"name": "d", "zone": "z1"}); err != nil {
		t.Fatal(err)
	}
	await(t, "tag seen", func() error {
		for _, x := range a.Members() {
			if x.ID == d.ID() && x.Tags["zone"] == "z1" {
				return nil
			}
		}
		return errors.New("no zone yet")
	})
	if err := d.SetTags(map[string]string{"_a": "x"}); err == nil {
		t.Error("a reserved tag was accepted")
	}
}

func TestDeadNodeFailsAndReturnsElsewhere(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	cfg := c.config(t, "d")
	a := c.start(t, "a")
	b := c.start(t, "b", a)
	d := openTest(t, cfg)
	if err := d.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b, d)
	echo(t, a, ProtoRPC)
	crash(d)
	at := time.Now()
	await(t, "failed", func() error { return sees(a, d, StatusFailed) })
	t.Logf("failed after %v", time.Since(at))
	await(t, "failed", func() error { return sees(b, d, StatusFailed) })

	d2 := openTest(t, cfg) // the same directory, another port
	if d2.Addr() == d.Addr() {
		t.Fatal("the port is the same")
	}
	echo(t, d2, ProtoRPC)
	at = time.Now()
	awaitStatus(t, StatusAlive, a, b, d2)
	t.Logf("back after %v", time.Since(at))
	if got, err := call(t.Context(), b, d2.ID(), ProtoRPC, "hi"); err != nil || got != b.ID()+"\nhi" {
		t.Errorf("call: %q, %v", got, err)
	}
}

// A node that moves at once is never seen as failed: its identity is its key.
func TestRestartElsewhereAtOnce(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	cfg := c.config(t, "b")
	a := c.start(t, "a")
	b := openTest(t, cfg)
	if err := b.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
	crash(b)
	b2 := openTest(t, cfg)
	echo(t, b2, ProtoRPC)
	awaitStatus(t, StatusAlive, a, b2)
	if got, err := call(t.Context(), a, b2.ID(), ProtoRPC, "hi"); err != nil || got != a.ID()+"\nhi" {
		t.Errorf("call: %q, %v", got, err)
	}
	if got, ok := a.Resolve(b2.ID()); !ok || got != b2.Addr() {
		t.Errorf("resolve: %q, want %q", got, b2.Addr())
	}
}

// A restart on the same port is noticed through the stateless reset: a stream of
// the former life breaks long before any timeout.
func TestRestartOnSamePort(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	cfg := c.config(t, "b")
	a := c.start(t, "a")
	b := openTest(t, cfg)
	echo(t, b, ProtoRPC)
	if err := b.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
	s, err := a.Dial(t.Context(), b.ID(), ProtoRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := io.ReadFull(s, make([]byte, 33)); err != nil {
		t.Fatal(err)
	}
	cfg.Bind = b.Addr()
	crash(b)
	b2 := openTest(t, cfg)
	at := time.Now()
	_ = s.SetReadDeadline(at.Add(30 * time.Second))
	if _, err := s.Write([]byte("x")); err == nil {
		_, err = s.Read(make([]byte, 1))
		if !errors.Is(err, ErrReset) {
			t.Errorf("read of a dead stream: %v", err)
		}
	}
	t.Logf("noticed after %v", time.Since(at))
	awaitStatus(t, StatusAlive, a, b2)
}

func TestPartitionHeals(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	var cut cutter
	a, err := open(t.Context(), c.config(t, "a"), cut.listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	b := c.start(t, "b", a)
	awaitStatus(t, StatusAlive, a, b)
	cut.set(true)
	awaitStatus(t, StatusFailed, a, b)
	cut.set(false)
	at := time.Now()
	awaitStatus(t, StatusAlive, a, b)
	t.Logf("healed after %v", time.Since(at))
}

// Both sides of the memory: the peers file alone is enough to find the others.
func TestReopenFindsTheOthers(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	ca, cb := c.config(t, "a"), c.config(t, "b")
	a, b := openTest(t, ca), openTest(t, cb)
	if err := b.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
	ca.Bind, cb.Bind = a.Addr(), b.Addr()
	for _, m := range []*Mesh{a, b} {
		if err := m.Close(); err != nil {
			t.Fatal(err)
		}
	}
	awaitStatus(t, StatusAlive, openTest(t, ca), openTest(t, cb))
}

func TestKnownIsEnough(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	cfg := c.config(t, "b")
	cfg.Known = func() []Peer { return []Peer{{ID: a.ID(), Addrs: []string{blackholeAddr, a.Addr()}}} }
	awaitStatus(t, StatusAlive, a, openTest(t, cfg))
}

const blackholeAddr = "127.0.0.1:9" // discard: nobody there

func TestLeave(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	if err := b.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "left", func() error { return sees(a, b, StatusLeft) })
	_ = b.Close()
	if err := a.Forget(b.ID()); err != nil {
		t.Fatal(err)
	}
	await(t, "forgotten", func() error {
		if n := len(a.Members()); n != 1 {
			return fmt.Errorf("%d members", n)
		}
		return nil
	})
}

func TestStreamsReachTheirListener(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	protos := []Proto{ProtoRaft, ProtoRPC, ProtoBlob, ProtoProxy, ProtoFeed}
	for _, p := range protos {
		l := b.Listener(p)
		go func() {
			for {
				s, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(s, "%v %v", p, s.(*Conn).PeerID())
				_ = s.Close()
			}
		}()
	}
	for _, p := range protos {
		want := fmt.Sprintf("%v %v", p, a.ID())
		if got, err := call(t.Context(), a, b.ID(), p, ""); err != nil || got != want {
			t.Errorf("%v: %q, %v; want %q", p, got, err, want)
		}
	}
	ctl, blk := linkRemote(t, a, b, ProtoRPC), linkRemote(t, a, b, ProtoBlob)
	if ctl == blk {
		t.Error("bulk and control share a connection")
	}
	if linkRemote(t, a, b, ProtoRaft) != ctl || linkRemote(t, a, b, ProtoProxy) != blk {
		t.Error("connections are not reused")
	}
}

// linkRemote names the connection that a stream of p uses.
func linkRemote(t *testing.T, a, b *Mesh, p Proto) *link {
	t.Helper()
	s, err := a.Dial(t.Context(), b.ID(), p)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	return s.(*Conn).link
}

func TestAcceptedConnectionDialsBack(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	echo(t, a, ProtoBlob)
	echo(t, b, ProtoBlob)
	if _, err := call(t.Context(), a, b.ID(), ProtoBlob, "x"); err != nil {
		t.Fatal(err)
	}
	if l := linkRemote(t, b, a, ProtoBlob); l.dialed {
		t.Error("b dialled although a's connection was there")
	}
}

func TestProtocolNotServed(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	if _, err := call(t.Context(), a, b.ID(), ProtoRPC, ""); !errors.Is(err, ErrNotServed) {
		t.Errorf("no listener: %v", err)
	}
	l := b.Listener(ProtoRPC)
	_ = l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed listener: %v", err)
	}
	if _, err := call(t.Context(), a, b.ID(), ProtoRPC, ""); !errors.Is(err, ErrNotServed) {
		t.Errorf("closed listener: %v", err)
	}
	if _, err := a.Dial(t.Context(), strings.Repeat("a", 32), ProtoRPC); !errors.Is(err, ErrUnknownNode) {
		t.Errorf("unknown node: %v", err)
	}
	if _, err := a.Dial(t.Context(), a.ID(), ProtoRPC); !errors.Is(err, ErrSelf) {
		t.Errorf("self: %v", err)
	}
}

func TestCloseLetsGoOfBlockedCalls(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	l := b.Listener(ProtoBlob)
	s, err := a.Dial(t.Context(), b.ID(), ProtoBlob)
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	wrote, read := make(chan error, 1), make(chan error, 1)
	go func() { // more than any window: nobody reads
		_, err := s.Write(make([]byte, 64<<20))
		wrote <- err
	}()
	go func() { _, err := s.Read(make([]byte, 1)); read <- err }()
	if _, err := far.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	if err := <-wrote; !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	if err := <-read; !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	// The cut message must not look complete.
	if _, err := io.Copy(io.Discard, far); !errors.Is(err, ErrReset) {
		t.Errorf("far end: %v", err)
	}
}

func TestProbeAndHeard(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	if !a.Heard(strings.Repeat("a", 32)).IsZero() {
		t.Error("heard somebody who does not exist")
	}
	before := a.Heard(b.ID())
	if before.IsZero() {
		t.Fatal("b was never heard")
	}
	if err := a.Probe(t.Context(), b.ID()); err != nil {
		t.Fatal(err)
	}
	if after := a.Heard(b.ID()); !after.After(before) {
		t.Errorf("heard %v, then %v", before, after)
	}
	if err := a.Warm(t.Context(), b.ID()); err != nil {
		t.Fatal(err)
	}
	if len(a.table.warmPeers()) != 1 {
		t.Error("not warm")
	}
	a.Cool(b.ID())
	crash(b)
	if err := a.Probe(t.Context(), b.ID()); err == nil {
		t.Error("a dead node answered")
	}
}

func TestChangedWakes(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	b := c.start(t, "b", a)
	for timeout := time.After(30 * time.Second); sees(a, b, StatusAlive) != nil; {
		select {
		case <-a.Changed():
		case <-timeout:
			t.Fatal("never woken")
		}
	}
}

func TestOpenErrors(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	cfg := c.config(t, "b")
	cfg.Bind = a.Addr()
	if _, err := Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "another program uses this UDP port") {
		t.Errorf("address in use: %v", err)
	}
	for what, change := range map[string]func(*Config){
		"bind":      func(c *Config) { c.Bind = "nonsense" },
		"key":       func(c *Config) { c.GossipKey = []byte("short") },
		"advertise": func(c *Config) { c.Advertise = "host" },
		"tags":      func(c *Config) { c.Tags = map[string]string{"big": strings.Repeat("x", 600)} },
		"trust":     func(c *Config) { c.Trust = nil },
	} {
		cfg := c.config(t, "x")
		change(&cfg)
		if m, err := Open(t.Context(), cfg); err == nil {
			_ = m.Close()
			t.Errorf("%s: no error", what)
		}
	}
}

func TestUseAfterClose(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	_ = a.Close()
	if err := a.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := a.Dial(t.Context(), b.ID(), ProtoRPC); err == nil {
		t.Error("dial after close")
	}
	if _, err := a.Listener(ProtoRPC).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
}

// The other node says goodbye: its streams end at once, not by a timeout.
func TestPeerCloseEndsStreams(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	l := b.Listener(ProtoRPC)
	s, err := a.Dial(t.Context(), b.ID(), ProtoRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := l.Accept(); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrReset) {
		t.Errorf("read: %v", err)
	}
}
