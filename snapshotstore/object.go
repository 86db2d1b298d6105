package snapshotstore

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/klauspost/compress/zstd"
)

const (
	storedHeader = 9
	codecRaw     = 1
	codecZstd    = 2
	codecDelta   = 3 // against other objects: on the wire only
	minSaving    = 3 // per cent that zstd must save to be worth decoding
)

// codec turns plain objects into stored ones and back. Safe for concurrent
// use by as many goroutines as it was made for; more wait. It holds no
// goroutine and needs no closing.
type codec struct {
	enc *zstd.Encoder
	dec *zstd.Decoder
}

func newCodec(workers int) (*codec, error) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(workers), zstd.WithWindowSize(MaxObject),
		zstd.WithEncoderCRC(false)) // the ID is the stronger check
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(workers),
		zstd.WithDecoderMaxMemory(MaxObject), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return &codec{enc, dec}, nil
}

// encode appends the stored form of plain to dst[:0] and returns it.
func (c *codec) encode(dst, plain []byte, naming Naming) []byte {
	dst = appendStoredHeader(dst[:0], naming, codecZstd, len(plain))
	dst = c.enc.EncodeAll(plain, dst)
	if len(plain)-(len(dst)-storedHeader) < len(plain)*minSaving/100+1 {
		dst[0] = byte(naming)<<4 | codecRaw
		dst = append(dst[:storedHeader], plain...)
	}
	return dst
}

// storedInfo is the header of a stored object.
type storedInfo struct {
	codec  byte
	naming Naming
	plain  int // plain length, at most MaxObject
}

// appendStoredHeader begins a stored object that is not encrypted.
func appendStoredHeader(dst []byte, naming Naming, codec byte, plain int) []byte {
	dst = append(dst, byte(naming)<<4|codec)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	return binary.LittleEndian.AppendUint32(dst, uint32(plain))
}

// parseStored checks the header of a stored object in one of some forms and
// returns its payload.
func parseStored(stored []byte, codecs ...byte) (storedInfo, []byte, error) {
	if len(stored) < storedHeader {
		return storedInfo{}, nil, fmt.Errorf("only %d bytes", len(stored))
	}
	info := storedInfo{codec: stored[0] & 15, naming: Naming(stored[0] >> 4)}
	key := binary.LittleEndian.Uint32(stored[1:])
	plain := binary.LittleEndian.Uint32(stored[5:])
	payload := stored[storedHeader:]
	switch {
	case !slices.Contains(codecs, info.codec):
		return info, nil, fmt.Errorf("unknown format %d", stored[0])
	case info.naming > KeyedNaming:
		return info, nil, fmt.Errorf("unknown naming %d", info.naming)
	case key != 0:
		return info, nil, fmt.Errorf("encrypted with key %d, which is not here", key)
	case plain > MaxObject:
		return info, nil, fmt.Errorf("plain length %d exceeds %d", plain, MaxObject)
	case info.codec == codecRaw && len(payload) != int(plain):
		return info, nil, fmt.Errorf("%d bytes where %d were announced", len(payload), plain)
	case info.codec != codecRaw && len(payload) >= int(plain):
		return info, nil, fmt.Errorf("compressed form is not smaller")
	}
	info.plain = int(plain)
	return info, payload, nil
}

// decode returns the plain bytes of a stored object, never more than
// MaxObject whatever stored contains. The result may alias stored.
func (c *codec) decode(stored []byte) ([]byte, storedInfo, error) {
	info, payload, err := parseStored(stored, codecRaw, codecZstd)
	if err != nil {
		return nil, info, err
	}
	if info.codec == codecRaw {
		return payload, info, nil
	}
	plain, err := c.dec.DecodeAll(payload, make([]byte, 0, info.plain))
	if err != nil {
		return nil, info, err
	}
	if len(plain) != info.plain {
		return nil, info, fmt.Errorf("%d bytes where %d were announced", len(plain), info.plain)
	}
	return plain, info, nil
}
