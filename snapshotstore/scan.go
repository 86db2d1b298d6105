package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	scanBuffer = 1 << 20 // bytes read from a file at once, per worker
	scanWindow = 256     // entries of one directory in work at once
)

// ScanOptions say what of a directory becomes a tree. The zero value takes
// everything within the default limits, named by plain BLAKE3.
type ScanOptions struct {
	Limits Limits
	// Ignore are path.Match patterns. One without a slash is compared with
	// the name of every entry, one with a slash with its path. What matches
	// is left out, with all beneath it.
	Ignore []string
	// Namer names the objects; default PlainNamer.
	Namer Namer
	// Workers read files at the same time; default GOMAXPROCS.
	Workers int
}

// TreeInfo is what is known of a whole tree. Its totals do not count the
// root directory itself.
type TreeInfo struct {
	Root ID
	Totals
}

// ScanDir cuts, names and hands to the sink all objects of the tree that dir
// is, children before parents; a nil sink computes the root only. The same
// content gives the same root on every machine: owners, times and permission
// bits other than "executable by its owner" do not count.
//
// What can not be in a tree, or changes while it is read, ends the scan with
// an *EntryError that names the path. Memory is bounded by the entries of the
// largest single directory.
func ScanDir(ctx context.Context, dir string, sink ChunkSink, opts ScanOptions) (TreeInfo, error) {
	s, err := newScanner(ctx, sink, opts)
	if err != nil {
		return TreeInfo{}, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return TreeInfo{}, fmt.Errorf("scan %q: %w", dir, err)
	}
	defer root.Close()
	top, err := s.dir(root, ".", 0)
	if err != nil {
		return TreeInfo{}, fmt.Errorf("scan %q: %w", dir, err)
	}
	return TreeInfo{Root: top.ID, Totals: top.Totals}, nil
}

type scanner struct {
	ctx     context.Context // of the one call of ScanDir
	sink    ChunkSink
	opts    ScanOptions
	gear    *gearTable
	workers chan struct{} // one token per worker at work
	seen    Totals        // so far; owned by the goroutine that walks
}

// scanBuffers spares allocations of scanBuffer bytes.
var scanBuffers = sync.Pool{New: func() any { return new([scanBuffer]byte) }}

func newScanner(ctx context.Context, sink ChunkSink, opts ScanOptions) (*scanner, error) {
	if err := checkPatterns(opts.Ignore); err != nil {
		return nil, err
	}
	if sink == nil {
		sink = discard{}
	}
	if opts.Namer == nil {
		opts.Namer = PlainNamer
	}
	if opts.Workers <= 0 {
		opts.Workers = runtime.GOMAXPROCS(0)
	}
	opts.Limits = opts.Limits.withDefaults()
	return &scanner{ctx: ctx, sink: sink, opts: opts, gear: newGearTable(), workers: make(chan struct{}, opts.Workers)}, nil
}

// dir scans one directory, open as root, and all beneath it.
func (s *scanner) dir(root *os.Root, rel string, depth int) (ref, error) {
	if depth > s.opts.Limits.Depth {
		return ref{}, &EntryError{rel, ErrTooDeep}
	}
	f, err := root.Open(".")
	if err != nil {
		return ref{}, &EntryError{rel, err}
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return ref{}, &EntryError{rel, err}
	}
	names, err := s.names(f, rel)
	if err != nil {
		return ref{}, err
	}
	build := newDirBuilder(packageVersion, s.emit)
	for window := range slices.Chunk(names, scanWindow) {
		if err := s.window(root, rel, depth, window, build); err != nil {
			return ref{}, err
		}
	}
	// A name added or removed meanwhile shows in the directory's own times.
	if after, err := f.Stat(); err != nil || stampOf(after) != stampOf(before) {
		return ref{}, &EntryError{rel, ErrChanged}
	}
	return build.finish()
}

// names lists a directory in order, without what is ignored.
func (s *scanner) names(f *os.File, rel string) ([]string, error) {
	var names []string
	for {
		some, err := f.Readdirnames(1024)
		for _, name := range some {
			if matchesAny(s.opts.Ignore, name, join(rel, name)) {
				continue
			}
			names = append(names, name)
			s.seen.Entries++
		}
		if lerr := s.opts.Limits.check(s.seen, rel); lerr != nil {
			return nil, lerr
		}
		if err == io.EOF {
			slices.Sort(names)
			return names, nil
		}
		if err == nil {
			err = s.ctx.Err()
		}
		if err != nil {
			return nil, &EntryError{rel, err}
		}
	}
}

func checkPatterns(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil {
			return fmt.Errorf("ignore pattern %q: %w", p, err)
		}
	}
	return nil
}

// matchesAny reports whether a name or its path is to be left out.
func matchesAny(patterns []string, name, rel string) bool {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return true
		}
		if ok, _ := path.Match(p, rel); ok {
			return true
		}
	}
	return false
}

