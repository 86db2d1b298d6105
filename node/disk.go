package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// A node looks at the disk of its data directory, and says in State when that is sick: then nothing new is placed there, and
// another node leads. What is there stays.

const (
	diskEvery    = time.Second      // between two looks
	probeWrite   = 15 * time.Second // between two writes that try a disk which seems sound
	diskStalls   = 5 * time.Second  // a look or a write that takes longer is a stall
	fullSteady   = 5 * time.Second  // without a cause, until a full disk is well again
	faultySteady = 30 * time.Second // the same of one that stalled or failed
	fewInodes    = 1000             // that stay free, or a hundredth of a smaller table
)

// ailment is what a disk may suffer from.
type ailment string

const (
	sound    ailment = ""
	full     ailment = "full"      // what the node itself needs is left, or not even that
	readOnly ailment = "read-only" //
	stalling ailment = "stalls"    //
	failing  ailment = "fails"     // a write failed
)

// diskLook is what was found out in one look.
type diskLook struct {
	size, free         int64         // bytes
	inodes, inodesFree uint64        // inodes is 0 where there is no such limit
	readOnly           bool          // the file system says so
	err                error         // of the look, or of a write that was tried
	stall              time.Duration // for how long the oldest one under way has waited
}

// diskHealth is what a node knows of its disk.
type diskHealth struct {
	ailment ailment
	text    string    // in words, as they were when it began; "" = sound
	unable  bool      // nothing can be written
	well    time.Time // since when there has been no cause any more; zero: there is
}

// judge says how a disk is after a look, given how it was. An ailment ends some time after its cause, and a full disk has to
// get a quarter more free than made it count as full, so that what comes and goes is told once.
func (was diskHealth) judge(l diskLook, dir string, now time.Time) diskHealth {
	h := l.diagnose(dir, was.ailment == full)
	switch {
	case h.ailment == was.ailment && h.ailment != sound:
		was.well, was.unable = time.Time{}, h.unable
		return was
	case h.ailment != sound:
		return h
	case was.ailment == sound:
		return was
	case was.well.IsZero():
		was.well = now
	}
	steady := faultySteady
	if was.ailment == full || was.ailment == readOnly {
		steady = fullSteady
	}
	if now.Sub(was.well) < steady {
		return was
	}
	return diskHealth{}
}

func (l diskLook) diagnose(dir string, wasFull bool) diskHealth {
	keep, few := kept(l.size), min(fewInodes, l.inodes/100)
	if wasFull {
		keep, few = keep*5/4, few*5/4
	}
	noSpace := noRoom(l.err)
	switch {
	case l.readOnly || errors.Is(l.err, syscall.EROFS):
		return diskHealth{ailment: readOnly, text: fmt.Sprintf("disk read-only at %s", dir), unable: true}
	case l.stall > diskStalls:
		return diskHealth{ailment: stalling, text: fmt.Sprintf("disk stalls: a write at %s has taken more than %v", dir, diskStalls), unable: true}
	case noSpace || l.size > 0 && l.free < keep:
		return diskHealth{ailment: full, text: fmt.Sprintf("disk full: %s free of %s at %s", inBytes(l.free), inBytes(l.size), dir), unable: noSpace}
	case l.inodes > 0 && l.inodesFree < few:
		return diskHealth{ailment: full, text: fmt.Sprintf("disk full: %d inodes free of %d at %s", l.inodesFree, l.inodes, dir)}
	case l.err != nil:
		return diskHealth{ailment: failing, text: fmt.Sprintf("disk fails at %s: %s", dir, shortError(l.err)), unable: true}
	}
	return diskHealth{}
}

// noRoom says of an error that the disk is full.
func noRoom(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// shortError is the system's word for an error, without what was done.
func shortError(err error) string {
	if errno := syscall.Errno(0); errors.As(err, &errno) {
		return errno.Error()
	}
	return err.Error()
}

// inBytes is a size as people say it.
func inBytes(n int64) string {
	value, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if value < 1000 {
			break
		}
		value, unit = value/1000, u
	}
	if value < 10 && unit != "B" {
		return fmt.Sprintf("%.1f %s", value, unit)
	}
	return fmt.Sprintf("%.0f %s", value, unit)
}

