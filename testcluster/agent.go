//go:build linux

package testcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// agent is one run of `isonomia agent`.
type agent struct {
	cmd    *exec.Cmd
	syncs  *Syncs        // nil: none
	exited chan struct{} // closed when it was waited for

	mu      sync.Mutex
	planned bool // the test ended it
	asked   bool // ... by asking
}

// polite says whether the agent ended because it was asked to.
func (a *agent) polite() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked && !a.alive()
}

// expected says that the end of the agent, if it comes, is the test's doing.
func (a *agent) expected() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.planned = true
}

// died is how the agent ended without having been told to; empty if it did not.
func (a *agent) died() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.planned || a.alive() {
		return ""
	}
	return a.cmd.ProcessState.String()
}

func (a *agent) alive() bool {
	select {
	case <-a.exited:
		return false
	default:
		return true
	}
}

// launch is what one start of an agent is made of.
type launch struct {
	args    []string
	join    []string // nil: as the node needs
	env     []string
	wrap    []string
	program string
	syncs   *Syncs
}

// StartOption changes one start of an agent.
type StartOption func(*launch)

// WithArgs appends arguments.
func WithArgs(args ...string) StartOption {
	return func(l *launch) { l.args = append(l.args, args...) }
}

// WithJoin replaces `--bootstrap` or `--join ...`; without arguments there is
// neither.
func WithJoin(args ...string) StartOption {
	return func(l *launch) { l.join = append([]string{}, args...) }
}

// WithEnv adds KEY=VALUE to the environment.
func WithEnv(env ...string) StartOption { return func(l *launch) { l.env = append(l.env, env...) } }

// WithProgram runs another binary; see Cluster.AddProgram.
func WithProgram(path string) StartOption { return func(l *launch) { l.program = path } }

// WithWrapper starts the agent through another program, strace for one. The path
// is absolute; files it writes belong below /run/node/data.
func WithWrapper(argv ...string) StartOption { return func(l *launch) { l.wrap = argv } }

// WithSyncs puts s between the agent and its disk.
func WithSyncs(s *Syncs) StartOption { return func(l *launch) { l.syncs = s } }

// Start starts the agent, joining if the node is no member yet, and waits until
// it answers.
func (n *Node) Start(options ...StartOption) {
	n.c.t.Helper()
	if err := n.startAgent(options...); err != nil {
		n.c.t.Fatalf("start agent of %s: %v", n.Name, err)
	}
}

func (n *Node) startAgent(options ...StartOption) error {
	if err := n.launch(options...); err != nil {
		return err
	}
	return n.awaitReady()
}

// Launch starts the agent and waits for nothing.
func (n *Node) Launch(options ...StartOption) {
	n.c.t.Helper()
	if err := n.launch(options...); err != nil {
		n.c.t.Fatalf("launch agent of %s: %v", n.Name, err)
	}
}

func (n *Node) launch(options ...StartOption) error {
	h, err := n.running()
	if err != nil {
		return err
	}
	if n.agentAlive() {
		return errors.New("it is running")
	}
	l := launch{program: filepath.Join(binDir, "isonomia")}
	for _, o := range options {
		o(&l)
	}
	if l.join == nil {
		if l.join, err = n.joinArgs(); err != nil {
			return err
		}
	}
	if l.syncs == nil && n.c.config.syncs {
		l.syncs = CountSyncs()
	}
	return n.exec(h, l)
}

// joinArgs is how this node gets into the cluster. The secret of the token
// travels in a file, as the documentation tells people to do it.
func (n *Node) joinArgs() ([]string, error) {
	n.mu.Lock()
	member := n.member
	n.mu.Unlock()
	if member {
		return nil, nil
	}
	via := n.c.someMember(n)
	if via == nil {
		return append([]string{"--bootstrap"}, n.c.config.first...), nil
	}
	token, err := via.CreateToken()
	if err != nil {
		return nil, err
	}
	if err := n.WriteEtc("token", token); err != nil {
		return nil, err
	}
	return []string{"--join", via.Bind(), "--token-file", filepath.Join(etcDir, "token")}, nil
}

// CreateToken asks this node for a token with which another one can join.
func (n *Node) CreateToken(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), queryTimeout)
	defer cancel()
	r := n.CLI(ctx, append([]string{"token", "create"}, args...)...)
	return strings.TrimSpace(r.Stdout), r.Failure()
}

