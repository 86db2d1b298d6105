package snapshotstore

import (
	"slices"
	"sync"
)

// nearby guesses which objects here resemble those of a tree that is coming:
// what stands, in an older tree, where they stand. It goes down both trees at
// once, so that it needs no paths: the children of an object are compared with
// those of the objects that it resembles. A wrong guess costs bytes only.
type nearby struct {
	s *Store
	// bases of objects that are not in the older tree, met and not visited
	// yet. At most one for each reference that the walker holds.
	bases map[ID][]ID
}

// latest remembers the last root of each state that has a name, as long as
// the store is open.
type latest struct {
	mu    sync.Mutex
	roots map[string]ID // at most maxLatest
}

const maxLatest = 4096

func (l *latest) of(name string) []ID {
	l.mu.Lock()
	defer l.mu.Unlock()
	if root, ok := l.roots[name]; ok {
		return []ID{root}
	}
	return nil
}

func (l *latest) set(name string, root ID) {
	if name == "" {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.roots == nil {
		l.roots = map[string]ID{}
	}
	for other := range l.roots { // any: it costs bytes to have forgotten, nothing else
		if len(l.roots) < maxLatest {
			break
		}
		delete(l.roots, other)
	}
	l.roots[name] = root
}

func newNearby(s *Store, root ID, older []ID) *nearby {
	n := &nearby{s, map[ID][]ID{}}
	for _, id := range older {
		if id != root && s.touch(id) {
			n.bases[root] = []ID{id}
			break
		}
	}
	return n
}

// forget is called when an object is here.
func (b *nearby) forget(id ID) {
	if b != nil {
		delete(b.bases, id)
	}
}

// visit notes bases for what a node leads to.
func (b *nearby) visit(id ID, n *node) {
	if b == nil {
		return
	}
	olds, lower := b.olds(id, n)
	switch {
	case len(olds) > 0 && n.state != nil:
		b.note([]ref{n.state.dir}, []ref{olds[0].state.dir}, ofTrees)
	case len(olds) > 0 && n.level == 0:
		b.entries(n, olds)
	case len(olds) > 0:
		var refs []ref
		for _, o := range olds {
			refs = append(refs, o.refs...)
		}
		how := ofTrees
		if n.kind == kindList {
			how = ofFiles(n.level - 1)
		}
		b.note(n.refs, refs, how)
	}
	b.noteLower(n.refs, lower)
}

// maxOlds bounds the objects of the older tree that are read to be compared
// with one of the new.
const maxOlds = 4 * maxBases

// olds reads what an object resembles and forgets about it. Where a directory
// or list is split depends on its content, so the older one may have more levels,
// of which those above are left out, or fewer: lower then are for the children.
func (b *nearby) olds(id ID, n *node) (olds []*node, lower []ID) {
	bases := b.bases[id]
	delete(b.bases, id)
	for i := 0; i < len(bases) && i < maxOlds; i++ {
		o := b.read(bases[i])
		switch {
		case o == nil || o.kind != n.kind || o.version != n.version:
		case o.level > n.level:
			bases = append(slices.Clip(bases), idsOfRefs(o.refs)...)
		case o.level < n.level:
			lower = append(lower, bases[i])
		default:
			olds = append(olds, o)
		}
	}
	return olds, lower
}

// read returns a list or directory that is here, or nil.
func (b *nearby) read(id ID) *node {
	plain, err := b.s.Get(id)
	if err != nil {
		return nil
	}
	n, err := decodeNode(plain)
	if err != nil {
		return nil
	}
	return n
}

func idsOfRefs(refs []ref) []ID {
	var ids []ID
	for _, r := range refs {
		if !r.ID.IsZero() {
			ids = append(ids, r.ID)
		}
	}
	return ids
}

// noteLower adds bases of a lower level to those of all refs.
func (b *nearby) noteLower(refs []ref, lower []ID) {
	if len(lower) == 0 {
		return
	}
	for _, id := range idsOfRefs(refs) {
		all := append(slices.Clip(b.bases[id]), lower...)
		b.bases[id] = all[:min(len(all), maxBases)]
	}
}

// entries compares names.
func (b *nearby) entries(n *node, olds []*node) {
	had := map[string]*entry{}
	for _, o := range olds {
		for i := range o.entries {
			had[o.entries[i].Name] = &o.entries[i]
		}
	}
	for i := range n.entries {
		e := &n.entries[i]
		switch o := had[e.Name]; {
		case o == nil || o.Kind != e.Kind:
		case e.Kind == Dir:
			b.note([]ref{e.Dir}, []ref{o.Dir}, ofTrees)
		case e.Kind == File:
			b.file(e, o)
		}
	}
}

// file compares what two files consist of. Chunks that the older entry has
// itself are of no use to the lists of one that has become larger.
func (b *nearby) file(e, o *entry) {
	refs, level := o.Refs, o.Level
	for ; level > e.Level; level-- {
		var below []ref
		for _, r := range refs[:min(len(refs), maxOlds)] {
			if n := b.read(r.ID); n != nil && n.kind == kindList && n.level == level {
				below = append(below, n.refs...)
			}
		}
		refs = below
	}
	switch {
	case level == e.Level:
		b.note(e.Refs, refs, ofFiles(level))
	case level > 0:
		b.noteLower(e.Refs, idsOfRefs(refs))
	}
}

// places say how sequences of references are compared.
type places struct {
	weight func(ref) uint64
	slack  int // neighbours to take as well
	most   int // that one way of counting may give
}

// Lists and directories are small, and what is not found in them has no bases:
// for these more are taken than for chunks.
var ofTrees = places{func(r ref) uint64 { return r.Entries + 1 }, 1, maxBases / 2}

// ofFiles is for lists of that level; 0 is for chunks.
func ofFiles(level int) places {
	weight := func(r ref) uint64 { return r.Bytes }
	if level > 0 {
		return places{weight, 1, maxBases / 2}
	}
	return places{weight, 0, maxBases / 4}
}

// note keeps the bases that align finds.
func (b *nearby) note(refs, old []ref, how places) {
	align(refs, old, how, func(i int, bases []ID) {
		if id := refs[i].ID; !id.IsZero() && len(bases) > 0 {
			b.bases[id] = bases
		}
	})
}

// align compares two sequences of references, and calls found for each of
// refs that is not in old with those of old that cover the same place. What
// both have once in old are anchors: between two of them places are counted from the
// one before, from the one after, and in proportion.
func align(refs, old []ref, how places, found func(i int, bases []ID)) {
	if len(old) == 0 {
		return
	}
	at := positions(old)
	anchor := func(i int) (int, bool) {
		p, ok := at[refs[i].ID]
		return p, ok && p >= 0
	}
	ends := sums(old, how.weight)
	for i := 0; i < len(refs); i++ {
		if _, ok := anchor(i); ok {
			continue
		}
		run := span{old: old, ends: ends, places: how, hi: len(old)}
		if i > 0 {
			run.lo, _ = anchor(i - 1)
			run.lo++
			run.after = true
		}
		j := i + 1
		for ; j < len(refs); j++ {
			if p, ok := anchor(j); ok {
				run.hi, run.before = p, true
				break
			}
		}
		run.bases(sums(refs[i:j], how.weight), func(k int, bases []ID) { found(i+k, bases) })
		i = j
	}
}

// positions says where each reference is; -1 where it is more than once, or
// a hole.
func positions(old []ref) map[ID]int {
	at := make(map[ID]int, len(old))
	for i, r := range old {
		if _, again := at[r.ID]; again || r.ID.IsZero() {
			i = -1
		}
		at[r.ID] = i
	}
	return at
}

// sums returns where each reference begins, and where the last ends.
func sums(refs []ref, weight func(ref) uint64) []uint64 {
	out := make([]uint64, len(refs)+1)
	for i, r := range refs {
		out[i+1] = out[i] + weight(r)
	}
	return out
}

// span is old[lo:hi], which a run of new references has replaced. Where
// something has moved hi may lie before lo: then it says where the two ends
// are, but nothing of what is between.
type span struct {
	old           []ref
	ends          []uint64
	lo, hi        int
	after, before bool // lo, hi are where an anchor is
	places
}

// bases calls found for each of a run of new references; at are where they
// begin, and where the last ends.
func (s span) bases(at []uint64, found func(int, []ID)) {
	total := at[len(at)-1]
	front, back := s, s
	if s.lo > s.hi {
		front.hi, back.lo = len(s.old), 0
	}
	lo, hi := s.ends[s.lo], s.ends[s.hi]
	for k, a := range at[:len(at)-1] {
		b := at[k+1]
		var near []int
		if s.after == s.before && s.lo < s.hi {
			scale := float64(hi-lo) / float64(total)
			near = s.cover(near, lo+uint64(float64(a)*scale), lo+uint64(float64(b)*scale))
		}
		if s.after || !s.before {
			near = front.cover(near, lo+a, lo+b)
		}
		if s.before || !s.after {
			near = back.cover(near, hi-min(hi, total-a), hi-min(hi, total-b))
		}
		found(k, s.ids(near))
	}
}

// cover adds what lies between from and to.
func (s span) cover(near []int, from, to uint64) []int {
	most := min(len(near)+s.most, maxBases)
	first, _ := slices.BinarySearch(s.ends, from+1)
	last, _ := slices.BinarySearch(s.ends, to)
	for i := max(first-1-s.slack, s.lo); i < min(last+s.slack, s.hi) && len(near) < most; i++ {
		if !slices.Contains(near, i) {
			near = append(near, i)
		}
	}
	return near
}

// ids are those of some places, in order: what they lead to will be compared
// as one sequence.
func (s span) ids(near []int) []ID {
	slices.Sort(near)
	var ids []ID
	for _, i := range near {
		if id := s.old[i].ID; !id.IsZero() && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}
