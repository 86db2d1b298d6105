//go:build linux

package testcluster

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// host is a machine made of namespaces. Its PID 1 ends with the test process,
// whatever the way that ends, and with PID 1 the kernel ends everything else of
// the host and removes its namespaces: there is nothing to clean up.
type host struct {
	cmd   *exec.Cmd
	pid   int // of PID 1, as seen by the test
	group *cgroup

	mu      sync.Mutex // one request at a time
	in      io.WriteCloser
	replies *bufio.Reader
	exited  chan struct{} // closed when PID 1 and all others are gone
}

// The lines of the conversation with PID 1; hostinit has their counterparts.
type (
	hostRequest struct {
		Op     string
		Setup  *hostSetup `json:",omitempty"`
		PID    int
		Signal int
	}
	hostSetup struct {
		Hostname string
		Hide     []string
		Binds    map[string]string
		Cgroups  []hierarchy
	}
	hostReply struct{ Error string }
)

// startHost starts PID 1 of a new host. It has only a loopback device, and sees
// the files of the machine until setup.
func startHost(hostinit string, log io.Writer) (*host, error) {
	cmd := exec.Command(hostinit)
	cmd.Env = []string{"GOMAXPROCS=1"}
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWIPC | unix.CLONE_NEWNS | unix.CLONE_NEWNET |
			unix.CLONE_NEWPID | unix.CLONE_NEWUTS,
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start host: %w", err)
	}
	h := &host{cmd: cmd, pid: cmd.Process.Pid, in: in, replies: bufio.NewReader(out), exited: make(chan struct{})}
	go func() {
		defer close(h.exited)
		// Not cmd.Wait: that closes the pipes under a request in flight.
		if _, err := cmd.Process.Wait(); err != nil {
			fmt.Fprintln(log, "wait for host:", err)
		}
	}()
	return h, nil
}

// setup gives the host its own view of files and cgroups.
func (h *host) setup(s hostSetup) error {
	return h.ask(hostRequest{Op: "setup", Setup: &s})
}

// signal sends sig to a process of the host by its number there; -1 is all of
// them but PID 1, atomically.
func (h *host) signal(pid int, sig syscall.Signal) error {
	return h.ask(hostRequest{Op: "kill", PID: pid, Signal: int(sig)})
}

func (h *host) ask(req hostRequest) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := json.NewEncoder(h.in).Encode(req); err != nil {
		return fmt.Errorf("ask host to %s: %w", req.Op, err)
	}
	line, err := h.replies.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("ask host to %s: %w", req.Op, err)
	}
	var reply hostReply
	if err := json.Unmarshal(line, &reply); err != nil {
		return fmt.Errorf("ask host to %s: %w", req.Op, err)
	}
	if reply.Error != "" {
		return errors.New(reply.Error)
	}
	return nil
}

// kill ends everything that runs on the host at once and waits for it. Each
// process that was started from here must have somebody who waits for it.
func (h *host) kill() {
	_ = h.cmd.Process.Kill() // fails if it has ended
	<-h.exited
	h.in.Close()
}

// start starts cmd in the given namespaces of the host. cmd.Path must be
// absolute and is looked up inside. The caller must call cmd.Wait.
func (h *host) start(cmd *exec.Cmd, spaces []space) error {
	return inside(h.pid, spaces, cmd.Start)
}

// path is where a file of the host is seen from outside while the host lives.
func (h *host) path(name string) string {
	return "/proc/" + strconv.Itoa(h.pid) + "/root" + name
}

// batch runs a list of ip(8) commands in the network of the host.
func (h *host) batch(lines string) error {
	ip, err := exec.LookPath("ip")
	if err != nil {
		return err
	}
	return h.pipe(lines, ip, "-batch", "-")
}

// pipe runs a program of the machine in the network of the host.
func (h *host) pipe(stdin, program string, args ...string) error {
	cmd := exec.Command(program, args...)
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd.Stdin = r
	var out boundedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.start(cmd, []space{spaceNet}); err != nil {
		w.Close()
		return err
	}
	_, err = io.WriteString(w, stdin)
	w.Close()
	if err := errors.Join(err, cmd.Wait()); err != nil {
		return fmt.Errorf("%s: %w: %s\n%s", program, err, out.String(), stdin)
	}
	return nil
}
