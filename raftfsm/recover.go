package raftfsm

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

// What a cluster can go on from that has lost the majority of its voters. An entry that is in one log only may have been
// committed by those that are lost, and answered: so the whole log counts, not what this server knows to be committed.

// LogEnd is where a server's log ends.
type LogEnd struct {
	Epoch  uint64   `json:"epoch"`  // of the cluster; 0: there is no log
	Term   uint64   `json:"term"`   // of the last entry
	Index  uint64   `json:"index"`  // of the last entry
	Voters []string `json:"voters"` // ids, by the newest configuration in the log
	Whole  bool     `json:"whole"`  // the server votes: its log was not lost since it became a server, or a leader has brought it up to date
}

// Reaches says whether a log goes further than another, as raft compares them in elections.
func (l LogEnd) Reaches(beyond LogEnd) bool {
	switch {
	case l.Epoch != beyond.Epoch:
		return l.Epoch > beyond.Epoch
	case l.Term != beyond.Term:
		return l.Term > beyond.Term
	}
	return l.Index > beyond.Index
}

// LogEnd says where this server's log ends.
func (n *Node) LogEnd() LogEnd {
	if n.Empty() {
		return LogEnd{}
	}
	l := LogEnd{Epoch: n.epoch.own.Load(), Whole: n.memory.isWhole()}
	l.Term, l.Index = lastEntry(n.raft)
	for _, s := range n.configuration() {
		if s.Suffrage == raft.Voter {
			l.Voters = append(l.Voters, string(s.ID))
		}
	}
	return l
}

// lastEntry is the last entry of a server, or its checkpoint, if there is no log behind that.
func lastEntry(r *raft.Raft) (term, index uint64) {
	stats := r.Stats() // raft tells its terms nowhere else
	number := func(key string) (v uint64) { v, _ = strconv.ParseUint(stats[key], 10, 64); return v }
	term, index = number("last_log_term"), number("last_log_index")
	if at := number("last_snapshot_index"); at > index {
		return number("last_snapshot_term"), at
	}
	return term, index
}

// Tail is what a log leads to.
type Tail struct {
	End       *model.State // committed or not
	Committed uint64       // index of the State that this server knows to be committed
	At        *model.State // at the entry that was asked for, where the log has that one beyond Committed; else nil
}

// ErrChanging says that the log changed while it was looked at: there is a leader.
var ErrChanging = errors.New("the log changes: there is a leader")

// Tail gives the State to which this server's log leads, with all its entries. Only a server without a leader has a use for it.
// Errors: a *MustUpgradeError, ErrDamaged, ErrChanging.
func (n *Node) Tail(at uint64) (Tail, error) {
	line, last := n.machine.line.Load(), n.raft.LastIndex()
	t, err := n.tail(line.state, at)
	if n.machine.line.Load() != line || n.raft.LastIndex() != last || n.Leader() != "" {
		return t, ErrChanging
	}
	return t, err
}

func (n *Node) tail(s *model.State, at uint64) (Tail, error) {
	t := Tail{Committed: s.Index}
	first, err := n.stores.logs.FirstIndex()
	if err != nil {
		return t, err
	}
	for i := max(s.Index+1, first); i <= n.raft.LastIndex(); i++ {
		var e raft.Log
		if err := n.stores.logs.GetLog(i, &e); err != nil {
			return t, fmt.Errorf("read entry %d: %w", i, errors.Join(ErrDamaged, err))
		}
		if e.Type != raft.LogCommand || inOtherTerm(&e) {
			continue
		}
		next, _, must := n.machine.safeApply(s, i, e.Data)
		if must != nil {
			return t, must
		}
		if s = next; s.Index == at {
			t.At = s
		}
	}
	t.End = s
	return t, nil
}
