package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// undertaking is a request to change a system, read against one State: the manifest it leads to and the draft of its
// generation. The node that shows a plan and the leader that stores it both make one; they agree because composing is
// deterministic, and the digest proves it.
type undertaking struct {
	plan  model.Plan
	draft model.Draft
	// same says that not even the text of the model differs from the newest intent's.
	same bool
}

// undertake composes what is asked for on a State.
func undertake(s *model.State, req api.PlanRequest) (undertaking, error) {
	system := systemOf(req.System)
	if err := checkSystem(system); err != nil {
		return undertaking{}, err
	}
	switch req.Kind {
	case model.KindDeploy, "":
		return undertakeDeploy(s, system, req)
	case model.KindUndeploy:
		return undertakeUndeploy(s, system, req.Services)
	case model.KindRollback:
		return undertakeRollback(s, system, req)
	case kindRestore:
		return undertakeRestore(s, system, req)
	}
	return undertaking{}, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is not deploy, undeploy, rollback or restore", req.Kind)}
}

func undertakeDeploy(s *model.State, system string, req api.PlanRequest) (undertaking, error) {
	d := model.Draft{Kind: model.KindDeploy, Source: model.Source{Files: req.Files}, Packages: req.Packages}
	return undertakeSource(s, system, d)
}

func undertakeSource(s *model.State, system string, d model.Draft) (undertaking, error) {
	parsed, diags := model.Parse(d.Source, model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		return undertaking{}, invalid(diags, d.Source)
	}
	return undertakeModel(s, system, parsed, d)
}

// undertakeModel plans what the draft's source says, or is to stand for it.
func undertakeModel(s *model.State, system string, parsed *model.Model, d model.Draft) (undertaking, error) {
	m, diags := model.Compose{State: s, System: system, Model: parsed, Packages: d.Packages, Excluded: d.Excluded}.Run()
	if diags.HasErrors() {
		return undertaking{}, invalid(diags, d.Source)
	}
	return newUndertaking(s, system, m, d), nil
}

func invalid(diags model.Diagnostics, src model.Source) error {
	e := &api.Error{Code: api.CodeInvalidModel, Message: diags.Error()}
	for _, d := range diags {
		e.Diagnostics = append(e.Diagnostics, model.Diagnostics{d}.Text(src, 100, false))
		if e.Where == "" && d.Subject.File != "" {
			e.Where, e.Hint = fmt.Sprintf("%s:%d", d.Subject.File, d.Subject.Line), d.Hint
		}
	}
	return e
}

func newUndertaking(s *model.State, system string, m model.Manifest, d model.Draft) undertaking {
	u := undertaking{plan: model.Diff(s, system, m), draft: d}
	if d.Kind == model.KindUndeploy {
		u.plan.StopsBecause(func(model.Change) string { return "it is undeployed" })
	}
	in, ok := s.Intent(system, s.Systems.At(system).Intent)
	sameText := maps.EqualFunc(in.Source.Files, d.Source.Files, bytes.Equal) && maps.Equal(in.Packages, d.Packages) &&
		slices.Equal(in.Excluded, d.Excluded)
	u.same = u.plan.Empty() && (sameText && ok || !ok && len(m.Rows) == 0) && in.Abort == ""
	return u
}

