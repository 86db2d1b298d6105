package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

const (
	generatorTimeout = 30 * time.Second
	generatorPause   = 2 * time.Second // for what it started, once it has ended or was killed
	maxInventory     = 1 << 20         // bytes that one prints
	maxInventories   = 20
	maxComplaint     = 2 << 10 // bytes of what it says on stderr, in an error
)

// readInventories adds to a model what generators say of nodes. They run here, before anything is sent: what they printed
// travels with the model, so whoever composes it later needs no generator.
func readInventories(ctx context.Context, paths []string, src model.Source) error {
	if len(paths) > maxInventories {
		return usagef("", "--inventory is given %d times, and %d is the most", len(paths), maxInventories)
	}
	room := model.MaxSourceBytes
	for _, text := range src.Files {
		room -= len(text)
	}
	for i, path := range paths {
		raw, err := readInventory(ctx, path)
		if err != nil {
			return err
		}
		if room -= len(raw); room < 0 {
			return invalidModel(path, "the model and its inventories are larger than %s", byteSize(model.MaxSourceBytes))
		}
		src.Files[fmt.Sprintf("%02d-%s%s", i+1, strings.TrimSuffix(filepath.Base(path), ".json"), model.InventorySuffix)] = raw
	}
	return nil
}

// readInventory runs an executable, or reads a file that is none.
func readInventory(ctx context.Context, path string) ([]byte, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, invalidModel(path, "read inventory: %v", err)
	case !info.Mode().IsRegular():
		return nil, invalidModel(path, "inventory %q is not a regular file", path)
	case info.Mode().Perm()&0o111 != 0:
		return runGenerator(ctx, path, generatorTimeout)
	}
	return readModelFile(path, maxInventory)
}

// runGenerator gives what an executable prints. Its process group ends with it, or with the deadline.
func runGenerator(ctx context.Context, path string, deadline time.Duration) ([]byte, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find inventory %q: %w", path, err)
	}
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	out, complaint := &limited{room: maxInventory}, &limited{room: maxComplaint}
	cmd := exec.CommandContext(ctx, path)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = out, complaint, generatorPause
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	err = cmd.Run()
	switch {
	case ctx.Err() != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, invalidModel(path, "the inventory generator has not ended within %s", deadline)
	case out.cut:
		return nil, invalidModel(path, "the inventory generator prints more than %s", byteSize(maxInventory))
	case err != nil && complaint.kept.Len() > 0:
		return nil, invalidModel(path, "the inventory generator failed: %v: %s", err, oneLine(strings.TrimSpace(complaint.kept.String())))
	case err != nil:
		return nil, invalidModel(path, "the inventory generator failed: %v", err)
	}
	return out.kept.Bytes(), nil
}

// limited keeps what is written to it up to a limit, and notes that there was more.
type limited struct {
	kept bytes.Buffer // not embedded: its ReadFrom has no limit
	room int
	cut  bool
}

func (l *limited) Write(b []byte) (int, error) {
	n := min(len(b), l.room-l.kept.Len())
	l.cut = l.cut || n < len(b)
	_, _ = l.kept.Write(b[:n])
	return len(b), nil
}
