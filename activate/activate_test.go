package activate

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestMain makes the test binary a program that listens: `BINARY listen` prints its address and waits for its stdin
// to end.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "listen" {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			panic(err)
		}
		os.Stdout.WriteString(l.Addr().String() + "\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestPortConflictNamesTheStranger(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("/proc/self/exe", "listen")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	buf := make([]byte, 100)
	n, _ := out.Read(buf)
	addr, err := netip.ParseAddrPort(strings.TrimSpace(string(buf[:n])))
	if err != nil {
		t.Fatal(err)
	}
	port := int(addr.Port())
	nobody := func(int) bool { return false }
	for _, host := range []string{"127.0.0.1", "", "0.0.0.0"} {
		err = CheckPort(t.Context(), "http", host, port, nobody)
		var taken *PortTakenError
		if !errors.As(err, &taken) || taken.PID != cmd.Process.Pid || taken.Program != "/proc/self/exe listen" || taken.Name != "http" {
			t.Fatalf("host %q: got %v", host, err)
		}
	}
	t.Log(err)
	if err := CheckPort(t.Context(), "http", "127.0.0.1", port, func(pid int) bool { return pid == cmd.Process.Pid }); err != nil {
		t.Errorf("a port of ours is refused: %v", err)
	}
	if err := CheckPort(t.Context(), "http", "127.0.0.9", port, nobody); err != nil {
		t.Errorf("another address is refused: %v", err)
	}
	if err := CheckPort(t.Context(), "http", "192.0.2.1", port, nobody); err == nil || errors.As(err, new(*PortTakenError)) {
		t.Errorf("an address that is not ours: %v", err)
	}
}

func TestParseSocket(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]socket{
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000": {
			netip.MustParseAddrPort("127.0.0.1:8080"), true, "12345"},
		"   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 01 00000000:00000000 00:00000000 00000000     0        0 77 1": {
			netip.MustParseAddrPort("[::]:22"), false, "77"},
		"   0: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 78 1": {
			netip.MustParseAddrPort("127.0.0.1:22"), true, "78"},
	} {
		if got, ok := parseSocket(line); !ok || got != want {
			t.Errorf("%q: %+v, %v", line, got, ok)
		}
	}
	if _, ok := parseSocket("  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode"); ok {
		t.Error("the header is a socket")
	}
}

func FuzzParseSocket(f *testing.F) {
	f.Add("   0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0     0        0 12345 1 0000")
	f.Fuzz(func(t *testing.T, line string) { parseSocket(line) })
}

func TestErrorsSayWhatAnOperatorNeeds(t *testing.T) {
	t.Parallel()
	for want, err := range map[string]error{
		"port 80 (web) is taken by pid 7 (nginx -g)":                        &PortTakenError{Name: "web", Port: 80, PID: 7, Program: "nginx -g"},
		"port 80 (web) is taken by a process that cannot be seen from here": &PortTakenError{Name: "web", Port: 80},
		`command "bin/x": not found in package /p`:                          &CommandError{Command: "bin/x", Where: "package /p", Reason: "not found"},
		"not ready within 30s: GET /: 503; last output: a | b":              &NotReadyError{Within: 30 * time.Second, Last: "GET /: 503", Output: []string{"a", "b"}},
		"exited with status 3 after 0.2 s; no output":                       &ExitedError{Exit: Exit{Code: 3, After: 200 * time.Millisecond}},
		"killed by signal 9 (killed) after 2m5s; last output: x":            &ExitedError{Exit: Exit{Code: -1, Signal: 9, After: 125 * time.Second}, Output: []string{"x"}},
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}

func TestLogName(t *testing.T) {
	t.Parallel()
	for want, in := range map[string]Instance{
		"web":      {Service: "web", Type: "process", Container: "process"},
		"web@blue": {Service: "web", Type: "process", Container: "blue"},
		"a_b":      {Service: "../a/b"[3:]},
		"_":        {},
	} {
		if got := in.LogName(); got != want {
			t.Errorf("%+v: %q", in, got)
		}
	}
}
