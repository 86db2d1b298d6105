package keeper

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestStartAndExit(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", "echo out; echo err >&2; printf partial; exit 3"))
		st := b.exited("a")
		if st.State != Exited || st.Exit == nil || st.Exit.Code != 3 || st.Exit.Signal != 0 {
			b.Fatalf("got %+v", st)
		}
		if got := b.said("a", 'o'); !slices.Equal(got, []string{"out", "partial"}) {
			b.Errorf("stdout %q", got)
		}
		if got := b.said("a", 'e'); !slices.Equal(got, []string{"err"}) {
			b.Errorf("stderr %q", got)
		}
		k := b.said("a", 'k')
		if len(k) != 2 || !strings.HasPrefix(k[0], "started a as pid ") || !strings.HasPrefix(k[1], "ended a: exited with status 3 after ") {
			b.Errorf("keeper's records %q", k)
		}
	})
}

func TestExitStatusIsKeptUntilForgotten(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", "kill -KILL $$"))
		b.exited("a")
		b.Close()
		again, err := Connect(b.Context(), b.dir) // an agent that was not there when it happened
		if err != nil {
			b.Fatal(err)
		}
		defer again.Close()
		list, err := again.List(b.Context())
		if err != nil || len(list) != 1 || list[0].Exit == nil || list[0].Exit.Signal != syscall.SIGKILL || list[0].Exit.Code != -1 {
			b.Fatalf("list %+v, %v", list, err)
		}
		if st := b.start(b.sh("a", "true")); st.State != Exited {
			b.Fatalf("an id was started twice: %+v", st)
		}
		if err := again.Forget(b.Context(), "a"); err != nil {
			b.Fatal(err)
		}
		if list, _ := again.List(b.Context()); len(list) != 0 {
			b.Fatalf("list %+v", list)
		}
		if st := b.start(b.sh("a", "exec sleep 100")); st.State != Running {
			b.Fatalf("not started anew: %+v", st)
		}
		if err := again.Forget(b.Context(), "a"); !errors.Is(err, ErrRunning) {
			b.Fatalf("forgot a running one: %v", err)
		}
	})
}

func TestStartIsIdempotent(t *testing.T) {
	inEachMode(t, func(b *bench) {
		spec := b.sh("a", "echo here; exec sleep 1000")
		var wg sync.WaitGroup
		pids := make([]int, 8)
		for i := range pids {
			wg.Go(func() {
				c, err := Connect(b.Context(), b.dir)
				if err != nil {
					b.Error(err)
					return
				}
				defer c.Close()
				st, err := c.Start(b.Context(), spec)
				if err != nil {
					b.Error(err)
				}
				pids[i] = st.PID
			})
		}
		wg.Wait()
		if slices.Min(pids) != slices.Max(pids) || pids[0] == 0 {
			b.Fatalf("pids %v", pids)
		}
	})
}

func TestExecErrorIsTyped(t *testing.T) {
	inEachMode(t, func(b *bench) {
		spec := b.sh("a", "")
		spec.Argv[0] = "/no/such/program"
		_, err := b.Start(b.Context(), spec)
		var ee *ExecError
		if !errors.As(err, &ee) || !errors.Is(err, fs.ErrNotExist) {
			b.Fatalf("got %v", err)
		}
		if list, _ := b.List(b.Context()); len(list) != 0 {
			b.Fatalf("list %+v", list)
		}
	})
}

func TestErrorsCrossTheSocket(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	if err := b.Stop(t.Context(), "nobody", 0); !errors.Is(err, ErrUnknownID) {
		t.Errorf("stop: %v", err)
	}
	if _, err := b.Start(t.Context(), Spec{ID: "x"}); !errors.Is(err, ErrBadRequest) {
		t.Errorf("start: %v", err)
	}
	if _, err := b.Owner(t.Context(), 1); !errors.Is(err, ErrUnknownID) {
		t.Errorf("owner: %v", err)
	}
	if _, err := Connect(t.Context(), t.TempDir()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("connect: %v", err)
	}
}

func TestStopIsTermThenKillOfEverything(t *testing.T) {
	inEachMode(t, func(b *bench) {
		// A tree that ignores TERM: a child, a grandchild in a session of its own, and the shell itself.
		script := `trap '' TERM
			(trap '' TERM; echo $$ >/dev/null; while :; do sleep 1; done) &
			setsid sh -c 'trap "" TERM; echo $$ > deep; while :; do sleep 1; done' &
			echo ready > ready; while :; do sleep 1; done`
		st := b.start(b.sh("a", script))
		deep := b.pidFrom("deep")
		if err := b.Stop(b.Context(), "a", 50*time.Millisecond); err != nil {
			b.Fatal(err)
		}
		end := b.exited("a")
		if end.Exit.Signal != syscall.SIGKILL {
			b.Errorf("exit %+v", end.Exit)
		}
		for _, pid := range []int{st.PID, deep} {
			if why := alive(pid); why != "" {
				b.Error(why)
			}
		}
	})
}

