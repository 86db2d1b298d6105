package snapshotstore

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

const paxXattr = "SCHILY.xattr." // as GNU tar, libarchive and star have it

// ExportTar writes a snapshot as a tar archive in the PAX format, which any
// tar reads: owners by number, times to the nanosecond, extended attributes
// as SCHILY.xattr records, hard links, fifos. Holes become zeros.
func (s *Store) ExportTar(ctx context.Context, root ID, w io.Writer) error {
	n, err := s.node(stateWant(root))
	if err == nil {
		buf := bufio.NewWriterSize(w, 256<<10)
		x := &exporter{s: s, ctx: ctx, w: tar.NewWriter(buf)}
		top := n.state.entry()
		if err = s.walkEntry(ctx, ".", &top, 0, x.entry); err == nil {
			err = x.w.Close()
		}
		if err == nil {
			err = buf.Flush()
		}
	}
	if err != nil {
		return fmt.Errorf("export snapshot %s: %w", root, err)
	}
	return nil
}

type exporter struct {
	s   *Store
	ctx context.Context // of the one call of ExportTar
	w   *tar.Writer
}

func (x *exporter) entry(path string, e *entry) error {
	h := &tar.Header{Format: tar.FormatPAX, Name: path, Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: time.Unix(e.Time.sec, int64(e.Time.nsec))}
	for _, a := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+a.Name] = a.Value
	}
	switch e.Kind {
	case Dir:
		h.Typeflag, h.Name = tar.TypeDir, path+"/"
	case File:
		h.Typeflag, h.Size = tar.TypeReg, int64(e.Size)
	case Symlink:
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	case HardLink:
		h.Typeflag, h.Linkname = tar.TypeLink, e.Target
	case Fifo:
		h.Typeflag = tar.TypeFifo
	}
	if err := x.w.WriteHeader(h); err != nil {
		return &EntryError{path, err}
	}
	if e.Kind != File {
		return nil
	}
	for l, err := range x.s.leaves(x.ctx, e) {
		if err == nil {
			err = x.leaf(l)
		}
		if err != nil {
			return &EntryError{path, err}
		}
	}
	return nil
}

