package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// VerifyOptions say what VerifyState compares.
type VerifyOptions struct {
	// Owner that every entry is to have instead of the one in the snapshot.
	// Without it, owners are compared if the process is root.
	Owner *Owner
	// Ignore are patterns as in ScanOptions: what of the directory is not looked at.
	Ignore []string
	// Most differences to return; default 100.
	Most int
}

// Difference is something in which a directory is not the snapshot.
type Difference struct{ Path, What string }

func (d Difference) String() string { return d.Path + ": " + d.What }

// VerifyState reads a directory and returns the first differences from a
// snapshot, in the order of WalkState: none if it is the same, content (by the
// hashes in the snapshot), metadata and times. It needs no chunks in the store, only lists and directories.
func (s *Store) VerifyState(ctx context.Context, root ID, dir string, opts VerifyOptions) ([]Difference, error) {
	diffs, err := s.verifyState(ctx, root, dir, opts)
	if err != nil {
		return diffs, fmt.Errorf("verify %q against snapshot %s: %w", dir, root, err)
	}
	return diffs, nil
}

func (s *Store) verifyState(ctx context.Context, root ID, dir string, opts VerifyOptions) ([]Difference, error) {
	key, err := s.key()
	if err != nil {
		return nil, err
	}
	if err := checkPatterns(opts.Ignore); err != nil {
		return nil, err
	}
	n, err := s.node(stateWant(root))
	if err != nil {
		return nil, err
	}
	if opts.Most <= 0 {
		opts.Most = 100
	}
	top, err := openDir(dir)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	v := &verifier{s: s, ctx: ctx, opts: opts, top: top, name: key.name, tokens: make(chan struct{}, s.opts.workers),
		r: &restorer{opts: RestoreOptions{Owner: opts.Owner}, isRoot: os.Geteuid() == 0}}
	e := n.state.entry()
	err = v.dir(top, &e, ".", 0)
	if errors.Is(err, errEnough) {
		err = nil
	}
	return v.found, err
}

// errEnough ends a comparison that has found as much as was asked for.
var errEnough = errors.New("enough differences")

type verifier struct {
	s      *Store
	ctx    context.Context // of the one call of VerifyState
	opts   VerifyOptions
	top    *os.File
	name   Namer
	tokens chan struct{}
	found  []Difference
	r      *restorer // knows whose entries are to be
}

func (v *verifier) note(path string, what ...string) error {
	for _, w := range what {
		if len(v.found) == v.opts.Most {
			return errEnough
		}
		v.found = append(v.found, Difference{path, w})
	}
	return nil
}

func (v *verifier) dir(f *os.File, e *entry, rel string, depth int) error {
	if depth > v.s.opts.StateLimits.Depth {
		return &EntryError{rel, ErrTooDeep}
	}
	have, err := f.Readdirnames(-1)
	if err != nil {
		return &EntryError{rel, err}
	}
	have = slices.DeleteFunc(have, func(name string) bool { return matchesAny(v.opts.Ignore, name, join(rel, name)) })
	slices.Sort(have)
	what, err := v.openMeta(f, e)
	if err != nil {
		return &EntryError{rel, err}
	}
	if err := v.note(rel, what...); err != nil {
		return err
	}
	d := &verifyDir{v: v, f: f, rel: rel, depth: depth, have: have}
	for sub, err := range v.s.entries(v.ctx, dirWant(stateVersion, e.Dir)) {
		if err != nil {
			return &EntryError{rel, err}
		}
		if d.window = append(d.window, *sub); len(d.window) == scanWindow {
			if err := d.flush(); err != nil {
				return err
			}
		}
	}
	if err := d.flush(); err != nil {
		return err
	}
	return d.extraBefore("")
}

// verifyDir is one directory being compared.
type verifyDir struct {
	v      *verifier
	f      *os.File
	rel    string
	depth  int
	have   []string // names not met yet
	window []entry
}

// extraBefore notes names that the snapshot does not have.
func (d *verifyDir) extraBefore(name string) error {
	for len(d.have) > 0 && (name == "" || d.have[0] < name) {
		if err := d.v.note(join(d.rel, d.have[0]), "not in the snapshot"); err != nil {
			return err
		}
		d.have = d.have[1:]
	}
	return nil
}

// flush compares the entries that wait: what is no directory on the workers.
func (d *verifyDir) flush() error {
	what, errs := make([][]string, len(d.window)), make([]error, len(d.window))
	var wg sync.WaitGroup
	for i := range d.window {
		e := &d.window[i]
		if e.Kind == Dir {
			continue
		}
		d.v.tokens <- struct{}{}
		wg.Go(func() {
			what[i], errs[i] = d.compare(e)
			<-d.v.tokens
		})
	}
	wg.Wait()
	for i := range d.window {
		e := &d.window[i]
		if err := d.extraBefore(e.Name); err != nil {
			return err
		}
		if len(d.have) > 0 && d.have[0] == e.Name {
			d.have = d.have[1:]
		}
		err := errs[i]
		if e.Kind == Dir {
			err = d.child(e)
		} else if err == nil {
			err = d.v.note(join(d.rel, e.Name), what[i]...)
		}
		var ee *EntryError
		if err != nil && !errors.Is(err, errEnough) && !errors.As(err, &ee) {
			err = &EntryError{join(d.rel, e.Name), err}
		}
		if err != nil {
			return err
		}
	}
	d.window = d.window[:0]
	return nil
}

