package raftfsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/fxamacker/cbor/v2"

	"github.com/isonomia-mesh/isonomia/model"
)

// The beginning of a checkpoint, and the largest record that is read: a Pending with all its parts.
const (
	CheckpointVersion = 1
	checkpointMagic   = "ISONOMIA"
	maxRecordBytes    = 128 << 20
)

// header is the first record of a checkpoint.
type header struct {
	_       struct{} `cbor:",toarray"`
	Version int
	Index   uint64
	Cluster model.Cluster
}

// section opens a table: so many rows follow.
type section struct {
	_     struct{} `cbor:",toarray"`
	Table uint64
	Rows  uint64
}

// row is one entry of a table.
type row struct {
	_     struct{} `cbor:",toarray"`
	Key   string
	Value cbor.RawMessage
}

// WriteState writes a checkpoint. The same State gives the same bytes on every node.
func WriteState(w io.Writer, s *model.State) error {
	_, err := writeState(w, s)
	return err
}

// Digest is the checksum at the end of the State's checkpoint: two nodes with one index must have one digest.
func Digest(s *model.State) [sha256.Size]byte {
	sum, err := writeState(io.Discard, s)
	if err != nil {
		panic(fmt.Sprintf("digest state at index %d: %v", s.Index, err)) // every value in State came through the codec
	}
	return sum
}

func writeState(w io.Writer, s *model.State) (sum [sha256.Size]byte, err error) {
	out := bufio.NewWriterSize(w, 64<<10)
	h := sha256.New()
	rw := recordWriter{w: io.MultiWriter(out, h)}
	rw.raw(append([]byte(checkpointMagic), CheckpointVersion))
	rw.record(header{Version: s.Version, Index: s.Index, Cluster: s.Cluster})
	for _, t := range tables {
		rw.table(t, s)
	}
	rw.raw([]byte{0}) // an empty record ends the list
	if rw.err != nil {
		return sum, fmt.Errorf("write checkpoint: %w", rw.err)
	}
	h.Sum(sum[:0])
	if _, err := out.Write(sum[:]); err != nil {
		return sum, fmt.Errorf("write checkpoint: %w", err)
	}
	if err := out.Flush(); err != nil {
		return sum, fmt.Errorf("write checkpoint: %w", err)
	}
	return sum, nil
}

// recordWriter writes until the first error and keeps it.
type recordWriter struct {
	w   io.Writer
	buf bytes.Buffer
	err error
}

func (w *recordWriter) raw(b []byte) {
	if w.err == nil {
		_, w.err = w.w.Write(b)
	}
}

func (w *recordWriter) record(v any) {
	if w.err != nil {
		return
	}
	w.buf.Reset()
	if w.err = tableModes.enc.NewEncoder(&w.buf).Encode(v); w.err != nil {
		return
	}
	if w.buf.Len() > maxRecordBytes {
		w.err = fmt.Errorf("record of %d bytes: the most is %d", w.buf.Len(), maxRecordBytes)
		return
	}
	w.raw(binary.AppendUvarint(nil, uint64(w.buf.Len())))
	w.raw(w.buf.Bytes())
}

// table writes nothing for an empty table, so that a digest does not depend on tables that only newer versions have.
func (w *recordWriter) table(t table, s *model.State) {
	n := t.length(s)
	if n == 0 || w.err != nil {
		return
	}
	w.record(section{Table: t.number, Rows: uint64(n)})
	err := t.each(s, func(key string, value any) error {
		raw, err := tableModes.enc.Marshal(value)
		if err != nil {
			return fmt.Errorf("row %q of table %s: %w", key, t.name, err)
		}
		w.record(row{Key: key, Value: raw})
		return w.err
	})
	if w.err == nil {
		w.err = err
	}
}