// window scans some entries of a directory: files on the workers, directories
// here, and adds them in order. The error returned is that of the first name.
func (s *scanner) window(root *os.Root, rel string, depth int, names []string, build *dirBuilder) error {
	entries, errs := make([]entry, len(names)), make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		if errs[i] = s.ctx.Err(); errs[i] != nil {
			break
		}
		e := &entries[i]
		info, err := s.classify(root, join(rel, name), name, depth, e)
		if err == nil && e.Kind == Dir {
			err = s.child(root, join(rel, name), depth, e)
		}
		if errs[i] = err; err != nil {
			break
		}
		if e.Kind == File {
			s.workers <- struct{}{}
			wg.Go(func() {
				buf := scanBuffers.Get().(*[scanBuffer]byte)
				errs[i] = s.file(root, join(rel, name), info, e, buf[:])
				scanBuffers.Put(buf)
				<-s.workers
			})
		}
	}
	wg.Wait()
	for i := range entries {
		if errs[i] != nil {
			return errs[i]
		}
		if err := build.add(&entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// classify fills in what an entry is without reading it.
func (s *scanner) classify(root *os.Root, rel, name string, depth int, e *entry) (fs.FileInfo, error) {
	if err := checkName(name); err != nil {
		return nil, &EntryError{rel, err}
	}
	if len(rel) > s.opts.Limits.Path {
		return nil, &EntryError{rel, ErrPathTooLong}
	}
	info, err := root.Lstat(name)
	if err != nil {
		return nil, &EntryError{rel, err}
	}
	e.Name = name
	switch info.Mode().Type() {
	case 0:
		e.Kind, e.Mode, e.Size = File, modeFile, uint64(info.Size())
		if info.Mode()&0o100 != 0 {
			e.Mode = modeExec
		}
		s.seen.Files++
		s.seen.Bytes += e.Size
		err = s.opts.Limits.check(s.seen, rel)
	case fs.ModeDir:
		e.Kind, e.Mode = Dir, modeDir
	case fs.ModeSymlink:
		e.Kind, e.Mode = Symlink, modeSymlink
		if e.Target, err = root.Readlink(name); err == nil {
			err = checkTarget(e.Target, depth)
		}
	default:
		err = fmt.Errorf("%w (%s)", ErrSpecialFile, info.Mode().Type())
	}
	var ee *EntryError
	if err != nil && !errors.As(err, &ee) {
		err = &EntryError{rel, err}
	}
	return info, err
}

func (s *scanner) child(root *os.Root, rel string, depth int, e *entry) error {
	sub, err := root.OpenRoot(e.Name)
	if err != nil {
		return &EntryError{rel, err}
	}
	defer sub.Close()
	e.Dir, err = s.dir(sub, rel, depth+1)
	return err
}

// stamp tells whether a file may have changed between two looks.
type stamp struct {
	size         int64
	mtime, ctime time.Time
	dev, ino     uint64
}

func stampOf(info fs.FileInfo) stamp {
	st := stamp{size: info.Size(), mtime: info.ModTime()}
	fillStamp(&st, info)
	return st
}

// file reads one regular file into chunks. info is what Lstat said.
func (s *scanner) file(root *os.Root, rel string, info fs.FileInfo, e *entry, buf []byte) error {
	// Not to block if a fifo has taken the file's place, nor to follow a symlink.
	f, err := root.OpenFile(e.Name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return &EntryError{rel, err}
	}
	defer f.Close()
	before, err := f.Stat()
	if err != nil {
		return &EntryError{rel, err}
	}
	if stampOf(before) != stampOf(info) || !before.Mode().IsRegular() {
		return &EntryError{rel, ErrChanged}
	}
	lists := &builder{kind: kindList, form: packageVersion, base: 1, emit: s.emit}
	n, err := s.chunks(f, e.Size, lists, buf)
	if err != nil {
		return &EntryError{rel, err}
	}
	after, err := f.Stat()
	if err != nil || n != e.Size || stampOf(after) != stampOf(before) {
		return &EntryError{rel, ErrChanged}
	}
	e.Refs, e.Level, err = lists.finish(maxDirect)
	return err
}

// chunks cuts a file, gives the chunks to the sink and their refs to lists.
// It reads no more than one buffer beyond size.
func (s *scanner) chunks(f io.Reader, size uint64, lists *builder, buf []byte) (uint64, error) {
	var total uint64
	have, end := 0, false
	for !end {
		n, err := io.ReadFull(f, buf[have:])
		end = err == io.EOF || err == io.ErrUnexpectedEOF
		if err != nil && !end {
			return total, err
		}
		if err := s.ctx.Err(); err != nil {
			return total, err
		}
		have += n
		total += uint64(n)
		if total > size {
			return total, ErrChanged
		}
		rest, err := s.cutAll(buf[:have], end, lists)
		if err != nil {
			return total, err
		}
		have = copy(buf, rest)
	}
	return total, nil
}

// cutAll cuts as many chunks from data as can be known, all if it is the end.
func (s *scanner) cutAll(data []byte, end bool, lists *builder) ([]byte, error) {
	var ids []ID
	var pieces [][]byte
	for len(data) >= MaxChunk || end && len(data) > 0 {
		n := s.gear.cut(data)
		pieces = append(pieces, data[:n])
		ids = append(ids, s.opts.Namer(data[:n]))
		data = data[n:]
	}
	if err := s.give(ids, pieces); err != nil {
		return nil, err
	}
	for i, id := range ids {
		if err := lists.add(ref{id, Totals{Bytes: uint64(len(pieces[i]))}}); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// give hands to the sink what it lacks.
func (s *scanner) give(ids []ID, pieces [][]byte) error {
	if len(ids) == 0 {
		return nil
	}
	has, err := s.sink.Has(s.ctx, ids)
	if err != nil {
		return err
	}
	for i, id := range ids {
		if has[i] {
			continue
		}
		if err := s.sink.Put(s.ctx, id, pieces[i]); err != nil {
			return err
		}
	}
	return nil
}

func (s *scanner) emit(plain []byte) (ID, error) {
	id := s.opts.Namer(plain)
	return id, s.give([]ID{id}, [][]byte{plain})
}

// join is path.Join for a clean parent and one name, byte for byte.
func join(rel, name string) string {
	if rel == "." {
		return name
	}
	return rel + "/" + name
}
