package mesh

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	gossipPrefix = 0x2a // first byte of our datagrams; see doc.go
	gossipPacket = 1200 // bytes at most, prefix not counted: quic-go forbids fragments
	packetQueue  = 1024 // datagrams that wait for memberlist; more are dropped
	fakePort     = 7878
)

// transport gives memberlist its datagrams and streams.
//
// memberlist believes that an address is part of who a node is: it refuses a
// live node that moved. So it never sees real addresses. Each node has a
// constant one made of its id, and transport turns the id into where the node
// really is; that travels in a gossip tag (addrTag).
type transport struct {
	m       *Mesh
	packets chan *memberlist.Packet
	streams chan net.Conn
	once    sync.Once
	done    chan struct{}
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(m *Mesh) *transport {
	return &transport{m: m, packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn), done: make(chan struct{})}
}

// fakeIP is the constant address that memberlist knows the node by.
func fakeIP(id string) net.IP {
	b, err := lowerBase32.DecodeString(id)
	ip := make(net.IP, net.IPv6len)
	ip[0] = 0xfd // unique local: never routed
	if err == nil {
		copy(ip[1:], b)
	}
	return ip
}

// fakeName is how the node is given to memberlist's Join.
func fakeName(id string) string {
	return fmt.Sprintf("%s/[%s]:%d", id, fakeIP(id), fakePort)
}

// readPackets copies gossip datagrams from quic-go's short queue (32) to ours.
// Nothing else belongs into this loop.
func (t *transport) readPackets(ctx context.Context) {
	buf := make([]byte, 1500)
	for {
		n, from, err := t.m.tr.ReadNonQUICPacket(ctx, buf)
		if err != nil {
			return
		}
		if n < 2 || buf[0] != gossipPrefix {
			continue
		}
		t.offer(buf[1:n], from)
	}
}

func (t *transport) offer(data []byte, from net.Addr) {
	p := &memberlist.Packet{Buf: append([]byte(nil), data...), From: from, Timestamp: time.Now()}
	select {
	case t.packets <- p:
	default: // as the network would
	}
}

// acceptStreams hands gossip streams to memberlist.
func (t *transport) acceptStreams(l net.Listener) {
	defer l.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		select {
		case t.streams <- c:
		case <-t.done:
			_ = c.Close()
			return
		}
	}
}

func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return fakeIP(t.m.id.ID), fakePort, nil
}

// WriteToAddress sends one datagram. Errors look like a socket's: only then does
// memberlist go on to its indirect probes.
func (t *transport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	if to.Name == t.m.id.ID { // answers to our own queries
		t.offer(b, t.m.udp.LocalAddr())
		return time.Now(), nil
	}
	where := t.m.table.active(to.Name)
	if !where.IsValid() {
		t.m.rejoin.wake() // finds the node and proves its address
		return time.Time{}, writeError(fmt.Errorf("%w for %q", ErrUnknownNode, to.Name))
	}
	if err := t.send(b, where); err != nil {
		return time.Time{}, writeError(err)
	}
	return time.Now(), nil
}

func (t *transport) send(b []byte, where netip.AddrPort) error {
	packet := make([]byte, 1+len(b))
	packet[0] = gossipPrefix
	copy(packet[1:], b)
	_, err := t.m.tr.WriteTo(packet, net.UDPAddrFromAddrPort(where))
	return err
}

func writeError(err error) error { return &net.OpError{Op: "write", Net: "udp", Err: err} }

func (t *transport) DialAddressTimeout(to memberlist.Address, d time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(t.m.ctx, d)
	defer cancel()
	return t.m.Dial(ctx, to.Name, ProtoGossip)
}

var errNoName = errors.New("gossip needs the node's id")

func (t *transport) WriteTo([]byte, string) (time.Time, error) {
	return time.Time{}, writeError(errNoName)
}

func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNoName }

func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *transport) StreamCh() <-chan net.Conn           { return t.streams }

// Shutdown ends the streams; the socket belongs to Mesh.
func (t *transport) Shutdown() error {
	t.once.Do(func() { close(t.done) })
	return nil
}
