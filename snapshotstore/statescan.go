package snapshotstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"
)

const (
	stateTries = 3 // readings of a file that changes meanwhile
	racyWindow = 2 // seconds: the coarsest times that file systems keep
)

// StateOptions say how a directory becomes a snapshot. The zero value takes
// everything.
type StateOptions struct {
	// Known are roots of earlier snapshots of the same state, newest first.
	// If one has the same content, it is the result.
	Known []ID
	// Name of the scan cache; default the absolute path of the directory.
	Name string
	// NoCache reads every file, and leaves the scan cache as it is.
	NoCache bool
	// Quiet says that nothing that could write to the directory is running.
	// It spares a syncfs, which otherwise makes sure that later writes
	// through memory maps show in the times of files.
	Quiet bool
	// ReadLimit bounds the bytes a second that are read; 0 for no bound.
	ReadLimit uint64
	// Ignore are patterns as in ScanOptions.
	Ignore []string
}

// StateInfo is what is known of a snapshot.
type StateInfo struct {
	Root ID
	// Content names what Root names, but for the times: two snapshots with
	// the same are of the same state. Root is the older one's if that was
	// among StateOptions.Known.
	Content ID
	Totals
	Same      bool   // Root is one of StateOptions.Known
	Stored    uint64 // bytes added to packs
	Read      uint64 // bytes read from files
	Unchanged uint64 // files that were not read
	// Changed counts entries that changed while they were read. Unless it is 0
	// the snapshot is not one of a single moment: good for a warm copy only.
	Changed uint64
	Skipped uint64 // sockets and devices, which are left out
}

// PutState takes a snapshot of a directory: everything that ScanDir takes, and
// modes, owners, times, extended attributes, hard links, holes, fifos and any
// symlink. It is named by the store's first key (ErrNoKey without one).
//
// Files that the scan cache knows by size, times and inode are not read; a
// file changed within two seconds before the scan is not trusted to the cache.
// Directories that change while they are read do not end the scan: see
// StateInfo.Changed. When PutState returns without error everything is on
// disk. Memory is bounded by the entries of the largest single directory, the
// names of files with several hard links, and the store's index.
func (s *Store) PutState(ctx context.Context, dir string, opts StateOptions) (StateInfo, error) {
	key, err := s.key()
	if err != nil {
		return StateInfo{}, fmt.Errorf("snapshot %q: %w", dir, err)
	}
	if err := checkPatterns(opts.Ignore); err != nil {
		return StateInfo{}, err
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return StateInfo{}, fmt.Errorf("snapshot: %w", err)
	}
	if opts.Name == "" {
		opts.Name = dir
	}
	o, err := s.begin()
	if err != nil {
		return StateInfo{}, err
	}
	c := &stateScan{s: s, ctx: ctx, key: key, opts: opts, gear: newGearTable(), limit: newLimiter(opts.ReadLimit),
		workers: make(chan struct{}, s.opts.workers), links: map[inodeID]*link{}}
	info, err := c.run(dir)
	if err = o.end(err); err != nil {
		return StateInfo{}, fmt.Errorf("snapshot %q: %w", dir, err)
	}
	s.latest.set(opts.Name, info.Root)
	if err := c.saveCache(); err != nil {
		s.log.Warn("scan cache not written", "dir", dir, "error", err)
	}
	return info, nil
}

// inodeID identifies a file whatever its name.
type inodeID struct{ dev, ino uint64 }

// link is a file with several names.
type link struct {
	path string // the first one met
	left uint64 // names not met yet
}

// stateScan is one call of PutState. What is not atomic is owned by the
// goroutine that walks.
type stateScan struct {
	s       *Store
	ctx     context.Context
	key     storeKey
	opts    StateOptions
	gear    *gearTable
	limit   *limiter
	workers chan struct{} // one token per worker at work
	links   map[inodeID]*link
	seen    Totals
	began   fileTime // files that changed later, or shortly before, are read again next time

	cache     *scanCache
	next      *cacheWriter // nil without a cache
	nextRoot  uint64
	hits      uint64 // records taken over from the old cache
	skipped   uint64
	unchanged uint64

	stored, read, changed atomic.Uint64
}

