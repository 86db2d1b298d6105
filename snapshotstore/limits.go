package snapshotstore

// Sizes that are part of the format.
const (
	// MinChunk, AvgChunk and MaxChunk bound where a file is cut, in bytes.
	// A file shorter than MinChunk, and the last piece, may be smaller.
	MinChunk = 16 << 10
	AvgChunk = 64 << 10
	MaxChunk = 256 << 10
	// MaxObject is the largest plain object, MaxStored the largest stored one.
	MaxObject = MaxChunk
	MaxStored = storedHeader + MaxObject

	maxLevel  = 8    // of lists and directories: 256^8 parts is beyond any disk
	maxDirect = 16   // chunks that an entry names itself
	maxName   = 255  // bytes of one name, as Linux has it
	maxTarget = 4095 // bytes of a symlink's target, as Linux has it
)

// Limits bound a tree. A zero field takes its default.
type Limits struct {
	Entries uint64 // files, directories and symlinks together; default 400,000
	Files   uint64 // regular files; default 200,000
	Bytes   uint64 // sum of file sizes; default 16 GiB
	Depth   int    // levels of directories; default 128
	Path    int    // bytes of a path relative to the root; default 3,072 (a prefix must fit PATH_MAX too)
}

func (l Limits) withDefaults() Limits {
	set := func(p *uint64, v uint64) {
		if *p == 0 {
			*p = v
		}
	}
	set(&l.Entries, 400_000)
	set(&l.Files, 200_000)
	set(&l.Bytes, 16<<30)
	if l.Depth == 0 {
		l.Depth = 128
	}
	if l.Path == 0 {
		l.Path = 3072
	}
	return l
}

// stateDefaults are those of snapshots: what a service has written must fit.
func (l Limits) stateDefaults() Limits {
	if l.Entries == 0 {
		l.Entries = 100_000_000
	}
	if l.Files == 0 {
		l.Files = l.Entries
	}
	if l.Bytes == 0 {
		l.Bytes = 1 << 50
	}
	if l.Depth == 0 {
		l.Depth = 256
	}
	if l.Path == 0 {
		l.Path = 16 << 10
	}
	return l
}

// check refuses totals beyond the limits; path is named in the error.
func (l Limits) check(t Totals, path string) error {
	switch {
	case t.Entries > l.Entries, t.Files > l.Files:
		return &EntryError{path, ErrTooManyEntries}
	case t.Bytes > l.Bytes:
		return &EntryError{path, ErrTooManyBytes}
	}
	return nil
}

// Totals counts what is beneath a directory, itself not included.
type Totals struct {
	Entries uint64 // files, directories and symlinks
	Files   uint64 // regular files
	Bytes   uint64 // plain bytes of the files
}

// add returns the sum and whether it overflowed.
func (t Totals) add(o Totals) (Totals, bool) {
	sum := Totals{t.Entries + o.Entries, t.Files + o.Files, t.Bytes + o.Bytes}
	return sum, sum.Entries < t.Entries || sum.Files < t.Files || sum.Bytes < t.Bytes
}
