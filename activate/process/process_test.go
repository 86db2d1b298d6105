package process

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

func (r *rig) mustStart(in activate.Instance) {
	r.Helper()
	if err := r.Prepare(r.Context(), in); err != nil {
		r.Fatalf("prepare: %v", err)
	}
	if err := r.Start(r.Context(), in); err != nil {
		r.Fatalf("start: %v", err)
	}
}

// startsOnlyWhenReady starts in, sees that it is not ready, writes DIR/ready, and sees that it is.
func (r *rig) startsOnlyWhenReady(in activate.Instance) {
	r.Helper()
	done := make(chan error, 1)
	go func() { done <- r.Start(r.Context(), in) }()
	r.await("process", func() string {
		if len(r.observed()) == 0 {
			return "nothing runs"
		}
		return ""
	})
	select {
	case err := <-done:
		r.Fatalf("ready too early: %v", err)
	case <-time.After(100 * time.Millisecond): // too short would only make the test weaker
	}
	r.write("ready", "")
	if err := <-done; err != nil {
		r.Fatal(err)
	}
}

func TestReadyByHTTP(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.server("serve")
	in.Spec.Health = &activate.Health{HTTP: "/healthz"}
	r.startsOnlyWhenReady(in)
	if err := r.Check(t.Context(), in); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(r.dir, "ready")); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(t.Context(), in); err == nil || !strings.Contains(err.Error(), "503 Service Unavailable: still loading") {
		t.Errorf("check: %v", err)
	}
}

func TestReadyByCommand(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "exec sleep 1000")
	r.write("package/probe", "#!/bin/sh\necho no $ISONOMIA_SERVICE\n[ -z \"$NOTIFY_SOCKET\" ] && [ -e ../ready ]\n")
	in.Spec.Health = &activate.Health{Command: []string{"./probe"}, Interval: 20 * time.Millisecond}
	r.startsOnlyWhenReady(in)
}

func TestReadyByNotify(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.startsOnlyWhenReady(r.server("notify")) // it has a port, on which nobody ever listens
}

func TestReadyByTCPAndByPorts(t *testing.T) {
	t.Parallel()
	for _, h := range []*activate.Health{nil, {TCP: true}} {
		r := newRig(t)
		in := r.server("serve")
		in.Spec.Health = h
		r.mustStart(in)
		if err := probeAllPorts(in)(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

func TestReadyByStayingAlive(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "exec sleep 1000")
	r.mustStart(in)
	if age := r.observed()[0].Age; age < aliveFor {
		t.Errorf("ready after %v", age)
	}
}

func TestStartIsIdempotentAndSurvivesTheAgent(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.server("serve")
	in.Spec.Health = &activate.Health{HTTP: "/"}
	ctx, cancel := context.WithCancel(t.Context())
	gaveUp := make(chan error, 1)
	go func() { gaveUp <- r.Start(ctx, in) }()
	r.await("process", func() string {
		if len(r.observed()) == 0 {
			return "nothing runs"
		}
		return ""
	})
	first := r.observed()[0]
	cancel()
	if err := <-gaveUp; !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	r.write("ready", "")
	again, err := keeper.Connect(t.Context(), r.dir) // the next agent
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	for range 2 {
		if err := New(filepath.Join(r.dir, "marks"), again, r.log).Start(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	if all := r.observed(); len(all) != 1 || all[0].PID != first.PID || all[0].ID != in.ID || all[0].Attempt != 1 {
		t.Fatalf("observed %+v", all)
	}
}

func TestNotReadyInTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "echo waiting for the database; exec sleep 1000")
	in.Spec.Host, in.Spec.Ports = ownHost(), map[string]int{"http": freePort()}
	in.Spec.Health = &activate.Health{TCP: true, Timeout: 100 * time.Millisecond}
	in.Spec.StartDeadline = time.Second
	err := r.Start(t.Context(), in)
	var late *activate.NotReadyError
	if !errors.As(err, &late) || !strings.Contains(late.Last, "connection refused") || !slices.Equal(late.Output, []string{"waiting for the database"}) {
		t.Fatalf("got %v", err)
	}
	if all := r.observed(); len(all) != 1 || all[0].Exit == nil {
		t.Errorf("still there: %+v", all)
	}
}

func TestExitBeforeReady(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "echo cannot open config >&2; exit 3")
	for range 2 { // asked again, the same answer; it is not run again
		err := r.Start(t.Context(), in)
		var ended *activate.ExitedError
		if !errors.As(err, &ended) || ended.Exit.Code != 3 || !slices.Equal(ended.Output, []string{"cannot open config"}) {
			t.Fatalf("got %v", err)
		}
	}
	in.Attempt = 2
	in.Spec.Command = []string{"/bin/sh", "-c", "exec sleep 1000"}
	r.mustStart(in)
	if all := r.observed(); len(all) != 1 || all[0].Attempt != 2 || all[0].Exit != nil {
		t.Errorf("observed %+v", all)
	}
}

func TestANewAttemptEndsTheOldOne(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "exec sleep 1000")
	r.mustStart(in)
	old := r.observed()[0].PID
	in.Attempt++
	r.mustStart(in)
	all := r.observed()
	if len(all) != 1 || all[0].PID == old {
		t.Fatalf("observed %+v", all)
	}
	if err := syscall.Kill(old, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the old attempt: %v", err)
	}
}

func TestStopLeavesNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", `trap '' TERM; setsid sh -c 'trap "" TERM; echo $$ > $STATE_DIRECTORY/deep; sleep 1000' & sleep 1000`)
	in.Spec.Grace = 20 * time.Millisecond
	r.mustStart(in)
	b, err := os.ReadFile(filepath.Join(in.StateDir, "deep"))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := r.Stop(t.Context(), in); err != nil {
			t.Fatal(err)
		}
	}
	if all := r.observed(); len(all) != 0 {
		t.Errorf("observed %+v", all)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pid %s is left", b)
	}
	if _, err := os.Stat(in.RunDir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("RunDir is left: %v", err)
	}
	if _, err := os.Stat(in.StateDir); err != nil {
		t.Errorf("state is gone: %v", err)
	}
}

func TestACrashIsObserved(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "exec sleep 1000")
	r.mustStart(in)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, watched := make(chan struct{}, 1), make(chan error, 1)
	go func() {
		watched <- r.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			default:
			}
		})
	}()
	if err := syscall.Kill(r.observed()[0].PID, syscall.SIGSEGV); err != nil {
		t.Fatal(err)
	}
	for range changes {
		if all := r.observed(); all[0].Exit != nil {
			if all[0].Exit.Signal != int(syscall.SIGSEGV) || all[0].ID != in.ID {
				t.Errorf("observed %+v", all)
			}
			break
		}
	}
	cancel()
	if err := <-watched; !errors.Is(err, context.Canceled) {
		t.Errorf("watch: %v", err)
	}
}

func TestEnvironmentIsExactlyTheStatedOne(t *testing.T) {
	t.Setenv("AGENTS_OWN_SECRET", "x")
	r := newRig(t)
	in := r.sh("web", "env; pwd; umask; readlink /proc/self/fd/0; exec sleep 1000")
	in.Spec.Env = map[string]string{"GREETING": "hello world", "LANG": "de_DE.UTF-8", "ISONOMIA_NODE": "forged", "NOTIFY_SOCKET": "forged"}
	in.Spec.User = ""
	if os.Geteuid() == 0 {
		in.Spec.UID, in.Spec.GID = 12345, 12345
	}
	r.mustStart(in)
	lines := strings.Split(strings.TrimSpace(r.output(in)), "\n")
	slices.Sort(lines)
	for i, l := range lines {
		if strings.HasPrefix(l, "ISONOMIA_INSTANCE=") && strings.HasSuffix(l, ":process:row/web#1") {
			lines[i] = "ISONOMIA_INSTANCE=..."
		}
	}
	want := []string{
		"/dev/null", "0022", in.Package, "GREETING=hello world", "HOME=" + in.StateDir, "ISONOMIA_EPOCH=42",
		"ISONOMIA_INSTANCE=...", "ISONOMIA_NODE=n1", "ISONOMIA_SERVICE=web", "LANG=de_DE.UTF-8",
		"NOTIFY_SOCKET=" + r.keeper.NotifyPath("process:row/web#1"), "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"PWD=" + in.Package, "STATE_DIRECTORY=" + in.StateDir, "TMPDIR=" + in.RunDir + "/tmp", "USER=web",
	}
	slices.Sort(want)
	if !slices.Equal(lines, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(lines, "\n"), strings.Join(want, "\n"))
	}
}