// run scans dir; the cache is complete but not saved when it returns.
func (c *stateScan) run(dir string) (StateInfo, error) {
	top, err := openDir(dir)
	if err != nil {
		return StateInfo{}, err
	}
	defer top.Close()
	if err := c.openCache(top); err != nil {
		return StateInfo{}, err
	}
	defer c.cache.close()
	info, err := c.scanRoot(top)
	if err != nil && c.next != nil {
		c.next.drop()
	}
	return info, err
}

// openCache decides what may be believed of the last scan and remembered of
// this one.
func (c *stateScan) openCache(top *os.File) error {
	now := c.s.opts.Now()
	c.began = fileTime{now.Unix() - racyWindow, uint32(now.Nanosecond())}
	c.cache = &scanCache{}
	if c.opts.NoCache {
		return nil
	}
	// What was written through a memory map before is brought to disk: the
	// next write to the same page then sets the file's times anew.
	if !c.opts.Quiet {
		if err := syncAll(top); err != nil {
			return err
		}
	}
	c.cache = c.s.openCache("state", c.opts.Name, c.key)
	c.next = newCacheWriter(c.s.disk, c.cache.path, c.key.name, now.UnixNano())
	return nil
}

func (c *stateScan) scanRoot(top *os.File) (StateInfo, error) {
	st, err := statFile(top)
	if err != nil {
		return StateInfo{}, err
	}
	e := entry{Kind: Dir}
	if err := c.fillMeta(&e, &st, top); err != nil {
		return StateInfo{}, &EntryError{".", err}
	}
	dir, content, at, err := c.dir(top, ".", 0, c.cache.root())
	if err != nil {
		return StateInfo{}, err
	}
	c.nextRoot = at
	root := &stateRoot{mode: e.Mode, meta: e.meta, dir: dir}
	root.content = c.key.name(appendContent(nil, &e, content))
	info := StateInfo{Content: root.content, Totals: dir.Totals, Unchanged: c.unchanged, Skipped: c.skipped,
		Read: c.read.Load(), Changed: c.changed.Load()}
	info.Root, info.Same, err = c.known(root.content)
	if err == nil && !info.Same {
		info.Root, err = c.emit(appendState(nil, root))
	}
	info.Stored = c.stored.Load()
	return info, err
}

// known looks for a whole earlier snapshot with that content.
func (c *stateScan) known(content ID) (ID, bool, error) {
	for _, id := range c.opts.Known {
		n, err := c.s.anyNode(stateWant(id))
		if err != nil || n.state.content != content {
			continue // one that is not here, or damaged, is no help
		}
		if has, err := c.s.HasTree(c.ctx, id); has || c.ctx.Err() != nil {
			return id, has, c.ctx.Err()
		} else if err != nil {
			c.s.log.Warn("earlier snapshot not used", "root", id.String(), "error", err)
		}
	}
	return ID{}, false, nil
}

// saveCache puts the new cache in the place of the old one, unless they say
// the same.
func (c *stateScan) saveCache() error {
	if c.next == nil {
		return nil
	}
	if old := c.cache.old; old != nil && c.next.err == nil && c.hits == c.next.records && c.hits == old.records {
		c.next.drop()
		return nil
	}
	return c.next.commit(c.nextRoot)
}

