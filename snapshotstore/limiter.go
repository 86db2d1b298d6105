package snapshotstore

import (
	"context"
	"sync"
	"time"
)

// limiter paces bytes: after n of them the next wait n/rate seconds. What is
// unused does not add up. A nil limiter lets everything pass.
type limiter struct {
	rate uint64 // bytes a second

	mu   sync.Mutex
	free time.Time // when the next may pass
}

// newLimiter returns nil for a rate of 0.
func newLimiter(rate uint64) *limiter {
	if rate == 0 {
		return nil
	}
	return &limiter{rate: rate}
}

// wait books n bytes and returns when those booked before have had their
// time. It reports whether it had to wait.
func (l *limiter) wait(ctx context.Context, n int) (waited bool, err error) {
	if l == nil || n == 0 {
		return false, nil
	}
	l.mu.Lock()
	now := time.Now()
	start := l.free
	if start.Before(now) {
		start = now
	}
	l.free = start.Add(time.Duration(float64(n) / float64(l.rate) * float64(time.Second)))
	l.mu.Unlock()
	d := start.Sub(now)
	if d <= 0 {
		return false, nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true, nil
	case <-ctx.Done():
		return true, ctx.Err()
	}
}
