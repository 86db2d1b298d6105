package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/model"
)

// sharedState is a State with the nodes a, b, c (b and c in one zone) and rows of a service "web" with shared port 3000.
func sharedState(rows ...model.Row) *model.State {
	s := &model.State{}
	for id, zone := range map[string]string{"a": "x", "b": "y", "c": "x"} {
		s.Nodes = s.Nodes.Set(id, model.Node{ID: id, Name: "node-" + id, Host: "host-" + id, Attributes: map[string]string{"zone": zone}})
	}
	r := model.Reservation{System: "default", Service: "web", Name: "http", Resource: "ports", Scope: model.PortShared, Number: 3000}
	s.Reservations = s.Reservations.Set(r.Key(), r)
	private := model.Reservation{System: "default", Service: "web", Name: "debug", Resource: "ports", Scope: model.PortPrivate, Number: 8000, Node: "b"}
	s.Reservations = s.Reservations.Set(private.Key(), private)
	for i, row := range rows {
		row.Key, row.System, row.Service = model.RowKey(row.Node, strconv.Itoa(i)), "default", "web"
		row.Spec.Host = "host-" + row.Node
		row.Spec.Ports = map[string]int{"http": 3000, "debug": 8000}
		row.Spec.Scopes = map[string]model.PortAssign{"http": model.PortShared, "debug": model.PortPrivate}
		s.Rows = s.Rows.Set(row.Key, row)
		s.ByService = s.ByService.Set(model.ServiceKey(row.RowSpec), struct{}{})
	}
	return s
}

func row(node string, phase model.Phase, obsolete bool) model.Row {
	return model.Row{RowSpec: model.RowSpec{Node: node}, Phase: phase, Obsolete: obsolete}
}

func TestWhoRelaysASharedPort(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		rows []model.Row
		want []string
	}{
		"nowhere":                           {nil, nil},
		"active elsewhere":                  {[]model.Row{row("b", model.Active, false)}, []string{"a", "c"}},
		"not active yet":                    {[]model.Row{row("b", model.Starting, false)}, nil},
		"planned here":                      {[]model.Row{row("b", model.Active, true), row("a", model.Planned, false)}, []string{"c"}},
		"failed here, and still meant here": {[]model.Row{row("b", model.Active, true), row("a", model.Failed, false)}, []string{"c"}},
		"stopping here":                     {[]model.Row{row("b", model.Active, false), row("a", model.Stopping, true)}, []string{"c"}},
		"lost here, perhaps running":        {[]model.Row{row("b", model.Active, false), row("a", model.Lost, true)}, []string{"c"}},
		"stopped here":                      {[]model.Row{row("b", model.Active, false), row("a", model.Stopped, true)}, []string{"a", "c"}},
		"on all":                            {[]model.Row{row("a", model.Active, false), row("b", model.Active, false), row("c", model.Active, false)}, nil},
	} {
		s := sharedState(tc.rows...)
		var got []string
		for _, self := range []string{"a", "b", "c"} {
			if w := wantedRelays(s, self); len(w) == 1 {
				got = append(got, self)
			} else if len(w) > 1 {
				t.Errorf("%s: %s relays %v", name, self, w)
			}
		}
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %v relay, not %v", name, got, tc.want)
		}
	}
}

func TestRelayPrefersItsZone(t *testing.T) {
	t.Parallel()
	s := sharedState(row("b", model.Active, false), row("c", model.Active, false))
	for _, r := range wantedRelays(s, "a") {
		if rows := relayTargets(s, "a", r); len(rows) != 2 || rows[0].Node != "c" {
			t.Errorf("got %v", rows)
		}
	}
}

func TestOnlySharedPortsOfActiveRowsCanBeReached(t *testing.T) {
	t.Parallel()
	s := sharedState(row("b", model.Active, false), row("c", model.Prepared, false))
	ok := proxyRequest{"default", "web", "http"}
	if addr, err := proxyTarget(s, "b", ok); err != nil || addr != "host-b:3000" {
		t.Error(addr, err)
	}
	for name, req := range map[string]proxyRequest{"private": {"default", "web", "debug"}, "unknown": {"default", "web", "x"},
		"service": {"default", "we", "http"}, "system": {"other", "web", "http"}} {
		if addr, err := proxyTarget(s, "b", req); err == nil {
			t.Errorf("%s: %s", name, addr)
		}
	}
	for _, self := range []string{"a", "c"} {
		if addr, err := proxyTarget(s, self, ok); err == nil {
			t.Errorf("%s: %s", self, addr)
		}
	}
}

func FuzzProxyRequest(f *testing.F) {
	for _, seed := range []string{"1 default/web/http", "1 a/b", "2 a/b/c", "1 a//c", "1 a/b/c/d", "", "1 a/b\x00/c", "1 a/b/ü"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		req, err := parseProxyRequest(line)
		if err == nil && req.line() != line+"\n" {
			t.Errorf("%q reads as %+v", line, req)
		}
	})
}

