package snapshotstore

import (
	"io/fs"
	"syscall"
)

// fileStat is what the kernel says of a file.
type fileStat struct {
	kind         Kind // 0 for what snapshots leave out
	mode         uint32
	uid, gid     uint32
	size         uint64
	nlink        uint64
	dev, ino     uint64
	sparse       bool // fewer blocks than its size needs
	mtime, ctime fileTime
}

// same reports whether nothing suggests that the content of a file changed
// between two looks.
func (st *fileStat) same(o *fileStat) bool {
	return st.kind == o.kind && st.size == o.size && st.dev == o.dev && st.ino == o.ino &&
		st.mtime == o.mtime && st.ctime == o.ctime
}

// again repeats a system call that a signal interrupted.
func again(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

// sysError names the call and the file in an error.
func sysError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}
