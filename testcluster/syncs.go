//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syncs stands between an agent and its disk: every fsync and fdatasync of the
// agent's process waits until Syncs has counted it and said what becomes of it.
// The count is exact over all threads, which that of strace's inject is not:
// strace counts per thread, and a Go program syncs from whichever it likes.
// What the agent starts (the keeper, services) is let through uncounted.
type Syncs struct {
	mu    sync.Mutex
	count int           // guarded by mu, as all below
	at    int           // the sync at which something happens; 0 is never
	after time.Duration // it happens so long after the sync, which is not touched then; 0: at the sync
	fate  Fate          // what happens
	fired chan struct{} // closed when it has
	fails syscall.Errno // what every sync fails with; 0: none does
	holds bool          // every sync waits for Release
	held  []uint64      // the notifications that wait
	fd    int           // of the listener

	node  *Node
	agent *agent
}

// Fate is what happens at a sync, to the node or the agent that asked for it. It
// is called once, while the sync waits, and returns what the sync then returns.
type Fate func(*Node) syscall.Errno

// AgentKilled is the death of the agent alone. The sync does not happen.
func AgentKilled(n *Node) syscall.Errno {
	n.c.observer.Fault(n.Name, faultAgentKilled)
	a := n.lastAgent()
	a.expected()
	_ = unix.Kill(a.cmd.Process.Pid, unix.SIGKILL)
	return unix.EIO
}

// PowerCut is the death of the whole node. The sync does not happen.
func PowerCut(n *Node) syscall.Errno {
	n.c.observer.Fault(n.Name, faultPowerOff)
	if err := n.powerOff(); err != nil {
		n.c.t.Errorf("power off %s: %v", n.Name, err)
	}
	return unix.EIO
}

// DiskError lets one sync fail and everything live.
func DiskError(errno syscall.Errno) Fate {
	return func(n *Node) syscall.Errno {
		n.c.observer.Fault(n.Name, "disk: "+errno.Error())
		return errno
	}
}

// CountSyncs only counts, until Arm.
func CountSyncs() *Syncs { return &Syncs{fired: make(chan struct{})} }

// KillAtSync kills the agent when it calls its nth sync, which does not happen.
func KillAtSync(n int) *Syncs { return &Syncs{at: n, fate: AgentKilled, fired: make(chan struct{})} }

// FailSync makes the nth sync, and no other, fail with errno.
func FailSync(n int, errno syscall.Errno) *Syncs {
	return &Syncs{at: n, fate: DiskError(errno), fired: make(chan struct{})}
}

// Arm lets fate strike at the nth sync from now; 1 is the next. It must not have
// struck yet.
func (s *Syncs) Arm(n int, fate Fate) { s.ArmAfter(n, 0, fate) }

// ArmAfter lets fate strike so long after the nth sync from now: what the agent has
// others do while it does not sync is hit as well.
func (s *Syncs) ArmAfter(n int, d time.Duration, fate Fate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.after, s.fate = s.count+n, d, fate
}

// Disarm lets nothing happen any more, unless the chosen sync was reached: then it
// has happened, or will.
func (s *Syncs) Disarm() (reached bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.at > 0 && s.count >= s.at {
		return true
	}
	s.at = 0
	return false
}

// Fail lets every sync fail from now on, until errno is 0, as on a disk that
// broke or was made read-only.
func (s *Syncs) Fail(errno syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = errno
}

// Hold lets every sync wait from now on, as on a disk that stalls.
func (s *Syncs) Hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = true
}

// Release ends Hold; what waited goes on.
func (s *Syncs) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holds = false
	for _, id := range s.held {
		v := verdict{id: id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
		_ = ioctl(s.fd, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&v)) // fails if the caller has died
	}
	s.held = nil
}

// hold keeps a notification for Release, if syncs are held.
func (s *Syncs) hold(id uint64, listener int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.holds {
		s.held, s.fd = append(s.held, id), listener
	}
	return s.holds
}

// failing is what every sync fails with; 0: none does.
func (s *Syncs) failing() syscall.Errno {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fails
}

// Count is how often the agent has synced, the failed or fatal one included.
func (s *Syncs) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count
}

// Fired is closed once the chosen sync was reached and fate has struck.
func (s *Syncs) Fired() <-chan struct{} { return s.fired }

// The kernel's struct seccomp_notif and struct seccomp_notif_resp.
type (
	notification struct {
		id    uint64
		pid   uint32 // the thread
		flags uint32
		nr    int32
		arch  uint32
		ip    uint64
		args  [6]uint64
	}
	verdict struct {
		id    uint64
		val   int64
		errno int32
		flags uint32
	}
)

// serve takes the listener that the starting agent sends over socket and
// answers until nobody is left who would ask.
func (s *Syncs) serve(socket *os.File) {
	defer socket.Close()
	listener, err := receiveFD(int(socket.Fd()))
	if err != nil {
		return // the agent ended before it began; its start reports that
	}
	defer unix.Close(listener)
	for {
		poll := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && err != unix.EINTR {
			return
		}
		if poll[0].Revents&unix.POLLIN != 0 {
			s.answer(listener)
		} else if poll[0].Revents != 0 {
			return
		}
	}
}

func (s *Syncs) answer(listener int) {
	var n notification
	if ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&n)) != 0 {
		return // the caller died meanwhile
	}
	v := verdict{id: n.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if threadGroup(int(n.pid)) == s.agent.cmd.Process.Pid {
		if s.hold(n.id, listener) {
			return
		}
		switch fate, after := s.next(); {
		case fate == nil:
			if errno := s.failing(); errno != 0 {
				v = verdict{id: n.id, errno: -int32(errno)}
			}
		case after > 0:
			time.AfterFunc(after, func() {
				_ = fate(s.node) // the sync has returned long ago
				close(s.fired)
			})
		default:
			v = verdict{id: n.id, errno: -int32(fate(s.node))}
			close(s.fired)
		}
	}
	_ = ioctl(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&v)) // fails if the caller has died
}

// next counts one sync and returns its fate if it is the chosen one, and how much later that strikes.
func (s *Syncs) next() (Fate, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	if s.count == s.at {
		return s.fate, s.after
	}
	return nil, 0
}

func ioctl(fd int, request uint, arg unsafe.Pointer) syscall.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(arg))
	return errno
}

// receiveFD reads one file descriptor from a Unix socket.
func receiveFD(socket int) (int, error) {
	buf, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return -1, fmt.Errorf("receive descriptor: %w", err)
	}
	if len(messages) == 0 {
		return -1, errors.New("receive descriptor: none came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, fmt.Errorf("receive descriptor: %w", err)
	}
	if len(fds) == 0 {
		return -1, errors.New("receive descriptor: none came")
	}
	return fds[0], nil
}

// threadGroup is the process that thread tid belongs to; 0 if it is gone.
func threadGroup(tid int) int {
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(v))
			return n
		}
	}
	return 0
}

// socketPair is the two ends of a Unix socket: one to keep, one to give away.
func socketPair() (keep, give *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "syncs"), os.NewFile(uintptr(fds[1]), "syncs"), nil
}
