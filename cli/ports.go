package cli

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newPortsCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:               "ports",
		Short:             "List the ports and other numbers that services hold",
		Example:           "  isonomia ports\n  isonomia ports --json | jq '.[] | select(.service==\"web\").number'",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			ports, err := client.Ports(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return printList(c, ports)
			}
			if len(ports) == 0 {
				c.sayf("No service holds a number.")
				return nil
			}
			_, err = c.out.Write([]byte(renderPorts(ports, c.paint(), c.wrapWidth())))
			return err
		},
	}
}

func renderPorts(ports []api.Reservation, p painter, width int) string {
	sorted := slices.SortedStableFunc(slices.Values(ports), func(a, b api.Reservation) int {
		return cmp.Or(cmp.Compare(a.Resource, b.Resource), cmp.Compare(a.Number, b.Number), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Service, b.Service))
	})
	var t table
	t.head(p, "RESOURCE", "NUMBER", "SYSTEM", "SERVICE", "NAME", "SCOPE", "NODE", "NOTE")
	several := slices.ContainsFunc(sorted, func(r api.Reservation) bool { return r.System != sorted[0].System })
	for _, r := range sorted {
		system := "" // the column is left out while all are of one
		if several {
			system = r.System
		}
		t.row(plain(r.Resource), plain(strconv.Itoa(r.Number)), plain(system), plain(r.Service), plain(r.Name), plain(r.Scope), plain(r.Node), cell{portNote(r), p.yellow})
	}
	return t.render(width)
}

// portNote says where a shared port is not answered.
func portNote(r api.Reservation) string {
	if len(r.NotAnswering) == 0 {
		return ""
	}
	return "not answered on " + oneLine(strings.Join(r.NotAnswering, ", "))
}
