package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newHistoryCommand(c *console) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:               "history",
		Short:             "List the generations of a system: when, who, why, the outcome",
		Example:           "  isonomia history\n  isonomia history --json | jq '.[0].outcome'",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			entries, err := client.History(cmd.Context(), system, true)
			if api.CodeOf(err) == api.CodeNoQuorum {
				fmt.Fprintf(c.err, "%s no leader answers; this is the history as this node knows it\n", painter{c.colorErr}.yellow("warning:"))
				entries, err = client.History(cmd.Context(), system, false)
			}
			if err != nil {
				return err
			}
			newestFirst(entries)
			if c.json {
				return printList(c, entries)
			}
			if len(entries) == 0 {
				c.sayf("System %s has no history: nothing was deployed yet.", system)
				return nil
			}
			_, err = c.out.Write([]byte(renderHistory(entries, c.now(), c.paint(), c.wrapWidth())))
			return err
		},
	}
	systemFlag(cmd, &system)
	return cmd
}

func newestFirst(entries []api.HistoryEntry) {
	slices.SortStableFunc(entries, func(a, b api.HistoryEntry) int { return cmp.Compare(b.Generation, a.Generation) })
}

func renderHistory(entries []api.HistoryEntry, now time.Time, p painter, width int) string {
	var t table
	t.head(p, "GEN", "BASE", "INTENT", "KIND", "AGO", "OUTCOME", "BY", "WHY")
	for _, e := range entries {
		t.row(plain(number(e.Generation)), plain(number(e.Base)), plain(number(e.Intent)), plain(e.Kind), plain(ago(now, e.At)),
			cell{strings.ReplaceAll(e.Outcome, "_", " "), p.byOutcome(e.Outcome)}, plain(e.By), plain(e.Why))
	}
	return t.render(width)
}

func number(n uint64) string { return strconv.FormatUint(n, 10) }

func (p painter) byOutcome(outcome string) func(string) string {
	switch outcome {
	case "settled":
		return p.green
	case "running":
		return p.yellow
	case "rolled_back", "stuck":
		return p.red
	}
	return p.dim
}
