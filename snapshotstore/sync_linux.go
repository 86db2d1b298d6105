package snapshotstore

import (
	"os"

	"golang.org/x/sys/unix"
)

// syncTree brings all files beneath root to disk, and whatever else was
// written to their file system.
func syncTree(root *os.Root) error {
	f, err := root.Open(".")
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		if err = unix.Syncfs(int(f.Fd())); err != unix.EINTR {
			break
		}
	}
	return os.NewSyscallError("syncfs", err)
}
