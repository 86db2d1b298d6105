package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// drainPatience is how long output is waited for once no process is left, and then the disk.
const drainPatience = 2 * time.Second

// instance is one start, from fork until it is forgotten.
type instance struct {
	spec    Spec
	pid     int
	started time.Time
	family  family
	out     *output
	base    uint64 // lines the log had lost before this start
	notify  *net.UnixConn
	stops   chan time.Duration // grace of a stop; holds one, the shortest wins

	mu       sync.Mutex // guards what follows
	state    State
	exit     *Exit
	notified bool
	ready    bool
	unleased bool // told to end for lack of a lease
	text     string
	final    uint64        // dropped, at Exited
	gone     chan struct{} // closed at Exited
}

func (in *instance) status() Status {
	in.mu.Lock()
	defer in.mu.Unlock()
	return Status{
		ID: in.spec.ID, State: in.state, PID: in.pid, StartedAt: in.started.UTC(), Age: time.Since(in.started),
		Notified: in.notified, Ready: in.ready, Text: in.text, Exit: in.exit,
		Dropped: in.dropped(),
	}
}

// dropped is how many lines of this start are not in its log; of those that the disk refused, all that were lost
// while it ran, even if another start shares the log. Called with mu held.
func (in *instance) dropped() uint64 {
	if in.state == Exited {
		return in.final
	}
	return in.out.lost() + in.out.log.lostLines() - in.base
}

