package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Main runs one command line (without the program's name) and returns the exit code of the process. SIGINT and
// SIGTERM end it in an orderly way. A second SIGINT ends it at once: somebody is impatient. A second SIGTERM does not:
// the kernel sends several when a parent of many threads dies, and an agent would leave its keeper behind.
func Main(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, func() { signal.Reset(os.Interrupt) })
	return run(ctx, args, newConsole(stdin, stdout, stderr, os.Getenv))
}

// run is Main with everything outside the process passed in.
func run(ctx context.Context, args []string, c *console) int {
	c.json = asksForJSON(args)
	root := newRootCommand(c)
	root.SetArgs(append([]string{}, args...)) // never nil: cobra would take os.Args
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return c.fail(err)
}

// asksForJSON finds --json before flags are parsed, so that a wrong flag is reported as JSON too.
func asksForJSON(args []string) bool {
	if end := slices.Index(args, "--"); end >= 0 {
		args = args[:end]
	}
	return slices.Contains(args, "--json") || slices.Contains(args, "--json=true")
}

const (
	groupCluster = "cluster"
	groupDeploy  = "deploy"
	groupState   = "state"
	groupLook    = "look"
	groupOther   = "other"
)

func newRootCommand(c *console) *cobra.Command {
	root := &cobra.Command{
		Use:   "isonomia",
		Short: "Deploy systems of services over equal machines, without a coordinator",
		Long: "Isonomia deploys systems of services over machines that are all equal: every node runs this binary,\n" +
			"any of them takes a deployment, and any of them may die.",
		Example:       "  isonomia dev --nodes 3 ./examples/stafftracker   # try it on this machine\n  isonomia deploy ./mysystem\n  isonomia status",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          subcommandOnly,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetFlagErrorFunc(flagError)
	flags := root.PersistentFlags()
	flags.StringVar(&c.node, "node", "", "Unix `SOCKET` of the node to ask (default $ISONOMIA_NODE, else the local agent's)")
	flags.BoolVar(&c.json, "json", c.json, "print JSON on stdout, errors too")
	_ = root.MarkPersistentFlagFilename("node")
	root.AddGroup(
		&cobra.Group{ID: groupCluster, Title: "Cluster:"},
		&cobra.Group{ID: groupDeploy, Title: "Deployment:"},
		&cobra.Group{ID: groupState, Title: "State:"},
		&cobra.Group{ID: groupLook, Title: "Looking:"},
		&cobra.Group{ID: groupOther, Title: "Other:"},
	)
	addGroup(root, groupCluster, newAgentCommand(c), newDevCommand(c), newTokenCommand(c), newMembersCommand(c), newInfrastructureCommand(c), newWhatIfCommand(c), newDrainCommand(c), newLeaveCommand(c), newRemoveCommand(c), newRecoverCommand(c), newReconstructCommand(c))
	addGroup(root, groupDeploy, newPlanCommand(c), newDeployCommand(c), newUndeployCommand(c), newRollbackCommand(c), newAbortCommand(c))
	addGroup(root, groupState, newSnapshotCommand(c), newSnapshotsCommand(c), newRestoreCommand(c), newCheckCommand(c), newGCCommand(c))
	addGroup(root, groupLook, newStatusCommand(c), newHistoryCommand(c), newPortsCommand(c), newLogsCommand(c), newEventsCommand(c))
	addGroup(root, groupOther, newVersionCommand(c), newCompletionCommand())
	root.AddCommand(newKeeperCommand(), newBuildSandboxCommand())
	root.SetHelpCommand(newHelpCommand())
	foldHelp(root, min(c.width, 100))
	return root
}

func addGroup(root *cobra.Command, id string, commands ...*cobra.Command) {
	for _, cmd := range commands {
		cmd.GroupID = id
		root.AddCommand(cmd)
	}
}

// foldHelp breaks the lines of all help at width.
func foldHelp(cmd *cobra.Command, width int) {
	var paragraphs []string
	for text := range strings.SplitSeq(cmd.Long, "\n\n") {
		paragraphs = append(paragraphs, strings.Join(fold(oneLine(text), width), "\n"))
	}
	cmd.Long = strings.Join(paragraphs, "\n\n")
	for _, sub := range cmd.Commands() {
		foldHelp(sub, width)
	}
	if !cmd.HasParent() {
		flags := fmt.Sprintf(".FlagUsagesWrapped %d | ", width)
		cmd.SetUsageTemplate(strings.ReplaceAll(cmd.UsageTemplate(), ".FlagUsages | ", flags))
	}
}

func newHelpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Show help for a command",
		Example: "  isonomia help deploy",
		GroupID: groupOther,
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
			return commandNames(cmd.Root()), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			found, rest, err := cmd.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return unknownCommand(found, rest[0])
			}
			found.InitDefaultHelpFlag()
			return found.Help()
		},
	}
}
