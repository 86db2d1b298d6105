package node

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// renewLoop replaces this node's certificate when half of its life is over, or the cluster has a new CA.
func (n *Node) renewLoop(ctx context.Context) error {
	changed, stop := n.fsm.Watch()
	defer stop()
	pause := renewSoon
	for ctx.Err() == nil {
		f := n.trust.get()
		due, err := leafDue(f.Leaf)
		ca := n.fsm.State().Cluster.CA
		if now := time.Now(); err == nil && now.Before(due) && (len(ca) == 0 || bytes.Equal(ca, f.CA)) {
			waitAny(ctx, now.Add(min(due.Sub(now), renewLook)), changed)
			continue
		}
		if err := n.renew(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("renewing the certificate", "err", err)
			n.pause(ctx, pause)
			pause = min(2*pause, renewLate)
			continue
		}
		pause = renewSoon
	}
	return nil
}

const (
	renewSoon = time.Second      // after the first failure: a node that starts knows no leader yet
	renewLate = 30 * time.Second // at the most
	renewLook = 10 * time.Minute // timers stop while a machine is suspended, certificates go on expiring
)

func (n *Node) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	leaf, err := n.signLeaf(ctx, n.id.Public())
	if err != nil {
		return err
	}
	return n.trust.certified(leaf, n.fsm.State().Cluster.CA)
}

// leafDue is when a certificate is to be renewed: at half of its life.
func leafDue(der []byte) (time.Time, error) {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return time.Time{}, fmt.Errorf("read the certificate: %w", err)
	}
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 2), nil
}

// pins looks keys up in the node table: of State, and until State is as new as the journal, of the journal too. After a
// start a raft server's State is that of its last checkpoint, or empty, until a leader tells what is committed; and there
// is no leader before the servers, whose certificates may all have expired meanwhile, accept each other.
type pins struct {
	state   atomic.Pointer[func() *model.State] // of raft; nil = it is not open yet
	journal atomic.Pointer[model.State]         // nil = State is as new, or there is none
}

// loadPins reads the journal. One that cannot be read is as none: whoever has a certificate is known by that.
func (n *Node) loadPins() *pins {
	p := &pins{}
	j, err := n.readJournal()
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			n.log.Warn("keys of members", "err", err)
		}
		return p
	}
	p.journal.Store(j)
	return p
}

// key gives the key of a member, nil for a stranger, and whether the node was removed.
func (p *pins) key(id string) (key []byte, removed bool) {
	s := &model.State{}
	if now := p.state.Load(); now != nil {
		s = (*now)()
	}
	if j := p.journal.Load(); j != nil {
		if j.Newer(s) {
			return j.Nodes.At(id).Key, j.Removed.Has(id)
		}
		p.journal.Store(nil)
	}
	return s.Nodes.At(id).Key, s.Removed.Has(id)
}
