package cli

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

func newInfrastructureCommand(c *console) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:   "infrastructure",
		Short: "Show what is known of the nodes, as node blocks of a model",
		Long: "Show the attributes and containers of every member, as node blocks that a model can have, and where each value comes\n" +
			"from: announced by the node itself, from a generator's inventory, or from the model of the system. With --json it is\n" +
			"an inventory that deploy --inventory takes.",
		Example:           "  isonomia infrastructure > infrastructure.hcl\n  isonomia infrastructure --json | jq '.[].attributes.zone'",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			nodes, err := client.Infrastructure(cmd.Context(), system)
			if err != nil {
				return err
			}
			if c.json {
				return printList(c, nodes)
			}
			_, err = c.out.Write([]byte(renderInfrastructure(nodes, c.paint())))
			return err
		}),
	}
	systemFlag(cmd, &system)
	return cmd
}

// renderInfrastructure writes node blocks. The data directory is left out: no model can set it.
func renderInfrastructure(nodes []api.InventoryNode, p painter) string {
	var b strings.Builder
	for i, n := range nodes {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s\nnode %s {\n  properties = {\n", p.dim("# "+oneLine(n.Address)+", "+oneLine(n.Status)), quoteHCL(n.Name))
		attributes := maps.Clone(n.Attributes)
		delete(attributes, model.DataAttribute)
		writeValues(&b, "    ", attributes, n.Provenance, "", p)
		b.WriteString("  }\n")
		for _, name := range slices.Sorted(maps.Keys(n.Containers)) {
			fmt.Fprintf(&b, "  container %s {\n    settings = {\n", quoteHCL(name))
			writeValues(&b, "      ", n.Containers[name], n.Provenance, name+".", p)
			b.WriteString("    }\n  }\n")
		}
		b.WriteString("}\n")
	}
	return b.String()
}

// writeValues writes NAME = "VALUE" # PROVENANCE, in columns.
func writeValues(b *strings.Builder, indent string, values, provenance map[string]string, prefix string, p painter) {
	names := slices.Sorted(maps.Keys(values))
	nameWidth, valueWidth := 0, 0
	for _, k := range names {
		nameWidth, valueWidth = max(nameWidth, len(k)), max(valueWidth, len(quoteHCL(values[k])))
	}
	valueWidth = min(valueWidth, 24)
	for _, k := range names {
		fmt.Fprintf(b, "%s%-*s = %-*s %s\n", indent, nameWidth, k, valueWidth, quoteHCL(values[k]), p.dim("# "+oneLine(provenance[prefix+k])))
	}
}

// quoteHCL is a text as HCL writes it, in which ${ and %{ mean themselves.
func quoteHCL(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for i, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case (r == '$' || r == '%') && strings.HasPrefix(s[i+1:], "{"):
			b.WriteRune(r)
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case !strconv.IsPrint(r):
			fmt.Fprintf(&b, `\U%08x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
