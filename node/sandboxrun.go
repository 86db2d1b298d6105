package node

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/node/api"
)

const (
	maxBuildLine = 8 << 10 // bytes of a line of output; the rest of it is cut off
	lastLines    = 20      // of a failed build in its error
	lastLineLen  = 200     // bytes of each
	probeTime    = 10 * time.Second
	endPatience  = 10 * time.Second // for what is left of a build to be gone
)

// sandboxSpec is what the first process in the sandbox, its init, reads from its stdin. The agent holds the other end
// open: when that closes, the build is to end.
type sandboxSpec struct {
	Namespaces bool
	Probe      bool // set everything up, run nothing

	Data            string // the data directory, to be hidden
	Box, Cache, Tmp string

	Dir       string
	Argv, Env []string
	UID       int   // -1: the agent's own
	FileSize  int64 // bytes that one file may have
}

// sandboxStatus is what the init writes to descriptor 3 before it ends.
type sandboxStatus struct {
	Setup string // why the sandbox could not be set up
	Exit  string // how the command ended; "" for exit status 0
}

func (b *sandbox) spec() sandboxSpec {
	return sandboxSpec{Namespaces: b.mode != isolateNone, Data: string(b.dir), Box: b.dir.buildWork("box"), Cache: b.dir.buildCache(),
		Tmp: b.dir.buildWork("tmp"), Dir: b.seen("src"), UID: b.uid, FileSize: b.limits.disk}
}

// probe finds the best isolation that works here by trying, and why a better one does not.
func (b *sandbox) probe(ctx context.Context) (mode isolation, why string) {
	mode = isolateRoot
	if b.uid < 0 {
		mode = isolateUser
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	try := *b
	try.mode = mode
	spec := try.spec()
	spec.Probe = true
	st, err := try.launch(ctx, spec, func(string) {})
	if err != nil {
		return isolateNone, err.Error()
	}
	if st.Setup != "" {
		return isolateNone, st.Setup
	}
	return mode, ""
}

// run executes the command and passes its output on, line by line. However it ends, nothing of it is left running.
func (b *sandbox) run(ctx context.Context, req api.BuildRequest, log func(string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	spec := b.spec()
	spec.Env = b.env(req)
	for _, a := range req.Command {
		spec.Argv = append(spec.Argv, b.expand(a))
	}
	watched, err := b.watchDisk(ctx, cancel)
	if err != nil {
		return err
	}
	var last tail
	st, err := b.launch(ctx, spec, func(line string) { last.add(line); log(line) })
	cancel(nil)
	watched()
	switch {
	case errors.Is(context.Cause(ctx), errBuildDisk):
		return &buildError{b.limits.exceeded(), last}
	case err != nil:
		return &buildError{strings.Join(req.Command, " ") + ": " + err.Error(), last}
	case st.Setup != "":
		return errors.New("set up the build's sandbox: " + st.Setup)
	case st.Exit != "":
		return &buildError{strings.Join(req.Command, " ") + ": " + st.Exit, last}
	}
	return nil
}

// tail is the last lines of an output.
type tail []string

func (t *tail) add(line string) {
	if len(line) > lastLineLen {
		line = strings.ToValidUTF8(line[:lastLineLen], "") + " ..."
	}
	if *t = append(*t, line); len(*t) > lastLines {
		*t = slices.Delete(*t, 0, 1)
	}
}

// launch runs a sandbox's init from start to end. When it returns nothing that was started in the sandbox runs any
// more: the kernel ends a process namespace as a whole, and waits for it.
func (b *sandbox) launch(ctx context.Context, spec sandboxSpec, line func(string)) (sandboxStatus, error) {
	runtime.LockOSThread() // to the kernel, the parent whose death ends the init is this thread
	defer runtime.UnlockOSThread()
	cmd, err := b.initCommand(ctx)
	if err != nil {
		return sandboxStatus{}, err
	}
	pipes, err := newInitPipes(cmd)
	if err != nil {
		return sandboxStatus{}, err
	}
	defer pipes.close()
	cmd.Cancel = func() error {
		if spec.Namespaces {
			return cmd.Process.Kill()
		}
		return pipes.life.Close() // it ends what it started, then itself
	}
	if err := cmd.Start(); err != nil {
		return sandboxStatus{}, fmt.Errorf("start a sandbox: %w", err)
	}
	pipes.started()
	var logged sync.WaitGroup
	logged.Go(func() { copyLines(pipes.output, line) })
	_, sendErr := pipes.life.Write(mustJSON(spec))
	waitErr := cmd.Wait()
	_ = pipes.output.SetReadDeadline(time.Now().Add(endPatience)) // should anything still hold the other end
	logged.Wait()
	st, err := pipes.status()
	if err != nil { // it did not come to say anything
		err = errors.Join(sendErr, waitErr, err)
		if waitErr != nil {
			err = waitErr
		}
	}
	return st, err
}

// initCommand is this binary again, as the first process in new namespaces where they are allowed. It gets no
// environment: what a build may know is in the spec.
func (b *sandbox) initCommand(ctx context.Context) (*exec.Cmd, error) {
	exe, err := executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, exe, "build-sandbox")
	cmd.Env, cmd.Dir, cmd.WaitDelay = []string{}, "/", endPatience
	attr := &syscall.SysProcAttr{Setsid: true}
	if b.mode != isolateNone { // else it needs its life to end what it started; it notices our death by itself
		attr.Pdeathsig = syscall.SIGKILL
		attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	}
	if b.mode == isolateUser {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN} // to mount; given up before the command starts
	}
	cmd.SysProcAttr = attr
	return cmd, nil
}

// initPipes are what connects the agent with a sandbox's init.
type initPipes struct {
	life   io.WriteCloser // its stdin: the spec, then nothing until the build is to end
	output *os.File       // its stdout and stderr
	said   *os.File       // its descriptor 3
	theirs []*os.File
}

func newInitPipes(cmd *exec.Cmd) (*initPipes, error) {
	life, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p := &initPipes{life: life}
	var outW, saidW *os.File
	if p.output, outW, err = os.Pipe(); err != nil {
		p.close()
		return nil, err
	}
	p.theirs = append(p.theirs, outW)
	if p.said, saidW, err = os.Pipe(); err != nil {
		p.close()
		return nil, err
	}
	p.theirs = append(p.theirs, saidW)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = outW, outW, []*os.File{saidW}
	return p, nil
}

// started closes the ends that are the init's alone now.
func (p *initPipes) started() {
	for _, f := range p.theirs {
		_ = f.Close()
	}
	p.theirs = nil
}

func (p *initPipes) close() {
	p.started()
	_ = p.life.Close()
	for _, f := range []*os.File{p.output, p.said} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// status reads what the init said; it has ended.
func (p *initPipes) status() (sandboxStatus, error) {
	var st sandboxStatus
	_ = p.said.SetReadDeadline(time.Now().Add(endPatience))
	b, err := io.ReadAll(io.LimitReader(p.said, 16<<10))
	if err == nil {
		err = json.Unmarshal(b, &st)
	}
	if err != nil {
		return st, errors.New("the sandbox ended early")
	}
	return st, nil
}

// copyLines passes complete lines on; one that is too long is cut.
func copyLines(r io.Reader, line func(string)) {
	br := bufio.NewReaderSize(r, maxBuildLine)
	for {
		text, more, err := br.ReadLine()
		if err != nil {
			return
		}
		line(string(text))
		for more && err == nil {
			_, more, err = br.ReadLine()
		}
	}
}