func TestUserOfItsOwn(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r := newRig(t)
	in := r.sh("a", `id -u; id -g; id -G; umask; touch $STATE_DIRECTORY/f $TMPDIR/f && echo wrote; touch here 2>/dev/null || echo read-only; touch $TMPDIR/done; exec sleep 1000`)
	in.Spec.User, in.Spec.UID, in.Spec.GID, in.Spec.Groups = "", 12345, 12346, []int{12347}
	in.Spec.Health = &activate.Health{Command: []string{"/bin/sh", "-c", `[ $(id -u) = 12345 ] && [ -e $TMPDIR/done ]`}}
	r.mustStart(in)
	if got := r.output(in); got != "12345\n12346\n12346 12347\n0022\nwrote\nread-only\n" {
		t.Errorf("got %q", got)
	}
	for _, path := range []string{in.StateDir, tempDir(in), filepath.Join(in.StateDir, "f")} {
		fi, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st := fi.Sys().(*syscall.Stat_t); st.Uid != 12345 || st.Gid != 12346 || fi.IsDir() && fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v of %d:%d", path, fi.Mode(), st.Uid, st.Gid)
		}
	}
	in.Spec.UID = 0
	if err := r.Prepare(t.Context(), in); err == nil || !strings.Contains(err.Error(), "no uid") && !strings.Contains(err.Error(), "no user") {
		t.Errorf("nobody in particular: %v", err)
	}
}

// A uid is reserved for every service, also where the agent cannot use it.
func TestAgentThatIsNotRoot(t *testing.T) {
	t.Parallel()
	in := activate.Instance{Service: "web", StateDir: "/state", Spec: activate.Spec{UID: 70000, GID: 70000, Groups: []int{70001}}}
	if id, err := identifyFor(in, 1000); err != nil || id.user != nil || id.name != "web" || id.home != "/state" {
		t.Errorf("without a user it runs as %+v: %v", id, err)
	}
	in.Spec.User = "root"
	if id, err := identifyFor(in, 1000); err == nil || !strings.Contains(err.Error(), `user "root": only an agent of root`) {
		t.Errorf("as root it runs as %+v: %v", id, err)
	}
}

