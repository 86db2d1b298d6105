package process

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

// TestMain makes the test binary the keeper, `BINARY keeper DIR`, and services.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 {
		switch os.Args[1] {
		case "keeper":
			if err := keeper.Main(os.Args[2]); err != nil {
				fmt.Fprintln(os.Stderr, "KEEPER FAILED:", err)
				os.Exit(1)
			}
			os.Exit(0)
		case "serve":
			serve(os.Args[2])
		case "notify":
			notify(os.Args[2])
		}
	}
	goleak.VerifyTestMain(m)
}

// serve answers 200 on /, once there is a file DIR/ready, and 503 before.
func serve(dir string) {
	err := http.ListenAndServe(os.Getenv("ADDRESS"), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err != nil {
			http.Error(w, "still loading", http.StatusServiceUnavailable)
		}
	}))
	fmt.Println(err)
	os.Exit(1)
}

// notify listens at once, but is ready only when there is a file DIR/ready.
func notify(dir string) {
	c, err := net.Dial("unixgram", os.Getenv("NOTIFY_SOCKET"))
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	_, _ = c.Write([]byte("STATUS=loading"))
	for {
		if _, err := os.Stat(filepath.Join(dir, "ready")); err == nil {
			_, _ = c.Write([]byte("READY=1"))
			time.Sleep(time.Hour)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// rig is a module with a keeper and directories of its own.
type rig struct {
	testing.TB
	*Module
	keeper *keeper.Client
	dir    string
}

func newRig(t testing.TB) *rig {
	r := &rig{TB: t, dir: t.TempDir()}
	if err := os.Chmod(filepath.Dir(r.dir), 0o755); err != nil { // services of other users must get in
		t.Fatal(err)
	}
	r.keeper = r.ensure()
	r.Module = New(filepath.Join(r.dir, "marks"), r.keeper, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err := os.Mkdir(filepath.Join(r.dir, "package"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.end)
	return r
}

func (r *rig) ensure() *keeper.Client {
	r.Helper()
	exe, err := os.Executable()
	if err != nil {
		r.Fatal(err)
	}
	c, err := keeper.Ensure(r.Context(), r.dir, exe, []string{"keeper", r.dir})
	if err != nil {
		r.Fatal(err)
	}
	return c
}

func (r *rig) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	pid := r.keeper.PID()
	if err := r.keeper.Shutdown(ctx, 0); err != nil {
		r.Errorf("shutdown: %v", err)
	}
	r.keeper.Close()
	r.await("keeper gone", func() string {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err == nil {
			return fmt.Sprintf("pid %d is there", pid)
		}
		return ""
	})
	log, _ := os.ReadFile(filepath.Join(r.dir, "keeper.log"))
	if s := string(log); strings.Contains(s, "DATA RACE") || strings.Contains(s, "KEEPER FAILED") || strings.Contains(s, "panic") {
		r.Errorf("the keeper says:\n%s", s)
	}
}

// instance is one that runs command.
func (r *rig) instance(service string, command ...string) activate.Instance {
	in := activate.Instance{
		ID: "row/" + service, Service: service, Node: "n1", Container: "process", Type: "process", Attempt: 1, Epoch: 42,
		Package:  filepath.Join(r.dir, "package"),
		StateDir: filepath.Join(r.dir, "state", service),
		RunDir:   filepath.Join(r.dir, "run", service),
		LogDir:   filepath.Join(r.dir, "logs"),
		Spec:     activate.Spec{Command: command, Grace: time.Minute},
	}
	if os.Geteuid() == 0 {
		in.Spec.User = "root"
	}
	return in
}

func (r *rig) sh(service, script string) activate.Instance {
	return r.instance(service, "/bin/sh", "-c", script)
}

// server is one of this binary's own services.
func (r *rig) server(mode string) activate.Instance {
	in := r.instance(mode, "/proc/self/exe", mode, r.dir)
	port := freePort()
	in.Spec.Host, in.Spec.Ports = ownHost(), map[string]int{"http": port}
	in.Spec.Env = map[string]string{"ADDRESS": net.JoinHostPort(ownHost(), strconv.Itoa(port))}
	return in
}

// Ports are taken in turn on an address that no other process uses: a number that was found free by listening on it could
// be another's by the time it is used.
var ports atomic.Int32

func ownHost() string {
	pid := os.Getpid()
	return fmt.Sprintf("127.%d.%d.251", 1+pid%250, pid/250%250)
}

func freePort() int { return 20_000 + int(ports.Add(1)) }

func (r *rig) write(name, text string) {
	r.Helper()
	if err := os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o755); err != nil {
		r.Fatal(err)
	}
}

func (r *rig) observed() []activate.Running {
	r.Helper()
	all, err := r.Observe(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return all
}

// output is what the instance wrote to stdout.
func (r *rig) output(in activate.Instance) string {
	r.Helper()
	var b strings.Builder
	for l, err := range keeper.ReadLog(r.Context(), in.LogDir, in.LogName(), keeper.ReadOptions{}) {
		if err != nil {
			r.Fatal(err)
		}
		if l.Stream == 'o' {
			b.WriteString(l.Text + "\n")
		}
	}
	return b.String()
}

// await polls until why returns "".
func (r *rig) await(what string, why func() string) {
	r.Helper()
	give := time.Now().Add(20 * time.Second)
	for {
		reason := why()
		if reason == "" {
			return
		}
		if time.Now().After(give) {
			r.Fatalf("%s: not within 20 s: %s", what, reason)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