// WriteEtc writes a file that the node sees below /run/node/etc.
func (n *Node) WriteEtc(name, content string) error {
	return os.WriteFile(filepath.Join(n.dir, "etc", name), []byte(content), 0o600)
}

// someMember is a node that runs and can admit another one.
func (c *Cluster) someMember(but *Node) *Node {
	for _, n := range c.Up() {
		n.mu.Lock()
		member := n.member
		n.mu.Unlock()
		if n != but && member {
			return n
		}
	}
	return nil
}

// argv is the command line of a start.
func (n *Node) argv(l launch) []string {
	argv := []string{filepath.Join(binDir, "hostinit"), "run"}
	if l.syncs != nil {
		argv = append(argv, "--syncs")
	}
	argv = append(argv, l.wrap...)
	argv = append(argv, l.program, "agent", "--data", dataDir, "--bind", n.Bind(), "--name", n.Name)
	argv = append(argv, l.join...)
	argv = append(argv, n.c.config.args...)
	return append(argv, l.args...)
}

func (n *Node) exec(h *host, l launch) error {
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	argv := n.argv(l)
	fmt.Fprintf(log, "--- %s %s\n", time.Now().Format("15:04:05.000"), strings.Join(argv, " "))
	cmd := &exec.Cmd{Path: argv[0], Args: argv, Env: append(agentEnv(), l.env...), Dir: "/",
		Stdout: log, Stderr: log, SysProcAttr: &syscall.SysProcAttr{Setsid: true}}
	a := &agent{cmd: cmd, syncs: l.syncs, exited: make(chan struct{})}
	listen, err := n.interpose(a)
	if err != nil {
		return err
	}
	if err := h.start(cmd, allSpaces); err != nil {
		listen(false)
		return err
	}
	n.mu.Lock()
	n.agent = a
	n.mu.Unlock()
	n.c.observer.Fault(n.Name, agentStarted)
	listen(true)
	go func() {
		defer close(a.exited)
		_ = cmd.Wait() // its result is in cmd.ProcessState
	}()
	return nil
}

// interpose prepares the agent for its Syncs, if it has some. What it returns
// must be called when it was started, or could not be.
func (n *Node) interpose(a *agent) (listen func(started bool), err error) {
	if a.syncs == nil {
		return func(bool) {}, nil
	}
	keep, give, err := socketPair()
	if err != nil {
		return nil, err
	}
	a.cmd.ExtraFiles = []*os.File{give}
	a.syncs.node, a.syncs.agent = n, a
	return func(started bool) {
		give.Close()
		if !started {
			keep.Close()
			return
		}
		go a.syncs.serve(keep)
	}, nil
}

// Syncs is what stands between the node's agent and its disk; nil without
// WithSyncs or WithSyncCounters.
func (n *Node) Syncs() *Syncs {
	if a := n.lastAgent(); a != nil {
		return a.syncs
	}
	return nil
}

// awaitReady waits for the agent's first answer, or its end.
func (n *Node) awaitReady() error {
	a := n.lastAgent()
	err := Poll(ReadyTimeout, func() error {
		if !a.alive() {
			return giveUp{fmt.Errorf("it ended: %v", a.cmd.ProcessState)}
		}
		members, err := n.Members()
		if err == nil && len(members) == 0 {
			err = errors.New("it knows no members")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%w\n%s", err, n.LogTail(20))
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.member = true
	return nil
}

func (n *Node) lastAgent() *agent {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.agent
}

func (n *Node) everStarted() bool { return n.lastAgent() != nil }

func (n *Node) agentAlive() bool {
	a := n.lastAgent()
	return a != nil && a.alive()
}

// leader is whom this node takes for the leader.
func (n *Node) leader() (*Node, error) {
	s, err := n.Status()
	if err != nil {
		return nil, err
	}
	name := s.Leader
	members, err := n.Members()
	for _, m := range members {
		if m.ID == s.Leader {
			name = m.Name
		}
	}
	for _, other := range n.c.nodes {
		if other.Name == name {
			return other, err
		}
	}
	return nil, fmt.Errorf("it names %q as leader", s.Leader)
}
