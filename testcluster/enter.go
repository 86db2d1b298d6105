//go:build linux

package testcluster

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// space is a kind of namespace.
type space struct {
	name string // under /proc/PID/ns
	flag int
}

var (
	spaceCgroup = space{"cgroup", unix.CLONE_NEWCGROUP}
	spaceIPC    = space{"ipc", unix.CLONE_NEWIPC}
	spaceMount  = space{"mnt", unix.CLONE_NEWNS}
	spaceNet    = space{"net", unix.CLONE_NEWNET}
	spacePID    = space{"pid", unix.CLONE_NEWPID}
	spaceUTS    = space{"uts", unix.CLONE_NEWUTS}
)

// allSpaces is everything that makes a process a process of its host.
var allSpaces = []space{spaceCgroup, spaceIPC, spaceMount, spaceNet, spacePID, spaceUTS}

// inside calls f on a thread that is in the given namespaces of process pid.
// What f creates stays there: a listener keeps its network, a started process
// keeps all of them. The thread is thrown away afterwards.
func inside(pid int, spaces []space, f func() error) error {
	fds, err := openSpaces(pid, spaces)
	if err != nil {
		return err
	}
	defer closeAll(fds)
	return onThrowAwayThread(func() error {
		if err := enter(fds, spaces); err != nil {
			return err
		}
		return f()
	})
}

// onThrowAwayThread calls f on a thread that ends afterwards. The first thread
// of a process cannot end, and what it became would show in /proc/self: if the
// goroutine lands there, it holds on to it and lets another one do the work.
func onThrowAwayThread(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // not unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread()
			done <- onThrowAwayThread(f)
			return
		}
		done <- f()
	}()
	return <-done
}

func openSpaces(pid int, spaces []space) ([]*os.File, error) {
	var fds []*os.File
	for _, s := range spaces {
		f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "ns", s.name))
		if err != nil {
			closeAll(fds)
			return nil, err
		}
		fds = append(fds, f)
	}
	return fds, nil
}

func closeAll(fds []*os.File) {
	for _, f := range fds {
		f.Close()
	}
}

func enter(fds []*os.File, spaces []space) error {
	// A mount namespace can be entered only by who shares no root directory.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("unshare root directory: %w", err)
	}
	for i, s := range spaces {
		if err := unix.Setns(int(fds[i].Fd()), s.flag); err != nil {
			return fmt.Errorf("enter %s namespace: %w", s.name, err)
		}
	}
	return nil
}

// insideNew tries to make namespaces.
func insideNew(flags int) error {
	return onThrowAwayThread(func() error { return unix.Unshare(flags) })
}