func (d *verifyDir) child(e *entry) error {
	rel := join(d.rel, e.Name)
	sub, err := openDirAt(d.f, e.Name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return d.v.note(rel, "missing")
	case errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ELOOP):
		return d.v.note(rel, "not a directory")
	case err != nil:
		return err
	}
	defer sub.Close()
	return d.v.dir(sub, e, rel, d.depth+1)
}

// compare returns in what an entry that is no directory differs.
func (d *verifyDir) compare(e *entry) ([]string, error) {
	st, err := statAt(d.f, e.Name)
	if errors.Is(err, fs.ErrNotExist) {
		return []string{"missing"}, nil
	}
	if err != nil {
		return nil, err
	}
	want := e.Kind
	if want == HardLink {
		return d.compareLink(e, &st)
	}
	if st.kind != want {
		return []string{"not of the same kind"}, nil
	}
	switch e.Kind {
	case File:
		return d.compareFile(e)
	case Symlink:
		to, err := readlinkAt(d.f, e.Name)
		what := d.v.meta(e, &st, nil)
		if to != e.Target {
			what = append(what, fmt.Sprintf("leads to %q, not %q", to, e.Target))
		}
		return what, err
	}
	return d.v.meta(e, &st, nil), nil
}

func (d *verifyDir) compareLink(e *entry, st *fileStat) ([]string, error) {
	other := []string{fmt.Sprintf("not the same file as %q", e.Target)}
	dir, name, err := parentOf(d.v.top, e.Target)
	if err != nil {
		return other, nil
	}
	defer dir.Close()
	if to, err := statAt(dir, name); err != nil || to.dev != st.dev || to.ino != st.ino {
		return other, nil
	}
	return nil, nil
}

func (d *verifyDir) compareFile(e *entry) ([]string, error) {
	f, err := openFileAt(d.f, e.Name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	what, err := d.v.openMeta(f, e)
	if err != nil {
		return nil, err
	}
	st, err := statFile(f)
	if err != nil {
		return nil, err
	}
	if st.size != e.Size {
		what = append(what, fmt.Sprintf("%d bytes, not %d", st.size, e.Size))
	}
	at, same, err := d.v.content(f, e)
	if err == nil && !same && st.size >= e.Size {
		what = append(what, fmt.Sprintf("other content, in or after byte %d", at))
	}
	return what, err
}

// content compares the bytes of a file and says where they first differ.
func (v *verifier) content(f *os.File, e *entry) (uint64, bool, error) {
	pooled := scanBuffers.Get().(*[scanBuffer]byte)
	defer scanBuffers.Put(pooled)
	for l, err := range v.s.leaves(v.ctx, e) {
		if err != nil {
			return 0, false, err
		}
		same, err := v.leaf(f, l, pooled[:])
		if err != nil || !same {
			return l.at, false, err
		}
	}
	return 0, true, nil
}

func (v *verifier) leaf(f *os.File, l leaf, buf []byte) (bool, error) {
	if l.ID.IsZero() {
		return readsZero(f, l.at, l.at+l.Bytes, buf)
	}
	if l.Bytes > MaxChunk {
		return false, &TreeError{l.ID, "a chunk of more than the most"}
	}
	_, err := f.ReadAt(buf[:l.Bytes], int64(l.at))
	if err == io.EOF {
		return false, nil
	}
	return err == nil && v.name(buf[:l.Bytes]) == l.ID, err
}

// readsZero reports whether a range of a file reads as zeros, without reading its holes.
func readsZero(f *os.File, at, end uint64, buf []byte) (bool, error) {
	st, err := statFile(f)
	if err != nil || st.size < end {
		return false, err
	}
	for at < end {
		start, to, err := nextData(f, at, end)
		if err != nil {
			return false, err
		}
		for at = min(start, end); at < min(to, end); {
			n := min(min(to, end)-at, holeGrain)
			if _, err := f.ReadAt(buf[:n], int64(at)); err != nil {
				return false, err
			}
			for _, b := range buf[:n] {
				if b != 0 {
					return false, nil
				}
			}
			at += n
		}
	}
	return true, nil
}

// openMeta compares the metadata of an open file or directory.
func (v *verifier) openMeta(f *os.File, e *entry) ([]string, error) {
	st, err := statFile(f)
	if err != nil {
		return nil, err
	}
	xattrs, err := readXattrs(f)
	if err != nil {
		return nil, err
	}
	return v.meta(e, &st, xattrs), nil
}

func (v *verifier) meta(e *entry, st *fileStat, xattrs []Xattr) (what []string) {
	if o, set := v.r.owner(&e.meta); set && (o != Owner{st.uid, st.gid}) {
		what = append(what, fmt.Sprintf("owner %d:%d, not %d:%d", st.uid, st.gid, o.UID, o.GID))
	}
	if e.Kind != Symlink && st.mode != e.Mode {
		what = append(what, fmt.Sprintf("mode %04o, not %04o", st.mode, e.Mode))
	}
	if st.mtime != e.Time {
		what = append(what, "another time")
	}
	if !slices.Equal(xattrs, e.Xattrs) {
		what = append(what, "other extended attributes")
	}
	return what
}
