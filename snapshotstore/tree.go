package snapshotstore

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Kind is what an entry of a directory is. Part of the format.
type Kind byte

const (
	Dir     Kind = 'd'
	File    Kind = 'f'
	Symlink Kind = 'l'
	// In snapshots only:
	HardLink Kind = 'h' // another name of a file that comes earlier in the walk
	Fifo     Kind = 'p'
)

// Modes of entries, the only ones a package has: who owns a file and who may
// write it are questions of the machine, not of the content.
const (
	modeFile    = 0o644
	modeExec    = 0o755
	modeDir     = 0o755
	modeSymlink = 0o777
)

const (
	kindList  = 'L'
	kindDir   = 'D'
	kindState = 'S' // the root of a snapshot

	packageVersion = 1
	stateVersion   = 2
)

// ref leads to an object and states the totals beneath it. For chunks and
// lists only Bytes is used. In the files of snapshots, a ref without an ID is
// a hole.
type ref struct {
	ID ID
	Totals
}

// entry is one name in a directory.
type entry struct {
	Kind   Kind
	Mode   uint32
	Name   string
	Target string // symlink
	Dir    ref    // directory
	Size   uint64 // file
	Level  int    // file: 0 if Refs are chunks
	Refs   []ref  // file

	meta // in snapshots only
}

// totals is what the entry adds to those of its directory.
func (e *entry) totals() Totals {
	switch e.Kind {
	case File:
		return Totals{Entries: 1, Files: 1, Bytes: e.Size}
	case Dir:
		t := e.Dir.Totals
		t.Entries++
		return t
	}
	return Totals{Entries: 1}
}

// node is a decoded tree object: a list or directory, with entries at level 0
// and refs above it, or the root of a snapshot.
type node struct {
	kind    byte
	version byte
	level   int
	state   *stateRoot
	entries []entry
	refs    []ref
	totals  Totals
}

var errTreeObject = errors.New("not a canonical tree object")

func appendNodeHeader(dst []byte, kind, version byte, level int) []byte {
	return append(dst, kind, version, byte(level))
}

func appendRef(dst []byte, kind byte, r ref) []byte {
	dst = append(dst, r.ID[:]...)
	if kind == kindDir {
		dst = binary.AppendUvarint(dst, r.Entries)
		dst = binary.AppendUvarint(dst, r.Files)
	}
	return binary.AppendUvarint(dst, r.Bytes)
}

