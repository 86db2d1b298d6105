package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// collection is one gc: look, ask, delete.
type collection struct {
	*console
	req  api.GCRequest
	keep int
	yes  bool
}

func newGCCommand(c *console) *cobra.Command {
	g := &collection{console: c}
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Delete states that nobody wants any more, and old snapshots",
		Long: "Delete, on every node that is up, what was left behind when a state went elsewhere, and the state of services that\n" +
			"are not deployed any more; of the latter a last snapshot is kept. With --keep, snapshots beyond so many are dropped:\n" +
			"of a service that is deployed never the newest nor the last proven one. --keep 0 drops all of services that are\n" +
			"gone. What a copy that was left behind has and no snapshot has is kept as a stray snapshot before it is deleted;\n" +
			"--strays drops those. What is to go is shown first. The space of snapshots and packages is freed by the nodes within some hours.",
		Example:           "  isonomia gc\n  isonomia gc --service staff --keep 0 --yes",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("keep") {
				g.req.Keep = &g.keep
			}
			return g.run(cmd.Context())
		},
	}
	systemFlag(cmd, &g.req.System)
	cmd.Flags().StringSliceVar(&g.req.Services, "service", nil, "only `SERVICE`; may be repeated")
	cmd.Flags().IntVar(&g.keep, "keep", 0, "drop all but the newest `N` snapshots of each (default: none is dropped)")
	cmd.Flags().BoolVar(&g.req.Strays, "strays", false, "drop stray snapshots: what only copies had that were left behind")
	cmd.Flags().BoolVarP(&g.yes, "yes", "y", false, "go ahead without being asked")
	return cmd
}

func (g *collection) run(ctx context.Context) error {
	if g.keep < 0 {
		return usagef("for example --keep 5", "--keep must not be negative")
	}
	if !g.yes && (!g.canAsk || g.json) {
		return usagef("add --yes to go ahead without being asked", "gc asks before it deletes anything, and there is no terminal to ask on")
	}
	client, err := g.client()
	if err != nil {
		return err
	}
	look := g.req
	look.DryRun = true
	found, err := client.GC(ctx, look)
	if err != nil {
		return err
	}
	if len(found.States)+len(found.Snapshots) == 0 {
		return g.done(found, "There is nothing to delete.")
	}
	if !g.yes {
		renderGC(g.talk(), found)
		if agreed, err := g.ask(ctx, "Delete?"); err != nil || !agreed {
			return orError(err, &api.Error{Code: api.CodeAborted, Message: "nothing was deleted: not agreed"})
		}
	}
	deleted, err := client.GC(ctx, g.req)
	if err != nil {
		return err
	}
	return g.done(deleted, "")
}

func orError(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// done prints what was done; states that could not be deleted make it a failure.
func (g *collection) done(gc api.GC, nothing string) error {
	if g.json {
		if err := g.printJSON(gc); err != nil {
			return err
		}
	} else if renderGC(g.out, gc); nothing != "" {
		g.sayf("%s", nothing)
	}
	return notDeleted(gc)
}

// notDeleted is the failure of the first state that could not be deleted.
func notDeleted(gc api.GC) error {
	for _, s := range gc.States {
		if s.Error != "" {
			return &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("the state of %s on %s was not deleted: %s", s.Service, s.Node, s.Error), Hint: "isonomia gc tries again."}
		}
	}
	return nil
}

func renderGC(w io.Writer, gc api.GC) {
	for _, s := range gc.States {
		line := fmt.Sprintf("state of %s on %s: %s", s.Service, s.Node, s.Why)
		if s.Last {
			line += "; a last snapshot is kept"
		}
		if s.Deleted {
			line += "; deleted"
		}
		fmt.Fprintln(w, oneLine(line))
	}
	var services []string
	dropped := map[string][]string{}
	for _, s := range gc.Snapshots {
		if dropped[s.Service] == nil {
			services = append(services, s.Service)
		}
		dropped[s.Service] = append(dropped[s.Service], number(s.Generation))
	}
	for _, s := range services {
		fmt.Fprintln(w, oneLine(fmt.Sprintf("snapshots of %s: %s", s, strings.Join(dropped[s], ", "))))
	}
	for _, u := range gc.Unreached {
		fmt.Fprintln(w, oneLine("not looked at: "+u))
	}
}
