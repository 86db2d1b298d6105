package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

const (
	wantsMagic = "ISOW\x01"
	maxWants   = 4096    // in one request
	maxBases   = 16      // of one object
	maxDict    = 1 << 20 // bytes of the bases together that are used
	dictID     = 1
)

// ErrNoDeltas is a source that does not know of deltas: an older program.
var ErrNoDeltas = errors.New("knows no deltas")

// ErrWants is a request for objects that can not be read.
var ErrWants = errors.New("bad request for objects")

// Want asks for an object, as a difference from some that the asker has.
type Want struct {
	ID ID
	// Bases are at most 16 objects that the asker has and ID may resemble.
	// Their plain bytes one after the other, up to 1 MiB, are what the
	// difference is from.
	Bases []ID
}

// DeltaSource is a Source that can send a changed object as a difference from
// one that it replaces.
type DeltaSource interface {
	Source
	// Deltas is Objects, but may answer an object that has bases with a delta
	// against all of them. ErrNoDeltas if it turns out that the other side
	// does not know how: Objects is used from then on.
	Deltas(ctx context.Context, wants []Want) (io.ReadCloser, error)
}

// AppendWants writes a request for ParseWants.
func AppendWants(dst []byte, wants []Want) []byte {
	dst = append(dst, wantsMagic...)
	for _, w := range wants {
		dst = append(append(dst, w.ID[:]...), byte(min(len(w.Bases), maxBases)))
		for _, b := range w.Bases[:min(len(w.Bases), maxBases)] {
			dst = append(dst, b[:]...)
		}
	}
	return dst
}

// ParseWants reads a request of at most 4,096 objects. The error is ErrWants.
func ParseWants(raw []byte) ([]Want, error) {
	if len(raw) < len(wantsMagic) || string(raw[:len(wantsMagic)]) != wantsMagic {
		return nil, fmt.Errorf("%w: begins with %.10q", ErrWants, raw)
	}
	r := &reader{rest: raw[len(wantsMagic):]}
	var wants []Want
	for len(r.rest) > 0 && len(wants) < maxWants {
		w := Want{ID: r.id()}
		n := r.byte()
		for range min(n, maxBases) {
			w.Bases = append(w.Bases, r.id())
		}
		if r.bad || n > maxBases {
			return nil, fmt.Errorf("%w: object %d", ErrWants, len(wants))
		}
		wants = append(wants, w)
	}
	if len(r.rest) > 0 {
		return nil, fmt.Errorf("%w: more than %d objects", ErrWants, maxWants)
	}
	return wants, nil
}

// deltaCodec encodes against dictionaries, one at a time.
type deltaCodec struct {
	enc  *zstd.Encoder
	dec  *zstd.Decoder
	dict []byte
}

// deltaCodecs spares making one, with its tables, per object.
var deltaCodecs = sync.Pool{New: func() any { return &deltaCodec{} }}

