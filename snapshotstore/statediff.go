package snapshotstore

import (
	"context"
	"fmt"
	"io/fs"
	"iter"
	"slices"
)

// Change is a path in which two snapshots differ.
type Change struct {
	Path string
	// Old is nil where the path was added, New where it was removed. Both are
	// there where it is of the same kind with other content or metadata.
	Old, New *StateEntry
}

// DiffState calls each for all paths in which snapshot b differs from a, in
// the order of WalkState. A directory that is only in one of them is followed
// by all that is in it; one whose kind changed is removed and added. Times
// alone are no difference. Subtrees with the same ID are not read.
// each may return fs.SkipAll to end it.
func (s *Store) DiffState(ctx context.Context, a, b ID, each func(Change) error) error {
	d := &differ{s: s, ctx: ctx, each: each}
	err := d.roots(a, b)
	if err != nil && err != fs.SkipAll {
		return fmt.Errorf("compare snapshots %s and %s: %w", a, b, err)
	}
	return nil
}

type differ struct {
	s    *Store
	ctx  context.Context // of the one call of DiffState
	each func(Change) error
}

func (d *differ) roots(a, b ID) error {
	if a == b {
		return nil
	}
	an, err := d.s.node(stateWant(a))
	if err != nil {
		return err
	}
	bn, err := d.s.node(stateWant(b))
	if err != nil {
		return err
	}
	if an.state.content == bn.state.content {
		return nil
	}
	old, now := an.state.entry(), bn.state.entry()
	return d.both(".", &old, &now, 0)
}

// both compares two entries of the same name.
func (d *differ) both(path string, a, b *entry, depth int) error {
	if a.Kind != b.Kind {
		if err := d.one(path, a, nil, depth); err != nil {
			return err
		}
		return d.one(path, nil, b, depth)
	}
	if !sameEntry(a, b) {
		old, now := stateEntryOf(path, a), stateEntryOf(path, b)
		if err := d.each(Change{path, &old, &now}); err != nil {
			return err
		}
	}
	if a.Kind != Dir || a.Dir.ID == b.Dir.ID {
		return nil
	}
	return d.dirs(path, a.Dir, b.Dir, depth)
}

// sameEntry compares entries without their times, and directories without
// what is in them.
func sameEntry(a, b *entry) bool {
	return a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && slices.Equal(a.Xattrs, b.Xattrs) &&
		a.Target == b.Target && sameRefs(a, b)
}

// dirs goes through two directories side by side.
func (d *differ) dirs(path string, a, b ref, depth int) error {
	if depth > d.s.opts.StateLimits.Depth {
		return &EntryError{path, ErrTooDeep}
	}
	nextA, stopA := iter.Pull2(d.s.entries(d.ctx, dirWant(stateVersion, a)))
	defer stopA()
	nextB, stopB := iter.Pull2(d.s.entries(d.ctx, dirWant(stateVersion, b)))
	defer stopB()
	old, errA, okA := nextA()
	now, errB, okB := nextB()
	for okA || okB {
		if errA != nil {
			return errA
		}
		if errB != nil {
			return errB
		}
		var err error
		switch {
		case !okB || okA && old.Name < now.Name:
			err = d.one(join(path, old.Name), old, nil, depth+1)
			old, errA, okA = nextA()
		case !okA || now.Name < old.Name:
			err = d.one(join(path, now.Name), nil, now, depth+1)
			now, errB, okB = nextB()
		default:
			err = d.both(join(path, old.Name), old, now, depth+1)
			old, errA, okA = nextA()
			now, errB, okB = nextB()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// one reports an entry that only one of the snapshots has, and what is beneath it.
func (d *differ) one(path string, old, now *entry, depth int) error {
	e := old
	if e == nil {
		e = now
	}
	return d.s.walkEntry(d.ctx, path, e, depth, func(path string, sub *entry) error {
		x := stateEntryOf(path, sub)
		if old != nil {
			return d.each(Change{Path: path, Old: &x})
		}
		return d.each(Change{Path: path, New: &x})
	})
}
