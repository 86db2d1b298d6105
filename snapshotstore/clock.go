package snapshotstore

import (
	"sync"
	"time"
)

// clock gives the ticks by which Collect tells what was used lately. A tick
// is a second since 1970, except that fence skips ahead: what is touched
// after a fence is always newer than what was touched before it, within one
// second too, and when the wall clock is set back.
type clock struct {
	now func() time.Time

	mu    sync.Mutex
	floor uint32
	held  map[*Hold]uint32 // operations under way, by the tick they began at
}

func newClock(now func() time.Time) *clock {
	return &clock{now: now, held: map[*Hold]uint32{}}
}

func (c *clock) tick() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tickLocked()
}

func (c *clock) tickLocked() uint32 {
	c.floor = max(c.floor, uint32(max(c.now().Unix(), 0)))
	return c.floor
}

// fence returns the tick before which nothing has been touched since, less
// the grace time, and never later than the oldest operation under way.
func (c *clock) fence(grace time.Duration) uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.floor = c.tickLocked() + 1
	seconds := (grace + time.Second - 1) / time.Second
	cut := uint32(max(int64(c.floor)-int64(max(seconds, 0)), 0))
	for _, began := range c.held {
		cut = min(cut, began)
	}
	return cut
}

// Hold keeps Collect from removing anything that was put, or was reported as
// present, since the Hold began: an upload asks what is missing, and what is
// not must still be there when it ends.
type Hold struct{ clock *clock }

func (c *clock) hold() *Hold {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := &Hold{c}
	c.held[h] = c.tickLocked()
	return h
}

// Release ends the Hold. A second call does nothing.
func (h *Hold) Release() {
	h.clock.mu.Lock()
	defer h.clock.mu.Unlock()
	delete(h.clock.held, h)
}
