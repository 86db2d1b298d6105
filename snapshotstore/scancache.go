package snapshotstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// A scan cache remembers which content a file had when it was last read, so
// that a file whose size, times and inode are the same need not be read. It is
// a tree of its own, one list of records per directory, read by name in
// ascending order: memory is one block per level of directories, whatever the
// size. The format is drawn in doc.go.
const (
	cacheMagic   = "ISOSCAN1"
	cacheHeader  = 16
	cacheTag     = 4 + 32         // length and keyed hash before each block
	cacheBlock   = 64 << 10       // a block of records is closed when it is longer
	maxCacheRead = 1 << 20        // bytes of a block that is read
	maxCacheSize = int64(1) << 30 // bytes of a cache; files beyond are not remembered
	maxCaches    = 1024           // files in DIR/scans; the oldest go

	cacheRecords = 'E'
	cacheIndex   = 'I'
	cacheEnd     = 'T'
	cacheTrailer = cacheTag + 17
)

// errCache is a cache that can not be used; everything is read.
var errCache = errors.New("scan cache is damaged")

// cacheFile is what one file looked like when its content was read.
type cacheFile struct {
	ctime    fileTime
	dev, ino uint64
	entry    entry
}

// holds reports whether the file that st describes is the one read then.
func (c *cacheFile) holds(st *fileStat) bool {
	return c.entry.Size == st.size && c.entry.Time == st.mtime && c.ctime == st.ctime && c.dev == st.dev && c.ino == st.ino
}

// cacheDir finds the records of one directory; nil has none.
type cacheDir struct {
	r      *cacheReader
	blocks []byte // offsets of the blocks not read yet
	rest   reader // of the block at hand
	file   *cacheFile
	name   string // of the record at hand, "" if there is none
	sub    uint64 // of a directory: offset of its index
}

// file returns what is known of a file; names must be asked for in ascending order.
func (d *cacheDir) lookup(name string) *cacheFile {
	if d == nil || !d.seek(name) {
		return nil
	}
	return d.file
}

// child returns the records of a directory in this one.
func (d *cacheDir) child(name string) *cacheDir {
	if d == nil || !d.seek(name) || d.file != nil {
		return nil
	}
	return d.r.dir(d.sub)
}

// seek goes on to name and reports whether it has a record.
func (d *cacheDir) seek(name string) bool {
	for d.name < name {
		if !d.next() {
			d.name = "\xff" // no name is greater in what follows
			d.blocks, d.rest = nil, reader{}
			d.file, d.sub = nil, 0
			return false
		}
	}
	return d.name == name && (d.file != nil || d.sub != 0)
}

func (d *cacheDir) next() bool {
	if len(d.rest.rest) == 0 {
		if len(d.blocks) < 8 {
			return false
		}
		payload, err := d.r.block(binary.LittleEndian.Uint64(d.blocks), cacheRecords)
		if err != nil {
			return false
		}
		d.blocks, d.rest = d.blocks[8:], reader{rest: payload, version: stateVersion}
	}
	last := d.name
	d.name, d.file, d.sub = d.rest.cacheRecord()
	return !d.rest.bad && d.name > last
}

// cacheRecord reads one record: a file, or the offset of a directory's index.
func (r *reader) cacheRecord() (name string, file *cacheFile, sub uint64) {
	switch r.byte() {
	case 'f':
		c := &cacheFile{ctime: r.time(), dev: r.uint(), ino: r.uint()}
		c.entry = r.entry()
		r.bad = r.bad || c.entry.Kind != File
		return c.entry.Name, c, 0
	case 'd':
		return r.string(), nil, r.uint()
	}
	r.bad = true
	return "", nil, 0
}

// cacheReader reads a cache. Each block proves itself by a keyed hash over
// where and in which cache it is.
type cacheReader struct {
	f       io.ReaderAt
	name    Namer
	created [8]byte
	size    int64
	root    uint64
	records uint64
}

