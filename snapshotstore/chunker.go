package snapshotstore

import (
	"encoding/binary"

	"github.com/zeebo/blake3"
)

// The cut masks (normalised chunking, level 2): before AvgChunk bytes a cut
// needs 18 zero bits, after it 14. The top bits are taken because the shift
// lets only them depend on a full window of 64 bytes.
const (
	maskEarly = uint64(1<<18-1) << (64 - 18)
	maskLate  = uint64(1<<14-1) << (64 - 14)
)

// gearTable gives each byte value a random number. Part of the format: two
// machines must cut alike, so it is derived, never drawn.
type gearTable [256]uint64

func newGearTable() *gearTable {
	h := blake3.New()
	h.Write([]byte("isonomia chunk boundaries 1"))
	var raw [256 * 8]byte
	if _, err := h.Digest().Read(raw[:]); err != nil { // the output of BLAKE3 has no end
		panic(err)
	}
	var t gearTable
	for i := range t {
		t[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return &t
}

// cut returns the length of the first chunk of data (FastCDC). Unless data
// is the end of the file it must hold MaxChunk bytes.
func (t *gearTable) cut(data []byte) int {
	if len(data) <= MinChunk {
		return len(data)
	}
	data = data[:min(len(data), MaxChunk)]
	normal := min(AvgChunk, len(data))
	var h uint64
	for i, c := range data[MinChunk:normal] { // ranging spares the bounds checks
		h = h<<1 + t[c]
		if h&maskEarly == 0 {
			return MinChunk + i + 1
		}
	}
	for i, c := range data[normal:] {
		h = h<<1 + t[c]
		if h&maskLate == 0 {
			return normal + i + 1
		}
	}
	return len(data)
}
