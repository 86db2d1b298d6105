package tcpproxy

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestUpgrade replaces the server behind the proxy, twice: once behind a
// closed door, once with clients waiting inside. The client sees the new greeting
// and never an error.
func TestUpgrade(t *testing.T) {
	if testing.Short() {
		t.Skip("builds three programs")
	}
	programs := build(t)
	state := "STATE_DIRECTORY=" + t.TempDir()
	server := start(t, programs["hello-world-server"], nil, "PORT=0", "GREETING=one")
	serverPort := server.port(t)
	proxy := start(t, programs["tcp-proxy"], []string{"serve"}, "PORT=0", "SERVER_HOST=127.0.0.1", "SERVER_PORT="+serverPort, state)
	client := start(t, programs["hello-world-client"], nil, "SERVER_HOST=127.0.0.1", "SERVER_PORT="+proxy.port(t), "PERIOD=10ms")
	client.await(t, "answer=one")

	admin(t, programs["tcp-proxy"], state, "lock")
	if n := admin(t, programs["tcp-proxy"], state, "connections"); n != "0" {
		t.Errorf("%s connections are open behind a closed door", n)
	}
	server.end(t)
	server = start(t, programs["hello-world-server"], nil, "PORT="+serverPort, "GREETING=two")
	server.port(t)
	admin(t, programs["tcp-proxy"], state, "unlock")
	client.await(t, "answer=two")

	endIdle(t, programs["tcp-proxy"], state, server)
	start(t, programs["hello-world-server"], nil, "PORT="+serverPort, "GREETING=three")
	client.await(t, "answer=three")
	client.end(t)
	proxy.end(t)
}

// endIdle ends the server between two answers, and opens the door before there
// is another: the proxy waits for it. A client that talks to the server at
// the moment of its end would notice, which is what the door is for.
func endIdle(t *testing.T, program, state string, server *process) {
	t.Helper()
	admin(t, program, state, "lock")
	server.end(t)
	admin(t, program, state, "unlock")
}

// buildBlock finds a service's package and build command in services.hcl.
// The command is a list of plain strings, which HCL and JSON write alike.
var buildBlock = regexp.MustCompile(`(?s)service "([\w-]+)" \{.*?package\s*=\s*"([^"]+)".*?build \{\s*command = (\[[^\n]*\])`)

// build makes the programs as services.hcl says, by service.
func build(t *testing.T) map[string]string {
	t.Helper()
	model, err := os.ReadFile("services.hcl")
	if err != nil {
		t.Fatal(err)
	}
	programs := map[string]string{}
	for _, m := range buildBlock.FindAllStringSubmatch(string(model), -1) {
		out := t.TempDir()
		var command []string
		if err := json.Unmarshal([]byte(strings.ReplaceAll(m[3], "${out}", out)), &command); err != nil {
			t.Fatalf("build command of %s: %v", m[1], err)
		}
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir, cmd.Env = m[2], append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", m[1], err, text)
		}
		programs[m[1]] = filepath.Join(out, "bin", m[1])
	}
	if len(programs) != 3 {
		t.Fatalf("services.hcl has %d services with builds", len(programs))
	}
	return programs
}

// process is one running service.
type process struct {
	cmd   *exec.Cmd
	lines chan string // of its output; closed at the end
}

func start(t *testing.T, program string, args []string, env ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(program, args...), lines: make(chan string, 1<<16)}
	p.cmd.Env = append([]string{"HOST=127.0.0.1"}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout, p.cmd.Stderr = w, w
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	go func() {
		defer close(p.lines)
		defer r.Close()
		for lines := bufio.NewScanner(r); lines.Scan(); {
			p.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

// await reads the process's log up to a line with that part.
func (p *process) await(t *testing.T, part string) string {
	t.Helper()
	over := time.After(time.Minute)
	for {
		select {
		case line, ok := <-p.lines:
			if !ok {
				t.Fatalf("%s ended", p.cmd.Path)
			}
			if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
				t.Errorf("%s: %s", filepath.Base(p.cmd.Path), line)
			}
			if strings.Contains(line, part) {
				return line
			}
		case <-over:
			t.Fatalf("%s does not say %q", p.cmd.Path, part)
		}
	}
}

// port is the port that the process says it listens on.
func (p *process) port(t *testing.T) string {
	t.Helper()
	_, rest, _ := strings.Cut(p.await(t, "msg=listening"), "addr=")
	addr, _, _ := strings.Cut(rest, " ")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// end stops the process as an upgrade does.
func (p *process) end(t *testing.T) {
	t.Helper()
	p.cmd.Process.Signal(syscall.SIGTERM)
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("%s after SIGTERM: %v", filepath.Base(p.cmd.Path), err)
	}
}

// admin runs one of the proxy's other commands and returns what it prints.
func admin(t *testing.T, program, state string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Env = []string{state}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatal(fmt.Errorf("tcp-proxy %q: %w\n%s", args, err, out))
	}
	return strings.TrimSpace(string(out))
}