// dir scans one directory and all beneath it. It returns its ref, its content
// without times, and where its records are in the new cache.
func (c *stateScan) dir(f *os.File, rel string, depth int, old *cacheDir) (ref, ID, uint64, error) {
	if depth > c.s.opts.StateLimits.Depth {
		return ref{}, ID{}, 0, &EntryError{rel, ErrTooDeep}
	}
	before, err := statFile(f)
	if err != nil {
		return ref{}, ID{}, 0, &EntryError{rel, err}
	}
	names, err := c.names(f, rel)
	if err != nil {
		return ref{}, ID{}, 0, err
	}
	d := &stateDir{c: c, f: f, rel: rel, depth: depth, old: old, build: newDirBuilder(stateVersion, c.emit),
		content: newKeyedHasher(c.key.key), next: &cacheDirWriter{w: c.next}}
	for window := range slices.Chunk(names, scanWindow) {
		if err := d.window(window); err != nil {
			return ref{}, ID{}, 0, err
		}
	}
	if after, err := statFile(f); err != nil || !after.same(&before) {
		c.changed.Add(1)
	}
	out, err := d.build.finish()
	var content ID
	d.content.Sum(content[:0])
	return out, content, d.finishCache(), err
}

// names lists a directory in order, without what is ignored.
func (c *stateScan) names(f *os.File, rel string) ([]string, error) {
	var names []string
	for {
		some, err := f.Readdirnames(1024)
		for _, name := range some {
			if !matchesAny(c.opts.Ignore, name, join(rel, name)) {
				names = append(names, name)
				c.seen.Entries++
			}
		}
		if lerr := c.s.opts.StateLimits.check(c.seen, rel); lerr != nil {
			return nil, lerr
		}
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err == nil {
			err = c.ctx.Err()
		}
		if err != nil {
			return nil, &EntryError{rel, err}
		}
	}
}

// stateDir is one directory being scanned.
type stateDir struct {
	c       *stateScan
	f       *os.File
	rel     string
	depth   int
	old     *cacheDir
	build   *dirBuilder
	content *blake3.Hasher
	next    *cacheDirWriter
	buf     []byte
}

// scanned is one name of a directory and what became of it.
type scanned struct {
	entry
	stat    fileStat
	gone    bool // it is not there any more, or left out
	hit     bool // taken from the cache
	racy    bool // not to be trusted next time
	content ID   // of a directory
	cacheAt uint64
	err     error
}

// window scans some names: files on the workers, directories here, and adds
// them in order. The error returned is that of the first name.
func (d *stateDir) window(names []string) error {
	items := make([]scanned, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		x := &items[i]
		if x.err = d.c.ctx.Err(); x.err == nil {
			x.err = d.look(name, x)
		}
		if x.err != nil {
			break
		}
		if x.Kind != File || x.gone || x.hit {
			continue
		}
		if x.stat.nlink > 1 { // its other names need to know what became of it
			x.err = d.linkedFile(x)
			if x.err != nil {
				break
			}
			continue
		}
		d.c.workers <- struct{}{}
		wg.Go(func() {
			x.err = d.file(x)
			<-d.c.workers
		})
	}
	wg.Wait()
	for i := range items {
		if err := d.add(&items[i]); err != nil {
			return err
		}
	}
	return nil
}

// look finds out what a name is, as far as that needs no reading of a file.
func (d *stateDir) look(name string, x *scanned) error {
	rel := join(d.rel, name)
	err := checkName(name)
	if err == nil && len(rel) > d.c.s.opts.StateLimits.Path {
		err = ErrPathTooLong
	}
	if err != nil {
		return &EntryError{rel, err}
	}
	x.Name = name
	x.stat, err = statAt(d.f, name)
	if err == nil {
		x.Kind = x.stat.kind
		err = d.lookKind(rel, x)
	}
	var e *EntryError
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		d.vanished(x) // removed or replaced since the directory was listed
		return nil
	case err != nil && !errors.As(err, &e):
		return &EntryError{rel, err}
	}
	return err
}

func (d *stateDir) vanished(x *scanned) {
	x.gone = true
	d.c.changed.Add(1)
}

func (d *stateDir) lookKind(rel string, x *scanned) (err error) {
	switch x.Kind {
	case Dir:
		return d.child(rel, x)
	case File:
		return d.lookFile(rel, x)
	case Symlink:
		x.meta = metaOf(&x.stat)
		x.Mode = x.stat.mode
		x.Target, err = readlinkAt(d.f, x.Name)
		return err
	case Fifo:
		x.meta = metaOf(&x.stat)
		x.Mode = x.stat.mode
		return nil
	}
	x.gone = true
	d.c.skipped++
	d.c.s.log.Warn("left out of the snapshot: neither file, directory, symlink nor fifo", "path", rel)
	return nil
}

