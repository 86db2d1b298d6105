package mesh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain looks for goroutines left behind. memberlist ends its own only after
// the probe that is under way: up to 4 s when the machine is slow.
func TestMain(m *testing.M) {
	code := m.Run()
	err := goleak.Find()
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); {
		err = goleak.Find()
	}
	if err != nil && code == 0 {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// testCluster is what the caller of mesh would hold: a CA and who was removed.
type testCluster struct {
	ca  *CA
	key []byte

	mu      sync.Mutex
	removed map[string]bool
}

func newTestCluster(t testing.TB) *testCluster {
	t.Helper()
	ca, err := NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return &testCluster{ca: ca, key: bytes.Repeat([]byte{7}, 32), removed: map[string]bool{}}
}

func (c *testCluster) remove(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed[id] = true
}

func (c *testCluster) trust(pub ed25519.PublicKey, chain []*x509.Certificate) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed[NodeID(pub)] {
		return errors.New("removed")
	}
	_, err := VerifyNode(chain[0], []*x509.Certificate{c.ca.Cert}, time.Now())
	return err
}

func (c *testCluster) cert(pub ed25519.PublicKey) func() ([][]byte, error) {
	der, err := c.ca.SignNode(pub, time.Now(), 0)
	return func() ([][]byte, error) { return [][]byte{der, c.ca.Cert.Raw}, err }
}

// config is a member's, with a directory and a key of its own.
func (c *testCluster) config(t testing.TB, name string) Config {
	t.Helper()
	dir := t.TempDir()
	id, err := LoadIdentity(dir)
	if err != nil {
		t.Fatal(err)
	}
	return Config{Identity: id, Bind: "127.0.0.1:0", Dir: dir, Cert: c.cert(id.Public()), Trust: c.trust,
		GossipKey: c.key, Tags: map[string]string{"name": name}, Log: testLog(t, name)}
}

// testLog shows everything when MESH_LOG is set.
func testLog(t testing.TB, name string) *slog.Logger {
	if os.Getenv("MESH_LOG") == "" {
		return nil
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", name)
}

func openTest(t testing.TB, cfg Config) *Mesh {
	t.Helper()
	m, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m
}

// start opens a member that joins the others.
func (c *testCluster) start(t testing.TB, name string, others ...*Mesh) *Mesh {
	t.Helper()
	m := openTest(t, c.config(t, name))
	for _, o := range others {
		if err := m.Rejoin(o.Addr()); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// pair is two members that see each other.
func (c *testCluster) pair(t testing.TB) (a, b *Mesh) {
	t.Helper()
	a = c.start(t, "a")
	b = c.start(t, "b", a)
	awaitStatus(t, StatusAlive, a, b)
	return a, b
}

// crash ends m without a word to anybody.
func crash(m *Mesh) {
	_ = m.udp.Close()
	_ = m.Close()
}

// await waits for a condition and fails with its last reason.
func await(t testing.TB, what string, cond func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	err := cond()
	for ; err != nil && time.Now().Before(deadline); err = cond() {
		time.Sleep(5 * time.Millisecond)
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// sees is nil if m has o in that status, with the address where o is.
func sees(m, o *Mesh, s Status) error {
	for _, x := range m.Members() {
		if x.ID == o.ID() && x.Status == s && (s != StatusAlive || x.Addr == o.Addr()) {
			return nil
		}
	}
	return fmt.Errorf("%v does not see %v as %v at %v: %v", m.Addr(), o.ID(), s, o.Addr(), m.Members())
}

// awaitStatus waits until all of them see each other so.
func awaitStatus(t testing.TB, s Status, all ...*Mesh) {
	t.Helper()
	await(t, "status", func() error {
		for _, a := range all {
			for _, b := range all {
				if a == b {
					continue
				}
				if err := sees(a, b, s); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

// echo serves protocol p on m: the peer's id, a line end, then what comes in.
func echo(t testing.TB, m *Mesh, p Proto) {
	l := m.Listener(p)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				fmt.Fprintf(c, "%s\n", c.(*Conn).PeerID())
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() { _ = l.Close(); _ = m.Close(); wg.Wait() })
}

// call sends text over protocol p and returns all that comes back.
func call(ctx context.Context, m *Mesh, id string, p Proto, text string) (string, error) {
	c, err := m.Dial(ctx, id, p)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if text != "" { // else the peer may have closed already
		if _, err := io.WriteString(c, text); err != nil {
			return "", err
		}
	}
	if err := c.(*Conn).CloseWrite(); err != nil {
		return "", err
	}
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	out, err := io.ReadAll(c)
	return string(out), err
}
