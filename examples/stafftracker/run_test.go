package stafftracker

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buildBlock finds a service's package and build command in services.hcl.
// The command is a list of plain strings, which HCL and JSON write alike.
var buildBlock = regexp.MustCompile(`(?s)service "(\w+)" \{.*?package\s*=\s*"([^"]+)".*?build \{\s*command = (\[[^\n]*\])`)

// build makes the packages as services.hcl says, and returns where they are.
func build(t *testing.T) map[string]string {
	t.Helper()
	model, err := os.ReadFile("services.hcl")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{}
	for _, m := range buildBlock.FindAllStringSubmatch(string(model), -1) {
		out := t.TempDir()
		var command []string
		if err := json.Unmarshal([]byte(strings.ReplaceAll(m[3], "${out}", out)), &command); err != nil {
			t.Fatalf("build command of %s: %v", m[1], err)
		}
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Dir = m[2]
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOGC=300", "GOWORK=off")
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", m[1], err, text)
		}
		packages[m[1]] = out
	}
	if len(packages) != 8 {
		t.Fatalf("services.hcl has %d services with builds", len(packages))
	}
	return packages
}

// process is one running service.
type process struct {
	name string
	addr string // host:port
	cmd  *exec.Cmd
	done chan struct{} // closed when it ended and its output is read
	mu   sync.Mutex
	log  bytes.Buffer
}

var listening = regexp.MustCompile(`msg=listening addr=(\S+)`)

// start runs a package's program and waits until it says where it listens.
// A later setting of the same name wins: PORT=0 is the default.
func start(t *testing.T, name, program string, env ...string) *process {
	t.Helper()
	p := &process{name: name, done: make(chan struct{}), cmd: exec.Command(program)}
	p.cmd.Env = append([]string{"HOST=127.0.0.1", "PORT=0", "ISONOMIA_NODE=node-of-" + name}, env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	addr := make(chan string, 1)
	go p.read(bufio.NewScanner(out), addr)
	t.Cleanup(func() { p.end(t, syscall.SIGKILL) })
	select {
	case p.addr = <-addr:
	case <-p.done:
		t.Fatalf("%s ended:\n%s", name, p.output())
	case <-time.After(time.Minute):
		t.Fatalf("%s does not listen:\n%s", name, p.output())
	}
	return p
}

func (p *process) read(lines *bufio.Scanner, addr chan<- string) {
	defer close(p.done)
	for lines.Scan() {
		p.mu.Lock()
		fmt.Fprintln(&p.log, lines.Text())
		p.mu.Unlock()
		if m := listening.FindStringSubmatch(lines.Text()); m != nil {
			addr <- m[1]
		}
	}
	p.cmd.Wait()
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// end sends a signal and waits until the process is gone.
func (p *process) end(t *testing.T, sig syscall.Signal) {
	t.Helper()
	p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		t.Errorf("%s outlives %v", p.name, sig)
	}
}

func (p *process) url() string { return "http://" + p.addr }

// system is StaffTracker, started by hand.
type system struct {
	t        *testing.T // of the whole test: processes outlive its parts
	packages map[string]string
	state    map[string]string // directories of the data services
	running  map[string]*process
}

// upstreams says whose address each service gets, in an order in which they
// can be started.
var upstreams = []struct {
	name string
	asks []string
}{
	{"rooms", nil}, {"staff", nil}, {"zipcodes", nil},
	{"roomservice", []string{"rooms"}}, {"staffservice", []string{"staff"}}, {"zipcodeservice", []string{"zipcodes"}},
	{"stafftracker", []string{"staffservice", "roomservice", "zipcodeservice"}}, {"proxy", []string{"stafftracker"}},
}

func startSystem(t *testing.T) *system {
	t.Helper()
	s := &system{t: t, packages: build(t), state: map[string]string{}, running: map[string]*process{}}
	for _, u := range upstreams {
		s.state[u.name] = t.TempDir()
		s.start(u.name, "VERSION=1")
	}
	return s
}

// start runs one service with the addresses of those that it asks.
func (s *system) start(name string, env ...string) {
	s.t.Helper()
	env = append(env, "STATE_DIRECTORY="+s.state[name])
	for _, u := range upstreams {
		for _, other := range u.asks {
			if u.name == name {
				env = append(env, strings.ToUpper(other)+"_URL="+s.running[other].url())
			}
		}
	}
	program := name
	if _, err := os.Stat(filepath.Join(s.packages[name], "sql")); err == nil {
		program = "dataservice"
	}
	s.running[name] = start(s.t, name, filepath.Join(s.packages[name], "bin", program), env...)
}

// restart ends a service with a signal and starts it on the same port.
func (s *system) restart(name string, sig syscall.Signal, env ...string) {
	s.t.Helper()
	old := s.running[name]
	old.end(s.t, sig)
	_, port, _ := strings.Cut(old.addr, ":")
	s.start(name, append(env, "PORT="+port)...)
}
