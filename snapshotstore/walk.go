package snapshotstore

import (
	"context"
	"errors"
	"slices"
)

// Kinds of want that are no kinds of tree object.
const (
	kindChunk = 'C'
	kindHole  = 'H'
	kindRoot  = 'R' // a directory of a package, or the root of a snapshot
	anyLevel  = -1
)

// want is one reference to an object and what the object must be.
type want struct {
	ref
	kind    byte // kindChunk, kindHole, kindList, kindDir, kindState or kindRoot
	version byte // of a tree object; any for kindRoot
	level   int  // of a list or directory; anyLevel for the top of a directory
	root    bool // totals are not known before it is read
}

// rootWant is the root of any tree.
func rootWant(root ID) want {
	return want{ref: ref{ID: root}, kind: kindRoot, level: anyLevel, root: true}
}

// packageWant is the root of a package's tree.
func packageWant(root ID) want {
	return want{ref: ref{ID: root}, kind: kindDir, version: packageVersion, level: anyLevel, root: true}
}

// stateWant is the root of a snapshot.
func stateWant(root ID) want {
	return want{ref: ref{ID: root}, kind: kindState, version: stateVersion, level: anyLevel, root: true}
}

// dirWant is the directory that an entry, or a snapshot's root, leads to.
func dirWant(version byte, dir ref) want {
	return want{ref: dir, kind: kindDir, version: version, level: anyLevel}
}

// fits reports whether n can stand where w leads to.
func (w want) fits(n *node) bool {
	if w.kind == kindRoot {
		return n.kind == kindState || n.kind == kindDir && n.version == packageVersion
	}
	return n.kind == w.kind && n.version == w.version && (w.level == anyLevel || n.level == w.level)
}

// wants are the references that a node holds.
func (n *node) wants() []want {
	var out []want
	if n.state != nil {
		return []want{dirWant(stateVersion, n.state.dir)}
	}
	for _, r := range n.refs {
		out = append(out, n.child(r))
	}
	for i := range n.entries {
		e := &n.entries[i]
		switch e.Kind {
		case Dir:
			out = append(out, dirWant(n.version, e.Dir))
		case File:
			out = append(out, e.wants(n.version)...)
		}
	}
	return out
}

// wants are the references of a file entry in a directory of that version.
func (e *entry) wants(version byte) []want {
	holder := node{kind: kindList, version: version, level: e.Level + 1}
	var out []want
	for _, r := range e.Refs {
		out = append(out, holder.child(r))
	}
	return out
}

// child is the reference r that n holds.
func (n *node) child(r ref) want {
	switch {
	case n.kind == kindList && n.version == stateVersion && r.ID.IsZero():
		return want{ref: r, kind: kindHole}
	case n.kind == kindList && n.level == 1:
		return want{ref: r, kind: kindChunk}
	}
	return want{ref: r, kind: n.kind, version: n.version, level: n.level - 1}
}

// node reads a list or directory and checks that it is what w says, and that
// a root is within the store's limits.
func (s *Store) node(w want) (*node, error) {
	n, err := s.anyNode(w)
	if err == nil && w.root {
		err = s.limits(n.version).check(n.totals, ".")
	}
	return n, err
}

// limits of trees of that version.
func (s *Store) limits(version byte) Limits {
	if version == stateVersion {
		return s.opts.StateLimits
	}
	return s.opts.Limits
}

// anyNode is node without limits.
func (s *Store) anyNode(w want) (*node, error) {
	plain, err := s.Get(w.ID)
	if err != nil {
		return nil, err
	}
	n, err := decodeNode(plain)
	if err != nil {
		return nil, &TreeError{w.ID, err.Error()}
	}
	switch {
	case !w.fits(n):
		return nil, &TreeError{w.ID, "not of the kind that leads to it"}
	case !w.root && n.totals != w.Totals:
		return nil, &TreeError{w.ID, "totals are not those that lead to it"}
	case w.level != anyLevel && n.totals == Totals{}:
		return nil, &TreeError{w.ID, "an empty part"}
	}
	return n, nil
}

// walker goes through the objects of trees, each list and directory once.
// What is not here it hands out, to be put back when it is.
type walker struct {
	s     *Store
	stack []want
	seen  map[want]struct{} // lists and directories
	done  uint64            // plain bytes of file content found here
	near  *nearby           // told of each list and directory; may be nil
}

func (s *Store) walk(roots ...ID) *walker {
	w := &walker{s: s, seen: map[want]struct{}{}}
	for _, id := range slices.Backward(roots) {
		w.stack = append(w.stack, rootWant(id))
	}
	return w
}

// next goes on until limit objects are found missing or all has been seen.
func (w *walker) next(ctx context.Context, limit int) ([]want, error) {
	var out []want
	for len(w.stack) > 0 && len(out) < limit {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		top := w.stack[len(w.stack)-1]
		w.stack = w.stack[:len(w.stack)-1]
		here, err := w.visit(top)
		if err != nil {
			return nil, err
		}
		if !here {
			out = append(out, top)
		}
	}
	return out, nil
}

// visit looks at one object and pushes what it leads to.
func (w *walker) visit(x want) (here bool, err error) {
	if x.kind == kindHole {
		w.done += x.Bytes
		return true, nil
	}
	if x.kind == kindChunk {
		here = w.s.touch(x.ID)
		if here {
			w.done += x.Bytes
			w.near.forget(x.ID)
		}
		return here, nil
	}
	if _, again := w.seen[x]; again {
		w.done += x.Bytes
		w.near.forget(x.ID)
		return true, nil
	}
	if !w.s.touch(x.ID) {
		return false, nil
	}
	n, err := w.s.node(x)
	var corrupt *CorruptError
	if errors.Is(err, ErrMissing) || errors.As(err, &corrupt) {
		return false, nil // a damaged object has just been moved aside
	}
	if err != nil {
		return false, err
	}
	w.seen[x] = struct{}{}
	w.near.visit(x.ID, n)
	w.stack = append(w.stack, n.wants()...)
	return true, nil
}

// HasTree reports whether every object of a tree is here. It looks at the
// index, and reads the tree's lists and directories.
func (s *Store) HasTree(ctx context.Context, root ID) (bool, error) {
	missing, err := s.walk(root).next(ctx, 1)
	return err == nil && len(missing) == 0, err
}

// Missing returns up to limit objects of a tree that are not here (0 or less:
// 1,000). What missing objects lead to shows when they are here: put them and
// ask again, until there are none.
func (s *Store) Missing(ctx context.Context, root ID, limit int) ([]ID, error) {
	if limit <= 0 {
		limit = 1000
	}
	var ids []ID
	given := map[ID]bool{}
	for w := s.walk(root); len(ids) < limit; {
		wants, err := w.next(ctx, limit-len(ids))
		if err != nil || len(wants) == 0 {
			return ids, err
		}
		for _, x := range wants {
			if !given[x.ID] {
				given[x.ID] = true
				ids = append(ids, x.ID)
			}
		}
	}
	return ids, nil
}

// Info returns what a tree's root object says of it, which must be here.
func (s *Store) Info(root ID) (TreeInfo, error) {
	n, err := s.node(rootWant(root))
	if err != nil {
		return TreeInfo{}, err
	}
	return TreeInfo{Root: root, Totals: n.totals}, nil
}