func TestProxyLineIsBounded(t *testing.T) {
	t.Parallel()
	r := strings.NewReader("1 a/b/c\nrest")
	if req, err := readProxyRequest(r); err != nil || req.port != "c" || r.Len() != 4 {
		t.Error(req, err, r.Len())
	}
	long := strings.NewReader(strings.Repeat("x", 10_000))
	if _, err := readProxyRequest(long); err == nil || long.Len() < 9000 {
		t.Error(err, long.Len())
	}
	if _, err := readProxyRequest(strings.NewReader("1 a/b/c")); err == nil {
		t.Error("a cut line was taken")
	}
}

// pair is both ends of a TCP connection.
func pair(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []net.Conn{c, d} {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// spliced gives the two outer ends of a splice, and says when it has ended.
func spliced(t *testing.T, ctx context.Context) (client, server *net.TCPConn, ended <-chan struct{}) {
	t.Helper()
	client, a := pair(t)
	b, server := pair(t)
	done := make(chan struct{})
	go func() { defer close(done); splice(ctx, a, b) }()
	return client, server, done
}

func TestSpliceLetsOneWayEnd(t *testing.T) {
	t.Parallel()
	client, server, ended := spliced(t, t.Context())
	io.WriteString(client, "question")
	client.CloseWrite()
	got, err := io.ReadAll(server)
	if err != nil || string(got) != "question" {
		t.Fatal(string(got), err)
	}
	want := bytes.Repeat([]byte("answer "), 100_000)
	go func() { server.Write(want); server.Close() }()
	if got, err := io.ReadAll(client); err != nil || !bytes.Equal(got, want) {
		t.Fatal(len(got), err)
	}
	<-ended
}

// What breaks on one side must not look like an orderly end on the other.
func TestSpliceBreaksBothWays(t *testing.T) {
	t.Parallel()
	client, server, ended := spliced(t, t.Context())
	io.WriteString(client, "half a quest")
	if _, err := io.ReadFull(server, make([]byte, 12)); err != nil {
		t.Fatal(err)
	}
	client.SetLinger(0)
	client.Close()
	if _, err := io.ReadAll(server); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the server sees %v", err)
	}
	<-ended
	ctx, cancel := context.WithCancel(t.Context())
	client, server, ended = spliced(t, ctx)
	cancel()
	<-ended
	for _, c := range []net.Conn{client, server} {
		if _, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("got %v", err)
		}
	}
}

