package snapshotstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Owner is a user and a group, by number.
type Owner struct{ UID, GID uint32 }

// RestoreOptions say how a snapshot becomes a directory.
type RestoreOptions struct {
	// Owner is given to every entry instead of the one in the snapshot.
	Owner *Owner
	// Warm prepares the directory beside dest and leaves dest alone: the next
	// RestoreState for the same dest, warm or not, changes only what differs.
	Warm bool
	// Discard removes the old dest instead of keeping it.
	Discard bool
}

// RestoreInfo is what RestoreState did.
type RestoreInfo struct {
	Totals
	Written  uint64 // bytes
	Reused   uint64 // files that a warm copy had already
	Previous string // where the old dest is kept, "" if there is none
}

// RestoreState makes dest exactly the snapshot: what is not in it is gone. The
// directory is built beside dest, brought to disk and swapped with it in one
// step, so that a crash leaves the old one or the new one, whole. The old one
// is kept as a sibling, ".NAME.previous-N", until RemovePrevious.
//
// Owners are those of the snapshot where the process is root, else its own.
// Holes stay holes; zeros that fill whole pages become holes too. After a
// crash, or when it was cancelled, call it again: what is built already is
// read, compared and used. An *EntryError names what could not be made.
func (s *Store) RestoreState(ctx context.Context, root ID, dest string, opts RestoreOptions) (RestoreInfo, error) {
	info, err := s.restoreState(ctx, root, dest, opts)
	if err != nil {
		return RestoreInfo{}, fmt.Errorf("restore snapshot to %q: %w", dest, err)
	}
	return info, nil
}

func (s *Store) restoreState(ctx context.Context, root ID, dest string, opts RestoreOptions) (RestoreInfo, error) {
	key, err := s.key()
	if err != nil {
		return RestoreInfo{}, err
	}
	n, err := s.node(stateWant(root))
	if err != nil {
		return RestoreInfo{}, err
	}
	p, err := s.openPlace(dest)
	if err != nil {
		return RestoreInfo{}, err
	}
	defer p.close()
	if err := p.endSwap(); err != nil {
		return RestoreInfo{}, err
	}
	if info, err := p.parent.Lstat(p.name); err == nil && !info.IsDir() {
		return RestoreInfo{}, ErrExists
	}
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	r := &restorer{s: s, ctx: ctx, cancel: cancel, key: key, opts: opts, isRoot: os.Geteuid() == 0, entries: n.totals.Entries,
		tokens: make(chan struct{}, s.opts.workers)}
	if err := r.warm(p, n.state); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause // the first error; err may be but its consequence
		}
		if r.fresh && caller.Err() == nil { // it may be the room that it takes
			err = errors.Join(err, removeAll(p.parent, p.warm()))
		}
		return RestoreInfo{}, err
	}
	info := RestoreInfo{Totals: n.totals, Written: r.written.Load(), Reused: r.reused.Load()}
	if !opts.Warm {
		info.Previous, err = p.swap(opts.Discard)
	}
	return info, err
}

func (p *place) warm() string           { return "." + p.name + ".warm" }
func (p *place) swapPrefix() string     { return "." + p.name + ".swap-" }
func (p *place) previousPrefix() string { return "." + p.name + ".previous-" }

// swap puts the warm copy in the place of dest. While both are there, the
// name of the one that is not dest tells the inode of the new one, so that
// endSwap knows after a crash which of them it is.
func (p *place) swap(discard bool) (previous string, err error) {
	if _, err := p.parent.Lstat(p.name); errors.Is(err, fs.ErrNotExist) {
		if err := p.parent.Rename(p.warm(), p.name); err != nil {
			return "", err
		}
		return "", syncRoot(p.parent)
	}
	dir, err := p.parent.Open(".")
	if err != nil {
		return "", err
	}
	defer dir.Close()
	st, err := statAt(dir, p.warm())
	if err != nil {
		return "", err
	}
	aside := p.swapPrefix() + strconv.FormatUint(st.ino, 10)
	if err := p.parent.Rename(p.warm(), aside); err != nil {
		return "", err
	}
	if err := exchangeAt(dir, aside, p.name); err != nil {
		return "", errors.Join(err, p.parent.Rename(aside, p.warm()))
	}
	if err := dir.Sync(); err != nil {
		return "", err
	}
	if discard {
		return "", removeAll(p.parent, aside)
	}
	name, err := p.freePrevious()
	if err == nil {
		err = p.parent.Rename(aside, name)
	}
	if err == nil {
		err = dir.Sync()
	}
	return filepath.Join(filepath.Dir(p.dest), name), err
}

