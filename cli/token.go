package cli

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newTokenCommand(c *console) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "token",
		Short:   "Create, list and revoke the tokens that admit new nodes",
		Example: "  isonomia token create > token.txt\n  isonomia token list",
		Args:    subcommandOnly,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usagef("see isonomia token --help", "token needs one of create, list and revoke")
		},
	}
	cmd.AddCommand(newTokenCreateCommand(c), newTokenListCommand(c), newTokenRevokeCommand(c))
	return cmd
}

func newTokenCreateCommand(c *console) *cobra.Command {
	req := api.TokenRequest{}
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a token and print it, alone, on stdout",
		Long: "Create a token and print it, alone, on stdout. It is shown this once; the cluster keeps only its hash.\n" +
			"Hand it over in a file or in $ISONOMIA_TOKEN: what stands on a command line can be seen by others.",
		Example:           "  isonomia token create > token.txt\n  isonomia token create --uses 5 --ttl 10m\n  isonomia agent --join 10.0.0.1:7878 --token-file token.txt",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if req.Uses < 1 || req.TTL <= 0 {
				return usagef("for example --uses 3 --ttl 10m", "--uses and --ttl must be positive")
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			req.By = c.operator()
			token, err := client.CreateToken(cmd.Context(), req)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(token)
			}
			_, err = fmt.Fprintln(c.out, token.Token)
			return err
		},
	}
	cmd.Flags().StringVar(&req.Role, "role", "node", "the `ROLE` that it gives: node")
	cmd.Flags().IntVar(&req.Uses, "uses", 1, "`N` nodes may use it")
	cmd.Flags().DurationVar(&req.TTL, "ttl", time.Hour, "how long it is valid")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"node"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func newTokenListCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:               "list",
		Short:             "List the tokens (never their secrets)",
		Example:           "  isonomia token list",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			tokens, err := client.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return printList(c, tokens)
			}
			if len(tokens) == 0 {
				c.sayf("There are no tokens.")
				return nil
			}
			_, err = c.out.Write([]byte(renderTokens(tokens, c.now(), c.paint(), c.wrapWidth())))
			return err
		},
	}
}

func renderTokens(tokens []api.Token, now time.Time, p painter, width int) string {
	var t table
	t.head(p, "ID", "ROLE", "USES LEFT", "EXPIRES", "CREATED", "BY")
	for _, tok := range tokens {
		expires := "in " + duration(tok.Expires.Sub(now))
		if !tok.Expires.After(now) {
			expires = "expired"
		}
		t.row(plain(tok.ID), plain(tok.Role), plain(strconv.Itoa(tok.UsesLeft)), plain(expires), plain(ago(now, tok.Created)+" ago"), plain(tok.By))
	}
	return t.render(width)
}

func newTokenRevokeCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:               "revoke ID",
		Short:             "Make a token useless; nodes that joined with it stay",
		Example:           "  isonomia token revoke 3f9a1c",
		Args:              exactlyOne,
		ValidArgsFunction: completeTokens(c),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			if err := client.RevokeToken(cmd.Context(), args[0]); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(map[string]string{"id": args[0]})
			}
			c.sayf("Revoked %s.", args[0])
			return nil
		},
	}
}
