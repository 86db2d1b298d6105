//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// hierarchy is one mounted cgroup hierarchy.
type hierarchy struct {
	Mount   string // where it is mounted
	Type    string // cgroup or cgroup2
	Options string // the controllers of a v1 hierarchy
	own     string // directory of the cgroup the test runs in
}

// wantedControllers are the v1 hierarchies of which a host gets its share. The
// v2 one always counts.
var wantedControllers = []string{"memory", "cpu", "pids", "freezer", "blkio"}

// hierarchies finds the hierarchies in which this process may make cgroups.
func hierarchies() ([]hierarchy, error) {
	membership, err := os.ReadFile("/proc/thread-self/cgroup")
	if err != nil {
		return nil, err
	}
	mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	var usable []hierarchy
	for _, h := range parseHierarchies(string(membership), string(mounts)) {
		if unusable := os.WriteFile(filepath.Join(h.own, "cgroup.procs"), nil, 0); !errors.Is(unusable, fs.ErrPermission) && !os.IsNotExist(unusable) {
			usable = append(usable, h)
		}
	}
	return usable, nil
}

// parseHierarchies combines /proc/self/cgroup and /proc/self/mountinfo.
func parseHierarchies(membership, mounts string) []hierarchy {
	paths := map[string]string{} // controllers, or "" for v2, to our path
	for line := range strings.Lines(membership) {
		if f := strings.SplitN(strings.TrimSpace(line), ":", 3); len(f) == 3 {
			paths[f[1]] = f[2]
		}
	}
	var list []hierarchy
	for line := range strings.Lines(mounts) {
		h, root, ok := parseCgroupMount(line)
		path, member := paths[h.Options]
		if !ok || !member || (h.Type == "cgroup" && !wanted(h.Options)) {
			continue
		}
		h.own = filepath.Join(h.Mount, strings.TrimPrefix(path, root))
		list = append(list, h)
	}
	return list
}

// parseCgroupMount reads one line of mountinfo:
//
//	36 35 98:0 ROOT MOUNTPOINT rw,noatime [master:1] - TYPE SOURCE rw,memory
func parseCgroupMount(line string) (h hierarchy, root string, ok bool) {
	before, after, found := strings.Cut(strings.TrimSpace(line), " - ")
	left, right := strings.Fields(before), strings.Fields(after)
	if !found || len(left) < 5 || len(right) < 3 {
		return h, "", false
	}
	h.Mount, h.Type = left[4], right[0]
	switch h.Type {
	case "cgroup2":
		return h, left[3], true
	case "cgroup":
		var controllers []string
		for o := range strings.SplitSeq(right[2], ",") {
			if o != "rw" && o != "ro" {
				controllers = append(controllers, o)
			}
		}
		h.Options = strings.Join(controllers, ",")
		return h, left[3], true
	}
	return h, "", false
}

func wanted(controllers string) bool {
	for c := range strings.SplitSeq(controllers, ",") {
		if slices.Contains(wantedControllers, c) {
			return true
		}
	}
	return false
}

// cgroup is one cgroup of the same name in each hierarchy.
type cgroup struct {
	name string
	in   []hierarchy
}

// newCgroup makes the cgroup and puts a process into it.
func newCgroup(name string, pid int, in []hierarchy) (*cgroup, error) {
	g := &cgroup{name: name, in: in}
	for _, h := range in {
		dir := filepath.Join(h.own, name)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return g, fmt.Errorf("make cgroup: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			return g, fmt.Errorf("join cgroup: %w", err)
		}
	}
	return g, nil
}

// remove removes the cgroup and all below it. The kernel lets go of dead
// members a little after they were waited for, so it tries for two seconds.
func (g *cgroup) remove() error {
	if g == nil {
		return nil
	}
	var err error
	for deadline := time.Now().Add(2 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		err = nil
		for _, h := range g.in {
			err = errors.Join(err, removeCgroup(filepath.Join(h.own, g.name)))
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeCgroup(filepath.Join(dir, e.Name())))
		}
	}
	if rm := os.Remove(dir); !errors.Is(rm, fs.ErrNotExist) {
		err = errors.Join(err, rm)
	}
	return err
}
