//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// clusterPrefix begins the name of what a cluster leaves if its test process is
// killed: its directory below baseDir, its cgroups, the mounts of its disks.
// (Processes and namespaces end with the test process.)
const clusterPrefix = "cluster-"

// claimDir makes the directory of a new cluster and holds a lock on it until
// release, or until this process ends.
func claimDir() (dir string, release func(), err error) {
	unlock, err := lock(filepath.Join(baseDir(), "clusters"))
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	dir, err = os.MkdirTemp(filepath.Join(baseDir(), "clusters"), fmt.Sprintf("%s%d-", clusterPrefix, os.Getpid()))
	if err != nil {
		return "", nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", nil, err
	}
	release, err = lock(dir)
	return dir, release, err
}

// sweep removes what clusters of dead test processes left.
func sweep(in []hierarchy) error {
	unlock, err := lock(filepath.Join(baseDir(), "clusters"))
	if err != nil {
		return err
	}
	defer unlock()
	dirs, err := filepath.Glob(filepath.Join(baseDir(), "clusters", clusterPrefix+"*"))
	for _, dir := range dirs {
		err = errors.Join(err, sweepDir(dir, in))
	}
	return err
}

func sweepDir(dir string, in []hierarchy) error {
	f, err := os.Open(dir)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil // its owner lives
	}
	for _, h := range in {
		left, _ := filepath.Glob(filepath.Join(h.own, filepath.Base(dir)+"-*"))
		for _, cg := range left {
			err = errors.Join(err, (&cgroup{name: filepath.Base(cg), in: []hierarchy{h}}).remove())
		}
	}
	return errors.Join(err, removeDir(dir))
}

// removeDir removes the directory of a cluster, disks first.
func removeDir(dir string) error {
	mounts, err := os.ReadFile("/proc/thread-self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		f := strings.Fields(line)
		if len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %q: %w", f[1], err)
			}
		}
	}
	return os.RemoveAll(dir)
}
