package node

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/raftfsm"
)

const mb = 1_000_000

func TestJudgeDisk(t *testing.T) {
	t.Parallel()
	well := diskLook{size: 1000 * mb, free: 500 * mb, inodes: 10000, inodesFree: 5000}
	with := func(f func(*diskLook)) diskLook {
		l := well
		f(&l)
		return l
	}
	for name, c := range map[string]struct {
		look    diskLook
		text    string
		fitness raftfsm.Fitness
	}{
		"sound":           {well, "", raftfsm.Fit},
		"no inode limit":  {with(func(l *diskLook) { l.inodes, l.inodesFree = 0, 0 }), "", raftfsm.Fit},
		"a twentieth":     {with(func(l *diskLook) { l.free = 50 * mb }), "", raftfsm.Fit},
		"less":            {with(func(l *diskLook) { l.free = 49 * mb }), "disk full: 49 MB free of 1.0 GB at /d", raftfsm.Reluctant},
		"few inodes":      {with(func(l *diskLook) { l.inodesFree = 99 }), "disk full: 99 inodes free of 10000 at /d", raftfsm.Reluctant},
		"no space at all": {with(func(l *diskLook) { l.free, l.err = 0, fmt.Errorf("x: %w", syscall.ENOSPC) }), "disk full: 0 B free of 1.0 GB at /d", raftfsm.Unable},
		"quota":           {with(func(l *diskLook) { l.err = syscall.EDQUOT }), "disk full: 500 MB free of 1.0 GB at /d", raftfsm.Unable},
		"read-only":       {with(func(l *diskLook) { l.readOnly = true }), "disk read-only at /d", raftfsm.Unable},
		"made read-only":  {with(func(l *diskLook) { l.err = &os.PathError{Err: syscall.EROFS} }), "disk read-only at /d", raftfsm.Unable},
		"stalls":          {with(func(l *diskLook) { l.stall = diskStalls + 1 }), "disk stalls: a write at /d has taken more than 5s", raftfsm.Unable},
		"slow":            {with(func(l *diskLook) { l.stall = diskStalls }), "", raftfsm.Fit},
		"fails":           {with(func(l *diskLook) { l.err = fmt.Errorf("sync x: %w", syscall.EIO) }), "disk fails at /d: input/output error", raftfsm.Unable},
		"fails otherwise": {with(func(l *diskLook) { l.err = errors.New("odd") }), "disk fails at /d: odd", raftfsm.Unable},
		"unknown size":    {diskLook{}, "", raftfsm.Fit},
	} {
		h := diskHealth{}.judge(c.look, "/d", time.Now())
		if h.text != c.text || h.fitness() != c.fitness {
			t.Errorf("%s: %q, fitness %d", name, h.text, h.fitness())
		}
	}
}

// TestSickIsSteady: what comes and goes is told once, in the words in which it began.
func TestSickIsSteady(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var h diskHealth
	look := func(free int64, after time.Duration, err error) string {
		now = now.Add(after)
		h = h.judge(diskLook{size: 1000 * mb, free: free, err: err}, "/d", now)
		return h.text
	}
	told := look(49*mb, 0, nil)
	for _, free := range []int64{12 * mb, 0, 51 * mb, 62 * mb} {
		for range 10 {
			if got := look(free, time.Second, nil); got != told {
				t.Fatalf("%d bytes free: %q", free, got)
			}
		}
	}
	if look(63*mb, time.Second, nil) != told || look(63*mb, fullSteady-1, nil) != told {
		t.Error("well at once")
	}
	if look(10*mb, 1, nil) != told || look(63*mb, 1, nil) != told || look(63*mb, fullSteady-1, nil) != told {
		t.Error("a relapse does not count")
	}
	if got := look(63*mb, 1, nil); got != "" {
		t.Errorf("for good: %q", got)
	}
	if look(500*mb, 0, syscall.EIO) == "" || look(500*mb, time.Second, nil) == "" || look(500*mb, faultySteady-1, nil) == "" || look(500*mb, 1, nil) != "" {
		t.Error("a disk that failed is not trusted for as long as it should be")
	}
	h = diskHealth{}
	if h.fitness() != raftfsm.Fit || look(49*mb, 0, nil) == "" || h.fitness() != raftfsm.Reluctant {
		t.Error("full")
	}
	if look(0, 1, syscall.ENOSPC) == "" || h.fitness() != raftfsm.Unable {
		t.Error("that it is full to the last byte does not count")
	}
}

// TestDiskWatch: a look that does not return is a stall, and the only one; a change is news.
func TestDiskWatch(t *testing.T) {
	t.Parallel()
	var d diskWatch
	now := time.Now()
	if write, ok := d.begin(now); !ok || !write {
		t.Fatal("the first look tries no write")
	}
	if _, ok := d.begin(now); ok {
		t.Fatal("a second look at the same time")
	}
	if is, _ := d.judge(now.Add(diskStalls), "/d", 0, nil); is.text != "" {
		t.Errorf("too early: %s", is.text)
	}
	is, was := d.judge(now.Add(diskStalls+1), "/d", 0, nil)
	if is.ailment != stalling || was.text != "" || len(d.news()) != 1 || d.sick() != is.text {
		t.Errorf("%+v after %+v", is, was)
	}
	<-d.news()
	d.end(diskLook{size: 1000 * mb, free: 500 * mb}, true)
	now = now.Add(time.Minute)
	d.judge(now, "/d", 0, nil)
	if is, _ := d.judge(now.Add(faultySteady), "/d", 0, nil); is.text != "" || len(d.news()) != 1 {
		t.Errorf("still %q", is.text)
	}
	if is, _ := d.judge(now, "/d", 0, syscall.EIO); is.ailment != failing {
		t.Errorf("raft's error: %+v", is)
	}
	d.end(diskLook{err: syscall.ENOSPC}, true)
	d.end(diskLook{}, false)
	if !noRoom(d.last.err) {
		t.Error("a look without a write forgot what the last write met")
	}
}

func TestLookAtDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := lookAtDisk(dir, true)
	if l.err != nil || l.size <= 0 || l.free <= 0 || l.free > l.size || l.readOnly {
		t.Errorf("%+v", l)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if l := lookAtDisk(dir+"/none", true); !errors.Is(l.err, syscall.ENOENT) {
		t.Errorf("%+v", l)
	}
	if err := tryWriting("/proc/none"); err == nil || strings.Contains(shortError(err), "/proc") {
		t.Errorf("%v", err)
	}
}
