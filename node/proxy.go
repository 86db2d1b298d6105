package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"time"
)

// A relayed connection is one stream of mesh.ProtoProxy. The asking node's first line, the other's answer, then bytes
// both ways, each way ended by itself:
//
//	1 SYSTEM/SERVICE/PORT\n    ->
//	                           <- +\n          the instance has accepted a connection
//	                           <- -REASON\n    it cannot be had; the stream ends
//
// A line has at most 512 bytes. Nothing follows the first line before its answer.

const maxProxyLine = 512

// proxyRequest names a port of a service.
type proxyRequest struct{ system, service, port string }

func (r proxyRequest) line() string { return "1 " + r.system + "/" + r.service + "/" + r.port + "\n" }

// parseProxyRequest reads a first line without its end.
func parseProxyRequest(line string) (proxyRequest, error) {
	rest, ok := strings.CutPrefix(line, "1 ")
	parts := strings.Split(rest, "/")
	if !ok || len(parts) != 3 {
		return proxyRequest{}, errors.New("the request for a port is malformed")
	}
	for _, p := range parts {
		if p == "" || strings.ContainsFunc(p, func(c rune) bool { return c <= ' ' || c > '~' }) {
			return proxyRequest{}, errors.New("the request for a port is malformed")
		}
	}
	return proxyRequest{parts[0], parts[1], parts[2]}, nil
}

func readProxyRequest(r io.Reader) (proxyRequest, error) {
	line, err := readShortLine(r)
	if err != nil {
		return proxyRequest{}, err
	}
	return parseProxyRequest(line)
}

// readShortLine reads up to the end of a line and not a byte further.
func readShortLine(r io.Reader) (string, error) {
	var line []byte
	for b := make([]byte, 1); len(line) < maxProxyLine; {
		if _, err := io.ReadFull(r, b); err != nil {
			return "", fmt.Errorf("read a line of the relay: %w", err)
		}
		if b[0] == '\n' {
			return string(line), nil
		}
		line = append(line, b[0])
	}
	return "", fmt.Errorf("a line of the relay is longer than %d bytes", maxProxyLine)
}

// askProxy asks for a port and waits until it is connected.
func askProxy(c net.Conn, req proxyRequest) error {
	if _, err := io.WriteString(c, req.line()); err != nil {
		return err
	}
	answer, err := readShortLine(c)
	switch {
	case err != nil:
		return err
	case answer == "+":
		return nil
	}
	return errors.New(strings.ToValidUTF8(strings.TrimPrefix(answer, "-"), "?"))
}

func acceptProxy(c net.Conn) error {
	_, err := io.WriteString(c, "+\n")
	return err
}

// refuseProxy answers with a reason and ends the stream.
func refuseProxy(c net.Conn, why string) error {
	why = strings.ReplaceAll(why, "\n", " ")
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	_, err := io.WriteString(c, "-"+why[:min(len(why), maxProxyLine-2)]+"\n")
	return errors.Join(err, c.Close())
}

// splice carries bytes both ways until both ways have ended; one that ends lets the other go on. A way that breaks
// breaks both, and so does the end of ctx: then neither side may take what it got for the whole.
func splice(ctx context.Context, a, b net.Conn) {
	stop := context.AfterFunc(ctx, func() { abort(a); abort(b) })
	defer stop()
	done := make(chan error, 2)
	go func() { done <- carry(a, b) }()
	go func() { done <- carry(b, a) }()
	for range 2 {
		if err := <-done; err != nil {
			abort(a)
			abort(b)
		}
	}
	_ = a.Close()
	_ = b.Close()
}

// carry copies until from has no more to give, then tells to.
func carry(to, from net.Conn) error {
	if _, err := io.Copy(to, from); err != nil {
		return err
	}
	if w, ok := to.(interface{ CloseWrite() error }); ok {
		if err := w.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
			return err
		}
	}
	return nil
}

// abort ends a connection so that its other end sees a break, where the connection can say so.
func abort(c net.Conn) {
	switch c := c.(type) {
	case *net.TCPConn:
		_ = c.SetLinger(0)
	case interface{ Reset() }:
		c.Reset()
	}
	_ = c.Close()
}

// isTemporary says whether accepting may succeed later: a connection was given up before it was taken, or there are no
// descriptors at the moment.
func isTemporary(err error) bool {
	for _, e := range []error{syscall.ECONNABORTED, syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.EINTR} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
