package cli

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newSnapshotsCommand(c *console) *cobra.Command {
	var system string
	var latest bool
	cmd := &cobra.Command{
		Use:   "snapshots [SERVICE]",
		Short: "List the kept snapshots of services' state",
		Long: "List the kept generations of the state of one service or of all, newest first: which node took it and when, its\n" +
			"size, what it added to the store, and which nodes hold a copy.",
		Example:           "  isonomia snapshots\n  isonomia snapshots staff --json | jq '.[0].holders'",
		Args:              between(0, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			list, err := client.Snapshots(cmd.Context(), system, strings.Join(args, ""))
			if err != nil {
				return err
			}
			if latest {
				list = newestSnapshots(list)
			}
			if c.json {
				return printList(c, list)
			}
			if len(list) == 0 {
				c.sayf("No snapshot is kept. Take one: isonomia snapshot SERVICE")
				return nil
			}
			_, err = c.out.Write([]byte(renderSnapshots(list, c.now(), c.paint(), c.wrapWidth())))
			return err
		}),
	}
	systemFlag(cmd, &system)
	cmd.Flags().BoolVar(&latest, "latest", false, "only the newest of each service")
	cmd.AddCommand(newSnapshotDiffCommand(c), newSnapshotExportCommand(c), newSnapshotImportCommand(c), newSnapshotResolveCommand(c))
	return cmd
}

// newestSnapshots keeps the first of each service and container that is no stray; the list is newest first.
func newestSnapshots(list []api.Snapshot) []api.Snapshot {
	list = slices.DeleteFunc(list, func(s api.Snapshot) bool { return s.Stray })
	return slices.CompactFunc(list, func(a, b api.Snapshot) bool { return a.Service == b.Service && a.Container == b.Container })
}

func renderSnapshots(list []api.Snapshot, now time.Time, p painter, width int) string {
	var t table
	t.head(p, "SERVICE", "GEN", "AGO", "SIZE", "STORED", "FILES", "HOLDERS", "ID", "WHY")
	for _, s := range list {
		t.row(plain(s.Service), plain(number(s.Generation)), plain(ago(now, s.At)), plain(byteSize(s.Size)), plain(byteSize(s.Stored)),
			plain(strconv.FormatInt(s.Files, 10)), plain(strings.Join(s.Holders, ",")), cell{s.ID[:min(len(s.ID), 12)], p.dim}, plain(strayMark(s)+s.Why))
	}
	return t.render(width)
}

func strayMark(s api.Snapshot) string {
	if s.Stray {
		return "stray: "
	}
	return ""
}

func newSnapshotCommand(c *console) *cobra.Command {
	var system, why string
	cmd := &cobra.Command{
		Use:   "snapshot [SERVICE...]",
		Short: "Take a snapshot of services' state",
		Long: "Take a snapshot of the state of each service, or of all that have managed state, on the node where it is. A state\n" +
			"that cannot be copied consistently while its service runs (a directory that a process writes to) is copied twice:\n" +
			"once while it runs, and then what has changed since, for which the service is stopped for a moment.",
		Example:           "  isonomia snapshot staff\n  isonomia snapshot --why 'before the migration' staff rooms --json",
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			if len(args) == 0 {
				var err error
				if args, err = managedServices(cmd.Context(), client, system); err != nil {
					return err
				}
			}
			var taken []api.SnapshotTaken
			for _, service := range args {
				s, err := client.TakeSnapshot(cmd.Context(), api.SnapshotRequest{System: system, Service: service, Why: why})
				if err != nil {
					return err
				}
				taken = append(taken, s)
				if !c.json {
					c.sayf("%s", snapshotText(s))
				}
			}
			if c.json {
				return printList(c, taken)
			}
			if len(taken) == 0 {
				c.sayf("No service of system %s has managed state.", system)
			}
			return nil
		}),
	}
	systemFlag(cmd, &system)
	cmd.Flags().StringVar(&why, "why", "", "`REASON` to remember with it")
	return cmd
}

// managedServices are those of which status says that their state is managed.
func managedServices(ctx context.Context, client *api.Client, system string) ([]string, error) {
	status, err := client.Status(ctx, system, true)
	if err != nil {
		return nil, err
	}
	var services []string
	for _, in := range status.Instances {
		if in.Managed && !in.Obsolete {
			services = append(services, in.Service)
		}
	}
	slices.Sort(services)
	return slices.Compact(services), nil
}

func snapshotText(s api.SnapshotTaken) string {
	what := fmt.Sprintf("generation %d of %s on %s: %s in %s, %s new", s.Generation, oneLine(s.Service), oneLine(s.Node), byteSize(s.Size),
		count(int(s.Files), "file"), byteSize(s.Stored))
	if !s.New {
		what = fmt.Sprintf("%s has not changed since generation %d", oneLine(s.Service), s.Generation)
	}
	if s.Pause > 0 {
		what += fmt.Sprintf("; it was stopped for %v", s.Pause.Round(time.Millisecond))
	}
	return what + "."
}

