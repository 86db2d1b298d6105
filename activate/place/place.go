// Package place keeps a state that is a directory where its users find it, or out of their reach, and changes between
// the two by one rename.
//
//	StateDir/live         the state, while it can be reached
//	StateDir/kept/state   the state, while it cannot: kept is of mode 0700 and the agent's
//	StateDir/kept/new     one that is being made
package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/activate"
)

// Place is where a component's state is: below its StateDir.
type Place string

// Live is where users find the state.
func (p Place) Live() string { return filepath.Join(string(p), "live") }

func (p Place) keep() string  { return filepath.Join(string(p), "kept") }
func (p Place) kept() string  { return filepath.Join(string(p), "kept", "state") }
func (p Place) fresh() string { return filepath.Join(string(p), "kept", "new") }

// Find returns where the state is now; "" if there is none.
func (p Place) Find() (dir string, live bool, err error) {
	for _, dir := range []string{p.Live(), p.kept()} {
		fi, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", false, err
		}
		if !fi.IsDir() {
			return "", false, fmt.Errorf("find state %q: not a directory", dir)
		}
		return dir, dir == p.Live(), nil
	}
	return "", false, nil
}

// Make puts what fill makes in an empty directory in the place of the state: completely, or not at all. There may be a
// state already, which goes; it must not be live. fill is given no more than a name whose parent is there.
func (p Place) Make(fill func(dir string) error) error {
	if _, live, err := p.Find(); err != nil || live {
		if live {
			err = errors.New("replace a state: it is live")
		}
		return err
	}
	if err := os.MkdirAll(string(p), 0o755); err != nil {
		return err
	}
	if err := os.MkdirAll(p.keep(), 0o700); err != nil {
		return err
	}
	if err := os.RemoveAll(p.fresh()); err != nil {
		return err
	}
	if err := fill(p.fresh()); err != nil {
		return errors.Join(err, os.RemoveAll(p.fresh()))
	}
	return Replace(p.fresh(), p.kept())
}

// Replace puts from, a directory, in the place of to, durably, and removes what was there. Both have one parent. Users
// of to see the old one or the new one.
func Replace(from, to string) error {
	if err := SyncTree(from); err != nil {
		return err
	}
	if err := swap(from, to); err != nil {
		return err
	}
	if err := SyncDir(filepath.Dir(to)); err != nil {
		return err
	}
	return os.RemoveAll(from)
}

// swap puts from in the place of to. What was there is in the place of from then.
func swap(from, to string) error {
	err := unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, unix.RENAME_EXCHANGE)
	if errors.Is(err, unix.ENOENT) {
		return os.Rename(from, to)
	}
	if err != nil {
		return &os.LinkError{Op: "exchange", Old: from, New: to, Err: err}
	}
	return nil
}

// Open lets users reach the state.
func (p Place) Open() error {
	dir, live, err := p.Find()
	if err != nil || live {
		return err
	}
	if dir == "" {
		return fmt.Errorf("open state %q: %w", p, fs.ErrNotExist)
	}
	return p.move(p.kept(), p.Live())
}

func (p Place) move(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		return err
	}
	return errors.Join(SyncDir(string(p)), SyncDir(p.keep()))
}

// Close takes the state out of reach, and then waits until nobody has anything of it open any more, until ctx ends or
// the patience does. The error is an *InUseError then, and the state is out of reach all the same.
func (p Place) Close(ctx context.Context, patience time.Duration) error {
	dir, live, err := p.Find()
	if err != nil || dir == "" {
		return err
	}
	if live {
		if err := os.MkdirAll(p.keep(), 0o700); err != nil {
			return err
		}
		if err := p.move(p.Live(), p.kept()); err != nil {
			return err
		}
	}
	return awaitUnused(ctx, p.kept(), patience)
}