// noLeak is a deferred check that a test leaves no goroutine behind, but for the two that end by their own deadlines:
// waitsForKeeper, and a probe of memberlist's whose Shutdown does not wait for it.
func noLeak(t *testing.T) func() {
	before := goleak.IgnoreCurrent()
	return func() {
		goleak.VerifyNone(t, before, waitsForKeeper, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
	}
}

// waitsForKeeper is the goroutine that waits for a keeper's end, which the race detector delays.
var waitsForKeeper = goleak.IgnoreAnyFunction("github.com/isonomia-mesh/isonomia/activate/keeper.spawn.func1")

// When yield returns, the number is free, and not only soon: also while other goroutines start processes, which have
// copies of all descriptors until their exec.
func TestRelayYields(t *testing.T) {
	t.Parallel()
	forks, stop := context.WithCancel(t.Context())
	var forking sync.WaitGroup
	defer forking.Wait()
	defer stop()
	forking.Go(func() {
		for forks.Err() == nil {
			if err := exec.Command("true").Run(); err != nil {
				t.Error(err)
				return
			}
		}
	})
	n := &Node{log: testLog()}
	host := ownAddress()
	for range 200 {
		e := &relay{r: model.Reservation{System: "default", Service: "web", Name: "http", Number: 3000}, host: host}
		if n.openRelay(t.Context(), e); e.l == nil {
			t.Fatal("the port cannot be had")
		}
		n.shared.relays = map[string]*relay{"web": e, "other": {r: model.Reservation{Number: 3001}}}
		n.shared.yield(model.RowSpec{Spec: model.Spec{Ports: map[string]int{"http": 3000}}})
		l, err := net.Listen("tcp", net.JoinHostPort(host, "3000"))
		if err != nil {
			t.Fatal(err)
		}
		release(l)
		if len(n.shared.relays) != 1 {
			t.Fatal("another relay went, too")
		}
	}
}

func TestSharedPort(t *testing.T) {
	defer noLeak(t)()
	n1 := startNode(t, "n1", nil)
	n2, n3 := startNode(t, "n2", n1), startNode(t, "n3", n1)
	defer func() { n3.stop(); n2.stop(); n1.stop() }()
	addr := func(n *testNode, port int) string {
		return net.JoinHostPort(n.fsm.State().Nodes.At(n.id.ID).Host, strconv.Itoa(port))
	}
	reaches := func(via, at *testNode, port int, version string) {
		t.Helper()
		text := strings.Repeat("x", 300_000)
		await(t, 30*time.Second, func() string {
			greeting, answer, err := echo(addr(via, port), text)
			host := at.fsm.State().Nodes.At(at.id.ID).Host
			if err != nil || greeting != host+" "+version || answer != text+"\n300000 bytes" {
				return fmt.Sprintf("through %s, to %s at %s: %q, %d bytes, %v", via.cfg.Name, at.cfg.Name, host, greeting, len(answer), err)
			}
			return ""
		})
	}
	// The first shared number is 3000; a stranger has it on n3.
	stranger, err := net.Listen("tcp", addr(n3, 3000))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	n1.deploy(echoModel(t, "n2", "1"), nil)
	for _, via := range []*testNode{n2, n1} {
		reaches(via, n2, 3000, "1")
	}
	strangerIsListed(t, n1, n3)

	// It goes away: the port is answered on n3 too.
	stranger.Close()
	reaches(n3, n2, 3000, "1")
	if got := n3.noted("shared-port"); len(got) != 2 || !strings.HasSuffix(got[1], "answered here again") {
		t.Errorf("events: %q", got)
	}
	relayLimits(t, n1, addr(n1, 3000))
	onlySharedPortsOverTheMesh(t, n1, n2)

	// The instance comes to where a relay was, with a client on the relay, and goes on to the next.
	kept, err := net.Dial("tcp", addr(n1, 3000))
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	n3.deploy(echoModel(t, "n1", "2"), nil)
	for _, via := range []*testNode{n1, n2, n3} {
		reaches(via, n1, 3000, "2")
	}
	n2.deploy(echoModel(t, "n3", "3"), nil)
	for _, via := range []*testNode{n1, n2, n3} {
		reaches(via, n3, 3000, "3")
	}
	for _, n := range []*testNode{n1, n2, n3} {
		if got := n.noted("start-failed"); len(got) > 0 {
			t.Errorf("%s: %q", n.cfg.Name, got)
		}
		if f := n.agent.own(n.fsm.State()).Failures; len(f) > 0 {
			t.Errorf("%s: %v", n.cfg.Name, f)
		}
	}
}

// strangerIsListed looks at how n3 says, to n1, that somebody else has the port.
func strangerIsListed(t *testing.T, n1, n3 *testNode) {
	t.Helper()
	await(t, 30*time.Second, func() string {
		ports, err := n1.Ports(t.Context())
		if err != nil {
			return err.Error()
		}
		for _, p := range ports {
			if p.Scope == "shared" && p.Resource == "ports" && slices.Equal(p.NotAnswering, []string{"n3"}) {
				return ""
			}
		}
		return fmt.Sprintf("%+v", ports)
	})
	s, err := n1.Status(t.Context(), "default", false)
	if err != nil || len(s.NotAnswering) != 1 {
		t.Fatalf("%q, %v", s.NotAnswering, err)
	}
	contains(t, s.NotAnswering[0], "n3 does not answer shared port 3000 (echo.tcp)", "pid ")
	if got := n3.noted("shared-port"); len(got) != 1 || !strings.Contains(got[0], "not answered here") {
		t.Errorf("events: %q", got)
	}
}

// relayLimits opens more connections than a node may relay.
func relayLimits(t *testing.T, n *testNode, addr string) {
	t.Helper()
	await(t, 20*time.Second, func() string {
		if k := n.shared.stats.open.Load(); k != 0 {
			return fmt.Sprintf("%d connections are open", k)
		}
		return ""
	})
	n.shared.limit.Store(2)
	var open []net.Conn
	for range 2 {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	if _, _, err := echo(addr, "one too many"); err == nil {
		t.Error("a connection beyond the limit was relayed")
	}
	if k := n.shared.stats.refused.Load(); k != 1 {
		t.Errorf("%d refused", k)
	}
	for _, c := range open {
		c.Close()
	}
	await(t, 20*time.Second, func() string {
		if _, answer, err := echo(addr, "again"); err != nil || answer == "" {
			return fmt.Sprint(answer, err)
		}
		return ""
	})
}

func onlySharedPortsOverTheMesh(t *testing.T, from, to *testNode) {
	t.Helper()
	for _, req := range []proxyRequest{{"default", "echo", "other"}, {"default", "none", "tcp"}} {
		if c, err := from.reachThrough(t.Context(), to.id.ID, req); err == nil {
			c.Close()
			t.Errorf("%+v was reached", req)
		}
	}
	c, err := from.mesh.Dial(t.Context(), to.id.ID, mesh.ProtoProxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, strings.Repeat("x", 1000))
	if line, err := readShortLine(c); err != nil || !strings.HasPrefix(line, "-") {
		t.Errorf("%q, %v", line, err)
	}
}
