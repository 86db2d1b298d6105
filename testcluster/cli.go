//go:build linux

package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// Exit codes of the command line.
const (
	ExitDone       = 0
	ExitFailed     = 1
	ExitUsage      = 2
	ExitNoQuorum   = 3
	ExitRolledBack = 4
)

// queryTimeout is the deadline of a query that the library makes by itself.
const queryTimeout = 10 * time.Second

// What a node says, in the words of its API.
type (
	Member     = api.Member
	Status     = api.Status
	Instance   = api.Instance
	Generation = api.HistoryEntry
	Port       = api.Reservation
)

// system is the name of the model that tests deploy.
const system = "default"

// Result is what a command said. Code is -1 if it ended by a signal or was not
// started at all; Err says which.
type Result struct {
	Stdout, Stderr string
	Code           int
	Err            error
	args           []string
}

// Failure is nil if the command exited with 0, else it says all there is.
func (r Result) Failure() error {
	if r.Code == 0 && r.Err == nil {
		return nil
	}
	err := r.Err
	if err == nil {
		err = fmt.Errorf("exit code %d", r.Code)
	}
	return fmt.Errorf("%s: %w\nstdout: %s\nstderr: %s", strings.Join(r.args, " "), err, r.Stdout, r.Stderr)
}

// CLI runs isonomia on the node, as its operator would: in the network of the
// node and with $ISONOMIA_NODE naming the agent's socket, but with the files of
// the test, so that a model may lie anywhere. It never fails the test.
func (n *Node) CLI(ctx context.Context, args ...string) Result {
	return n.run(ctx, []space{spaceNet, spaceUTS}, n.program, args, []string{"ISONOMIA_NODE=" + n.Socket()})
}

// Exec runs a program in all namespaces of the node: its files, its processes.
// The path is absolute, as seen from the node.
func (n *Node) Exec(ctx context.Context, program string, args ...string) Result {
	return n.run(ctx, allSpaces, program, args, nil)
}

func (n *Node) run(ctx context.Context, spaces []space, program string, args, env []string) Result {
	r := Result{Code: -1, args: args}
	h, err := n.running()
	if err != nil {
		r.Err = err
		return r
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(agentEnv(), env...)
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var stdout, stderr boundedBuffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if r.Err = h.start(cmd, spaces); r.Err != nil {
		return r
	}
	err = cmd.Wait()
	r.Stdout, r.Stderr, r.Code = stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || r.Code < 0 {
		r.Err = errors.Join(err, ctx.Err())
	}
	return r
}

// deployTimeout is a limit for broken deployments, not an expectation.
const deployTimeout = 5 * time.Minute

// Deploy deploys a model through this node and waits for the outcome, unless
// args say otherwise (--no-wait).
func (n *Node) Deploy(m Model, args ...string) Result {
	n.c.t.Helper()
	return n.DeployDir(m.Write(n.c.t), args...)
}

// DeployDir deploys a directory of the test machine through this node.
func (n *Node) DeployDir(dir string, args ...string) Result {
	ctx, cancel := context.WithTimeout(context.Background(), deployTimeout)
	defer cancel()
	return n.CLI(ctx, append(append([]string{"deploy", "--yes", "--json"}, args...), dir)...)
}

// agentEnv is the environment of programs that tests start: nothing of that of
// the test, so that a test passes in every shell.
func agentEnv() []string {
	env := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"}
	for _, key := range []string{"GORACE", "GOCOVERDIR", "GODEBUG", "GOTRACEBACK"} {
		if v, ok := os.LookupEnv(key); ok {
			env = append(env, key+"="+v)
		}
	}
	return env
}

// Query runs a command with --json and decodes what it prints into v.
func (n *Node) Query(ctx context.Context, v any, args ...string) error {
	r := n.CLI(ctx, append(args, "--json")...)
	if err := r.Failure(); err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(r.Stdout), v); err != nil {
		return fmt.Errorf("decode isonomia %s: %w\n%s", strings.Join(args, " "), err, r.Stdout)
	}
	return nil
}

// API is a client of the agent's socket. It is what the library itself asks:
// starting a command for every look would cost more than what is looked at.
func (n *Node) API() *api.Client { return n.api }

// Status is the node's own, possibly old, view.
func (n *Node) Status() (Status, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	return n.api.Status(ctx, system, false)
}

// Members is the node's own view.
func (n *Node) Members() ([]Member, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	m, err := n.api.Members(ctx)
	return m.Members, err
}

// History is the list of generations as the node knows them.
func (n *Node) History() ([]Generation, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	return n.api.History(ctx, system, true)
}

// Ports is the list of reservations as the node knows them.
func (n *Node) Ports() ([]Port, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	return n.api.Ports(ctx)
}

// Socket is the path of the agent's API socket as the test sees it.
func (n *Node) Socket() string { return filepath.Join(n.DataDir(), "api.sock") }