// Delete removes the state, as a whole: after a crash there is all of it or nothing, and a Delete that goes on where the
// first one ended. The directories that held it go too, unless something else is in them.
func (p Place) Delete() error {
	_, live, err := p.Find()
	if err != nil {
		return err
	}
	if live {
		return fmt.Errorf("delete state %q: it is live", p)
	}
	if err := os.RemoveAll(p.fresh()); err != nil {
		return err
	}
	if err := os.Rename(p.kept(), p.fresh()); err == nil {
		if err := errors.Join(SyncDir(p.keep()), os.RemoveAll(p.fresh())); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{p.keep(), string(p)} {
		if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

// Owner is whom the files of an instance belong to.
type Owner struct{ UID, GID int }

// OwnerOf returns whom the spec names. Who is not root owns everything himself: nil.
func OwnerOf(s activate.Spec) (*Owner, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	if s.User == "" {
		return &Owner{UID: s.UID, GID: s.GID}, nil
	}
	u, err := user.Lookup(s.User)
	if err != nil {
		return nil, fmt.Errorf("find user %q: %w", s.User, err)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	return &Owner{UID: uid, GID: gid}, errors.Join(err1, err2)
}

// Adopt gives dir to owner, and what in it belongs to whom dir belonged to: the same service by another number, as after a
// restore of what an earlier instance of it wrote. What belongs to others stays theirs. dir itself comes last, so that one
// that was cut off is done again. Symbolic links are not followed. nil, or who has it already: nothing is done.
func Adopt(dir string, owner *Owner) error {
	if owner == nil {
		return nil
	}
	if fi, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
		return nil // what else it may be is not for here to say
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	top, err := root.Lstat(".")
	if err != nil {
		return err
	}
	old := ownerOf(top)
	if old.UID == owner.UID && old.GID == owner.GID {
		return nil
	}
	err = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		has := ownerOf(fi)
		now := has
		if has.UID == old.UID {
			now.UID = owner.UID
		}
		if has.GID == old.GID {
			now.GID = owner.GID
		}
		if now == has {
			return nil
		}
		return root.Lchown(path, now.UID, now.GID)
	})
	if err != nil {
		return fmt.Errorf("change owner: %w", err)
	}
	return root.Lchown(".", owner.UID, owner.GID)
}

func ownerOf(fi fs.FileInfo) Owner {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return Owner{-1, -1}
	}
	return Owner{int(st.Uid), int(st.Gid)}
}

// Give gives everything in dir to owner and its group, to read and write: directories hand their group on. Symbolic
// links are not followed. nil: only the modes are changed.
func Give(dir string, owner *Owner) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if owner != nil {
			if err := os.Lchown(path, owner.UID, owner.GID); err != nil {
				return err
			}
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			return os.Chmod(path, 0o770|fs.ModeSetgid)
		case d.Type().IsRegular():
			user := fi.Mode().Perm() & 0o700
			return os.Chmod(path, user|user>>3)
		}
		return nil
	})
}

// WriteFile writes a file that is there completely, after a crash too, or not at all.
func WriteFile(path string, b []byte, mode fs.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Take moves the file or directory from to the name to, or copies a file if that is on another file system.
func Take(from, to string) error {
	err := os.Rename(from, to)
	if !errors.Is(err, unix.EXDEV) {
		return err
	}
	if fi, err := os.Lstat(from); err != nil {
		return err
	} else if fi.IsDir() {
		return os.CopyFS(to, os.DirFS(from))
	}
	return CopyFile(from, to)
}

// CopyFile copies a regular file to a name that is not there yet.
func CopyFile(from, to string) error {
	in, err := os.OpenFile(from, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer in.Close()
	fi, err := in.Stat()
	if err != nil {
		return err
	}
	if !fi.Mode().IsRegular() {
		return fmt.Errorf("copy %q: not a regular file", from)
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fi.Mode().Perm())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// SyncDir makes the names in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// SyncTree makes everything in dir durable.
func SyncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		return SyncDir(path) // the same for a file
	})
}
