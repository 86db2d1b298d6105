package keeper

import (
	"syscall"
	"time"
)

// family is all processes of one start, however they forked. There are two: cgroup, which nothing can leave, and
// kin, which finds them in /proc where there is no cgroup v2 to write to.
type family interface {
	// signal sends sig to every process of the family.
	signal(sig syscall.Signal)
	// empty says that none is left; zombies do not count.
	empty() bool
	// has says whether pid is one of it.
	has(pid int) bool
	// close gives back what the family needed. It is empty by then.
	close()
}

// killAll kills until nothing is left, at most patience; it says whether it succeeded.
func killAll(f family, patience time.Duration) bool {
	give := time.Now().Add(patience)
	for wait := time.Millisecond; !f.empty(); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(give) {
			return false
		}
		f.signal(syscall.SIGKILL)
		time.Sleep(wait)
	}
	return true
}
