package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newPlanCommand(c *console) *cobra.Command {
	op := &operation{console: c, kind: deployKind}
	var explain []string
	cmd := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Show what a deploy would change, and why",
		Long: "Show what deploying the model in DIR (default: the current directory) would start, stop, move and restart,\n" +
			"and why. Nothing changes, but packages are sent to the node and built, because what they contain decides.\n\n" +
			"With --explain it also says why each service that starts or moves goes where it goes, and why not to each other node;\n" +
			"with --explain=web,db that of these services.",
		Example:           "  isonomia plan ./mysystem\n  isonomia plan --explain=web ./mysystem\n  isonomia plan --json ./mysystem | jq '.changes[].action'",
		Args:              oneOrNone,
		ValidArgsFunction: completeDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := op.connect(); err != nil {
				return err
			}
			if err := op.readModel(cmd.Context(), directory(args)); err != nil {
				return err
			}
			op.req.Explain = explain
			plan, err := op.client.Plan(cmd.Context(), op.req)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(plan)
			}
			_, err = c.out.Write([]byte(renderPlan(plan, c.paint(), c.wrapWidth())))
			return err
		},
	}
	systemFlag(cmd, &op.req.System)
	op.modelFlags(cmd)
	cmd.Flags().StringSliceVar(&explain, "explain", nil, "say why `SERVICE`s go where they go, and why not elsewhere")
	cmd.Flags().Lookup("explain").NoOptDefVal, cmd.Flags().Lookup("explain").DefValue = "*", ""
	_ = cmd.RegisterFlagCompletionFunc("explain", cobra.NoFileCompletions)
	return cmd
}

func completeDirectory(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return nil, cobra.ShellCompDirectiveFilterDirs
}

// directory is the optional argument of plan and deploy.
func directory(args []string) string {
	if len(args) == 0 {
		return "."
	}
	return args[0]
}

// planAction is how one action of a plan is shown.
type planAction struct {
	sign  string
	paint func(painter, string) string
	to    string // in the summary: "2 to start"
}

// planActions in the order of the summary. An action that is not here is shown by its name alone.
var planActions = []struct {
	name string
	planAction
}{
	{"start", planAction{"+", painter.green, "to start"}},
	{"restart", planAction{"~", painter.yellow, "to restart"}},
	{"move", planAction{">", painter.cyan, "to move"}},
	{"retry", planAction{"*", painter.yellow, "to try again"}},
	{"stop", planAction{"-", painter.red, "to stop"}},
	{"keep", planAction{"=", painter.dim, "unchanged"}},
}

func actionNamed(name string) planAction {
	for _, a := range planActions {
		if a.name == name {
			return a.planAction
		}
	}
	return planAction{sign: "?", paint: painter.bold}
}

// renderPlan shows what changes; what is kept is only counted.
func renderPlan(plan api.Plan, p painter, width int) string {
	var b strings.Builder
	if plan.Empty {
		fmt.Fprintf(&b, "System %s: nothing would change; generation %d stays.\n", p.bold(oneLine(plan.System)), plan.Base)
	} else {
		fmt.Fprintf(&b, "Plan for system %s, which is at generation %d:\n", p.bold(oneLine(plan.System)), plan.Base)
		if changes := planTable(plan, p).render(width); changes != "" {
			b.WriteString("\n" + changes)
		}
		b.WriteString(planPorts(plan, p, width))
		if summary := planSummary(plan); summary != "" {
			fmt.Fprintf(&b, "\n%s\n", strings.Join(fold(summary, width), "\n"))
		}
	}
	b.WriteString(planPlacements(plan, p, width))
	for _, w := range plan.Warnings {
		fmt.Fprintf(&b, "%s %s\n", p.yellow("warning:"), oneLine(w))
	}
	return b.String()
}

func planTable(plan api.Plan, p painter) *table {
	t := &table{indent: "  "}
	for _, ch := range plan.Changes {
		if ch.Action == "keep" {
			continue
		}
		action := actionNamed(ch.Action)
		paint := func(text string) string { return action.paint(p, text) }
		where := ch.Node
		if ch.From != "" {
			where = ch.From + " -> " + ch.Node
		}
		t.row(cell{action.sign, paint}, cell{ch.Action, paint}, cell{ch.Service, p.bold}, plain(where), plain(strings.Join(ch.Reasons, "; ")))
	}
	return t
}

// planPorts lists the numbers that services would get and lose.
func planPorts(plan api.Plan, p painter, width int) string {
	if len(plan.Ports)+len(plan.Released) == 0 {
		return ""
	}
	t := &table{indent: "  "}
	for _, r := range plan.Ports {
		t.row(cell{"+", p.green}, plain(r.Resource), plain(fmt.Sprint(r.Number)), plain(r.Service), plain(r.Name), plain(strings.TrimSpace(r.Scope+" "+r.Node)))
	}
	for _, r := range plan.Released {
		t.row(cell{"-", p.red}, plain(r.Resource), plain(fmt.Sprint(r.Number)), plain(r.Service), plain(r.Name), plain(strings.TrimSpace(r.Scope+" "+r.Node)))
	}
	return "\nReservations:\n\n" + t.render(width)
}

// planPlacements says why services are where they are. Nodes with one reason are told together.
func planPlacements(plan api.Plan, p painter, width int) string {
	var b strings.Builder
	for _, pl := range plan.Placements {
		fmt.Fprintf(&b, "\n%s\n", p.bold(oneLine(pl.Service)))
		t := &table{indent: "  "}
		addReasons(t, "on", p.green, pl.On)
		addReasons(t, "not", p.dim, pl.Not)
		b.WriteString(t.render(width))
	}
	if b.Len() > 0 {
		b.WriteByte('\n')
	}
	return b.String()
}

// addReasons adds a row for each reason, with the nodes that it holds for, in order of the first.
func addReasons(t *table, word string, paint func(string) string, reasons []api.NodeReason) {
	var order []string
	nodes := map[string][]string{}
	for _, r := range reasons {
		if nodes[r.Why] == nil {
			order = append(order, r.Why)
		}
		nodes[r.Why] = append(nodes[r.Why], r.Node)
	}
	const most = 6 // names in a row
	for _, why := range order {
		names := nodes[why]
		if len(names) > most {
			names = append(slices.Clone(names[:most]), fmt.Sprintf("and %d more", len(nodes[why])-most))
		}
		t.row(cell{word, paint}, plain(strings.Join(names, ", ")), plain(why))
	}
}

func planSummary(plan api.Plan) string {
	counts := map[string]int{}
	for _, ch := range plan.Changes {
		counts[ch.Action]++
	}
	var parts []string
	for _, a := range planActions {
		if n := counts[a.name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, a.to))
		}
	}
	text := strings.Join(parts, ", ")
	if plan.Fetch > 0 {
		text = strings.TrimPrefix(text+"; "+byteSize(plan.Fetch)+" to fetch", "; ")
	}
	if text == "" {
		return ""
	}
	return text + "."
}