func TestStopByTermIsGraceful(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", `trap 'echo bye; exit 0' TERM; echo up > up; while :; do sleep 0.01; done`))
		b.await("up", func() string { return missing(b.dir, "up") })
		if err := b.Stop(b.Context(), "a", time.Minute); err != nil {
			b.Fatal(err)
		}
		if st := b.exited("a"); st.Exit.Code != 0 || st.Exit.Signal != 0 {
			b.Errorf("exit %+v", st.Exit)
		}
		if got := b.said("a", 'o'); !slices.Equal(got, []string{"bye"}) {
			b.Errorf("said %q", got)
		}
	})
}

func TestAStoppedProcessTakesTerm(t *testing.T) {
	inEachMode(t, func(b *bench) {
		st := b.start(b.sh("a", `trap 'exit 7' TERM; echo up > up; while :; do sleep 0.01; done`))
		b.await("up", func() string { return missing(b.dir, "up") })
		if err := syscall.Kill(st.PID, syscall.SIGSTOP); err != nil {
			b.Fatal(err)
		}
		if err := b.Stop(b.Context(), "a", time.Minute); err != nil {
			b.Fatal(err)
		}
		if st := b.exited("a"); st.Exit.Code != 7 {
			b.Errorf("exit %+v", st.Exit)
		}
	})
}

// A shell that dies of TERM at once must not cost its child the time to finish.
func TestChildrenOfADeadMainGetTheGraceTime(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", `sh -c 'trap "sleep 0.2; echo saved > saved; exit" TERM; echo up > up; while :; do sleep 0.01; done' & wait`))
		b.await("up", func() string { return missing(b.dir, "up") })
		if err := b.Stop(b.Context(), "a", time.Minute); err != nil {
			b.Fatal(err)
		}
		b.exited("a")
		if why := missing(b.dir, "saved"); why != "" {
			b.Error(why)
		}
	})
}

func TestAShorterGraceWins(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", `trap '' TERM; echo up > up; while :; do sleep 1; done`))
		b.await("up", func() string { return missing(b.dir, "up") })
		for _, grace := range []time.Duration{time.Hour, 10 * time.Millisecond, time.Hour} {
			if err := b.Stop(b.Context(), "a", grace); err != nil {
				b.Fatal(err)
			}
		}
		b.exited("a")
	})
}

func missing(dir, file string) string {
	if _, err := os.Stat(filepath.Join(dir, file)); err != nil {
		return err.Error()
	}
	return ""
}

// What a main process leaves behind when it dies is told to end, and killed.
func TestOrphansEndWithTheirMain(t *testing.T) {
	inEachMode(t, func(b *bench) {
		spec := b.sh("a", `setsid sh -c 'trap "" TERM; echo $$ > deep; while :; do sleep 1; done' & while [ ! -s deep ]; do sleep 0.01; done`)
		spec.Grace = 20 * time.Millisecond
		b.start(spec)
		deep := b.pidFrom("deep")
		if st := b.exited("a"); st.Exit.Code != 0 {
			b.Errorf("exit %+v", st.Exit)
		}
		if why := alive(deep); why != "" {
			b.Error(why)
		}
	})
}

func TestKeeperKilledTakesChildrenAndTheNextTheRest(t *testing.T) {
	inEachMode(t, func(b *bench) {
		script := `setsid sh -c '(setsid sh -c "echo \$\$ > deep; exec sleep 1000" &)' & echo up; exec sleep 1000`
		st := b.start(b.sh("a", script))
		deep := b.pidFrom("deep")
		boot := b.Boot()
		kill9(b, b.PID())
		b.await("main process dies with the keeper", func() string { return alive(st.PID) })
		if _, err := b.List(b.Context()); !errors.Is(err, ErrNotRunning) {
			b.Fatalf("list: %v", err)
		}
		b.ensure().Close() // it has cleared up before it answers
		if why := alive(deep); why != "" {
			b.Error(why)
		}
		list, err := b.List(b.Context()) // the old client finds the new keeper
		if err != nil || len(list) != 0 {
			b.Fatalf("list %v, %v", list, err)
		}
		if b.Boot() == boot {
			b.Error("the boot id is that of the dead keeper")
		}
		b.start(b.sh("a", "exec sleep 1000"))
	})
}

func TestAnotherDirectorysProcessesAreLeftAlone(t *testing.T) {
	inEachMode(t, func(b *bench) {
		st := b.start(b.sh("a", "exec sleep 1000"))
		other := newBench(b, b.mode)
		kill9(b, other.PID())
		other.ensure().Close()
		if alive(st.PID) == "" {
			b.Fatal("a keeper killed what is another's")
		}
	})
}

