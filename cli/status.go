package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newStatusCommand(c *console) *cobra.Command {
	var system string
	var stale bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the instances of a system, their phases and why",
		Long: "Show every instance of the newest generation, and older ones until they are gone.\n\n" +
			"The leader is asked first, so that the answer holds everything acknowledged before. With --stale the node\n" +
			"answers from what it knows itself, which also works while there is no leader.",
		Example:           "  isonomia status\n  isonomia status --json | jq .settled\n  isonomia status --stale --node /var/lib/isonomia/api.sock",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			status, err := client.Status(cmd.Context(), system, !stale)
			if api.CodeOf(err) == api.CodeNoQuorum {
				return withHint(err, "isonomia status --stale shows what this node knows itself")
			}
			if err != nil {
				return err
			}
			if c.json {
				if status.Instances == nil {
					status.Instances = []api.Instance{}
				}
				return c.printJSON(status)
			}
			_, err = c.out.Write([]byte(renderStatus(status, c.now(), c.paint(), c.wrapWidth())))
			c.warn(status.Warning)
			return err
		},
	}
	systemFlag(cmd, &system)
	cmd.Flags().BoolVar(&stale, "stale", false, "ask this node alone, not the leader")
	return cmd
}

// withHint gives an api.Error a hint in place of its own.
func withHint(err error, hint string) error {
	e := *explain(err)
	e.Hint = hint
	return &e
}

// withClient is a command that begins with the client for its node.
func (c *console) withClient(run func(cmd *cobra.Command, client *api.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		client, err := c.client()
		if err != nil {
			return err
		}
		return run(cmd, client, args)
	}
}

// defaultSystem is the system of who names none.
const defaultSystem = "default"

// systemFlag is --system, the same for every command that has it.
func systemFlag(cmd *cobra.Command, system *string) {
	cmd.Flags().StringVar(system, "system", defaultSystem, "`NAME` of the system")
	_ = cmd.RegisterFlagCompletionFunc("system", cobra.NoFileCompletions)
}

func renderStatus(s api.Status, now time.Time, p painter, width int) string {
	var b strings.Builder
	b.WriteString(statusLine(s, p) + "\n")
	if len(s.Instances) == 0 {
		if len(s.Systems) > 0 {
			b.WriteString("Deployed are: " + oneLine(strings.Join(s.Systems, ", ")) + " (--system).\n")
		}
		return b.String()
	}
	var t table
	t.head(p, "SERVICE", "NODE", "PHASE", "PORTS", "SINCE", "NOTE")
	for _, in := range sortedInstances(s.Instances) {
		phase, paint := shownPhase(in), p.byPhase(in)
		t.row(plain(in.Service), plain(in.Node), cell{phase, paint}, plain(portList(in.Ports)), plain(ago(now, in.Since)),
			plain(instanceNote(in, s.Generation)))
	}
	b.WriteString("\n" + t.render(width))
	for _, n := range s.Sick {
		line := fmt.Sprintf("%s takes nothing new: %s", oneLine(n.Node), oneLine(n.Why))
		b.WriteString("\n" + p.yellow(strings.Join(fold(line, width), "\n")) + "\n")
	}
	for _, line := range s.NotAnswering {
		b.WriteString("\n" + p.yellow(strings.Join(fold(oneLine(line), width), "\n")) + "\n")
	}
	for _, in := range s.Instances {
		if in.Output != "" {
			fmt.Fprintf(&b, "\nLast output of %s on %s:\n%s", oneLine(in.Service), oneLine(in.Node), indent(cleanText(in.Output), "  | "))
		}
	}
	return b.String()
}

// statusLine says the whole in one line.
func statusLine(s api.Status, p painter) string {
	if s.Generation == 0 && len(s.Instances) == 0 {
		return fmt.Sprintf("System %s: nothing deployed; %s.", p.bold(oneLine(s.System)), leaderText(s))
	}
	line := fmt.Sprintf("System %s: generation %d, %s; %s", p.bold(oneLine(s.System)), s.Generation, settledText(s, p), leaderText(s))
	if s.Stale {
		line += "; as this node knows it (stale)"
	}
	if s.Why != "" {
		line += "\n" + oneLine(s.Why)
	}
	return line
}

func settledText(s api.Status, p painter) string {
	switch {
	case s.Settled:
		return p.green("settled")
	case s.Outcome == "running" || s.Outcome == "":
		return p.yellow("not settled yet")
	case s.Outcome == "settled":
		return p.yellow("settled before, being repaired")
	}
	return p.red(strings.ReplaceAll(oneLine(s.Outcome), "_", " "))
}

func leaderText(s api.Status) string {
	if s.Leader == "" {
		return "no leader"
	}
	return "leader " + oneLine(s.Leader)
}

// sortedInstances orders by service and node, the newest generation first.
func sortedInstances(list []api.Instance) []api.Instance {
	return slices.SortedStableFunc(slices.Values(list), func(a, b api.Instance) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Node, b.Node), cmp.Compare(b.Generation, a.Generation))
	})
}

// shownPhase is the phase, or what an operator would rather read in its place.
func shownPhase(in api.Instance) string {
	if in.Phase == "active" && in.Health == "degraded" {
		return "degraded"
	}
	return in.Phase
}

func (p painter) byPhase(in api.Instance) func(string) string {
	switch {
	case in.Phase == "failed" || in.Phase == "lost":
		return p.red
	case in.Obsolete:
		return p.dim
	case in.Phase == "active" && in.Health != "degraded" && in.Health != "unknown":
		return p.green
	case in.Phase == "sleeping":
		return p.cyan
	}
	return p.yellow
}

// instanceNote is all that explains the phase.
func instanceNote(in api.Instance, newest uint64) string {
	var parts []string
	if in.Obsolete {
		parts = append(parts, fmt.Sprintf("obsolete (generation %d of %d)", in.Generation, newest))
	}
	if in.Phase == "active" && in.Health == "unknown" {
		parts = append(parts, "health unknown")
	}
	if in.Reason != "" && !(in.Phase == "active" && in.Health == "healthy" && !in.Obsolete) {
		parts = append(parts, in.Reason)
	}
	if in.Attempts > 1 && !strings.Contains(in.Reason, "attempt") {
		parts = append(parts, count(in.Attempts, "attempt"))
	}
	return strings.Join(parts, "; ")
}

// portList is "8001" for a single port, "admin=8001 http=8002" for several.
func portList(ports map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		if len(ports) == 1 {
			return fmt.Sprint(ports[name])
		}
		parts = append(parts, fmt.Sprintf("%s=%d", name, ports[name]))
	}
	return strings.Join(parts, " ")
}
