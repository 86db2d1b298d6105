package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// devEndLimit is how long an agent has to end its services and itself before it is killed.
const devEndLimit = 30 * time.Second

// devNode is one agent, a child process.
type devNode struct {
	name, dir, address string
	token              string
	client             *api.Client

	cmd     *exec.Cmd
	exited  chan struct{} // closed when the agent has ended
	waitErr error         // how; valid after exited is closed
}

// node adds the i-th node (from 1) with an address and a directory of its own.
func (d *devCluster) node(i int) *devNode {
	name := fmt.Sprintf("n%d", i)
	n := &devNode{name: name, dir: filepath.Join(d.dir, name), address: fmt.Sprintf("127.0.0.%d:%d", i, d.port), exited: make(chan struct{})}
	n.client = api.NewClient(n.socket())
	d.nodes = append(d.nodes, n)
	return n
}

func (n *devNode) socket() string { return filepath.Join(n.dir, socketName) }

// launch starts the agent. how says how it comes into the cluster; a directory that was used before knows.
func (n *devNode) launch(exe string, how ...string) error {
	if known, err := os.ReadDir(n.dir); err == nil && len(known) > 0 {
		how = nil
	}
	log, err := os.OpenFile(n.dir+"-"+devAgentOutput, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"agent", "--data", n.dir, "--bind", n.address, "--advertise", n.address, "--name", n.name, "--stop-services"}
	n.cmd = exec.Command(exe, append(args, how...)...)
	n.cmd.Env = append(os.Environ(), "ISONOMIA_TOKEN="+n.token)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	// A group of its own: Ctrl-C is for us, who then end the agents in order. If we are killed, they get the signal.
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	if err := n.cmd.Start(); err != nil {
		return fmt.Errorf("start agent %s: %w", n.name, err)
	}
	go func() {
		n.waitErr = n.cmd.Wait()
		close(n.exited)
	}()
	return nil
}

// awaitAnswer waits until the agent answers on its socket, or has ended.
func (n *devNode) awaitAnswer(ctx context.Context) error {
	for {
		_, err := n.client.Version(ctx)
		if err == nil {
			return nil
		}
		timer := time.NewTimer(devPollPause)
		select {
		case <-n.exited:
			timer.Stop()
			return n.ended()
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), err)
		case <-timer.C:
		}
	}
}

// ended is nil while the agent runs, and then how it ended with the last that it wrote.
func (n *devNode) ended() error {
	select {
	case <-n.exited:
	default:
		return nil
	}
	how := "exit status 0"
	if n.waitErr != nil {
		how = n.waitErr.Error()
	}
	return &failedService{
		problem: api.Error{Code: api.CodeFailed, Where: n.name, Message: fmt.Sprintf("agent %s has ended: %s", n.name, how)},
		output:  lastLines(n.dir+"-"+devAgentOutput, 20),
	}
}

// lastLines returns the end of a file, "" if it cannot be read.
func lastLines(path string, n int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 64<<10 {
		_, _ = f.Seek(-64<<10, io.SeekEnd)
	}
	raw, _ := io.ReadAll(io.LimitReader(f, 64<<10))
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// end ends all agents, in parallel, and what they may have left, and removes the data.
func (d *devCluster) end() error {
	d.sayf("Ending the cluster.")
	var wg sync.WaitGroup
	for _, n := range d.nodes {
		if n.cmd != nil && n.cmd.Process != nil {
			wg.Go(n.stop)
		}
	}
	wg.Wait()
	if !sweep(d.dir, devEndLimit) {
		return fmt.Errorf("processes that belong to %s are still running", d.dir)
	}
	if d.keep {
		return nil
	}
	return removeAll(d.dir)
}

// stop ends the agent with SIGTERM, which ends its services first, and with SIGKILL if that takes too long.
func (n *devNode) stop() {
	_ = n.cmd.Process.Signal(syscall.SIGTERM) // it may have ended: then exited is closed soon
	timer := time.NewTimer(devEndLimit)
	defer timer.Stop()
	select {
	case <-n.exited:
	case <-timer.C:
		_ = n.cmd.Process.Kill()
		<-n.exited
	}
}

// removeAll removes a tree although packages in it are read-only.
func removeAll(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}

// sweep ends what an agent that was killed left behind: processes of this binary whose arguments name a directory
// beneath dir, which are keepers; their services end with them. It waits until all are gone.
func sweep(dir string, limit time.Duration) bool {
	deadline := time.Now().Add(limit)
	for first := true; ; first = false {
		left := processesNaming(dir)
		if len(left) == 0 {
			return true
		}
		if time.Now().After(deadline) {
			return false
		}
		for _, pid := range left {
			if first {
				_ = syscall.Kill(pid, syscall.SIGTERM)
			} else if time.Until(deadline) < limit/2 {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		time.Sleep(devPollPause) // not our children: there is nothing to wait on
	}
}

// processesNaming finds processes with an argument beneath dir, other than this one.
func processesNaming(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		raw, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(bytes.TrimRight(raw, "\x00")), "\x00")
		beneath := func(arg string) bool { return strings.HasPrefix(arg, dir+"/") }
		if len(args) > 2 && args[1] == "keeper" && slices.ContainsFunc(args[2:], beneath) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func asFailedService(err error) *failedService {
	var failed *failedService
	errors.As(err, &failed)
	return failed
}
