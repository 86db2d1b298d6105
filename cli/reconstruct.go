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
			if !yes && (!c.canAsk || c.json) {
				return usagef("add --yes to go ahead without being asked", "reconstruct asks before it changes anything, and there is no terminal to ask on")
			}
			look, err := client.Reconstruct(cmd.Context(), api.ReconstructRequest{From: from})
			if err != nil {
				return err
			}
			renderReconstruction(c.talk(), look, c.paint(), c.wrapWidth())
			if !yes {
				if agreed, err := c.ask(cmd.Context(), "Go on from this journal?"); err != nil || !agreed {
					return orError(err, &api.Error{Code: api.CodeAborted, Message: "nothing was changed: not agreed"})
				}
			}
			done, err := client.Reconstruct(cmd.Context(), api.ReconstructRequest{Digest: look.Digest, From: from})
			if err != nil {
				return err
			}
			if err := c.awaitLeader(cmd, client); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(done)
			}
			c.sayf("The cluster goes on from the journal of %s. See isonomia members and isonomia status.", oneLine(done.From))
			return nil
		}),
	}
	cmd.Flags().StringVar(&from, "from", "", "go on from the journal of `NODE` (default: the newest)")
	_ = cmd.RegisterFlagCompletionFunc("from", completeNodes(c))
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "go ahead without being asked")
	return cmd
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
