package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// completionPatience is how long a person who pressed TAB waits for a node.
const completionPatience = time.Second

func newCompletionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion bash|zsh|fish|powershell",
		Short: "Print a script for completion in a shell",
		Example: "  source <(isonomia completion bash)\n" +
			"  isonomia completion zsh > ~/.zfunc/_isonomia\n" +
			"  isonomia completion fish > ~/.config/fish/completions/isonomia.fish",
		Args:      exactlyOne,
		ValidArgs: []string{"bash", "zsh", "fish", "powershell"},
		RunE: func(cmd *cobra.Command, args []string) error {
			root, out := cmd.Root(), cmd.OutOrStdout()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "powershell":
				return root.GenPowerShellCompletionWithDesc(out)
			}
			return usagef(didYouMean(args[0], cmd.ValidArgs, "use one of "+strings.Join(cmd.ValidArgs, ", ")), "there is no completion for %q", args[0])
		},
	}
}

// completer asks a node for what an argument may be, and offers what was not typed yet. Without a node it offers
// nothing.
func completer(c *console, list func(context.Context, *cobra.Command, *api.Client) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionPatience)
		defer cancel()
		client, err := c.client()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		offers := slices.DeleteFunc(list(ctx, cmd, client), func(s string) bool { return slices.Contains(args, s) })
		return offers, cobra.ShellCompDirectiveNoFileComp
	}
}

func completeServices(c *console) cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, cmd *cobra.Command, client *api.Client) []string {
		system, _ := cmd.Flags().GetString("system")
		status, err := client.Status(ctx, system, false)
		if err != nil {
			return nil
		}
		return serviceNames(status)
	})
}

func completeNodes(c *console) cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, _ *cobra.Command, client *api.Client) []string {
		members, err := client.Members(ctx)
		if err != nil {
			return nil
		}
		var names []string
		for _, m := range members.Members {
			names = append(names, m.Name)
		}
		return names
	})
}

func completeTokens(c *console) cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, _ *cobra.Command, client *api.Client) []string {
		tokens, err := client.Tokens(ctx)
		if err != nil {
			return nil
		}
		var ids []string
		for _, t := range tokens {
			ids = append(ids, t.ID)
		}
		return ids
	})
}

func completeGenerations(c *console) cobra.CompletionFunc {
	return completer(c, func(ctx context.Context, cmd *cobra.Command, client *api.Client) []string {
		system, _ := cmd.Flags().GetString("system")
		entries, err := client.History(ctx, system, false)
		if err != nil {
			return nil
		}
		newestFirst(entries)
		var offers []string
		for _, e := range entries {
			offers = append(offers, number(e.Generation)+"\t"+e.Kind+", "+e.Outcome)
		}
		return offers
	})
}
