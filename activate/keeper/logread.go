package keeper

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"time"
)

// followEvery is how often a followed log is looked at.
const followEvery = 100 * time.Millisecond

// ReadOptions choose what ReadLog yields.
type ReadOptions struct {
	Tail   int       // at most so many records of what is there; 0: all of them
	Since  time.Time // nothing older; zero: no limit
	Follow bool      // go on with what is written later, until ctx ends
}

// ReadLog yields the records of the log dir/name, oldest first, across its rotated files. It needs no keeper. A log
// that does not exist is empty. Lines that are no records are passed over. A follower that is so slow that a file is
// rotated away before it was read misses that file.
func ReadLog(ctx context.Context, dir, name string, opts ReadOptions) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		r := &logReader{path: logPath(dir, name)}
		defer r.close()
		if err := r.seek(opts.Tail); err != nil {
			yield(Line{}, err)
			return
		}
		for {
			l, err := r.next()
			switch {
			case err == nil && l.Time.Before(opts.Since):
			case err == nil:
				if !yield(l, nil) {
					return
				}
			case !errors.Is(err, io.EOF):
				yield(Line{}, err)
				return
			case !opts.Follow:
				return
			default:
				select {
				case <-ctx.Done():
					return
				case <-time.After(followEvery):
				}
			}
			if ctx.Err() != nil {
				return
			}
		}
	}
}

// readTail yields the last n records of the log at path.
func readTail(path string, n int) iter.Seq2[Line, error] {
	return func(yield func(Line, error) bool) {
		r := &logReader{path: path}
		defer r.close()
		err := r.seek(n)
		for err == nil {
			var l Line
			if l, err = r.next(); err == nil && !yield(l, nil) {
				return
			}
		}
		if !errors.Is(err, io.EOF) {
			yield(Line{}, err)
		}
	}
}

// logReader is a place in a rotated log.
type logReader struct {
	path string
	f    *os.File // nil before the first file exists
	in   *bufio.Reader
	part []byte // a record whose end was not there yet
}

func (r *logReader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

// open makes f the file that is read, from offset on.
func (r *logReader) open(f *os.File, offset int64) error {
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		f.Close()
		return err
	}
	r.close()
	r.f, r.in, r.part = f, bufio.NewReaderSize(f, 32<<10), nil
	return nil
}

// seek goes to the start of the last n records; n 0: of the oldest file.
func (r *logReader) seek(n int) error {
	files, err := openRotated(r.path)
	if err != nil || len(files) == 0 {
		return err
	}
	at, offset := len(files)-1, int64(0)
	left := n
	for i := 0; n > 0 && i < len(files); i++ {
		var found int
		if offset, found, err = tailOffset(files[i], left); err != nil {
			break
		}
		if left -= found; left == 0 {
			at = i
			break
		}
	}
	for i, f := range files {
		if i != at {
			f.Close()
		}
	}
	if err != nil {
		files[at].Close()
		return err
	}
	return r.open(files[at], offset)
}

// mostFiles is how many files of a log are looked for.
const mostFiles = 8

// openRotated opens what there is of a log, the newest first. A rotation meanwhile may show one file twice, which is
// left out, or a gap, which is passed over.
func openRotated(path string) ([]*os.File, error) {
	var files []*os.File
	for i := range mostFiles {
		f, err := os.Open(rotated(path, i))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			closeAll(files)
			return nil, err
		}
		if len(files) > 0 && sameFile(f, files[len(files)-1]) {
			f.Close()
			continue
		}
		files = append(files, f)
	}
	return files, nil
}

func sameFile(a, b *os.File) bool {
	fa, err1 := a.Stat()
	fb, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(fa, fb)
}

// tailOffset finds where the last n lines of f begin, and how many it found (fewer if the file is shorter).
func tailOffset(f *os.File, n int) (offset int64, found int, err error) {
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	buf := make([]byte, 32<<10)
	pos := end
	for pos > 0 {
		size := min(pos, int64(len(buf)))
		pos -= size
		if _, err := f.ReadAt(buf[:size], pos); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		for i := size; ; {
			j := bytes.LastIndexByte(buf[:i], '\n')
			if j < 0 {
				break
			}
			i = int64(j)
			if pos+i == end-1 {
				continue // the end of the last line
			}
			if found++; found == n {
				return pos + i + 1, found, nil
			}
		}
	}
	if end > 0 {
		found++
	}
	return 0, found, nil
}

// next returns the next record. io.EOF: there is none yet.
func (r *logReader) next() (Line, error) {
	for {
		if r.f == nil {
			if err := r.seek(0); err != nil {
				return Line{}, err
			}
			if r.f == nil {
				return Line{}, io.EOF
			}
		}
		b, err := r.in.ReadSlice('\n')
		if len(r.part)+len(b) <= 2*maxLine {
			r.part = append(r.part, b...)
		}
		switch {
		case err == nil:
			l, ok := ParseLine(bytes.TrimSuffix(r.part, []byte("\n")))
			r.part = r.part[:0]
			if ok {
				return l, nil
			}
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			if moved, err := r.advance(); !moved {
				return Line{}, errors.Join(err, io.EOF)
			}
		default:
			return Line{}, err
		}
	}
}

// advance goes on to the next newer file, once this one is no longer the newest and read to its end.
func (r *logReader) advance() (bool, error) {
	files, err := openRotated(r.path)
	if err != nil {
		return false, err
	}
	defer func() { closeAll(files) }()
	newer := len(files) // index of the file after this one; the oldest if this one is gone
	for i, f := range files {
		if sameFile(f, r.f) {
			newer = i
		}
	}
	if newer == 0 || len(files) == 0 {
		return false, nil
	}
	if at, err := r.f.Seek(0, io.SeekCurrent); err != nil || !atEnd(r.f, at) {
		return err == nil, err // written to between our last read and its rotation
	}
	f := files[newer-1]
	files[newer-1] = nil
	return true, r.open(f, 0)
}

func atEnd(f *os.File, at int64) bool {
	fi, err := f.Stat()
	return err != nil || at >= fi.Size()
}
