package snapshotstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

const (
	collectSlack = 8 // a pack is written anew when at least 1/8 of it is dead,
	smallPacks   = 8 // or when it is one of at least 8 packs under 1/4 of the target size
)

// Collect removes the objects that no tree in keep leads to, except those put
// or asked for within the grace time or since a Hold began. Trees in keep need
// not be complete, but a damaged list or directory in one is an error: what
// it led to can not be known, and it should be fetched again first.
//
// Objects go with their pack, or when at least an eighth of a pack is dead;
// until then they cost room and are as good as any. bytes is the room gained
// on disk. A crash at any point loses nothing that is kept.
func (s *Store) Collect(ctx context.Context, keep []ID) (removed int, bytes int64, err error) {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	if err := s.writable(); err != nil {
		return 0, 0, err
	}
	before := s.Stats()
	s.mu.Lock()
	cut := s.clock.fence(s.opts.Grace)
	s.mu.Unlock()
	live, err := s.mark(ctx, keep)
	if err != nil {
		return 0, 0, fmt.Errorf("collect: %w", err)
	}
	c := &collect{s: s, ctx: ctx, live: live, cut: cut}
	if err := c.run(); err != nil {
		return c.removed, 0, fmt.Errorf("collect: %w", err)
	}
	return c.removed, max(before.Disk-s.Stats().Disk, 0), nil
}

// mark returns all objects that the trees lead to, as far as they are here.
func (s *Store) mark(ctx context.Context, keep []ID) (map[ID]struct{}, error) {
	live := map[ID]struct{}{}
	w := &marker{s, ctx, live, map[want]struct{}{}}
	for _, root := range keep {
		if err := w.mark(rootWant(root)); err != nil {
			return nil, err
		}
	}
	return live, nil
}

type marker struct {
	s    *Store
	ctx  context.Context // of the one call of Collect
	live map[ID]struct{}
	seen map[want]struct{} // lists and directories
}

// mark goes through a tree without a recursion that its depth could exhaust.
func (m *marker) mark(root want) error {
	stack := []want{root}
	for len(stack) > 0 {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		x := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if x.kind == kindHole {
			continue
		}
		m.live[x.ID] = struct{}{}
		if _, again := m.seen[x]; again || x.kind == kindChunk {
			continue
		}
		n, err := m.s.anyNode(x)
		var wrong *TreeError
		if errors.Is(err, ErrMissing) && !m.s.wasDamaged(x.ID) || errors.As(err, &wrong) {
			continue // not fetched yet, or never a tree: it leads nowhere
		}
		if err != nil {
			return err
		}
		m.seen[x] = struct{}{}
		stack = append(stack, n.wants()...)
	}
	return nil
}

func (s *Store) wasDamaged(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.aside[id]
	return ok
}

// collect is one call of Collect after its mark.
type collect struct {
	s       *Store
	ctx     context.Context
	live    map[ID]struct{}
	cut     uint32 // what was touched at this tick or later stays
	removed int
	emptied []uint32  // packs to remove once the copies of their objects are published
	out     *openPack // copies, under a temporary name
}

// run makes a plan and executes it. Each pack is done for itself: dead
// objects leave the index, the others are copied and synced, then the pack is
// removed. A crash in between leaves two copies, of which a later Collect
// removes one. Packs with nothing to copy go first: the disk may be full.
func (c *collect) run() error {
	plan := c.plan()
	if err := c.s.sealForCollect(plan); err != nil {
		return err
	}
	defer c.drop()
	c.s.mu.RLock()
	objects := c.s.index.byPack()
	c.s.mu.RUnlock()
	keep := map[uint32][]packEntry{}
	for _, num := range plan {
		keep[num] = c.takeDead(objects[num])
	}
	slices.SortStableFunc(plan, func(a, b uint32) int { return cmp.Compare(min(len(keep[a]), 1), min(len(keep[b]), 1)) })
	for _, num := range plan {
		if err := c.copyAll(keep[num]); err != nil {
			return err
		}
		c.emptied = append(c.emptied, num)
		if err := c.removeEmptied(); err != nil {
			return err
		}
	}
	if err := c.publish(); err != nil {
		return err
	}
	if err := c.removeEmptied(); err != nil {
		return err
	}
	return c.s.forgetAside(c.live)
}

// plan says which packs go or are written anew, oldest first.
func (c *collect) plan() []uint32 {
	s := c.s
	s.mu.RLock()
	defer s.mu.RUnlock()
	used := map[uint32]int64{}
	for id, l := range s.index.each {
		if c.keeps(id, l) {
			used[l.pack] += int64(l.length) + recordHeader + indexEntry
		}
	}
	var plan, small []uint32
	for num, p := range s.packs {
		dead := p.size - used[num] - packHeader - packTrailer
		switch {
		case p.suspect, used[num] == 0, dead > 0 && dead >= p.size/collectSlack:
			plan = append(plan, num)
		case p.size < s.packTarget/4:
			small = append(small, num)
		}
	}
	if len(small) >= smallPacks {
		plan = append(plan, small...)
	}
	slices.Sort(plan)
	return plan
}

