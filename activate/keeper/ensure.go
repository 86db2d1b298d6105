package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// ensureTimeout is how long a keeper may take until it answers, if the context sets no other limit.
const ensureTimeout = 30 * time.Second

const maxOwnLog = 1 << 20 // bytes of keeper.log beyond which it is begun anew at the next start

// Ensure connects to the keeper of dir and starts it as `exe args...` if none answers: in a session of its own, with
// nothing of this process but its user and cgroup, so that it outlives us. While this process lives, a goroutine waits for the keeper
// to end.
func Ensure(ctx context.Context, dir, exe string, args []string) (*Client, error) {
	c, err := Connect(ctx, dir)
	if !errors.Is(err, ErrNotRunning) {
		return c, err
	}
	ctx, cancel := context.WithTimeout(ctx, ensureTimeout)
	defer cancel()
	child, ended, err := spawn(dir, exe, args)
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		var failed error
		select {
		case failed = <-ended:
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for keeper: %w%s", context.Cause(ctx), lastWords(dir))
		}
		c, err := Connect(ctx, dir)
		if !errors.Is(err, ErrNotRunning) {
			if err == nil && c.PID() != child.Pid {
				_ = child.Kill() // another was quicker: ours must not come to its turn after that one has ended
			}
			return c, err
		}
		if failed != nil {
			return nil, fmt.Errorf("start keeper: %w%s", failed, lastWords(dir))
		}
	}
}

// spawn starts the process. The channel gets how it ended.
func spawn(dir, exe string, args []string) (*os.Process, <-chan error, error) {
	out, err := openOwnLog(dir)
	if err != nil {
		return nil, nil, err
	}
	defer out.Close()
	cmd := exec.Command(exe, args...)
	// Nothing of our environment: a token may be in it. Two threads are enough for what a keeper does.
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8", "GOMAXPROCS=2"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		if err == nil {
			err = errors.New("it ended before it answered")
		}
		ended <- err
	}()
	return cmd.Process, ended, nil
}

func openOwnLog(dir string) (*os.File, error) {
	path := filepath.Join(dir, "keeper.log")
	flags := os.O_WRONLY | os.O_APPEND | os.O_CREATE
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxOwnLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

// lastWords is the end of the keeper's own log, for an error message.
func lastWords(dir string) string {
	f, err := os.Open(filepath.Join(dir, "keeper.log"))
	if err != nil {
		return ""
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil {
		_, _ = f.Seek(max(0, fi.Size()-500), io.SeekStart)
	}
	b, _ := io.ReadAll(io.LimitReader(f, 500))
	if b = bytes.TrimSpace(b); len(b) == 0 {
		return ""
	}
	return fmt.Sprintf("; it said: %s", b)
}
