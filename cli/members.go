package cli

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

func newMembersCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:               "members",
		Short:             "List the members of the cluster",
		Example:           "  isonomia members\n  isonomia members --json | jq -r '.[] | select(.status==\"alive\").name'",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := c.client()
			if err != nil {
				return err
			}
			members, err := client.Members(cmd.Context())
			if err != nil {
				return err
			}
			if c.json {
				return printList(c, members.Members)
			}
			_, err = c.out.Write([]byte(renderMembers(members, c.paint(), c.wrapWidth())))
			c.warn(members.Warning)
			return err
		},
	}
}

func renderMembers(members api.Members, p painter, width int) string {
	var t table
	t.head(p, "NAME", "ADDRESS", "STATUS", "ROLE", "ZONE", "VERSION", "NOTE")
	for _, m := range members.Members {
		t.row(cell{m.Name, p.bold}, plain(m.Address), cell{m.Status, p.byStatus(m.Status)}, plain(m.Role),
			plain(m.Zone), plain(m.Version), plain(memberNote(m)))
	}
	return t.render(width)
}

// memberNote is what the node says about a member, then the attributes that its operator gave it and that have no column
// of their own. What it found out itself, infrastructure shows.
func memberNote(m api.Member) string {
	var parts []string
	if m.Note != "" {
		parts = append(parts, m.Note)
	}
	for _, key := range slices.Sorted(maps.Keys(m.Attributes)) {
		_, notSize := strconv.ParseUint(m.Attributes[key], 10, 64)
		given := !slices.Contains(model.FactNames(), key) || key == model.AttrDisk && notSize != nil
		if key != "zone" && given {
			parts = append(parts, key+"="+m.Attributes[key])
		}
	}
	return strings.Join(parts, ", ")
}

// byStatus is the colour of a member's status; nil for none.
func (p painter) byStatus(status string) func(string) string {
	switch status {
	case "alive":
		return p.green
	case "suspect", "draining":
		return p.yellow
	case "failed":
		return p.red
	}
	return p.dim
}
