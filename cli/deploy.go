package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

const (
	deployKind   = "deploy"
	undeployKind = "undeploy"
	rollbackKind = "rollback"
	restoreKind  = "restore"

	// staleRetries is how often --yes plans again when somebody else was faster.
	staleRetries = 3
	// replyPatience is how long a deploy whose reply was lost is sent again. Longer than a failover and a restart of
	// the agent; sending it again is safe because the proposal has an id.
	replyPatience = 20 * time.Second
)

// operation is one deploy, undeploy or rollback: plan, ask, propose, watch.
type operation struct {
	*console
	kind   string
	client *api.Client
	req    api.PlanRequest

	yes, noWait, rebuild bool
	inventories          []string
	deleteState          bool     // undeploy: of what goes
	going                []string // services whose state is deleted
	deleted              []api.CollectedState
	timeout              time.Duration // of watching; 0 means none
	why                  string
}

func newDeployCommand(c *console) *cobra.Command {
	op := &operation{console: c, kind: deployKind}
	cmd := &cobra.Command{
		Use:   "deploy [DIR]",
		Short: "Deploy the model in a directory and watch until it runs",
		Long: "Read the model in DIR (*.hcl and *.hcl.json; default: the current directory), send packages to the node and\n" +
			"build them, show the plan, ask, and watch until every service is active and healthy. If one fails, the cluster\n" +
			"goes back to what ran before and the exit code is 4. Ctrl-C ends the watching, not the deployment.",
		Example:           "  isonomia deploy ./mysystem\n  isonomia deploy --yes --timeout 5m ./mysystem\n  isonomia deploy --yes --no-wait --system staging",
		Args:              oneOrNone,
		ValidArgsFunction: completeDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := op.begin(); err != nil {
				return err
			}
			if err := op.readModel(cmd.Context(), directory(args)); err != nil {
				return err
			}
			return op.execute(cmd.Context())
		},
	}
	op.flags(cmd)
	op.modelFlags(cmd)
	return cmd
}

func newUndeployCommand(c *console) *cobra.Command {
	op := &operation{console: c, kind: undeployKind}
	cmd := &cobra.Command{
		Use:   "undeploy [SERVICE...]",
		Short: "Stop services, or the whole system, and give up their ports",
		Long: "Stop services, or the whole system, and give up their ports. Their states stay where they are, for when they are\n" +
			"deployed again. With --delete-state they are deleted once everything has stopped; a last snapshot of each is kept,\n" +
			"and isonomia gc --keep 0 drops those.",
		Example:           "  isonomia undeploy web\n  isonomia undeploy --yes\n  isonomia undeploy staff --delete-state",
		ValidArgsFunction: completeServices(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			op.req.Services = args
			if op.deleteState && op.noWait {
				return usagef("leave one of them out", "--delete-state has to wait for the end, and --no-wait does not")
			}
			if err := op.begin(); err != nil {
				return err
			}
			return op.execute(cmd.Context())
		},
	}
	op.flags(cmd)
	cmd.Flags().BoolVar(&op.deleteState, "delete-state", false, "delete their states, too, once they have stopped")
	return cmd
}

func newRollbackCommand(c *console) *cobra.Command {
	op := &operation{console: c, kind: rollbackKind}
	cmd := &cobra.Command{
		Use:   "rollback",
		Short: "Go back to what ran before, as a new generation",
		Long: "Go back to what the newest settled deployment replaced, or to a generation of the history. It becomes a new\n" +
			"generation with the old one's contents; rolling back again goes further back.\n\n" +
			"The data stay as they are. With --with-state, what has managed state and changed since, or is used by what changed,\n" +
			"gets its data of that time back as well: from the snapshot that was taken when it was replaced, or the last one\n" +
			"before. What the data are now is kept as a snapshot, and isonomia restore SERVICE brings it back.",
		Example:           "  isonomia rollback\n  isonomia rollback --yes --to 12\n  isonomia rollback --with-state",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := op.begin(); err != nil {
				return err
			}
			return op.execute(cmd.Context())
		},
	}
	op.flags(cmd)
	cmd.Flags().Uint64Var(&op.req.To, "to", 0, "`GENERATION` to go back to (default: the one before)")
	cmd.Flags().BoolVar(&op.req.WithState, "with-state", false, "bring the data back, too")
	_ = cmd.RegisterFlagCompletionFunc("to", completeGenerations(c))
	return cmd
}

