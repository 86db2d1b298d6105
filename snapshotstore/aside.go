package snapshotstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// isDamage tells bytes that are wrong or can not be read from troubles that
// may pass (no memory, too many open files).
func isDamage(err error) bool {
	return errors.Is(err, errDamaged) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.EIO)
}

// setAside takes a damaged object out of service and returns the error that
// says so. The file it leaves makes the pack's copy stay out of service when
// the store is opened again, and lets somebody look at the bytes.
func (s *Store) setAside(id ID, l loc, stored []byte, why error) error {
	cerr := &CorruptError{ID: id, Where: filepath.Base(s.packPath(l.pack, ".pack")), Reason: why.Error()}
	s.log.Error("damaged object moved aside", "object", id.String(), "pack", l.pack, "reason", why)
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.mu.Lock()
	if now, ok := s.index.lookup(id); ok && now.pack == l.pack && now.offset == l.offset {
		s.index.remove(id)
		s.aside[id] = struct{}{}
	}
	s.mu.Unlock()
	if s.writable() != nil {
		return cerr
	}
	path := s.asidePath(l.pack, id)
	if _, err := os.Lstat(path); err == nil {
		return cerr
	}
	if err := writeFile(s.disk, path, stored); err != nil {
		s.log.Warn("damaged object could not be kept", "path", path, "error", err)
	}
	return cerr
}

func (s *Store) asidePath(pack uint32, id ID) string {
	return filepath.Join(s.asideDir, fmt.Sprintf("%08d-%s", pack, id))
}

// parseAside reads a name that asidePath made.
func parseAside(name string) (pack uint32, id ID, ok bool) {
	num, hex, found := strings.Cut(name, "-")
	if _, err := fmt.Sscanf(num, "%08d", &pack); err != nil || !found {
		return 0, ID{}, false
	}
	id, err := ParseID(hex)
	return pack, id, err == nil
}