func appendEntry(dst []byte, version byte, e *entry) []byte {
	dst = append(dst, byte(e.Kind))
	dst = binary.AppendUvarint(dst, uint64(e.Mode))
	if version == stateVersion {
		dst = appendMeta(dst, &e.meta)
	}
	dst = appendString(dst, e.Name)
	switch e.Kind {
	case Dir:
		dst = appendDirRef(dst, e.Dir)
	case File:
		dst = binary.AppendUvarint(dst, e.Size)
		dst = binary.AppendUvarint(dst, uint64(e.Level))
		dst = binary.AppendUvarint(dst, uint64(len(e.Refs)))
		for _, r := range e.Refs {
			dst = appendRef(dst, kindList, r)
		}
	case Symlink, HardLink:
		dst = appendString(dst, e.Target)
	}
	return dst
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendDirRef(dst []byte, r ref) []byte {
	dst = binary.AppendUvarint(dst, r.Entries)
	dst = binary.AppendUvarint(dst, r.Files)
	dst = binary.AppendUvarint(dst, r.Bytes)
	return append(dst, r.ID[:]...)
}

// decodeNode reads a tree object. It accepts only what the encoder writes, so
// that one content has one ID.
func decodeNode(plain []byte) (*node, error) {
	r := &reader{rest: plain}
	n := &node{kind: r.byte()}
	n.version = r.byte()
	n.level = int(r.byte())
	switch {
	case r.bad || n.kind != kindDir && n.kind != kindList && n.kind != kindState:
		return nil, errTreeObject
	case n.version != packageVersion && n.version != stateVersion:
		return nil, fmt.Errorf("tree object of version %d, this program knows %d and %d", n.version, packageVersion, stateVersion)
	case n.level > maxLevel, n.kind == kindList && n.level == 0, len(plain) > MaxObject:
		return nil, errTreeObject
	case n.kind == kindState:
		return n, n.decodeState(r)
	}
	r.version = n.version
	for len(r.rest) > 0 && !r.bad {
		n.decodeItem(r)
	}
	if r.bad || n.level > 0 && len(n.refs) == 0 {
		return nil, errTreeObject
	}
	return n, nil
}

// decodeItem reads the next entry or ref and adds its totals.
func (n *node) decodeItem(r *reader) {
	var add Totals
	if n.level > 0 {
		item := r.ref(n.kind)
		n.refs = append(n.refs, item)
		add = item.Totals
	} else {
		e := r.entry()
		if k := len(n.entries); k > 0 && n.entries[k-1].Name >= e.Name {
			r.bad = true
		}
		n.entries = append(n.entries, e)
		add = e.totals()
	}
	sum, over := n.totals.add(add)
	n.totals, r.bad = sum, r.bad || over
}

// reader takes a tree object apart. After an error bad stays set and what it
// returns is zero.
type reader struct {
	rest    []byte
	version byte // of the tree object
	bad     bool
}

func (r *reader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.rest)) {
		r.bad = true
		return nil
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

// uint reads a varint in its shortest form.
func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 || n > 1 && r.rest[n-1] == 0 {
		r.bad = true
		return 0
	}
	r.take(uint64(n))
	return v
}

func (r *reader) id() (id ID) {
	copy(id[:], r.take(uint64(len(id))))
	return id
}

func (r *reader) string() string { return string(r.take(r.uint())) }

func (r *reader) dirRef() (d ref) {
	d.Entries, d.Files, d.Bytes = r.uint(), r.uint(), r.uint()
	d.ID = r.id()
	return d
}

func (r *reader) ref(kind byte) ref {
	out := ref{ID: r.id()}
	if kind == kindDir {
		out.Entries, out.Files = r.uint(), r.uint()
	}
	out.Bytes = r.uint()
	return out
}

func (r *reader) entry() entry {
	e := entry{Kind: Kind(r.byte())}
	mode := r.uint()
	e.Mode = uint32(min(mode, 1<<31))
	if r.version == stateVersion {
		r.meta(&e.meta)
	}
	e.Name = r.string()
	if r.bad || checkName(e.Name) != nil {
		r.bad = true
		return e
	}
	if r.version == stateVersion {
		r.stateEntry(&e)
		return e
	}
	switch {
	case e.Kind == Dir && mode == modeDir:
		e.Dir = r.dirRef()
	case e.Kind == File && (mode == modeFile || mode == modeExec):
		r.file(&e)
	case e.Kind == Symlink && mode == modeSymlink:
		// Where it leads depends on the depth: whoever walks checks that.
		e.Target = r.string()
		r.bad = r.bad || checkTarget(e.Target, maxTarget) != nil
	default:
		r.bad = true
	}
	return e
}

// file reads the content of a file entry: its refs must add up to its size.
func (r *reader) file(e *entry) {
	e.Size = r.uint()
	level, n := r.uint(), r.uint()
	if r.bad || level > maxLevel || n > maxDirect || level > 0 && n == 0 {
		r.bad = true
		return
	}
	e.Level = int(level)
	var sum uint64
	for range n {
		part := r.ref(kindList)
		if part.Bytes == 0 || e.Level == 0 && part.Bytes > MaxChunk && !r.hole(part) || sum+part.Bytes < sum {
			r.bad = true
			return
		}
		sum += part.Bytes
		e.Refs = append(e.Refs, part)
	}
	r.bad = r.bad || sum != e.Size
}
