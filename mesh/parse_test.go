package mesh

import (
	"bytes"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// addrOf is where m's socket is.
func addrOf(m *Mesh) netip.AddrPort { return netip.MustParseAddrPort(m.Addr()) }

func TestToken(t *testing.T) {
	t.Parallel()
	want := NewToken(fingerprint([]byte("a CA")))
	text := want.String()
	got, err := ParseToken(" " + text + "\n")
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, %v; want %v", got, err, want)
	}
	if len(want.SecretHash()) != 32 || bytes.Contains(want.SecretHash(), want.Secret) {
		t.Error("hash")
	}
	for n := range text {
		want := ErrTokenDamaged
		if n < len("iso1.") {
			want = ErrNotToken
		}
		if _, err := ParseToken(text[:n]); !errors.Is(err, want) {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	for i := 5; i < len(text); i++ {
		b := []byte(text)
		b[i] ^= 1
		if _, err := ParseToken(string(b)); !errors.Is(err, ErrTokenDamaged) {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

func FuzzParseToken(f *testing.F) {
	f.Add(NewToken(fingerprint([]byte("a CA"))).String())
	f.Add("iso1....")
	f.Add("iso1.a.b.c.d")
	f.Fuzz(func(t *testing.T, s string) {
		if tok, err := ParseToken(s); err == nil && tok.String() != strings.TrimSpace(s) {
			t.Errorf("%q gives %q", s, tok)
		}
	})
}

func FuzzParsePeers(f *testing.F) {
	id := fingerprint([]byte("x"))
	f.Add(peersRecord{Join: []string{"host:1"}, Peers: []Peer{{ID: id, Addrs: []string{"10.0.0.1:7878", "[fd00::1]:1"}}}}.encode())
	f.Add([]byte(peersHead + "\nend 0\n"))
	f.Add([]byte(peersHead + "\nnode " + id + "\nend 1\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parsePeers(data)
		if err != nil {
			return
		}
		if len(r.Peers) > maxPeers || len(r.Join) > maxJoinAddrs {
			t.Error("over the bounds")
		}
		again, err := parsePeers(r.encode())
		if err != nil || len(again.Peers) != len(r.Peers) || !reflect.DeepEqual(again.Join, r.Join) {
			t.Errorf("not stable: %v", err)
		}
	})
}

func FuzzJoinFrames(f *testing.F) {
	var ok, no bytes.Buffer
	_ = writeJoinReply(&ok, []byte("hello"), nil)
	_ = writeJoinReply(&no, nil, &Refused{Code: "c", Message: "m", Retry: true})
	f.Add(ok.Bytes())
	f.Add(no.Bytes())
	f.Add([]byte{0, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, err := readFrame(bytes.NewReader(data)); err == nil && len(b) > joinLimit {
			t.Error("over the limit")
		}
		reply, err := readJoinReply(bytes.NewReader(data))
		var r *Refused
		if errors.As(err, &r) && (len(r.Code) > refusedCodeLimit || len(r.Message) > refusedMessageLimit) {
			t.Error("refusal over the limit")
		}
		if err == nil {
			var again bytes.Buffer
			if err := writeJoinReply(&again, reply, nil); err != nil || !bytes.HasPrefix(data, again.Bytes()) {
				t.Errorf("not stable: %v", err)
			}
		}
	})
}

func FuzzParseHello(f *testing.F) {
	f.Add(boot{1, 2, 3}.hello())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		if b, err := parseHello(data); err == nil && !bytes.HasPrefix(data[1:], b[:]) {
			t.Errorf("%x gives %x", data, b)
		}
	})
}

func TestRefusalIsCut(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	if err := writeJoinReply(&b, nil, &Refused{Code: "c", Message: strings.Repeat("ü", 1000), Retry: true}); err != nil {
		t.Fatal(err)
	}
	_, err := readJoinReply(&b)
	var r *Refused
	if !errors.As(err, &r) || r.Message != strings.Repeat("ü", 512) || !r.Retry {
		t.Errorf("%v", err)
	}
}

func TestIdentityFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadIdentity(dir)
	if err != nil || again.ID != id.ID || !again.Key.Equal(id.Key) || !bytes.Equal(again.SealPub, id.SealPub) {
		t.Fatalf("loaded another identity: %v", err)
	}
	if id.ID != NodeID(id.Public()) || !validID(id.ID) || id.ID != strings.ToLower(id.ID) {
		t.Errorf("id %q", id.ID)
	}
	path := filepath.Join(dir, identityFile)
	fi, err := os.Stat(path)
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	whole, _ := os.ReadFile(path)
	for _, n := range []int{0, 1, len(whole) / 3, len(whole) / 2, len(whole) - 2} {
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "damaged") {
			t.Errorf("first %d bytes: %v", n, err)
		}
	}
	for i := range whole { // no flipped bit gives another identity
		bad := bytes.Clone(whole)
		bad[i] ^= 4
		if got, err := parseIdentity(bad); err == nil && got.ID != id.ID {
			t.Errorf("byte %d flipped: another identity", i)
		}
	}
	if err := errors.Join(os.WriteFile(path, whole, 0o600), os.Chmod(path, 0o644)); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadIdentity(dir); err == nil || !strings.Contains(err.Error(), "others may read it") {
		t.Errorf("readable by others: %v", err)
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	a, _ := LoadIdentity(t.TempDir())
	b, _ := LoadIdentity(t.TempDir())
	sealed, err := Seal(a.SealPub, "ca key", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := a.Open("ca key", sealed); err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := a.Open("other", sealed); err == nil {
		t.Error("opened for another purpose")
	}
	if _, err := b.Open("ca key", sealed); err == nil {
		t.Error("opened by another node")
	}
	if _, err := Seal([]byte("short"), "x", nil); err == nil {
		t.Error("sealed to no key")
	}
}

func TestCA(t *testing.T) {
	t.Parallel()
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ca.KeyDER()
	if err != nil {
		t.Fatal(err)
	}
	again, err := ParseCA(ca.Cert.Raw, key)
	if err != nil || again.Fingerprint() != ca.Fingerprint() || !validID(ca.Fingerprint()) {
		t.Fatalf("parsed another CA: %v", err)
	}
	other, _ := NewCA("test")
	if _, err := ParseCA(other.Cert.Raw, key); err == nil {
		t.Error("another CA's key was accepted")
	}
	pub, _, _ := ed25519.GenerateKey(nil)
	now := time.Now()
	leaf := func(ca *CA, pub ed25519.PublicKey) *x509.Certificate {
		der, err := ca.SignNode(pub, now, 0)
		if err != nil {
			t.Fatal(err)
		}
		c, _ := x509.ParseCertificate(der)
		return c
	}
	cas := []*x509.Certificate{ca.Cert}
	if der, err := ca.SignNode(pub, now, 8*time.Second); err != nil {
		t.Error(err)
	} else if c, _ := x509.ParseCertificate(der); c.NotAfter.Sub(c.NotBefore) != 9*time.Second {
		t.Errorf("a life of 8 s is from %v to %v", c.NotBefore, c.NotAfter)
	}
	if id, err := VerifyNode(leaf(again, pub), cas, now); err != nil || id != NodeID(pub) {
		t.Errorf("own leaf: %v", err)
	}
	if _, err := VerifyNode(leaf(other, pub), cas, now); err == nil {
		t.Error("another CA's leaf was accepted")
	}
	if _, err := VerifyNode(leaf(ca, pub), cas, now.Add(8*24*time.Hour)); err == nil {
		t.Error("an expired leaf was accepted")
	}
	if _, err := VerifyNode(leaf(ca, pub), cas, time.Time{}); err != nil {
		t.Errorf("expiry not asked for: %v", err)
	}
	der, err := ca.SignServer(pub, []string{"host", "10.0.0.1"}, now)
	if err != nil {
		t.Fatal(err)
	}
	server, _ := x509.ParseCertificate(der)
	if err := server.VerifyHostname("host"); err != nil {
		t.Error(err)
	}
	if _, err := VerifyNode(server, cas, now); err == nil {
		t.Error("a server's certificate was accepted as a member's")
	}
}

func TestPeersFileDamage(t *testing.T) {
	t.Parallel()
	whole := peersRecord{Join: []string{"host:1"}, Peers: []Peer{{ID: fingerprint([]byte("x")), Addrs: []string{"10.0.0.1:7878"}}}}.encode()
	for n := range len(whole) - 1 { // the last byte is a line end
		if _, err := parsePeers(whole[:n]); err == nil {
			t.Errorf("first %d bytes were accepted", n)
		}
	}
	c := newTestCluster(t)
	cfg := c.config(t, "a")
	if err := os.WriteFile(filepath.Join(cfg.Dir, peersFile), whole[:40], 0o600); err != nil {
		t.Fatal(err)
	}
	m := openTest(t, cfg) // only a hint: no reason not to start
	if err := m.Rejoin("127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	_ = m.Close()
	if r, err := loadPeers(cfg.Dir); err != nil || len(r.Join) != 1 {
		t.Errorf("%v, %v", r, err)
	}
	if err := m.table.addJoin("nonsense"); err == nil {
		t.Error("nonsense was remembered")
	}
}

func TestTableBounds(t *testing.T) {
	t.Parallel()
	tab := newTable("self")
	for i := range maxPeers + 100 {
		id := fingerprint(fmt.Append(nil, i))
		for j := range maxAddrs + 2 {
			tab.advertise(id, fmt.Sprintf("10.0.0.%d:%d", j+1, i+1))
		}
		tab.lookup(id).heard.Store(int64(i + 1))
	}
	for i := range maxJoinAddrs + 3 {
		if err := tab.addJoin(fmt.Sprintf("host:%d", i+1)); err != nil {
			t.Fatal(err)
		}
	}
	r, _ := tab.unsaved()
	if len(r.Peers) != maxPeers || len(r.Join) != maxJoinAddrs {
		t.Errorf("%d peers, %d join addresses", len(r.Peers), len(r.Join))
	}
	if tab.lookup(fingerprint([]byte("0"))) != nil {
		t.Error("the one not heard for longest is still there")
	}
	got, err := parsePeers(r.encode())
	if err != nil || len(got.Peers) != maxPeers || len(got.Peers[0].Addrs) != maxAddrs {
		t.Errorf("the fullest table cannot be read back: %v", err)
	}
	if size := len(r.encode()); size > peersLimit {
		t.Errorf("%d bytes", size)
	}
}

func TestTableAddresses(t *testing.T) {
	t.Parallel()
	tab, id := newTable("self"), fingerprint([]byte("x"))
	if tab.advertise(id, "10.0.0.1:1") {
		t.Error("the first address is no move")
	}
	at := netip.MustParseAddrPort("[::ffff:10.0.0.9]:9")
	tab.proven(id, at)
	if got := tab.active(id).String(); got != "10.0.0.9:9" {
		t.Errorf("proven beats advertised: %v", got)
	}
	if got := tab.candidates(id); !reflect.DeepEqual(got, []string{"10.0.0.9:9", "10.0.0.1:1"}) {
		t.Errorf("candidates %v", got)
	}
	tab.unproven(id, at)
	if got := tab.active(id).String(); got != "10.0.0.1:1" {
		t.Errorf("back to advertised: %v", got)
	}
	if !tab.advertise(id, "10.0.0.2:2") || tab.active(id).String() != "10.0.0.2:2" {
		t.Error("a move is followed")
	}
	if tab.advertise(id, "no address") {
		t.Error("nonsense is no move")
	}
}

func TestAdvertised(t *testing.T) {
	t.Parallel()
	for _, bind := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::1]:0", ":0"} {
		c, err := listenUDP(bind)
		if err != nil {
			t.Logf("%s: %v", bind, err) // no IPv6 here
			continue
		}
		addr, err := advertised("", c.LocalAddr())
		_ = c.Close()
		ap, perr := netip.ParseAddrPort(addr)
		if err != nil || perr != nil || ap.Addr().IsUnspecified() || ap.Port() == 0 {
			t.Errorf("%s: %q, %v", bind, addr, err)
		}
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	var b backoff
	now := time.Now()
	if !b.due(now) {
		t.Error("the first try is due")
	}
	for range 20 {
		b.failed(now)
		if d := b.next.Sub(now); d < retryFirst*4/5 || d > retryMost*6/5 {
			t.Errorf("waits %v", d)
		}
	}
	if b.wait != retryMost {
		t.Errorf("ends at %v", b.wait)
	}
}

func TestNewcomers(t *testing.T) {
	t.Parallel()
	var n newcomers
	now := time.Unix(100, 0)
	for i := range freeHandshakes + 1 {
		if got := n.suspicious(now); got != (i == freeHandshakes) {
			t.Fatalf("handshake %d: %v", i, got)
		}
	}
	if n.suspicious(now.Add(time.Second)) {
		t.Error("a new second starts anew")
	}
}

func TestSplitLevel(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"[ERR] memberlist: x":  "INFO memberlist: x",
		"[WARN] memberlist: x": "DEBUG memberlist: x",
		"plain":                "DEBUG plain",
	} {
		level, text := splitLevel(line)
		if got := level.String() + " " + text; got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
