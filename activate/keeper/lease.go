package keeper

import (
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Lease is until when the leased starts may run: none of their processes is alive at the end of it, whether or not
// anybody renews it, or talks to the keeper at all.
type Lease struct {
	Until time.Duration `json:"until_ns"` // on CLOCK_BOOTTIME; see Boottime
	Term  time.Duration `json:"term_ns"`  // before the end: TERM, and no leased start from here on
	Kill  time.Duration `json:"kill_ns"`  // before the end: KILL
}

// maxLease bounds a lease; who forgets to renew a longer one would be fenced by nobody.
const maxLease = time.Hour

func (l Lease) check(now time.Duration) error {
	if l.Until <= 0 || l.Kill < 0 || l.Term < l.Kill || l.Until > now+maxLease {
		return fmt.Errorf("%w: a lease until %v, with %v and %v to its end, at %v", ErrBadRequest, l.Until, l.Term, l.Kill, now)
	}
	return nil
}

// Boottime is the time since the machine was started, asleep or not: time.Now's own clock stops with the machine.
func Boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("keeper: CLOCK_BOOTTIME: " + err.Error()) // since Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}

// leaseClock holds the present lease and a timer on the same clock, which fires at once when the machine wakes too late.
type leaseClock struct {
	timer *os.File

	mu  sync.Mutex // guards what follows
	now Lease      // zero: none was ever given
}

func newLeaseClock() (*leaseClock, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make a timer for the lease: %w", err)
	}
	return &leaseClock{timer: os.NewFile(uintptr(fd), "lease")}, nil
}

// renew takes a lease that ends later; one that ends earlier is an old one.
func (c *leaseClock) renew(l Lease) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.Until <= c.now.Until {
		return nil
	}
	c.now = l
	return c.arm(l.Until - l.Term)
}

// arm has the timer fire at a time. Called with mu held.
func (c *leaseClock) arm(at time.Duration) error {
	raw, err := c.timer.SyscallConn()
	if err != nil {
		return err
	}
	var settime error
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(int64(at), 1))} // 0 would disarm it
	err = raw.Control(func(fd uintptr) { settime = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil) })
	if err == nil {
		err = settime
	}
	return err
}

// over says whether leased starts must end by now, and how long they have before they are killed.
func (c *leaseClock) over(now time.Duration) (grace time.Duration, over bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(c.now.Until-c.now.Kill-now, 0), now >= c.now.Until-c.now.Term
}

// watchLease ends what is leased when it is time, until the timer is closed.
func (k *keeper) watchLease() {
	var fired [8]byte
	for {
		if _, err := k.lease.timer.Read(fired[:]); err != nil {
			return
		}
		k.endLeased()
	}
}

// endLeased tells the leased starts to end, if the lease is over; at the second call, in time to be sure, with KILL.
func (k *keeper) endLeased() {
	grace, over := k.lease.over(Boottime())
	if !over {
		return
	}
	k.mu.Lock()
	n := 0
	for _, in := range k.instances {
		if in.spec.Leased && in.unlease(grace) {
			n++
		}
	}
	k.mu.Unlock()
	if n > 0 {
		k.log.Warn("the lease is not renewed: ending what must run in one place only", "starts", n, "kill_after", grace)
	}
	if grace > 0 {
		k.lease.mu.Lock()
		defer k.lease.mu.Unlock()
		if err := k.lease.arm(k.lease.now.Until - k.lease.now.Kill); err != nil {
			k.log.Error("arming the lease's timer", "error", err)
		}
	}
}

// unlease tells in to end because the lease is over. It says whether in was running.
func (in *instance) unlease(grace time.Duration) bool {
	in.mu.Lock()
	running := in.state == Running || in.state == Stopping
	in.unleased = in.unleased || in.state == Running
	in.mu.Unlock()
	if running {
		in.stop(grace)
	}
	return running
}
