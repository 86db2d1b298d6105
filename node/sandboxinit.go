package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

// RunBuildSandbox is the first process of a build's sandbox, its init: it makes the build's view of the machine, gives
// up every privilege, runs the command and says how it ended. It is started by the agent only, see sandboxSpec.
func RunBuildSandbox() error {
	_ = keeper.Renice(5)   // a build can wait, services cannot
	runtime.LockOSThread() // privileges are a thread's: the one that gives them up is the one that forks
	status := os.NewFile(3, "status")
	if st, err := status.Stat(); err != nil || st.Mode()&fs.ModeNamedPipe == 0 {
		return errors.New("build-sandbox is started by the agent only")
	}
	unix.CloseOnExec(int(status.Fd()))
	var spec sandboxSpec
	if err := json.NewDecoder(os.Stdin).Decode(&spec); err != nil {
		return fmt.Errorf("read what to build: %w", err)
	}
	go func() { // until the agent is gone, or wants the build to end
		_, _ = io.Copy(io.Discard, os.Stdin)
		spec.end()
		os.Exit(1)
	}()
	st := spec.execute()
	spec.end()
	return json.NewEncoder(status).Encode(st)
}

func (s sandboxSpec) execute() sandboxStatus {
	if err := s.enter(); err != nil {
		return sandboxStatus{Setup: err.Error()}
	}
	if s.Probe {
		return sandboxStatus{}
	}
	return sandboxStatus{Exit: s.command()}
}

// end kills all that was started. In a process namespace of its own nothing need be done: it ends with its init.
// Without one, this process is the parent of whatever lost its own, so that all come into sight sooner or later; it
// never waits for one of them, for another may come meanwhile.
func (s sandboxSpec) end() {
	for !s.Namespaces {
		for _, pid := range childrenOf(os.Getpid()) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		got, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case errors.Is(err, unix.ECHILD):
			return
		case got <= 0:
			time.Sleep(5 * time.Millisecond)
		}
	}
}

// childrenOf asks /proc.
func childrenOf(pid int) []int {
	var pids []int
	stats, _ := filepath.Glob("/proc/[1-9]*/stat")
	for _, path := range stats {
		b, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		// pid (name) state ppid: the name may hold anything, a parenthesis too
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		child, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil && len(f) > 1 && f[1] == strconv.Itoa(pid) {
			pids = append(pids, child)
		}
	}
	return pids
}

// enter makes this process the sandbox's init.
func (s sandboxSpec) enter() error {
	unix.Umask(0o022)
	// Rather a build than a service where memory or processors are short.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("800"), 0)
	_ = unix.Setpriority(unix.PRIO_PROCESS, 0, 10)
	if s.Namespaces {
		if err := s.mount(); err != nil {
			return err
		}
	} else if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become the parent of orphans: %w", err)
	}
	for _, l := range []struct {
		which int
		limit uint64
	}{{unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, uint64(s.FileSize)}} {
		if err := unix.Setrlimit(l.which, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("set a limit: %w", err)
		}
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("give up privileges: %w", err)
	}
	return nil
}

// mount makes the view that sandbox draws. What is to be seen is opened before anything is covered.
func (s sandboxSpec) mount() error {
	binds := []struct{ from, at string }{
		{s.Tmp, sandboxTmp}, {s.Tmp, "/var/tmp"}, {s.Box, sandboxPath}, {s.Cache, sandboxPath + "/home"},
	}
	froms := make([]string, len(binds))
	for i, b := range binds {
		fd, err := unix.Open(b.from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", b.from, err)
		}
		defer unix.Close(fd)
		froms[i] = fmt.Sprintf("/proc/self/fd/%d", fd)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("leave the machine's mounts alone: %w", err)
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make the machine's files read-only: %w", err)
	}
	if err := mountTmpfs(s.Data, "size=4k,nr_inodes=4,mode=0555", unix.MS_RDONLY); err != nil {
		return err
	}
	for i, b := range binds {
		if err := bindWritable(froms[i], b.at); err != nil {
			return err
		}
	}
	if err := mountTmpfs("/dev/shm", "size=64m,mode=1777", 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return mountProc()
}

func bindWritable(from, at string) error {
	if err := unix.Mount(from, at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount the build's files at %s: %w", at, err)
	}
	err := unix.MountSetattr(unix.AT_FDCWD, at, 0, &unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY, Attr_set: unix.MOUNT_ATTR_NODEV})
	if err != nil && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("make %s writable: %w", at, err)
	}
	return nil
}

func mountTmpfs(at, options string, flags uintptr) error {
	if err := unix.Mount("tmpfs", at, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|flags, options); err != nil {
		return fmt.Errorf("mount an empty directory at %s: %w", at, err)
	}
	return nil
}

// mountProc shows the build its own processes only. Where something is mounted below /proc, as in containers, a user
// namespace may not; then it sees the numbers of the others, as every user does.
func mountProc() error {
	err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.EPERM) {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// command runs the build command to its end and says how it ended, "" for well.
func (s sandboxSpec) command() string {
	path, err := lookIn(buildPath, s.Argv[0])
	if err != nil {
		return err.Error()
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err.Error()
	}
	defer null.Close()
	attr := &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	if s.UID >= 0 {
		attr.Credential = &syscall.Credential{Uid: uint32(s.UID), Gid: uint32(s.UID)}
	}
	p, err := os.StartProcess(path, s.Argv, &os.ProcAttr{Dir: s.Dir, Env: s.Env, Files: []*os.File{null, os.Stdout, os.Stderr}, Sys: attr})
	if err != nil {
		return err.Error()
	}
	return awaitExit(p.Pid)
}

// awaitExit waits for one child and, as the init of the others, for those too.
func awaitExit(pid int) string {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err.Error()
		case got == pid && ws.Signaled():
			return "ended by signal " + strconv.Itoa(int(ws.Signal())) + " (" + ws.Signal().String() + ")"
		case got == pid && ws.ExitStatus() != 0:
			return "exit status " + strconv.Itoa(ws.ExitStatus())
		case got == pid:
			return ""
		}
	}
}

// lookIn finds a program the way a shell does. A name with a slash is relative to the source.
func lookIn(path, name string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, dir := range filepath.SplitList(path) {
		p := filepath.Join(dir, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("there is no program %q in %s on this node", name, path)
}