func TestAgentGoneServicesStayAndNoLineIsLost(t *testing.T) {
	inEachMode(t, func(b *bench) {
		const lines = 3000
		b.start(b.sh("a", fmt.Sprintf(`i=0; while [ $i -lt %d ]; do echo line $i; i=$((i+1)); done`, lines)))
		for range 5 { // agents that come and go
			c, err := Connect(b.Context(), b.dir)
			if err != nil {
				b.Fatal(err)
			}
			if _, err := c.List(b.Context()); err != nil {
				b.Fatal(err)
			}
			c.Close()
		}
		b.exited("a")
		got := b.said("a", 'o')
		if len(got) != lines {
			b.Fatalf("%d lines", len(got))
		}
		for i, l := range got {
			if l != fmt.Sprint("line ", i) {
				b.Fatalf("line %d is %q", i, l)
			}
		}
	})
}

// The agent is killed with its whole process group, as by a terminal. Nothing notices; the next agent finds all.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			b := &bench{TB: t, dir: t.TempDir(), mode: mode}
			agent := exec.Command("/proc/self/exe", "agent", mode, b.dir)
			agent.Env = append(os.Environ(), "AGENTS_OWN_SECRET=x")
			agent.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
			b.await("agent", func() string { return missing(b.dir, "agent-ready") })
			kill9(t, -agent.Process.Pid)
			_ = agent.Wait()
			b.Client = b.ensure()
			defer b.end()
			list, err := b.List(t.Context())
			if err != nil || len(list) != 1 || list[0].State != Running {
				t.Fatalf("list %+v, %v", list, err)
			}
			had := len(b.said("a", 'o'))
			b.await("more output", func() string {
				if n := len(b.said("a", 'o')); n <= had {
					return fmt.Sprint(n, " lines")
				}
				return ""
			})
			if err := b.Stop(t.Context(), "a", time.Minute); err != nil {
				t.Fatal(err)
			}
			b.exited("a")
			for i, l := range b.said("a", 'o') {
				if l != fmt.Sprint("line ", i) {
					t.Fatalf("line %d is %q", i, l)
				}
			}
			env, _ := os.ReadFile(procPath(b.PID(), "environ"))
			fds, _ := filepath.Glob(procPath(b.PID(), "fd/*"))
			for _, fd := range fds {
				if target, _ := os.Readlink(fd); strings.HasSuffix(target, "/careless") {
					t.Error("the keeper has a descriptor of the agent's")
				}
			}
			if len(fds) == 0 || strings.Contains(string(env), "SECRET") {
				t.Errorf("%d descriptors, environment %q", len(fds), env)
			}
		})
	}
}

func TestOneKeeperPerDirectory(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	var wg sync.WaitGroup
	kill9(t, b.PID())
	pids := make([]int, 4)
	for i := range pids {
		wg.Go(func() {
			c := b.ensure()
			pids[i] = c.PID()
			c.Close()
		})
	}
	wg.Wait()
	if slices.Min(pids) != slices.Max(pids) {
		t.Fatalf("several keepers: %v", pids)
	}
	late := exec.Command("/proc/self/exe", "keeper", b.dir)
	if out, err := late.CombinedOutput(); err != nil { // it sees that another is there and well
		t.Fatalf("%v: %s", err, out)
	}
}

func TestShutdownEndsEverything(t *testing.T) {
	inEachMode(t, func(b *bench) {
		var pids []int
		for i := range 5 {
			pids = append(pids, b.start(b.sh(fmt.Sprint("s", i), "exec sleep 1000")).PID)
		}
		pid := b.PID()
		if err := b.Shutdown(b.Context(), time.Minute); err != nil {
			b.Fatal(err)
		}
		b.await("keeper gone", func() string { return alive(pid) })
		for _, p := range pids {
			if why := alive(p); why != "" {
				b.Error(why)
			}
		}
		if why := missing(b.dir, "keeper.sock"); why == "" {
			b.Error("the socket is still there")
		}
	})
}

func TestKeeperToldToEndLetsServicesFinish(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", `trap 'echo bye; exit 0' TERM; echo up > up; while :; do sleep 0.01; done`))
		b.await("up", func() string { return missing(b.dir, "up") })
		pid := b.PID()
		if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
			b.Fatal(err)
		}
		b.await("keeper gone", func() string { return alive(pid) })
		if got := b.said("a", 'o'); !slices.Equal(got, []string{"bye"}) {
			b.Errorf("said %q", got)
		}
	})
}

// libcSignals are 32 to 34, which the C library keeps for itself and Go leaves as they were inherited from whoever ran the test.
var libcSignals = regexp.MustCompile(`(?m)^(SigIgn:\t0000000)[0-3][08]0000000$`)

