package snapshotstore

import (
	"cmp"
	"slices"
	"sync/atomic"
)

// loc is where a stored object is.
type loc struct {
	pack   uint32
	offset uint32 // of the stored bytes in the pack
	length uint32
	// touched is when somebody last put the object or was told that it is
	// here, on the clock of clock.go. Atomic, because readers note it.
	touched uint32
}

// index finds objects. The store's mutex guards it: shared for lookup and
// touch, exclusive for the rest. About 70 bytes of memory an object.
type index struct {
	at   map[ID]uint32 // position in locs
	locs []loc
	free []uint32 // positions in locs to use again
	// count is the number of objects found in each pack.
	count map[uint32]int
}

func newIndex() *index { return &index{at: map[ID]uint32{}, count: map[uint32]int{}} }

func (x *index) lookup(id ID) (loc, bool) {
	i, ok := x.at[id]
	if !ok {
		return loc{}, false
	}
	return x.load(i), true
}

// load copies a loc that others may be touching.
func (x *index) load(i uint32) loc {
	l := &x.locs[i]
	return loc{l.pack, l.offset, l.length, atomic.LoadUint32(&l.touched)}
}

// touch notes that id was asked for at tick and reports whether it is here.
func (x *index) touch(id ID, tick uint32) bool {
	i, ok := x.at[id]
	if !ok {
		return false
	}
	p := &x.locs[i].touched
	for {
		old := atomic.LoadUint32(p)
		if old >= tick || atomic.CompareAndSwapUint32(p, old, tick) {
			return true
		}
	}
}

// set adds an object or moves it; touched never goes back.
func (x *index) set(id ID, l loc) {
	x.count[l.pack]++
	if i, ok := x.at[id]; ok {
		x.uncount(x.locs[i].pack)
		l.touched = max(l.touched, x.locs[i].touched)
		x.locs[i] = l
		return
	}
	var i uint32
	if n := len(x.free); n > 0 {
		i, x.free = x.free[n-1], x.free[:n-1]
		x.locs[i] = l
	} else {
		i = uint32(len(x.locs))
		x.locs = append(x.locs, l)
	}
	x.at[id] = i
}

func (x *index) remove(id ID) {
	if i, ok := x.at[id]; ok {
		x.uncount(x.locs[i].pack)
		x.free = append(x.free, i)
		delete(x.at, id)
	}
}

func (x *index) uncount(pack uint32) {
	if x.count[pack]--; x.count[pack] == 0 {
		delete(x.count, pack)
	}
}

// byPack lists the objects of each pack in the order they have there.
func (x *index) byPack() map[uint32][]packEntry {
	packs := make(map[uint32][]packEntry, len(x.count))
	for num, n := range x.count {
		packs[num] = make([]packEntry, 0, n)
	}
	for id, l := range x.each {
		packs[l.pack] = append(packs[l.pack], packEntry{id, l.offset, l.length})
	}
	for _, entries := range packs {
		slices.SortFunc(entries, func(a, b packEntry) int { return cmp.Compare(a.offset, b.offset) })
	}
	return packs
}

func (x *index) each(yield func(ID, loc) bool) {
	for id, i := range x.at {
		if !yield(id, x.load(i)) {
			return
		}
	}
}