// launch forks the process of spec. On error nothing is left of it.
func (k *keeper) launch(spec Spec, log *logFile) (_ *instance, err error) {
	in := &instance{spec: spec, out: newOutput(log), base: log.lostLines(), state: Running,
		stops: make(chan time.Duration, 1), gone: make(chan struct{})}
	defer func() {
		if err != nil {
			in.discard()
		}
	}()
	var files [3]*os.File
	if files[0], err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	defer closeAll(files[:])
	for i := range in.out.ends {
		if files[i+1], err = in.out.pipe(i, spec.User); err != nil {
			return nil, err
		}
	}
	if spec.Notify != "" {
		if in.notify, err = listenNotify(spec.Notify, spec.User); err != nil {
			return nil, err
		}
	}
	exit, err := k.forkInto(in, files[:])
	if err != nil {
		return nil, err
	}
	in.out.say("%s", in.began())
	in.out.pump()
	k.minders.Go(func() { k.mind(in, exit) })
	return in, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// forkInto forks the main process into the family that k can give it.
func (k *keeper) forkInto(in *instance, files []*os.File) (<-chan syscall.WaitStatus, error) {
	spec := in.spec
	sys := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if spec.User != nil {
		sys.Credential = &syscall.Credential{Uid: spec.User.UID, Gid: spec.User.GID, Groups: spec.User.Groups}
	}
	relative := &kin{mark: k.home.mark, id: spec.ID}
	in.family = relative
	if k.cgroups != nil {
		cg, err := k.cgroups.family(spec.ID)
		if err != nil {
			return nil, err
		}
		in.family, sys.UseCgroupFD, sys.CgroupFD = cg, true, int(cg.fd.Fd())
	}
	attr := &syscall.ProcAttr{
		Dir: spec.Dir, Sys: sys,
		Env: append([]string{markName + "=" + k.home.mark + ":" + spec.ID}, spec.Env...),
	}
	for _, f := range files {
		attr.Files = append(attr.Files, f.Fd())
	}
	var exit <-chan syscall.WaitStatus
	var err error
	in.started = time.Now()
	in.pid, exit, err = k.children.fork(spec.Argv[0], spec.Argv, attr)
	relative.main = in.pid
	var errno syscall.Errno
	if errors.As(err, &errno) {
		err = &ExecError{Path: spec.Argv[0], Errno: errno}
	}
	return exit, err
}

// discard undoes a launch that did not get as far as a process.
func (in *instance) discard() {
	closeAll(in.out.ends[:])
	if in.notify != nil {
		in.notify.Close()
		_ = os.Remove(in.spec.Notify)
	}
	if in.family != nil {
		in.family.close()
	}
}

// mind sees one start to its end: the main process ends by itself or is told to, the rest of the family follows
// within the grace time, the output is taken to its end, and only then is the start Exited.
func (k *keeper) mind(in *instance, exit <-chan syscall.WaitStatus) {
	var notices sync.WaitGroup
	if in.notify != nil {
		notices.Go(func() { readNotify(in.notify, func(n notice) { k.noticed(in, n) }) })
	}
	k.outlive(in, exit)
	in.out.drain(drainPatience)
	if in.notify != nil {
		in.notify.Close()
		_ = os.Remove(in.spec.Notify)
	}
	notices.Wait()
	in.family.close()
	in.out.say("ended %s: %v", in.spec.ID, *in.exit)
	in.out.finish(drainPatience)
	in.mu.Lock()
	in.final, in.state = in.dropped(), Exited
	in.mu.Unlock()
	k.releaseLog(in)
	close(in.gone)
	k.changed(in.spec.ID)
}

// outlive returns when no process of the family is left. Who is told to end gets TERM first; who outlives the grace
// time gets KILL, again and again until it is gone.
func (k *keeper) outlive(in *instance, exit <-chan syscall.WaitStatus) {
	look := time.NewTimer(time.Hour) // when to see whether the family is empty
	defer look.Stop()
	var killAt time.Time // zero: nobody was told to end yet
	wait := time.Millisecond
	for {
		select {
		case ws := <-exit:
			exit = nil
			k.mainEnded(in, ws)
			if in.family.empty() {
				return
			}
			if killAt.IsZero() {
				in.family.signal(syscall.SIGTERM)
				killAt = time.Now().Add(in.spec.Grace)
			}
			wait = time.Millisecond
			look.Reset(wait)
		case grace := <-in.stops:
			at := time.Now().Add(grace)
			if killAt.IsZero() {
				k.setStopping(in)
				k.children.signalGroup(in.pid, syscall.SIGTERM)
				// A stopped (SIGSTOP, SIGTTIN) process takes TERM only once it runs again.
				k.children.signalGroup(in.pid, syscall.SIGCONT)
			}
			if killAt.IsZero() || at.Before(killAt) {
				killAt = at
			}
			wait = time.Millisecond
			look.Reset(0)
		case <-look.C:
			if exit == nil && in.family.empty() {
				return
			}
			if !killAt.IsZero() && !time.Now().Before(killAt) {
				in.family.signal(syscall.SIGKILL)
			}
			wait = nextLook(wait, killAt, exit == nil)
			look.Reset(wait)
		}
	}
}

// nextLook doubles the time between looks, but does not look past the moment to kill, and does not look at all while
// only the main process is waited for.
func nextLook(wait time.Duration, killAt time.Time, mainGone bool) time.Duration {
	left := time.Until(killAt)
	switch {
	case left <= 0:
		return min(2*wait, 100*time.Millisecond)
	case mainGone:
		return min(2*wait, 50*time.Millisecond, left)
	default:
		return left
	}
}

func (k *keeper) mainEnded(in *instance, ws syscall.WaitStatus) {
	e := &Exit{Code: ws.ExitStatus(), At: time.Now().UTC(), After: time.Since(in.started)}
	if ws.Signaled() {
		e.Code, e.Signal = -1, ws.Signal()
	}
	in.mu.Lock()
	e.Unleased = in.unleased
	in.exit, in.state = e, Stopping
	in.mu.Unlock()
	k.changed(in.spec.ID)
}

func (k *keeper) setStopping(in *instance) {
	in.mu.Lock()
	in.state = Stopping
	in.mu.Unlock()
	k.changed(in.spec.ID)
}

// stop tells in to end, or to end sooner. It does not wait.
func (in *instance) stop(grace time.Duration) {
	for {
		select {
		case in.stops <- grace:
			return
		case other := <-in.stops: // not yet looked at: the shorter one counts
			grace = min(grace, other)
		case <-in.gone:
			return
		}
	}
}

func (k *keeper) noticed(in *instance, n notice) {
	in.mu.Lock()
	news := !in.notified || n.ready && !in.ready || n.hasText && n.text != in.text
	in.notified = true
	in.ready = in.ready || n.ready
	if n.hasText {
		in.text = n.text
	}
	in.mu.Unlock()
	if news {
		k.changed(in.spec.ID)
	}
}

// began is what the log says when this start begins.
func (in *instance) began() string { return fmt.Sprintf("started %s as pid %d", in.spec.ID, in.pid) }

// lastOutput returns at most n lines that this start said last. Other starts may share the log.
func (in *instance) lastOutput(n int) []string {
	in.out.log.sync(drainPatience)
	var lines []string
	for l, err := range readTail(in.out.log.path, n+8) {
		switch {
		case err != nil:
			return lines
		case l.Stream == 'k' && l.Text == in.began():
			lines = lines[:0]
		case l.Stream != 'k':
			lines = append(lines, l.Text)
		}
	}
	return lastLines(lines, n)
}

// lastLines cuts to n lines and 32 KiB: it has to fit a frame.
func lastLines(lines []string, n int) []string {
	lines = lines[max(0, len(lines)-n):]
	size := 0
	for i, l := range slices.Backward(lines) {
		if size += len(l); size > 32<<10 {
			return lines[i+1:]
		}
	}
	return lines
}
