package raftfsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// Files of a follower, in DIR/followed. A follower has promised nothing to anybody, so whatever is damaged here is
// dropped and asked for again.
const (
	followedDir        = "followed"
	followedCheckpoint = "checkpoint"
	followedEntries    = "entries"

	recordHead = 4 + 4       // length, CRC-32C of the rest
	storeAgain = time.Minute // after State could not be stored
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// followed is State as a follower stores it: a checkpoint and the entries since. Only the goroutine that follows uses it.
type followed struct {
	dir string
	log *slog.Logger

	file  *os.File // entries; nil when the next State must be written as a checkpoint
	buf   *bufio.Writer
	base  uint64    // index of the checkpoint
	index uint64    // of the last entry stored
	count uint64    // entries since the checkpoint
	bytes int64     // of them
	dirty bool      // something is not synced
	told  bool      // that storing fails
	again time.Time // when storing may be tried again
}

func newFollowed(dir string, log *slog.Logger) *followed {
	return &followed{dir: filepath.Join(dir, followedDir), log: log}
}

func (f *followed) path(name string) string { return filepath.Join(f.dir, name) }

// load gives the State that is stored: the checkpoint, and with next the entries since, as far as they are whole and next
// gives one. It is nil when there is none. Its error is only for a checkpoint of a newer version.
func (f *followed) load(next func(s *model.State, e feedEntry) (*model.State, error)) (*model.State, error) {
	s, err := f.readCheckpoint()
	must := (*MustUpgradeError)(nil)
	switch {
	case errors.As(err, &must):
		return nil, fmt.Errorf("open followed State in %s: %w", f.dir, must)
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		f.log.Warn("the State that was followed is damaged and will be fetched again", "dir", f.dir, "error", err)
		return nil, nil
	}
	f.base = s.Index
	s, size := f.replay(s, next)
	if f.failed(f.reopen(size)) {
		return s, nil
	}
	f.index, f.bytes = s.Index, size
	return s, nil
}

func (f *followed) readCheckpoint() (*model.State, error) {
	r, err := os.Open(f.path(followedCheckpoint))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return ReadState(r)
}

// replay gives the State after the entries stored, and how many bytes of the file led there.
func (f *followed) replay(s *model.State, next func(*model.State, feedEntry) (*model.State, error)) (*model.State, int64) {
	file, err := os.Open(f.path(followedEntries))
	if err != nil {
		return s, 0
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, 64<<10)
	size := int64(0)
	for {
		e, n, err := readRecord(r)
		if err == nil && e.index > s.Index { // else it is from before the checkpoint: a crash between the two
			err = errGap
			if e.prev == s.Index {
				s, err = step(s, e, next)
			}
			f.count++
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				f.log.Info("the last followed entries cannot be used and will be fetched again", "after", s.Index, "error", err)
			}
			return s, size
		}
		size += n
	}
}

func step(s *model.State, e feedEntry, next func(*model.State, feedEntry) (*model.State, error)) (*model.State, error) {
	after, err := next(s, e)
	if err != nil {
		return s, err
	}
	return after, nil
}

func appendRecord(b []byte, e feedEntry) []byte {
	body := append(e.head(), e.entry...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.Checksum(body, castagnoli))
	return append(b, body...)
}

