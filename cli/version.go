package cli

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node"
	"github.com/isonomia-mesh/isonomia/node/api"
)

func newVersionCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:               "version",
		Short:             "Print the version of this binary and of the node",
		Example:           "  isonomia version",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			remote := askVersion(cmd.Context(), c)
			if c.json {
				return c.printJSON(struct {
					Version string       `json:"version"`
					Go      string       `json:"go"`
					Node    *api.Version `json:"node,omitempty"`
				}{node.Version, runtime.Version(), remote})
			}
			text := fmt.Sprintf("isonomia %s (%s)\n", node.Version, runtime.Version())
			if remote != nil {
				text += fmt.Sprintf("node %s runs %s (%s)\n", oneLine(remote.Node), oneLine(remote.Version), oneLine(remote.Go))
			}
			_, err := io.WriteString(c.out, text)
			return err
		},
	}
}

// askVersion is nil when no node answers soon: the version of this binary is then the whole answer.
func askVersion(ctx context.Context, c *console) *api.Version {
	client, err := c.client()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	v, err := client.Version(ctx)
	if err != nil {
		return nil
	}
	return &v
}
