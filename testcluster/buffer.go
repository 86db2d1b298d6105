//go:build linux

package testcluster

import (
	"bytes"
	"sync"
)

// bufferLimit bounds what is kept of the output of a program, in bytes.
const bufferLimit = 8 << 20

// boundedBuffer keeps the first bufferLimit bytes written to it.
type boundedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := bufferLimit - b.buf.Len(); room > 0 {
		b.buf.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (b *boundedBuffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.buf.Bytes())
}

func (b *boundedBuffer) String() string { return string(b.Bytes()) }
