// Package tool runs the programs that modules are made of: with a deadline, a bounded part of what they say on stderr
// in the error, and an environment of their own.
package tool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// DefaultTimeout is what a command has that says nothing else.
	DefaultTimeout = 30 * time.Second

	maxStderr = 2 << 10 // in an error: the end of it
	maxOutput = 1 << 20 // of Output
	waitDelay = 2 * time.Second
)

// Path is where programs are looked for after those directories that the caller names.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Command is a program to run once.
type Command struct {
	Program string   // a path, or a name to look up
	Dirs    []string // to look in before Path; "": none
	Args    []string // never a secret: everybody can read them
	Env     []string // beside PATH, HOME, LANG, LC_ALL and TZ
	Dir     string
	User    *User // nil: as the agent
	Timeout time.Duration
	Stdin   io.Reader
	Stdout  io.Writer // nil: dropped
	// Stderr gets what is said there too, beside the error; nil: nobody else does.
	Stderr io.Writer
}

// User is whom a program runs as.
type User struct{ UID, GID uint32 }

// LookupUser returns whom to run as so that a server that asks the kernel sees name: nil if the agent is not root, or is
// that user already, or there is no such user.
func LookupUser(name string) *User {
	if os.Geteuid() != 0 || name == "" || name == "root" {
		return nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	return &User{UID: uint32(uid), GID: uint32(gid)}
}

// Error says how a program failed.
type Error struct {
	Program string
	Stderr  string // its end
	Err     error
}

func (e *Error) Error() string {
	if e.Stderr == "" {
		return fmt.Sprintf("run %s: %v", e.Program, e.Err)
	}
	return fmt.Sprintf("run %s: %v: %s", e.Program, e.Err, e.Stderr)
}

func (e *Error) Unwrap() error { return e.Err }

// Find returns the path of a program.
func Find(program string, dirs ...string) (string, error) {
	if strings.Contains(program, "/") {
		return program, nil
	}
	for _, dir := range append(slices.Clone(dirs), filepath.SplitList(Path)...) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path := filepath.Join(dir, program)
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() && fi.Mode().Perm()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("find program %q: not in %s", program, strings.Join(append(slices.Clone(dirs), Path), ":"))
}

// Run runs c to its end. When ctx or the timeout ends, c and the children of its process group are killed; when this process
// dies, c is: nothing goes on with what a successor begins anew.
func Run(ctx context.Context, c Command) error {
	wait, err := Start(ctx, c)
	if err != nil {
		return err
	}
	return wait()
}

// Output runs c and returns what it says on stdout, at most a megabyte.
func Output(ctx context.Context, c Command) (string, error) {
	out := &limited{max: maxOutput}
	c.Stdout = out
	if err := Run(ctx, c); err != nil {
		return "", err
	}
	if out.over {
		return "", fmt.Errorf("run %s: more than %d bytes of output", c.Program, maxOutput)
	}
	return out.buf.String(), nil
}

// Start starts c and returns the function that waits for its end. It must be called.
func Start(ctx context.Context, c Command) (wait func() error, err error) {
	cmd, tail, cancel, err := prepare(ctx, c)
	if err != nil {
		return nil, err
	}
	ended, err := launch(cmd)
	if err != nil {
		cancel()
		return nil, failure(cmd, tail, err)
	}
	return func() error {
		defer cancel()
		return failure(cmd, tail, <-ended)
	}, nil
}

// Into runs c, and has keep copy what it says on stdout to a new file at path, or refuse it. No error: all of it was kept,
// c ended well, and the file was written.
func Into(ctx context.Context, c Command, path string, keep func(w io.Writer, r io.Reader) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	c.Stdout = w
	wait, err := Start(ctx, c)
	w.Close()
	if err != nil {
		return err
	}
	err = keep(f, r)
	r.Close() // the end of c, if what it says cannot be kept
	return errors.Join(err, wait(), f.Close())
}

// launch starts cmd and waits for it in a thread that is kept for it: a program dies with the thread that started it.
func launch(cmd *exec.Cmd) (ended chan error, err error) {
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := startPlainly(cmd)
		started <- err
		if err == nil {
			ended <- cmd.Wait()
		}
	}()
	return ended, <-started
}

// startPlainly starts cmd with niceness 0 where the agent comes before others: what it runs does not. Niceness is a thread's,
// and inherited.
func startPlainly(cmd *exec.Cmd) error {
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, 0); err == nil && raw > 20 { // 20 less the niceness
		_ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 0)
		defer func() { _ = syscall.Setpriority(syscall.PRIO_PROCESS, 0, 20-raw) }()
	}
	return cmd.Start()
}

var errTimeout = errors.New("not done in time")

func prepare(ctx context.Context, c Command) (*exec.Cmd, *tail, context.CancelFunc, error) {
	c.Dirs = slices.DeleteFunc(slices.Clone(c.Dirs), func(dir string) bool { return !filepath.IsAbs(dir) })
	path, err := Find(c.Program, c.Dirs...)
	if err != nil {
		return nil, nil, nil, err
	}
	timeout := c.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w (%v)", errTimeout, timeout))
	cmd := exec.CommandContext(ctx, path, c.Args...)
	cmd.Env = append([]string{"PATH=" + strings.Join(append(slices.Clone(c.Dirs), Path), ":"), "HOME=/nonexistent", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "TZ=UTC"}, c.Env...)
	cmd.Dir, cmd.Stdin, cmd.Stdout = c.Dir, c.Stdin, c.Stdout
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	t := &tail{}
	cmd.Stderr = t
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(t, c.Stderr)
	}
	cmd.WaitDelay = waitDelay
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if c.User != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: c.User.UID, Gid: c.User.GID}
	}
	cmd.Cancel = func() error {
		t.cause = context.Cause(ctx)
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	return cmd, t, cancel, nil
}

func failure(cmd *exec.Cmd, t *tail, err error) error {
	if err == nil {
		return nil
	}
	if t.cause != nil {
		err = t.cause
	}
	return &Error{Program: filepath.Base(cmd.Path), Stderr: t.String(), Err: err}
}

// tail keeps the end of what is written.
type tail struct {
	buf   []byte
	cause error
}

func (t *tail) Write(b []byte) (int, error) {
	t.buf = append(t.buf, b[max(0, len(b)-maxStderr):]...)
	t.buf = t.buf[max(0, len(t.buf)-maxStderr):]
	return len(b), nil
}

func (t *tail) String() string {
	lines := strings.FieldsFunc(strings.ToValidUTF8(string(t.buf), "?"), func(r rune) bool { return r == '\n' || r == '\r' || r == 0 })
	return strings.Join(lines, " | ")
}

// limited keeps the beginning of what is written, and remembers that there was more.
type limited struct {
	buf  bytes.Buffer
	max  int
	over bool
}

func (l *limited) Write(b []byte) (int, error) {
	if room := l.max - l.buf.Len(); len(b) > room {
		l.over = true
		l.buf.Write(b[:room])
	} else {
		l.buf.Write(b)
	}
	return len(b), nil
}
