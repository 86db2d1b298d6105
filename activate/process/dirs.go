package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/activate/place"
)

// makeDirs makes what the instance needs before it starts. RunDir stays the agent's; what is in TMPDIR goes.
func makeDirs(in activate.Instance, user *keeper.User) error {
	for _, d := range []string{in.LogDir, in.RunDir} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if err := os.RemoveAll(tempDir(in)); err != nil {
		return fmt.Errorf("empty TMPDIR: %w", err)
	}
	if err := adopt(in.StateDir, user); err != nil {
		return fmt.Errorf("make directory %q: %w", in.StateDir, err)
	}
	for _, d := range []string{in.StateDir, tempDir(in)} {
		if err := ownDir(d, user); err != nil {
			return fmt.Errorf("make directory %q: %w", d, err)
		}
	}
	return nil
}

// adopt gives what an earlier instance wrote to the user of this one.
func adopt(dir string, user *keeper.User) error {
	if user == nil {
		return nil
	}
	return place.Adopt(dir, &place.Owner{UID: int(user.UID), GID: int(user.GID)})
}

// ownDir makes dir a directory of mode 0700 that belongs to user (nil: to us). It changes owner and mode through a
// descriptor of what is certainly a directory: a symbolic link in its place is an error, not a way to hand over
// somebody else's. What is inside keeps its owners.
func ownDir(dir string, user *keeper.User) error {
	// What is above is for users to pass through.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return errors.New("a symbolic link is in its place")
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if user != nil {
		if err := unix.Fchown(fd, int(user.UID), int(user.GID)); err != nil {
			return fmt.Errorf("change owner: %w", err)
		}
	}
	return unix.Fchmod(fd, 0o700)
}