// undertakeUndeploy takes services out of the newest intent's model, or everything.
func undertakeUndeploy(s *model.State, system string, services []string) (undertaking, error) {
	in, ok := s.Intent(system, s.Systems.At(system).Intent)
	if !ok {
		return undertaking{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("nothing is deployed as system %q", system)}
	}
	d := model.Draft{Kind: model.KindUndeploy}
	if len(services) == 0 {
		return undertakeModel(s, system, &model.Model{}, d)
	}
	for _, name := range services {
		if len(s.ServiceRows(system, name)) == 0 {
			return undertaking{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no service %q is deployed", name), Hint: "See isonomia status."}
		}
	}
	d.Source, d.Packages = in.Source, in.Packages
	d.Excluded = slices.Compact(slices.Sorted(slices.Values(append(slices.Clone(in.Excluded), services...))))
	return undertakeSource(s, system, d)
}

// undertakeRollback goes back to the intent of a generation, or to what the newest settled intent replaced; while
// something is under way, to the newest settled one itself.
func undertakeRollback(s *model.State, system string, req api.PlanRequest) (undertaking, error) {
	target, err := rollbackTarget(s, system, req.To)
	if err != nil {
		return undertaking{}, err
	}
	var returns []model.Return
	var lack []string
	if req.WithState {
		if returns, lack = model.ChooseReturns(s, system, target); len(returns) == 0 {
			return undertaking{}, nothingToReturn(target, lack)
		}
	}
	m, diags := model.ComposeRollback(s, system, target.Number, returns)
	if diags.HasErrors() {
		return undertaking{}, invalid(diags, target.Source)
	}
	u := newUndertaking(s, system, m, model.Draft{Kind: model.KindRollback, Source: target.Source, Packages: target.Packages,
		Excluded: target.Excluded, Target: target.Number, Origin: target.Origin})
	u.same = u.same && s.Systems.At(system).Settled == target.Number
	for _, service := range lack {
		u.plan.Warnings = append(u.plan.Warnings, fmt.Sprintf("%s keeps the data that it has: there is no snapshot of it from generation %d or before", service, target.Last))
	}
	return u, nil
}

// nothingToReturn is the answer to a rollback with state that would bring no data back.
func nothingToReturn(target model.Intent, lack []string) error {
	e := &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no state has to go back for generation %d: nothing with managed state was changed since, nor used by what was", target.Last),
		Hint: "Roll back without --with-state."}
	if len(lack) > 0 {
		e.Message = fmt.Sprintf("there is no snapshot of %s from generation %d or before", strings.Join(lack, ", "), target.Last)
		e.Hint = "Roll back without --with-state, or see isonomia snapshots and isonomia restore SERVICE@GENERATION."
	}
	return e
}

func rollbackTarget(s *model.State, system string, to uint64) (model.Intent, error) {
	sys := s.Systems.At(system)
	number := sys.Settled
	if to != 0 {
		g, ok := s.Generation(system, to)
		if !ok {
			return model.Intent{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("generation %d of system %q is not kept", to, system), Hint: "See isonomia history."}
		}
		number = g.Intent
	} else if sys.Settled == sys.Intent {
		settled, _ := s.Intent(system, sys.Settled)
		number = settled.Parent
	}
	in, ok := s.Intent(system, number)
	switch {
	case number == 0 || !ok:
		return in, &api.Error{Code: api.CodeNotFound, Message: "there is nothing to go back to", Hint: "See isonomia history; isonomia undeploy takes everything away."}
	case in.Outcome != model.Settled:
		return in, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("generation %d never settled (%s)", in.Last, in.Outcome), Hint: "Choose a settled one from isonomia history."}
	}
	return in, nil
}

func (n *Node) postPlan(r *http.Request) (any, error) {
	req, err := decode[api.PlanRequest](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	s, err := n.fsm.Read(ctx)
	if err != nil {
		return nil, err
	}
	u, err := undertake(s, req)
	if err != nil {
		return nil, err
	}
	out := apiPlan(s, u)
	if len(req.Explain) > 0 {
		err = explain(s, req, u, &out)
	}
	return out, err
}

// explain composes again what was undertaken and adds to its plan why services are where they are.
func explain(s *model.State, req api.PlanRequest, u undertaking, out *api.Plan) error {
	if req.Kind != model.KindDeploy && req.Kind != "" {
		return &api.Error{Code: api.CodeUsage, Message: "only the plan of a deploy can be explained"}
	}
	m, diags := model.Parse(u.draft.Source, model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		return invalid(diags, u.draft.Source)
	}
	services := req.Explain
	if slices.Contains(services, "*") {
		services = explainable(m, u.plan)
	}
	for _, name := range services {
		if m.Service(name) == nil {
			return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("the model has no service %q to explain", name)}
		}
	}
	if len(services) > api.MaxExplained {
		out.Warnings = append(out.Warnings, fmt.Sprintf("%d of %d services are explained: name those that you want to know of", api.MaxExplained, len(services)))
		services = services[:api.MaxExplained]
	}
	manifest, diags := model.Compose{State: s, System: u.plan.System, Model: m, Packages: req.Packages, Explain: services}.Run()
	if diags.HasErrors() {
		return invalid(diags, u.draft.Source)
	}
	reasons := func(list []model.NodeReason) []api.NodeReason {
		named := []api.NodeReason{}
		for _, r := range list {
			named = append(named, api.NodeReason{Node: s.NodeName(r.Node), Why: r.Why})
		}
		return named
	}
	for _, p := range manifest.Placements {
		out.Placements = append(out.Placements, api.Placement{Service: p.Service, On: reasons(p.On), Not: reasons(p.Not)})
	}
	return nil
}

