package node

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// Recovery: a cluster of which a majority of the voters is gone for good goes on from the log that reaches furthest among those
// that are left, with all its entries: one that only a minority has may have been committed by those that are lost. The
// exception is a log that lacks, or contradicts, what another node knows to be committed, for it followed one of the lost: then
// that is the newest.

// recovery is what a survey leads to.
type recovery struct {
	api.Recovery
	log   string // id of the node whose log reaches furthest
	known string // id of the one that knows most to be committed; "" when nobody knows anything
	most  survey // what that knows
}

// planRecovery chooses the log, or says why there must be no recovery.
func planRecovery(found map[string]survey) (r recovery, err error) {
	if err := noLeader(found); err != nil {
		return r, err
	}
	best := survey{}
	for _, id := range sortedIDs(found) {
		v := found[id]
		if v.End.Reaches(best.End) {
			best, r.log = v, id
		}
		if v.known() && v.newer(r.most) {
			r.most, r.known = v, id
		}
	}
	if r.log == "" {
		return r, &api.Error{Code: api.CodeNotFound, Message: "no node that answers has a raft log", Hint: "From what the nodes know besides: isonomia reconstruct."}
	}
	name := func(id string) string { return nameOf(found, id) }
	r.Silent, r.Newest = []string{}, []api.Newest{}
	var have []string
	for _, id := range best.End.Voters {
		r.Voters = append(r.Voters, name(id))
		if v, answered := found[id]; answered && v.End.Whole && v.End.Epoch == best.End.Epoch {
			have = append(have, name(id))
		} else {
			r.Silent = append(r.Silent, name(id))
		}
	}
	if 2*len(have) > len(r.Voters) {
		return r, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%d of the %d voters (%s) are there with their logs: that is a majority, which elects a leader by itself", len(have), len(r.Voters), strings.Join(have, ", ")),
			Hint: "Wait a moment, and see isonomia members; if they cannot reach each other, mend that; if one is sick, stop its agent first."}
	}
	r.Nodes, r.Missing = surveyed(found, r.most)
	for i := range r.Nodes {
		r.Nodes[i].Voter = slices.Contains(r.Voters, r.Nodes[i].Name)
	}
	r.From, r.Log, r.Later = best.Name, true, later(found, max(best.End.Epoch, r.most.Epoch))
	return r, nil
}

// knowsMore says whether what a node knows to be committed is not all in the State that a log leads to. through says that the log
// leads there through that node's State.
func (r *recovery) knowsMore(log *model.State, through bool) bool {
	if r.known == "" || r.most.Epoch < log.Cluster.Epoch {
		return false
	}
	return r.most.Epoch > log.Cluster.Epoch || r.most.Index > log.Index || !through
}

// postRecover shows what would be recovered, or does it.
func (n *Node) postRecover(r *http.Request) (any, error) {
	req, err := decode[api.RecoverRequest](r)
	if err != nil {
		return nil, err
	}
	found := n.surveyAll(r.Context())
	plan, err := planRecovery(found)
	if err != nil {
		return nil, err
	}
	s, err := n.recovered(r.Context(), &plan)
	if err != nil || req.Digest == "" {
		return plan.Recovery, err
	}
	if req.Digest != plan.Digest {
		return nil, &api.Error{Code: api.CodeStale, Message: "what the cluster would go on from is not what was shown", Hint: "Look again."}
	}
	return plan.Recovery, n.beginAgain(r.Context(), s, found, "recovered", fmt.Sprintf("the cluster goes on from what %s has, at entry %d; voters that are lost: %s", plan.From, plan.Index, strings.Join(plan.Silent, ", ")))
}

// recovered fetches the State to go on from, and completes the plan by it.
func (n *Node) recovered(ctx context.Context, plan *recovery) (*model.State, error) {
	s, through, err := n.tailOf(ctx, plan.log, plan.most.Index, plan.most.Digest)
	if err != nil {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("the log of %s cannot be read: %v", plan.From, err),
			Hint: fmt.Sprintf("Try again. If it stays so: stop the agent of %s to go on without its log.", plan.From)}
	}
	if plan.knowsMore(s, through) {
		if s, err = n.knownStateOf(ctx, plan.known); err != nil {
			return nil, fmt.Errorf("read what %s knows: %w", plan.most.Name, err)
		}
		plan.From, plan.Log = plan.most.Name, false
	}
	plan.Index, plan.Digest = s.Index, stateDigest(s)
	for i := range plan.Nodes {
		plan.Nodes[i].Chosen = plan.Nodes[i].Name == plan.From
	}
	for name, sys := range s.Systems.All() {
		if it, ok := s.Intents.Get(model.SystemKey(name, sys.Intent)); ok {
			plan.Newest = append(plan.Newest, api.Newest{System: name, Generation: sys.Generation, At: it.At})
		}
	}
	return s, nil
}

// throughHeader says true when the log leads through the State that was asked for.
const throughHeader = "Isonomia-Through"

// tailOf gives the State to which a node's log leads, and says whether it leads through the one with a digest at an entry.
func (n *Node) tailOf(ctx context.Context, id string, at uint64, digest string) (*model.State, bool, error) {
	if id == n.id.ID {
		return n.tailHere(at, digest)
	}
	s, h, err := n.stateOf(ctx, id, "/tail?"+url.Values{"at": {strconv.FormatUint(at, 10)}, "digest": {digest}}.Encode())
	return s, h.Get(throughHeader) == "true", err
}

func (n *Node) tailHere(at uint64, digest string) (*model.State, bool, error) {
	t, err := n.fsm.Tail(at)
	return t.End, at <= t.Committed || t.At != nil && stateDigest(t.At) == digest, err
}

// sendTail answers with the State to which this node's log leads.
func (n *Node) sendTail(w http.ResponseWriter, r *http.Request) {
	at, err := strconv.ParseUint(r.URL.Query().Get("at"), 10, 64)
	if err != nil {
		writeError(w, &api.Error{Code: api.CodeUsage, Message: "at is no index of an entry"})
		return
	}
	s, through, err := n.tailHere(at, r.URL.Query().Get("digest"))
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set(throughHeader, strconv.FormatBool(through))
	n.sentState(raftfsm.WriteState(w, s))
}