// fitness is what that means for leading.
func (h diskHealth) fitness() raftfsm.Fitness {
	switch {
	case h.unable:
		return raftfsm.Unable
	case h.ailment != sound:
		return raftfsm.Reluctant
	}
	return raftfsm.Fit
}

// diskWatch holds what the looks found. A look is one goroutine, which a disk that hangs may hold for ever: there is one.
type diskWatch struct {
	mu     sync.Mutex // guards what follows
	began  time.Time  // of the look under way; zero: there is none
	probed time.Time  // when a write was tried last
	last   diskLook
	health diskHealth
	woken  chan struct{} // has one when the ailment changed
}

// news has something when the ailment has changed.
func (d *diskWatch) news() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.wakes()
}

// wakes is the channel; d.mu is held.
func (d *diskWatch) wakes() chan struct{} {
	if d.woken == nil {
		d.woken = make(chan struct{}, 1)
	}
	return d.woken
}

// sick says what ails the disk; "" = nothing.
func (d *diskWatch) sick() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.health.text
}

// begin starts a look unless one is under way; write says that it should try to write.
func (d *diskWatch) begin(now time.Time) (write, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.began.IsZero() {
		return false, false
	}
	d.began = now
	if write = d.health.ailment != sound || now.Sub(d.probed) >= probeWrite; write {
		d.probed = now
	}
	return write, true
}

func (d *diskWatch) end(l diskLook, wrote bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.began = time.Time{}
	if !wrote && l.err == nil {
		l.err = d.last.err // of the last write that was tried
	}
	d.last = l
}

// judge takes in the last look and what raft's log met, and says how the disk is, and was.
func (d *diskWatch) judge(now time.Time, dir string, stall time.Duration, fault error) (is, was diskHealth) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.last
	if l.err == nil {
		l.err = fault
	}
	if l.stall = stall; !d.began.IsZero() {
		l.stall = max(l.stall, now.Sub(d.began))
	}
	was = d.health
	d.health = was.judge(l, dir, now)
	if d.health.text != was.text {
		select {
		case d.wakes() <- struct{}{}:
		default:
		}
	}
	return d.health, was
}

// diskLoop watches the disk until ctx ends.
func (n *Node) diskLoop(ctx context.Context) error {
	for ctx.Err() == nil {
		if write, ok := n.disk.begin(time.Now()); ok {
			go func() { n.disk.end(lookAtDisk(n.cfg.Dir, write), write) }()
		}
		n.pause(ctx, diskEvery)
		is, was := n.disk.judge(time.Now(), n.cfg.Dir, n.fsm.DiskStall(), n.fsm.DiskFault())
		n.fsm.SetFitness(is.fitness())
		switch {
		case is.text == was.text:
		case is.ailment == sound:
			n.log.Info("the disk is well again", "was", was.text)
			n.note(Noted{Kind: "well", Message: "the disk is well again: this node takes new instances. It was: " + was.text})
		default:
			n.log.Warn("the disk is sick: nothing new is placed here", "why", is.text)
			n.note(Noted{Kind: "sick", Message: is.text + ": nothing new is placed here, and another node leads"})
		}
	}
	return nil
}

// lookAtDisk asks the file system of a directory how it is, and tries to write if it should.
func lookAtDisk(dir string, write bool) diskLook {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return diskLook{err: fmt.Errorf("ask for free space: %w", err)}
	}
	l := diskLook{size: int64(fs.Blocks) * fs.Bsize, free: int64(fs.Bavail) * fs.Bsize, inodes: fs.Files, inodesFree: fs.Ffree, readOnly: fs.Flags&unix.ST_RDONLY != 0}
	if write && !l.readOnly {
		l.err = tryWriting(paths(dir).probe())
	}
	return l
}

// tryWriting writes a page to a file of its own, which goes again.
func tryWriting(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("try to write: %w", err)
	}
	_, err = f.Write(make([]byte, 4096))
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close(), os.Remove(path))
}
