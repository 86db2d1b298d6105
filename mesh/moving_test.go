package mesh

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// mover is a socket that can get another address while it is in use, as a
// machine does whose lease ends. The old address answers nobody any more.
type mover struct {
	mu  sync.Mutex
	cur net.PacketConn
}

func (m *mover) listen(bind string) (net.PacketConn, error) {
	var err error
	m.cur, err = listenUDP(bind)
	return m, err
}

func (m *mover) conn() net.PacketConn {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cur
}

func (m *mover) move() error {
	next, err := listenUDP("127.0.0.1:0")
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.cur
	m.cur = next
	return old.Close()
}

func (m *mover) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		c := m.conn()
		n, from, err := c.ReadFrom(b)
		if err == nil || c == m.conn() {
			return n, from, err
		}
	}
}

func (m *mover) WriteTo(b []byte, to net.Addr) (int, error) { return m.conn().WriteTo(b, to) }
func (m *mover) Close() error                               { return m.conn().Close() }
func (m *mover) LocalAddr() net.Addr                        { return m.conn().LocalAddr() }
func (m *mover) SetDeadline(t time.Time) error              { return m.conn().SetDeadline(t) }
func (m *mover) SetReadDeadline(t time.Time) error          { return m.conn().SetReadDeadline(t) }
func (m *mover) SetWriteDeadline(t time.Time) error         { return m.conn().SetWriteDeadline(t) }

// A running node whose address changes is followed, by gossip and by streams in
// both directions.
func TestAddressChangesWhileRunning(t *testing.T) {
	t.Parallel()
	c := newTestCluster(t)
	var socket mover
	b, err := open(t.Context(), c.config(t, "b"), socket.listen)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close() })
	a := c.start(t, "a", b)
	d := c.start(t, "d", b)
	awaitStatus(t, StatusAlive, a, b, d)
	echo(t, a, ProtoRPC)
	echo(t, b, ProtoRPC)
	before := b.Addr()
	if err := socket.move(); err != nil {
		t.Fatal(err)
	}
	await(t, "new address", func() error {
		if b.Addr() == before {
			return errors.New("not noticed")
		}
		return nil
	})
	at := time.Now()
	awaitStatus(t, StatusAlive, a, b, d)
	t.Logf("followed after %v", time.Since(at))
	for _, x := range [][2]*Mesh{{a, b}, {b, a}} {
		want := fmt.Sprintf("%s\nhi", x[0].ID())
		await(t, "call", func() error {
			got, err := call(t.Context(), x[0], x[1].ID(), ProtoRPC, "hi")
			if err == nil && got != want {
				err = fmt.Errorf("%q, want %q", got, want)
			}
			return err
		})
	}
}