func (c *collect) keeps(id ID, l loc) bool {
	_, ok := c.live[id]
	return ok || l.touched >= c.cut
}

// sealForCollect ends the open pack if it is in the plan.
func (s *Store) sealForCollect(plan []uint32) error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if s.w.cur != nil && slices.Contains(plan, s.w.cur.num) {
		return s.sealCurrent()
	}
	return nil
}

// takeDead removes a pack's dead objects from the index and returns the
// others. What was touched since the plan was made is not dead any more; the
// store's mutex decides between a Put that finds the object and this.
func (c *collect) takeDead(entries []packEntry) (keep []packEntry) {
	s := c.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range entries {
		switch l, ok := s.index.lookup(e.id); {
		case !ok:
		case c.keeps(e.id, l):
			keep = append(keep, e)
		default:
			s.index.remove(e.id)
			c.removed++
		}
	}
	return keep
}

// copyAll copies objects into new packs, which become visible when they are
// on disk.
func (c *collect) copyAll(keep []packEntry) error {
	for _, e := range keep {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		stored, _, err := c.s.read(e.id)
		var corrupt *CorruptError
		if errors.Is(err, ErrMissing) || errors.As(err, &corrupt) {
			continue // damaged: moved aside, and must not be copied
		}
		if err == nil {
			err = c.add(e.id, stored)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *collect) add(id ID, stored []byte) error {
	if c.out != nil && c.out.at+recordHeader+int64(len(stored)) > c.s.packTarget {
		if err := c.publish(); err != nil {
			return err
		}
	}
	if c.out == nil {
		o, err := c.s.startPack(tempSuffix)
		if err != nil {
			return err
		}
		c.out = o
	}
	_, err := c.out.add(id, stored)
	return err
}

// publish seals the new pack and lets the index point to it.
func (c *collect) publish() error {
	o, s := c.out, c.s
	if o == nil || len(o.entries) == 0 {
		return nil
	}
	if err := s.sealCopy(o); err != nil {
		return err
	}
	c.out = nil
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packs[o.num] = o.pack
	for _, e := range o.entries {
		if l, ok := s.index.lookup(e.id); ok {
			s.index.set(e.id, loc{o.num, e.offset, e.length, l.touched})
		}
	}
	return nil
}

// sealCopy seals a pack that nobody else knows yet.
func (s *Store) sealCopy(o *openPack) error {
	size, err := o.writeIndex()
	if err == nil {
		err = o.f.Sync()
	}
	if err == nil {
		err = s.disk.rename(o.path, s.packPath(o.num, ".pack"))
	}
	if err == nil {
		err = s.disk.syncDir(s.packDir)
	}
	if err != nil {
		return fmt.Errorf("seal pack: %w", err)
	}
	o.sealed, o.size = true, size
	return o.f.Close()
}

// drop removes an unfinished copy.
func (c *collect) drop() {
	if c.out != nil {
		c.out.f.Close()
		_ = c.s.disk.remove(c.out.path)
	}
}

// removeEmptied removes those of the emptied packs in which nothing is found
// any more; the others wait for publish.
func (c *collect) removeEmptied() error {
	s := c.s
	var paths []string
	s.mu.Lock()
	c.emptied = slices.DeleteFunc(c.emptied, func(num uint32) bool {
		if s.index.count[num] > 0 {
			return false
		}
		paths = append(paths, s.pathLocked(num))
		delete(s.packs, num)
		return true
	})
	s.mu.Unlock()
	if len(paths) == 0 {
		return nil
	}
	for _, path := range paths {
		if err := s.disk.remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return s.disk.syncDir(s.packDir)
}

// forgetAside removes what was kept of damaged copies when their pack is gone
// and they are here again, or not wanted.
func (s *Store) forgetAside(live map[ID]struct{}) error {
	files, err := os.ReadDir(s.asideDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		num, id, ok := parseAside(f.Name())
		s.mu.RLock()
		_, wanted := live[id]
		_, here := s.index.lookup(id)
		pack := s.packs[num] != nil
		s.mu.RUnlock()
		if !ok || pack || wanted && !here {
			continue
		}
		if err := s.disk.remove(filepath.Join(s.asideDir, f.Name())); err != nil {
			return err
		}
		s.mu.Lock()
		delete(s.aside, id)
		s.mu.Unlock()
	}
	return nil
}