// ReadState reads a checkpoint to its end and checks its sum. It answers with a *MustUpgradeError for a newer format,
// a newer State, or a table or field that it does not know.
func ReadState(r io.Reader) (*model.State, error) {
	rr := &recordReader{r: bufio.NewReaderSize(r, 64<<10), h: sha256.New()}
	s, err := readState(rr)
	if unknown := (*cbor.UnknownFieldError)(nil); errors.As(err, &unknown) {
		err = &MustUpgradeError{What: "a field of a checkpoint", Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("read checkpoint: %w", err)
	}
	reindex(s)
	return s, nil
}

func readState(r *recordReader) (*model.State, error) {
	if err := r.magic(); err != nil {
		return nil, err
	}
	var h header
	if more, err := r.record(&h); err != nil || !more {
		return nil, errors.Join(err, errIfNot(more, "no header"))
	}
	if h.Version > model.StateVersion {
		return nil, &MustUpgradeError{What: fmt.Sprintf("State of version %d", h.Version)}
	}
	s := &model.State{Version: h.Version, Index: h.Index, Cluster: h.Cluster}
	last := uint64(0)
	for {
		var sec section
		more, err := r.record(&sec)
		if err != nil {
			return nil, err
		}
		if !more {
			return s, r.end()
		}
		if sec.Table <= last {
			return nil, fmt.Errorf("table %d after table %d", sec.Table, last)
		}
		last = sec.Table
		if err := r.table(s, sec); err != nil {
			return nil, err
		}
	}
}

func errIfNot(ok bool, text string) error {
	if ok {
		return nil
	}
	return errors.New(text)
}

// recordReader reads length-prefixed records and hashes what it reads.
type recordReader struct {
	r   *bufio.Reader
	h   hash.Hash
	buf bytes.Buffer
}

func (r *recordReader) magic() error {
	head := make([]byte, len(checkpointMagic)+1)
	if _, err := io.ReadFull(r.r, head); err != nil {
		return fmt.Errorf("its beginning: %w", err)
	}
	r.h.Write(head)
	if string(head[:len(checkpointMagic)]) != checkpointMagic {
		return errors.New("it is not a checkpoint")
	}
	if v := head[len(checkpointMagic)]; v > CheckpointVersion {
		return &MustUpgradeError{What: fmt.Sprintf("checkpoints of version %d", v)}
	} else if v != CheckpointVersion {
		return fmt.Errorf("version %d", v)
	}
	return nil
}

// ReadByte is for binary.ReadUvarint.
func (r *recordReader) ReadByte() (byte, error) {
	b, err := r.r.ReadByte()
	if err == nil {
		r.h.Write([]byte{b})
	}
	return b, err
}

// record decodes the next record into v; false means the list ended.
func (r *recordReader) record(v any) (bool, error) {
	n, err := binary.ReadUvarint(r)
	switch {
	case err != nil:
		return false, fmt.Errorf("a record's length: %w", noEOF(err))
	case n == 0:
		return false, nil
	case n > maxRecordBytes:
		return false, fmt.Errorf("record of %d bytes: the most is %d", n, maxRecordBytes)
	}
	r.buf.Reset()
	// CopyN rather than make([]byte, n): a false length then costs no more memory than there are bytes.
	if _, err := io.CopyN(&r.buf, r.r, int64(n)); err != nil {
		return false, fmt.Errorf("a record of %d bytes: %w", n, noEOF(err))
	}
	r.h.Write(r.buf.Bytes())
	if err := tableModes.dec.Unmarshal(r.buf.Bytes(), v); err != nil {
		return false, err
	}
	return true, nil
}

func (r *recordReader) table(s *model.State, sec section) error {
	t, ok := tableByNumber(sec.Table)
	if !ok {
		return &MustUpgradeError{What: fmt.Sprintf("table %d of a checkpoint", sec.Table)}
	}
	last := ""
	for i := range sec.Rows {
		var rec row
		more, err := r.record(&rec)
		if err != nil || !more {
			return errors.Join(err, errIfNot(more, fmt.Sprintf("table %s ends after %d of %d rows", t.name, i, sec.Rows)))
		}
		if i > 0 && rec.Key <= last {
			return fmt.Errorf("table %s: %q after %q", t.name, rec.Key, last)
		}
		last = rec.Key
		if err := t.load(s, rec.Key, rec.Value); err != nil {
			return err
		}
	}
	return nil
}

// end compares the sum, and sees that nothing follows.
func (r *recordReader) end() error {
	var want, got [sha256.Size]byte
	r.h.Sum(want[:0])
	if _, err := io.ReadFull(r.r, got[:]); err != nil {
		return fmt.Errorf("its checksum: %w", noEOF(err))
	}
	if got != want {
		return errors.New("its checksum does not match")
	}
	if _, err := r.r.ReadByte(); !errors.Is(err, io.EOF) {
		return errors.New("something follows its checksum")
	}
	return nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
