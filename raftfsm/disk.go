package raftfsm

import (
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

// disk knows how the log's disk behaves, from the time that each write takes.
//
// A leader whose disk stalls goes on sending heartbeats, for those need no disk, so nobody would replace it, while
// nothing commits. raft does not see this by itself (hashicorp/raft issues 503 and 614), and cannot be asked to
// step down while its main goroutine waits for the write. So a stalled leader falls silent instead: see transport.
type disk struct {
	slow      time.Duration // a write that takes longer is a stall
	probation time.Duration // how long after a stall or an error the disk counts as sick
	through   func(write func() error) error
	log       *slog.Logger

	mu    sync.Mutex
	next  uint64
	began map[uint64]time.Time // writes under way; raft has one or two at a time
	sick  time.Time            // counts as sick until then
	last  time.Duration
	err   error // of the last write that failed
	erred time.Time
	told  bool // that there is a stall
}

// stallAfter is the longest write that is no stall, in election timeouts: 2 s on a LAN. Half of that is seen on sound
// but loaded machines, where a change of leader would only add load.
const stallAfter = 8

// newDisk makes the watch over a disk; through carries each write out.
func newDisk(t Timing, through func(write func() error) error, log *slog.Logger) *disk {
	slow := stallAfter * t.Election
	if through == nil {
		through = func(write func() error) error { return write() }
	}
	return &disk{slow: slow, probation: slow, through: through, log: log, began: map[uint64]time.Time{}}
}

func (d *disk) time(write func() error) error {
	id := d.begin()
	err := d.through(write)
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	d.last = now.Sub(d.began[id])
	delete(d.began, id)
	if err != nil {
		d.err, d.erred = err, now
	}
	if err != nil || d.last > d.slow {
		d.sick = now.Add(d.probation)
	}
	if d.told {
		d.told = false
		d.log.Warn("the stalled write to disk ended", "took", d.last, "error", err)
	}
	return err
}

func (d *disk) begin() uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.next++
	d.began[d.next] = time.Now()
	return d.next
}

// underWay is how long the oldest write under way has taken, 0 when there is none.
func (d *disk) underWay() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	longest := time.Duration(0)
	for _, began := range d.began {
		longest = max(longest, time.Since(began))
	}
	return longest
}

// stalled says that a write is under way for too long.
func (d *disk) stalled() bool {
	took := d.underWay()
	if took <= d.slow {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.told && len(d.began) > 0 {
		d.told = true
		d.log.Warn("a write to disk is stalled: if this server leads, it falls silent, and another one takes over", "for", took)
	}
	return true
}

// healthy says that writes end, in time and without errors, and have for a while.
func (d *disk) healthy() bool {
	if d.stalled() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return !time.Now().Before(d.sick)
}

// fault is the error of a write that failed lately.
func (d *disk) fault() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil || time.Since(d.erred) > d.probation {
		return nil
	}
	return d.err
}

func (d *disk) lastWrite() (time.Duration, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last, d.err
}

// timedLogs is a LogStore whose appends are timed. Deleting old entries may take its time: an append that has to wait
// for it shows.
type timedLogs struct {
	raft.LogStore
	disk *disk
}

func (t timedLogs) StoreLog(l *raft.Log) error { return t.StoreLogs([]*raft.Log{l}) }

func (t timedLogs) StoreLogs(logs []*raft.Log) error {
	return t.disk.time(func() error { return t.LogStore.StoreLogs(logs) })
}

// timedStable is a StableStore (term and vote) whose writes are timed, and do not fail.
//
// raft panics when it cannot store its term, and a full disk must not end the agent. So a write that fails is tried
// again until it succeeds: raft's main goroutine waits, and the server, silent, does no harm.
type timedStable struct {
	raft.StableStore
	disk *disk
	log  *slog.Logger
	stop <-chan struct{} // closed when raft shuts down
	on   atomic.Bool     // false while raft starts: then an error is an error of Open
}

// Set writes a value.
func (t *timedStable) Set(key, value []byte) error {
	return t.persist(func() error { return t.StableStore.Set(key, value) })
}

// SetUint64 writes a number.
func (t *timedStable) SetUint64(key []byte, value uint64) error {
	return t.persist(func() error { return t.StableStore.SetUint64(key, value) })
}

func (t *timedStable) persist(write func() error) error {
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		err := t.disk.time(write)
		if err == nil || !t.on.Load() {
			return err
		}
		t.log.Warn("raft's term or vote cannot be stored: waiting for the disk", "error", err)
		select {
		case <-time.After(pause):
		case <-t.stop:
			// Neither answer will do: an error makes raft panic, and nil would let it give a vote that it may
			// forget. raft is shutting down: its goroutine ends here, and its deferred calls refuse what it was asked.
			runtime.Goexit()
		}
	}
}
