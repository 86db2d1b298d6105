package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// Of a cluster that cannot go on by itself, every node that answers is asked what it has.

// survey is what a node says of itself to one that rebuilds the cluster.
type survey struct {
	Name   string         `json:"name"`
	Leader string         `json:"leader,omitempty"` // whom it follows
	End    raftfsm.LogEnd `json:"end"`              // of its raft log
	// Of the newest State that it knows to be committed, its journal's or what it has now; Index 0: it knows none.
	Epoch  uint64            `json:"epoch"`
	Index  uint64            `json:"index"`
	Digest string            `json:"digest"`
	Gens   map[string]uint64 `json:"generations"` // newest, by system
	Nodes  map[string]string `json:"nodes"`       // names of members, by id
	Error  string            `json:"error,omitempty"`
}

// knownState is the newest State that this node knows to be committed: after a start raft does not know that of what is in
// its log, and the journal does.
func (n *Node) knownState() (*model.State, error) {
	s := n.fsm.State()
	journal, err := n.readJournal()
	switch {
	case err == nil && isNews(journal, s):
		return journal, nil
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	return s, err
}

func (n *Node) surveyHere() survey {
	v := survey{Name: n.cfg.Name, Leader: n.fsm.Leader(), End: n.fsm.LogEnd()}
	s, err := n.knownState()
	if err != nil {
		v.Error = err.Error()
	}
	if s.Index == 0 {
		return v
	}
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
		var mu sync.Mutex
		var wg sync.WaitGroup
		for _, id := range slices.Compact(slices.Sorted(slices.Values(ids))) {
			asked[id] = true
			wg.Go(func() {
				v, err := n.surveyOf(ctx, id)
				if err != nil {
					v = survey{Error: err.Error()}
				}
				mu.Lock()
				defer mu.Unlock()
				found[id] = v
			})
		}
		wg.Wait()
	}
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
