//go:build linux

package testcluster

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Process is one process of a node as the kernel lists it. Zombies count.
type Process struct {
	PID, PPID int // as the node itself numbers them
	State     string
	Args      []string
	Program   string // the file that it runs, as the node sees it; empty if it may not be known
	Service   string // its ISONOMIA_SERVICE; empty: no part of a service
}

func (p Process) String() string {
	return fmt.Sprintf("%d %s %s %s", p.PID, p.State, p.Service, strings.Join(p.Args, " "))
}

func (p Process) zombie() bool { return p.State == "Z" || p.State == "X" }

// isIsonomia says whether the program is ours, whatever version of it: the names
// of all begin alike.
func (p Process) isIsonomia() bool {
	return len(p.Args) > 1 && p.Service == "" && strings.HasPrefix(p.Program, filepath.Join(binDir, "isonomia"))
}

func (p Process) isAgent() bool { return p.isIsonomia() && p.Args[1] == "agent" }

// isKeeper says whether it is our program in another role than that of the agent.
func (p Process) isKeeper() bool { return p.isIsonomia() && p.Args[1] != "agent" }

// processes lists everything on the host but PID 1.
func (h *host) processes() ([]Process, error) {
	proc := h.path("/proc")
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	var list []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 {
			continue
		}
		p, err := readProcess(filepath.Join(proc, e.Name()))
		if err != nil {
			if gone(err) {
				continue
			}
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

// runs says whether any thread of a process is not stopped.
func (h *host) runs(pid int) bool {
	threads, _ := filepath.Glob(h.path(fmt.Sprintf("/proc/%d/task/*/stat", pid)))
	for _, t := range threads {
		stat, err := os.ReadFile(t)
		if err != nil {
			continue // it ended
		}
		if p, err := parseStat(string(stat)); err == nil && p.State != "T" && !p.zombie() {
			return true
		}
	}
	return false
}

// gone says that a process ended while it was being looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "no such process")
}

// readProcess reads the directory of a process below /proc.
func readProcess(dir string) (Process, error) {
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, err
	}
	p, err := parseStat(string(stat))
	if err != nil || p.zombie() {
		return p, err
	}
	cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
	if err != nil {
		return p, err
	}
	environ, err := os.ReadFile(filepath.Join(dir, "environ"))
	if err != nil {
		return p, err
	}
	p.Args = splitNul(cmdline)
	p.Program, _ = os.Readlink(filepath.Join(dir, "exe")) // kernel threads have none
	for _, kv := range splitNul(environ) {
		if v, ok := strings.CutPrefix(kv, "ISONOMIA_SERVICE="); ok {
			p.Service = v
		}
	}
	return p, nil
}

// parseStat reads `PID (NAME) STATE PPID ...`; NAME may hold anything.
func parseStat(stat string) (p Process, err error) {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 1 || end < open {
		return p, fmt.Errorf("parse stat %q: no name", stat)
	}
	rest := strings.Fields(stat[end+1:])
	if len(rest) < 2 {
		return p, fmt.Errorf("parse stat %q: too short", stat)
	}
	p.State = rest[0]
	p.PID, err = strconv.Atoi(strings.TrimSpace(stat[:open]))
	if err != nil {
		return p, err
	}
	p.PPID, err = strconv.Atoi(rest[1])
	return p, err
}

func splitNul(b []byte) []string {
	b = bytes.TrimRight(b, "\x00")
	if len(b) == 0 {
		return nil
	}
	return strings.Split(string(b), "\x00")
}