func newRestoreCommand(c *console) *cobra.Command {
	var system, node string
	var yes, takeOver bool
	cmd := &cobra.Command{
		Use:   "restore [SERVICE[@GENERATION]]",
		Short: "Replace services' state by a kept snapshot",
		Long: "Replace the state of a service by a kept snapshot, the newest unless a generation is given; without a service, that\n" +
			"of every service that has one by its newest. The service is stopped, a snapshot of what there is now is taken\n" +
			"first, the snapshot is loaded and read back, and the service is started. What was written after the snapshot is\n" +
			"gone from the service, and in the snapshot that was taken first.\n\n" +
			"With --node the service goes to that node, with the data of the snapshot, as a deployment. With --take-over a state\n" +
			"whose node is down goes on elsewhere from the snapshot; what that node wrote since stays there.",
		Example:           "  isonomia restore staff\n  isonomia restore staff@12 --yes\n  isonomia restore staff@12 --node n3\n  isonomia restore staff --take-over",
		Args:              between(0, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			if (node != "" || takeOver) && len(args) == 0 {
				return usagef("for example isonomia restore staff@12 --node n3", "--node and --take-over are for one service")
			}
			if node != "" {
				return c.restoreOnto(cmd.Context(), system, args[0], node, yes)
			}
			wanted, err := restoreRequests(cmd.Context(), client, system, args)
			if err != nil {
				return err
			}
			if !yes {
				question := fmt.Sprintf("Replace the state of %s? What there is now is kept as a snapshot.", strings.Join(restoredServices(wanted), ", "))
				if takeOver {
					question = fmt.Sprintf("Have %s go on from a snapshot? What its node, which is down, wrote since stays there only.", oneLine(wanted[0].Service))
				}
				if ok, err := c.ask(cmd.Context(), question); err != nil || !ok {
					return err
				}
			}
			done := []api.Restored{}
			for _, req := range wanted {
				req.TakeOver = takeOver
				one, err := client.Restore(cmd.Context(), req)
				if err != nil {
					return err
				}
				done = append(done, one)
				if !c.json {
					sayRestored(c, one)
				}
			}
			switch {
			case !c.json:
				return nil
			case len(args) == 1:
				return c.printJSON(done[0])
			}
			return printList(c, done)
		}),
	}
	systemFlag(cmd, &system)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().StringVar(&node, "node", "", "have the service on this `NODE` from then on")
	cmd.Flags().BoolVar(&takeOver, "take-over", false, "of a node that is down: go on elsewhere")
	cmd.MarkFlagsMutuallyExclusive("node", "take-over")
	return cmd
}

// restoreOnto plans, asks and watches like a deployment, which it is.
func (c *console) restoreOnto(ctx context.Context, system, what, node string, yes bool) error {
	service, generation, err := parseGeneration(what)
	if err != nil {
		return err
	}
	op := &operation{console: c, kind: restoreKind, yes: yes}
	op.req = api.PlanRequest{System: system, Services: []string{service}, Node: node, Snapshot: generation}
	if err := op.begin(); err != nil {
		return err
	}
	return op.execute(ctx)
}

// restoreRequests is what to restore: what was named, or all that can be.
func restoreRequests(ctx context.Context, client *api.Client, system string, args []string) ([]api.RestoreRequest, error) {
	if len(args) == 1 {
		service, generation, err := parseGeneration(args[0])
		return []api.RestoreRequest{{System: system, Service: service, Generation: generation}}, err
	}
	managed, err := managedServices(ctx, client, system)
	if err != nil {
		return nil, err
	}
	list, err := client.Snapshots(ctx, system, "")
	if err != nil {
		return nil, err
	}
	var out []api.RestoreRequest
	for _, s := range newestSnapshots(list) {
		if slices.Contains(managed, s.Service) {
			out = append(out, api.RestoreRequest{System: system, Service: s.Service})
		}
	}
	if len(out) == 0 {
		return nil, &api.Error{Code: api.CodeNotFound, Message: "no service has managed state and a snapshot of it", Hint: "See isonomia snapshots."}
	}
	return out, nil
}

func restoredServices(reqs []api.RestoreRequest) (names []string) {
	for _, r := range reqs {
		names = append(names, oneLine(r.Service))
	}
	return names
}

func sayRestored(c *console, done api.Restored) {
	if done.Node == "" {
		c.sayf("%s goes on from generation %d (%s), on another node; see isonomia status.", oneLine(done.Service), done.Generation, byteSize(done.Size))
		return
	}
	c.sayf("%s on %s has the state of generation %d again (%s), as generation %d; it was stopped for %v.", oneLine(done.Service), oneLine(done.Node),
		done.Generation, byteSize(done.Size), done.Now, done.Pause.Round(time.Millisecond))
	c.sayf("What it was is generation %d: isonomia restore %s@%d goes back to it.", done.Safety, oneLine(done.Service), done.Safety)
}

// parseGeneration parts SERVICE@GENERATION; without a generation it is 0.
func parseGeneration(arg string) (service string, generation uint64, err error) {
	service, text, given := strings.Cut(arg, "@")
	if given {
		if generation, err = strconv.ParseUint(text, 10, 64); err != nil || generation == 0 {
			return "", 0, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is not a generation", text), Hint: "Write SERVICE@NUMBER; isonomia snapshots lists them."}
		}
	}
	if service == "" {
		return "", 0, &api.Error{Code: api.CodeUsage, Message: "which service?", Hint: "Write SERVICE or SERVICE@NUMBER."}
	}
	return service, generation, nil
}