// explainable are the services that a plan starts or moves, or all of the model if it does neither; in name order.
func explainable(m *model.Model, p model.Plan) []string {
	var out []string
	for _, c := range p.Changes {
		if c.Action == model.ActStart || c.Action == model.ActMove {
			out = append(out, c.Service)
		}
	}
	if len(out) == 0 {
		for _, s := range m.Services {
			out = append(out, s.Name)
		}
	}
	return slices.Compact(out)
}

func apiPlan(s *model.State, u undertaking) api.Plan {
	p := api.Plan{System: u.plan.System, Base: u.plan.Base, Digest: u.plan.Digest, Empty: u.same, Warnings: u.plan.Warnings, Changes: []api.Change{}}
	for _, c := range u.plan.Changes {
		a := api.Change{Action: string(c.Action), Service: c.Service, Node: s.NodeName(c.Node), Reasons: c.Reasons}
		if c.From != "" {
			a.From = s.NodeName(c.From)
		}
		p.Changes = append(p.Changes, a)
	}
	for _, r := range u.plan.Reserve {
		if r.Resource == "ports" {
			p.Ports = append(p.Ports, reservation(s, r))
		}
	}
	for _, r := range u.plan.Release {
		if r.Resource == "ports" && !slices.ContainsFunc(u.plan.Reserve, func(o model.Reservation) bool { return o.Key() == r.Key() }) {
			p.Released = append(p.Released, reservation(s, r))
		}
	}
	if len(p.Changes) == 0 && !u.same {
		p.Warnings = append(p.Warnings, "only the model's text changed: nothing is started or stopped")
	}
	return p
}

// postDeploy makes sure that the packages are on more than one node, then has the leader compose and store.
func (n *Node) postDeploy(r *http.Request) (any, error) {
	req, err := decode[api.DeployRequest](r)
	if err != nil {
		return nil, err
	}
	if req.Proposal == "" || len(req.Proposal) > 64 {
		return nil, &api.Error{Code: api.CodeUsage, Message: "a proposal id of 1 to 64 characters is needed"}
	}
	if err := n.spread(r.Context(), slices.Collect(maps.Values(req.Packages))); err != nil {
		return nil, err
	}
	rep, err := n.askLeader(r.Context(), origin{DeployRequest: req, Origin: n.id.ID})
	if err == nil {
		n.await(r.Context(), rep.Index)
	}
	return rep, err
}

// origin is a deploy request on its way to the leader.
type origin struct {
	api.DeployRequest
	Origin string `json:"origin"` // node id that has the packages
}

// askLeader hands the request to whoever leads, again when leadership moves; the proposal's id makes that safe.
func (n *Node) askLeader(ctx context.Context, req origin) (api.DeployReply, error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	var last error = errNoLeader
	for ctx.Err() == nil {
		rep, err := n.askLeaderOnce(ctx, req)
		if e := (*api.Error)(nil); err == nil || errors.As(err, &e) && e.Code != api.CodeNoQuorum {
			return rep, err
		}
		last = err
		n.pause(ctx, 50*time.Millisecond)
	}
	return api.DeployReply{}, last
}

