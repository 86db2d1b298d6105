package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newWhatIfCommand(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "whatif",
		Short:   "Show what would happen without some nodes",
		Long:    "Show what the cluster would do if nodes went down, or were drained. Nothing is changed.",
		Example: "  isonomia whatif down n2\n  isonomia whatif drain n2 n3",
		Args:    cobra.NoArgs,
	}
	for _, what := range []struct {
		name, short string
		drained     bool
	}{{"down", "What would happen if nodes went down", false}, {"drain", "What would happen if nodes were drained", true}} {
		cmd.AddCommand(&cobra.Command{
			Use:               what.name + " NODE...",
			Short:             what.short,
			Example:           "  isonomia whatif " + what.name + " n2\n  isonomia whatif " + what.name + " n2 n3 --json",
			Args:              between(1, -1),
			ValidArgsFunction: completeNodes(c),
			RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
				ctx := cmd.Context()
				plans, err := client.WhatIf(ctx, api.WhatIfRequest{Nodes: args, Drained: what.drained})
				if err != nil {
					return err
				}
				if c.json {
					return printList(c, plans)
				}
				c.showPlans(plans)
				return nil
			}),
		})
	}
	return cmd
}

// showPlans shows the plans that say something.
func (c *console) showPlans(plans []api.Plan) {
	said := false
	for _, p := range plans {
		if !p.Empty || len(p.Warnings) > 0 {
			said = true
			fmt.Fprint(c.talk(), renderPlan(p, c.paint(), c.wrapWidth()))
		}
	}
	switch {
	case len(plans) == 0:
		c.sayf("Nothing is deployed.")
	case !said:
		c.sayf("Nothing would change.")
	}
}

// drain is one drain: look, ask, begin, watch until nothing is left.
type drain struct {
	*console
	undo, yes, noWait bool
	leave             bool // and take it out then
	timeout           time.Duration
}

func newDrainCommand(c *console) *cobra.Command {
	d := &drain{console: c}
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Have everything on a node go elsewhere",
		Long: "Have every instance on a node go elsewhere, with its state, in order, and wait until nothing is left on it. What may\n" +
			"run nowhere else is stopped. Nothing is placed there until drain --undo. What is to happen is shown first.",
		Example:           "  isonomia drain n2\n  isonomia drain n2 --undo",
		Args:              between(1, 1),
		ValidArgsFunction: completeNodes(c),
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return d.run(cmd.Context(), client, args[0])
		}),
	}
	cmd.Flags().BoolVar(&d.undo, "undo", false, "let instances be placed there again")
	cmd.Flags().BoolVarP(&d.yes, "yes", "y", false, "go ahead without being asked")
	cmd.Flags().BoolVar(&d.noWait, "no-wait", false, "do not wait until nothing is left")
	cmd.Flags().DurationVar(&d.timeout, "timeout", 0, "how long to wait (default: until nothing is left); the drain itself goes on")
	return cmd
}

func (d *drain) run(ctx context.Context, client *api.Client, node string) error {
	if !d.yes && !d.undo && (!d.canAsk || d.json) {
		return usagef("add --yes to go ahead without being asked", "it asks before it moves anything, and there is no terminal to ask on")
	}
	plans, err := client.WhatIf(ctx, api.WhatIfRequest{Nodes: []string{node}, Drained: true})
	if err != nil {
		return err
	}
	if !d.undo {
		d.showPlans(plans)
		if !d.yes {
			question := fmt.Sprintf("Drain %s?", oneLine(node))
			if d.leave {
				question = fmt.Sprintf("Drain %s, and have it leave the cluster?", oneLine(node))
			}
			if agreed, err := d.ask(ctx, question); err != nil || !agreed {
				return orError(err, &api.Error{Code: api.CodeAborted, Message: "nothing was changed: not agreed"})
			}
		}
	}
	done, err := client.Drain(ctx, api.DrainRequest{Node: node, Undo: d.undo})
	if err == nil && !d.undo && !d.noWait {
		err = d.await(ctx, client, node, plans)
	}
	if err == nil && d.leave {
		err = d.depart(ctx, client, node)
	}
	switch {
	case err != nil:
		return err
	case d.json:
		return d.printJSON(done)
	case d.leave:
		d.sayf("%s has left. Its agent ends; started with --rejoin it comes back.", oneLine(node))
	case d.undo:
		d.sayf("Instances may be placed on %s again. What left it stays where it is.", oneLine(node))
	case d.noWait:
		d.sayf("%s is drained from now on.", oneLine(node))
	default:
		d.sayf("Nothing is left on %s.", oneLine(node))
	}
	return nil
}

