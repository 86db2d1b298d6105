package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/model"
)

// perform does one step. Every step may be cut off at any instant, by a crash or by ctx, and done again.
func (a *agent) perform(ctx context.Context, s *model.State, st model.Step, claim uint64) {
	r := s.Rows.At(st.Row)
	if claim == 0 {
		claim = r.Claim
	}
	switch st.Kind {
	case model.StepFetch:
		a.fetch(ctx, st.Package)
	case model.StepPrepare:
		a.prepare(ctx, s, r)
	case model.StepStart:
		a.startRow(ctx, s, r, claim)
	case model.StepRepair:
		a.repairRow(ctx, s, r)
	case model.StepStop:
		a.stopRow(ctx, s, r, claim)
	case model.StepGiveUp:
		a.giveUp(ctx, s, r, st.Reason)
	case model.StepKill:
		a.kill(ctx, s, st)
	case model.StepSave:
		a.saveRow(ctx, s, r, claim)
	case model.StepRestore:
		a.restoreRow(ctx, s, r, claim)
	}
}

// fetch brings a package here and lays it out.
func (a *agent) fetch(ctx context.Context, tree string) {
	err := a.n.fetchTree(ctx, tree)
	if err == nil {
		err = a.n.materialise(ctx, tree)
	}
	key := model.PackageStep(tree)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.packages[tree] = true
		delete(a.failures, key)
		return
	}
	if ctx.Err() == nil {
		attempts := a.failures[key].Attempts + 1
		if noRoom(err) {
			attempts = model.FetchAttempts // a holder may come, room does not
		}
		a.failures[key] = model.Failure{Attempts: attempts, At: time.Now(), Reason: err.Error()}
		a.n.log.Warn("fetching a package", "package", tree, "attempt", attempts, "err", err)
	}
}

// instance is the row as the modules know it.
func (a *agent) instance(s *model.State, r model.RowSpec, claim uint64) activate.Instance {
	d := a.n.dir
	in := activate.Instance{ID: r.Key, Service: r.Service, Node: s.NodeName(r.Node), Container: r.Container, Type: r.Spec.Type, Managed: r.Managed, Exclusive: r.Exclusive,
		StateDir: d.state(r.System, r.Service), RunDir: d.run(r.Key), LogDir: d.logs(r.System), Attempt: a.nextAttempt(r.Key, claim), Epoch: claim,
		Spec: activate.Spec{Command: r.Spec.Command, Env: r.Spec.Env, Dir: r.Spec.Dir, User: r.Spec.User, UID: r.Spec.UID, GID: r.Spec.UID,
			Host: r.Spec.Host, Ports: r.Spec.Ports, Grace: r.Spec.Grace, StartDeadline: r.Spec.StartWait,
			Groups: groups(s, r)},
		Settings: r.Spec.Settings}
	if r.Spec.Package != "" {
		in.Package = d.pkg(r.Spec.Package)
	} else if in.Spec.Dir == "" {
		in.Spec.Dir = "/" // as systemd has it
	}
	if h := r.Spec.Health; h != nil {
		in.Spec.Health = &activate.Health{HTTP: h.HTTP, TCP: h.TCP, Command: h.Command, Port: h.Port, Timeout: h.Timeout} // between probes while starting the module's own pace is right
	}
	for _, o := range s.Rows.Prefix(a.n.id.ID + "/") {
		if o.Obsolete {
			in.Replaces = append(in.Replaces, o.Key)
		}
	}
	return in
}

// groups are those of the states on the same node that the instance depends on: what is in them is shared with the group.
func groups(s *model.State, r model.RowSpec) []int {
	var out []int
	for _, key := range r.DependsOn {
		if d := s.Specs.At(key); d.Node == r.Node && d.Spec.Type != model.TypeProcess && d.Spec.UID != 0 {
			out = append(out, d.Spec.UID)
		}
	}
	return out
}

func (a *agent) prepare(ctx context.Context, s *model.State, r model.Row) {
	a.n.shared.yield(r.RowSpec)
	a.n.fetches.lock(garbageKey(r.RowSpec)) // a state that is being deleted is gone first
	a.n.fetches.unlock(garbageKey(r.RowSpec))
	mod, err := a.n.module(r.Spec.Type)
	if err == nil {
		err = mod.Prepare(ctx, a.instance(s, r.RowSpec, 0))
	}
	if err == nil {
		err = a.n.beforeUpgrade(ctx, s, r.RowSpec)
	}
	if err == nil {
		err = a.n.warm(ctx, s, r.RowSpec)
	}
	if err != nil {
		if ctx.Err() == nil {
			a.fail(r, model.Failure{Claim: r.Claim, Reason: err.Error()})
		}
		return
	}
	a.report(ctx, s, r, model.Report{Row: r.Key, Phase: model.Prepared})
}

