package snapshotstore

import (
	"bytes"
	"errors"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// All names below are one component, relative to an open directory, and no
// symlink is ever followed: nothing outside a tree can be reached.

const dirFlags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC

// openDir opens the top directory of a tree, which may be reached through a
// symlink.
func openDir(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_DIRECTORY, 0)
}

func openDirAt(dir *os.File, name string) (*os.File, error) {
	return openFileAt(dir, name, dirFlags, 0)
}

func openFileAt(dir *os.File, name string, flags int, mode uint32) (*os.File, error) {
	var fd int
	err := again(func() (err error) {
		fd, err = unix.Openat(int(dir.Fd()), name, flags|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode)
		return err
	})
	if err != nil {
		return nil, sysError("open", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

func statAt(dir *os.File, name string) (fileStat, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return fromStat(&st), sysError("stat", name, err)
}

func statFile(f *os.File) (fileStat, error) {
	var st unix.Stat_t
	err := again(func() error { return unix.Fstat(int(f.Fd()), &st) })
	return fromStat(&st), sysError("stat", f.Name(), err)
}

func fromStat(st *unix.Stat_t) fileStat {
	out := fileStat{mode: st.Mode & modeBits, uid: st.Uid, gid: st.Gid, size: uint64(st.Size), nlink: uint64(st.Nlink),
		dev: uint64(st.Dev), ino: st.Ino, sparse: st.Blocks*512 < st.Size,
		mtime: fileTime{st.Mtim.Sec, uint32(st.Mtim.Nsec)}, ctime: fileTime{st.Ctim.Sec, uint32(st.Ctim.Nsec)}}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		out.kind = File
	case unix.S_IFDIR:
		out.kind = Dir
	case unix.S_IFLNK:
		out.kind = Symlink
	case unix.S_IFIFO:
		out.kind = Fifo
	}
	return out
}

func readlinkAt(dir *os.File, name string) (string, error) {
	var buf [maxTarget + 1]byte
	var n int
	err := again(func() (err error) {
		n, err = unix.Readlinkat(int(dir.Fd()), name, buf[:])
		return err
	})
	if err != nil {
		return "", sysError("readlink", name, err)
	}
	return string(buf[:n]), nil
}

// chmodFile sets the mode as the kernel has it, set-uid and all.
func chmodFile(f *os.File, mode uint32) error {
	return sysError("chmod", f.Name(), again(func() error { return unix.Fchmod(int(f.Fd()), mode) }))
}

func mkdirAt(dir *os.File, name string, mode uint32) error {
	return sysError("mkdir", name, again(func() error { return unix.Mkdirat(int(dir.Fd()), name, mode) }))
}

func symlinkAt(dir *os.File, target, name string) error {
	return sysError("symlink", name, again(func() error { return unix.Symlinkat(target, int(dir.Fd()), name) }))
}

func mkfifoAt(dir *os.File, name string, mode uint32) error {
	return sysError("mkfifo", name, again(func() error { return unix.Mkfifoat(int(dir.Fd()), name, mode) }))
}

func linkAt(from *os.File, old string, dir *os.File, name string) error {
	return sysError("link", name, again(func() error {
		return unix.Linkat(int(from.Fd()), old, int(dir.Fd()), name, 0)
	}))
}

func unlinkAt(dir *os.File, name string, isDir bool) error {
	flags := 0
	if isDir {
		flags = unix.AT_REMOVEDIR
	}
	return sysError("remove", name, again(func() error { return unix.Unlinkat(int(dir.Fd()), name, flags) }))
}

func chownAt(dir *os.File, name string, uid, gid uint32) error {
	return sysError("chown", name, again(func() error {
		return unix.Fchownat(int(dir.Fd()), name, int(uid), int(gid), unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// chmodAt follows symlinks: the caller has made name and knows that it is none.
func chmodAt(dir *os.File, name string, mode uint32) error {
	return sysError("chmod", name, again(func() error { return unix.Fchmodat(int(dir.Fd()), name, mode, 0) }))
}

// setTimeAt sets the time of modification, and leaves that of access.
func setTimeAt(dir *os.File, name string, t fileTime) error {
	ts := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Sec: t.sec, Nsec: int64(t.nsec)}}
	return sysError("set time of", name, again(func() error {
		return unix.UtimesNanoAt(int(dir.Fd()), name, ts, unix.AT_SYMLINK_NOFOLLOW)
	}))
}

// readXattrs returns the attributes that are state, by name. A file system
// without attributes has none.
func readXattrs(f *os.File) ([]Xattr, error) {
	names, err := growing(func(buf []byte) (n int, err error) { return unix.Flistxattr(int(f.Fd()), buf) })
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 && err == nil {
		return nil, nil
	}
	if err != nil {
		return nil, sysError("list attributes of", f.Name(), err)
	}
	var out []Xattr
	for raw := range bytes.SplitSeq(names, []byte{0}) {
		name := string(raw)
		if !keptXattr(name) {
			continue
		}
		value, err := growing(func(buf []byte) (int, error) { return unix.Fgetxattr(int(f.Fd()), name, buf) })
		if errors.Is(err, unix.ENODATA) { // removed since
			continue
		}
		if err != nil {
			return nil, sysError("read attribute "+name+" of", f.Name(), err)
		}
		out = append(out, Xattr{name, string(value)})
	}
	slices.SortFunc(out, func(a, b Xattr) int { return cmpString(a.Name, b.Name) })
	if xattrBytes(out) > maxXattrs {
		return nil, ErrXattrs
	}
	return out, nil
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// growing calls get with a buffer that is large enough.
func growing(get func([]byte) (int, error)) ([]byte, error) {
	for size := 256; ; size *= 4 {
		buf := make([]byte, size)
		var n int
		err := again(func() (err error) { n, err = get(buf); return err })
		if err == unix.ERANGE && size < 4*maxXattrs {
			continue
		}
		if err != nil {
			return nil, err
		}
		return buf[:n], nil
	}
}

func setXattr(f *os.File, x Xattr) error {
	return sysError("set attribute "+x.Name+" of", f.Name(), again(func() error {
		return unix.Fsetxattr(int(f.Fd()), x.Name, []byte(x.Value), 0)
	}))
}

func removeXattr(f *os.File, name string) error {
	return sysError("remove attribute "+name+" of", f.Name(), again(func() error {
		return unix.Fremovexattr(int(f.Fd()), name)
	}))
}

// nextData returns where the next data at or after at begins and ends. Where
// the file system does not know, everything is data.
func nextData(f *os.File, at, size uint64) (start, end uint64, err error) {
	from, err := unix.Seek(int(f.Fd()), int64(at), unix.SEEK_DATA)
	if err == unix.ENXIO { // only a hole until the end
		return size, size, nil
	}
	if err != nil {
		return at, size, nil
	}
	to, err := unix.Seek(int(f.Fd()), from, unix.SEEK_HOLE)
	if err != nil {
		return uint64(from), size, nil
	}
	return uint64(from), uint64(to), nil
}

// punchHole makes a range of a file read as zeros and, where the file system
// can, take no room.
func punchHole(f *os.File, at, n uint64) error {
	err := again(func() error {
		return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, int64(at), int64(n))
	})
	if err != unix.EOPNOTSUPP {
		return sysError("punch hole in", f.Name(), err)
	}
	var zeros [holeGrain]byte
	for n > 0 {
		k := min(n, holeGrain)
		if _, err := f.WriteAt(zeros[:k], int64(at)); err != nil {
			return err
		}
		at, n = at+k, n-k
	}
	return nil
}

// exchangeAt swaps two names of a directory in one step.
func exchangeAt(dir *os.File, a, b string) error {
	return sysError("exchange", b, again(func() error {
		return unix.Renameat2(int(dir.Fd()), a, int(dir.Fd()), b, unix.RENAME_EXCHANGE)
	}))
}

// syncAll brings the file system of f to disk.
func syncAll(f *os.File) error {
	return sysError("sync", f.Name(), again(func() error { return unix.Syncfs(int(f.Fd())) }))
}
