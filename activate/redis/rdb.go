package redis

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc64"
	"io"
	"os"
	"strconv"
	"strings"
)

// Redis' CRC-64 (Jones): it begins with 0 and is not inverted.
var jones = crc64.MakeTable(0x95ac9329ac4bc9b5)

const endOfDataset = 0xff

// emptyDataset is a dataset without a key.
func emptyDataset() []byte {
	b := []byte("REDIS0009\xff")
	return binary.LittleEndian.AppendUint64(b, sum(0, b))
}

func sum(crc uint64, b []byte) uint64 {
	for _, c := range b {
		crc = jones[byte(crc)^c] ^ crc>>8
	}
	return crc
}

// examine checks that a dataset is whole: it begins with its version and ends with the checksum of all before it.
func examine(path string) (map[string]string, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("dataset %q: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	crc, err := check(f, fi.Size())
	if err != nil {
		return nil, fmt.Errorf("dataset %q: %w", path, err)
	}
	return map[string]string{"bytes": strconv.FormatInt(fi.Size(), 10), "checksum": fmt.Sprintf("%016x", crc)}, nil
}

// check reads a dataset of size bytes and returns its checksum.
func check(r io.Reader, size int64) (uint64, error) {
	if size < int64(len(emptyDataset())) {
		return 0, errors.New("it is too short to be one")
	}
	in := bufio.NewReaderSize(r, 1<<16)
	if magic, err := in.Peek(9); err != nil || !strings.HasPrefix(string(magic), "REDIS") {
		return 0, errors.New("it does not begin as one")
	}
	var crc uint64
	var last byte
	buf := make([]byte, 1<<16)
	for left := size - 8; left > 0; {
		n, err := io.ReadFull(in, buf[:min(left, int64(len(buf)))])
		if err != nil {
			return 0, err
		}
		crc, last, left = sum(crc, buf[:n]), buf[n-1], left-int64(n)
	}
	if _, err := io.ReadFull(in, buf[:8]); err != nil {
		return 0, err
	}
	switch want := binary.LittleEndian.Uint64(buf); {
	case last != endOfDataset:
		return 0, errors.New("it does not end as one")
	case want == 0:
		return 0, errors.New("it has no checksum (rdbchecksum)")
	case want != crc:
		return 0, fmt.Errorf("its checksum is %016x, and should be %016x", crc, want)
	}
	return crc, nil
}