func TestDirectoriesAreNotMadeThroughLinks(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "exec sleep 1000")
	victim := filepath.Join(r.dir, "victim")
	if err := errors.Join(os.Mkdir(victim, 0o755), os.MkdirAll(filepath.Dir(in.StateDir), 0o755), os.Symlink(victim, in.StateDir)); err != nil {
		t.Fatal(err)
	}
	if err := r.Start(t.Context(), in); err == nil || !strings.Contains(err.Error(), "symbolic link") {
		t.Errorf("got %v", err)
	}
	if fi, _ := os.Stat(victim); fi.Mode().Perm() != 0o755 {
		t.Errorf("the victim's mode is %v", fi.Mode())
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("package/plain", "")
	if err := os.Chmod(filepath.Join(r.dir, "package/plain"), 0o644); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(*activate.Instance){
		`command "bin/x": not found in package `:       func(in *activate.Instance) { in.Spec.Command = []string{"bin/x"} },
		`command "no-such-tool": not found in PATH /`:  func(in *activate.Instance) { in.Spec.Command = []string{"no-such-tool"} },
		`command "./plain": not executable in package`: func(in *activate.Instance) { in.Spec.Command = []string{"./plain"} },
		`command "../../bin/sh": leads out in package`: func(in *activate.Instance) { in.Spec.Command = []string{"../../bin/sh"} },
		`command "": empty in the spec`:                func(in *activate.Instance) { in.Spec.Command = nil },
		`find user "no-such-user"`:                     func(in *activate.Instance) { in.Spec.User = "no-such-user" },
		`it has no port "x"`:                           func(in *activate.Instance) { in.Spec.Health = &activate.Health{TCP: true, Port: "x"} },
		`2 of http, tcp, command and notify`:           func(in *activate.Instance) { in.Spec.Health = &activate.Health{TCP: true, Notify: true} },
		`0 of http, tcp, command and notify`:           func(in *activate.Instance) { in.Spec.Health = &activate.Health{} },
		`does not begin with a slash`: func(in *activate.Instance) {
			in.Spec.Ports, in.Spec.Health = map[string]int{"a": freePort()}, &activate.Health{HTTP: "x"}
		},
		`environment variable "A=B"`: func(in *activate.Instance) { in.Spec.Env = map[string]string{"A=B": ""} },
		`working directory `:         func(in *activate.Instance) { in.Spec.Dir = "no/such" },
	} {
		in := r.sh("a", "true")
		change(&in)
		if err := r.Prepare(t.Context(), in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	in := r.instance("a", "sh", "-c", "true")
	if err := r.Prepare(t.Context(), in); err != nil {
		t.Errorf("a command of the PATH: %v", err)
	}
}

func TestExecErrorsAreExplained(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.write("package/a", "#!/no/such/interpreter\n")
	r.write("package/b", "neither fish nor fowl")
	for name, want := range map[string]string{"./a": "interpreter of its first line", "./b": "no program for this machine"} {
		if err := r.Start(t.Context(), r.instance("s"+name[2:], name)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if all := r.observed(); len(all) != 0 {
		t.Errorf("observed %+v", all)
	}
}

func TestPrepareNamesWhoHasThePort(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	old := r.server("serve")
	r.mustStart(old)
	in := old
	in.ID, in.Service = "row/next", "next"
	err := r.Prepare(t.Context(), in)
	var taken *activate.PortTakenError
	if !errors.As(err, &taken) || taken.PID != r.observed()[0].PID || !strings.Contains(err.Error(), "/proc/self/exe serve") {
		t.Fatalf("got %v", err)
	}
	in.Replaces = []string{old.ID}
	if err := r.Prepare(t.Context(), in); err != nil {
		t.Errorf("the row it replaces has the port: %v", err)
	}
}

func TestKeeperGone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.server("serve")
	in.Spec.Health = &activate.Health{HTTP: "/"}
	done := make(chan error, 1)
	go func() { done <- r.Start(t.Context(), in) }()
	r.await("process", func() string {
		if len(r.observed()) == 0 {
			return "nothing runs"
		}
		return ""
	})
	if err := syscall.Kill(r.keeper.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-done; !errors.Is(err, keeper.ErrNotRunning) {
		t.Fatalf("got %v", err)
	}
	r.ensure().Close()
	r.write("ready", "")
	r.mustStart(in) // the same client, the next keeper
}

// A connection to a port where nobody listens can come to itself, when the kernel picks that very port for our end.
func TestAConnectionToItselfIsSeen(t *testing.T) {
	t.Parallel()
	addr := &net.TCPAddr{IP: net.ParseIP(ownHost()), Port: freePort()}
	d := net.Dialer{LocalAddr: addr}
	c, err := d.DialContext(t.Context(), "tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if !toItself(c) {
		t.Error("not seen")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	other, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if toItself(other) {
		t.Error("seen where there is none")
	}
}

func TestCommandProbeEndsWithItsChildren(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	in := r.sh("a", "")
	in.Spec.Health = &activate.Health{Command: []string{"/bin/sh", "-c", "sleep 1000 & echo $!; echo stuck; wait"}, Timeout: 50 * time.Millisecond}
	if err := os.MkdirAll(in.StateDir, 0o755); err != nil {
		t.Fatal(err)
	}
	err := r.Check(t.Context(), in)
	if err == nil || !strings.Contains(err.Error(), "no answer in time: stuck") {
		t.Fatalf("got %v", err)
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	m := New(t.TempDir(), nil, nil)
	for _, row := range []string{"", "a", "a#1", "web@n1#"} {
		if got, attempt, ok := m.parseID(m.keeperID(row, 7)); got != row || attempt != 7 || !ok {
			t.Errorf("%q: %q %d %v", row, got, attempt, ok)
		}
	}
	for _, id := range []string{"", "x", "process:a", "process:a#b", "other:a#1"} {
		if _, _, ok := m.parseID(id); ok {
			t.Errorf("%q is ours", id)
		}
	}
}