func (x *exporter) leaf(l leaf) error {
	if !l.ID.IsZero() {
		plain, err := x.s.chunk(l)
		if err == nil {
			_, err = x.w.Write(plain)
		}
		return err
	}
	for n := l.Bytes; n > 0; n -= min(n, holeGrain) {
		if _, err := x.w.Write(zeroGrain[:min(n, holeGrain)]); err != nil {
			return err
		}
		if err := x.ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// ImportOptions bound what ImportTar takes.
type ImportOptions struct {
	// Limits; default 1,000,000 entries, 1 TiB, 256 levels, paths of 4,096 bytes.
	Limits Limits
}

// ErrTar is an archive that can not be a snapshot.
var ErrTar = errors.New("archive refused")

// ImportTar makes a snapshot of a tar archive, without a directory in
// between. Names must be relative, without "..", and beneath directories; a
// file that comes twice is the later one, as for tar. Devices are skipped and
// counted. What is refused is an *EntryError; nothing is returned then, and
// what was stored goes with the next Collect. Memory is proportional to the entries.
func (s *Store) ImportTar(ctx context.Context, r io.Reader, opts ImportOptions) (StateInfo, error) {
	key, err := s.key()
	if err != nil {
		return StateInfo{}, fmt.Errorf("import archive: %w", err)
	}
	if opts.Limits.Entries == 0 {
		opts.Limits.Entries = 1_000_000
	}
	if opts.Limits.Bytes == 0 {
		opts.Limits.Bytes = 1 << 40
	}
	if opts.Limits.Path == 0 {
		opts.Limits.Path = 4096
	}
	opts.Limits = opts.Limits.stateDefaults()
	o, err := s.begin()
	if err != nil {
		return StateInfo{}, err
	}
	c := &stateScan{s: s, ctx: ctx, key: key, gear: newGearTable(), workers: make(chan struct{}, s.opts.workers)}
	c.workers <- struct{}{} // this one
	m := &importer{c: c, limits: opts.Limits, top: &imported{entry: &entry{Kind: Dir, Mode: modeDir}}}
	tail := &tailReader{r: r}
	info, err := m.run(tar.NewReader(tail))
	if err == nil && !tail.ended() {
		info, err = StateInfo{}, fmt.Errorf("%w: it was cut: its end mark is missing", ErrTar)
	}
	if err = o.end(err); err != nil {
		return StateInfo{}, fmt.Errorf("import archive: %w", err)
	}
	return info, nil
}

// tailReader remembers the last bytes read: an archive ends with two blocks of
// zeros, and the end of the stream alone is no end.
type tailReader struct {
	r    io.Reader
	last [1024]byte
	n    int // bytes of last that are known
}

func (t *tailReader) Read(b []byte) (int, error) {
	n, err := t.r.Read(b)
	got := b[max(n-len(t.last), 0):n]
	copy(t.last[:], t.last[len(got):])
	copy(t.last[len(t.last)-len(got):], got)
	t.n = min(t.n+len(got), len(t.last))
	return n, err
}

func (t *tailReader) ended() bool { return t.n == len(t.last) && t.last == [1024]byte{} }

// imported is one name of the tree that an archive makes. Names that are hard
// links of each other share the entry.
type imported struct {
	*entry
	children map[string]*imported
}

type importer struct {
	c       *stateScan
	limits  Limits
	top     *imported
	totals  Totals
	skipped uint64
	buf     []byte
}

func (m *importer) run(r *tar.Reader) (StateInfo, error) {
	m.buf = make([]byte, scanBuffer)
	for {
		h, err := r.Next()
		if err == io.EOF {
			return m.finish()
		}
		if err == nil {
			err = m.c.ctx.Err()
		}
		if err == nil {
			err = m.entry(h, r)
		}
		if err != nil {
			return StateInfo{}, err
		}
	}
}

// entry takes one member of the archive.
func (m *importer) entry(h *tar.Header, r io.Reader) error {
	path, err := m.path(h.Name)
	if err != nil {
		return &EntryError{h.Name, err}
	}
	e, err := m.header(h)
	if err == nil && e.Kind == 0 {
		m.skipped++
		return nil
	}
	if err == nil && e.Kind == File {
		m.totals.Files++
		m.totals.Bytes += uint64(h.Size)
		if err = m.limits.check(m.totals, path); err == nil {
			err = m.content(e, r)
		}
	}
	if err == nil {
		err = m.place(path, e, h)
	}
	var ee *EntryError
	if err != nil && !errors.As(err, &ee) {
		err = &EntryError{path, err}
	}
	return err
}

// path checks a name; "." is the root.
func (m *importer) path(name string) (string, error) {
	name = strings.TrimSuffix(name, "/")
	for strings.HasPrefix(name, "./") {
		name = strings.TrimLeft(name[2:], "/")
	}
	switch {
	case name == "." || name == "":
		return ".", nil
	case len(name) > m.limits.Path:
		return "", ErrPathTooLong
	case strings.Count(name, "/") > m.limits.Depth:
		return "", ErrTooDeep
	case !goodPath(name):
		return "", fmt.Errorf("%w: %w %q", ErrTar, ErrBadName, name)
	}
	return name, nil
}

// header makes an entry of a header; its kind is 0 for what is skipped.
func (m *importer) header(h *tar.Header) (*entry, error) {
	e := &entry{Mode: uint32(h.Mode) & modeBits}
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Kind = File
	case tar.TypeDir:
		e.Kind = Dir
	case tar.TypeSymlink:
		e.Kind, e.Target = Symlink, h.Linkname
		if !goodText(e.Target, maxTarget) {
			return nil, fmt.Errorf("%w: %w of a symlink's target", ErrTar, ErrBadName)
		}
	case tar.TypeLink:
		e.Kind = HardLink
	case tar.TypeFifo:
		e.Kind = Fifo
	case tar.TypeChar, tar.TypeBlock:
		return e, nil
	default:
		return nil, fmt.Errorf("%w: member of type %q", ErrTar, h.Typeflag)
	}
	if h.Size < 0 || uint64(h.Uid) > 1<<32-1 || uint64(h.Gid) > 1<<32-1 {
		return nil, fmt.Errorf("%w: a number is out of range", ErrTar)
	}
	e.UID, e.GID = uint32(h.Uid), uint32(h.Gid)
	e.Time = fileTime{h.ModTime.Unix(), uint32(h.ModTime.Nanosecond())}
	for name, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(name, paxXattr); ok && keptXattr(name) {
			e.Xattrs = append(e.Xattrs, Xattr{name, value})
		}
	}
	slices.SortFunc(e.Xattrs, func(a, b Xattr) int { return strings.Compare(a.Name, b.Name) })
	if xattrBytes(e.Xattrs) > maxXattrs {
		return nil, ErrXattrs
	}
	return e, nil
}

