package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func newSnapshotResolveCommand(c *console) *cobra.Command {
	var system string
	cmd := &cobra.Command{
		Use:   "resolve SERVICE[@GENERATION] [DIRECTORY]",
		Short: "Lay a snapshot's files out in a directory, and print its path",
		Long: "Lay the files of a kept snapshot, the newest unless a generation is given, out in a new directory, to look at them with\n" +
			"other tools: DIRECTORY, or SERVICE-GENERATION here. It appears whole. Modes and times are those of the snapshot, owners\n" +
			"for root only. The service is not touched.",
		Example:           "  isonomia snapshots resolve staff@12\n  grep -r smith \"$(isonomia snapshots resolve staff /tmp/staff)\"",
		Args:              between(1, 2),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: c.withClient(func(cmd *cobra.Command, client *api.Client, args []string) error {
			service, generation, err := parseGeneration(args[0])
			if err != nil {
				return err
			}
			snap, err := findSnapshot(cmd.Context(), client, system, service, generation)
			if err != nil {
				return err
			}
			dir := fmt.Sprintf("%s-%d", service, snap.Generation)
			if len(args) == 2 {
				dir = args[1]
			}
			if dir, err = filepath.Abs(dir); err != nil {
				return err
			}
			err = appear(dir, func(work string) error {
				r, w := io.Pipe()
				go func() {
					w.CloseWithError(client.ExportSnapshot(cmd.Context(), system, service, snap.Generation, w))
				}()
				err := unpack(r, work)
				r.CloseWithError(errors.Join(err, io.ErrClosedPipe))
				return err
			})
			if err != nil {
				return err
			}
			if c.json {
				return c.printJSON(map[string]any{"path": dir, "service": snap.Service, "generation": snap.Generation, "id": snap.ID})
			}
			_, err = fmt.Fprintln(c.out, dir)
			return err
		}),
	}
	systemFlag(cmd, &system)
	return cmd
}

// findSnapshot is a kept generation of a service; 0 is the newest.
func findSnapshot(ctx context.Context, client *api.Client, system, service string, generation uint64) (api.Snapshot, error) {
	list, err := client.Snapshots(ctx, system, service)
	if err != nil {
		return api.Snapshot{}, err
	}
	if generation == 0 {
		list = newestSnapshots(list)
	}
	for _, s := range list {
		if generation == 0 || s.Generation == generation {
			return s, nil
		}
	}
	return api.Snapshot{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no such snapshot of %s", service), Hint: "See isonomia snapshots " + service + "."}
}

// appear makes a directory that is there only if fill succeeded.
func appear(dir string, fill func(work string) error) error {
	if _, err := os.Lstat(dir); err == nil {
		return &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s exists", dir), Hint: "Name another directory, or remove it."}
	}
	work, err := os.MkdirTemp(filepath.Dir(dir), ".resolve-*")
	if err != nil {
		return err
	}
	if err = fill(work); err == nil {
		err = os.Rename(work, dir)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(work))
	}
	return nil
}

// unpack writes the entries of a tar archive below dir. Nothing is written outside it, whatever the archive says.
func unpack(r io.Reader, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	var dirs []*tar.Header // their modes and times come last: they may be read-only
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("read the snapshot: %w", err)
		}
		h.Name = path.Clean(strings.TrimPrefix(h.Name, "/"))
		if h.Typeflag == tar.TypeDir {
			dirs = append(dirs, h)
		}
		if err := unpackEntry(root, h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := dress(root, dirs[i]); err != nil {
			return err
		}
	}
	return nil
}

func unpackEntry(root *os.Root, h *tar.Header, content io.Reader) error {
	if parent := path.Dir(h.Name); parent != "." {
		if err := root.MkdirAll(parent, 0o700); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		if h.Name == "." {
			return nil
		}
		return root.MkdirAll(h.Name, 0o700)
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, h.Name)
	case tar.TypeLink:
		return root.Link(path.Clean(strings.TrimPrefix(h.Linkname, "/")), h.Name)
	case tar.TypeReg:
	default:
		return fmt.Errorf("it is neither a file nor a directory nor a link (tar type %q)", h.Typeflag)
	}
	f, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close(), dress(root, h))
}

// dress gives an entry the mode, times and, for root, the owner that the snapshot has.
func dress(root *os.Root, h *tar.Header) error {
	if os.Geteuid() == 0 {
		if err := root.Lchown(h.Name, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if err := root.Chmod(h.Name, h.FileInfo().Mode().Perm()); err != nil {
		return err
	}
	return root.Chtimes(h.Name, h.ModTime, h.ModTime)
}
