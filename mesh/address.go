package mesh

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// listenUDP opens the one socket. An IPv4 host gives an IPv4 socket, a name or
// an IPv6 host what the system makes of it.
func listenUDP(bind string) (net.PacketConn, error) {
	host, _, err := net.SplitHostPort(bind)
	if err != nil {
		return nil, fmt.Errorf("bind address %q: %w", bind, err)
	}
	network := "udp"
	if ip := net.ParseIP(host); ip != nil && ip.To4() != nil {
		network = "udp4"
	}
	addr, err := net.ResolveUDPAddr(network, bind)
	if err != nil {
		return nil, fmt.Errorf("bind address %q: %w", bind, err)
	}
	c, err := net.ListenUDP(network, addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("bind %q: another program uses this UDP port: %w", bind, err)
	}
	if err != nil {
		return nil, fmt.Errorf("bind %q: %w", bind, err)
	}
	return c, nil
}

// advertised is what others are told: the operator's choice, else the address
// that the socket is bound to, else that of the default route.
func advertised(choice string, local net.Addr) (string, error) {
	if choice != "" {
		return choice, checkAddr(choice)
	}
	u, ok := local.(*net.UDPAddr)
	if !ok {
		return "", fmt.Errorf("advertise: the socket has no UDP address but %v", local)
	}
	ip := u.IP
	if ip.IsUnspecified() {
		var err error
		if ip, err = routeIP(ip.To4() == nil); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(ip.String(), strconv.Itoa(u.Port)), nil
}

// routeIP is this machine's address towards the rest of the world. Nothing is
// sent: connecting a UDP socket only looks up the route.
func routeIP(v6 bool) (net.IP, error) {
	tries := [][2]string{{"udp4", "192.0.2.1:9"}}
	if v6 {
		tries = append(tries, [2]string{"udp6", "[2001:db8::1]:9"})
	}
	for _, t := range tries {
		if c, err := net.Dial(t[0], t[1]); err == nil {
			ip := c.LocalAddr().(*net.UDPAddr).IP
			_ = c.Close()
			return ip, nil
		}
	}
	return interfaceIP()
}

// interfaceIP serves machines without a default route: the first address that
// is not loopback, else loopback.
func interfaceIP() (net.IP, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("advertise: %w", err)
	}
	var loopback net.IP
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok || n.IP.IsLinkLocalUnicast() {
			continue
		}
		if !n.IP.IsLoopback() {
			return n.IP, nil
		}
		if loopback == nil {
			loopback = n.IP
		}
	}
	if loopback == nil {
		return nil, errors.New("advertise: this machine has no address; say which with --advertise")
	}
	return loopback, nil
}
