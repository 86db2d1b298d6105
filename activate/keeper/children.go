package keeper

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// children forks and reaps. Everything is reaped, orphans that came to the keeper as subreaper too, so nothing else
// in the process may wait for a child.
type children struct {
	jobs chan forkJob

	// mu is held over a fork and over a wait, so that a pid is registered before it can be reaped and is never
	// signalled after.
	mu   sync.Mutex
	live map[int]chan syscall.WaitStatus
}

type forkJob struct {
	path string
	argv []string
	attr *syscall.ProcAttr
	done chan forked
}

type forked struct {
	pid  int
	exit <-chan syscall.WaitStatus
	err  error
}

// newChildren makes this process the subreaper of its descendants and starts forking and reaping. stop ends both;
// only call it when no child is left.
func newChildren() (*children, func(), error) {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, nil, os.NewSyscallError("prctl", err)
	}
	c := &children{jobs: make(chan forkJob), live: map[int]chan syscall.WaitStatus{}}
	chld := make(chan os.Signal, 1)
	signal.Notify(chld, unix.SIGCHLD)
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(c.forkLoop)
	wg.Go(func() { c.reapLoop(chld, quit) })
	return c, func() {
		signal.Stop(chld)
		close(quit)
		close(c.jobs)
		wg.Wait()
	}, nil
}

// forkLoop forks from one thread that lives as long as the keeper: PDEATHSIG fires when the *thread* that forked
// ends.
func (c *children) forkLoop() {
	runtime.LockOSThread()
	for j := range c.jobs {
		j.done <- c.forkOne(j)
	}
}

func (c *children) forkOne(j forkJob) forked {
	c.mu.Lock()
	defer c.mu.Unlock()
	pid, err := syscall.ForkExec(j.path, j.argv, j.attr)
	if err != nil {
		return forked{err: err}
	}
	exit := make(chan syscall.WaitStatus, 1)
	c.live[pid] = exit
	return forked{pid: pid, exit: exit}
}

// fork starts one process. The channel gets its wait status once.
func (c *children) fork(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan syscall.WaitStatus, error) {
	j := forkJob{path: path, argv: argv, attr: attr, done: make(chan forked, 1)}
	c.jobs <- j
	f := <-j.done
	return f.pid, f.exit, f.err
}

func (c *children) reapLoop(chld <-chan os.Signal, quit <-chan struct{}) {
	for {
		select {
		case <-chld:
			for c.reapOne() {
			}
		case <-quit:
			return
		}
	}
}

// reapOne takes one dead child, if there is one.
func (c *children) reapOne() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ws syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &ws, syscall.WNOHANG, nil)
	if errors.Is(err, syscall.EINTR) {
		return true
	}
	if err != nil || pid <= 0 {
		return false
	}
	if exit, ok := c.live[pid]; ok {
		exit <- ws
		delete(c.live, pid)
	}
	return true
}

// signalGroup signals the process group that pid leads, unless pid is already reaped.
func (c *children) signalGroup(pid int, sig syscall.Signal) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.live[pid]; ok {
		_ = syscall.Kill(-pid, sig)
	}
}
