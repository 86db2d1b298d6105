//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// syncSocket is the descriptor over which the listener of the filter goes to
// the process that will answer for every fsync.
const syncSocket = 3

// run becomes argv and returns only if it cannot. All of it happens on one
// thread: the filter belongs to the one that calls exec.
func run(argv []string) error {
	if err := joinAgent(); err != nil {
		return fmt.Errorf("join cgroup: %w", err)
	}
	if len(argv) > 0 && argv[0] == "--syncs" {
		argv = argv[1:]
		if err := announceSyncs(); err != nil {
			return fmt.Errorf("filter fsync: %w", err)
		}
	}
	if len(argv) == 0 {
		return errors.New("no program given")
	}
	if err := syscall.Exec(argv[0], argv, os.Environ()); err != nil {
		return fmt.Errorf("exec %q: %w", argv[0], err)
	}
	return nil
}

// announceSyncs installs a filter that stops each fsync and fdatasync of this
// thread, and of all that descends from it, until the listener has answered.
func announceSyncs() error {
	listener, err := installFilter()
	if err != nil {
		return err
	}
	err = unix.Sendmsg(syncSocket, []byte{0}, unix.UnixRights(listener), nil, 0)
	unix.Close(listener)
	unix.Close(syncSocket)
	return err
}

func installFilter() (int, error) {
	const load, equal, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load, K: 0}, // the number of the call
		{Code: equal, K: unix.SYS_FSYNC, Jt: 2},
		{Code: equal, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	defer runtime.KeepAlive(filter)
	// A signal in between (the Go runtime sends many) would make the same call ask
	// twice; kernels before 5.19 cannot keep it away.
	fd, errno := seccomp(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog)
	if errno == unix.EINVAL {
		fd, errno = seccomp(unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog)
	}
	if errno != 0 {
		return -1, errno
	}
	return fd, nil
}

func seccomp(flags uintptr, prog *unix.SockFprog) (int, syscall.Errno) {
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(prog)))
	return int(fd), errno
}