// endSwap ends a swap that a crash interrupted.
func (p *place) endSwap() error {
	dir, err := p.parent.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := p.siblings(p.swapPrefix())
	if err != nil {
		return err
	}
	for _, aside := range names {
		st, err := statAt(dir, aside)
		if err != nil {
			return err
		}
		if aside == p.swapPrefix()+strconv.FormatUint(st.ino, 10) { // the new one, not swapped yet
			err = removeAll(p.parent, aside)
		} else {
			var name string
			if name, err = p.freePrevious(); err == nil {
				err = p.parent.Rename(aside, name)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// siblings lists names beside dest that begin with prefix and end with a number.
func (p *place) siblings(prefix string) ([]string, error) {
	f, err := p.parent.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(-1)
	names = slices.DeleteFunc(names, func(name string) bool {
		_, nerr := strconv.ParseUint(strings.TrimPrefix(name, prefix), 10, 64)
		return !strings.HasPrefix(name, prefix) || nerr != nil
	})
	slices.Sort(names)
	return names, err
}

func (p *place) freePrevious() (string, error) {
	names, err := p.siblings(p.previousPrefix())
	most := 0
	for _, name := range names {
		n, _ := strconv.Atoi(strings.TrimPrefix(name, p.previousPrefix()))
		most = max(most, n)
	}
	return p.previousPrefix() + strconv.Itoa(most+1), err
}

// PreviousStates lists the old copies that RestoreState has kept beside dest.
func (s *Store) PreviousStates(dest string) ([]string, error) {
	p, err := s.openPlace(dest)
	if err != nil {
		return nil, fmt.Errorf("list previous states of %q: %w", dest, err)
	}
	defer p.close()
	if err = p.endSwap(); err == nil {
		var names []string
		if names, err = p.siblings(p.previousPrefix()); err == nil {
			for i, name := range names {
				names[i] = filepath.Join(filepath.Dir(p.dest), name)
			}
			return names, nil
		}
	}
	return nil, fmt.Errorf("list previous states of %q: %w", dest, err)
}

// RemovePrevious removes the old copies that RestoreState has kept beside
// dest, and a warm copy that has not become dest.
func (s *Store) RemovePrevious(dest string) error {
	p, err := s.openPlace(dest)
	if err != nil {
		return fmt.Errorf("remove previous states of %q: %w", dest, err)
	}
	defer p.close()
	if err = p.endSwap(); err == nil {
		var names []string
		names, err = p.siblings(p.previousPrefix())
		for _, name := range append(names, p.warm()) {
			if err == nil {
				err = removeAll(p.parent, name)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("remove previous states of %q: %w", dest, err)
	}
	return nil
}

// restorer makes a directory a snapshot. Directories are gone through by one
// goroutine, files are written by as many as there are tokens.
type restorer struct {
	s       *Store
	ctx     context.Context // of the one call of RestoreState
	cancel  context.CancelCauseFunc
	key     storeKey
	opts    RestoreOptions
	isRoot  bool
	entries uint64 // of the snapshot
	fresh   bool   // there was nothing to begin with
	top     *os.File
	next    *cacheWriter // nil unless the copy stays warm
	tokens  chan struct{}
	files   sync.WaitGroup

	written, reused atomic.Uint64
	dirty           atomic.Int64 // files and directories to bring to disk
}

// warm makes the warm copy the snapshot, until it is on disk.
func (r *restorer) warm(p *place, state *stateRoot) (err error) {
	err = p.parent.Mkdir(p.warm(), 0o700)
	if r.fresh = err == nil; err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	dir, err := p.parent.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	if r.top, err = openDirAt(dir, p.warm()); err != nil {
		return err
	}
	defer r.top.Close()
	cache := r.s.openCache("warm", p.dest, r.key)
	defer cache.close()
	// The cache goes before anything it tells of is changed.
	if err := r.dropCache(cache); err != nil {
		return err
	}
	if r.opts.Warm {
		r.next = newCacheWriter(r.s.disk, cache.path, r.key.name, r.s.opts.Now().UnixNano())
		defer r.next.drop()
	}
	old := cache.root()
	if r.fresh {
		old = nil
	}
	top := state.entry()
	at, err := r.dir(r.top, &top, ".", 0, old, r.fresh)
	r.files.Wait()
	if err == nil {
		err = context.Cause(r.ctx)
	}
	if err == nil {
		err = r.sync()
	}
	if err == nil && r.next != nil {
		if cerr := r.next.commit(at); cerr != nil {
			r.s.log.Warn("cache of a warm copy not written", "path", cache.path, "error", cerr)
		}
	}
	return err
}

func (r *restorer) dropCache(c *scanCache) error {
	err := r.s.disk.remove(c.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = r.s.disk.syncDir(filepath.Dir(c.path))
	}
	return err
}

// sync ends what settle has begun.
func (r *restorer) sync() error {
	if r.dirty.Load() > r.each() {
		return syncAll(r.top)
	}
	return nil
}

// each is up to how many files and directories are synced one by one.
func (r *restorer) each() int64 {
	if r.fresh && r.entries > syncEachMost {
		return 0
	}
	return syncEachMost
}

// settle brings to disk what was changed, now or with all the rest.
func (r *restorer) settle(f *os.File) error {
	if r.dirty.Add(1) <= r.each() {
		return f.Sync()
	}
	return nil
}

// restoring is one entry on its way.
type restoring struct {
	entry
	stat   fileStat // of what is there; kind 0 if nothing is
	exists bool
	old    *cacheFile
	at     uint64 // of a directory: its records in the new cache
}

// dir makes an open directory what e says and returns where its records are
// in the new cache. fresh says that it is empty.
func (r *restorer) dir(f *os.File, e *entry, rel string, depth int, old *cacheDir, fresh bool) (uint64, error) {
	d := &restoreDir{r: r, f: f, rel: rel, depth: depth, old: old, fresh: fresh, next: &cacheDirWriter{w: r.next}}
	err := d.open(depth)
	if err == nil {
		err = d.fill(e)
	}
	if err != nil {
		r.cancel(err)
		r.files.Wait()
		return 0, err
	}
	r.files.Wait() // the directory's own time comes after all that is in it
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	if err := d.finish(e); err != nil {
		return 0, &EntryError{rel, err}
	}
	if r.next == nil {
		return 0, nil
	}
	return d.next.finish(), nil
}

// restoreDir is one directory being made.
type restoreDir struct {
	r       *restorer
	f       *os.File
	rel     string
	depth   int
	old     *cacheDir
	fresh   bool
	have    []string // names that are there, not met yet
	changed bool     // a name was added or removed
	next    *cacheDirWriter
}

func (d *restoreDir) open(depth int) error {
	if depth > d.r.s.opts.StateLimits.Depth {
		return &EntryError{d.rel, ErrTooDeep}
	}
	if d.fresh {
		return nil
	}
	st, err := statFile(d.f)
	if err == nil && st.mode&0o700 != 0o700 {
		err = d.f.Chmod(0o700)
	}
	if err == nil {
		d.have, err = d.f.Readdirnames(-1)
	}
	slices.Sort(d.have)
	if err != nil {
		return &EntryError{d.rel, err}
	}
	return nil
}

func (d *restoreDir) fill(e *entry) error {
	var window []*restoring
	for sub, err := range d.r.s.entries(d.r.ctx, dirWant(stateVersion, e.Dir)) {
		if err != nil {
			return &EntryError{d.rel, err}
		}
		x := &restoring{entry: *sub}
		rel := join(d.rel, x.Name)
		if len(rel) > d.r.s.opts.StateLimits.Path {
			return &EntryError{rel, ErrPathTooLong}
		}
		if err := d.entry(x, rel); err != nil {
			var e *EntryError
			if errors.As(err, &e) {
				return err
			}
			return &EntryError{rel, err}
		}
		if window = append(window, x); len(window) == scanWindow {
			d.record(window)
			window = window[:0]
		}
	}
	d.record(window)
	return d.removeBefore("")
}

// record notes some entries in the new cache when they are done.
func (d *restoreDir) record(window []*restoring) {
	if d.r.next == nil {
		return
	}
	d.r.files.Wait()
	for _, x := range window {
		switch {
		case x.Kind == Dir:
			d.next.dir(x.Name, x.at)
		case x.Kind == File && x.stat.nlink == 1 && d.r.ctx.Err() == nil:
			c := &cacheFile{ctime: x.stat.ctime, dev: x.stat.dev, ino: x.stat.ino, entry: x.entry}
			c.entry.Time, c.entry.Size = x.stat.mtime, x.stat.size
			d.next.file(c)
		}
	}
}

// removeBefore removes what is there and not in the snapshot, up to a name, or
// all that is left for "".
func (d *restoreDir) removeBefore(name string) error {
	for len(d.have) > 0 && (name == "" || d.have[0] < name) {
		if err := d.remove(d.have[0]); err != nil {
			return &EntryError{join(d.rel, d.have[0]), err}
		}
		d.have = d.have[1:]
	}
	return nil
}

func (d *restoreDir) remove(name string) error {
	d.changed = true
	err := unlinkAt(d.f, name, false)
	if errors.Is(err, unix.EISDIR) || errors.Is(err, unix.EPERM) {
		return removeTreeAt(d.f, name)
	}
	return err
}

// removeTreeAt removes a directory with all beneath it, symlinks not followed.
func removeTreeAt(dir *os.File, name string) error {
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	if err != nil {
		return err
	}
	defer root.Close()
	return removeAll(root, name)
}

// entry makes one entry, or starts to.
func (d *restoreDir) entry(x *restoring, rel string) (err error) {
	if err := d.removeBefore(x.Name); err != nil {
		return err
	}
	if len(d.have) > 0 && d.have[0] == x.Name {
		d.have = d.have[1:]
		if x.stat, err = statAt(d.f, x.Name); err != nil {
			return err
		}
		x.exists = true
	}
	if x.exists && x.Kind != HardLink && (x.stat.kind != x.Kind || x.Kind != Dir && x.stat.nlink > 1) {
		if err := d.remove(x.Name); err != nil {
			return err
		}
		x.exists = false
	}
	d.changed = d.changed || !x.exists
	switch x.Kind {
	case Dir:
		return d.child(x, rel)
	case File:
		return d.startFile(x, rel)
	case Symlink:
		return d.symlink(x)
	case Fifo:
		if !x.exists {
			err = mkfifoAt(d.f, x.Name, 0o600)
		}
		if err == nil {
			err = d.setMeta(x)
		}
		return err
	case HardLink:
		return d.hardLink(x)
	}
	return fmt.Errorf("unknown kind %q", x.Kind)
}

func (d *restoreDir) child(x *restoring, rel string) error {
	old := d.old.child(x.Name)
	if !x.exists {
		if err := mkdirAt(d.f, x.Name, 0o700); err != nil {
			return err
		}
		old = nil
	}
	sub, err := openDirAt(d.f, x.Name)
	if err != nil {
		return err
	}
	defer sub.Close()
	x.at, err = d.r.dir(sub, &x.entry, rel, d.depth+1, old, !x.exists)
	return err
}

func (d *restoreDir) symlink(x *restoring) error {
	if x.exists {
		if to, err := readlinkAt(d.f, x.Name); err != nil || to != x.Target {
			if err := d.remove(x.Name); err != nil {
				return err
			}
			x.exists = false
		}
	}
	if !x.exists {
		if err := symlinkAt(d.f, x.Target, x.Name); err != nil {
			return err
		}
	}
	return d.setMeta(x)
}

// hardLink makes another name of a file. The path is gone through one
// directory at a time, so that it can not lead out.
func (d *restoreDir) hardLink(x *restoring) error {
	d.r.files.Wait()
	from, name, err := parentOf(d.r.top, x.Target)
	if err != nil {
		return err
	}
	defer from.Close()
	st, err := statAt(from, name)
	switch {
	case err != nil:
		return err
	case st.kind != File:
		return fmt.Errorf("hard link to %q, which is no file: %w", x.Target, ErrBadName)
	case x.exists && x.stat.dev == st.dev && x.stat.ino == st.ino:
		return nil
	}
	if x.exists {
		if err := d.remove(x.Name); err != nil {
			return err
		}
	}
	d.changed = true
	return linkAt(from, name, d.f, x.Name)
}

// parentOf opens the directory of a path beneath top and returns the last name.
func parentOf(top *os.File, path string) (*os.File, string, error) {
	dir, err := openDirAt(top, ".")
	for err == nil {
		name, rest, more := strings.Cut(path, "/")
		if !more {
			return dir, path, nil
		}
		var sub *os.File
		sub, err = openDirAt(dir, name)
		dir.Close()
		dir, path = sub, rest
	}
	return nil, "", err
}

// owner returns whose an entry is to be, and whether that is to be set.
func (r *restorer) owner(e *meta) (Owner, bool) {
	if r.opts.Owner != nil {
		return *r.opts.Owner, true
	}
	return Owner{e.UID, e.GID}, r.isRoot
}

// setMeta sets owner, mode and time of what is neither file nor directory.
func (d *restoreDir) setMeta(x *restoring) error {
	st, err := statAt(d.f, x.Name)
	if err != nil {
		return err
	}
	if o, set := d.r.owner(&x.meta); set && (o != Owner{st.uid, st.gid}) {
		d.changed = true
		if err := chownAt(d.f, x.Name, o.UID, o.GID); err != nil {
			return err
		}
	}
	if x.Kind != Symlink && st.mode != x.Mode {
		d.changed = true
		if err := chmodAt(d.f, x.Name, x.Mode); err != nil {
			return err
		}
	}
	if st.mtime != x.Time {
		d.changed = true
		return setTimeAt(d.f, x.Name, x.Time)
	}
	return nil
}

// finish gives the directory its own metadata.
func (d *restoreDir) finish(e *entry) error {
	st, err := statFile(d.f)
	if err != nil {
		return err
	}
	changed, err := d.r.openMeta(d.f, e, &st, d.fresh)
	if err != nil {
		return err
	}
	if st.mtime != e.Time {
		changed = true
		if err := setTimeAt(d.f, ".", e.Time); err != nil {
			return err
		}
	}
	if changed || d.changed {
		return d.r.settle(d.f)
	}
	return nil
}

// openMeta sets owner, mode and attributes of an open file or directory that
// st describes, and reports whether any was different.
func (r *restorer) openMeta(f *os.File, e *entry, st *fileStat, fresh bool) (changed bool, err error) {
	if o, set := r.owner(&e.meta); set && (o != Owner{st.uid, st.gid}) {
		changed = true
		if err := f.Chown(int(o.UID), int(o.GID)); err != nil {
			return true, err
		}
	}
	if changed || st.mode != e.Mode { // chown takes set-uid away
		changed = true
		if err := chmodFile(f, e.Mode); err != nil {
			return true, err
		}
	}
	if len(e.Xattrs) == 0 && fresh && r.fresh { // nor can it have inherited any
		return changed, nil
	}
	have, err := readXattrs(f)
	if err != nil || slices.Equal(have, e.Xattrs) {
		return changed, err
	}
	return true, setXattrs(f, have, e.Xattrs)
}

func setXattrs(f *os.File, have, want []Xattr) error {
	for _, x := range have {
		if !slices.ContainsFunc(want, func(y Xattr) bool { return y.Name == x.Name }) {
			if err := removeXattr(f, x.Name); err != nil {
				return err
			}
		}
	}
	for _, x := range want {
		if !slices.Contains(have, x) {
			if err := setXattr(f, x); err != nil {
				return err
			}
		}
	}
	return nil
}

// startFile lets a worker write a file.
func (d *restoreDir) startFile(x *restoring, rel string) error {
	if x.exists {
		if old := d.old.lookup(x.Name); old != nil && old.holds(&x.stat) {
			x.old = old
		}
	}
	select {
	case d.r.tokens <- struct{}{}:
	case <-d.r.ctx.Done():
		return context.Cause(d.r.ctx)
	}
	d.r.files.Go(func() {
		if err := d.file(x); err != nil {
			d.r.cancel(&EntryError{rel, err})
		}
		<-d.r.tokens
	})
	return nil
}

// file makes one file. On return x.stat describes it.
func (d *restoreDir) file(x *restoring) error {
	r := d.r
	if x.old != nil && sameRefs(&x.old.entry, &x.entry) && r.metaSame(x) {
		r.reused.Add(1)
		return nil
	}
	flags := os.O_RDWR
	if !x.exists {
		flags |= os.O_CREATE | os.O_EXCL
	} else if x.stat.mode&0o600 != 0o600 && !r.isRoot {
		if err := chmodAt(d.f, x.Name, 0o600); err != nil {
			return err
		}
	}
	out, err := openFileAt(d.f, x.Name, flags, 0o600)
	if err != nil {
		return err
	}
	err = d.write(out, x)
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

func (d *restoreDir) write(out *os.File, x *restoring) error {
	written, err := d.r.content(out, x)
	if err != nil {
		return err
	}
	if x.exists && written == 0 {
		d.r.reused.Add(1)
	}
	d.r.written.Add(written)
	st, err := statFile(out)
	if err != nil {
		return err
	}
	if _, err := d.r.openMeta(out, &x.entry, &st, !x.exists); err != nil {
		return err
	}
	if err := setTimeAt(d.f, x.Name, x.Time); err != nil {
		return err
	}
	if err := d.r.settle(out); err != nil || d.r.next == nil {
		return err
	}
	x.stat, err = statFile(out)
	return err
}

// sameRefs reports whether two files have the same content, by their names.
func sameRefs(a, b *entry) bool {
	return a.Size == b.Size && a.Level == b.Level && slices.Equal(a.Refs, b.Refs)
}

// metaSame reports whether a file that the cache knows has the right metadata.
func (r *restorer) metaSame(x *restoring) bool {
	o, set := r.owner(&x.meta)
	return (!set || o == Owner{x.stat.uid, x.stat.gid}) && x.stat.mode == x.Mode && x.stat.mtime == x.Time &&
		slices.Equal(x.old.entry.Xattrs, x.Xattrs)
}

// content makes the bytes of a file right and returns how many it wrote.
func (r *restorer) content(out *os.File, x *restoring) (written uint64, err error) {
	if x.exists && x.stat.size > x.Size {
		if err := out.Truncate(int64(x.Size)); err != nil {
			return 0, err
		}
	}
	have := r.had(out, x)
	if have.stop != nil {
		defer have.stop()
	}
	for l, err := range r.s.leaves(r.ctx, &x.entry) {
		if err != nil {
			return written, err
		}
		if have.same(l) {
			continue
		}
		n, err := r.leaf(out, l, x.exists)
		written += n
		if err != nil {
			return written, err
		}
	}
	if !x.exists || x.stat.size != x.Size {
		err = out.Truncate(int64(x.Size)) // it may end with a hole
	}
	return written, err
}

// leaf writes a chunk, without the pages of zeros in a new file, or a hole.
func (r *restorer) leaf(out *os.File, l leaf, exists bool) (uint64, error) {
	if l.ID.IsZero() {
		if exists {
			return 0, punchHole(out, l.at, l.Bytes)
		}
		return 0, nil
	}
	plain, err := r.s.chunk(l)
	if err != nil {
		return 0, err
	}
	if exists {
		_, err = out.WriteAt(plain, int64(l.at))
		return l.Bytes, err
	}
	return l.Bytes, writeSparse(out, plain, int64(l.at))
}

const page = 4096

// writeSparse writes all but the pages that are zero.
func writeSparse(out io.WriterAt, data []byte, at int64) error {
	start := 0 // of what is to be written
	for i := 0; i <= len(data); {
		n := page - int((at+int64(i))%page)
		zero := i+n <= len(data) && n == page && bytes.Equal(data[i:i+n], zeroGrain[:page])
		if zero || i == len(data) {
			if start < i {
				if _, err := out.WriteAt(data[start:i], at+int64(start)); err != nil {
					return err
				}
			}
			start = i + n
			if i == len(data) {
				return nil
			}
		}
		i = min(i+n, len(data))
	}
	return nil
}

// held knows which leaves a file that is already there has.
type held struct {
	next func() (leaf, error, bool) // of what the cache says; nil to read
	stop func()
	at   leaf
	name Namer
	f    io.ReaderAt // nil for a new file
	size uint64
	buf  []byte
}

func (r *restorer) had(out *os.File, x *restoring) *held {
	h := &held{name: r.key.name}
	if !x.exists {
		return h
	}
	h.f, h.size = out, x.stat.size
	if x.old != nil && r.whole(&x.old.entry) {
		h.next, h.stop = iter.Pull2(r.s.leaves(r.ctx, &x.old.entry))
	}
	return h
}

// whole reports whether the lists of a file are here: its chunks need not be.
func (r *restorer) whole(e *entry) bool {
	for _, err := range r.s.leaves(r.ctx, e) {
		if err != nil {
			return false
		}
	}
	return true
}

// same reports whether the file has this leaf in its place; leaves must be
// asked for in order.
func (h *held) same(l leaf) bool {
	if h.f == nil || l.at+l.Bytes > h.size {
		return false
	}
	if h.next == nil {
		return h.read(l)
	}
	for h.at.Bytes == 0 || h.at.at < l.at {
		var err error
		var ok bool
		if h.at, err, ok = h.next(); err != nil || !ok {
			h.next, h.f = nil, nil // what follows is written
			return false
		}
	}
	return h.at == l
}

func (h *held) read(l leaf) bool {
	if l.ID.IsZero() { // making a hole is cheaper than reading zeros
		return false
	}
	if h.buf == nil {
		h.buf = make([]byte, MaxChunk)
	}
	if l.Bytes > MaxChunk {
		return false
	}
	b := h.buf[:l.Bytes]
	if _, err := h.f.ReadAt(b, int64(l.at)); err != nil {
		return false
	}
	return h.name(b) == l.ID
}