func newLeaveCommand(c *console) *cobra.Command {
	d := &drain{console: c, leave: true}
	cmd := &cobra.Command{
		Use:   "leave NODE",
		Short: "Drain a node, and take it out of the cluster",
		Long: "Have everything on a node go elsewhere, as drain does, wait until other nodes have copies of its snapshots, and take it\n" +
			"out of the cluster: its agent and keeper end. It is no voter any more, keeps its name and key, and comes back with\n" +
			"isonomia agent --rejoin. What is to happen is shown first.",
		Example:           "  isonomia leave n2\n  isonomia leave n2 --yes --timeout 10m",
		Args:              between(1, 1),
		ValidArgsFunction: completeNodes(c),
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			return d.run(cmd.Context(), client, args[0])
		}),
	}
	cmd.Flags().BoolVarP(&d.yes, "yes", "y", false, "go ahead without being asked")
	cmd.Flags().DurationVar(&d.timeout, "timeout", 0, "how long to wait (default: until it has left)")
	return cmd
}

// depart waits until nothing keeps a drained node, and takes it out.
func (d *drain) depart(ctx context.Context, client *api.Client, node string) error {
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	for told := ""; ; {
		_, err := client.Leave(ctx, node)
		switch api.CodeOf(err) {
		case api.CodeConflict, api.CodeNoQuorum, api.CodeUnreachable:
		default:
			return err // nil is none
		}
		if err.Error() != told {
			told = err.Error()
			d.sayf("%s.", oneLine(told))
		}
		select {
		case <-ctx.Done():
			return withHint(err, "it stays drained; isonomia leave goes on from there, and isonomia drain --undo takes it back")
		case <-time.After(firstPause):
		}
	}
}

// await waits until no instance of the systems is on the node, and says what is left whenever that changes.
func (d *drain) await(ctx context.Context, client *api.Client, node string, plans []api.Plan) error {
	if d.timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout)
		defer cancel()
	}
	told := ""
	for {
		left, err := instancesOn(ctx, client, node, plans)
		if code := api.CodeOf(err); err != nil && code != api.CodeUnreachable && code != api.CodeNoQuorum {
			return err
		}
		if err == nil && len(left) == 0 {
			return nil
		}
		if now := strings.Join(left, ", "); err == nil && now != told {
			told = now
			d.sayf("On %s: %s.", oneLine(node), oneLine(now))
		}
		select {
		case <-ctx.Done():
			return &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("not all has left %s: %s", node, told), Hint: "It goes on; see isonomia status and isonomia events."}
		case <-time.After(firstPause):
		}
	}
}

// instancesOn names what is on a node, each service once.
func instancesOn(ctx context.Context, client *api.Client, node string, plans []api.Plan) ([]string, error) {
	var left []string
	for _, p := range plans {
		status, err := client.Status(ctx, p.System, false)
		if err != nil {
			return nil, err
		}
		for _, i := range status.Instances {
			if i.Node == node {
				left = append(left, i.Service+" ("+i.Phase+")")
			}
		}
	}
	slices.Sort(left)
	return slices.Compact(left), nil
}

func newRemoveCommand(c *console) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "remove NODE",
		Short: "Take a node that is down out of the cluster for ever",
		Long: "Take a node that is down out of the cluster: what it held is free for others, its key is barred, and states that it had\n" +
			"go on from the newest snapshot that another node has. Make sure that it is off and stays off: the cluster cannot\n" +
			"reach it, so it cannot stop what may still be running there.",
		Example:           "  isonomia remove n3",
		Args:              between(1, 1),
		ValidArgsFunction: completeNodes(c),
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			ctx := cmd.Context()
			if !yes && (!c.canAsk || c.json) {
				return usagef("add --yes to go ahead without being asked", "remove asks before it changes anything, and there is no terminal to ask on")
			}
			look, err := client.Remove(ctx, api.RemoveRequest{Node: args[0], DryRun: true})
			if err != nil {
				return err
			}
			if !yes {
				for _, s := range look.States {
					fmt.Fprintln(c.talk(), oneLine(removedState(s)))
				}
				if agreed, err := c.ask(ctx, fmt.Sprintf("Is %s off, and may it be removed for ever?", oneLine(args[0]))); err != nil || !agreed {
					return orError(err, &api.Error{Code: api.CodeAborted, Message: "nothing was changed: not agreed"})
				}
			}
			done, err := client.Remove(ctx, api.RemoveRequest{Node: args[0]})
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(done)
			}
			c.sayf("%s is removed.", oneLine(done.Node))
			for _, s := range done.States {
				c.sayf("%s", oneLine(removedState(s)))
			}
			return nil
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "go ahead without being asked")
	return cmd
}

func removedState(s api.RemovedState) string {
	if s.Generation == 0 {
		return fmt.Sprintf("state of %s: no other node has a snapshot; it is lost with the node", s.Service)
	}
	return fmt.Sprintf("state of %s: goes on from snapshot %d, of %s; what was written since is lost with the node", s.Service, s.Generation, s.At.Format(time.RFC3339))
}
