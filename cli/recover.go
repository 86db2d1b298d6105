package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newRecoverCommand(c *console) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "recover",
		Short: "Go on without the majority of the voters",
		Long: "Have a cluster go on that has lost more than half of its voters for good, and with them the leader: from the raft log that\n" +
			"reaches furthest on the nodes that answer, this node being the only voter at first. What each has, which voters are\n" +
			"silent, and what may be lost with them, is shown before anything is changed. Services that run are not restarted for it.\n" +
			"It is refused while any node has a leader, or a majority of the voters is there.\n\n" +
			"If this node is switched off afterwards, and the others go on by themselves as they were before: do not switch it on again\n" +
			"as it is (docs/RUNBOOK.md), for they would give up what they decided since.\n\n" +
			"A node that was silent and comes back, its raft log whole, does not make a second cluster: it sets the log aside and\n" +
			"enters this one. If the silent ones are a working cluster on the other side of a partition, mend the network instead:\n" +
			"until that is done exclusive services would run on both sides, and what is deployed on theirs would be lost.",
		Example:           "  isonomia recover\n  isonomia recover --yes --json",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			return rebuild(c, cmd, client, rebuilding[api.Recovery]{
				yes: yes, question: "Are they lost for good, and shall the cluster go on without them?", render: renderRecovery,
				call: func(digest string) (api.Recovery, error) {
					return client.Recover(cmd.Context(), api.RecoverRequest{Digest: digest})
				},
				digest: func(r api.Recovery) string { return r.Digest },
				done: func(api.Recovery) string {
					return "The cluster goes on. See isonomia members and isonomia status; isonomia remove takes out what will not come back."
				},
			})
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "go ahead without being asked")
	return cmd
}

// laterText is said when the cluster was rebuilt before.
const laterText = "%s has been in a cluster that was rebuilt before, by a node that does not answer now: what was decided there is lost. Start that node instead if you can."

func renderRecovery(w io.Writer, r api.Recovery, p painter, width int) {
	var t table
	t.head(p, "NODE", "ROLE", "LOG ENDS AT", "COMMITTED", "")
	for _, n := range r.Nodes {
		role, end, note := "", "no log", n.Error
		if n.Voter {
			role = "voter"
		}
		if n.Last > 0 {
			end = fmt.Sprintf("%s, term %s", number(n.Last), number(n.Term))
		}
		if n.Chosen {
			note = "the cluster goes on from this"
		}
		t.row(plain(n.Name), plain(role), plain(end), plain(number(n.Index)), plain(note))
	}
	fmt.Fprint(w, t.render(width))
	say := func(format string, args ...any) { fmt.Fprintf(w, format+"\n", args...) }
	say("%d of %d voters are not there, or have no log any more: %s. What was decided after entry %d and only they know of is lost.", len(r.Silent), len(r.Voters), oneLine(strings.Join(r.Silent, ", ")), r.Index)
	for _, n := range r.Newest {
		say("The newest deployment of %s that is known is generation %d, of %s.", oneLine(n.System), n.Generation, n.At.UTC().Format(time.RFC3339))
	}
	if r.Later != "" {
		say(laterText, oneLine(r.Later))
	}
	if len(r.Missing) > 0 {
		say("Members that do not answer: %s. They count as down, and are members still.", oneLine(strings.Join(r.Missing, ", ")))
	}
	say("If they are alive after all, and a cluster of their own: exclusive services run on both sides until they are back in touch, and what is decided there is lost then.")
}
