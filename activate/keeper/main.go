package keeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockPatience  = 10 * time.Second // for an earlier keeper to end
	clearPatience = 10 * time.Second // for what a dead keeper left to end
	termGrace     = 10 * time.Second // what services get when the keeper itself is told to end
	homeEvery     = 5 * time.Second  // how often it is seen to that DIR is still there
)

// Main is the keeper of dir. It returns after a shutdown request or SIGTERM, or at once if another keeper of dir
// answers. It takes over the whole process: signals, umask, children, cgroup.
func Main(dir string) error { return run(dir, true) }

// run is Main; withCgroups false does without them, as where there are none.
func run(dir string, withCgroups bool) error {
	// The keeper lives for years beside the agent and has little to do: trade CPU for memory.
	debug.SetGCPercent(50)
	debug.SetMemoryLimit(128 << 20)
	closeInherited()
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := Renice(0); err != nil { // the agent's may be another, and services inherit the keeper's
		log.Info("niceness is that of the agent", "reason", err)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	h, err := awaitHome(dir)
	if h == nil {
		return err
	}
	defer h.lock.Close()
	children, stop, err := newChildren()
	if err != nil {
		return err
	}
	defer stop()
	clearLeftovers(h, log)
	unix.Umask(0o022) // children inherit it
	if err := clearNotify(h.dir); err != nil {
		return err
	}
	var groups *cgroups
	if withCgroups {
		if groups, err = claimCgroups(h, children); err != nil {
			log.Info("no cgroups, processes are told apart by session and environment", "reason", err)
		} else {
			defer groups.close()
		}
	}
	lease, err := newLeaseClock()
	if err != nil {
		return err
	}
	defer lease.timer.Close()
	return attend(h, newKeeper(h, children, groups, lease, log))
}

// closeInherited closes the descriptors that whoever started the agent forgot in it: services must not get them, and
// a keeper must not hold them for years. What this process opened itself is close-on-exec.
func closeInherited() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			unix.Close(fd)
		}
	}
}

// awaitHome takes the lock of dir. nil, nil: another keeper is there and well.
func awaitHome(dir string) (*home, error) {
	give := time.Now().Add(lockPatience)
	for {
		h, err := openHome(dir)
		if !errors.Is(err, errLocked) {
			return h, err
		}
		if c, err := Connect(context.Background(), dir); err == nil {
			c.Close()
			return nil, nil
		}
		if time.Now().After(give) {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// clearLeftovers ends every process that an earlier keeper of this DIR started. Most died with it; the rest had
// forked away.
func clearLeftovers(h *home, log *slog.Logger) {
	b, err := os.ReadFile(cgroupNote(h.dir))
	if root := strings.TrimSpace(string(b)); err == nil && root != "" {
		clearCgroups(root, h.mark, clearPatience)
	}
	left := strays{h.mark}
	if !killAll(left, clearPatience) {
		log.Error("processes of an earlier keeper cannot be killed", "pids", left.members())
	}
}

func cgroupNote(dir string) string { return filepath.Join(dir, "keeper.cgroup") }

// claimCgroups opens the cgroups and notes where they are, for the next keeper, before anything is in them.
func claimCgroups(h *home, c *children) (*cgroups, error) {
	g, err := openCgroups(h.mark, c)
	if err != nil {
		return nil, err
	}
	if err := writeFile(cgroupNote(h.dir), []byte(g.root+"\n")); err != nil {
		g.close()
		return nil, fmt.Errorf("note cgroup: %w", err)
	}
	return g, nil
}

// attend serves until told to end. Order at the end: no new starts, nothing left running, then nobody to talk to.
func attend(h *home, k *keeper) error {
	ends, ignored := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(ends, unix.SIGTERM, unix.SIGINT)
	signal.Notify(ignored, unix.SIGHUP, unix.SIGPIPE) // not Ignore: an ignored signal stays ignored in children
	defer signal.Stop(ends)
	defer signal.Stop(ignored)
	l, err := listen(h.dir)
	if err != nil {
		return err
	}
	s := &server{k: k, boot: fmt.Sprintf("%x", randomBytes()), quit: make(chan struct{}), open: map[*net.UnixConn]struct{}{}}
	k.log.Info("keeper is ready", "pid", os.Getpid(), "cgroups", k.cgroups != nil)
	served := make(chan struct{})
	go func() { defer close(served); s.serve(l) }()
	go k.watchLease() // until run closes the timer
	debug.FreeOSMemory()
	waitForEnd(h, s, ends)
	k.stopAll(0, killPatience)
	if !h.replaced() {
		_ = os.Remove(socketPath(h.dir))
	}
	l.Close()
	<-served
	return nil
}

// waitForEnd returns when the keeper has to end: asked by a client, by a signal, or because its DIR is gone.
func waitForEnd(h *home, s *server, ends <-chan os.Signal) {
	look := time.NewTicker(homeEvery)
	defer look.Stop()
	for {
		select {
		case <-s.quit:
			return
		case sig := <-ends:
			s.k.log.Info("stopping all services", "signal", sig)
			s.k.stopAll(termGrace, killPatience)
			return
		case <-look.C:
			if h.replaced() {
				s.k.log.Error("the data directory is gone: stopping all services", "dir", h.dir)
				return
			}
		}
	}
}