func metaOf(st *fileStat) meta { return meta{UID: st.uid, GID: st.gid, Time: st.mtime} }

func (c *stateScan) fillMeta(e *entry, st *fileStat, f *os.File) (err error) {
	e.Mode, e.meta = st.mode, metaOf(st)
	e.Xattrs, err = readXattrs(f)
	return err
}

func (d *stateDir) child(rel string, x *scanned) error {
	sub, err := openDirAt(d.f, x.Name)
	if err != nil {
		return err
	}
	defer sub.Close()
	if err := d.c.fillMeta(&x.entry, &x.stat, sub); err != nil {
		return err
	}
	x.Dir, x.content, x.cacheAt, err = d.c.dir(sub, rel, d.depth+1, d.old.child(x.Name))
	return err
}

// lookFile takes a regular file from the cache, or makes it another name of
// one met before; otherwise it is to be read.
func (d *stateDir) lookFile(rel string, x *scanned) error {
	c := d.c
	id := inodeID{x.stat.dev, x.stat.ino}
	if l := c.links[id]; l != nil && x.stat.nlink > 1 {
		x.Kind, x.Target = HardLink, l.path
		if l.left--; l.left == 0 {
			delete(c.links, id)
		}
		return nil
	}
	c.seen.Files++
	c.seen.Bytes += x.stat.size
	if err := c.s.opts.StateLimits.check(c.seen, rel); err != nil {
		return err
	}
	if old := d.old.lookup(x.Name); old != nil && old.holds(&x.stat) && c.present(&old.entry) {
		x.entry = old.entry
		x.Mode, x.UID, x.GID = x.stat.mode, x.stat.uid, x.stat.gid
		x.hit = true
		c.unchanged++
		c.hits++
		c.noteLink(rel, &x.stat)
	}
	return nil
}

func (c *stateScan) noteLink(rel string, st *fileStat) {
	if st.nlink > 1 {
		c.links[inodeID{st.dev, st.ino}] = &link{rel, st.nlink - 1}
	}
}

// linkedFile reads a file that has other names.
func (d *stateDir) linkedFile(x *scanned) error {
	d.c.workers <- struct{}{}
	err := d.file(x)
	<-d.c.workers
	if err == nil && !x.gone {
		d.c.noteLink(join(d.rel, x.Name), &x.stat)
	}
	return err
}

// present reports whether the store holds all of a file's content, and keeps
// it from Collect while the snapshot is taken.
func (c *stateScan) present(e *entry) bool {
	if e.Level > 0 {
		w := &walker{s: c.s, stack: e.wants(stateVersion), seen: map[want]struct{}{}}
		missing, err := w.next(c.ctx, 1)
		return err == nil && len(missing) == 0
	}
	for _, r := range e.Refs {
		if !r.ID.IsZero() && !c.s.touch(r.ID) {
			return false
		}
	}
	return true
}

// add puts an entry into the directory, its content and the cache.
func (d *stateDir) add(x *scanned) error {
	if x.err != nil || x.gone {
		return x.err
	}
	d.buf = appendContent(d.buf[:0], &x.entry, x.content)
	d.content.Write(d.buf)
	if d.c.next != nil {
		switch {
		case x.Kind == Dir:
			d.next.dir(x.Name, x.cacheAt)
		case x.Kind == File && !x.racy:
			d.next.file(&cacheFile{ctime: x.stat.ctime, dev: x.stat.dev, ino: x.stat.ino, entry: x.entry})
		}
	}
	return d.build.add(&x.entry)
}

func (d *stateDir) finishCache() uint64 {
	if d.c.next == nil {
		return 0
	}
	return d.next.finish()
}