func (op *operation) flags(cmd *cobra.Command) {
	systemFlag(cmd, &op.req.System)
	flags := cmd.Flags()
	flags.BoolVarP(&op.yes, "yes", "y", false, "go ahead without being asked")
	flags.BoolVar(&op.noWait, "no-wait", false, "do not watch it")
	flags.DurationVar(&op.timeout, "timeout", 0, "how long to watch (default: until it ends); the deployment itself goes on")
	flags.StringVar(&op.why, "why", "", "`TEXT` for the history: the reason")
}

// connect finds the node and completes the request.
func (op *operation) connect() (err error) {
	op.req.Kind = op.kind
	if !model.ValidSystem(op.req.System) {
		return usagef(model.NameHint, "%q cannot be the name of a system", op.req.System)
	}
	op.client, err = op.console.client()
	return err
}

// begin is connect for what will ask: before packages are sent and built rather than after.
func (op *operation) begin() error {
	if !op.yes && (!op.canAsk || op.json) {
		return usagef("add --yes to go ahead without being asked", "%s asks before it changes anything, and there is no terminal to ask on", op.kind)
	}
	if op.timeout < 0 {
		return usagef("for example --timeout 5m", "--timeout must not be negative")
	}
	return op.connect()
}

// execute plans, asks, proposes and watches.
func (op *operation) execute(ctx context.Context) error {
	if err := op.findServices(ctx); err != nil {
		return err
	}
	reply, agreed, err := op.propose(ctx)
	switch {
	case err != nil:
		return err
	case !agreed:
		return &api.Error{Code: api.CodeAborted, Message: "nothing was changed: not agreed"}
	case reply.Unchanged:
		return op.unchanged(ctx, reply)
	}
	op.sayf("Accepted as generation %d.", reply.Generation)
	return op.watch(ctx, reply)
}

// findServices looks for the services that an undeploy is about.
func (op *operation) findServices(ctx context.Context) error {
	if op.kind != undeployKind || len(op.req.Services) == 0 && !op.deleteState {
		return nil
	}
	status, err := op.client.Status(ctx, op.req.System, false)
	if err != nil {
		return err
	}
	op.going = op.req.Services
	for _, i := range status.Instances {
		if len(op.req.Services) == 0 && !slices.Contains(op.going, i.Service) {
			op.going = append(op.going, i.Service)
		}
	}
	return knownServices(status, op.req.Services)
}

// deleteStates deletes the states of what was undeployed, wherever they are.
func (op *operation) deleteStates(ctx context.Context) ([]api.CollectedState, error) {
	if !op.deleteState || len(op.going) == 0 {
		return nil, nil
	}
	gc, err := op.client.GC(ctx, api.GCRequest{System: op.req.System, Services: op.going, Undeployed: true})
	if err != nil {
		return nil, withHint(err, "everything is stopped; isonomia gc deletes the states")
	}
	if !op.json {
		renderGC(op.out, gc)
	}
	return gc.States, notDeleted(gc)
}

// unchanged says that there was nothing to do. What is already asked for may still be under way: then it is watched.
func (op *operation) unchanged(ctx context.Context, reply api.DeployReply) error {
	status, err := op.client.Status(ctx, op.req.System, false)
	if err == nil && !status.Settled && status.Outcome == "running" && reply.Intent != 0 {
		op.sayf("Unchanged: generation %d asks for just this and is under way.", reply.Generation)
		return op.watch(ctx, reply)
	}
	op.sayf("Unchanged: generation %d is just this. Nothing was done.", reply.Generation)
	return op.result(reply, "", "")
}

