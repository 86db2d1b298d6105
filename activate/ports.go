package activate

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// CheckPort tries to bind host:port. If somebody has it, mine is asked whether the process is one that will make room
// (pid 0 if it cannot be found); if not, the error is a *PortTakenError that names it.
func CheckPort(ctx context.Context, name, host string, port int, mine func(pid int) bool) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(port)))
	if err == nil {
		return l.Close()
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("bind port %d (%s): %w", port, name, err)
	}
	pids := portHolders(host, port)
	if i := slices.IndexFunc(pids, func(pid int) bool { return !mine(pid) }); i >= 0 {
		return &PortTakenError{Name: name, Host: host, Port: port, PID: pids[i], Program: program(pids[i])}
	}
	if len(pids) == 0 && !mine(0) {
		return &PortTakenError{Name: name, Host: host, Port: port}
	}
	return nil
}

// socket is one line of /proc/net/tcp or tcp6.
type socket struct {
	local  netip.AddrPort
	listen bool
	inode  string
}

// parseSocket reads one line; the header and what else is no socket is not ok.
func parseSocket(line string) (s socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 {
		return socket{}, false
	}
	addr, port, ok := strings.Cut(f[1], ":")
	raw, err1 := hex.DecodeString(addr)
	n, err2 := strconv.ParseUint(port, 16, 16)
	if !ok || errors.Join(err1, err2) != nil || len(raw) != 4 && len(raw) != 16 {
		return socket{}, false
	}
	for i := 0; i < len(raw); i += 4 { // words in the machine's order, which is little-endian wherever we run
		slices.Reverse(raw[i : i+4])
	}
	ip, _ := netip.AddrFromSlice(raw)
	return socket{local: netip.AddrPortFrom(ip.Unmap(), uint16(n)), listen: f[3] == "0A", inode: f[9]}, true
}

// overlaps says whether s is in the way of binding host:port. An address of all hosts is in the way of every one.
func (s socket) overlaps(host string, port int) bool {
	if int(s.local.Port()) != port {
		return false
	}
	want, err := netip.ParseAddr(host)
	return err != nil || want.IsUnspecified() || s.local.Addr().IsUnspecified() || want.Unmap() == s.local.Addr()
}

// portHolders finds the processes that have a socket in the way of host:port, listening ones before others.
func portHolders(host string, port int) []int {
	inodes := map[string]bool{} // to whether it listens
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue
		}
		for in := bufio.NewScanner(f); in.Scan(); {
			if s, ok := parseSocket(in.Text()); ok && s.overlaps(host, port) {
				inodes["socket:["+s.inode+"]"] = s.listen
			}
		}
		f.Close()
	}
	if len(inodes) == 0 {
		return nil
	}
	return socketOwners(inodes)
}

// socketOwners finds who has one of the sockets open, listening ones first, each in the order of pids.
func socketOwners(sockets map[string]bool) []int {
	fds, _ := filepath.Glob("/proc/[1-9]*/fd")
	var listening, others []int
	for _, dir := range fds {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(dir)))
		if err != nil {
			continue
		}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			target, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			if listens, ok := sockets[target]; ok && listens {
				listening = append(listening, pid)
			} else if ok {
				others = append(others, pid)
			}
		}
	}
	slices.Sort(listening)
	slices.Sort(others)
	return slices.Compact(append(slices.Compact(listening), slices.Compact(others)...))
}

// program is a process's command line for people, at most 80 bytes; its name if it has none.
func program(pid int) string {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	b, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	b = bytes.TrimRight(b, "\x00")
	if len(b) == 0 {
		b, _ = os.ReadFile(filepath.Join(dir, "comm"))
	}
	s := strings.ToValidUTF8(strings.TrimSpace(strings.ReplaceAll(string(b), "\x00", " ")), "?")
	if len(s) > 80 {
		s = strings.ToValidUTF8(s[:77], "") + "..."
	}
	return s
}
