package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// modelFlags are those of commands that read a model.
func (op *operation) modelFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&op.rebuild, "rebuild", false, "build packages again although nothing changed")
	cmd.Flags().StringArrayVar(&op.inventories, "inventory", nil, "`FILE` with attributes of nodes as JSON, or a program that prints them (repeatable)")
	_ = cmd.MarkFlagFilename("inventory")
}

// readModel reads and checks the model in dir, sends its packages to the node and completes the request with both.
func (op *operation) readModel(ctx context.Context, dir string) error {
	src, err := readSource(dir)
	if err != nil {
		return err
	}
	if err := readInventories(ctx, op.inventories, src); err != nil {
		return err
	}
	m, err := op.parse(src)
	if err != nil {
		return err
	}
	packages, err := op.packages(ctx, dir, m)
	if err != nil {
		return err
	}
	op.req.Files, op.req.Packages = src.Files, packages
	return nil
}

// readSource reads the files of a model: *.hcl and *.hcl.json directly in dir, not hidden, of bounded size.
func readSource(dir string) (model.Source, error) {
	src := model.Source{Files: map[string][]byte{}}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return src, invalidModel(dir, "directory %q does not exist", dir)
	case err != nil:
		return src, invalidModel(dir, "read directory %q: %v", dir, err)
	}
	room := int64(model.MaxSourceBytes)
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || !strings.HasSuffix(name, ".hcl") && !strings.HasSuffix(name, ".hcl.json") {
			continue
		}
		raw, err := readModelFile(filepath.Join(dir, name), room)
		if err != nil {
			return src, err
		}
		room -= int64(len(raw))
		src.Files[name] = raw
	}
	if len(src.Files) == 0 {
		return src, invalidModel(dir, "there is no model in %q: no *.hcl or *.hcl.json file", dir)
	}
	return src, nil
}

// readModelFile reads one regular file of at most room bytes.
func readModelFile(path string, room int64) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		return nil, invalidModel(path, "%q is not a regular file", path)
	}
	if err != nil {
		return nil, invalidModel(path, "read %q: %v", path, err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, invalidModel(path, "read %q: %v", path, err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, room+1))
	if err != nil {
		return nil, invalidModel(path, "read %q: %v", path, err)
	}
	if int64(len(raw)) > room {
		return nil, invalidModel(path, "the model is larger than %s", byteSize(model.MaxSourceBytes))
	}
	return raw, nil
}

func invalidModel(where, format string, args ...any) error {
	return &api.Error{Code: api.CodeInvalidModel, Where: where, Message: fmt.Sprintf(format, args...)}
}
