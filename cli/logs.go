package cli

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

const (
	timeLayout = "15:04:05.000"
	dateLayout = "2006-01-02 " + timeLayout
)

// clock is a time of day, with the date unless that is today's.
func (c *console) clock(at time.Time) string {
	at, now := at.Local(), c.now().Local()
	if at.YearDay() == now.YearDay() && at.Year() == now.Year() {
		return at.Format(timeLayout)
	}
	return at.Format(dateLayout)
}

func newLogsCommand(c *console) *cobra.Command {
	query := api.LogQuery{}
	var since string
	cmd := &cobra.Command{
		Use:   "logs SERVICE",
		Short: "Show what a service wrote, from all nodes, in order of time",
		Example: "  isonomia logs web\n  isonomia logs -f --tail 10 web\n  isonomia logs --since 15m --on n2 web\n" +
			"  isonomia logs --json web | jq -r .text",
		Args:              exactlyOne,
		ValidArgsFunction: oneArgument(completeServices(c)),
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if query.Since, err = parseSince(since, c.now()); err != nil {
				return err
			}
			query.Service = args[0]
			return showLogs(cmd.Context(), c, query)
		},
	}
	flags := cmd.Flags()
	systemFlag(cmd, &query.System)
	flags.BoolVarP(&query.Follow, "follow", "f", false, "go on with what is written from now on")
	flags.IntVar(&query.Tail, "tail", 100, "newest `N` lines to start with, -1 for all")
	flags.StringVar(&since, "since", "", "only lines since a `TIME` (RFC 3339) or a duration ago, for example 15m")
	flags.StringVar(&query.Node, "on", "", "only lines of instances on the `NODE` of this name")
	_ = cmd.RegisterFlagCompletionFunc("on", completeNodes(c))
	return cmd
}

// oneArgument completes the first argument only.
func oneArgument(complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(cmd, args, typed)
	}
}

// parseSince reads a time or a length of time before now; "" is the zero time.
func parseSince(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if d, err := time.ParseDuration(text); err == nil && d >= 0 {
		return now.Add(-d), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02 15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(layout, text, now.Location()); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usagef("for example --since 15m or --since 2030-01-31T08:00:00Z", "--since %q is neither a duration nor a time", text)
}

func showLogs(ctx context.Context, c *console, query api.LogQuery) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	// A misspelt name would otherwise look like a silent service. What is gone may still have logs, so only a name that
	// looks like another one is refused.
	if status, err := client.Status(ctx, query.System, false); err == nil && nearest(query.Service, serviceNames(status)) != "" {
		if err := knownServices(status, []string{query.Service}); err != nil {
			return err
		}
	}
	query.Unanswered = c.missing
	for line, err := range client.Logs(ctx, query) {
		if err != nil {
			return endOfStream(ctx, err)
		}
		if err := c.showLine(line); err != nil {
			return err
		}
	}
	return nil
}

// missing says whose lines are not there. It is no part of the lines, so it is said under --json too.
func (c *console) missing(nodes []string) {
	fmt.Fprintf(c.err, "%s what %s has is missing: down, or no answer\n", painter{c.colorErr}.yellow("warning:"), oneLine(strings.Join(nodes, ", ")))
}

// endOfStream makes Ctrl-C the normal end of what is followed.
func endOfStream(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

func (c *console) showLine(line api.LogLine) error {
	if c.json {
		return c.printLine(line)
	}
	p, text := c.paint(), line.Text
	if c.live {
		text = cleanText(text) // only a terminal obeys it; a file gets what was written
	}
	switch line.Stream {
	case "stderr":
		text = p.yellow(text)
	case "keeper":
		text = p.dim(text)
	}
	_, err := fmt.Fprintf(c.out, "%s %s %s\n", p.dim(c.clock(line.At)), p.cyan(line.Service+"@"+line.Node), text)
	return err
}

func newEventsCommand(c *console) *cobra.Command {
	query := api.EventQuery{}
	cmd := &cobra.Command{
		Use:               "events",
		Short:             "Show what nodes noticed: crashes, restarts, joins, elections",
		Example:           "  isonomia events\n  isonomia events -f --tail 0\n  isonomia events --json | jq -r .kind",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			query.Unanswered = c.missing
			for ev, err := range client.Events(cmd.Context(), query) {
				if err != nil {
					return endOfStream(cmd.Context(), err)
				}
				if err := c.showEvent(c.out, ev); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&query.Follow, "follow", "f", false, "go on with what happens from now on")
	cmd.Flags().IntVar(&query.Tail, "tail", 100, "newest `N` events to start with, -1 for all")
	return cmd
}

func (c *console) showEvent(w io.Writer, ev api.Event) error {
	if c.json {
		return c.printLine(ev)
	}
	p, about := c.paint(), ""
	if ev.Service != "" {
		about = p.bold(oneLine(ev.Service)) + ": "
	}
	if ev.System != "" && ev.System != defaultSystem {
		about = oneLine(ev.System) + ": " + about
	}
	_, err := fmt.Fprintf(w, "%s %s %s %s%s\n", p.dim(c.clock(ev.At)), p.cyan(oneLine(ev.Node)), oneLine(ev.Kind), about, oneLine(ev.Message))
	return err
}
