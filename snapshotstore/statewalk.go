package snapshotstore

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"time"
)

// StateEntry is one entry of a snapshot.
type StateEntry struct {
	Path     string // relative to the root, "." for the root itself
	Kind     Kind
	Mode     uint32 // permissions with set-uid, set-gid and sticky, as chmod(2) has them
	UID, GID uint32
	Time     time.Time // of the last modification
	Size     uint64    // of a file, with its holes
	Target   string    // of a symlink: as it is; of a hard link: the path of the file
	Xattrs   []Xattr
}

func stateEntryOf(path string, e *entry) StateEntry {
	return StateEntry{path, e.Kind, e.Mode, e.UID, e.GID, time.Unix(e.Time.sec, int64(e.Time.nsec)), e.Size, e.Target, e.Xattrs}
}

// WalkState calls each for all entries of a snapshot, a directory before what
// is beneath it, names in ascending order of their bytes. fs.SkipDir and
// fs.SkipAll mean what they mean to fs.WalkDir.
func (s *Store) WalkState(ctx context.Context, root ID, each func(StateEntry) error) error {
	n, err := s.node(stateWant(root))
	if err == nil {
		top := n.state.entry()
		err = s.walkEntry(ctx, ".", &top, 0, func(path string, e *entry) error { return each(stateEntryOf(path, e)) })
	}
	if err != nil && err != fs.SkipAll {
		return fmt.Errorf("walk snapshot %s: %w", root, err)
	}
	return nil
}

// entry is the root directory as an entry without a name.
func (s *stateRoot) entry() entry {
	return entry{Kind: Dir, Mode: s.mode, meta: s.meta, Dir: s.dir}
}

func (s *Store) walkEntry(ctx context.Context, path string, e *entry, depth int, each func(string, *entry) error) error {
	if depth > s.opts.StateLimits.Depth || len(path) > s.opts.StateLimits.Path {
		return &EntryError{path, ErrTooDeep}
	}
	err := each(path, e)
	if e.Kind != Dir || err != nil {
		if err == fs.SkipDir && e.Kind == Dir {
			err = nil
		}
		return err
	}
	for sub, err := range s.entries(ctx, dirWant(stateVersion, e.Dir)) {
		if err == nil {
			err = s.walkEntry(ctx, join(path, sub.Name), sub, depth+1, each)
		}
		if err == fs.SkipDir {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// entries lists a directory of a snapshot in order, one part of it in memory
// at a time. After an error nothing more comes.
func (s *Store) entries(ctx context.Context, w want) iter.Seq2[*entry, error] {
	return func(yield func(*entry, error) bool) {
		last := ""
		s.eachEntry(ctx, w, func(e *entry, err error) bool {
			if err == nil && e.Name <= last {
				yield(nil, fmt.Errorf("%w: %q out of order", ErrBadName, e.Name))
				return false
			}
			if err == nil {
				last = e.Name
			}
			return yield(e, err) && err == nil
		})
	}
}

// eachEntry reports whether it went to the end.
func (s *Store) eachEntry(ctx context.Context, w want, yield func(*entry, error) bool) bool {
	err := ctx.Err()
	var n *node
	if err == nil {
		n, err = s.node(w)
	}
	if err != nil {
		yield(nil, err)
		return false
	}
	for i := range n.entries {
		if !yield(&n.entries[i], nil) {
			return false
		}
	}
	for _, r := range n.refs {
		if !s.eachEntry(ctx, n.child(r), yield) {
			return false
		}
	}
	return true
}

// leaf is a chunk or a hole of a file, and where in the file it is.
type leaf struct {
	ref
	at uint64
}

// leaves lists what a file consists of, in order. After an error nothing more comes.
func (s *Store) leaves(ctx context.Context, e *entry) iter.Seq2[leaf, error] {
	return func(yield func(leaf, error) bool) {
		var at uint64
		for _, w := range e.wants(stateVersion) {
			if !s.eachLeaf(ctx, w, &at, yield) {
				return
			}
		}
	}
}

func (s *Store) eachLeaf(ctx context.Context, w want, at *uint64, yield func(leaf, error) bool) bool {
	if w.kind == kindChunk || w.kind == kindHole {
		l := leaf{w.ref, *at}
		*at += w.Bytes
		return yield(l, nil)
	}
	err := ctx.Err()
	var n *node
	if err == nil {
		n, err = s.node(w)
	}
	if err != nil {
		yield(leaf{}, err)
		return false
	}
	for _, r := range n.refs {
		if !s.eachLeaf(ctx, n.child(r), at, yield) {
			return false
		}
	}
	return true
}

// chunk returns the bytes of a leaf that is no hole.
func (s *Store) chunk(l leaf) ([]byte, error) {
	plain, err := s.Get(l.ID)
	if err == nil && uint64(len(plain)) != l.Bytes {
		err = &TreeError{l.ID, fmt.Sprintf("%d bytes where %d are expected", len(plain), l.Bytes)}
	}
	return plain, err
}
