package mesh

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
)

// The peers file remembers where nodes were last seen, so that a node finds its
// cluster again without quorum and without a token. It is a hint: every address
// is proven by a handshake. One line each:
//
//	isonomia peers 1
//	join HOST:PORT                 as the operator gave it, never resolved here
//	node ID HOST:PORT...           newest address first
//	end COUNT                      lines between, so that a cut file is noticed

const (
	peersFile     = "peers"
	peersHead     = "isonomia peers 1"
	peersLimit    = 1 << 20 // bytes
	maxPeers      = 2048
	maxAddrs      = 4  // per node
	maxJoinAddrs  = 32 // remembered --join addresses
	addrTextLimit = 260
)

// Peer is a node and where it may be found: host:port, the best first.
type Peer struct {
	ID    string
	Addrs []string
}

type peersRecord struct {
	Join  []string
	Peers []Peer
}

func (r peersRecord) encode() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, peersHead)
	for _, a := range r.Join {
		fmt.Fprintln(&b, "join", a)
	}
	sort.Slice(r.Peers, func(i, j int) bool { return r.Peers[i].ID < r.Peers[j].ID })
	for _, p := range r.Peers {
		fmt.Fprintln(&b, "node", p.ID, strings.Join(p.Addrs, " "))
	}
	fmt.Fprintln(&b, "end", len(r.Join)+len(r.Peers))
	return b.Bytes()
}

// parsePeers is the inverse of encode. It is pure and takes nothing over the
// bounds.
func parsePeers(data []byte) (peersRecord, error) {
	var r peersRecord
	sc := bufio.NewScanner(bytes.NewReader(data))
	if !sc.Scan() || sc.Text() != peersHead {
		return r, errors.New("parse peers: not a peers file of version 1")
	}
	for lines := 0; sc.Scan(); lines++ {
		f := strings.Fields(sc.Text())
		if len(f) == 2 && f[0] == "end" {
			if f[1] != strconv.Itoa(lines) || sc.Scan() {
				return peersRecord{}, errors.New("parse peers: wrong number of lines")
			}
			return r, nil
		}
		if err := r.add(f); err != nil {
			return peersRecord{}, fmt.Errorf("parse peers: line %d: %w", lines+2, err)
		}
	}
	return peersRecord{}, errors.New("parse peers: cut short")
}

func (r *peersRecord) add(f []string) error {
	switch {
	case len(f) == 2 && f[0] == "join" && len(r.Join) < maxJoinAddrs:
		r.Join = append(r.Join, f[1])
		return checkAddr(f[1])
	case len(f) >= 2 && len(f) <= 2+maxAddrs && f[0] == "node" && len(r.Peers) < maxPeers:
		if !validID(f[1]) {
			return fmt.Errorf("%q is no node id", f[1])
		}
		for _, a := range f[2:] {
			if err := checkAddr(a); err != nil {
				return err
			}
		}
		r.Peers = append(r.Peers, Peer{ID: f[1], Addrs: append([]string(nil), f[2:]...)})
		return nil
	}
	return errors.New("unknown or too many")
}

// checkAddr says whether a is HOST:PORT with a port that can be dialled.
func checkAddr(a string) error {
	host, port, err := net.SplitHostPort(a)
	if err != nil {
		return fmt.Errorf("address %q: %w", a, err)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 || host == "" || len(a) > addrTextLimit || strings.ContainsAny(a, " \t\r\n") {
		return fmt.Errorf("address %q: want HOST:PORT", a)
	}
	return nil
}

// loadPeers reads dir's peers file; no file is an empty record. A damaged one is
// an error that the caller may log and go on without: it is only a hint.
func loadPeers(dir string) (peersRecord, error) {
	path := filepath.Join(dir, peersFile)
	data, err := readFile(path, peersLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return peersRecord{}, nil
	}
	if err != nil {
		return peersRecord{}, err
	}
	r, err := parsePeers(data)
	if err != nil {
		return r, fmt.Errorf("load %q: %w", path, err)
	}
	return r, nil
}

func savePeers(dir string, r peersRecord) error {
	return writeFile(filepath.Join(dir, peersFile), r.encode(), 0o600)
}
