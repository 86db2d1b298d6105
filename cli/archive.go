package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newSnapshotExportCommand(c *console) *cobra.Command {
	var system, output string
	cmd := &cobra.Command{
		Use:   "export SERVICE[@GENERATION]",
		Short: "Write a snapshot as a plain tar archive",
		Long:  "Write a kept snapshot, the newest unless a generation is given, as a plain tar archive: to take the data away.",
		Example: "  isonomia snapshots export staff -o staff.tar\n" +
			"  isonomia snapshots export staff@12 | tar -tv",
		Args:              between(1, 1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			service, generation, err := parseGeneration(args[0])
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			if output == "" {
				return client.ExportSnapshot(cmd.Context(), system, service, generation, c.out)
			}
			return writeWhole(output, func(w io.Writer) error {
				return client.ExportSnapshot(cmd.Context(), system, service, generation, w)
			})
		},
	}
	systemFlag(cmd, &system)
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write (default standard output)")
	return cmd
}

// writeWhole makes a file that is there, after a crash too, only if fill succeeded.
func writeWhole(path string, fill func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".export-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // once it is renamed there is none
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func newSnapshotImportCommand(c *console) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:   "import SERVICE [FILE]",
		Short: "Take in a tar archive as a snapshot of a service",
		Long: "Take in a plain tar archive, from a file or standard input, as the newest snapshot of a service that is deployed.\n" +
			"The service is not touched; isonomia restore makes the snapshot its state.",
		Example:           "  isonomia snapshots import staff staff.tar && isonomia restore staff\n  tar -C /old/data -c . | isonomia snapshots import staff",
		Args:              between(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			var in io.Reader = c.in
			if len(args) == 2 {
				f, err := os.Open(args[1])
				if err != nil {
					return err
				}
				defer f.Close()
				in = f
			}
			taken, err := client.ImportSnapshot(cmd.Context(), system, args[0], in)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(taken)
			}
			c.sayf("%s", snapshotText(taken))
			return nil
		}),
	}
	systemFlag(cmd, &system)
	return cmd
}

func newSnapshotDiffCommand(c *console) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:               "diff SERVICE@GENERATION [GENERATION]",
		Short:             "Show in what two snapshots differ",
		Long:              "Show the paths in which a generation of a service's state differs from another, the newest unless it is given.",
		Example:           "  isonomia snapshots diff staff@11\n  isonomia snapshots diff staff@11 12 --json",
		Args:              between(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			service, from, err := parseGeneration(args[0])
			var to uint64
			if err == nil && len(args) == 2 {
				_, to, err = parseGeneration(service + "@" + args[1])
			}
			if err != nil {
				return err
			}
			client, err := c.client()
			if err != nil {
				return err
			}
			diff, err := client.DiffSnapshots(cmd.Context(), system, service, from, to)
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(diff)
			}
			_, err = io.WriteString(c.out, renderDiff(diff, c.paint()))
			return err
		},
	}
	systemFlag(cmd, &system)
	return cmd
}

func renderDiff(d api.SnapshotDiff, p painter) string {
	var b strings.Builder
	for _, ch := range d.Changes {
		switch ch.What {
		case "added":
			fmt.Fprintf(&b, "%s %s  %s\n", p.green("+"), oneLine(ch.Path), byteSize(ch.New))
		case "removed":
			fmt.Fprintf(&b, "%s %s  %s\n", p.red("-"), oneLine(ch.Path), byteSize(ch.Old))
		default:
			fmt.Fprintf(&b, "%s %s  %s, was %s\n", p.yellow("~"), oneLine(ch.Path), byteSize(ch.New), byteSize(ch.Old))
		}
	}
	switch {
	case len(d.Changes) == 0:
		b.WriteString("They are the same.\n")
	case d.More:
		b.WriteString("There are more.\n")
	}
	return b.String()
}

func newCheckCommand(c *console) *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "Read all that the nodes' stores hold, and say what is wrong",
		Long: "Have every node read all packages and snapshots that its store holds and compare them with their names. What is\n" +
			"damaged is set aside and fetched again from nodes that have it. Exit code 1 if anything was wrong, healed or not:\n" +
			"a disk that damages files is to be replaced. Exit code 1, too, if a node could not be asked.",
		Example:           "  isonomia check\n  isonomia check --json | jq '.[].problems'",
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, _ []string) error {
			nodes, err := client.Check(cmd.Context())
			if err != nil {
				return err
			}
			slices.SortFunc(nodes, func(a, b api.NodeCheck) int { return strings.Compare(a.Node, b.Node) })
			bad, healed, lost := 0, 0, 0
			var unread []string
			for _, n := range nodes {
				bad, healed, lost = bad+len(n.Problems)+len(n.Lost), healed+n.Healed, lost+len(n.Lost)
				if n.Error != "" {
					unread = append(unread, n.Node)
				}
				if !c.json {
					c.sayf("%s", checkText(n))
				}
			}
			if c.json {
				if err := printList(c, nodes); err != nil {
					return err
				}
			}
			if bad > 0 {
				hint := "What was damaged is whole again. Look after the disk that it was on."
				if lost > 0 {
					hint = "What is lost no node has whole. Services go on; take new snapshots: isonomia snapshot SERVICE."
				}
				return &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("%s found, %s healed, %d lost", count(bad, "problem"), count(healed, "tree"), lost), Hint: hint}
			}
			if len(unread) > 0 {
				return &api.Error{Code: api.CodeFailed, Message: "no problem found, but not all was read: " + strings.Join(unread, ", "), Hint: "See isonomia members, and check again when they are up."}
			}
			return nil
		}),
	}
}

func checkText(n api.NodeCheck) string {
	lines := []string{fmt.Sprintf("%s: %s, %s, read in %v", oneLine(n.Node), count(int(n.Objects), "object"), byteSize(n.Bytes), n.Took.Round(time.Millisecond))}
	if n.Error != "" {
		lines[0] = oneLine(n.Node) + ": " + oneLine(n.Error)
	}
	for _, p := range n.Problems {
		lines = append(lines, "  "+oneLine(p))
	}
	if n.Healed > 0 {
		lines = append(lines, "  healed from other nodes: "+count(n.Healed, "tree"))
	}
	for _, l := range n.Lost {
		lines = append(lines, "  lost: "+oneLine(l))
	}
	return strings.Join(lines, "\n")
}
