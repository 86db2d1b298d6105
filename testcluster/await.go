//go:build linux

package testcluster

import (
	"errors"
	"testing"
	"time"
)

// Await calls probe until it returns nil, with pauses of 2 to 100 ms. If that
// does not happen within timeout the test fails with the last reason.
func Await(t testing.TB, what string, timeout time.Duration, probe func() error) {
	t.Helper()
	if err := Poll(timeout, probe); err != nil {
		t.Fatalf("await %s: not within %v: %v", what, timeout, err)
	}
}

// Poll is Await for callers that want the last reason instead of a failure. The
// last call of probe begins after the timeout, so that a machine that was asleep
// all the time is not blamed.
func Poll(timeout time.Duration, probe func() error) error {
	deadline := time.Now().Add(timeout)
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		late := time.Now().After(deadline)
		err := probe()
		if err == nil || late || errors.As(err, new(giveUp)) {
			return err
		}
		time.Sleep(pause)
	}
}

// giveUp is the reason of a probe that will never succeed.
type giveUp struct{ error }
