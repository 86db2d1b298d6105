package keeper

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// markName is the one variable that the keeper adds to the environment of a service: MARK:ID. By it the processes of
// a start are found again where there is no cgroup to hold them.
const markName = "ISONOMIA_INSTANCE"

// home is DIR as its keeper sees it.
type home struct {
	dir  string
	lock *os.File
	mark string // 16 hex digits that no other DIR on this machine has
}

var errLocked = errors.New("another keeper holds the lock")

// openHome takes the lock. It fails with errLocked if another keeper has it.
func openHome(dir string) (*home, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "keeper.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errLocked
		}
		return nil, fmt.Errorf("lock %q: %w", lock.Name(), err)
	}
	mark, err := homeMark(dir)
	if err != nil {
		lock.Close()
		return nil, err
	}
	return &home{dir: dir, lock: lock, mark: mark}, nil
}

// homeMark joins a random number made once with DIR's device and inode. The path would not do: nodes in mount
// namespaces of their own may all live under the same one. The number alone would not either: DIR may be a copy.
func homeMark(dir string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return "", fmt.Errorf("stat %q: %w", dir, err)
	}
	path := filepath.Join(dir, "keeper.id")
	id, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		id = fmt.Appendf(nil, "%016x\n", randomBytes())
		err = writeFile(path, id)
	}
	if err != nil {
		return "", fmt.Errorf("read keeper's id: %w", err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", strings.TrimSpace(string(id)), st.Dev, st.Ino))
	return hex.EncodeToString(sum[:8]), nil
}

func randomBytes() []byte {
	b := make([]byte, 8)
	_, _ = rand.Read(b) // never fails
	return b
}

// replaced says that DIR is no longer the one that this keeper locked: nobody can reach it any more, and another
// keeper may already be there. What cannot be decided counts as not replaced.
func (h *home) replaced() bool {
	var mine, now unix.Stat_t
	if unix.Fstat(int(h.lock.Fd()), &mine) != nil {
		return false
	}
	err := unix.Stat(h.lock.Name(), &now)
	if err != nil {
		return errors.Is(err, unix.ENOENT)
	}
	return mine.Dev != now.Dev || mine.Ino != now.Ino
}

// writeFile makes path appear whole or not at all.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// underDir calls f with a path to name in dir that is short enough for a socket address (107 bytes), whatever the
// length of dir.
func underDir(dir, name string, f func(path string) error) error {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(fd)
	return f(fmt.Sprintf("/proc/self/fd/%d/%s", fd, name))
}
