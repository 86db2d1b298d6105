package snapshotstore

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
)

// filler writes a tree. Directories are made by one goroutine, files by as
// many as there are tokens.
type filler struct {
	s      *Store
	ctx    context.Context // of the one call of Materialise
	cancel context.CancelCauseFunc
	tokens chan struct{}
}

func (s *Store) fillTree(ctx context.Context, root ID, top *os.Root) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := &filler{s, ctx, cancel, make(chan struct{}, s.opts.workers)}
	if err := f.dir(top, packageWant(root), ".", 0); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			return cause // the first error; err may be but its consequence
		}
		return err
	}
	return nil
}

// dir fills one directory and all beneath it, then makes it read-only.
func (f *filler) dir(root *os.Root, w want, rel string, depth int) error {
	if depth > f.s.opts.Limits.Depth {
		return &EntryError{rel, ErrTooDeep}
	}
	var files sync.WaitGroup
	last := ""
	err := f.parts(w, func(e *entry) error {
		if e.Name <= last {
			return &EntryError{rel, fmt.Errorf("%w: %q out of order", ErrBadName, e.Name)}
		}
		last = e.Name
		return f.entry(root, e, join(rel, e.Name), depth, &files)
	})
	if err != nil {
		f.cancel(err)
	}
	files.Wait()
	if err == nil {
		err = context.Cause(f.ctx)
	}
	if err == nil {
		err = root.Chmod(".", 0o555)
	}
	return err
}

// parts calls each for all entries of a directory, in order.
func (f *filler) parts(w want, each func(*entry) error) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	n, err := f.s.node(w)
	if err != nil {
		return err
	}
	for i := range n.entries {
		if err := each(&n.entries[i]); err != nil {
			return err
		}
	}
	for _, r := range n.refs {
		if err := f.parts(n.child(r), each); err != nil {
			return err
		}
	}
	return nil
}

func (f *filler) entry(root *os.Root, e *entry, rel string, depth int, files *sync.WaitGroup) error {
	if len(rel) > f.s.opts.Limits.Path {
		return &EntryError{rel, ErrPathTooLong}
	}
	var err error
	switch e.Kind {
	case Dir:
		return f.child(root, e, rel, depth)
	case Symlink:
		if err = checkTarget(e.Target, depth); err == nil {
			err = root.Symlink(e.Target, e.Name)
		}
	case File:
		select {
		case f.tokens <- struct{}{}:
		case <-f.ctx.Done():
			return f.ctx.Err()
		}
		files.Go(func() {
			if err := f.file(root, e); err != nil {
				f.cancel(&EntryError{rel, err})
			}
			<-f.tokens
		})
	}
	if err != nil {
		return &EntryError{rel, err}
	}
	return nil
}

func (f *filler) child(root *os.Root, e *entry, rel string, depth int) error {
	if err := root.Mkdir(e.Name, 0o700); err != nil {
		return &EntryError{rel, err}
	}
	sub, err := root.OpenRoot(e.Name)
	if err != nil {
		return &EntryError{rel, err}
	}
	defer sub.Close()
	return f.dir(sub, dirWant(packageVersion, e.Dir), rel, depth+1)
}

// file writes one file.
func (f *filler) file(root *os.Root, e *entry) error {
	out, err := root.OpenFile(e.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	for _, w := range e.wants(packageVersion) {
		if err = f.content(out, w); err != nil {
			break
		}
	}
	if err == nil {
		err = out.Chmod(fs.FileMode(e.Mode) & 0o555)
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}

// content writes what a chunk or a list stands for.
func (f *filler) content(out *os.File, w want) error {
	if err := f.ctx.Err(); err != nil {
		return err
	}
	if w.kind == kindChunk {
		plain, err := f.s.Get(w.ID)
		if err == nil && uint64(len(plain)) != w.Bytes {
			err = &TreeError{w.ID, fmt.Sprintf("%d bytes where %d are expected", len(plain), w.Bytes)}
		}
		if err == nil {
			_, err = out.Write(plain)
		}
		return err
	}
	n, err := f.s.node(w)
	if err != nil {
		return err
	}
	for _, r := range n.refs {
		if err := f.content(out, n.child(r)); err != nil {
			return err
		}
	}
	return nil
}
