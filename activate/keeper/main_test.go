package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// TestMain makes the test binary the keeper too: `BINARY keeper DIR` and `BINARY keeper-without-cgroups DIR`; an agent,
// `BINARY agent MODE DIR`; and a service, `BINARY notify DIR`.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && strings.HasPrefix(os.Args[1], "keeper") {
		err := run(os.Args[2], os.Args[1] == "keeper")
		if err == nil {
			err = goleak.Find()
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "KEEPER FAILED:", err)
			os.Exit(1)
		}
		_ = syscall.Exec("/bin/true", []string{"true"}, nil) // the race detector would linger for a second
		os.Exit(0)
	}
	if len(os.Args) == 3 && os.Args[1] == "notify" {
		notifyService(os.Args[2])
	}
	if len(os.Args) == 4 && os.Args[1] == "agent" {
		agent(os.Args[2], os.Args[3])
	}
	goleak.VerifyTestMain(m)
}

// agent is one that starts a keeper and a service and then waits to be killed. It is careless with a descriptor and
// has a secret in its environment.
func agent(mode, dir string) {
	f, err := os.Create(filepath.Join(dir, "careless"))
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETFD, 0)
	}
	ctx := context.Background()
	var c *Client
	if err == nil {
		c, err = Ensure(ctx, dir, "/proc/self/exe", []string{mode, dir})
	}
	if err == nil {
		b := &bench{dir: dir}
		_, err = c.Start(ctx, b.sh("a", `i=0; while :; do echo line $i; i=$((i+1)); sleep 0.001; done`))
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "agent-ready"), nil, 0o600)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	time.Sleep(time.Hour)
}

// notifyService is a service that says that it is ready once there is a file DIR/go.
func notifyService(dir string) {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		panic(err)
	}
	_, _ = c.Write(nil)
	_, _ = c.Write([]byte("STATUS=warming up\nWATCHDOG=1"))
	for missing(dir, "go") != "" {
		time.Sleep(5 * time.Millisecond)
	}
	_, _ = c.Write([]byte("STATUS=serving\nREADY=1\n"))
	time.Sleep(time.Hour)
}

// modes are the two ways to hold a family together.
var modes = []string{"keeper", "keeper-without-cgroups"}

// bench is one keeper in a directory of its own.
type bench struct {
	testing.TB
	*Client
	dir  string
	mode string
}

// inEachMode runs f with a keeper with cgroups and one without.
func inEachMode(t *testing.T, f func(b *bench)) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			f(newBench(t, mode))
		})
	}
}

func newBench(t testing.TB, mode string) *bench {
	b := &bench{TB: t, dir: t.TempDir(), mode: mode}
	b.Client = b.ensure()
	if on := strings.Contains(b.ownLog(), "cgroups=true"); on != (mode == "keeper") && ownCgroupWritable() {
		t.Fatalf("mode %s, but the keeper says:\n%s", mode, b.ownLog())
	}
	t.Cleanup(b.end)
	return b
}

func ownCgroupWritable() bool {
	dir, err := ownCgroup()
	return err == nil && unix.Access(dir, unix.W_OK) == nil
}

func (b *bench) ensure() *Client {
	b.Helper()
	exe, err := os.Executable()
	if err != nil {
		b.Fatal(err)
	}
	c, err := Ensure(b.Context(), b.dir, exe, []string{b.mode, b.dir})
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func (b *bench) ownLog() string {
	s, _ := os.ReadFile(filepath.Join(b.dir, "keeper.log"))
	return string(s)
}

// end shuts the keeper down and looks whether anything was left: processes, directories, races, goroutines.
func (b *bench) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	mark, err := homeMark(b.dir)
	if err != nil {
		b.Error(err)
	}
	c, err := Connect(ctx, b.dir)
	if err == nil {
		pid := c.PID()
		if err := c.Shutdown(ctx, 0); err != nil {
			b.Errorf("shutdown: %v", err)
		}
		b.await("keeper gone", func() string { return alive(pid) })
		if dir, err := ownCgroup(); err == nil {
			if _, err := os.Stat(filepath.Join(dir, cgroupPrefix+mark)); !errors.Is(err, os.ErrNotExist) {
				b.Errorf("cgroup left: %v", err)
			}
		}
	}
	b.Client.Close()
	b.await("keepers that came too late gone", func() string {
		for pid := range processes() {
			if cmd, _ := os.ReadFile(procPath(pid, "cmdline")); strings.HasSuffix(string(cmd), "\x00"+b.dir+"\x00") {
				return alive(pid)
			}
		}
		return ""
	})
	if left := (strays{mark}).members(); len(left) > 0 {
		b.Errorf("processes left: %v", left)
	}
	if log := b.ownLog(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "KEEPER FAILED") || strings.Contains(log, "panic") {
		b.Errorf("the keeper says:\n%s", log)
	}
}

// await polls until why returns "".
func (b *bench) await(what string, why func() string) {
	b.Helper()
	give := time.Now().Add(20 * time.Second)
	for {
		reason := why()
		if reason == "" {
			return
		}
		if time.Now().After(give) {
			b.Fatalf("%s: not within 20 s: %s", what, reason)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// alive is "" when no such process lives.
func alive(pid int) string {
	s, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return ""
	}
	if p, ok := parseStat(s); ok && p.dead {
		return ""
	}
	cmd, _ := os.ReadFile(procPath(pid, "cmdline"))
	return fmt.Sprintf("pid %d is alive: %q", pid, cmd)
}

// sh is the spec of a shell script.
func (b *bench) sh(id, script string) Spec {
	return Spec{ID: id, Argv: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/usr/bin:/bin"}, Dir: b.dir,
		LogDir: b.dir, LogName: strings.ReplaceAll(id, "/", "-"), Grace: 10 * time.Second}
}

func (b *bench) start(s Spec) Status {
	b.Helper()
	st, err := b.Start(b.Context(), s)
	if err != nil {
		b.Fatal(err)
	}
	return st
}

func (b *bench) exited(id string) Status {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	st, err := b.Await(ctx, id)
	if err != nil {
		b.Fatalf("await exit of %s: %v", id, err)
	}
	return st
}

// said returns the log's records of one stream.
func (b *bench) said(name string, stream byte) []string {
	b.Helper()
	var lines []string
	for l, err := range ReadLog(b.Context(), b.dir, name, ReadOptions{}) {
		if err != nil {
			b.Fatal(err)
		}
		if l.Stream == stream {
			lines = append(lines, l.Text)
		}
	}
	return lines
}

// pidFrom waits until the file holds a process id.
func (b *bench) pidFrom(file string) int {
	b.Helper()
	var pid int
	b.await("pid in "+file, func() string {
		s, err := os.ReadFile(filepath.Join(b.dir, file))
		if err != nil {
			return err.Error()
		}
		if pid, err = strconv.Atoi(strings.TrimSpace(string(s))); err != nil {
			return err.Error()
		}
		return ""
	})
	return pid
}

func kill9(t testing.TB, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
