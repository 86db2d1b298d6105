package mesh

import (
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
)

// A node of another cluster, with the right gossip key even, gets in nowhere.
func TestUnknownCertificateIsRefused(t *testing.T) {
	t.Parallel()
	c, other := newTestCluster(t), newTestCluster(t)
	a := c.start(t, "a")
	echo(t, a, ProtoRPC)
	cfg := other.config(t, "x")
	cfg.Trust = func(ed25519.PublicKey, []*x509.Certificate) error { return nil } // x would accept anybody
	x := openTest(t, cfg)
	x.table.proven(a.ID(), addrOf(a))
	if _, err := call(t.Context(), x, a.ID(), ProtoRPC, "hi"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("stranger dials: %v", err)
	}
	a.table.proven(x.ID(), addrOf(x))
	if _, err := a.Dial(t.Context(), x.ID(), ProtoRPC); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("dialling a stranger: %v", err)
	}
	if n := len(a.Members()); n != 1 {
		t.Errorf("%d members", n)
	}
}

// Removal beats a certificate that chains; a live connection ends with Recheck.
func TestRemovedKeyIsRefused(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a, b := c.pair(t)
	echo(t, a, ProtoRPC)
	if _, err := call(t.Context(), b, a.ID(), ProtoRPC, "hi"); err != nil {
		t.Fatal(err)
	}
	s, err := b.Dial(t.Context(), a.ID(), ProtoRPC)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	c.remove(b.ID())
	a.Recheck()
	_ = s.SetReadDeadline(time.Now().Add(20 * time.Second))
	for err == nil {
		_, err = s.Read(make([]byte, 64))
	}
	if !errors.Is(err, ErrUnauthorized) {
		t.Errorf("open stream: %v", err)
	}
	if _, err := call(t.Context(), b, a.ID(), ProtoRPC, "hi"); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("removed node dials: %v", err)
	}
	if _, err := a.Dial(t.Context(), b.ID(), ProtoRPC); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("dialling the removed node: %v", err)
	}
}

// Another member at the address of the wanted node is not talked to.
func TestImpostorIsRefused(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	b := c.start(t, "b")
	echo(t, b, ProtoRPC)
	wanted := NodeID(make(ed25519.PublicKey, ed25519.PublicKeySize))
	a.table.proven(wanted, addrOf(b))
	if _, err := a.Dial(t.Context(), wanted, ProtoRPC); !errors.Is(err, ErrImpostor) {
		t.Errorf("impostor: %v", err)
	}
	if !b.Heard(a.ID()).IsZero() {
		t.Error("the impostor got as far as a connection")
	}
}

// Peers that are pinned by key need no certificate, an expired one does no harm.
func TestPinnedKeysNeedNoCertificate(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	ca, cb := c.config(t, "a"), c.config(t, "b")
	trust := func(pub ed25519.PublicKey, _ []*x509.Certificate) error {
		if id := NodeID(pub); id != ca.Identity.ID && id != cb.Identity.ID {
			return errors.New("not pinned")
		}
		return nil
	}
	ca.Trust, cb.Trust = trust, trust
	ca.Cert = nil
	old, err := c.ca.SignNode(cb.Identity.Public(), time.Now().Add(-30*24*time.Hour), 0)
	if err != nil {
		t.Fatal(err)
	}
	cb.Cert = func() ([][]byte, error) { return [][]byte{old, c.ca.Cert.Raw}, nil }
	a, b := openTest(t, ca), openTest(t, cb)
	if err := b.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
}

// A renewed certificate is used by the next handshake without a restart; one for
// another key is noticed here, not by the peer.
func TestCertificateIsAskedEachTime(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	id, err := LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	now := c.cert(id.Public())
	certs := &certificates{id: id, cert: func() ([][]byte, error) { return now() }}
	first, err := certs.get()
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := certs.get(); again != first {
		t.Error("an unchanged certificate was parsed again")
	}
	now = c.cert(id.Public())
	if renewed, err := certs.get(); err != nil || renewed == first {
		t.Errorf("renewed: %v", err)
	}
	other, _, _ := ed25519.GenerateKey(nil)
	now = c.cert(other)
	if _, err := certs.get(); err == nil {
		t.Error("a certificate for another key was accepted")
	}
}