func (op *operation) watch(ctx context.Context, reply api.DeployReply) error {
	if op.noWait {
		return op.result(reply, "running", "")
	}
	w := &watcher{console: op.console, client: op.client, system: op.req.System, intent: reply.Intent, generation: reply.Generation, kind: op.kind}
	last, err := w.follow(ctx, op.timeout)
	if err != nil {
		return err
	}
	if op.deleted, err = op.deleteStates(ctx); err != nil {
		return err
	}
	return op.result(reply, last.Outcome, last.Why)
}

// result is what --json prints of a change that did not fail.
func (op *operation) result(reply api.DeployReply, outcome, why string) error {
	if !op.json {
		return nil
	}
	return op.printJSON(struct {
		api.DeployReply
		Outcome string               `json:"outcome,omitempty"`
		Why     string               `json:"why,omitempty"`
		Deleted []api.CollectedState `json:"deleted_states,omitempty"`
	}{reply, outcome, why, op.deleted})
}

// propose plans and asks until a plan is accepted that the leader still agrees with. agreed is false when the
// operator said no.
func (op *operation) propose(ctx context.Context) (reply api.DeployReply, agreed bool, err error) {
	for attempt := 0; ; attempt++ {
		plan, err := op.client.Plan(ctx, op.req)
		if err != nil {
			return reply, false, err
		}
		if !plan.Empty {
			if agreed, err := op.consent(ctx, plan); err != nil || !agreed {
				return reply, false, err
			}
		}
		reply, err = op.send(ctx, plan)
		if api.CodeOf(err) != api.CodeStale {
			return reply, err == nil, err
		}
		if op.yes && attempt >= staleRetries {
			return reply, false, withHint(err, "others keep deploying this system; look at isonomia history and try again")
		}
		op.sayf("Somebody else deployed meanwhile. Planning again.")
	}
}

// consent shows the plan and asks.
func (op *operation) consent(ctx context.Context, plan api.Plan) (bool, error) {
	fmt.Fprint(op.talk(), renderPlan(plan, op.paint(), op.wrapWidth()))
	if op.yes {
		return true, nil
	}
	question := map[string]string{deployKind: "Deploy?", undeployKind: "Undeploy?", rollbackKind: "Roll back?", restoreKind: "Restore?"}[op.kind]
	return op.ask(ctx, question)
}

// send proposes a plan. A reply that is lost is asked for again under the same id, so that nothing is done twice.
func (op *operation) send(ctx context.Context, plan api.Plan) (api.DeployReply, error) {
	proposal, err := newProposal()
	if err != nil {
		return api.DeployReply{}, err
	}
	req := api.DeployRequest{PlanRequest: op.req, Proposal: proposal, Base: plan.Base, Digest: plan.Digest, By: op.operator(), Why: op.why}
	retry := newRetry(op.patience(replyPatience))
	for {
		reply, err := op.client.Deploy(ctx, req)
		if code := api.CodeOf(err); code != api.CodeUnreachable && code != api.CodeNoQuorum {
			return reply, err
		}
		if !retry.wait(ctx) {
			if ctx.Err() != nil {
				return reply, ctx.Err()
			}
			return reply, lostReply(err)
		}
	}
}

// lostReply is for a proposal of which nobody knows whether it was accepted.
func lostReply(err error) error {
	e := *explain(err)
	e.Message += "; it is not known whether the change was accepted"
	e.Hint = "look at isonomia history, with --node on another node if need be"
	return &e
}

// newProposal draws the id of a proposal: 128 bits, so that no two operators draw the same.
func newProposal() (string, error) {
	var id [16]byte
	if _, err := rand.Read(id[:]); err != nil {
		return "", fmt.Errorf("draw proposal id: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

// retry spaces attempts with growing pauses until its patience is over.
type retry struct {
	until time.Time
	pause time.Duration
}

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

func newRetry(patience time.Duration) *retry {
	return &retry{until: time.Now().Add(patience), pause: firstPause}
}

// wait pauses before the next attempt; false when there should be none.
func (r *retry) wait(ctx context.Context) bool {
	if time.Now().After(r.until) {
		return false
	}
	timer := time.NewTimer(r.pause)
	defer timer.Stop()
	r.pause = min(2*r.pause, lastPause)
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