// content cuts and stores the content of a file.
func (m *importer) content(e *entry, src io.Reader) error {
	r := &stateReader{c: m.c, src: src, buf: m.buf,
		lists: &builder{kind: kindList, form: stateVersion, base: 1, emit: m.c.emit}}
	var err error
	if e.Size, err = r.stream(); err != nil {
		return err
	}
	if e.Refs, e.Level, err = r.lists.finish(maxDirect); err == nil {
		e.Refs = slices.Clone(e.Refs)
	}
	return err
}

// place puts an entry where its path says.
func (m *importer) place(path string, e *entry, h *tar.Header) error {
	if path == "." {
		if e.Kind != Dir {
			return fmt.Errorf("%w: the root is no directory", ErrTar)
		}
		*m.top.entry = *e
		return nil
	}
	if e.Kind == HardLink {
		to, err := m.path(h.Linkname)
		var x *imported
		if err == nil {
			x = m.find(to)
		}
		if x == nil || x.Kind != File {
			return fmt.Errorf("%w: hard link to %q, which is no file before it", ErrTar, h.Linkname)
		}
		e = x.entry
	}
	at, err := m.parent(path)
	if err != nil {
		return err
	}
	name := path[strings.LastIndexByte(path, '/')+1:]
	old := at.children[name]
	if old != nil && old.Kind == Dir && e.Kind == Dir {
		*old.entry = *e // again, with other metadata
		return nil
	}
	if old != nil && old.Kind == Dir {
		return fmt.Errorf("%w: in the place of a directory", ErrTar)
	}
	if old == nil {
		if err := m.count(path); err != nil {
			return err
		}
	}
	at.put(name, &imported{entry: e})
	return nil
}

func (m *importer) count(path string) error {
	m.totals.Entries++
	return m.limits.check(m.totals, path)
}

func (x *imported) put(name string, child *imported) {
	if x.children == nil {
		x.children = map[string]*imported{}
	}
	x.children[name] = child
}

// parent finds the directory of a path. Those that the archive does not name
// are made.
func (m *importer) parent(path string) (*imported, error) {
	at := m.top
	names := strings.Split(path, "/")
	for i, name := range names[:len(names)-1] {
		next := at.children[name]
		if next == nil {
			if err := m.count(path); err != nil {
				return nil, err
			}
			next = &imported{entry: &entry{Kind: Dir, Mode: modeDir}}
			at.put(name, next)
		}
		if next.Kind != Dir {
			return nil, fmt.Errorf("%w: %q is no directory", ErrTar, strings.Join(names[:i+1], "/"))
		}
		at = next
	}
	return at, nil
}

func (m *importer) find(path string) *imported {
	at := m.top
	for name := range strings.SplitSeq(path, "/") {
		if at = at.children[name]; at == nil {
			return nil
		}
	}
	return at
}

// finish makes the directories, which are complete now.
func (m *importer) finish() (StateInfo, error) {
	first := map[*entry]string{} // of files that have a name already
	dir, content, err := m.dir(m.top, ".", first)
	if err != nil {
		return StateInfo{}, err
	}
	root := &stateRoot{mode: m.top.Mode, meta: m.top.meta, dir: dir}
	top := entry{Kind: Dir, Mode: root.mode, meta: root.meta}
	root.content = m.c.key.name(appendContent(nil, &top, content))
	id, err := m.c.emit(appendState(nil, root))
	return StateInfo{Root: id, Content: root.content, Totals: dir.Totals, Stored: m.c.stored.Load(),
		Read: m.c.read.Load(), Skipped: m.skipped}, err
}

// dir makes one directory. Its depth is bounded by that of paths.
func (m *importer) dir(x *imported, rel string, first map[*entry]string) (ref, ID, error) {
	build, hash := newDirBuilder(stateVersion, m.c.emit), newKeyedHasher(m.c.key.key)
	for _, name := range slices.Sorted(maps.Keys(x.children)) {
		child := x.children[name]
		e := *child.entry
		e.Name = name
		path := join(rel, name)
		var content ID
		switch to, again := first[child.entry]; {
		case e.Kind == Dir:
			var err error
			if e.Dir, content, err = m.dir(child, path, first); err != nil {
				return ref{}, ID{}, err
			}
		case again:
			e = entry{Kind: HardLink, Name: name, Target: to}
		case e.Kind == File:
			first[child.entry] = path
		}
		hash.Write(appendContent(nil, &e, content))
		if err := build.add(&e); err != nil {
			return ref{}, ID{}, err
		}
	}
	out, err := build.finish()
	var content ID
	hash.Sum(content[:0])
	return out, content, err
}