// file reads a regular file. One that changes meanwhile is read again, a few
// times; then what was read is taken.
func (d *stateDir) file(x *scanned) error {
	f, err := openFileAt(d.f, x.Name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ELOOP) {
		d.vanished(x)
		return nil
	}
	rel := join(d.rel, x.Name)
	if err != nil {
		return &EntryError{rel, err}
	}
	defer f.Close()
	for try := 1; ; try++ {
		same, err := d.readFile(f, x)
		if err != nil {
			return &EntryError{rel, err}
		}
		if x.gone {
			return nil
		}
		x.racy = !same || !x.stat.ctime.before(d.c.began) || !x.stat.mtime.before(d.c.began)
		if same || try == stateTries {
			if !same {
				d.c.changed.Add(1)
			}
			return nil
		}
	}
}

// readFile reads an open file once and reports whether it stayed the same.
func (d *stateDir) readFile(f *os.File, x *scanned) (same bool, err error) {
	before, err := statFile(f)
	if err != nil {
		return false, err
	}
	if before.kind != File { // something else has taken its place
		d.vanished(x)
		return false, nil
	}
	x.stat = before
	if err := d.c.fillMeta(&x.entry, &before, f); err != nil {
		return false, err
	}
	r := &stateReader{c: d.c, f: f, lists: &builder{kind: kindList, form: stateVersion, base: 1, emit: d.c.emit}}
	buf := scanBuffers.Get().(*[scanBuffer]byte)
	r.buf = buf[:]
	x.Size, err = r.read(before.size, before.sparse)
	scanBuffers.Put(buf)
	if err != nil {
		return false, err
	}
	if x.Refs, x.Level, err = r.lists.finish(maxDirect); err != nil {
		return false, err
	}
	x.Refs = slices.Clone(x.Refs)
	after, err := statFile(f)
	return err == nil && x.Size == before.size && after.same(&before), err
}

// stateReader cuts one file. Holes are the zeros that fill a whole number of
// grains: it depends on the content only, not on how the file system keeps it,
// whether a file restored elsewhere has the same root.
type stateReader struct {
	c     *stateScan
	f     *os.File
	src   io.Reader // in the place of f, for stream
	lists *builder
	buf   []byte
	have  int    // bytes in buf, not cut yet
	hole  uint64 // bytes of zeros before what comes next
}

// read returns how many bytes the file had, at most size.
func (r *stateReader) read(size uint64, sparse bool) (uint64, error) {
	var at, dataEnd uint64
	if !sparse {
		dataEnd = size
	}
	for at < size {
		if err := r.c.ctx.Err(); err != nil {
			return at, err
		}
		if at >= dataEnd {
			start, end, err := nextData(r.f, at, size)
			if err != nil {
				return at, err
			}
			start = min(start, size) / holeGrain * holeGrain
			dataEnd = min((max(end, start)+holeGrain-1)/holeGrain*holeGrain, size)
			if start >= size/holeGrain*holeGrain { // the tail after the last whole grain is data
				dataEnd = size
			}
			if start > at {
				if err := r.skip(start - at); err != nil {
					return at, err
				}
				at = start
				continue
			}
			dataEnd = max(dataEnd, min(at+holeGrain, size))
		}
		n, err := r.fill(at, dataEnd)
		if at += uint64(n); err == io.EOF {
			size = at // it became shorter
		} else if err != nil {
			return at, err
		}
	}
	return at, r.flush()
}

// stream cuts src to its end and returns its length.
func (r *stateReader) stream() (uint64, error) {
	var at uint64
	for {
		if err := r.c.ctx.Err(); err != nil {
			return at, err
		}
		n, err := r.take(r.src, (len(r.buf)-r.have)/holeGrain*holeGrain)
		if at += uint64(n); err == io.EOF {
			return at, r.flush()
		}
		if err != nil {
			return at, err
		}
	}
}

