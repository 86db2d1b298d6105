package snapshotstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"slices"

	"github.com/zeebo/blake3"
)

const (
	packMagic    = "ISOPACK1"
	packEnd      = "ISOPEND1"
	packHeader   = 16
	recordHeader = 40
	indexEntry   = 40
	packTrailer  = 4 + 32 + 8
)

var errPack = errors.New("index or trailer is damaged")

// packEntry is where in a pack a stored object is.
type packEntry struct {
	id     ID
	offset uint32
	length uint32
}

func appendPackHeader(dst []byte, created uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(dst, packMagic...), created)
}

func appendRecord(dst []byte, id ID, stored []byte) []byte {
	dst = append(dst, id[:]...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(stored)))
	dst = binary.LittleEndian.AppendUint32(dst, recordSum(dst[len(dst)-36:], stored))
	return append(dst, stored...)
}

// castagnoli is the polynomial that processors compute themselves.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordSum covers what the object's hash does not: the record's header, and
// bits of the compressed form that decoding does not depend on.
func recordSum(head, stored []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[:36], castagnoli), castagnoli, stored)
}

// parseRecord takes a whole record apart.
func parseRecord(record []byte) (id ID, stored []byte, err error) {
	if len(record) < recordHeader {
		return ID{}, nil, fmt.Errorf("%w: only %d bytes of a record", errDamaged, len(record))
	}
	copy(id[:], record)
	stored = record[recordHeader:]
	switch {
	case int64(binary.LittleEndian.Uint32(record[32:])) != int64(len(stored)):
		return id, stored, fmt.Errorf("%w: length of its record", errDamaged)
	case binary.LittleEndian.Uint32(record[36:]) != recordSum(record, stored):
		return id, stored, fmt.Errorf("%w: checksum of its record", errDamaged)
	}
	return id, stored, nil
}

// appendIndex writes what seals a pack. It sorts entries.
func appendIndex(dst []byte, created uint64, entries []packEntry) []byte {
	slices.SortFunc(entries, func(a, b packEntry) int { return a.id.Compare(b.id) })
	start := len(dst)
	for _, e := range entries {
		dst = append(dst, e.id[:]...)
		dst = binary.LittleEndian.AppendUint32(dst, e.offset)
		dst = binary.LittleEndian.AppendUint32(dst, e.length)
	}
	count := binary.LittleEndian.AppendUint32(nil, uint32(len(entries)))
	sum := indexSum(created, dst[start:], count)
	dst = append(dst, count...)
	dst = append(dst, sum[:]...)
	return append(dst, packEnd...)
}

func indexSum(created uint64, index, count []byte) (sum ID) {
	h := blake3.New()
	h.Write(appendPackHeader(nil, created))
	h.Write(index)
	h.Write(count)
	h.Sum(sum[:0])
	return sum
}

// readPackHeader returns when the pack was begun.
func readPackHeader(r io.ReaderAt) (uint64, error) {
	var head [packHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return 0, fmt.Errorf("read pack header: %w", err)
	}
	if string(head[:8]) != packMagic {
		return 0, fmt.Errorf("%w: not a pack", errPack)
	}
	return binary.LittleEndian.Uint64(head[8:]), nil
}

// readIndex returns the entries of a sealed pack of size bytes. Any flipped
// bit in header, index or trailer is errPack.
func readIndex(r io.ReaderAt, size int64) ([]packEntry, uint64, error) {
	created, err := readPackHeader(r)
	if err != nil {
		return nil, 0, err
	}
	if size < packHeader+packTrailer || size > math.MaxUint32 {
		return nil, 0, fmt.Errorf("%w: %d bytes", errPack, size)
	}
	var tail [packTrailer]byte
	if _, err := r.ReadAt(tail[:], size-packTrailer); err != nil {
		return nil, 0, fmt.Errorf("read pack trailer: %w", err)
	}
	count := int64(binary.LittleEndian.Uint32(tail[:]))
	start := size - packTrailer - count*indexEntry
	if string(tail[36:]) != packEnd || start < packHeader {
		return nil, 0, errPack
	}
	raw := make([]byte, count*indexEntry)
	if _, err := r.ReadAt(raw, start); err != nil {
		return nil, 0, fmt.Errorf("read pack index: %w", err)
	}
	if sum := indexSum(created, raw, tail[:4]); !bytes.Equal(sum[:], tail[4:36]) {
		return nil, 0, errPack
	}
	entries, err := parseIndex(raw, start)
	return entries, created, err
}

// parseIndex reads index entries; records end at end.
func parseIndex(raw []byte, end int64) ([]packEntry, error) {
	entries := make([]packEntry, len(raw)/indexEntry)
	for i := range entries {
		e, b := &entries[i], raw[i*indexEntry:]
		copy(e.id[:], b)
		e.offset = binary.LittleEndian.Uint32(b[32:])
		e.length = binary.LittleEndian.Uint32(b[36:])
		if e.offset < packHeader+recordHeader || e.length > MaxStored || int64(e.offset)+int64(e.length) > end {
			return nil, fmt.Errorf("%w: object %s lies outside", errPack, e.id)
		}
	}
	return entries, nil
}

// scanRecords reads a pack from the front without its index and returns the
// records that good accepts. It stops where no record can be: after a crash
// the tail may be anything. end is where the last good record ends.
func scanRecords(r io.ReaderAt, size int64, good func(ID, []byte) bool) (entries []packEntry, end int64) {
	at := int64(packHeader)
	end = at
	head := make([]byte, recordHeader)
	record := make([]byte, recordHeader+MaxStored)
	for at+recordHeader <= size {
		if _, err := r.ReadAt(head, at); err != nil {
			return entries, end
		}
		length := int64(binary.LittleEndian.Uint32(head[32:]))
		next := at + recordHeader + length
		if length < storedHeader || length > MaxStored || next > size || next > math.MaxUint32 {
			return entries, end
		}
		if _, err := r.ReadAt(record[:next-at], at); err != nil {
			return entries, end
		}
		if id, stored, err := parseRecord(record[:next-at]); err == nil && good(id, stored) {
			entries = append(entries, packEntry{id, uint32(at + recordHeader), uint32(length)})
			end = next
		}
		at = next
	}
	return entries, end
}
