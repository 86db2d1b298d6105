package snapshotstore

import (
	"encoding/binary"
	"strings"
)

const (
	holeGrain   = 64 << 10 // holes begin and end at multiples of it
	maxXattrs   = 64 << 10 // bytes of all extended attributes of an entry, names and values
	maxLinkPath = 64 << 10 // bytes of a hard link's path
	modeBits    = 0o7777
)

// meta is what snapshots know of an entry beyond its content. The mode is in
// the entry.
type meta struct {
	UID, GID uint32
	Time     fileTime
	Xattrs   []Xattr // by name, ascending
}

// fileTime is a moment as the kernel has it: seconds since 1970 and
// nanoseconds.
type fileTime struct {
	sec  int64
	nsec uint32
}

// before reports whether t is earlier than o.
func (t fileTime) before(o fileTime) bool {
	return t.sec < o.sec || t.sec == o.sec && t.nsec < o.nsec
}

// Xattr is an extended attribute.
type Xattr struct{ Name, Value string }

// keptXattr says which attributes are state: those of programs, and access
// control lists. Others belong to the machine.
func keptXattr(name string) bool {
	return len(name) <= maxName && strings.HasPrefix(name, "user.") && len(name) > len("user.") && !strings.Contains(name, "\x00") ||
		name == "system.posix_acl_access" || name == "system.posix_acl_default"
}

func xattrBytes(xs []Xattr) (n int) {
	for _, x := range xs {
		n += len(x.Name) + len(x.Value)
	}
	return n
}

func appendTime(dst []byte, t fileTime) []byte {
	return binary.AppendUvarint(binary.AppendVarint(dst, t.sec), uint64(t.nsec))
}

func appendMeta(dst []byte, m *meta) []byte {
	dst = binary.AppendUvarint(dst, uint64(m.UID))
	dst = binary.AppendUvarint(dst, uint64(m.GID))
	dst = appendTime(dst, m.Time)
	dst = binary.AppendUvarint(dst, uint64(len(m.Xattrs)))
	for _, x := range m.Xattrs {
		dst = appendString(appendString(dst, x.Name), x.Value)
	}
	return dst
}

// uint32 reads a number that must fit.
func (r *reader) uint32() uint32 {
	v := r.uint()
	r.bad = r.bad || v > 1<<32-1
	return uint32(v)
}

func (r *reader) time() fileTime {
	v := r.uint()
	t := fileTime{sec: int64(v>>1) ^ -int64(v&1), nsec: r.uint32()}
	r.bad = r.bad || t.nsec >= 1e9
	return t
}

func (r *reader) meta(m *meta) {
	m.UID, m.GID, m.Time = r.uint32(), r.uint32(), r.time()
	last := ""
	for range min(r.uint(), uint64(len(r.rest))) {
		x := Xattr{r.string(), r.string()}
		if r.bad || x.Name <= last || !keptXattr(x.Name) {
			r.bad = true
			return
		}
		last = x.Name
		m.Xattrs = append(m.Xattrs, x)
	}
	r.bad = r.bad || xattrBytes(m.Xattrs) > maxXattrs
}

// stateEntry reads what follows the name in a snapshot.
func (r *reader) stateEntry(e *entry) {
	r.bad = r.bad || e.Mode > modeBits
	switch e.Kind {
	case Dir:
		e.Dir = r.dirRef()
	case File:
		r.file(e)
	case Symlink:
		e.Target = r.string()
		r.bad = r.bad || !goodText(e.Target, maxTarget)
	case HardLink:
		e.Target = r.string()
		r.bad = r.bad || !goodPath(e.Target)
	case Fifo:
	default:
		r.bad = true
	}
}

// goodText is what the kernel takes as a symlink's target. In snapshots it is
// text that nobody here follows.
func goodText(s string, most int) bool {
	return s != "" && len(s) <= most && !strings.Contains(s, "\x00")
}

// goodPath is a path relative to the root, of good names.
func goodPath(p string) bool {
	if len(p) > maxLinkPath {
		return false
	}
	for name := range strings.SplitSeq(p, "/") {
		if checkName(name) != nil {
			return false
		}
	}
	return true
}

// hole reports whether a ref is one: only snapshots have them.
func (r *reader) hole(part ref) bool { return r.version == stateVersion && part.ID.IsZero() }

// stateRoot is the root object of a snapshot.
type stateRoot struct {
	content ID // see StateInfo.Content
	mode    uint32
	meta
	dir ref
}

func appendState(dst []byte, s *stateRoot) []byte {
	dst = appendNodeHeader(dst, kindState, stateVersion, 0)
	dst = append(dst, s.content[:]...)
	dst = binary.AppendUvarint(dst, uint64(s.mode))
	return appendDirRef(appendMeta(dst, &s.meta), s.dir)
}

func (n *node) decodeState(r *reader) error {
	s := &stateRoot{content: r.id()}
	s.mode = r.uint32()
	r.meta(&s.meta)
	s.dir = r.dirRef()
	if r.bad || len(r.rest) > 0 || n.level != 0 || n.version != stateVersion || s.mode > modeBits {
		return errTreeObject
	}
	n.state, n.totals = s, s.dir.Totals
	return nil
}

// appendContent is an entry without what rewriting the same content changes:
// its time, and for a directory the times beneath it. dir is the content of
// that directory.
func appendContent(dst []byte, e *entry, dir ID) []byte {
	same := *e
	same.Time = fileTime{}
	same.Dir.ID = dir
	return appendEntry(dst, stateVersion, &same)
}
