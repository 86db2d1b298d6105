package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// TestMain lets the test binary stand in for the agents and keepers that dev starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "agent" {
		standInAgent(os.Args[2:])
	}
	if len(os.Args) > 1 && os.Args[1] == "keeper" {
		awaitTerm()
	}
	if len(os.Args) > 1 && os.Args[1] == "main" {
		os.Exit(Main(os.Args[2:], os.Stdin, os.Stdout, os.Stderr))
	}
	os.Exit(m.Run())
}

func awaitTerm() {
	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	<-term
	os.Exit(0)
}

// standInAgent answers what dev asks. Its members are the directories beside its own. $STAND_IN names what it does
// wrong.
func standInAgent(args []string) {
	value := func(flag string) string { return args[slices.Index(args, flag)+1] }
	dir, name := value("--data"), value("--name")
	if os.Getenv("STAND_IN") == "fails "+name {
		fmt.Println("agent: port 7878 is taken by sshd (pid 1)")
		os.Exit(1)
	}
	if slices.Contains(args, "--join") && os.Getenv("ISONOMIA_TOKEN") != "token-for-2" {
		fmt.Println("no token")
		os.Exit(1)
	}
	if os.Getenv("STAND_IN") == "leaves a keeper" {
		if err := exec.Command(os.Args[0], "keeper", dir).Start(); err != nil {
			panic(err)
		}
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	reply := func(pattern string, v func() any) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(v()) })
	}
	reply("GET /v1/version", func() any { return api.Version{Node: name} })
	reply("POST /v1/tokens", func() any { return api.TokenCreated{Token: "token-for-2"} })
	reply("GET /v1/members", func() any {
		sockets, _ := filepath.Glob(filepath.Join(filepath.Dir(dir), "*", socketName))
		return api.Members{Members: slices.Repeat([]api.Member{{Status: "alive"}}, len(sockets))}
	})
	mux.HandleFunc("GET /v1/events", func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(api.Event{Node: name, Kind: "started", Message: "hello from " + name})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	l, err := net.Listen("unix", filepath.Join(dir, socketName))
	if err != nil {
		panic(err)
	}
	go http.Serve(l, mux)
	awaitTerm()
}

// transcript collects output of several goroutines.
type transcript struct {
	mu   sync.Mutex
	text strings.Builder
}

func (s *transcript) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *transcript) await(t *testing.T, text string) {
	t.Helper()
	for range 6000 {
		if strings.Contains(s.String(), text) {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Errorf("never said %q:\n%s", text, s)
}

// startDev runs a dev cluster in a temporary directory of its own until stop is called.
func startDev(t *testing.T, env string, args ...string) (said *transcript, tmp string, stop func() int) {
	t.Helper()
	tmp, err := os.MkdirTemp("", "dev") // short: a socket path holds 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	t.Setenv("TMPDIR", tmp)
	t.Setenv("STAND_IN", env)
	said = &transcript{}
	c := newConsole(strings.NewReader(""), said, said, func(string) string { return "" })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() { done <- run(ctx, append([]string{"dev"}, args...), c) }()
	return said, tmp, func() int {
		cancel()
		return <-done
	}
}

func wantNothingLeft(t *testing.T, tmp string) {
	t.Helper()
	if left, _ := filepath.Glob(filepath.Join(tmp, "isonomia-dev-*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if pids := processesNaming(tmp); len(pids) > 0 {
		t.Errorf("processes left behind: %v", pids)
	}
}

func TestDevRunsAndCleansUp(t *testing.T) {
	said, tmp, stop := startDev(t, "leaves a keeper", "--nodes", "3")
	said.await(t, "n1 started hello from n1")
	wantContains(t, said.String(), "3 nodes run.", "export ISONOMIA_NODE="+tmp)
	if pids := processesNaming(tmp); len(pids) != 3 {
		t.Errorf("keepers %v", pids)
	}
	if code := stop(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	wantNothingLeft(t, tmp)
}

func TestDevSurvivesTheDeathOfAnAgent(t *testing.T) {
	said, tmp, stop := startDev(t, "", "--nodes", "2")
	said.await(t, "hello from n1")
	killAgent(t, tmp, "n1")
	said.await(t, "n1 has ended: signal: killed")
	said.await(t, "hello from n2")
	if code := stop(); code != 0 {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	wantNothingLeft(t, tmp)
}

func TestDevEndsWithItsLastAgent(t *testing.T) {
	said, tmp, stop := startDev(t, "", "--nodes", "1")
	said.await(t, "hello from n1")
	killAgent(t, tmp, "n1")
	said.await(t, "all nodes have ended")
	if code := stop(); code != 1 {
		t.Errorf("exit code %d:\n%s", code, said)
	}
	wantNothingLeft(t, tmp)
}

// killAgent kills the stand-in whose directory is called name.
func killAgent(t *testing.T, tmp, name string) {
	t.Helper()
	commands, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range commands {
		raw, _ := os.ReadFile(path)
		if args := string(raw); strings.Contains(args, "\x00agent\x00--data\x00"+tmp) && strings.Contains(args, "\x00--name\x00"+name+"\x00") {
			var pid int
			fmt.Sscanf(path, "/proc/%d/", &pid)
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatalf("agent %s does not run", name)
}

func TestDevSaysWhyAnAgentEnded(t *testing.T) {
	for _, name := range []string{"n1", "n2"} {
		said, tmp, stop := startDev(t, "fails "+name, "--nodes", "2")
		said.await(t, "Ending the cluster.")
		said.await(t, "isonomia: agent "+name+" has ended: exit status 1")
		wantContains(t, said.String(), "  | agent: port 7878 is taken by sshd (pid 1)")
		if code := stop(); code != 1 {
			t.Errorf("exit code %d:\n%s", code, said)
		}
		wantNothingLeft(t, tmp)
	}
}

func TestDevKeepsDataThatIsNotItsOwn(t *testing.T) {
	data, err := os.MkdirTemp("", "keep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(data) })
	said, _, stop := startDev(t, "", "--nodes", "1", "--data", data)
	said.await(t, "hello from n1")
	stop()
	if _, err := os.Stat(filepath.Join(data, "n1")); err != nil {
		t.Error(err)
	}
}
