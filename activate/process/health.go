package process

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
)

// maxProbeOutput is how much of what a probe says is kept, in bytes.
const maxProbeOutput = 4096

// probe asks once; nil: it is well.
type probe func(ctx context.Context) error

// newProbe is the probe of the spec's health check, which is not nil and not Notify.
func newProbe(in activate.Instance) (probe, error) {
	h := in.Spec.Health
	set := 0
	for _, is := range []bool{h.HTTP != "", h.TCP, len(h.Command) > 0, h.Notify} {
		if is {
			set++
		}
	}
	if set != 1 {
		return nil, fmt.Errorf("health check of %q: %d of http, tcp, command and notify are set, not one", in.Service, set)
	}
	switch {
	case h.Notify:
		return nil, nil
	case len(h.Command) > 0:
		return probeCommand(in)
	}
	name, err := healthPort(in)
	if err != nil {
		return nil, err
	}
	if h.TCP {
		return func(ctx context.Context) error { return probePort(ctx, in.Spec, name) }, nil
	}
	if !strings.HasPrefix(h.HTTP, "/") {
		return nil, fmt.Errorf("health check of %q: path %q does not begin with a slash", in.Service, h.HTTP)
	}
	url := "http://" + address(in.Spec, name) + h.HTTP
	return func(ctx context.Context) error { return probeHTTP(ctx, url) }, nil
}

// healthPort is the name of the port to probe.
func healthPort(in activate.Instance) (string, error) {
	if name := in.Spec.Health.Port; name != "" {
		if _, ok := in.Spec.Ports[name]; !ok {
			return "", fmt.Errorf("health check of %q: it has no port %q", in.Service, name)
		}
		return name, nil
	}
	if len(in.Spec.Ports) != 1 {
		return "", fmt.Errorf("health check of %q: it has %d ports, say which", in.Service, len(in.Spec.Ports))
	}
	return sortedPorts(in.Spec)[0], nil
}

// address is where to reach a port: where it is bound, or this machine if that is everywhere.
func address(s activate.Spec, name string) string {
	host := s.Host
	ip, err := netip.ParseAddr(host)
	switch {
	case host == "" || err == nil && ip.IsUnspecified() && ip.Is4():
		host = "127.0.0.1"
	case err == nil && ip.IsUnspecified():
		host = "::1"
	}
	return net.JoinHostPort(host, strconv.Itoa(s.Ports[name]))
}

// probeAllPorts is well when every port accepts connections.
func probeAllPorts(in activate.Instance) probe {
	return func(ctx context.Context) error {
		for _, name := range sortedPorts(in.Spec) {
			if err := probePort(ctx, in.Spec, name); err != nil {
				return err
			}
		}
		return nil
	}
}

func probePort(ctx context.Context, s activate.Spec, name string) error {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address(s, name))
	if err != nil {
		return fmt.Errorf("port %d (%s): %w", s.Ports[name], name, shorten(err))
	}
	defer c.Close()
	if toItself(c) {
		return fmt.Errorf("port %d (%s): nobody listens", s.Ports[name], name)
	}
	return nil
}

// toItself says that both ends of c are one: the port was free, and the kernel picked its very number for our end.
func toItself(c net.Conn) bool { return c.LocalAddr().String() == c.RemoteAddr().String() }

// shorten drops "dial tcp 127.0.0.1:1->..." from an error: the port has been named.
func shorten(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

// probeHTTP asks as a stranger would: no proxy, no connection kept, no redirect followed.
func probeHTTP(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "isonomia-health")
	t := &http.Transport{DisableKeepAlives: true, ResponseHeaderTimeout: time.Minute}
	defer t.CloseIdleConnections()
	resp, err := t.RoundTrip(req)
	if err != nil {
		return fmt.Errorf("GET %s: %w", url, shorten(err))
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 200))
	if resp.StatusCode >= 200 && resp.StatusCode < 400 {
		return nil
	}
	return fmt.Errorf("GET %s: %s%s", url, resp.Status, lastLine(body))
}

// probeCommand runs a command as the instance runs: its user, its environment, its directory. It is in the agent's
// hands, not the keeper's, and dies with the agent.
func probeCommand(in activate.Instance) (probe, error) {
	id, err := identify(in)
	if err != nil {
		return nil, err
	}
	env, err := environ(in, id, "") // a probe must not speak for its service
	if err != nil {
		return nil, err
	}
	argv, err := resolve(in.Package, in.Spec.Health.Command, env)
	if err != nil {
		return nil, fmt.Errorf("health check of %q: %w", in.Service, err)
	}
	sys := syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if id.user != nil {
		sys.Credential = &syscall.Credential{Uid: id.user.UID, Gid: id.user.GID, Groups: id.user.Groups}
	}
	return func(ctx context.Context) error {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env, cmd.Dir = env, workDir(in)
		attr := sys
		cmd.SysProcAttr = &attr
		return runProbe(ctx, cmd)
	}, nil
}

// runProbe runs cmd and whatever it starts in its process group, until ctx ends.
func runProbe(ctx context.Context, cmd *exec.Cmd) error {
	runtime.LockOSThread() // PDEATHSIG fires when the thread that forked ends
	defer runtime.UnlockOSThread()
	var out capped
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what it left in the background
	}
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("health command %q: no answer in time%s", cmd.Args[0], lastLine(out.b))
	default:
		return fmt.Errorf("health command %q: %w%s", cmd.Args[0], err, lastLine(out.b))
	}
}

// capped keeps the first bytes of what is written to it.
type capped struct{ b []byte }

func (c *capped) Write(p []byte) (int, error) {
	c.b = append(c.b, p[:min(len(p), maxProbeOutput-len(c.b))]...)
	return len(p), nil
}

// lastLine is ": " and the last line of b, or nothing.
func lastLine(b []byte) string {
	lines := bytes.Split(bytes.TrimSpace(b), []byte("\n"))
	if last := strings.ToValidUTF8(string(lines[len(lines)-1]), "?"); last != "" {
		return ": " + last
	}
	return ""
}