// startRow starts what was claimed and reports it active. A failure is counted; Next decides whether to try again.
func (a *agent) startRow(ctx context.Context, s *model.State, r model.Row, claim uint64) {
	if err := cmp.Or(a.goThrough(ctx, s, r.RowSpec), a.stateIsHere(s, r)); err != nil {
		a.startFailed(ctx, r, claim, err)
		return
	}
	if err := a.startInstance(ctx, s, r, claim); err != nil {
		a.startFailed(ctx, r, claim, err)
		return
	}
	f := a.failure(r.Key)
	if f.Claim != claim || f.Retry != r.Retry {
		f.Attempts = 0
	}
	a.report(ctx, s, r, model.Report{Row: r.Key, Phase: model.Active, Claim: claim, Attempts: f.Attempts + 1})
}

// startInstance has the module start it. Where there is no state, Start begins with Create, once what that needs is there: a
// server may be of the same deployment. State that was restored is there.
func (a *agent) startInstance(ctx context.Context, s *model.State, r model.Row, claim uint64) error {
	mod, err := a.n.module(r.Spec.Type)
	if err != nil {
		return err
	}
	return mod.Start(ctx, a.instance(s, r.RowSpec, claim))
}

func (a *agent) stopInstance(ctx context.Context, in activate.Instance) error {
	mod, err := a.n.module(in.Type)
	if err != nil {
		return err
	}
	return mod.Stop(ctx, in)
}

func (a *agent) startFailed(ctx context.Context, r model.Row, claim uint64, err error) {
	if ctx.Err() != nil || r.Exclusive && a.n.lease.left() <= 0 {
		return // the agent stops, or the row became obsolete, or the lease ended: no fault of the service
	}
	reason, output := describe(err)
	a.n.log.Warn("starting", "service", r.Service, "reason", reason)
	a.n.note(Noted{Kind: "start-failed", System: r.System, Service: r.Service, Message: reason})
	a.fail(r, model.Failure{Claim: claim, Reason: reason, Output: output})
}

// describe parts an error of a module into the reason and the last output.
func describe(err error) (reason, output string) {
	var exited *activate.ExitedError
	var late *activate.NotReadyError
	switch {
	case errors.As(err, &exited):
		return exited.Exit.String(), strings.Join(exited.Output, "\n")
	case errors.As(err, &late):
		return fmt.Sprintf("not ready within %v: %s", late.Within, late.Last), strings.Join(late.Output, "\n")
	}
	return err.Error(), ""
}

// repairRow starts again in place what died. Nothing is told to the log: the row is as active as before.
func (a *agent) repairRow(ctx context.Context, s *model.State, r model.Row) {
	if err := cmp.Or(a.goThrough(ctx, s, r.RowSpec), a.stateIsHere(s, r)); err != nil {
		a.startFailed(ctx, r, r.Claim, err)
		return
	}
	if err := a.startInstance(ctx, s, r, r.Claim); err != nil {
		a.startFailed(ctx, r, r.Claim, err)
		return
	}
	a.n.note(Noted{Kind: "repaired", System: r.System, Service: r.Service, Message: "its process was started again"})
}

func (a *agent) stopRow(ctx context.Context, s *model.State, r model.Row, claim uint64) {
	if err := a.stopInstance(ctx, a.instance(s, r.RowSpec, claim)); err != nil {
		a.n.log.Warn("stopping", "service", r.Service, "err", err)
		a.pokeLater(time.Second)
		return
	}
	a.forgetFailure(r.Key)
	a.report(ctx, s, r, model.Report{Row: r.Key, Phase: model.Stopped, Claim: claim})
}

// giveUp stops whatever is left of a row that failed too often, then says so.
func (a *agent) giveUp(ctx context.Context, s *model.State, r model.Row, reason string) {
	if err := a.stopInstance(ctx, a.instance(s, r.RowSpec, r.Claim)); err != nil {
		a.n.log.Warn("stopping what failed", "service", r.Service, "err", err)
		a.pokeLater(time.Second)
		return
	}
	f := a.failure(r.Key)
	a.n.note(Noted{Kind: "failed", System: r.System, Service: r.Service, Message: reason})
	a.report(ctx, s, r, model.Report{Row: r.Key, Phase: model.Failed, Claim: r.Claim, Reason: reason, Attempts: f.Attempts, Output: f.Output})
	if r.Spec.Package != "" {
		a.forgetFailure(model.PackageStep(r.Spec.Package)) // a later try may find a holder
	}
}

func (a *agent) kill(ctx context.Context, s *model.State, st model.Step) {
	inst := a.seenInstance(st.Row)
	if spec, ok := s.Specs.Get(st.Row); ok {
		inst = a.instance(s, spec, 0)
	}
	a.n.note(Noted{Kind: "kill", Service: inst.Service, Message: "ending a process that is not wanted: " + st.Reason})
	if err := a.stopInstance(ctx, inst); err != nil {
		a.n.log.Warn("ending a process", "row", st.Row, "err", err)
		a.pokeLater(time.Second)
	}
}

