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
	treeVersion = 1
	kindList    = 'L'
	kindDir     = 'D'
)

// ref leads to an object and states the totals beneath it. For chunks and
// lists only Bytes is used.
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

// node is a decoded list or directory: entries at level 0, refs above it.
type node struct {
	kind    byte
	level   int
	entries []entry
	refs    []ref
	totals  Totals
}

var errTreeObject = errors.New("not a canonical tree object")

func appendNodeHeader(dst []byte, kind byte, level int) []byte {
	return append(dst, kind, treeVersion, byte(level))
}

func appendRef(dst []byte, kind byte, r ref) []byte {
	dst = append(dst, r.ID[:]...)
	if kind == kindDir {
		dst = binary.AppendUvarint(dst, r.Entries)
		dst = binary.AppendUvarint(dst, r.Files)
	}
	return binary.AppendUvarint(dst, r.Bytes)
}

func appendEntry(dst []byte, e *entry) []byte {
	dst = append(dst, byte(e.Kind))
	dst = binary.AppendUvarint(dst, uint64(e.Mode))
	dst = binary.AppendUvarint(dst, uint64(len(e.Name)))
	dst = append(dst, e.Name...)
	switch e.Kind {
	case Dir:
		dst = binary.AppendUvarint(dst, e.Dir.Entries)
		dst = binary.AppendUvarint(dst, e.Dir.Files)
		dst = binary.AppendUvarint(dst, e.Dir.Bytes)
		dst = append(dst, e.Dir.ID[:]...)
	case File:
		dst = binary.AppendUvarint(dst, e.Size)
		dst = binary.AppendUvarint(dst, uint64(e.Level))
		dst = binary.AppendUvarint(dst, uint64(len(e.Refs)))
		for _, r := range e.Refs {
			dst = appendRef(dst, kindList, r)
		}
	case Symlink:
		dst = binary.AppendUvarint(dst, uint64(len(e.Target)))
		dst = append(dst, e.Target...)
	}
	return dst
}

// decodeNode reads a list or a directory. It accepts only what the encoder
// writes, so that one content has one ID.
func decodeNode(plain []byte) (*node, error) {
	r := &reader{rest: plain}
	n := &node{kind: r.byte()}
	version := r.byte()
	n.level = int(r.byte())
	switch {
	case r.bad || n.kind != kindDir && n.kind != kindList:
		return nil, errTreeObject
	case version != treeVersion:
		return nil, fmt.Errorf("tree object of version %d, this program knows %d", version, treeVersion)
	case n.level > maxLevel, n.kind == kindList && n.level == 0, len(plain) > MaxObject:
		return nil, errTreeObject
	}
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
	rest []byte
	bad  bool
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
	e.Name = string(r.take(r.uint()))
	if r.bad || checkName(e.Name) != nil {
		r.bad = true
		return e
	}
	switch {
	case e.Kind == Dir && mode == modeDir:
		e.Dir.Entries, e.Dir.Files, e.Dir.Bytes = r.uint(), r.uint(), r.uint()
		e.Dir.ID = r.id()
	case e.Kind == File && (mode == modeFile || mode == modeExec):
		r.file(&e)
	case e.Kind == Symlink && mode == modeSymlink:
		// Where it leads depends on the depth: whoever walks checks that.
		e.Target = string(r.take(r.uint()))
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
		if part.Bytes == 0 || e.Level == 0 && part.Bytes > MaxChunk || sum+part.Bytes < sum {
			r.bad = true
			return
		}
		sum += part.Bytes
		e.Refs = append(e.Refs, part)
	}
	r.bad = r.bad || sum != e.Size
}
