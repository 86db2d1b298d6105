package snapshotstore

import (
	"fmt"
	"sync"
)

// openPack is a pack that is appended to.
type openPack struct {
	*pack
	path    string
	f       diskFile
	at      int64 // where the next record goes
	synced  int64 // what fsync has confirmed
	named   bool  // its name is on disk
	entries []packEntry
	record  []byte // to build one record in
}

// writer appends objects to one pack at a time. Its mutex comes before the
// store's.
type writer struct {
	mu     sync.Mutex
	cur    *openPack
	failed int   // times that writes accepted earlier were lost: see op
	room   int64 // bytes that may be written before Room is asked again
}

// packPath is the file of a pack, in the state that suffix names.
func (s *Store) packPath(num uint32, suffix string) string {
	return fmt.Sprintf("%s/%08d%s", s.packDir, num, suffix)
}

// startPack creates an empty pack file.
func (s *Store) startPack(suffix string) (*openPack, error) {
	s.mu.Lock()
	s.lastPack++
	num := s.lastPack
	s.mu.Unlock()
	created := s.clock.tick()
	o := &openPack{pack: &pack{num: num, created: created}, path: s.packPath(num, suffix)}
	f, err := s.disk.create(o.path)
	if err != nil {
		return nil, fmt.Errorf("create pack: %w", err)
	}
	o.f = f
	if _, err := f.WriteAt(appendPackHeader(nil, uint64(created)), 0); err != nil {
		f.Close()
		_ = s.disk.remove(o.path)
		return nil, fmt.Errorf("write pack: %w", err)
	}
	o.at = packHeader
	return o, nil
}

// add writes one record at the end. After an error the next
// record takes its place.
func (o *openPack) add(id ID, stored []byte) (packEntry, error) {
	o.record = appendRecord(o.record[:0], id, stored)
	if _, err := o.f.WriteAt(o.record, o.at); err != nil {
		return packEntry{}, fmt.Errorf("write object %s: %w", id, err)
	}
	e := packEntry{id, uint32(o.at) + recordHeader, uint32(len(stored))}
	o.at += int64(len(o.record))
	o.entries = append(o.entries, e)
	return e, nil
}

// writeIndex adds the index and returns the size of the whole. A failed add or
// writeIndex may have left bytes behind the end: they are cut off.
func (o *openPack) writeIndex() (int64, error) {
	tail := appendIndex(nil, uint64(o.created), o.entries)
	end := o.at + int64(len(tail))
	_, err := o.f.WriteAt(tail, o.at)
	if err == nil {
		err = o.f.Truncate(end)
	}
	return end, err
}

// append stores an object unless it is here, and returns the bytes added.
func (s *Store) append(id ID, stored []byte) (int, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.writable(); err != nil {
		return 0, err
	}
	if s.touch(id) {
		return 0, nil
	}
	if cur := s.w.cur; cur != nil && cur.at+recordHeader+int64(len(stored)) > s.packTarget && len(cur.entries) > 0 {
		if err := s.sealCurrent(); err != nil {
			return 0, err
		}
	}
	if s.w.cur == nil {
		o, err := s.startPack(".open")
		if err != nil {
			return 0, err
		}
		s.w.cur = o
		s.mu.Lock()
		s.packs[o.num] = o.pack
		s.mu.Unlock()
	}
	if err := s.askRoom(recordHeader + int64(len(stored))); err != nil {
		return 0, err
	}
	e, err := s.w.cur.add(id, stored)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.w.cur.size = s.w.cur.at
	s.index.set(id, loc{s.w.cur.num, e.offset, e.length, s.clock.tick()})
	return recordHeader + len(stored), nil
}

// roomAtOnce is for how many bytes Room is asked.
const roomAtOnce = 4 << 20

// askRoom asks Room where what it allowed is used up.
func (s *Store) askRoom(bytes int64) error {
	if s.opts.Room == nil {
		return nil
	}
	if s.w.room < bytes {
		if err := s.opts.Room(max(bytes, roomAtOnce)); err != nil {
			return fmt.Errorf("put object: %w", err)
		}
		s.w.room = max(bytes, roomAtOnce)
	}
	s.w.room -= bytes
	return nil
}

// flush returns when all that was appended before is on disk. The pack stays
// open: its records prove themselves when it is read after a crash.
func (s *Store) flush() error {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.flushLocked()
}

func (s *Store) flushLocked() error {
	cur := s.w.cur
	if cur == nil || cur.synced == cur.at {
		return nil
	}
	err := cur.f.Sync()
	if err == nil && !cur.named {
		err = s.disk.syncDir(s.packDir)
	}
	if err != nil {
		s.abandon(cur)
		return fmt.Errorf("sync pack: %w", err)
	}
	cur.synced, cur.named = cur.at, true
	return nil
}

// abandon gives up a pack whose fsync failed: nobody knows what of its last
// part is on disk, and asking again would not tell. What was confirmed
// before stays readable; the rest is forgotten and its writers get an error.
func (s *Store) abandon(o *openPack) {
	s.w.cur = nil
	s.w.failed++
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range o.entries {
		if l, ok := s.index.lookup(e.id); ok && l.pack == o.num && int64(l.offset) >= o.synced {
			s.index.remove(e.id)
		}
	}
	o.size = o.synced
	o.f.Close()
	if o.synced == 0 {
		delete(s.packs, o.num)
		_ = s.disk.remove(o.path)
	}
}

// sealCurrent ends the pack that is appended to.
func (s *Store) sealCurrent() error {
	cur := s.w.cur
	if cur == nil {
		return nil
	}
	if len(cur.entries) == 0 { // its first record could not be written
		s.w.cur = nil
		s.mu.Lock()
		delete(s.packs, cur.num)
		s.mu.Unlock()
		cur.f.Close()
		return s.disk.remove(cur.path)
	}
	if err := s.seal(cur); err != nil {
		return err
	}
	s.w.cur = nil
	return nil
}

// seal adds the index to a pack and gives it its final name. If that fails
// before the rename the pack is what it was, and may be sealed later.
func (s *Store) seal(o *openPack) error {
	size, err := o.writeIndex()
	if err != nil {
		return fmt.Errorf("seal pack: %w", err)
	}
	if err = o.f.Sync(); err == nil {
		err = s.disk.rename(o.path, s.packPath(o.num, ".pack"))
	}
	if err == nil {
		s.mu.Lock()
		o.sealed, o.size = true, size
		s.mu.Unlock()
		err = s.disk.syncDir(s.packDir)
	}
	if err != nil {
		s.abandon(o)
		return fmt.Errorf("seal pack: %w", err)
	}
	o.f.Close()
	return nil
}

// op is an operation that puts objects: Collect spares what it touches, and
// its end makes sure that everything it put is on disk.
type op struct {
	s      *Store
	hold   *Hold
	failed int
}

func (s *Store) begin() (*op, error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	if err := s.writable(); err != nil {
		return nil, err
	}
	return &op{s, s.clock.hold(), s.w.failed}, nil
}

// end flushes and reports err, or else what went wrong with earlier writes.
func (o *op) end(err error) error {
	defer o.hold.Release()
	ferr := o.s.flush()
	if err != nil {
		return err
	}
	if ferr != nil {
		return ferr
	}
	o.s.w.mu.Lock()
	defer o.s.w.mu.Unlock()
	if o.s.w.failed != o.failed {
		return fmt.Errorf("sync pack: objects were lost to an earlier failure of the disk")
	}
	return nil
}
