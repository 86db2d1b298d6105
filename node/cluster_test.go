package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// testNode is an agent within the test's process, with a keeper that is this binary too. Its host is an address of the
// loopback interface that no other test uses, so that ports are its own.
type testNode struct {
	*Node
	*api.Client
	t    testing.TB
	stop func()
}

var hosts atomic.Int32

func ownAddress() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d", 1+pid%250, pid/250%250, 1+hosts.Add(1)%250)
}

// nodeDir is a data directory with a name that is short enough for sockets.
func nodeDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "iso")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = removeAll(dir) })
	return dir
}

// startNode starts an agent; without another to join it makes a cluster. It ends with the test, services and all.
func startNode(t testing.TB, name string, join *testNode) *testNode {
	t.Helper()
	cfg := Config{Dir: nodeDir(t), Name: name, Bind: ownAddress() + ":0", Bootstrap: join == nil, StopServices: true, Log: testLog().With("at", name)}
	if join != nil {
		tok, err := join.CreateToken(t.Context(), api.TokenRequest{})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Token, cfg.Join = tok.Token, []string{join.mesh.Addr()}
	}
	return runNode(t, cfg)
}

func runNode(t testing.TB, cfg Config) *testNode {
	t.Helper()
	cfg, err := cfg.complete()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{Node: &Node{cfg: cfg, log: cfg.Log, dir: paths(cfg.Dir)}, t: t}
	if err := n.open(ctx); err != nil {
		n.close()
		cancel()
		t.Fatal(err)
	}
	n.Client = api.NewClient(n.dir.socket())
	ended := make(chan error, 1)
	go func() {
		err := n.serve(ctx)
		n.close()
		ended <- err
	}()
	n.stop = stopOnce(t, cfg.Name, func() { n.Client.Close(); cancel() }, ended)
	t.Cleanup(n.stop)
	await(t, 60*time.Second, n.isMember)
	return n
}

func stopOnce(t testing.TB, name string, begin func(), ended <-chan error) func() {
	var stopped atomic.Bool
	return func() {
		if stopped.Swap(true) {
			return
		}
		begin()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("%s ended: %v", name, err)
			}
		case <-time.After(60 * time.Second):
			t.Errorf("%s does not end", name)
		}
	}
}

// isMember says why not, if not.
func (n *testNode) isMember() string {
	m, err := n.Members(n.t.Context())
	if err != nil {
		return err.Error()
	}
	for _, m := range m.Members {
		if m.Name == n.cfg.Name {
			return ""
		}
	}
	return "it does not see itself"
}

// deploy makes a model the newest generation and waits until it has settled.
func (n *testNode) deploy(model string, packages map[string]string) {
	n.t.Helper()
	n.submit(model, packages)
	n.settled()
}

func (n *testNode) submit(model string, packages map[string]string) {
	n.t.Helper()
	req := api.PlanRequest{Kind: "deploy", Files: map[string][]byte{"services.hcl": []byte(model)}, Packages: packages}
	await(n.t, 30*time.Second, func() string {
		plan, err := n.Plan(n.t.Context(), req)
		if err == nil {
			_, err = n.Deploy(n.t.Context(), api.DeployRequest{PlanRequest: req, Proposal: strconv.FormatInt(time.Now().UnixNano(), 36), Base: plan.Base, Digest: plan.Digest, By: "test"})
		}
		if code := api.CodeOf(err); code != "" && code != api.CodeStale && code != api.CodeNoQuorum {
			n.t.Fatal(err)
		}
		if err != nil {
			return err.Error()
		}
		return ""
	})
}

func (n *testNode) settled() {
	n.t.Helper()
	await(n.t, 60*time.Second, func() string {
		s, err := n.Status(n.t.Context(), "", true)
		if err != nil {
			return err.Error()
		}
		if s.Outcome != "running" && s.Outcome != "settled" {
			n.t.Fatalf("%s: %s: %+v", s.Outcome, s.Why, s.Instances)
		}
		if !s.Settled {
			return fmt.Sprintf("not settled: %+v", s.Instances)
		}
		return ""
	})
}

// noted gives the messages of a kind that a node noted itself.
func (n *testNode) noted(kind string) []string {
	var out []string
	events, _ := n.events.tail(1000)
	for _, e := range events {
		if e.Kind == kind {
			out = append(out, e.Message)
		}
	}
	return out
}

// echoModel is a service that greets with its host and version and echoes, on a shared port, pinned to a node.
func echoModel(t testing.TB, node, version string) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	user := ""
	if os.Geteuid() == 0 {
		user = `user = "root"` // the test's binary is in a directory of its own
	}
	return fmt.Sprintf(`
service "echo" {
  type = "process"
  port "tcp" {
    assign = "shared"
  }
  run {
    command = [%q, "echo-service"]
    %s
    env = {
      HOST    = self.host
      PORT    = self.port.tcp
      VERSION = %q
    }
  }
}

distribution {
  pin = { echo = [%q] }
}
`, exe, user, version, node)
}

func echoService() error {
	l, err := net.Listen("tcp", net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT")))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %s\n", os.Getenv("HOST"), os.Getenv("VERSION"))
			k, err := io.Copy(c, c)
			if err == nil {
				fmt.Fprintf(c, "\n%d bytes", k)
			}
		}()
	}
}

// echo asks the service through an address: what it greets with, and what it answers to a text when that has ended.
func echo(addr, text string) (greeting, answer string, err error) {
	c, err := net.DialTimeout("tcp", addr, 5*time.Second)
	if err != nil {
		return "", "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		if err == nil {
			err = c.(*net.TCPConn).CloseWrite()
		}
		sent <- err
	}()
	b, err := io.ReadAll(c)
	if sendErr := <-sent; err == nil {
		err = sendErr
	}
	greeting, answer, _ = strings.Cut(string(b), "\n")
	return greeting, answer, err
}
