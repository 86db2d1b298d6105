//go:build linux

package testcluster

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// local runs a test service on this machine, with an observer on loopback.
type local struct {
	*Observer
	cmd     *exec.Cmd
	out     boundedBuffer
	address string
}

func runLocal(t *testing.T, modes string, env ...string) *local {
	t.Helper()
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &local{Observer: NewObserver(l), address: ownAddress()}
	host, port, _ := net.SplitHostPort(s.address)
	s.cmd = exec.Command(TestService(t))
	s.cmd.Stdout, s.cmd.Stderr = &s.out, &s.out
	s.cmd.Env = append([]string{"ISONOMIA_SERVICE=s", "ISONOMIA_NODE=n1", "ISONOMIA_EPOCH=7", "VERSION=2", "HOST=" + host, "PORT=" + port,
		"JOURNAL=http://" + l.Addr().String(), "MODES=" + modes}, env...)
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		s.cmd.Wait()
		s.Close()
	})
	return s
}

// tests counts the addresses that were given away.
var tests atomic.Int32

// ownAddress is a loopback address that no other test of this machine uses, so
// that nothing can take the port between its choice and its use.
func ownAddress() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.%d:8000", 1+pid%250, pid/250%250, 1+tests.Add(1)%250)
}

// kinds are the kinds of all events so far.
func (s *local) kinds() string {
	var list []string
	for _, e := range s.Events() {
		list = append(list, e.Kind)
	}
	return strings.Join(list, " ")
}

func (s *local) await(t *testing.T, kinds string) {
	t.Helper()
	Await(t, kinds, 20*time.Second, func() error {
		if got := s.kinds(); got != kinds {
			return fmt.Errorf("events are %q\n%s", got, s.out.String())
		}
		return nil
	})
}

func (s *local) get(t *testing.T, method, path, body string) (code int, text string) {
	t.Helper()
	Await(t, method+" "+path, 20*time.Second, func() error {
		r, err := http.NewRequest(method, "http://"+s.address+path, strings.NewReader(body))
		if err != nil {
			return giveUp{err}
		}
		reply, err := http.DefaultClient.Do(r)
		if err != nil {
			return err
		}
		defer reply.Body.Close()
		content, err := io.ReadAll(reply.Body)
		code, text = reply.StatusCode, string(content)
		return err
	})
	return code, text
}

func TestServiceReportsItsLife(t *testing.T) {
	s := runLocal(t, "", "DEPS=a@1=127.0.0.1:1")
	s.await(t, "start")
	if e := s.Events()[0]; e.Service != "s" || e.Version != "2" || e.Node != "n1" || e.Epoch != "7" ||
		len(e.Deps) != 1 || e.Deps[0].Service != "a" || e.Deps[0].Version != "1" || e.Deps[0].Answered {
		t.Errorf("start is %+v", e)
	}
	if code, text := s.get(t, "GET", "/who", ""); code != 200 || text != "s 2 n1\n" {
		t.Errorf("%d %q", code, text)
	}
	if code, _ := s.get(t, "GET", "/healthz", ""); code != 200 || s.kinds() != "start ready" {
		t.Errorf("%d, events %q", code, s.kinds())
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.await(t, "start ready stop")
	if err := s.cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestServiceMisbehaves(t *testing.T) {
	for mode, kinds := range map[string]string{"fail": "start exit", "fail-after=1ms,no-health": "start ready exit"} {
		t.Run(mode, func(t *testing.T) {
			s := runLocal(t, mode)
			s.await(t, kinds)
			if err := s.cmd.Wait(); s.cmd.ProcessState.ExitCode() != 1 {
				t.Error(err)
			}
		})
	}
	for _, mode := range []string{"unhealthy", "ready-after=1h", "unhealthy-after=1ns"} {
		t.Run(mode, func(t *testing.T) {
			s := runLocal(t, mode)
			if code, _ := s.get(t, "GET", "/healthz", ""); code != 503 || s.kinds() != "start" {
				t.Errorf("%d, events %q", code, s.kinds())
			}
		})
	}
	t.Run("ignore-term", func(t *testing.T) {
		s := runLocal(t, "ignore-term,no-health")
		s.await(t, "start ready")
		s.cmd.Process.Signal(syscall.SIGTERM)
		s.await(t, "start ready ignored")
	})
	t.Run("unknown", func(t *testing.T) {
		s := runLocal(t, "dance")
		if s.cmd.Wait(); s.cmd.ProcessState.ExitCode() != 2 || !strings.Contains(s.out.String(), `unknown mode "dance"`) {
			t.Error(s.out.String())
		}
	})
}

func TestServiceHoldsAndPrints(t *testing.T) {
	s := runLocal(t, "hold,print=1000,no-health")
	Await(t, "holds", 20*time.Second, func() error {
		if h := s.Holds(); len(h) != 1 || h[0].To < h[0].From+2 || h[0].Service != "s" || h[0].Epoch != "7" {
			return fmt.Errorf("holds are %+v", h)
		}
		return nil
	})
	if n := strings.Count(s.out.String(), "\n"); n != 1000 {
		t.Errorf("%d lines", n)
	}
}

func TestServiceKeepsState(t *testing.T) {
	s := runLocal(t, "", "STATE_DIRECTORY="+t.TempDir())
	s.get(t, "POST", "/state", "one")
	s.get(t, "POST", "/state", "two")
	if code, text := s.get(t, "GET", "/state", ""); code != 200 || text != "one\ntwo\n" {
		t.Errorf("%d %q", code, text)
	}
}

func TestServiceIsSmall(t *testing.T) {
	s := runLocal(t, "")
	s.get(t, "GET", "/healthz", "")
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "RssAnon") {
			t.Log(strings.TrimSpace(line))
		}
	}
}

func TestObserverOrdersHolds(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := NewObserver(l)
	defer o.Close()
	for _, boot := range []string{"a", "a", "b", "a", "a"} {
		o.hold(Event{Service: "s", Boot: boot})
		o.hold(Event{Service: "other", Boot: "z"})
	}
	var got []string
	for _, h := range o.Holds() {
		got = append(got, fmt.Sprint(h.Service, h.Boot, h.From, "-", h.To))
	}
	if want := "sa1-3 otherz2-10 sb5-5 sa7-9"; strings.Join(got, " ") != want {
		t.Errorf("holds are %v, not %s", got, want)
	}
	if bad := oneHolder(Observation{Holds: o.Holds()}); len(bad) != 1 {
		t.Errorf("%v", bad)
	}
	r, err := http.Post("http://"+l.Addr().String()+"/event", "application/json", strings.NewReader("{"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != http.StatusBadRequest {
		t.Errorf("half an event: %s", r.Status)
	}
}
