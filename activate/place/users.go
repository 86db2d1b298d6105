package place

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// InUseError says that a process still has files of a state open that was taken out of reach.
type InUseError struct {
	PID     int
	Program string
	Path    string
}

func (e *InUseError) Error() string {
	return fmt.Sprintf("pid %d (%s) still has %s open", e.PID, e.Program, e.Path)
}

// awaitUnused looks until no process has anything in dir open, or has it as its working directory.
func awaitUnused(ctx context.Context, dir string, patience time.Duration) error {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		used := userOf(dir)
		if used == nil {
			return nil
		}
		select {
		case <-time.After(wait):
		case <-deadline.C:
			return used
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), used)
		}
	}
}

// userOf finds a process other than this one that has something in dir open. The kernel gives names as they are now,
// after a rename too. What runs as somebody else can be looked at by root only.
func userOf(dir string) *InUseError {
	procs, _ := filepath.Glob("/proc/[1-9]*")
	for _, proc := range procs {
		pid, err := strconv.Atoi(filepath.Base(proc))
		if err != nil || pid == os.Getpid() {
			continue
		}
		links := []string{proc + "/cwd"}
		fds, _ := os.ReadDir(proc + "/fd")
		for _, fd := range fds {
			links = append(links, proc+"/fd/"+fd.Name())
		}
		for _, l := range links {
			if path, err := os.Readlink(l); err == nil && (path == dir || strings.HasPrefix(path, dir+"/")) {
				name, _ := os.ReadFile(proc + "/comm")
				return &InUseError{PID: pid, Program: string(bytes.TrimSpace(name)), Path: path}
			}
		}
	}
	return nil
}