// fill reads from at, up to end, as much as the buffer takes, and cuts it. at
// is a multiple of holeGrain.
func (r *stateReader) fill(at, end uint64) (int, error) {
	room := (len(r.buf) - r.have) / holeGrain * holeGrain
	n := int(min(uint64(room), end-at))
	if _, err := r.c.limit.wait(r.c.ctx, n); err != nil {
		return 0, err
	}
	return r.take(io.NewSectionReader(r.f, int64(at), int64(n)), n)
}

// take reads n bytes, or less and io.EOF.
func (r *stateReader) take(src io.Reader, n int) (int, error) {
	got, err := io.ReadFull(src, r.buf[r.have:r.have+n])
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	r.c.read.Add(uint64(got))
	if err != nil && err != io.EOF {
		return got, err
	}
	if cerr := r.grains(got); cerr != nil {
		return got, cerr
	}
	return got, err
}

// grains takes n new bytes at the end of the buffer, grain by grain.
func (r *stateReader) grains(n int) error {
	data := r.buf[r.have : r.have+n]
	for len(data) > 0 {
		k := 0 // bytes before the next hole
		for k < len(data) && !isHole(data[k:min(k+holeGrain, len(data))]) {
			k = min(k+holeGrain, len(data))
		}
		if k > 0 {
			if err := r.data(data[:k]); err != nil {
				return err
			}
			data = data[k:]
			continue
		}
		data = data[holeGrain:]
		if err := r.skip(holeGrain); err != nil {
			return err
		}
	}
	return r.cut(false)
}

var zeroGrain [holeGrain]byte

func isHole(b []byte) bool { return len(b) == holeGrain && bytes.Equal(b, zeroGrain[:]) }

// data adds bytes, which lie in the buffer at or after its end, to what is to
// be cut.
func (r *stateReader) data(b []byte) error {
	if err := r.endHole(); err != nil {
		return err
	}
	r.have += copy(r.buf[r.have:], b)
	return nil
}

// skip adds a hole: what came before it is cut to its end.
func (r *stateReader) skip(n uint64) error {
	r.hole += n
	return r.cut(true)
}

func (r *stateReader) endHole() error {
	n := r.hole
	r.hole = 0
	if n == 0 {
		return nil
	}
	return r.lists.add(ref{Totals: Totals{Bytes: n}})
}

func (r *stateReader) flush() error {
	if err := r.cut(true); err != nil {
		return err
	}
	return r.endHole()
}

// cut makes chunks of what is in the buffer, of all of it if it is the end.
func (r *stateReader) cut(end bool) error {
	var pieces [][]byte
	data := r.buf[:r.have]
	for len(data) >= MaxChunk || end && len(data) > 0 {
		n := r.c.gear.cut(data)
		pieces = append(pieces, data[:n])
		data = data[n:]
	}
	ids, err := r.c.putAll(pieces)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if err := r.lists.add(ref{id, Totals{Bytes: uint64(len(pieces[i]))}}); err != nil {
			return err
		}
	}
	r.have = copy(r.buf, data)
	return nil
}

// putAll names and stores chunks, on as many workers as are idle.
func (c *stateScan) putAll(pieces [][]byte) ([]ID, error) {
	ids, errs := make([]ID, len(pieces)), make([]error, len(pieces))
	var next atomic.Int64
	work := func() {
		for i := int(next.Add(1)) - 1; i < len(pieces); i = int(next.Add(1)) - 1 {
			ids[i], errs[i] = c.emit(pieces[i])
		}
	}
	var wg sync.WaitGroup
	for range min(len(pieces)-1, cap(c.workers)) {
		select {
		case c.workers <- struct{}{}:
			wg.Go(func() {
				work()
				<-c.workers
			})
		default:
		}
	}
	work()
	wg.Wait()
	return ids, errors.Join(errs...)
}

// emit stores one object.
func (c *stateScan) emit(plain []byte) (ID, error) {
	id := c.key.name(plain)
	n, err := c.s.put(id, plain, KeyedNaming)
	c.stored.Add(uint64(n))
	return id, err
}
