package raftfsm

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// Raft servers compare State with each other, at each mark and when it has been at rest for a while: with the leader, by
// one small question, and only if the two differ with all voters. Who has another State than a majority of the voters
// stops; the leader learns of the doubt by being asked. A digest is computed once for each State that is compared.

const (
	compareLook  = 10 * time.Second // between looks whether State is at rest
	compareAgain = time.Second      // after a question without an answer
	compareTime  = 5 * time.Second  // for all answers
	maxSums      = 4                // digests that are remembered
)

// sums remembers the digests of what was compared lately.
type sums struct {
	mu  sync.Mutex // held while a digest is computed, so that many who ask cost one
	of  []*model.State
	sum [][sha256.Size]byte
}

func (d *sums) digest(s *model.State) [sha256.Size]byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i, of := range d.of {
		if of == s {
			return d.sum[i]
		}
	}
	if len(d.of) == maxSums {
		d.of, d.sum = d.of[1:], d.sum[1:]
	}
	d.of, d.sum = append(d.of, s), append(d.sum, Digest(s))
	return d.sum[len(d.sum)-1]
}

// compareLoop compares until the node closes, or has stopped applying.
func (n *Node) compareLoop() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n.loops.Go(func() {
		select {
		case <-n.closing:
		case <-n.machine.stop:
		}
		cancel()
	})
	look := time.NewTicker(compareLook)
	defer look.Stop()
	var compared, rests uint64 // indexes
	var since time.Time        // when rests was seen first
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-n.doubted:
			if err := n.arbitrate(ctx, s); err != nil {
				n.diverge(err)
			}
			continue
		case <-n.machine.marked:
		case <-look.C:
		case <-again:
		}
		again = nil
		s := n.machine.line.Load().state
		if s.Index != rests {
			rests, since = s.Index, time.Now()
		}
		if time.Since(since) < checkQuiet || s.Index == compared {
			s = n.machine.mark.Load()
		}
		if s == nil || s.Index <= compared {
			continue
		}
		if n.compare(ctx, s) {
			compared = s.Index
		} else {
			again = time.After(compareAgain)
		}
	}
}

// compare says whether s was compared with the leader's State, or need not be.
func (n *Node) compare(ctx context.Context, s *model.State) bool {
	r, _ := n.roles.look()
	switch {
	case r.Leading || !n.seated() || n.follow.unseated():
		return true
	case r.Leader == "":
		return false
	}
	sum, err := n.askSum(ctx, r.Leader, s)
	if err != nil {
		n.log.Debug("State was not compared", "with", r.Leader, "at", s.Index, "reason", err)
		return false
	}
	if sum == n.sums.digest(s) {
		return true
	}
	if err := n.arbitrate(ctx, s); err != nil {
		n.diverge(err)
	}
	return true
}

// arbitrate asks all voters for their digest of the State with the index of s. It gives a *DivergedError when a majority
// has one that s has not.
func (n *Node) arbitrate(ctx context.Context, s *model.State) error {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	type answer struct {
		id  string
		sum [sha256.Size]byte
		err error
	}
	own := n.sums.digest(s)
	answers := make(chan answer)
	voters := 0
	for _, v := range n.Servers() {
		if !v.Voter {
			continue
		}
		voters++
		go func() {
			a := answer{id: v.ID, sum: own}
			if v.ID != n.cfg.ID {
				a.sum, a.err = n.askSum(ctx, v.ID, s)
			}
			answers <- a
		}()
	}
	count, has := map[[sha256.Size]byte]int{}, map[[sha256.Size]byte]string{}
	for range voters {
		if a := <-answers; a.err == nil {
			count[a.sum]++
			has[a.sum] = a.id
		}
	}
	for sum, c := range count {
		if sum != own && c > voters/2 {
			return &DivergedError{Index: s.Index, Server: has[sum]}
		}
	}
	n.log.Error("raft servers have different States", "at", s.Index, "voters", voters, "agree with this one", count[own])
	return nil
}

// diverge stops applying. A raft server keeps its log, its term and its vote, and goes on storing and voting: only State is
// wrong. It is written down that it is, for a State that was restored from its checkpoint would be no better.
func (n *Node) diverge(err error) {
	if n.seated() {
		if werr := markDiverged(n.cfg.Dir, err); werr != nil {
			n.log.Error("what diverged is not written down: a restart would go on from it", "error", werr)
		}
	}
	n.machine.fail(err)
}

// askSum asks a server for its digest of the State with the index of s.
func (n *Node) askSum(ctx context.Context, id string, s *model.State) (sum [sha256.Size]byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, compareTime)
	defer cancel()
	c, err := n.cfg.DialFeed(ctx, id)
	if err != nil {
		return sum, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	own := n.sums.digest(s)
	if _, err := c.Write(hello{id: n.cfg.ID, epoch: s.Cluster.Epoch, index: s.Index, compare: true, digest: own}.encode()); err != nil {
		return sum, err
	}
	k, body, err := readFrame(bufio.NewReaderSize(c, 4<<10), nil)
	switch {
	case err != nil:
		return sum, err
	case k == frameRefusal:
		r, err := decodeRefusal(body)
		return sum, errors.Join(err, r)
	case k != frameCheck:
		return sum, fmt.Errorf("a frame of kind %d instead of a digest", k)
	}
	got, err := decodeCheck(body)
	if err == nil && got.index != s.Index {
		err = fmt.Errorf("a digest of %d instead of %d", got.index, s.Index)
	}
	return got.digest, err
}

// answerSum answers askSum. Who hears that another one has a State of its own looks who is right.
func (n *Node) answerSum(f *feed) error {
	s := n.comparable(f.to)
	switch {
	case n.Err() != nil:
		return f.refuse(reasonUnable)
	case !n.seated() || n.follow.unseated():
		return f.refuse(reasonNoServer)
	case s == nil:
		return f.refuse(reasonBehind)
	}
	own := n.sums.digest(s)
	if !bytes.Equal(own[:], f.to.digest[:]) {
		select {
		case n.doubted <- s:
		default: // it is looking
		}
	}
	if err := f.check(s); err != nil {
		return err
	}
	return f.w.Flush()
}

// comparable is the State with an index, if this server still has it.
func (n *Node) comparable(h hello) *model.State {
	for _, s := range []*model.State{n.machine.line.Load().state, n.machine.mark.Load(), n.machine.markBefore.Load()} {
		if s != nil && s.Index == h.index && s.Cluster.Epoch == h.epoch {
			return s
		}
	}
	return nil
}
