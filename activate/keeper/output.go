package keeper

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	readSize  = 64 << 10    // bytes read from a pipe at once
	dropNotes = time.Second // how soon a note about dropped lines is written when nothing else is
)

// readBuffers are shared: a service that says nothing holds none.
var readBuffers = sync.Pool{New: func() any { b := make([]byte, readSize); return &b }}

// output carries what one start says from its two pipes to its log.
type output struct {
	log   *logFile
	pumps sync.WaitGroup
	ends  [2]*os.File // read ends of stdout and stderr

	mu      sync.Mutex // guards what follows; taken before log's
	bucket  bucket
	pending uint64 // dropped and not yet noted in the log
	dropped uint64 // dropped in all
	note    *time.Timer
}

func newOutput(log *logFile) *output {
	return &output{log: log, bucket: newBucket(linesPerSecond, linesBurst, time.Now())}
}

// pipe makes the pipe for stream i (0 stdout, 1 stderr) and returns the write end, which the caller closes. The pipe
// belongs to user, so that a program can open /dev/stdout by name.
func (o *output) pipe(i int, user *User) (*os.File, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("make pipe: %w", err)
	}
	// Only the read end: a service expects its stdout to block.
	_ = unix.SetNonblock(p[0], true)
	if user != nil {
		_ = unix.Fchown(p[1], int(user.UID), int(user.GID))
	}
	o.ends[i] = os.NewFile(uintptr(p[0]), "output")
	return os.NewFile(uintptr(p[1]), "output"), nil
}

// pump starts reading both pipes.
func (o *output) pump() {
	for i, stream := range []byte{'o', 'e'} {
		o.pumps.Go(func() { o.read(o.ends[i], stream) })
	}
}

// read takes one pipe to its end. It never waits for the disk: what the log cannot take is counted.
func (o *output) read(f *os.File, stream byte) {
	var s splitter
	now := time.Now()
	emit := func(text []byte, cut bool) bool { return o.line(now, stream, cut, text) }
	for {
		err := readSome(f, func(b []byte) {
			now = time.Now()
			o.skip(s.feed(b, emit))
		})
		if err != nil {
			break
		}
	}
	now = time.Now()
	s.end(emit)
}

// readSome waits until f has data and hands it over in a shared buffer. The wait itself holds no buffer.
func readSome(f syscall.Conn, take func([]byte)) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Read(func(fd uintptr) bool {
		buf := readBuffers.Get().(*[]byte)
		defer readBuffers.Put(buf)
		n, err := unix.Read(int(fd), *buf)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return false
		case errors.Is(err, unix.EINTR):
		case err != nil:
			failed = err
		case n == 0:
			failed = io.EOF
		default:
			take((*buf)[:n])
		}
		return true
	})
	return errors.Join(failed, err)
}

// line writes one record, or counts it and returns false.
func (o *output) line(now time.Time, stream byte, cut bool, text []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.bucket.take(now) && o.flushNote(now) && o.log.append(now, stream, cut, text) {
		return true
	}
	o.drop(1)
	return false
}

// skip counts n lines that were not even looked at.
func (o *output) skip(n int) {
	if n > 0 {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.drop(n)
	}
}

// drop counts n lines and sees to it that a note follows soon. Called with mu held.
func (o *output) drop(n int) {
	o.pending += uint64(n)
	o.dropped += uint64(n)
	if o.note == nil {
		o.note = time.AfterFunc(dropNotes, o.noteNow)
	}
}

// flushNote writes the note about dropped lines if there is one to write; false if the log has no room for it.
// Called with mu held.
func (o *output) flushNote(now time.Time) bool {
	if o.pending == 0 {
		return true
	}
	text := fmt.Appendf(nil, "dropped %d lines: more than %d a second, or the disk is too slow", o.pending, linesPerSecond)
	if !o.log.append(now, 'k', false, text) {
		return false
	}
	o.pending = 0
	if o.note != nil {
		o.note.Stop()
		o.note = nil
	}
	return true
}

func (o *output) noteNow() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.note = nil
	if !o.flushNote(time.Now()) {
		o.note = time.AfterFunc(dropNotes, o.noteNow)
	}
}

// say writes a record of the keeper's own; it is not rate limited.
func (o *output) say(format string, a ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := time.Now()
	o.flushNote(now)
	text := bytes.ReplaceAll(fmt.Appendf(nil, format, a...), []byte("\n"), []byte(" "))
	o.log.append(now, 'k', false, text[:min(len(text), maxLine)])
}

// drain waits until both pipes are at their end, at most patience: a stranger may hold a write end that was passed to
// it. Then it closes them.
func (o *output) drain(patience time.Duration) {
	late := time.AfterFunc(patience, func() {
		for _, f := range o.ends {
			_ = f.SetReadDeadline(time.Now())
		}
	})
	o.pumps.Wait()
	late.Stop()
	for _, f := range o.ends {
		f.Close()
	}
}

// finish writes the last note and waits until the log is on disk, at most patience.
func (o *output) finish(patience time.Duration) {
	o.mu.Lock()
	o.flushNote(time.Now())
	if o.note != nil {
		o.note.Stop()
		o.note = nil
	}
	o.mu.Unlock()
	o.log.sync(patience)
}

// lost is how many lines of this start are not in the log.
func (o *output) lost() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dropped
}
