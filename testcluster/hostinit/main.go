//go:build linux

// Command hostinit is the first process of a test host and the wrapper through
// which the agent is started there.
//
//	hostinit            PID 1 of the host: one JSON request per line on stdin,
//	                    one JSON reply per line on stdout. End of input (the
//	                    test process is gone) ends it, and with it the host.
//	hostinit run [--syncs] PROGRAM ARGS...
//	                    joins the cgroup of the agent and becomes PROGRAM. With
//	                    --syncs every fsync of PROGRAM asks the process at the
//	                    other end of file descriptor 3 first.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// Request is one line on stdin.
type Request struct {
	Op     string // "setup" or "kill"
	Setup  Setup
	PID    int // kill: -1 is every process of the host but PID 1
	Signal int
}

// Reply is one line on stdout; an empty Error means done.
type Reply struct{ Error string }

// Namespaces belong to a thread. What is asked for must happen on the first one,
// which is the one that /proc shows.
func init() { runtime.LockOSThread() }

func main() {
	if len(os.Args) > 1 && os.Args[1] == "run" {
		err := run(os.Args[2:])
		fmt.Fprintln(os.Stderr, "hostinit:", err)
		os.Exit(127)
	}
	// Ignoring SIGCHLD makes the kernel reap the orphans that PID 1 inherits.
	signal.Ignore(syscall.SIGCHLD)
	serve()
}

func serve() {
	in, out := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var req Request
		err := json.Unmarshal(in.Bytes(), &req)
		if err == nil {
			err = handle(req)
		}
		var reply Reply
		if err != nil {
			reply.Error = err.Error()
		}
		if out.Encode(reply) != nil {
			return
		}
	}
}

func handle(req Request) error {
	switch req.Op {
	case "setup":
		return setup(req.Setup)
	case "kill":
		err := unix.Kill(req.PID, unix.Signal(req.Signal))
		if req.PID == -1 && err == unix.ESRCH {
			return nil // nobody there but PID 1
		}
		return err
	}
	return fmt.Errorf("unknown request %q", req.Op)
}