// readRecord reads length(4) CRC-32C(4) previous index(8) index(8) entry. io.EOF: there is no more.
func readRecord(r io.Reader) (e feedEntry, size int64, err error) {
	var head [recordHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return e, 0, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrameBytes {
		return e, 0, fmt.Errorf("a record of %d bytes", n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return e, 0, noEOF(err)
	}
	if crc32.Checksum(body, castagnoli) != binary.BigEndian.Uint32(head[4:]) {
		return e, 0, errors.New("a record's checksum does not match")
	}
	e, err = decodeFeedEntry(body)
	return e, recordHead + int64(n), err
}

// reopen opens the entries to go on after so many bytes.
func (f *followed) reopen(size int64) error {
	file, err := os.OpenFile(f.path(followedEntries), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err = file.Truncate(size); err == nil {
		_, err = file.Seek(size, io.SeekStart)
	}
	if err == nil {
		err = syncDir(f.dir)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	f.use(file)
	return nil
}

func (f *followed) use(file *os.File) {
	f.closeFile()
	f.file, f.buf, f.dirty = file, bufio.NewWriterSize(file, 64<<10), false
}

func (f *followed) closeFile() {
	if f.file != nil {
		_ = f.file.Close()
	}
	f.file, f.buf = nil, nil
}

// add stores an entry, to be synced by sync. s is the State after it. An entry that does not follow on what is stored
// means that State came another way: then all of it is written.
func (f *followed) add(e feedEntry, s *model.State) {
	if f.file == nil || f.index != e.prev {
		if !time.Now().Before(f.again) {
			f.save(s)
		}
		return
	}
	rec := appendRecord(nil, e)
	_, err := f.buf.Write(rec)
	if f.failed(err) {
		return
	}
	f.index, f.dirty = e.index, true
	f.count++
	f.bytes += int64(len(rec))
}

// sync makes what was added durable.
func (f *followed) sync() {
	if f.file == nil || !f.dirty {
		return
	}
	f.dirty = false
	f.failed(errors.Join(f.buf.Flush(), f.file.Sync()))
}

// failed gives up on the entries: the next State is written as a whole, if that can be done.
func (f *followed) failed(err error) bool {
	if err == nil {
		return false
	}
	f.closeFile()
	f.again = time.Now().Add(storeAgain)
	if !f.told {
		f.told = true
		f.log.Warn("followed State cannot be stored: after a restart it will be fetched again", "error", err)
	}
	return true
}

// save writes State as a checkpoint and begins the entries anew. It gives the State's digest.
func (f *followed) save(s *model.State) (sum [sha256.Size]byte) {
	sum, err := f.writeCheckpoint(s)
	var file *os.File
	if err == nil {
		file, err = f.emptyEntries()
	}
	if f.failed(err) {
		return Digest(s)
	}
	f.use(file)
	f.base, f.index, f.count, f.bytes, f.told = s.Index, s.Index, 0, 0, false
	return sum
}

func (f *followed) writeCheckpoint(s *model.State) (sum [sha256.Size]byte, err error) {
	if err := os.MkdirAll(f.dir, 0o700); err != nil {
		return sum, err
	}
	err = replaceFile(f.path(followedCheckpoint), func(w *os.File) (err error) {
		sum, err = writeState(w, s)
		return err
	})
	return sum, err
}

// emptyEntries puts an empty file in place of the entries, and gives it open.
func (f *followed) emptyEntries() (*os.File, error) {
	if err := replaceFile(f.path(followedEntries), func(*os.File) error { return nil }); err != nil {
		return nil, err
	}
	return os.OpenFile(f.path(followedEntries), os.O_WRONLY|os.O_APPEND, 0o600)
}

// replaceFile writes a file whole or not at all.
func replaceFile(path string, write func(*os.File) error) error {
	tmp := path + ".tmp"
	w, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if err = write(w); err == nil {
		err = w.Sync()
	}
	if err = errors.Join(err, w.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		_ = os.Remove(tmp)
		return err
	}
	return syncDir(filepath.Dir(path))
}

// any says whether something is stored.
func (f *followed) any() bool { return f.base != 0 || f.file != nil }

// drop removes everything: this node is a raft server now, whose own log and checkpoints hold it all.
func (f *followed) drop() {
	f.closeFile()
	f.base, f.index = 0, 0
	if err := os.RemoveAll(f.dir); err != nil {
		f.log.Warn("followed State is not removed", "error", err)
	}
}

// setAside keeps a State that went wrong for somebody to look at, the last such one; the next start fetches another.
func (f *followed) setAside() {
	f.close()
	to := f.dir + ".diverged"
	err := os.RemoveAll(to)
	if err == nil {
		err = os.Rename(f.dir, to)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.log.Warn("the diverged State is not set aside", "error", err)
	}
}

func (f *followed) close() {
	f.sync()
	f.closeFile()
}
