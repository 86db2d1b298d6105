package snapshotstore

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
