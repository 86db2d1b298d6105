//go:build linux

package testcluster

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Listener is one listening TCP socket of a node.
type Listener struct {
	Address netip.AddrPort
	Inode   uint64
	Owners  []int // processes that have it open
}

// listeners lists the listening TCP sockets of the host and who has them.
func (h *host) listeners(processes []Process) ([]Listener, error) {
	var list []Listener
	for _, file := range []string{"tcp", "tcp6"} {
		content, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(h.pid), "net", file))
		if err != nil {
			return nil, err
		}
		some, err := parseListeners(string(content))
		if err != nil {
			return nil, fmt.Errorf("parse /proc/net/%s: %w", file, err)
		}
		list = append(list, some...)
	}
	for i, l := range list {
		want := fmt.Sprintf("socket:[%d]", l.Inode)
		for _, p := range processes {
			if h.hasOpen(p.PID, want) {
				list[i].Owners = append(list[i].Owners, p.PID)
			}
		}
	}
	return list, nil
}

// hasOpen says whether a process has a descriptor that reads as target.
func (h *host) hasOpen(pid int, target string) bool {
	dir := h.path("/proc/" + strconv.Itoa(pid) + "/fd")
	entries, _ := os.ReadDir(dir) // gone meanwhile: it has nothing open
	return slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		link, err := os.Readlink(filepath.Join(dir, e.Name()))
		return err == nil && link == target
	})
}

// stateListen is TCP_LISTEN in /proc/net/tcp.
const stateListen = "0A"

// parseListeners reads /proc/net/tcp or tcp6:
//
//	sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt uid timeout inode
//	 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 ...
func parseListeners(content string) ([]Listener, error) {
	var list []Listener
	for line := range strings.Lines(content) {
		f := strings.Fields(line)
		if len(f) < 10 || f[3] != stateListen {
			continue
		}
		address, err := parseHexAddress(f[1])
		if err != nil {
			return nil, err
		}
		inode, err := strconv.ParseUint(f[9], 10, 64)
		if err != nil {
			return nil, err
		}
		list = append(list, Listener{Address: address, Inode: inode})
	}
	return list, nil
}

// parseHexAddress reads an address that the kernel printed as 32-bit words in
// its own byte order.
func parseHexAddress(s string) (netip.AddrPort, error) {
	host, port, _ := strings.Cut(s, ":")
	raw, err := hex.DecodeString(host)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: %w", s, err)
	}
	if len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: %d bytes", s, len(raw))
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	address, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: %d bytes", s, len(raw))
	}
	number, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("parse address %q: %w", s, err)
	}
	return netip.AddrPortFrom(address.Unmap(), uint16(number)), nil
}
