package cli

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// reconstructedWithin is how long a node that starts anew may take until it leads.
const reconstructedWithin = time.Minute

func newReconstructCommand(c *console) *cobra.Command {
	var yes bool
	var from string
	cmd := &cobra.Command{
		Use:   "reconstruct",
		Short: "Rebuild a cluster whose raft log is lost on every node",
		Long: "Rebuild the cluster's State when no node has its raft log any more: from the newest of the journals that every node\n" +
			"keeps beside it. What each node has, and which members do not answer, is shown first. What was decided after the\n" +
			"journal was written, some seconds before the end, is lost; services that run are not restarted for it. It is refused\n" +
			"while any node has a leader or its log.",
		Example:           "  isonomia reconstruct\n  isonomia reconstruct --from n2\n  isonomia reconstruct --yes --json",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			return rebuild(c, cmd, client, rebuilding[api.Reconstruction]{
				yes: yes, question: "Go on from this journal?", render: renderReconstruction,
				call: func(digest string) (api.Reconstruction, error) {
					return client.Reconstruct(cmd.Context(), api.ReconstructRequest{Digest: digest, From: from})
				},
				digest: func(r api.Reconstruction) string { return r.Digest },
				done: func(r api.Reconstruction) string {
					return fmt.Sprintf("The cluster goes on from the journal of %s. See isonomia members and isonomia status.", oneLine(r.From))
				},
			})
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "go on from the journal of `NODE` (default: the newest)")
	_ = cmd.RegisterFlagCompletionFunc("from", completeNodes(c))
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "go ahead without being asked")
	return cmd
}

// rebuilding is what recover and reconstruct do: they show what there is, ask, and have the cluster go on from it.
type rebuilding[R any] struct {
	yes      bool
	question string
	call     func(digest string) (R, error) // "" only looks
	digest   func(R) string                 // of what was shown
	render   func(w io.Writer, r R, p painter, width int)
	done     func(R) string // what is said in the end
}

func rebuild[R any](c *console, cmd *cobra.Command, client *api.Client, b rebuilding[R]) error {
	if !b.yes && (!c.canAsk || c.json) {
		return usagef("add --yes to go ahead without being asked", "%s asks before it changes anything, and there is no terminal to ask on", cmd.Name())
	}
	look, err := b.call("")
	if err != nil {
		return err
	}
	b.render(c.talk(), look, c.paint(), c.wrapWidth())
	if !b.yes {
		if agreed, err := c.ask(cmd.Context(), b.question); err != nil || !agreed {
			return orError(err, &api.Error{Code: api.CodeAborted, Message: "nothing was changed: not agreed"})
		}
	}
	done, err := b.call(b.digest(look))
	if err == nil {
		err = c.awaitLeader(cmd, client)
	}
	if err != nil {
		return err
	}
	if c.json {
		return c.printJSON(done)
	}
	c.sayf("%s", b.done(done))
	return nil
}

// awaitLeader waits until the node answers again and knows a leader.
func (c *console) awaitLeader(cmd *cobra.Command, client *api.Client) error {
	late := time.After(reconstructedWithin)
	for {
		s, err := client.Status(cmd.Context(), "default", true)
		if err == nil && s.Leader != "" && s.Index > 0 {
			return nil
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-late:
			return &api.Error{Code: api.CodeNoQuorum, Message: fmt.Sprintf("there is no leader after %v", reconstructedWithin), Hint: "See the agent's log."}
		case <-time.After(firstPause):
		}
	}
}

func renderReconstruction(w io.Writer, r api.Reconstruction, p painter, width int) {
	var t table
	t.head(p, "NODE", "ENTRY", "GENERATIONS", "")
	for _, n := range r.Nodes {
		note := n.Error
		switch {
		case n.Chosen:
			note = "the cluster goes on from this"
		case n.Conflict:
			note = "differs at the same entry: see --from"
		}
		var gens []string
		for _, system := range slices.Sorted(maps.Keys(n.Generations)) {
			gens = append(gens, fmt.Sprintf("%s %d", system, n.Generations[system]))
		}
		t.row(plain(n.Name), plain(number(n.Index)), plain(strings.Join(gens, ", ")), plain(note))
	}
	fmt.Fprint(w, t.render(width))
	if r.Later != "" {
		fmt.Fprintf(w, laterText+"\n", oneLine(r.Later))
	}
	if len(r.Missing) > 0 {
		fmt.Fprintf(w, "Members that do not answer: %s. They count as down, and are members still.\n", oneLine(strings.Join(r.Missing, ", ")))
	}
}
