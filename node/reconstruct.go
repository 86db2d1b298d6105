package node

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// Reconstruction: a cluster of which no raft log is left anywhere goes on from the newest journal. One node begins with that
// State as its only server; the others, whose logs are empty, are added by it as members always are.
//
//	DIR/raft.seed    the raft directory to begin with: it appears whole, and replaces DIR/raft at the next start
//	DIR/raft.aside   what was there before

func (p paths) raftSeed() string { return p.join("raft.seed") }
func (p paths) raftAside() string {
	return p.join("raft.aside-" + time.Now().UTC().Format("20060102T150405Z"))
}

// errReopen ends the loops of a node that is to start anew within its process.
var errReopen = errors.New("start anew")

// adoptSeed puts a seeded raft directory in place of the one that there is, which is set aside. Cut off anywhere, the next
// start goes on.
func (n *Node) adoptSeed() error {
	if _, err := os.Stat(n.dir.raftSeed()); err != nil {
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
	if err := os.Rename(n.dir.raftSeed(), n.dir.raft()); err != nil {
		return fmt.Errorf("begin with the reconstructed State: %w", err)
	}
	return syncDir(n.cfg.Dir)
}

// survey is what a node says of itself to one that reconstructs.
type survey struct {
	Name   string `json:"name"`
	Leader string `json:"leader,omitempty"` // whom it follows
	Log    uint64 `json:"log"`              // index of its State, or where it only has a log, of that; 0: it has none
	// Of its journal; Index 0: it has none.
	Epoch  uint64            `json:"epoch"`
	Index  uint64            `json:"index"`
	Digest string            `json:"digest"`
	Gens   map[string]uint64 `json:"generations"` // newest, by system
	Nodes  map[string]string `json:"nodes"`       // names of members, by id
	Error  string            `json:"error,omitempty"`
}

func (n *Node) surveyHere() survey {
	v := survey{Name: n.cfg.Name, Leader: n.fsm.Leader()}
	if !n.fsm.Empty() {
		v.Log = max(n.fsm.State().Index, 1)
	}
	s, err := n.readJournal()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return v
	case err != nil:
		v.Error = err.Error()
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

// reconstruction is what a survey leads to.
type reconstruction struct {
	api.Reconstruction
	source string // node id
}

// planReconstruction chooses the newest journal, or says why there must be no reconstruction.
func planReconstruction(found map[string]survey) (r reconstruction, err error) {
	r.Nodes, r.Missing = []api.SurveyedNode{}, []string{}
	best, names := survey{}, map[string]string{}
	for _, id := range sortedIDs(found) {
		v := found[id]
		switch {
		case v.Leader != "":
			return r, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s has a leader: nothing is lost", v.Name), Hint: "See isonomia members."}
		case v.Log > 0:
			return r, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s still has its raft log, and what is in it is newer than any journal", v.Name),
				Hint: "Start the other nodes that have theirs: a majority of the voters goes on by itself."}
		case v.Epoch > best.Epoch || v.Epoch == best.Epoch && v.Index > best.Index:
			best, r.source = v, id
		}
		for id, name := range v.Nodes {
			names[id] = name
		}
	}
	if r.source == "" {
		return r, &api.Error{Code: api.CodeNotFound, Message: "no node that answers has a journal"}
	}
	for id, name := range best.Nodes {
		if v, answered := found[id]; !answered || v.Error != "" {
			r.Missing = append(r.Missing, name)
		}
	}
	for _, id := range sortedIDs(found) {
		if v := found[id]; v.Name != "" {
			r.Nodes = append(r.Nodes, api.SurveyedNode{Name: v.Name, Index: v.Index, Generations: v.Gens, Error: v.Error, Chosen: id == r.source})
		}
	}
	slices.Sort(r.Missing)
	r.Digest, r.Index, r.From = best.Digest, best.Index, best.Name
	return r, nil
}

func sortedIDs(found map[string]survey) []string {
	ids := make([]string, 0, len(found))
	for id := range found {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(a, b string) int {
		return strings.Compare(found[a].Name+"\x00"+a, found[b].Name+"\x00"+b)
	})
	return ids
}

// postReconstruct shows what would be reconstructed, or does it.
func (n *Node) postReconstruct(r *http.Request) (any, error) {
	req, err := decode[api.ReconstructRequest](r)
	if err != nil {
		return nil, err
	}
	plan, err := planReconstruction(n.surveyAll(r.Context()))
	if err != nil || req.Digest == "" {
		return plan.Reconstruction, err
	}
	if req.Digest != plan.Digest {
		return nil, &api.Error{Code: api.CodeStale, Message: "another journal is the newest one now", Hint: "Look again."}
	}
	s, err := n.journalOf(r.Context(), plan.source)
	if err != nil {
		return nil, err
	}
	if stateDigest(s) != plan.Digest {
		return nil, &api.Error{Code: api.CodeStale, Message: "the journal changed while it was fetched", Hint: "Try again."}
	}
	if !s.Nodes.Has(n.id.ID) {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s is no member in the newest journal", n.cfg.Name), Hint: "Run this on one that is."}
	}
	again := *s
	again.Cluster.Epoch++
	if err := raftfsm.Seed(n.dir.raftSeed(), n.id.ID, &again); err != nil {
		return nil, err
	}
	n.note(Noted{Kind: "reconstructed", Message: fmt.Sprintf("the cluster goes on from the journal of %s, at entry %d; missing: %s", plan.From, plan.Index, strings.Join(plan.Missing, ", "))})
	time.AfterFunc(100*time.Millisecond, n.reopen) // once this is answered
	return plan.Reconstruction, nil
}

// journalOf fetches a node's journal.
func (n *Node) journalOf(ctx context.Context, id string) (*model.State, error) {
	if id == n.id.ID {
		return n.readJournal()
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := n.peers.open(ctx, n.peers.blob, id, http.MethodGet, "/journal", nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return raftfsm.ReadState(resp.Body)
}

// sendJournal answers with the journal as it is on disk.
func (n *Node) sendJournal(w http.ResponseWriter, _ *http.Request) {
	b, err := os.ReadFile(n.dir.journal())
	if err != nil {
		writeError(w, err)
		return
	}
	_, _ = w.Write(b)
}
