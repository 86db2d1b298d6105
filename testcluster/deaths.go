//go:build linux

package testcluster

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// StopTimeout is how long an agent may take to end when it was told to.
const StopTimeout = 30 * time.Second

// AwaitExit waits until the agent has ended by itself and returns its exit code,
// -1 for a signal. It does not count as a violation then.
func (n *Node) AwaitExit(timeout time.Duration) int {
	n.c.t.Helper()
	a := n.lastAgent()
	if a == nil {
		n.c.t.Fatalf("await exit of %s: no agent was started", n.Name)
	}
	a.expected()
	select {
	case <-a.exited:
	case <-time.After(timeout):
		n.c.t.Fatalf("await exit of %s: not within %v\n%s", n.Name, timeout, n.LogTail(20))
	}
	return a.cmd.ProcessState.ExitCode()
}

// KillAgent ends the agent with SIGKILL. Its keeper and services go on.
func (n *Node) KillAgent() {
	n.c.t.Helper()
	a := n.lastAgent()
	if a == nil || !a.alive() {
		n.c.t.Fatalf("kill agent of %s: it is not running", n.Name)
	}
	a.expected()
	n.c.observer.Fault(n.Name, faultAgentKilled)
	if err := n.signalAgent(syscall.SIGKILL); err != nil {
		n.c.t.Fatalf("kill agent of %s: %v", n.Name, err)
	}
	<-a.exited
}

// KillAgentAndKeeper ends the agent with SIGKILL, and then what it leaves behind: the keeper, and with it the services.
func (n *Node) KillAgentAndKeeper() {
	n.c.t.Helper()
	n.KillAgent()
	n.c.observer.Fault(n.Name, faultKeeperKilled)
	if err := n.signalKeepers(syscall.SIGKILL); err != nil {
		n.c.t.Fatalf("kill keeper of %s: %v", n.Name, err)
	}
}

// signalKeepers signals every process of ours but the agent; there may be none.
func (n *Node) signalKeepers(sig syscall.Signal) error {
	h, err := n.running()
	if err != nil {
		return err
	}
	processes, err := h.processes()
	for _, p := range processes {
		if !p.isKeeper() {
			continue
		}
		if e := h.signal(p.PID, sig); e != nil && !gone(e) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// signalAgent signals the agent itself, not a wrapper around it.
func (n *Node) signalAgent(sig syscall.Signal) error {
	h, err := n.running()
	if err != nil {
		return err
	}
	processes, err := h.processes()
	if err != nil {
		return err
	}
	for _, p := range processes {
		if p.isAgent() {
			return h.signal(p.PID, sig)
		}
	}
	return errors.New("no process of an agent")
}

// StopGracefully ends the agent as a service manager does: TERM to the agent
// alone. Its keeper and services go on.
func (n *Node) StopGracefully() {
	n.c.t.Helper()
	if err := n.stopAgent(); err != nil {
		n.c.t.Fatalf("stop %s: %v", n.Name, err)
	}
}

func (n *Node) stopAgent() error {
	a := n.lastAgent()
	if a == nil || !a.alive() {
		return errors.New("its agent is not running")
	}
	a.expected()
	a.mu.Lock()
	a.asked = true
	a.mu.Unlock()
	n.c.observer.Fault(n.Name, faultAgentStopped)
	if err := n.signalAgent(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-a.exited:
		return nil
	case <-time.After(StopTimeout):
		return fmt.Errorf("agent did not end within %v\n%s", StopTimeout, n.LogTail(20))
	}
}

// Revive switches the machine on, or starts the agent, if it is not running.
func (n *Node) Revive() {
	n.c.t.Helper()
	if _, err := n.running(); err != nil {
		n.PowerOn()
	} else if !n.agentAlive() {
		n.Start()
	}
}

// Restart stops the agent and starts it again.
func (n *Node) Restart(options ...StartOption) {
	n.c.t.Helper()
	n.StopGracefully()
	n.Start(options...)
}

// FreezeAgent stops the agent with SIGSTOP; keeper and services go on.
func (n *Node) FreezeAgent() {
	n.c.t.Helper()
	n.freeze(n.signalAgent, Process.isAgent, faultAgentFrozen)
}

// Freeze stops everything on the node, each process at about the same instant.
func (n *Node) Freeze() {
	n.c.t.Helper()
	n.freeze(n.signalAll, func(Process) bool { return true }, "frozen")
}

// freeze returns when nothing of what it stops runs any more: SIGSTOP itself
// does not wait for that.
func (n *Node) freeze(signal func(syscall.Signal) error, meant func(Process) bool, what string) {
	n.c.t.Helper()
	n.c.observer.Fault(n.Name, what)
	err := signal(syscall.SIGSTOP)
	if err == nil {
		err = Poll(StopTimeout, func() error { return n.stopped(meant) })
	}
	if err != nil {
		n.c.t.Fatalf("freeze %s: %v", n.Name, err)
	}
	n.setFrozen(true)
}

// stopped is nil if no thread of the processes meant can run.
func (n *Node) stopped(meant func(Process) bool) error {
	h, err := n.running()
	if err != nil {
		return giveUp{err}
	}
	processes, err := h.processes()
	for _, p := range processes {
		if meant(p) && !p.zombie() && h.runs(p.PID) {
			err = errors.Join(err, fmt.Errorf("process %v still runs", p))
		}
	}
	return err
}

// Thaw lets everything on the node go on.
func (n *Node) Thaw() {
	n.c.t.Helper()
	n.c.observer.Fault(n.Name, faultThawed)
	if err := n.signalAll(syscall.SIGCONT); err != nil {
		n.c.t.Fatalf("thaw %s: %v", n.Name, err)
	}
	n.setFrozen(false)
}

func (n *Node) signalAll(sig syscall.Signal) error {
	h, err := n.running()
	if err != nil {
		return err
	}
	return h.signal(-1, sig)
}

func (n *Node) setFrozen(frozen bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen = frozen
}

func (n *Node) isFrozen() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.frozen
}
