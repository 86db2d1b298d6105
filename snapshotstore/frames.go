package snapshotstore

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

const (
	framesMagic  = "ISOF\x01"
	frameObject  = 'O'
	frameMissing = 'M'
	frameEnd     = 'E'
)

// ErrFrames is a stream that is not of frames, or was cut before its end.
var ErrFrames = errors.New("bad stream of objects")

// Frame is one object on a stream, as stored. Stored is nil if the sender
// does not have it.
type Frame struct {
	ID     ID
	Stored []byte
}

// WriteFrames writes a whole stream. An error among the frames ends it
// without its end mark, so that the reader knows.
func WriteFrames(w io.Writer, frames iter.Seq2[Frame, error]) error {
	b := bufio.NewWriterSize(w, 64<<10)
	b.WriteString(framesMagic) // a bufio.Writer keeps its error until Flush
	var count uint32
	var head []byte
	for f, err := range frames {
		if err != nil {
			return err
		}
		if len(f.Stored) > MaxStored {
			return fmt.Errorf("write object %s: %d bytes, at most %d", f.ID, len(f.Stored), MaxStored)
		}
		count++
		if f.Stored == nil {
			head = append(append(head[:0], frameMissing), f.ID[:]...)
		} else {
			head = append(append(head[:0], frameObject), f.ID[:]...)
			head = binary.LittleEndian.AppendUint32(head, uint32(len(f.Stored)))
		}
		b.Write(head)
		if _, err := b.Write(f.Stored); err != nil {
			return fmt.Errorf("write object %s: %w", f.ID, err)
		}
	}
	b.Write(binary.LittleEndian.AppendUint32([]byte{frameEnd}, count))
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write objects: %w", err)
	}
	return nil
}

// ReadFrames reads a stream. Stored is valid until the next frame is asked
// for. After an error, which is ErrFrames if the stream is at fault, nothing
// more comes. Memory is MaxStored whatever comes.
func ReadFrames(r io.Reader) iter.Seq2[Frame, error] {
	return func(yield func(Frame, error) bool) {
		fr := &frameReader{r: bufio.NewReaderSize(r, 64<<10)}
		if err := fr.start(); err != nil {
			yield(Frame{}, err)
			return
		}
		for {
			f, end, err := fr.next()
			if end || !yield(f, err) || err != nil {
				return
			}
		}
	}
}

type frameReader struct {
	r      *bufio.Reader
	count  uint32
	stored []byte
}

func (fr *frameReader) start() error {
	var magic [len(framesMagic)]byte
	if err := fr.full(magic[:]); err != nil {
		return err
	}
	if string(magic[:]) != framesMagic {
		return fmt.Errorf("%w: begins with %q", ErrFrames, magic[:])
	}
	return nil
}

// full fills b; the end of the stream is a cut here.
func (fr *frameReader) full(b []byte) error {
	_, err := io.ReadFull(fr.r, b)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return fmt.Errorf("%w: cut after %d frames", ErrFrames, fr.count)
	}
	return err
}

func (fr *frameReader) uint32() (uint32, error) {
	var b [4]byte
	err := fr.full(b[:])
	return binary.LittleEndian.Uint32(b[:]), err
}

// next reads one frame, or the end.
func (fr *frameReader) next() (f Frame, end bool, err error) {
	var kind [1]byte
	if err := fr.full(kind[:]); err != nil {
		return Frame{}, false, err
	}
	switch kind[0] {
	case frameEnd:
		n, err := fr.uint32()
		if err == nil && n != fr.count {
			err = fmt.Errorf("%w: %d frames where %d were sent", ErrFrames, fr.count, n)
		}
		return Frame{}, err == nil, err
	case frameMissing, frameObject:
		if err := fr.full(f.ID[:]); err != nil {
			return Frame{}, false, err
		}
	default:
		return Frame{}, false, fmt.Errorf("%w: unknown frame %q", ErrFrames, kind[0])
	}
	if kind[0] == frameObject {
		if f.Stored, err = fr.object(); err != nil {
			return Frame{}, false, err
		}
	}
	fr.count++
	return f, false, nil
}

func (fr *frameReader) object() ([]byte, error) {
	n, err := fr.uint32()
	if err != nil {
		return nil, err
	}
	if n < storedHeader || n > MaxStored {
		return nil, fmt.Errorf("%w: an object of %d bytes", ErrFrames, n)
	}
	if cap(fr.stored) < int(n) {
		fr.stored = make([]byte, MaxStored)
	}
	stored := fr.stored[:n]
	return stored, fr.full(stored)
}

// SendObjects writes a stream with the objects asked for, in that order. What
// is missing or damaged here, or of a key that is not here, is said to be
// missing.
func (s *Store) SendObjects(ctx context.Context, w io.Writer, ids []ID) error {
	return WriteFrames(w, func(yield func(Frame, error) bool) {
		for _, id := range ids {
			f, err := s.frame(ctx, id)
			if !yield(f, err) || err != nil {
				return
			}
		}
	})
}

// frame is the answer to one that asks for id.
func (s *Store) frame(ctx context.Context, id ID) (Frame, error) {
	if err := ctx.Err(); err != nil {
		return Frame{}, err
	}
	stored, err := s.GetRaw(id)
	var corrupt *CorruptError
	if errors.Is(err, ErrMissing) || errors.Is(err, ErrNoKey) || errors.As(err, &corrupt) {
		stored, err = nil, nil
	}
	return Frame{id, stored}, err
}

// ReceiveObjects stores a stream of objects and returns how many it took.
// Each is verified; those before an error stay. When it returns without
// error they are on disk.
func (s *Store) ReceiveObjects(ctx context.Context, r io.Reader) (n int, err error) {
	o, err := s.begin()
	if err != nil {
		return 0, err
	}
	defer func() { err = o.end(err) }()
	for f, err := range ReadFrames(r) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return n, fmt.Errorf("receive objects: %w", err)
		}
		if f.Stored == nil {
			continue
		}
		if err := s.PutRaw(f.ID, f.Stored); err != nil {
			return n, fmt.Errorf("receive objects: %w", err)
		}
		n++
	}
	return n, nil
}
