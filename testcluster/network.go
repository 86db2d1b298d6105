//go:build linux

package testcluster

import (
	"fmt"
	"io"
	"net"
	"net/netip"
)

// The network of every cluster is the same, since none can see another:
//
//	10.20.0.0/16      n1 is 10.20.0.1, n2 10.20.0.2 ...
//	10.20.255.254     the observer, an address of the switch itself
//
// Port pN of the switch leads to eth0 of nN. A node keeps its hardware address
// over a power cycle, as machines do, so nobody's ARP table goes stale.
const (
	networkBits = 16
	// ObserverHost is the address of the outside observer on every node.
	ObserverHost = "10.20.255.254"
)

// maxNodes is what the addresses of nodeAddress and the test machine carry.
const maxNodes = 250

func nodeAddress(number int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, 20, 0, byte(number)})
}

// network is the switch that connects the hosts of one cluster.
type network struct {
	sw     *host
	faults faults
}

// newNetwork starts a switch without ports.
func newNetwork(hostinit string, log io.Writer) (*network, error) {
	sw, err := startHost(hostinit, log)
	if err != nil {
		return nil, err
	}
	err = sw.batch(fmt.Sprintf(`link add br0 address 02:20:00:00:ff:fe type bridge stp_state 0 mcast_snooping 0
addr add %s/%d dev br0
link set lo up
link set br0 up
`, ObserverHost, networkBits))
	if err != nil {
		sw.kill()
		return nil, err
	}
	return &network{sw: sw}, nil
}

// attach plugs a new host into port number.
func (n *network) attach(h *host, number int, address netip.Addr) error {
	err := n.sw.batch(fmt.Sprintf(`link add p%[1]d type veth peer name eth0 address 02:20:00:00:00:%02[1]x netns %[2]d
link set p%[1]d master br0 up
`, number, h.pid))
	if err != nil {
		return fmt.Errorf("attach host: %w", err)
	}
	err = h.batch(fmt.Sprintf(`link set lo up
addr add %s/%d dev eth0
link set eth0 up
route add default via %s
`, address, networkBits, ObserverHost))
	if err != nil {
		return fmt.Errorf("configure host: %w", err)
	}
	return nil
}

// plug connects or disconnects the cable of a port.
func (n *network) plug(number int, connected bool) error {
	state := "down"
	if connected {
		state = "up"
	}
	return n.sw.batch(fmt.Sprintf("link set p%d %s\n", number, state))
}

// detach removes a port; the device of its host goes with it.
func (n *network) detach(number int) error {
	return n.sw.batch(fmt.Sprintf("link del p%d\n", number))
}

// readdress gives a running host another address.
func (n *network) readdress(h *host, address netip.Addr) error {
	return h.batch(fmt.Sprintf(`addr flush dev eth0
addr add %s/%d dev eth0
route replace default via %s
`, address, networkBits, ObserverHost))
}

// listen opens a TCP listener on the observer's address, which every node
// reaches whatever the partition.
func (n *network) listen(port int) (l net.Listener, err error) {
	err = inside(n.sw.pid, []space{spaceNet}, func() error {
		l, err = net.Listen("tcp4", fmt.Sprintf("%s:%d", ObserverHost, port))
		return err
	})
	return l, err
}
