package keeper

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// proc is what one line of /proc/PID/stat says.
type proc struct {
	pid, parent, session int
	began                string // start time in ticks: with pid, what tells a process from a later one
	dead                 bool   // a zombie
}

func procPath(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// parseStat reads the contents of /proc/PID/stat. The name may hold spaces and parentheses.
func parseStat(b []byte) (proc, bool) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return proc{}, false
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:open])))
	f := strings.Fields(string(b[end+1:])) // from the third column on: state ppid pgrp session ...
	if err != nil || len(f) < 20 {
		return proc{}, false
	}
	parent, err1 := strconv.Atoi(f[1])
	session, err2 := strconv.Atoi(f[3])
	p := proc{pid: pid, parent: parent, session: session, began: f[19], dead: f[0] == "Z" || f[0] == "X"}
	return p, errors.Join(err1, err2) == nil
}

// readProc reads what /proc says about pid.
func readProc(pid string) (proc, bool) {
	b, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	if err != nil {
		return proc{}, false
	}
	return parseStat(b)
}

// processes lists all processes of this pid namespace.
func processes() map[int]proc {
	d, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer d.Close()
	names, _ := d.Readdirnames(-1)
	all := make(map[int]proc, len(names))
	for _, n := range names {
		if n[0] < '1' || n[0] > '9' {
			continue
		}
		if p, ok := readProc(n); ok {
			all[p.pid] = p
		}
	}
	return all
}

// descends says whether p has ancestor above it.
func descends(all map[int]proc, p proc, ancestor int) bool {
	for range 1000 { // a listing is no snapshot: it may hold a loop
		if p.parent == ancestor {
			return true
		}
		next, ok := all[p.parent]
		if !ok {
			return false
		}
		p = next
	}
	return false
}

// marked returns the id after mark in the environment that pid was started with.
func marked(pid int, mark string) (id string, ok bool) {
	f, err := os.Open(procPath(pid, "environ"))
	if err != nil {
		return "", false
	}
	defer f.Close()
	buf := readBuffers.Get().(*[]byte) // what is beyond 64 KiB of environment is not looked at; the mark was put first
	defer readBuffers.Put(buf)
	n, _ := f.Read(*buf)
	want := []byte(markName + "=" + mark + ":")
	for e := range bytes.SplitSeq((*buf)[:n], []byte{0}) {
		if v, found := bytes.CutPrefix(e, want); found {
			return string(v), true
		}
	}
	return "", false
}

// signalIf signals pid if it is still what the caller took it for: the check runs with a handle on the process, so
// that a new process with its number is safe.
func signalIf(pid int, sig syscall.Signal, still func() bool) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if still() {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0)
	}
}

// signalAll signals those of a listing that are still the same processes.
func signalAll(members []proc, sig syscall.Signal) {
	for _, p := range members {
		signalIf(p.pid, sig, func() bool {
			now, ok := readProc(strconv.Itoa(p.pid))
			return ok && now.began == p.began
		})
	}
}

// kin is a family without a cgroup: descendants of the keeper that descend from the main process, are in its session,
// or carry the mark. A process that leaves its session, its parents and its environment behind is not found.
type kin struct {
	main int // 0 until forked
	mark string
	id   string
}

// members lists the living ones.
func (k *kin) members() []proc {
	all := processes()
	var list []proc
	for _, p := range all {
		if !p.dead && descends(all, p, os.Getpid()) && k.is(all, p) {
			list = append(list, p)
		}
	}
	return list
}

func (k *kin) is(all map[int]proc, p proc) bool {
	if id, ok := marked(p.pid, k.mark); ok {
		return id == k.id
	}
	return p.pid == k.main || p.session == k.main || descends(all, p, k.main)
}

func (k *kin) signal(sig syscall.Signal) { signalAll(k.members(), sig) }

func (k *kin) empty() bool { return len(k.members()) == 0 }

func (k *kin) has(pid int) bool {
	all := processes()
	p, ok := all[pid]
	return ok && descends(all, p, os.Getpid()) && k.is(all, p)
}

func (k *kin) close() {}

// strays is the family of everything that carries the mark of this DIR, wherever it is: what a dead keeper left.
type strays struct{ mark string }

func (s strays) members() []proc {
	var list []proc
	for pid, p := range processes() {
		if !p.dead && s.has(pid) {
			list = append(list, p)
		}
	}
	return list
}

func (s strays) signal(sig syscall.Signal) { signalAll(s.members(), sig) }

func (s strays) empty() bool { return len(s.members()) == 0 }

func (s strays) has(pid int) bool {
	if pid == os.Getpid() {
		return false
	}
	_, ok := marked(pid, s.mark)
	return ok
}

func (s strays) close() {}
