//go:build linux

package testcluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"syscall"
	"time"
)

// Task is a program that runs on a node besides the agent: a stranger on a port,
// a client.
type Task struct {
	cmd    *exec.Cmd
	out    boundedBuffer
	exited chan struct{}
}

// Spawn starts a program in all namespaces of the node. Its path is absolute, as
// the node sees it (Cluster.AddProgram). It ends with the node at the latest.
func (n *Node) Spawn(env []string, program string, args ...string) (*Task, error) {
	h, err := n.running()
	if err != nil {
		return nil, err
	}
	t := &Task{exited: make(chan struct{})}
	t.cmd = &exec.Cmd{Path: program, Args: append([]string{program}, args...), Env: append(agentEnv(), env...),
		Dir: "/", Stdout: &t.out, Stderr: &t.out, SysProcAttr: &syscall.SysProcAttr{Setsid: true}, WaitDelay: time.Second}
	if err := h.start(t.cmd, allSpaces); err != nil {
		return nil, fmt.Errorf("spawn %q on %s: %w", program, n.Name, err)
	}
	go func() {
		defer close(t.exited)
		_ = t.cmd.Wait() // its result is in cmd.ProcessState
	}()
	return t, nil
}

// Signal sends a signal to the task.
func (t *Task) Signal(sig syscall.Signal) error { return t.cmd.Process.Signal(sig) }

// Exited is closed when the task has ended.
func (t *Task) Exited() <-chan struct{} { return t.exited }

// Stop ends the task with KILL and waits for it.
func (t *Task) Stop() {
	_ = t.cmd.Process.Kill() // fails if it has ended
	<-t.exited
}

// Output is what the task has written so far.
func (t *Task) Output() string { return t.out.String() }

// DialContext connects from the node. The address must be a number.
func (n *Node) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	h, err := n.running()
	if err != nil {
		return nil, err
	}
	err = inside(h.pid, []space{spaceNet}, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// HTTP is a client whose requests come from the node, one connection for each.
func (n *Node) HTTP(timeout time.Duration) *http.Client {
	return &http.Client{Timeout: timeout, Transport: &http.Transport{DialContext: n.DialContext, DisableKeepAlives: true}}
}
