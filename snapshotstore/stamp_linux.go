package snapshotstore

import (
	"io/fs"
	"syscall"
	"time"
)

// fillStamp adds what only the system knows: the change time, which can not
// be set back, and the identity of the file.
func fillStamp(st *stamp, info fs.FileInfo) {
	if sys, ok := info.Sys().(*syscall.Stat_t); ok {
		st.dev, st.ino = uint64(sys.Dev), uint64(sys.Ino)
		st.ctime = time.Unix(int64(sys.Ctim.Sec), int64(sys.Ctim.Nsec))
	}
}
