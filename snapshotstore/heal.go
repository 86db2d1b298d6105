package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

const brokenExamples = 10 // objects and paths that a BrokenTree names

// BrokenTree is a tree that is not whole here.
type BrokenTree struct {
	Root    ID
	Missing []ID     // objects that are not here, or damaged; at most 10
	Paths   []string // of files and directories that need them; at most 10, "." for the root
	Err     error    // why nobody could heal it; nil from Broken
}

func (b BrokenTree) String() string {
	s := fmt.Sprintf("tree %s: of %s at least %d objects are missing", b.Root, strings.Join(b.Paths, ", "), len(b.Missing))
	if b.Err != nil {
		s += ": " + b.Err.Error()
	}
	return s
}

// Broken says which of the trees are not whole, and what in them is affected.
// It looks at the index, and reads lists and directories: damage of chunks
// shows after Check, or after somebody read them.
func (s *Store) Broken(ctx context.Context, roots []ID) ([]BrokenTree, error) {
	var broken []BrokenTree
	for _, root := range roots {
		whole, err := s.HasTree(ctx, root)
		if err != nil {
			return broken, fmt.Errorf("look for tree %s: %w", root, err)
		}
		if whole {
			continue
		}
		f := &brokenFinder{s: s, ctx: ctx, tree: BrokenTree{Root: root}, seen: map[ID]bool{}}
		if err := f.find(rootWant(root), ".", 0); err != nil {
			return broken, fmt.Errorf("look for tree %s: %w", root, err)
		}
		broken = append(broken, f.tree)
	}
	return broken, nil
}

// Heal makes trees whole again: what Check or a read moved aside is fetched
// from the sources, verified, and good for all trees that need it. It also
// writes the store's format file anew if that was damaged since Open. healed is the number of trees
// made whole; broken are those that could not be. err is a trouble of this
// store, or of ctx. With the index of a pack damaged nothing is missing:
// Collect writes such a pack anew.
func (s *Store) Heal(ctx context.Context, roots []ID, sources []Source) (healed int, broken []BrokenTree, err error) {
	if err := s.healFormat(); err != nil {
		return 0, nil, fmt.Errorf("heal: %w", err)
	}
	damaged, err := s.Broken(ctx, roots)
	if err != nil {
		return 0, nil, fmt.Errorf("heal: %w", err)
	}
	for _, b := range damaged {
		switch b.Err = s.Fetch(ctx, b.Root, sources, nil); {
		case b.Err == nil:
			healed++
		case ctx.Err() != nil:
			return healed, append(broken, b), ctx.Err()
		default:
			broken = append(broken, b)
		}
	}
	return healed, broken, nil
}

// healFormat puts the format file right: this process could not have opened
// the store if it had said something else.
func (s *Store) healFormat() error {
	if err := s.writable(); err != nil {
		return err
	}
	path := filepath.Join(s.dir, "store")
	if have, err := os.ReadFile(path); err == nil && string(have) == formatLine {
		return nil
	}
	s.w.mu.Lock() // one at a time
	defer s.w.mu.Unlock()
	_ = s.disk.remove(path + tempSuffix)
	return writeFile(s.disk, path, []byte(formatLine))
}

// brokenFinder goes through a tree by its names.
type brokenFinder struct {
	s    *Store
	ctx  context.Context // of the one call
	tree BrokenTree
	seen map[ID]bool // directories
}

func (f *brokenFinder) full() bool {
	return len(f.tree.Missing) >= brokenExamples && len(f.tree.Paths) >= brokenExamples
}

func (f *brokenFinder) add(id ID, path string) {
	if len(f.tree.Missing) < brokenExamples && !slices.Contains(f.tree.Missing, id) {
		f.tree.Missing = append(f.tree.Missing, id)
	}
	if len(f.tree.Paths) < brokenExamples && !slices.Contains(f.tree.Paths, path) {
		f.tree.Paths = append(f.tree.Paths, path)
	}
}

// find notes what is not here of a reference that path needs.
func (f *brokenFinder) find(w want, path string, depth int) error {
	if err := f.ctx.Err(); err != nil || f.full() || w.kind == kindHole {
		return err
	}
	if w.kind == kindChunk {
		if !f.s.touch(w.ID) {
			f.add(w.ID, path)
		}
		return nil
	}
	if depth > f.s.opts.StateLimits.Depth || f.seen[w.ID] && w.kind != kindList {
		return nil
	}
	f.seen[w.ID] = true
	n, err := f.s.node(w)
	var corrupt *CorruptError
	if errors.Is(err, ErrMissing) || errors.As(err, &corrupt) {
		f.add(w.ID, path)
		return nil
	}
	if err != nil {
		return err
	}
	return f.node(n, path, depth)
}

func (f *brokenFinder) node(n *node, path string, depth int) error {
	if n.state != nil {
		return f.find(dirWant(n.version, n.state.dir), path, depth)
	}
	for _, r := range n.refs {
		if err := f.find(n.child(r), path, depth); err != nil {
			return err
		}
	}
	for i := range n.entries {
		e := &n.entries[i]
		var wants []want
		switch e.Kind {
		case Dir:
			wants = []want{dirWant(n.version, e.Dir)}
		case File:
			wants = e.wants(n.version)
		}
		for _, w := range wants {
			if err := f.find(w, join(path, e.Name), depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}
