package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newAbortCommand(c *console) *cobra.Command {
	op := &operation{console: c, kind: deployKind}
	cmd := &cobra.Command{
		Use:               "abort",
		Short:             "End the deployment under way and go back to what ran before",
		Example:           "  isonomia abort\n  isonomia abort --no-wait --system staging",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := op.connect(); err != nil {
				return err
			}
			return op.abort(cmd.Context())
		},
	}
	systemFlag(cmd, &op.req.System)
	cmd.Flags().BoolVar(&op.noWait, "no-wait", false, "do not watch it")
	cmd.Flags().DurationVar(&op.timeout, "timeout", 0, "how long to watch (default: until it ends)")
	return cmd
}

func (op *operation) abort(ctx context.Context) error {
	running, err := op.running(ctx)
	if err != nil {
		return err
	}
	proposal, err := newProposal()
	if err != nil {
		return err
	}
	err = op.client.Abort(ctx, api.AbortRequest{System: op.req.System, By: op.operator(), Proposal: proposal})
	if err != nil {
		return err
	}
	reply := api.DeployReply{System: op.req.System, Generation: running.Generation, Intent: running.Intent}
	op.sayf("Aborting generation %d.", running.Generation)
	if op.noWait {
		return op.result(reply, "aborted", "")
	}
	w := &watcher{console: op.console, client: op.client, system: op.req.System, intent: running.Intent, generation: running.Generation, kind: op.kind}
	last, err := w.follow(ctx, op.timeout)
	if err != nil && api.CodeOf(err) != api.CodeAborted {
		return err
	}
	if last.Outcome == "aborted" {
		op.sayf("Aborted; generation %d runs.", last.Status.Generation)
	}
	return op.result(reply, last.Outcome, last.Why)
}

// running finds the newest intent that has no outcome yet.
func (op *operation) running(ctx context.Context) (api.HistoryEntry, error) {
	entries, err := op.client.History(ctx, op.req.System, true)
	if err != nil {
		return api.HistoryEntry{}, err
	}
	newestFirst(entries)
	for _, e := range entries {
		if e.Outcome == "running" {
			return e, nil
		}
	}
	return api.HistoryEntry{}, &api.Error{Code: api.CodeConflict, Where: op.req.System, Message: "no deployment of system " + op.req.System + " is under way",
		Hint: "isonomia rollback goes back from one that has settled"}
}

// patience is how long to keep trying: d, unless a test is less patient.
func (c *console) patience(d time.Duration) time.Duration {
	if c.impatience > 0 {
		return min(d, c.impatience)
	}
	return d
}
