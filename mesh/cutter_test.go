package mesh

import (
	"net"
	"sync/atomic"
)

// cutter is a socket whose cable can be pulled.
type cutter struct {
	net.PacketConn
	cut atomic.Bool
}

func (c *cutter) listen(bind string) (net.PacketConn, error) {
	var err error
	c.PacketConn, err = listenUDP(bind)
	return c, err
}

func (c *cutter) set(cut bool) { c.cut.Store(cut) }

func (c *cutter) WriteTo(b []byte, to net.Addr) (int, error) {
	if c.cut.Load() {
		return len(b), nil
	}
	return c.PacketConn.WriteTo(b, to)
}

func (c *cutter) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := c.PacketConn.ReadFrom(b)
		if err != nil || !c.cut.Load() {
			return n, from, err
		}
	}
}
