package mesh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	warmEvery    = 10 * time.Second // a warm link is used at least that often, so both ends keep it
	probeTimeout = 2 * time.Second  // of Probe when ctx has no deadline
)

// Probe makes one round trip to the node on its control connection, dialling if
// need be, and so renews Heard on both sides. At most 2 s without a deadline in
// ctx.
func (m *Mesh) Probe(ctx context.Context, id string) error {
	ctx, cancel := m.bounded(ctx, probeTimeout)
	defer cancel()
	l, err := m.linkTo(ctx, id, control)
	if err == nil {
		err = l.probe(ctx)
	}
	if err != nil {
		return fmt.Errorf("probe %q: %w", id, err)
	}
	return nil
}

// probe is one round trip on this very link.
func (l *link) probe(ctx context.Context) error {
	c, err := l.open(ctx, protoProbe)
	if err != nil {
		return err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	var sent, back [8]byte
	_, _ = rand.Read(sent[:]) // never fails (crypto/rand)
	if _, err = c.Write(sent[:]); err == nil {
		_, err = io.ReadFull(c, back[:])
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ErrUnreachable, ctx.Err())
	}
	if err == nil && back != sent {
		err = errors.New("wrong answer")
	}
	return err
}

// serveProbe answers one probe.
func serveProbe(c *Conn) {
	defer c.Close()
	var b [8]byte
	_ = c.SetDeadline(time.Now().Add(firstByteTimeout))
	if _, err := io.ReadFull(c, b[:]); err == nil {
		_, _ = c.Write(b[:])
	}
}

// Warm keeps a control connection to the node from now on, so that nothing has
// to wait for a handshake, and makes it now. An error says only that the first
// attempt failed; the attempts go on until Cool.
func (m *Mesh) Warm(ctx context.Context, id string) error {
	if !validID(id) || id == m.id.ID {
		return fmt.Errorf("warm %q: %w", id, ErrUnknownNode)
	}
	m.table.get(id).warm.Store(true)
	return m.Probe(ctx, id)
}

// Cool takes Warm back: the connection ends when it is unused.
func (m *Mesh) Cool(id string) {
	if p := m.table.lookup(id); p != nil {
		p.warm.Store(false)
	}
}

// keepWarm probes the warm peers whose link is missing or has been unused.
func (m *Mesh) keepWarm() {
	for _, p := range m.table.warmPeers() {
		l := m.links.pick(linkKey{p.id, control})
		if l != nil && l.unused() < warmEvery || !p.busy.CompareAndSwap(false, true) {
			continue
		}
		m.spawn(func(ctx context.Context) {
			defer p.busy.Store(false)
			if err := m.Probe(ctx, p.id); err != nil {
				m.log.Debug("warm connection is down", "node", p.id, "error", err)
			}
		})
	}
}

// Heard is when anything authentic last came from the node: data on a stream, a
// handshake, or the answer to a gossip probe. It carries the monotonic clock;
// the zero time means never.
func (m *Mesh) Heard(id string) time.Time {
	p := m.table.lookup(id)
	if p == nil || p.heard.Load() == 0 {
		return time.Time{}
	}
	return m.table.start.Add(time.Duration(p.heard.Load()))
}
