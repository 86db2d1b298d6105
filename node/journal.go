package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// The journal is what this node last knew of the cluster, in a file of its own beside raft's: raft does not know after a
// restart which of its entries are committed until a leader tells it. From the journal a node starts what needs no
// lease while no quorum can be reached, as after a power cut of the whole site of which some machines do not come back; and
// from the journals of all nodes a cluster is reconstructed that has lost its log.
//
//	DIR/journal.state    a checkpoint of State, as raftfsm writes them: it ends with its checksum

const (
	journalSoon = time.Second      // after a change, so that one deployment is a few writes
	journalLate = 10 * time.Second // at the most, while changes go on
	// journalShare bounds what journals cost: no more than this part of the time.
	journalShare = 50
	// offlineAfter is how long a node that starts looks for a quorum before it starts from its journal what needs none. An
	// election takes a second, a machine that boots with the others some more.
	offlineAfter = 15 * time.Second
)

func (p paths) journal() string { return p.join("journal.state") }

// journalLoop keeps the journal up to date until ctx ends, and brings it up to date then.
func (n *Node) journalLoop(ctx context.Context) error {
	changed, stop := n.fsm.Watch()
	defer stop()
	written, pause := &model.State{}, journalSoon
	if s, err := n.readJournal(); err == nil {
		written = s
	}
	for ctx.Err() == nil {
		s := n.fsm.State()
		if !s.Newer(written) {
			waitAny(ctx, time.Time{}, changed)
			continue
		}
		n.settleDown(ctx, changed, pause)
		began := time.Now()
		s = n.fsm.State()
		if err := n.writeJournal(s); err != nil {
			n.log.Warn("writing the journal", "err", err)
			n.pause(ctx, journalLate)
			continue
		}
		written, pause = s, max(journalSoon, journalShare*time.Since(began))
	}
	return nil
}

// settleDown waits until nothing changes for a while, or for the longest that a change may stay out of the journal.
func (n *Node) settleDown(ctx context.Context, changed <-chan struct{}, quiet time.Duration) {
	late := time.Now().Add(max(journalLate, quiet))
	for ctx.Err() == nil && time.Now().Before(late) {
		before := n.fsm.State().Index
		waitAny(ctx, time.Now().Add(quiet))
		if n.fsm.State().Index == before {
			return
		}
	}
}

func (n *Node) writeJournal(s *model.State) error {
	var b bytes.Buffer
	if err := raftfsm.WriteState(&b, s); err != nil {
		return err
	}
	return writeFileDurably(n.dir.journal(), b.Bytes(), 0o600)
}

// readJournal gives the journal's State; fs.ErrNotExist where there is none yet.
func (n *Node) readJournal() (*model.State, error) {
	f, err := os.Open(n.dir.journal())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	s, err := raftfsm.ReadState(f)
	if err != nil {
		return nil, fmt.Errorf("read journal %s: %w", n.dir.journal(), err)
	}
	return s, nil
}

// offline starts from the journal what ran here, needs no lease and does not run: no quorum was reached for too long. It is
// done again while that lasts.
func (a *agent) offline(ctx context.Context, first bool) {
	s, err := a.n.readJournal()
	if err != nil {
		if first && !errors.Is(err, fs.ErrNotExist) {
			a.n.log.Warn("starting without a quorum", "err", err)
		}
		return
	}
	if first {
		a.n.log.Warn("no quorum is reached: starting what needs none as the journal has it", "index", s.Index)
		a.n.note(Noted{Kind: "offline", Message: fmt.Sprintf("no quorum was reached for %v: what needs no lease is started as it was at entry %d", offlineAfter, s.Index)})
	}
	a.observe(ctx, s)
	for _, st := range model.Offline(s, a.n.id.ID, a.own(s), time.Now()) {
		if a.reserve(st.Key(), st.Kind) {
			a.start(ctx, s, st, 0)
		}
	}
}
