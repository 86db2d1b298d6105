package snapshotstore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
)

// Get returns the plain bytes of an object, which are what id names: a damaged
// object is a *CorruptError and is moved aside, so that it can be put again.
func (s *Store) Get(id ID) ([]byte, error) {
	_, plain, err := s.read(id)
	return plain, err
}

// GetRaw returns an object as stored, for PutRaw of another store. It is
// verified like that of Get.
func (s *Store) GetRaw(id ID) ([]byte, error) {
	stored, _, err := s.read(id)
	return stored, err
}

// read gets and verifies one object. Collect and seal may rename or remove
// the pack between the look at the index and the read: then it looks again.
func (s *Store) read(id ID) (stored, plain []byte, err error) {
	for range 10 {
		s.mu.RLock()
		l, ok := s.index.lookup(id)
		closed := s.closed
		var path string
		if ok {
			path = s.pathLocked(l.pack)
		}
		s.mu.RUnlock()
		if closed {
			return nil, nil, ErrClosed
		}
		if !ok {
			return nil, nil, &MissingError{id}
		}
		stored, err = readAt(path, id, l)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			plain, err = s.verify(id, stored)
		}
		if err == nil {
			return stored, plain, nil
		}
		if !isDamage(err) {
			return nil, nil, fmt.Errorf("read object %s: %w", id, err)
		}
		return nil, nil, s.setAside(id, l, stored, err)
	}
	return nil, nil, fmt.Errorf("read object %s: its pack is gone: %w", id, err)
}

func (s *Store) pathLocked(num uint32) string {
	if p := s.packs[num]; p != nil && !p.sealed {
		return s.packPath(num, ".open")
	}
	return s.packPath(num, ".pack")
}

// readAt reads an object's record and returns the stored bytes, even if they
// are damaged.
func readAt(path string, id ID, l loc) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readRecord(f, packEntry{id, l.offset, l.length})
}

func readRecord(f io.ReaderAt, e packEntry) ([]byte, error) {
	record := make([]byte, recordHeader+e.length)
	_, err := f.ReadAt(record, int64(e.offset)-recordHeader)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return record[recordHeader:], err
	}
	id, stored, err := parseRecord(record)
	if err == nil && id != e.id {
		err = fmt.Errorf("%w: record of %s", errDamaged, id)
	}
	return stored, err
}

// errDamaged wraps what verify finds, to tell it from troubles of reading.
var errDamaged = errors.New("damaged")

// verify decodes a stored object and compares its name.
func (s *Store) verify(id ID, stored []byte) ([]byte, error) {
	plain, info, err := s.codec.decode(stored)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	return plain, s.verifyName(id, plain, info.naming)
}

// verifyName compares plain bytes with their name.
func (s *Store) verifyName(id ID, plain []byte, naming Naming) error {
	if naming == KeyedNaming {
		return s.verifyKeyed(id, plain)
	}
	if got := PlainNamer(plain); got != id {
		return fmt.Errorf("%w: content is that of %s", errDamaged, got)
	}
	return nil
}
