package mesh

import (
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Conn is a stream to an authenticated node, as a net.Conn. One goroutine may
// read while another writes; Close is safe at any time and lets go of both.
type Conn struct {
	stream *quic.Stream
	link   *link

	mu      sync.Mutex // guards what follows
	writing int        // writes under way
	ended   bool       // the send side is closed
	closed  bool
}

var _ net.Conn = (*Conn)(nil)

// PeerID is the node at the other end, as proven by its key.
func (c *Conn) PeerID() string { return c.link.id }

// Read is net.Conn's. An error that means "not accepted as a member" is
// ErrUnauthorized.
func (c *Conn) Read(b []byte) (int, error) {
	n, err := c.stream.Read(b)
	if n > 0 {
		c.link.hear()
	}
	if err != nil && timedOut(err) {
		c.link.doubt()
	}
	return n, streamError(err)
}

// Write is net.Conn's.
func (c *Conn) Write(b []byte) (int, error) {
	if !c.beginWrite() {
		return 0, net.ErrClosed
	}
	defer c.endWrite()
	n, err := c.stream.Write(b)
	return n, streamError(err)
}

func (c *Conn) beginWrite() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.writing++
	return true
}

func (c *Conn) endWrite() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing--
}

// CloseWrite says that nothing more will be sent; reading goes on.
func (c *Conn) CloseWrite() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closeSendLocked()
	return nil
}

// closeSendLocked ends the send side. A write that is still blocked would leave
// the peer with a cut message that looks complete, so then the stream is reset.
func (c *Conn) closeSendLocked() {
	if c.ended {
		return
	}
	c.ended = true
	if c.writing > 0 {
		c.stream.CancelWrite(streamClosed)
		return
	}
	_ = c.stream.Close() // fails only if the peer has refused to read on
}

// Close ends both directions. What was written before is still delivered.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.closeSendLocked()
	c.stream.CancelRead(streamClosed)
	c.link.release()
	return nil
}

// abort ends both directions and tells the peer why.
func (c *Conn) abort(code quic.StreamErrorCode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed, c.ended = true, true
	c.stream.CancelRead(code)
	c.stream.CancelWrite(code)
	c.link.release()
}

func (c *Conn) LocalAddr() net.Addr                { return c.link.qc.LocalAddr() }
func (c *Conn) RemoteAddr() net.Addr               { return c.link.qc.RemoteAddr() }
func (c *Conn) SetDeadline(t time.Time) error      { return c.stream.SetDeadline(t) }
func (c *Conn) SetReadDeadline(t time.Time) error  { return c.stream.SetReadDeadline(t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.stream.SetWriteDeadline(t) }

// nodeAddr is a node as a net.Addr: its id.
type nodeAddr string

func (nodeAddr) Network() string  { return "isonomia" }
func (a nodeAddr) String() string { return string(a) }
