package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// A cluster that lost the majority of its voters' logs, or all of them, goes on in a new epoch: one node begins with the newest
// State as the only raft server; the others, whose logs are empty or of the former epoch, are added by it as members always
// are, once what they have is set aside.
//
//	DIR/raft.seed     the raft directory to begin with, in the same life of the agent: an agent that dies before that has
//	                  recovered nothing, and whoever asked for it sees no leader
//	DIR/raft.empty    one that is empty but for its epoch, to enter the cluster of that with: at any start
//	DIR/raft.aside-*  what was there before; it is never deleted

func (p paths) raftSeed() string  { return p.join("raft.seed") }
func (p paths) raftEmpty() string { return p.join("raft.empty") }
func (p paths) raftAside() string {
	return p.join("raft.aside-" + time.Now().UTC().Format("20060102T150405.000000000Z"))
}

// errReopen ends the loops of a node that is to start anew within its process.
var errReopen = errors.New("start anew")

// adoptSeed puts a seeded raft directory in place of the one that there is, which is set aside. Cut off anywhere, the next
// start goes on. A seed with a State that the agent did not begin with in the life in which it was made is dropped: meanwhile the
// others may have gone on.
func (n *Node) adoptSeed() error {
	if !n.again {
		if err := os.RemoveAll(n.dir.raftSeed()); err != nil {
			return err
		}
	}
	for _, seed := range []string{n.dir.raftSeed(), n.dir.raftEmpty()} {
		if err := n.adopt(seed); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) adopt(seed string) error {
	if _, err := os.Stat(seed); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	if _, err := os.Stat(n.dir.raft()); err == nil {
		aside := n.dir.raftAside()
		if err := os.Rename(n.dir.raft(), aside); err != nil {
			return fmt.Errorf("set the raft directory aside: %w", err)
		}
		n.log.Warn("the raft directory is set aside", "as", aside)
	}
	if err := os.Rename(seed, n.dir.raft()); err != nil {
		return fmt.Errorf("begin with the reconstructed State: %w", err)
	}
	return syncDir(n.cfg.Dir)
}

// beginAgain has the cluster go on from s with this node as its only raft server: at the agent's next start, which it brings
// about. s is not changed.
func (n *Node) beginAgain(ctx context.Context, s *model.State, found map[string]survey, kind, message string) error {
	highest, _ := met(found)
	again, err := n.inNewEpoch(s, highest)
	if err != nil {
		return err
	}
	err = n.seedOnce(func() error {
		if err := raftfsm.Seed(n.dir.raftSeed(), n.id.ID, again); err != nil {
			return err
		}
		if err := n.stillLeaderless(ctx, found); err != nil {
			return errors.Join(err, os.RemoveAll(n.dir.raftSeed()))
		}
		return nil
	})
	if err != nil {
		return err
	}
	n.note(Noted{Kind: kind, Message: message})
	time.AfterFunc(100*time.Millisecond, n.reopen) // once this is answered
	return nil
}

const (
	// epochStep bounds the random step to the next epoch: two recoveries that begin at once, on two sides of a partition, are of
	// two epochs, and the higher one prevails when they meet.
	epochStep = 1 << 20
	// lostEntries is by how many entries the log goes on later than the State says, so that the index of an entry (which claims
	// are compared by, outside the cluster too) is not used twice. That not more were lost is an assumption.
	lostEntries = 1 << 20
)

// inNewEpoch is the State with which the cluster goes on, in an epoch beyond the highest that anybody has met. Where this node cannot open the CA's key there is a new CA: members know
// each other by their keys, and get new certificates from it; tokens of the former are of no use any more.
func (n *Node) inNewEpoch(s *model.State, highest uint64) (*model.State, error) {
	if node, member := s.Nodes.Get(n.id.ID); !member || node.Left {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s is no member by the newest State", n.cfg.Name), Hint: "Run this on one that is."}
	}
	again := *s
	again.Cluster.Epoch = max(s.Cluster.Epoch, highest) + 1 + rand.Uint64N(epochStep)
	again.Index += lostEntries
	if _, err := n.openCA(s); err == nil {
		return &again, nil
	}
	ca, err := mesh.NewCA(s.Cluster.ID)
	if err != nil {
		return nil, err
	}
	key, err := ca.KeyDER()
	if err != nil {
		return nil, err
	}
	sealed, err := mesh.Seal(n.id.SealPub, sealInfo, key)
	if err != nil {
		return nil, err
	}
	again.Cluster.CA, again.Cluster.Sealed = ca.Cert.Raw, map[string][]byte{n.id.ID: sealed}
	again.Tokens = model.Table[model.Token]{}
	return &again, nil
}

// seedOnce makes the directory to begin again with, once in the life of an agent.
func (n *Node) seedOnce(seed func() error) error {
	n.seeding.Lock()
	defer n.seeding.Unlock()
	if n.seeded {
		return &api.Error{Code: api.CodeConflict, Message: "this node begins anew already", Hint: "Look again in a moment."}
	}
	if err := seed(); err != nil {
		return err
	}
	n.seeded = true
	return nil
}

// overtakenLoop has this node enter the cluster anew when that goes on in an epoch in which its raft log counts for nothing.
func (n *Node) overtakenLoop(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.fsm.Overtaken():
	}
	for ctx.Err() == nil {
		own, seen := n.fsm.Epochs()
		err := n.writeJournal(n.fsm.State()) // what this node knows, should nobody have more
		if err == nil {
			err = n.seedOnce(func() error { return raftfsm.SeedEmpty(n.dir.raftEmpty(), seen) })
		}
		if err == nil {
			n.log.Warn("the cluster was rebuilt without this node's log: entering it anew", "epoch", seen, "own", own)
			n.note(Noted{Kind: "overtaken", Message: fmt.Sprintf("the cluster was rebuilt while this node was out of touch: its raft log, to entry %d, is set aside, and it enters the cluster anew", n.fsm.LogEnd().Index)})
			n.reopen()
			return nil
		}
		n.log.Warn("the cluster was rebuilt without this node's log, and it cannot enter it yet", "err", err)
		n.pause(ctx, 5*time.Second)
	}
	return nil
}
