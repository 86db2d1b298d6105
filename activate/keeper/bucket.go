package keeper

import "time"

// The default rate limit of one start's output.
const (
	linesPerSecond = 10_000
	linesBurst     = 20_000
)

// bucket is a token bucket. Its owner serialises calls.
type bucket struct {
	rate, burst float64 // tokens a second, most tokens
	tokens      float64
	last        time.Time
}

func newBucket(rate, burst float64, now time.Time) bucket {
	return bucket{rate: rate, burst: burst, tokens: burst, last: now}
}

// take removes one token at time now, or reports that there is none.
func (b *bucket) take(now time.Time) bool {
	if d := now.Sub(b.last); d > 0 {
		b.tokens = min(b.burst, b.tokens+d.Seconds()*b.rate)
		b.last = now
	}
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
