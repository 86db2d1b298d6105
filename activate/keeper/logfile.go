package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Default sizes of a log.
const (
	logFileSize   = 10 << 20  // bytes of one file before it is rotated
	logFiles      = 3         // files kept, the current one included
	logBufferSize = 256 << 10 // bytes waiting for the disk before lines are dropped
)

// logFile is one rotated log. Appending never waits for the disk; a goroutine that exists only while there is
// something to write does.
type logFile struct {
	path  string // of the newest file
	size  int64  // limits, fixed
	files int
	room  int
	write func(*os.File, []byte) (int, error)

	mu      sync.Mutex // guards what follows
	buf     []byte
	idle    chan struct{} // closed when the writer ends; nil when none runs
	lost    uint64        // lines that the disk refused, not yet noted
	lostAll uint64

	// Owned by the writer, one at a time.
	f    *os.File
	used int64
}

func newLogFile(path string) *logFile {
	return &logFile{path: path, size: logFileSize, files: logFiles, room: logBufferSize, write: (*os.File).Write}
}

// append adds a record to what is to be written, or returns false if the disk is too far behind.
func (l *logFile) append(now time.Time, stream byte, cut bool, text []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.buf)+len(text)+len(logTime)+5 > l.room {
		return false
	}
	l.buf = appendRecord(l.buf, now, stream, cut, text)
	if l.idle == nil {
		l.idle = make(chan struct{})
		go l.run(l.idle)
	}
	return true
}

// run writes until nothing is left to write.
func (l *logFile) run(done chan struct{}) {
	defer close(done)
	var spare []byte
	for {
		l.mu.Lock()
		if len(l.buf) == 0 {
			l.buf, l.idle = nil, nil
			l.mu.Unlock()
			return
		}
		batch, lost := l.buf, l.lost
		l.buf, l.lost = spare[:0], 0
		l.mu.Unlock()
		if lost > 0 && l.put(lostNote(lost)) == 0 {
			lost = 0
		}
		refused := l.put(batch)
		l.mu.Lock()
		l.lost += lost + refused
		l.lostAll += refused
		l.mu.Unlock()
		spare = batch
	}
}

func lostNote(n uint64) []byte {
	return appendRecord(nil, time.Now(), 'k', false, "lost "+strconv.FormatUint(n, 10)+" lines: they could not be written")
}

// put writes whole records, rotating between them, and returns how many the disk refused.
func (l *logFile) put(batch []byte) (refused uint64) {
	for len(batch) > 0 {
		n, err := l.putPart(batch)
		if err != nil {
			refused += uint64(bytes.Count(batch[:n], []byte("\n")))
		}
		batch = batch[n:]
	}
	return refused
}

// putPart writes as many records as fit the current file and returns how many bytes it has dealt with, written or not.
func (l *logFile) putPart(batch []byte) (int, error) {
	if err := l.open(); err != nil {
		return len(batch), err
	}
	n := fitting(batch, l.size-l.used)
	if n == 0 && l.used > 0 {
		if err := l.rotate(); err != nil {
			return len(batch), err
		}
		return 0, nil
	}
	if n == 0 {
		n = bytes.IndexByte(batch, '\n') + 1
	}
	w, err := l.write(l.f, batch[:n])
	if err != nil && w > 0 {
		_ = l.f.Truncate(l.used) // no torn record: the count says what is missing
		w = 0
	}
	l.used += int64(w)
	return n, err
}

// fitting is the length of the longest run of whole records of b within limit bytes.
func fitting(b []byte, limit int64) int {
	if int64(len(b)) <= limit {
		return len(b)
	}
	return bytes.LastIndexByte(b[:max(limit, 0)], '\n') + 1
}

// open opens the newest file, ending a record that a crash has torn.
func (l *logFile) open() error {
	if l.f != nil {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_RDWR|os.O_APPEND|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o640)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = fmt.Errorf("open log %q: not a file", l.path)
	}
	if err != nil {
		f.Close()
		return err
	}
	l.f, l.used = f, fi.Size()
	last := []byte{'\n'}
	if l.used > 0 {
		_, _ = f.ReadAt(last, l.used-1)
	}
	if last[0] != '\n' {
		n, _ := f.Write([]byte{'\n'})
		l.used += int64(n)
	}
	return nil
}

// rotate renames the files by one and leaves none open. Readers rely on it: once there is a new newest file, nothing
// is written to the older ones.
func (l *logFile) rotate() error {
	l.f.Close()
	l.f = nil
	for i := l.files - 1; i >= 1; i-- {
		err := os.Rename(rotated(l.path, i-1), rotated(l.path, i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if l.files <= 1 {
		return os.Remove(l.path)
	}
	return nil
}

// rotated is the name of the i-th newest file.
func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

func logPath(dir, name string) string { return filepath.Join(dir, name+".log") }

// sync waits until everything appended so far is written, at most patience.
func (l *logFile) sync(patience time.Duration) {
	l.mu.Lock()
	idle := l.idle
	l.mu.Unlock()
	if idle == nil {
		return
	}
	select {
	case <-idle:
	case <-time.After(patience):
	}
}

// close gives the file back. The owner makes sure that nobody appends any more.
func (l *logFile) close() {
	l.sync(time.Second)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.idle == nil && l.f != nil {
		l.f.Close()
		l.f = nil
	}
}

func (l *logFile) lostLines() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lostAll
}
