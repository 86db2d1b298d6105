package node

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// reconstruction is what a survey leads to.
type reconstruction struct {
	api.Reconstruction
	source string // node id
}

// planReconstruction chooses the newest State that is known, or that of the node which the operator named, or says why there
// must be no reconstruction.
func planReconstruction(found map[string]survey, from string) (r reconstruction, err error) {
	best := survey{}
	for _, id := range sortedIDs(found) {
		if v := found[id]; v.known() && v.newer(best) && (from == "" || from == v.Name) {
			best, r.source = v, id
		}
	}
	if err := noLeader(found); err != nil {
		return r, err
	}
	for _, id := range sortedIDs(found) {
		switch v := found[id]; {
		case v.End.Epoch > 0 && v.End.Epoch >= best.Epoch: // that of an earlier epoch is of no use any more
			return r, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s still has its raft log, and what is in it is newer than any journal", v.Name),
				Hint: "Start the other nodes that have theirs: a majority of the voters goes on by itself. If there is none any more: isonomia recover."}
		}
	}
	switch {
	case r.source == "" && from != "":
		return r, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no node %s answers that has a journal", from), Hint: "isonomia reconstruct without --from shows which have one."}
	case r.source == "":
		return r, &api.Error{Code: api.CodeNotFound, Message: "no node that answers has a journal"}
	}
	r.Nodes, r.Missing = surveyed(found, best)
	for i := range r.Nodes {
		r.Nodes[i].Chosen = r.Nodes[i].Name == best.Name
	}
	r.Digest, r.Index, r.From, r.Later = best.Digest, best.Index, best.Name, later(found, best.Epoch)
	return r, nil
}

// noLeader is an error while there is a leader, or others that go on without this node.
func noLeader(found map[string]survey) error {
	if by := refusing(found); by != "" {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s does not take this node for a member: it was removed from the cluster, which goes on without it", by),
			Hint: "To have this machine back: an empty data directory and a token (isonomia token create on a member)."}
	}
	by, who := leader(found)
	if who == "" {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s has a leader, %s: nothing is lost", by, who), Hint: "See isonomia members."}
}

// surveyed lists who answered, and the members by the best State of which nobody knows what they have.
func surveyed(found map[string]survey, best survey) (nodes []api.SurveyedNode, missing []string) {
	nodes, missing = []api.SurveyedNode{}, []string{}
	for id, name := range best.Nodes {
		if v, answered := found[id]; !answered || v.Error != "" {
			missing = append(missing, name)
		}
	}
	slices.Sort(missing)
	for _, id := range answered(found) {
		v := found[id]
		nodes = append(nodes, api.SurveyedNode{Name: v.Name, Index: v.Index, Term: v.End.Term, Last: v.End.Index, Generations: v.Gens, Error: v.Error,
			Conflict: v.Epoch == best.Epoch && v.Index == best.Index && v.Digest != best.Digest})
	}
	return nodes, missing
}

// later names a node that was in a cluster that was rebuilt before from what nobody has who answers now.
func later(found map[string]survey, epoch uint64) string {
	if met, by := met(found); met > epoch {
		return by
	}
	return ""
}

// answered are the ids of the nodes that said what they have, by name.
func answered(found map[string]survey) []string {
	return slices.DeleteFunc(sortedIDs(found), func(id string) bool { return found[id].Name == "" })
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
	found := n.surveyAll(r.Context())
	plan, err := planReconstruction(found, req.From)
	if err != nil || req.Digest == "" {
		return plan.Reconstruction, err
	}
	if req.Digest != plan.Digest {
		return nil, &api.Error{Code: api.CodeStale, Message: "the journal to go on from is not what was shown", Hint: "Look again."}
	}
	s, err := n.knownStateOf(r.Context(), plan.source)
	if err != nil {
		return nil, err
	}
	if stateDigest(s) != plan.Digest {
		return nil, &api.Error{Code: api.CodeStale, Message: "the journal changed while it was fetched", Hint: "Try again."}
	}
	return plan.Reconstruction, n.beginAgain(r.Context(), s, found, "reconstructed", fmt.Sprintf("the cluster goes on from the journal of %s, at entry %d; missing: %s", plan.From, plan.Index, strings.Join(plan.Missing, ", ")))
}

// knownStateOf fetches what a node knows to be committed.
func (n *Node) knownStateOf(ctx context.Context, id string) (*model.State, error) {
	if id == n.id.ID {
		return n.knownState()
	}
	s, _, err := n.stateOf(ctx, id, "/journal")
	return s, err
}

// stateOf fetches a State from a node, and what is said beside it.
func (n *Node) stateOf(ctx context.Context, id, path string) (*model.State, http.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	resp, err := n.peers.open(ctx, n.peers.blob, id, http.MethodGet, path, nil)
	if err != nil {
		return nil, nil, err
	}
	defer resp.Body.Close()
	s, err := raftfsm.ReadState(resp.Body)
	return s, resp.Header, err
}

// sendJournal answers with what this node knows to be committed.
func (n *Node) sendJournal(w http.ResponseWriter, _ *http.Request) {
	s, err := n.knownState()
	if s.Index == 0 && err != nil {
		writeError(w, err)
		return
	}
	n.sentState(raftfsm.WriteState(w, s))
}

// sentState ends an answer: part of one that failed may be out, and its checksum is missing.
func (n *Node) sentState(err error) {
	if err != nil {
		n.log.Debug("sending State", "err", err)
		panic(http.ErrAbortHandler)
	}
}