// readCache opens a cache of size bytes.
func readCache(f io.ReaderAt, size int64, name Namer) (*cacheReader, error) {
	r := &cacheReader{f: f, name: name, size: size}
	var head [cacheHeader]byte
	if _, err := f.ReadAt(head[:], 0); err != nil || string(head[:8]) != cacheMagic {
		return nil, errCache
	}
	copy(r.created[:], head[8:])
	end, err := r.block(uint64(size-cacheTrailer), cacheEnd)
	if err != nil || len(end) != 16 {
		return nil, errCache
	}
	r.root, r.records = binary.LittleEndian.Uint64(end), binary.LittleEndian.Uint64(end[8:])
	return r, nil
}

// block reads the block at an offset, which must be of kind.
func (r *cacheReader) block(at uint64, kind byte) ([]byte, error) {
	if at < cacheHeader || at > uint64(r.size-cacheTag) {
		return nil, errCache
	}
	var head [cacheTag]byte
	if _, err := r.f.ReadAt(head[:], int64(at)); err != nil {
		return nil, errCache
	}
	n := binary.LittleEndian.Uint32(head[:])
	if n == 0 || n > maxCacheRead || int64(n) > r.size-int64(at)-cacheTag {
		return nil, errCache
	}
	plain := make([]byte, 16+n)
	if _, err := r.f.ReadAt(plain[16:], int64(at)+cacheTag); err != nil {
		return nil, errCache
	}
	copy(plain, r.created[:])
	binary.LittleEndian.PutUint64(plain[8:], at)
	if sum := r.name(plain); !bytes.Equal(sum[:], head[4:]) || plain[16] != kind {
		return nil, errCache
	}
	return plain[17:], nil
}

// dir returns the records whose index is at an offset; nil if there are none.
func (r *cacheReader) dir(at uint64) *cacheDir {
	blocks, err := r.block(at, cacheIndex)
	if err != nil {
		return nil
	}
	return &cacheDir{r: r, blocks: blocks}
}

// cacheWriter writes a new cache beside the old one. After an error it writes
// no more, and commit says what it was.
type cacheWriter struct {
	disk    disk
	path    string
	f       diskFile
	name    Namer
	created [8]byte
	at      int64
	records uint64
	buf     []byte
	err     error
}

func newCacheWriter(d disk, path string, name Namer, created int64) *cacheWriter {
	w := &cacheWriter{disk: d, path: path, name: name, at: cacheHeader}
	binary.LittleEndian.PutUint64(w.created[:], uint64(created))
	if _, err := os.Lstat(path + tempSuffix); err == nil { // of an attempt that failed
		_ = d.remove(path + tempSuffix)
	}
	if w.f, w.err = d.create(path + tempSuffix); w.err == nil {
		_, w.err = w.f.WriteAt(append([]byte(cacheMagic), w.created[:]...), 0)
	}
	return w
}

// block writes one block and returns where it is, 0 if it was not written.
func (w *cacheWriter) block(kind byte, payload []byte) uint64 {
	if w.err != nil || len(payload)+1 > maxCacheRead {
		return 0
	}
	at := uint64(w.at)
	plain := append(w.buf[:0], w.created[:]...)
	plain = binary.LittleEndian.AppendUint64(plain, at)
	plain = append(append(plain, kind), payload...)
	sum := w.name(plain)
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(plain)-16))
	out := append(append(head, sum[:]...), plain[16:]...)
	w.buf = plain
	if _, w.err = w.f.WriteAt(out, w.at); w.err != nil {
		return 0
	}
	w.at += int64(len(out))
	return at
}

// cacheDirWriter collects the records of one directory, in the order of names.
type cacheDirWriter struct {
	w      *cacheWriter
	part   []byte
	blocks []byte
}

