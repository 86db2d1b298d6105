//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Setup says what the host shall look like from inside.
type Setup struct {
	Hostname string
	// Hide lists directories that become empty and private to the host.
	Hide []string
	// Binds maps a directory inside the host, or a file that is there, to the one outside that it shows.
	Binds map[string]string
	// Cgroups are the hierarchies in which the host has a root of its own.
	Cgroups []Cgroup
}

// Cgroup is one mounted hierarchy.
type Cgroup struct {
	Mount   string // where it is mounted, /sys/fs/cgroup/memory
	Type    string // cgroup or cgroup2
	Options string // memory; name=systemd; empty for cgroup2
}

// agentCgroup is where the agent runs, as a unit with Delegate=yes would; PID 1
// sits in initCgroup, since in v2 only leaves may hold processes.
const (
	initCgroup  = "init.scope"
	agentCgroup = "isonomia.service"
	cgroupRoot  = "/sys/fs/cgroup"
)

// setup builds the host's view. Sources of binds are opened first, because
// hiding may cover them; /proc comes last, because the binds go through it.
func setup(s Setup) error {
	if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
		return fmt.Errorf("set hostname %q: %w", s.Hostname, err)
	}
	if err := unix.Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("detach mounts: %w", err)
	}
	sources := map[string]*os.File{}
	for to, from := range s.Binds {
		f, err := os.OpenFile(from, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		sources[to] = f
	}
	if err := hide(s.Hide); err != nil {
		return err
	}
	if err := bind(sources); err != nil {
		return err
	}
	if err := cgroups(s.Cgroups); err != nil {
		return err
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

func hide(dirs []string) error {
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		mode := "mode=1777"
		if dir == "/run" {
			mode = "mode=755"
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, mode); err != nil {
			return fmt.Errorf("hide %q: %w", dir, err)
		}
	}
	return nil
}

func bind(sources map[string]*os.File) error {
	for to, f := range sources {
		if is, err := f.Stat(); err != nil {
			return err
		} else if is.IsDir() {
			if err := os.MkdirAll(to, 0o755); err != nil {
				return err
			}
		}
		from := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
		if err := unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return fmt.Errorf("bind %q: %w", to, err)
		}
	}
	return nil
}

// cgroups makes the cgroup this process is in the root of all it can see, and
// mounts that. The caller has moved it into a cgroup made for this host.
func cgroups(list []Cgroup) error {
	if len(list) == 0 {
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWCGROUP); err != nil {
		return fmt.Errorf("unshare cgroups: %w", err)
	}
	if list[0].Mount != cgroupRoot {
		if err := unix.Mount("tmpfs", cgroupRoot, "tmpfs", 0, "mode=755"); err != nil {
			return fmt.Errorf("hide %q: %w", cgroupRoot, err)
		}
	}
	for _, c := range list {
		if err := mountCgroup(c); err != nil {
			return fmt.Errorf("mount %q: %w", c.Mount, err)
		}
	}
	return nil
}

func mountCgroup(c Cgroup) error {
	if err := os.MkdirAll(c.Mount, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(c.Type, c.Mount, c.Type, 0, c.Options); err != nil {
		return err
	}
	for _, sub := range []string{initCgroup, agentCgroup} {
		if err := os.Mkdir(filepath.Join(c.Mount, sub), 0o755); err != nil {
			return err
		}
	}
	return join(c.Mount, initCgroup)
}

// join moves this process to the named cgroup of the hierarchy at mount.
func join(mount, name string) error {
	return os.WriteFile(filepath.Join(mount, name, "cgroup.procs"), []byte("0"), 0)
}

// joinAgent moves this process to the agent's cgroup in every hierarchy that
// the host has.
func joinAgent() error {
	mounts, err := filepath.Glob(cgroupRoot + "/*/" + agentCgroup)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(cgroupRoot, agentCgroup)); err == nil {
		mounts = append(mounts, filepath.Join(cgroupRoot, agentCgroup))
	}
	for _, m := range mounts {
		if err := join(strings.TrimSuffix(m, agentCgroup), agentCgroup); err != nil {
			return err
		}
	}
	return nil
}
