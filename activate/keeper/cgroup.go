package keeper

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cgroups is the keeper's directory in a writable cgroup v2 hierarchy:
//
//	BASE/isonomia.MARK/keeper     the keeper itself
//	BASE/isonomia.MARK/s-HASH     one per start, HASH of its id
//
// BASE is where the agent that started the keeper was. No controllers are switched on, so that processes may be
// anywhere in the tree.
type cgroups struct {
	base, root string
}

// ownCgroup is the directory of this process in the cgroup v2 hierarchy, read from /proc.
func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	dir := cgroupDir(string(mounts), string(own))
	if dir == "" {
		return "", errors.New("no cgroup v2 hierarchy is mounted")
	}
	return dir, nil
}

// cgroupDir finds the directory from the contents of /proc/self/mountinfo and /proc/self/cgroup; "" if there is none.
func cgroupDir(mounts, own string) string {
	path := unifiedPath(own)
	if path == "" || strings.Contains(path, "..") {
		return ""
	}
	for line := range strings.Lines(mounts) {
		left, right, ok := strings.Cut(line, " - ")
		f := strings.Fields(left)
		if !ok || len(f) < 5 || !strings.HasPrefix(right, "cgroup2 ") {
			continue
		}
		if rel, err := filepath.Rel(f[3], path); err == nil && filepath.IsLocal(rel) {
			return filepath.Join(f[4], rel)
		}
	}
	return ""
}

// unifiedPath is the v2 line of a /proc/PID/cgroup.
func unifiedPath(cgroup string) string {
	for line := range strings.Lines(cgroup) {
		if p, ok := strings.CutPrefix(line, "0::"); ok {
			return strings.TrimSpace(p)
		}
	}
	return ""
}

const cgroupPrefix = "isonomia."

// openCgroups makes the keeper's directory, moves this process into it, and tries whether children can be born in it.
func openCgroups(mark string, c *children) (*cgroups, error) {
	base, err := ownCgroup()
	if err != nil {
		return nil, err
	}
	g := &cgroups{base: base, root: filepath.Join(base, cgroupPrefix+mark)}
	if err := os.MkdirAll(filepath.Join(g.root, "keeper"), 0o755); err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(g.root, "keeper", "cgroup.procs"), []byte("0"), 0)
	if err == nil {
		err = g.try(c)
	}
	if err != nil {
		g.close()
		return nil, err
	}
	return g, nil
}

// try forks a program that does not exist: whoever gets as far as that error was born in its cgroup.
func (g *cgroups) try(c *children) error {
	f, err := g.family("try")
	if err != nil {
		return err
	}
	defer f.close()
	if _, err := os.Stat(filepath.Join(f.dir, "cgroup.kill")); err != nil {
		return err
	}
	attr := &syscall.ProcAttr{Sys: &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(f.fd.Fd())}}
	if _, _, err := c.fork("/nonexistent/program", []string{"try"}, attr); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("fork into a cgroup: %w", err)
	}
	return nil
}

// close moves this process back to where it was born and removes the directories, as far as they are empty.
func (g *cgroups) close() {
	_ = os.WriteFile(filepath.Join(g.base, "cgroup.procs"), []byte("0"), 0)
	_ = os.Remove(filepath.Join(g.root, "keeper"))
	_ = os.Remove(g.root)
}

// cgroup is the family of one start.
type cgroup struct {
	dir string
	fd  *os.File
}

func (g *cgroups) family(id string) (*cgroup, error) {
	sum := sha256.Sum256([]byte(id))
	dir := filepath.Join(g.root, "s-"+hex.EncodeToString(sum[:8]))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, fmt.Errorf("make cgroup: %w", err)
	}
	fd, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open cgroup: %w", err)
	}
	return &cgroup{dir: dir, fd: fd}, nil
}

func (c *cgroup) signal(sig syscall.Signal) {
	if sig == syscall.SIGKILL {
		_ = os.WriteFile(filepath.Join(c.dir, "cgroup.kill"), []byte("1"), 0)
		return
	}
	procs, _ := os.ReadFile(filepath.Join(c.dir, "cgroup.procs"))
	for _, f := range strings.Fields(string(procs)) {
		pid, err := strconv.Atoi(f)
		if err != nil || pid <= 0 {
			continue // 0: in another pid namespace
		}
		signalIf(pid, sig, func() bool { return c.has(pid) })
	}
}

func (c *cgroup) empty() bool {
	b, err := os.ReadFile(filepath.Join(c.dir, "cgroup.events"))
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	return bytes.Contains(b, []byte("populated 0"))
}

func (c *cgroup) has(pid int) bool {
	b, err := os.ReadFile(procPath(pid, "cgroup"))
	return err == nil && filepath.Base(unifiedPath(string(b))) == filepath.Base(c.dir)
}

func (c *cgroup) close() {
	c.fd.Close()
	// A zombie that its parent is about to reap keeps the directory busy for a moment.
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		if err := unix.Rmdir(c.dir); !errors.Is(err, unix.EBUSY) {
			return
		}
		time.Sleep(wait)
	}
}

// clearCgroups kills what an earlier keeper with this mark left in root, and removes its directories.
func clearCgroups(root, mark string, patience time.Duration) {
	if filepath.Base(root) != cgroupPrefix+mark {
		return // not ours to kill, whatever the file says
	}
	dirs, _ := filepath.Glob(filepath.Join(root, "s-*"))
	for _, d := range dirs {
		fd, err := os.Open(d)
		if err != nil {
			continue
		}
		c := &cgroup{dir: d, fd: fd}
		killAll(c, patience)
		c.close()
	}
	_ = os.Remove(filepath.Join(root, "keeper"))
	_ = os.Remove(root)
}
