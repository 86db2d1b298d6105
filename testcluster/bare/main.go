// Bare is raft and serf and nothing else, with the timers of the product, over their own transports: what idle memory
// and CPU of an agent are held against.
//
//	bare DIR IP SELF PEER...    SELF and PEERs are names; the first of all, sorted, bootstraps with everybody
package main

import (
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/hashicorp/serf/serf"
)

type fsm struct{}

func (fsm) Apply(*raft.Log) any                  { return nil }
func (fsm) Snapshot() (raft.FSMSnapshot, error)  { return fsm{}, nil }
func (fsm) Restore(r io.ReadCloser) error        { return r.Close() }
func (fsm) Persist(sink raft.SnapshotSink) error { return sink.Close() }
func (fsm) Release()                             {}

func main() {
	dir, ip := os.Args[1], os.Args[2]
	peers := os.Args[3:] // NAME=IP, this one first
	if err := run(dir, ip, peers); err != nil {
		log.Fatal(err)
	}
	select {}
}

func run(dir, ip string, peers []string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	self, _, _ := strings.Cut(peers[0], "=")
	quiet := hclog.NewNullLogger()
	rc := raft.DefaultConfig()
	rc.LocalID, rc.Logger, rc.NoLegacyTelemetry = raft.ServerID(self), quiet, true
	rc.HeartbeatTimeout, rc.ElectionTimeout, rc.LeaderLeaseTimeout = timer("HEARTBEAT", 250), timer("HEARTBEAT", 250), timer("LEASE", 200)
	store, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return err
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, 2, quiet)
	if err != nil {
		return err
	}
	trans, err := raft.NewTCPTransportWithLogger(net.JoinHostPort(ip, "8300"), nil, 3, 5*time.Second, quiet)
	if err != nil {
		return err
	}
	r, err := raft.NewRaft(rc, fsm{}, store, store, snaps, trans)
	if err != nil {
		return err
	}
	var conf raft.Configuration
	var addrs []string
	for _, p := range peers {
		name, addr, _ := strings.Cut(p, "=")
		conf.Servers = append(conf.Servers, raft.Server{ID: raft.ServerID(name), Address: raft.ServerAddress(net.JoinHostPort(addr, "8300"))})
		addrs = append(addrs, net.JoinHostPort(addr, "7946"))
	}
	r.BootstrapCluster(conf) // refused after the first start: that is fine
	return gossip(self, ip, addrs)
}

func timer(name string, ms int) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(name)); err == nil {
		return d
	}
	return time.Duration(ms) * time.Millisecond
}

func gossip(self, ip string, addrs []string) error {
	mc := memberlist.DefaultLANConfig()
	mc.BindAddr, mc.BindPort, mc.Logger = ip, 7946, log.New(io.Discard, "", 0)
	mc.ProbeInterval, mc.ProbeTimeout = 500*time.Millisecond, 250*time.Millisecond
	sc := serf.DefaultConfig()
	sc.NodeName, sc.MemberlistConfig, sc.Logger = self, mc, log.New(io.Discard, "", 0)
	s, err := serf.Create(sc)
	if err != nil {
		return err
	}
	for range 100 {
		if n, err := s.Join(addrs, true); err == nil && n == len(addrs) {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}
