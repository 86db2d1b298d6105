package snapshotstore

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lockDir takes the lock of a store: shared for readers, exclusive for the
// writer. The kernel drops it when the process dies, however it dies.
func lockDir(dir, path string, shared bool) (*os.File, error) {
	flags, how := os.O_RDWR|os.O_CREATE, unix.LOCK_EX
	if shared {
		flags, how = os.O_RDONLY, unix.LOCK_SH
	}
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store %q: %w", dir, err)
	}
	err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	for err == unix.EINTR {
		err = unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
	}
	if err == nil {
		if !shared {
			noteHolder(f)
		}
		return f, nil
	}
	defer f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, &InUseError{Dir: dir, Holder: readHolder(f)}
	}
	return nil, fmt.Errorf("lock store %q: %w", dir, err)
}

// noteHolder writes who holds the lock, for the error that others get. Only
// a courtesy: its failure changes nothing.
func noteHolder(f *os.File) {
	_ = f.Truncate(0)
	_, _ = f.WriteAt(fmt.Appendf(nil, "pid %d\n", os.Getpid()), 0)
}

func readHolder(f *os.File) string {
	var buf [64]byte
	n, _ := f.ReadAt(buf[:], 0)
	return strings.TrimSpace(strings.ToValidUTF8(string(buf[:n]), ""))
}

// unlockDir gives the lock back. Closing alone would not do while another
// goroutine starts a process: until its exec, the child shares the lock.
func unlockDir(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_UN)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