// Whatever an unknown client offers on the members' ALPN, it gets no stream
// through: not with no certificate, not with one of the wrong kind.
func TestMemberALPNWithoutCertificate(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	a := c.start(t, "a")
	echo(t, a, ProtoRPC)
	for _, alpns := range [][]string{{alpnControl}, {alpnJoin, alpnControl}, {alpnBulk}, {alpnJoin}} {
		udp, err := net.ListenUDP("udp4", nil)
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: udp}
		qc, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(addrOf(a)), &tls.Config{InsecureSkipVerify: true, NextProtos: alpns}, nil)
		if err == nil {
			_, err = qc.AcceptUniStream(t.Context()) // a member would get its hello
		}
		if err == nil {
			t.Errorf("%v: accepted without a certificate", alpns)
		}
		_ = tr.Close()
		_ = udp.Close()
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	cfg := c.config(t, "a")
	cfg.Join = func(_ context.Context, pub ed25519.PublicKey, request []byte) ([]byte, error) {
		switch string(request) {
		case "refuse":
			return nil, &Refused{Code: "token_expired", Message: "the token has expired"}
		case "fail":
			return nil, errors.New("disk on fire")
		case string(make([]byte, joinLimit)):
			return request, nil
		case "long":
			return make([]byte, joinLimit+1), nil
		}
		return []byte("welcome " + NodeID(pub) + " " + string(request)), nil
	}
	a := openTest(t, cfg)
	id, err := LoadIdentity(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request string) (string, error) {
		reply, err := Join(t.Context(), a.Addr(), id, c.ca.Fingerprint(), []byte(request))
		return string(reply), err
	}
	if got, err := ask("please"); err != nil || got != "welcome "+id.ID+" please" {
		t.Errorf("join: %q, %v", got, err)
	}
	var r *Refused
	if _, err := ask("refuse"); !errors.As(err, &r) || r.Code != "token_expired" || r.Message != "the token has expired" || r.Retry {
		t.Errorf("refused: %v", err)
	}
	if _, err := ask("fail"); !errors.As(err, &r) || r.Code != CodeInternal || r.Message != "disk on fire" {
		t.Errorf("internal: %v", err)
	}
	if _, err := ask("long"); !errors.As(err, &r) || r.Code != CodeInternal {
		t.Errorf("long reply: %v", err)
	}
	if _, err := Join(t.Context(), a.Addr(), id, c.ca.Fingerprint(), make([]byte, joinLimit)); err != nil {
		t.Errorf("longest request: %v", err)
	}
	if _, err := Join(t.Context(), a.Addr(), id, c.ca.Fingerprint(), make([]byte, joinLimit+1)); err == nil {
		t.Error("a request over the limit was sent")
	}
}

// With the wrong fingerprint the handshake ends before anything of ours is sent:
// the server sees neither the request nor our certificate.
func TestJoinWrongClusterSendsNothing(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	member := c.config(t, "a")
	certs := &certificates{id: member.Identity, cert: member.Cert}
	udp, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	tr := &quic.Transport{Conn: udp}
	defer tr.Close()
	var hellos, judged atomic.Int32
	ln, err := tr.Listen(&tls.Config{NextProtos: []string{alpnJoin}, ClientAuth: tls.RequireAnyClientCert,
		GetCertificate:   func(*tls.ClientHelloInfo) (*tls.Certificate, error) { hellos.Add(1); return certs.get() },
		VerifyConnection: func(tls.ConnectionState) error { judged.Add(1); return nil }}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() { // hangs up instead of answering
		for {
			qc, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			_ = qc.CloseWithError(connBusy, "")
		}
	}()
	id, _ := LoadIdentity(t.TempDir())
	ask := func(fp string) error {
		_, err := Join(t.Context(), udp.LocalAddr().String(), id, fp, []byte("secret"))
		return err
	}
	other := newTestCluster(t)
	if err := ask(other.ca.Fingerprint()); !errors.Is(err, ErrWrongCluster) {
		t.Errorf("wrong fingerprint: %v", err)
	}
	if hellos.Load() == 0 || judged.Load() != 0 {
		t.Errorf("%d handshakes, %d of them with our certificate", hellos.Load(), judged.Load())
	}
	if err := ask(c.ca.Fingerprint()); !errors.Is(err, ErrUnreachable) || judged.Load() == 0 {
		t.Errorf("right fingerprint, no answer: %v, %d", err, judged.Load())
	}
}

func TestJoinUnreachable(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	id, _ := LoadIdentity(t.TempDir())
	if _, err := Join(t.Context(), blackholeAddr, id, c.ca.Fingerprint(), nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("nobody there: %v", err)
	}
	b := c.start(t, "b") // serves no joins
	if _, err := Join(t.Context(), b.Addr(), id, c.ca.Fingerprint(), nil); !errors.Is(err, ErrUnreachable) {
		t.Errorf("joins not served: %v", err)
	}
}

func TestGossipKeyRotation(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	heard := make(chan [][]byte, 16)
	cfg := c.config(t, "b")
	cfg.OnKeys = func(keys [][]byte) { heard <- keys }
	a := c.start(t, "a")
	b := openTest(t, cfg)
	if err := b.Rejoin(a.Addr()); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b)
	key := make([]byte, 32)
	await(t, "rotate", func() error { return a.RotateGossipKey(t.Context(), key) })
	for _, m := range []*Mesh{a, b} {
		if keys := m.GossipKeys(); len(keys) != 1 || string(keys[0]) != string(key) {
			t.Errorf("keys after rotation: %v", keys)
		}
	}
	await(t, "OnKeys", func() error {
		select {
		case keys := <-heard:
			if len(keys) == 1 && string(keys[0]) == string(key) {
				return nil
			}
		default:
		}
		return errors.New("not told of the last state")
	})
	// One that missed the rotation cannot gossip, but can ask for the key.
	late := c.config(t, "late")
	late.Known = func() []Peer { return []Peer{{ID: a.ID(), Addrs: []string{a.Addr()}}} }
	d := openTest(t, late)
	echo(t, a, ProtoRPC)
	if _, err := call(t.Context(), d, a.ID(), ProtoRPC, "the key, please"); err != nil {
		t.Fatal(err)
	}
	if err := d.SetGossipKeys([][]byte{key}); err != nil {
		t.Fatal(err)
	}
	awaitStatus(t, StatusAlive, a, b, d)
	if err := a.RotateGossipKey(t.Context(), []byte("short")); err == nil {
		t.Error("a short key was accepted")
	}
}