// seenInstance is an instance that runs and of which State knows nothing.
func (a *agent) seenInstance(row string) activate.Instance {
	a.mu.Lock()
	typ := a.types[row]
	a.mu.Unlock()
	if k := a.n.kind(typ); k != nil {
		return k.forgotten(row)
	}
	return activate.Instance{ID: row, Type: typ}
}

// report tells the log, together with whatever else this node has to report at the moment, and waits until this
// node's own State shows it: until then the row counts as busy, so that nothing is done twice.
func (a *agent) report(ctx context.Context, s *model.State, r model.Row, rep model.Report) {
	index, verdict, err := a.batch.report(ctx, rep)
	if err != nil {
		if ctx.Err() == nil {
			a.n.log.Warn("reporting", "service", r.Service, "phase", rep.Phase, "err", err)
			a.pokeLater(time.Second)
		}
		return
	}
	if verdict.Code != model.OK {
		a.n.log.Info("report not taken", "service", r.Service, "phase", rep.Phase, "reason", verdict.Reason)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, _ = a.n.fsm.Wait(ctx, index) // later is fine too: the next look sees it
}

// look is what was seen of the instances of one type.
type look struct {
	typ     string
	running []activate.Running
	err     error
}

// observe takes in what runs on this node, of all types, and which packages are on disk. What cannot be observed stays as
// it was seen last.
func (a *agent) observe(ctx context.Context, s *model.State) {
	var looks []look
	for _, k := range a.n.kinds {
		running, err := k.observe(ctx, a.poke)
		if err != nil && ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, errAsking) {
			a.n.log.Warn("observing instances", "type", k.typ, "err", err)
			a.pokeLater(time.Second)
		}
		looks = append(looks, look{k.typ, running, err})
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.take(s, looks)
	for _, r := range s.Rows.Prefix(a.n.id.ID + "/") {
		if id := r.Spec.Package; id != "" && !a.packages[id] {
			_, err := os.Stat(a.n.dir.pkg(id)) // whole directories appear by rename: there is there
			a.packages[id] = err == nil
		}
	}
}

// take replaces what was seen before. a.mu is held.
func (a *agent) take(s *model.State, looks []look) {
	seen, attempts, types := a.seen, a.attempts, a.types
	a.seen, a.attempts, a.types, a.blind = map[string]model.Process{}, map[string]int{}, map[string]string{}, map[string]error{}
	for _, l := range looks {
		if l.err != nil {
			a.blind[l.typ] = l.err
			for row, typ := range types {
				if typ == l.typ {
					a.seen[row], a.attempts[row], a.types[row] = seen[row], attempts[row], typ
				}
			}
			continue
		}
		for _, p := range l.running { // in the order of attempts: the newest start of a row stays
			a.attempts[p.ID], a.types[p.ID] = p.Attempt, l.typ
			a.seen[p.ID] = model.Process{Running: p.Exit == nil, PID: p.PID, Claim: claimOf(p.Attempt), Since: p.StartedAt}
			if p.Exit != nil {
				a.countDeath(s, p)
			}
		}
	}
}

// countDeath notices, once, that the process of an active row ended. A long steady run before clears the count.
func (a *agent) countDeath(s *model.State, p activate.Running) {
	r, ok := s.Rows.Get(p.ID)
	if _, busy := a.running[p.ID]; !ok || busy || r.Phase != model.Active || a.counted[p.ID] == p.Attempt {
		return
	}
	a.counted[p.ID] = p.Attempt
	if p.Exit.Unleased {
		return
	}
	f := a.failures[p.ID]
	if f.Claim != r.Claim || f.Retry != r.Retry || p.Exit.After > model.SteadyAfter {
		f = model.Failure{Claim: r.Claim, Retry: r.Retry}
	}
	f.Attempts, f.At, f.Reason, f.Output = f.Attempts+1, p.Exit.At, p.Exit.String(), ""
	a.failures[p.ID] = f
	a.n.note(Noted{Kind: "died", System: r.System, Service: r.Service, Message: f.Reason})
}

// observations is what GET /observed answers with.
func (a *agent) observations() map[string]observation {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := map[string]observation{}
	for key, p := range a.seen {
		o := observation{PID: p.PID, Running: p.Running, Since: p.Since}
		if f, ok := a.failures[key]; ok && f.Attempts > 0 {
			o.Trouble = fmt.Sprintf("%s (attempt %d)", f.Reason, f.Attempts)
		}
		if why, ill := a.ill[key]; ill && p.Running {
			o.Health, o.Trouble = "degraded", why
		}
		out[key] = o
	}
	lacking := a.n.lease.lacking()
	for _, r := range a.n.fsm.State().Rows.Prefix(a.n.id.ID + "/") {
		if o := out[r.Key]; lacking != "" && r.Exclusive && !r.Obsolete && !o.Running {
			o.Trouble = lacking
			out[r.Key] = o
		}
	}
	for key, f := range a.failures {
		if _, ok := out[key]; !ok && f.Attempts > 0 {
			out[key] = observation{Trouble: fmt.Sprintf("%s (attempt %d)", f.Reason, f.Attempts)}
		}
	}
	return out
}