func (n *Node) askLeaderOnce(ctx context.Context, req origin) (api.DeployReply, error) {
	if n.fsm.IsLeader() {
		return n.composeHere(ctx, req)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var b []byte
	err := n.fsm.WithLeader(ctx, func(ctx context.Context, leader string) (err error) {
		b, err = n.peers.call(ctx, leader, http.MethodPost, "/v1/compose", mustJSON(req))
		return err
	})
	var rep api.DeployReply
	if err != nil {
		return rep, err
	}
	if err := json.Unmarshal(b, &rep); err != nil {
		return rep, fmt.Errorf("decode the leader's answer: %w", err)
	}
	return rep, nil
}

func (n *Node) postCompose(r *http.Request) (any, error) {
	req, err := decode[origin](r)
	if err != nil {
		return nil, err
	}
	return n.composeHere(r.Context(), req)
}

// composeHere composes again on the leader's State and stores the generation, unless what it leads to is not what the
// operator was shown.
func (n *Node) composeHere(ctx context.Context, req origin) (api.DeployReply, error) {
	s, err := n.fsm.Read(ctx)
	if err != nil {
		return api.DeployReply{}, err
	}
	system := systemOf(req.System)
	if p, done := s.Proposals.Get(req.Proposal); done {
		return api.DeployReply{System: system, Generation: p.Result.Generation, Intent: p.Result.Intent, Index: p.Index}, nil
	}
	u, err := undertake(s, req.PlanRequest)
	if err != nil {
		return api.DeployReply{}, err
	}
	sys := s.Systems.At(system)
	switch {
	case u.same:
		return api.DeployReply{System: system, Generation: sys.Generation, Intent: sys.Intent, Unchanged: true}, nil
	case req.Base != sys.Generation:
		return api.DeployReply{}, stale(s, system)
	case req.Digest != u.plan.Digest:
		return api.DeployReply{}, &api.Error{Code: api.CodeStale, Message: "the cluster changed since the plan was made", Hint: "Look at a fresh plan."}
	}
	d := u.draft
	d.ID, d.By, d.Why, d.At, d.Origin = req.Proposal, req.By, cmp.Or(req.Why, d.Why), time.Now().UTC(), cmp.Or(d.Origin, req.Origin)
	res, err := n.proposeAll(ctx, u.plan.Commands(d))
	if err != nil {
		return api.DeployReply{}, err
	}
	if res.Code == model.OK {
		n.note(Noted{Kind: d.Kind, System: system, Message: fmt.Sprintf("generation %d, by %s", res.Generation, d.By)})
	}
	return api.DeployReply{System: system, Generation: res.Generation, Intent: res.Intent, Index: res.Index}, res.Err()
}

func stale(s *model.State, system string) error {
	g, _ := s.Generation(system, s.Systems.At(system).Generation)
	return &api.Error{Code: api.CodeStale, Message: fmt.Sprintf("generation %d was made meanwhile (%s by %s)", g.Number, g.Kind, g.By), Hint: "Look at a fresh plan."}
}

// proposeAll writes begin, parts and commit, in as few log entries as their size allows; the last result is commit's.
func (n *Node) proposeAll(ctx context.Context, cmds []model.Command) (model.Result, error) {
	var last model.Result
	groups, err := raftfsm.Group(cmds)
	if err != nil {
		return last, err
	}
	for _, group := range groups {
		res, err := n.fsm.ProposeLocal(ctx, group...)
		if err != nil {
			return last, &api.Error{Code: api.CodeNoQuorum, Message: "the leader changed: " + err.Error()}
		}
		for _, r := range res {
			if r.Code != model.OK {
				return r, nil
			}
		}
		last = res[len(res)-1]
	}
	return last, nil
}

func (n *Node) postAbort(r *http.Request) (any, error) {
	req, err := decode[api.AbortRequest](r)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	res, err := n.fsm.Propose(ctx, model.Abort{Proposal: req.Proposal, System: systemOf(req.System), By: cmp.Or(req.By, "an operator")})
	if err != nil {
		return nil, err
	}
	return api.DeployReply{System: systemOf(req.System), Generation: res[0].Generation, Intent: res[0].Intent}, res[0].Err()
}