func (d *cacheDirWriter) file(c *cacheFile) {
	if d.w.full() {
		return
	}
	d.part = appendTime(append(d.part, 'f'), c.ctime)
	d.part = binary.AppendUvarint(d.part, c.dev)
	d.part = binary.AppendUvarint(d.part, c.ino)
	d.part = appendEntry(d.part, stateVersion, &c.entry)
	d.w.records++
	d.flush(cacheBlock)
}

func (d *cacheDirWriter) dir(name string, at uint64) {
	if at == 0 || d.w.full() {
		return
	}
	d.part = binary.AppendUvarint(appendString(append(d.part, 'd'), name), at)
	d.flush(cacheBlock)
}

// flush writes the records that wait if they are more than most bytes.
func (d *cacheDirWriter) flush(most int) {
	if len(d.part) <= most {
		return
	}
	if at := d.w.block(cacheRecords, d.part); at != 0 {
		d.blocks = binary.LittleEndian.AppendUint64(d.blocks, at)
	}
	d.part = d.part[:0]
}

// finish returns where the directory's index is, 0 if there is none.
func (d *cacheDirWriter) finish() uint64 {
	d.flush(0)
	if len(d.blocks) == 0 {
		return 0
	}
	return d.w.block(cacheIndex, d.blocks)
}

func (w *cacheWriter) full() bool { return w.err != nil || w.at > maxCacheSize }

// commit ends the cache and puts it in the place of the old one.
func (w *cacheWriter) commit(root uint64) error {
	end := binary.LittleEndian.AppendUint64(nil, root)
	w.block(cacheEnd, binary.LittleEndian.AppendUint64(end, w.records))
	if w.err == nil {
		w.err = w.f.Sync()
	}
	if w.err != nil {
		w.drop()
		return w.err
	}
	if err := w.f.Close(); err != nil {
		return err
	}
	w.f = nil
	if err := w.disk.rename(w.path+tempSuffix, w.path); err != nil {
		_ = w.disk.remove(w.path + tempSuffix)
		return err
	}
	return w.disk.syncDir(filepath.Dir(w.path))
}

// drop gives up.
func (w *cacheWriter) drop() {
	if w.f != nil {
		w.f.Close()
		w.f = nil
		_ = w.disk.remove(w.path + tempSuffix)
	}
}

// scanCache is the cache of one directory that is snapshotted or restored.
type scanCache struct {
	path string
	f    *os.File     // nil if there is none
	old  *cacheReader // nil if there is none
}

// openCache opens the cache that belongs to name. A damaged one is as good as
// none.
func (s *Store) openCache(kind, name string, key storeKey) *scanCache {
	id := key.name([]byte(kind + "\x00" + name))
	c := &scanCache{path: filepath.Join(s.dir, "scans", fmt.Sprintf("%s-%x", kind, id[:16]))}
	f, size, err := openSized(c.path)
	if err != nil {
		return c
	}
	if c.old, err = readCache(f, size, key.name); err != nil {
		s.log.Warn("scan cache not used", "path", c.path, "error", err)
		f.Close()
		return c
	}
	c.f = f
	return c
}

// root returns the records of the top directory.
func (c *scanCache) root() *cacheDir {
	if c.old == nil || c.old.root == 0 {
		return nil
	}
	return c.old.dir(c.old.root)
}

func (c *scanCache) close() {
	if c.f != nil {
		c.f.Close()
	}
}

// trimCaches removes the oldest caches when there are too many, and what
// processes that died were writing.
func (s *Store) trimCaches() error {
	dir := filepath.Join(s.dir, "scans")
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var infos []os.FileInfo
	for _, f := range files {
		if filepath.Ext(f.Name()) == tempSuffix {
			if err := s.disk.remove(filepath.Join(dir, f.Name())); err != nil {
				return err
			}
			continue
		}
		if info, err := f.Info(); err == nil {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b os.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range infos[:max(len(infos)-maxCaches, 0)] {
		if err := s.disk.remove(filepath.Join(dir, info.Name())); err != nil {
			return err
		}
	}
	return nil
}