// What a child gets from the keeper and what not.
func TestWhatAChildInherits(t *testing.T) {
	inEachMode(t, func(b *bench) {
		spec := b.sh("a", `umask; ls /proc/self/fd | tr '\n' ' '; echo; readlink /proc/self/fd/0; env | sort;
			cut -d' ' -f1,5,6 /proc/$$/stat; grep -E 'Sig(Blk|Ign)' /proc/self/status`)
		spec.Env = []string{"A=1", "PATH=/usr/bin:/bin"}
		st := b.start(spec)
		b.exited("a")
		got := libcSignals.ReplaceAllString(strings.Join(b.said("a", 'o'), "\n"), "${1}000000000")
		mark, _ := homeMark(b.dir)
		want := fmt.Sprintf("0022\n0 1 2 3 \n/dev/null\nA=1\nISONOMIA_INSTANCE=%s:a\nPATH=/usr/bin:/bin\nPWD=%s\n%d %d %d\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000000000",
			mark, b.dir, st.PID, st.PID, st.PID)
		if got != want {
			b.Errorf("got\n%s\nwant\n%s", got, want)
		}
	})
}

func TestUserIsDropped(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	inEachMode(t, func(b *bench) {
		spec := b.sh("a", `id -u; id -g; id -G; echo by-name > /dev/stdout; touch /proc/self/oom_score_adj`)
		spec.Dir = "/"
		spec.User = &User{UID: 12345, GID: 12346, Groups: []uint32{12347}}
		b.start(spec)
		b.exited("a")
		if got := b.said("a", 'o'); !slices.Equal(got, []string{"12345", "12346", "12346 12347", "by-name"}) {
			b.Errorf("got %q, stderr %q", got, b.said("a", 'e'))
		}
	})
}

func TestWatchSeesEveryEnd(t *testing.T) {
	inEachMode(t, func(b *bench) {
		ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
		defer cancel()
		const n = 30
		first := make(chan struct{})
		ended := make(chan error, 1)
		b.start(b.sh("first", "exec sleep 1000"))
		go func() {
			seen := map[string]bool{}
			var once sync.Once
			ended <- b.Watch(ctx, "", func(s Status) bool {
				if s.ID == "first" {
					once.Do(func() { close(first) })
				}
				if s.State == Exited {
					seen[s.ID] = true
				}
				return len(seen) < n
			})
		}()
		<-first
		for i := range n {
			b.start(b.sh(fmt.Sprint("s", i), "true"))
		}
		if err := <-ended; err != nil {
			b.Fatal(err)
		}
	})
}

func TestTailIsOfThisStart(t *testing.T) {
	inEachMode(t, func(b *bench) {
		for _, id := range []string{"a1", "a2"} {
			spec := b.sh(id, "echo one of $0; echo two; printf three; exit 1")
			spec.Argv = append(spec.Argv, id)
			spec.LogName = "shared"
			b.start(spec)
			b.exited(id)
		}
		got, err := b.Tail(b.Context(), "a2", 10)
		if err != nil || !slices.Equal(got, []string{"one of a2", "two", "three"}) {
			b.Fatalf("%q, %v", got, err)
		}
		if got, _ = b.Tail(b.Context(), "a2", 1); !slices.Equal(got, []string{"three"}) {
			b.Fatalf("%q", got)
		}
	})
}

func TestOwner(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", `setsid sh -c 'echo $$ > deep; exec sleep 1000' & exec sleep 1000`))
		b.start(b.sh("b", `exec sleep 1000`))
		if id, err := b.Owner(b.Context(), b.pidFrom("deep")); err != nil || id != "a" {
			b.Errorf("owner %q, %v", id, err)
		}
		if id, err := b.Owner(b.Context(), os.Getpid()); !errors.Is(err, ErrUnknownID) {
			b.Errorf("owner of the test %q, %v", id, err)
		}
	})
}

func TestGoneDirectoryEndsTheKeeper(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	dir := filepath.Join(b.dir, "inner")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	inner := &bench{TB: t, dir: dir, mode: "keeper"}
	inner.Client = inner.ensure()
	defer inner.Client.Close()
	st := inner.start(inner.sh("a", "exec sleep 1000"))
	pid := inner.PID()
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	inner.await("keeper gone", func() string { return alive(pid) })
	inner.await("service gone", func() string { return alive(st.PID) })
}

func TestLongDirectoryName(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	dir := filepath.Join(b.dir, strings.Repeat("long/", 30))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	long := &bench{TB: t, dir: dir, mode: "keeper"}
	long.Client = long.ensure()
	long.start(long.sh("a", "true"))
	long.exited("a")
	long.end()
}

func TestCanceledCallLeavesAUsableClient(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.List(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if _, err := b.List(t.Context()); err != nil {
		t.Fatal(err)
	}
}
