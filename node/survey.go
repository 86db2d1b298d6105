package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// Of a cluster that cannot go on by itself, every node that answers is asked what it has.

// survey is what a node says of itself to one that rebuilds the cluster.
type survey struct {
	Name   string         `json:"name"`
	Leader string         `json:"leader,omitempty"` // whom it follows
	Stuck  bool           `json:"stuck,omitempty"`  // its disk takes no writes: who leads by its word is of before
	End    raftfsm.LogEnd `json:"end"`              // of its raft log
	Met    uint64         `json:"met,omitempty"`    // the highest cluster epoch that it has met
	// Of the newest State that it knows to be committed, its journal's or what it has now; Index 0: it knows none.
	Epoch  uint64            `json:"epoch"`
	Index  uint64            `json:"index"`
	Digest string            `json:"digest"`
	Gens   map[string]uint64 `json:"generations"` // newest, by system
	Nodes  map[string]string `json:"nodes"`       // names of members, by id
	Error  string            `json:"error,omitempty"`

	refused bool // it does not take this node for a member: of a node that does not answer
}

// knownState is the newest State that this node knows to be committed: after a start raft does not know that of what is in
// its log, and the journal does.
func (n *Node) knownState() (*model.State, error) {
	s := n.fsm.State()
	journal, err := n.readJournal()
	switch {
	case err == nil && journal.Newer(s):
		return journal, nil
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	return s, err
}

func (n *Node) surveyHere() survey {
	v := survey{Name: n.cfg.Name, Leader: n.fsm.Leader(), End: n.fsm.LogEnd(), Stuck: n.fsm.DiskStall() > stuckAfter}
	own, seen := n.fsm.Epochs()
	v.Met = max(own, seen)
	diverged := (*raftfsm.DivergedError)(nil)
	if errors.As(n.fsm.Err(), &diverged) {
		v.Error = diverged.Error()
		return v
	}
	s, err := n.knownState()
	if err != nil {
		v.Error = err.Error()
	}
	if s.Index == 0 {
		return v
	}
	v.Met = max(v.Met, s.Cluster.Epoch)
	v.Epoch, v.Index, v.Digest = s.Cluster.Epoch, s.Index, stateDigest(s)
	v.Gens, v.Nodes = map[string]uint64{}, map[string]string{}
	for name, sys := range s.Systems.All() {
		v.Gens[name] = sys.Generation
	}
	for id, node := range s.Nodes.All() {
		v.Nodes[id] = node.Name
	}
	return v
}

// stuckAfter is a disk's write under way from which on what raft says of itself is old.
const stuckAfter = 3 * time.Second

// leader is the node that leads by one of the surveys: by the word of a raft server, or of a node that follows if the leader says so
// itself, for that word may be old.
func leader(found map[string]survey) (by, who string) {
	for _, id := range sortedIDs(found) {
		v := found[id]
		if v.Leader == "" || v.Stuck {
			continue
		}
		l := found[v.Leader]
		if l.Stuck || v.End.Epoch == 0 && l.Leader != v.Leader {
			continue
		}
		return v.Name, nameOf(found, v.Leader)
	}
	return "", ""
}

// refusing names a node that does not take this one for a member: this one was removed, and the others go on without it.
func refusing(found map[string]survey) string {
	for _, id := range sortedIDs(found) {
		if found[id].refused {
			return nameOf(found, id)
		}
	}
	return ""
}

// nameOf is a node's name by its own word, or by anybody's State.
func nameOf(found map[string]survey, id string) string {
	if v := found[id]; v.Name != "" {
		return v.Name
	}
	for _, v := range found {
		if name := v.Nodes[id]; name != "" {
			return name
		}
	}
	return id[:min(8, len(id))]
}

// met is the highest epoch that any of those who answer has met, and who it was.
func met(found map[string]survey) (epoch uint64, by string) {
	for _, id := range sortedIDs(found) {
		if v := found[id]; v.Met > epoch {
			epoch, by = v.Met, v.Name
		}
	}
	return epoch, by
}

// stillLeaderless asks those who answered once more whether there is a leader: the survey may be seconds old.
func (n *Node) stillLeaderless(ctx context.Context, found map[string]survey) error {
	ids := map[string]bool{}
	for id, v := range found {
		if v.Name != "" {
			ids[id] = true
		}
	}
	again := n.surveyThese(ctx, ids)
	again[n.id.ID] = n.surveyHere()
	return noLeader(again)
}

// known says that a survey found a State.
func (v survey) known() bool { return v.Index > 0 }

// newer compares what two nodes know to be committed.
func (v survey) newer(than survey) bool {
	return v.Epoch > than.Epoch || v.Epoch == than.Epoch && v.Index > than.Index
}

func stateDigest(s *model.State) string {
	sum := raftfsm.Digest(s)
	return hex.EncodeToString(sum[:16])
}

// surveyTry bounds the question to one node.
const surveyTry = 5 * time.Second

// surveyAll asks every node that mesh knows of, and every member that one of the journals names.
func (n *Node) surveyAll(ctx context.Context) map[string]survey {
	found := map[string]survey{n.id.ID: n.surveyHere()}
	asked := map[string]bool{n.id.ID: true}
	for {
		var ids []string
		for _, m := range n.mesh.Members() {
			ids = append(ids, m.ID)
		}
		for _, v := range found {
			for id := range v.Nodes {
				ids = append(ids, id)
			}
		}
		ids = slices.DeleteFunc(ids, func(id string) bool { return asked[id] })
		if len(ids) == 0 {
			return found
		}
		wave := map[string]bool{}
		for _, id := range ids {
			asked[id], wave[id] = true, true
		}
		maps.Copy(found, n.surveyThese(ctx, wave))
	}
}

func (n *Node) surveyThese(ctx context.Context, ids map[string]bool) map[string]survey {
	found := map[string]survey{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for id := range ids {
		if id == n.id.ID {
			continue
		}
		wg.Go(func() {
			v, err := n.surveyOf(ctx, id)
			if err != nil {
				v = survey{Error: err.Error(), refused: errors.Is(err, mesh.ErrUnauthorized)}
			}
			mu.Lock()
			defer mu.Unlock()
			found[id] = v
		})
	}
	wg.Wait()
	return found
}

func (n *Node) surveyOf(ctx context.Context, id string) (v survey, err error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTry)
	defer cancel()
	b, err := n.peers.call(ctx, id, http.MethodGet, "/survey", nil)
	if err == nil {
		err = json.Unmarshal(b, &v)
	}
	return v, err
}