// encode returns the stored form of plain as a delta; nil if that
// saves less than an eighth of whole, the length of the stored form without.
func (c *deltaCodec) encode(plain []byte, naming Naming, whole int) ([]byte, error) {
	opts := []zstd.EOption{zstd.WithEncoderDictRaw(dictID, c.dict)}
	var err error
	if c.enc == nil {
		opts = append(opts, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(2*maxDict), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
		c.enc, err = zstd.NewWriter(nil, opts...)
	} else {
		err = c.enc.ResetWithOptions(nil, opts...)
	}
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dst := appendStoredHeader(nil, naming, codecDelta, len(plain))
	dst = c.enc.EncodeAll(plain, dst)
	if len(dst) >= whole-whole/8 || len(dst)-storedHeader >= len(plain) {
		return nil, nil
	}
	return dst, nil
}

// decode returns the plain bytes of a delta, never more than MaxObject
// whatever it contains.
func (c *deltaCodec) decode(stored []byte) ([]byte, storedInfo, error) {
	info, payload, err := parseStored(stored, codecDelta)
	if err != nil {
		return nil, info, err
	}
	opts := []zstd.DOption{zstd.WithDecoderDictRaw(dictID, c.dict)}
	if c.dec == nil {
		opts = append(opts, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(MaxObject), zstd.WithDecodeAllCapLimit(true))
		c.dec, err = zstd.NewReader(nil, opts...)
	} else {
		err = c.dec.ResetWithOptions(nil, opts...)
	}
	if err != nil {
		return nil, info, fmt.Errorf("make zstd decoder: %w", err)
	}
	plain, err := c.dec.DecodeAll(payload, make([]byte, 0, info.plain))
	if err == nil && len(plain) != info.plain {
		err = fmt.Errorf("%d bytes where %d were announced", len(plain), info.plain)
	}
	return plain, info, err
}

// isDelta reports whether stored can be read only with the object's bases.
func isDelta(stored []byte) bool { return len(stored) > 0 && stored[0]&15 == codecDelta }

// fill makes the dictionary of some bases.
func (c *deltaCodec) fill(s *Store, bases []ID) error {
	c.dict = c.dict[:0]
	for _, id := range bases {
		plain, err := s.Get(id)
		if err != nil {
			return err
		}
		if c.dict = append(c.dict, plain...); len(c.dict) >= maxDict {
			c.dict = c.dict[:maxDict]
			return nil
		}
	}
	return nil
}

// SendDeltas writes a stream as SendObjects does, in which an object that has
// bases, all of which are here, may come as a delta against them. They are made
// on several workers, as many ahead of w.
func (s *Store) SendDeltas(ctx context.Context, w io.Writer, wants []Want) error {
	ctx, cancel := context.WithCancel(ctx)
	ahead := make(chan chan answer, s.opts.workers-1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		defer close(ahead)
		for _, want := range wants {
			one := make(chan answer, 1)
			select {
			case ahead <- one:
				wg.Go(func() { one <- s.answer(ctx, want) })
			case <-ctx.Done():
				return
			}
		}
	})
	return WriteFrames(w, func(yield func(Frame, error) bool) {
		for one := range ahead {
			a := <-one
			if !yield(a.Frame, a.err) || a.err != nil {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Frame{}, err)
		}
	})
}

// answer is a frame to be sent, or why there is none.
type answer struct {
	Frame
	err error
}

func (s *Store) answer(ctx context.Context, want Want) answer {
	f, err := s.frame(ctx, want.ID)
	if err == nil && f.Stored != nil && len(want.Bases) > 0 {
		if d, derr := s.delta(want, f.Stored); derr != nil {
			s.log.Debug("object sent whole", "object", want.ID.String(), "error", derr)
		} else if d != nil {
			f.Stored = d
		}
	}
	return answer{f, err}
}

// delta returns the delta for an object that is stored here; nil if whole is
// as good.
func (s *Store) delta(want Want, whole []byte) ([]byte, error) {
	c := deltaCodecs.Get().(*deltaCodec)
	defer deltaCodecs.Put(c)
	if err := c.fill(s, want.Bases[:min(len(want.Bases), maxBases)]); err != nil {
		return nil, err
	}
	plain, info, err := s.codec.decode(whole)
	if err != nil {
		return nil, err
	}
	return c.encode(plain, info.naming, len(whole))
}

// errBase is a base of a delta that is not here any more.
var errBase = errors.New("base of a delta")

// putDelta stores an object that came as a delta against bases. It must be
// what id names; otherwise *CorruptError, or errBase if that is not the
// sender's fault.
func (s *Store) putDelta(id ID, stored []byte, bases []ID) error {
	c := deltaCodecs.Get().(*deltaCodec)
	defer deltaCodecs.Put(c)
	if err := c.fill(s, bases); err != nil {
		return fmt.Errorf("%w: %w", errBase, err)
	}
	plain, info, err := c.decode(stored)
	if err == nil {
		err = s.verifyName(id, plain, info.naming)
	}
	if errors.Is(err, ErrNoKey) {
		return fmt.Errorf("put object %s: %w", id, err)
	} else if err != nil {
		return &CorruptError{ID: id, Reason: err.Error()}
	}
	_, err = s.put(id, plain, info.naming)
	return err
}

// here returns those of ids that the store has, at most maxBases, and makes
// Collect spare them.
func (s *Store) here(ids []ID) []ID {
	var out []ID
	for _, id := range ids {
		if len(out) < maxBases && !slices.Contains(out, id) && s.touch(id) {
			out = append(out, id)
		}
	}
	return out
}
