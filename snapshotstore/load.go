package snapshotstore

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// load reads all packs into memory and ends what a crash interrupted. It
// runs before anybody else sees the store and takes no lock.
func (s *Store) load() error {
	byState := map[string][]uint32{}
	files, err := os.ReadDir(s.packDir)
	if err != nil && !(s.opts.ReadOnly && errors.Is(err, fs.ErrNotExist)) {
		return err
	}
	for _, f := range files {
		num, state, ok := parsePackName(f.Name())
		if !ok {
			s.log.Warn("unknown file in the store", "name", f.Name())
			continue
		}
		byState[state] = append(byState[state], num)
		s.lastPack = max(s.lastPack, num)
	}
	if err := s.dropTemps(byState[tempSuffix]); err != nil {
		return err
	}
	for _, num := range byState[".pack"] {
		if err := s.loadSealed(num); err != nil {
			return err
		}
	}
	slices.Sort(byState[".open"])
	for _, num := range byState[".open"] {
		if err := s.loadOpen(num); err != nil {
			return err
		}
	}
	if err := s.loadAside(); err != nil || s.opts.ReadOnly {
		return err
	}
	return s.trimCaches()
}

func parsePackName(name string) (num uint32, state string, ok bool) {
	state = filepath.Ext(name)
	n, err := strconv.ParseUint(strings.TrimSuffix(name, state), 10, 32)
	ok = err == nil && (state == ".pack" || state == ".open" || state == tempSuffix)
	return uint32(n), state, ok
}

func (s *Store) dropTemps(nums []uint32) error {
	if s.opts.ReadOnly {
		return nil
	}
	for _, num := range nums {
		if err := s.disk.remove(s.packPath(num, tempSuffix)); err != nil {
			return err
		}
	}
	return nil
}

// loadSealed takes in a pack by its index, or, where that is damaged, by
// reading every record.
func (s *Store) loadSealed(num uint32) error {
	f, size, err := openSized(s.packPath(num, ".pack"))
	if err != nil {
		return err
	}
	defer f.Close()
	p := &pack{num: num, size: size, sealed: true}
	entries, created, err := readIndex(f, size)
	if err != nil {
		s.log.Error("pack read without its index", "pack", num, "error", err)
		entries, _ = scanRecords(f, size, s.goodRecord)
		p.suspect = true
		created = 0
	}
	p.created = s.tickOf(created)
	s.takeIn(p, entries)
	return nil
}

// loadOpen takes in a pack that was being appended to when the process died,
// and seals it. Its records prove themselves; the tail after the last good
// one was never confirmed to anybody.
func (s *Store) loadOpen(num uint32) error {
	path := s.packPath(num, ".open")
	f, size, err := openSized(path)
	if err != nil {
		return err
	}
	created, _ := readPackHeader(f) // damaged: 0, which is a good date too
	entries, end := scanRecords(f, size, s.goodRecord)
	f.Close()
	p := &pack{num: num, created: s.tickOf(created), size: end}
	if s.opts.ReadOnly {
		s.takeIn(p, entries)
		return nil
	}
	if len(entries) == 0 {
		return s.disk.remove(path)
	}
	s.takeIn(p, entries)
	return s.resumeSeal(&openPack{pack: p, path: path, at: end, entries: entries})
}

// resumeSeal seals a pack found open. Where that fails (a full disk), the
// pack serves as it is until the next Open.
func (s *Store) resumeSeal(o *openPack) error {
	f, err := s.disk.reopen(o.path)
	if err != nil {
		return err
	}
	o.f = f
	err = f.Truncate(o.at)
	if err == nil {
		_, err = f.WriteAt(appendPackHeader(nil, uint64(o.created)), 0)
	}
	if err == nil {
		o.synced = o.at
		err = s.seal(o)
	}
	if err != nil {
		f.Close()
		s.log.Warn("pack stays open", "pack", o.num, "error", err)
	}
	return nil
}

func openSized(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("stat pack: %w", err)
	}
	return f, info.Size(), nil
}

func (s *Store) goodRecord(id ID, stored []byte) bool {
	_, err := s.verify(id, stored)
	if errors.Is(err, ErrNoKey) { // its checksum was right: the key may come later
		return true
	}
	if err != nil {
		s.log.Warn("damaged record skipped", "object", id.String(), "error", err)
	}
	return err == nil
}

// tickOf is a pack's time as a tick; a time in the future is now.
func (s *Store) tickOf(created uint64) uint32 {
	return uint32(min(created, uint64(s.clock.tick())))
}

func (s *Store) takeIn(p *pack, entries []packEntry) {
	s.packs[p.num] = p
	for _, e := range entries {
		s.index.set(e.id, loc{p.num, e.offset, e.length, p.created})
	}
}

// loadAside takes damaged copies out of the index again. Where the pack is
// gone and the object here, there is nothing left to remember.
func (s *Store) loadAside() error {
	files, err := os.ReadDir(s.asideDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, f := range files {
		num, id, ok := parseAside(f.Name())
		l, here := s.index.lookup(id)
		if !ok || s.packs[num] == nil && here {
			if s.opts.ReadOnly {
				continue
			}
			if err := s.disk.remove(filepath.Join(s.asideDir, f.Name())); err != nil {
				return err
			}
			continue
		}
		s.lastPack = max(s.lastPack, num) // the number of a pack that is gone is not used again
		s.aside[id] = struct{}{}
		if here && l.pack == num {
			s.index.remove(id)
		}
	}
	return nil
}
