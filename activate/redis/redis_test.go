package redis

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/activate/place"
	"github.com/isonomia-mesh/isonomia/activate/statetest"
)

const password = "it's a \"secret\" \\"

// TestMain makes the test binary the keeper: `BINARY keeper DIR`.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == "keeper" {
		if err := keeper.Main(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "KEEPER FAILED:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Ports are taken in turn on an address that no other process uses.
var ports atomic.Int32

type rig struct {
	*Module
	again func(marks string) *Module // as an agent does after a restart
	marks string
	in    activate.Instance
}

func newRig(t *testing.T) *rig {
	t.Helper()
	statetest.Need(t, "redis-server")
	dir := t.TempDir()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	k, err := keeper.Ensure(t.Context(), dir, exe, []string{"keeper", dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := k.Shutdown(ctx, 0); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	pid := os.Getpid()
	in := activate.Instance{ID: "n1/cache/1", Attempt: 1, Service: "cache", Node: "n1", Container: Type, Type: Type,
		StateDir: filepath.Join(dir, "state"), RunDir: filepath.Join(dir, "run"), LogDir: filepath.Join(dir, "logs"),
		Settings: map[string]string{"redisPassword": password},
		Spec: activate.Spec{Grace: 20 * time.Second, Host: fmt.Sprintf("127.%d.%d.250", 1+pid%250, pid/250%250),
			Ports: map[string]int{"redis": 20_000 + int(ports.Add(1))}}}
	if os.Geteuid() == 0 {
		in.Spec.User = "root"
	}
	again := func(marks string) *Module { return New(marks, k, log) }
	marks := filepath.Join(dir, "marks")
	return &rig{again(marks), again, marks, in}
}

// cli is a client of another process.
func (r *rig) cli(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "redis-cli", append([]string{"-h", r.in.Spec.Host, "-p", strconv.Itoa(r.in.Spec.Ports["redis"]), "-e"}, args...)...)
	cmd.Env = []string{"REDISCLI_AUTH=" + password, "PATH=/usr/bin:/bin"}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	return string(out), err
}

func TestConformance(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	statetest.Need(t, "redis-cli")
	statetest.Run(t, statetest.Subject{
		New: func(marks string) activate.Stateful { return r.again(marks) },
		In:  r.in,
		Write: func(ctx context.Context, name string) error {
			_, err := r.cli(ctx, name, "-x", "SADD", "records")
			return err
		},
		Read: func(ctx context.Context) ([]string, error) {
			out, err := r.cli(ctx, "", "--json", "SMEMBERS", "records")
			all := []string{}
			for s := range strings.SplitSeq(strings.Trim(out, "[]\n"), `","`) {
				if s = strings.Trim(s, `"`); s != "" {
					u, uerr := strconv.Unquote(`"` + s + `"`)
					all, err = append(all, u), errors.Join(err, uerr)
				}
			}
			slices.Sort(all)
			return all, err
		},
		Grow: func(ctx context.Context) error {
			_, err1 := r.cli(ctx, "", "HSET", "later", "a", "b")
			_, err2 := r.cli(ctx, "", "-n", "5", "SET", "elsewhere", "x")
			return errors.Join(err1, err2)
		},
		Damage: func(t *testing.T, p *activate.Payload) {
			path := filepath.Join(p.Dir, rdbFile)
			b, err := os.ReadFile(path)
			if i := bytes.Index(b, []byte("two")); err == nil && i > 0 {
				b[i] = 'T'
				err = os.WriteFile(path, b, 0o600)
			} else {
				t.Fatalf("not in the dataset: %v", err)
			}
			if err != nil {
				t.Fatal(err)
			}
		},
	})
}

// TestStopUnderWrites stops while a client writes: what was acknowledged is in the dump.
func TestStopUnderWrites(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Start(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	addr, _ := address(r.in)
	acknowledged, many := make(chan int), make(chan bool)
	go func() {
		c, err := dial(t.Context(), addr, password)
		if err != nil {
			t.Error(err)
		}
		n := 0
		for ; err == nil; n++ {
			if n == 100 {
				close(many)
			}
			_, err = c.do("SET", "key", strconv.Itoa(n))
		}
		acknowledged <- n - 2 // the last one that was answered
	}()
	<-many
	if err := r.Stop(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	last := <-acknowledged
	if err := r.Start(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), addr, password)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	got, err := c.do("GET", "key")
	if n, _ := strconv.Atoi(got); err != nil || n < last {
		t.Errorf("%q of %d acknowledged ones: %v", got, last, err)
	}
}

// TestServerKeepsItsMark: what the keeper put into the environment of the server can be read while it runs.
func TestServerKeepsItsMark(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Start(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	list, err := r.Observe(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", list[0].PID))
	if err != nil || !bytes.Contains(env, []byte("ISONOMIA_INSTANCE=")) || !bytes.Contains(env, []byte("ISONOMIA_SERVICE=cache\x00")) {
		t.Errorf("%q, %v", env, err)
	}
}

// TestPrepareWithoutPassword: a server that nobody else could connect to is refused before anything is stopped for it.
func TestPrepareWithoutPassword(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	for _, c := range []struct {
		host, password, conf string
		ok                   bool
	}{{"127.0.0.1", "", "", true}, {"::1", "", "", true}, {"192.0.2.1", "", "", false}, {"", "", "", false}, {"192.0.2.1", "x", "", true}, {"", "", "protected-mode no\n", true}} {
		in := r.in
		in.Spec.Host, in.Settings = c.host, map[string]string{"redisPassword": c.password}
		if c.conf != "" {
			in.Package = t.TempDir()
			if err := os.WriteFile(filepath.Join(in.Package, "a.conf"), []byte(c.conf), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := admits(in); err == nil != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
	r.in.Settings, r.in.Spec.Host = nil, ""
	if err := r.Prepare(t.Context(), r.in); err == nil || !strings.Contains(err.Error(), "redisPassword") {
		t.Error(err)
	}
}

// TestDumpFailures has a dataset that cannot be saved, and a server that dies.
func TestDumpFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	disk := statetest.SmallDisk(t, "1m")
	r.in.StateDir = filepath.Join(disk, "state")
	if err := r.Start(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the disk is busy until then
		if list, err := r.Observe(context.Background()); err == nil {
			for _, run := range list {
				_ = syscall.Kill(run.PID, syscall.SIGKILL)
			}
		}
		statetest.Await(t, "the end", func() error {
			list, err := r.Observe(context.Background())
			if err == nil && len(list) > 0 && list[0].Exit == nil {
				err = errors.New("it runs")
			}
			return err
		})
	})
	if _, err := r.cli(t.Context(), strings.Repeat("x", 400<<10), "-x", "SET", "big"); err != nil {
		t.Fatal(err)
	}
	filler := filepath.Join(disk, "filler")
	if err := os.WriteFile(filler, make([]byte, 800<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := r.Dump(t.Context(), r.in, t.TempDir(), false); err == nil {
		t.Errorf("dumped to a full disk: %+v", p)
	} else {
		t.Log(err)
	}
	if err := r.Stop(t.Context(), r.in); err == nil {
		t.Error("stopped what it could not save")
	} else {
		t.Log(err)
	}
	if out, err := r.cli(t.Context(), "", "STRLEN", "big"); err != nil || strings.TrimSpace(out) != strconv.Itoa(400<<10) {
		t.Errorf("after a stop that failed: %s, %v", out, err)
	}
	if err := os.Remove(filler); err != nil {
		t.Error(err)
	}
	if _, err := r.Dump(t.Context(), r.in, t.TempDir(), false); err != nil {
		t.Errorf("with room again: %v", err)
	}
	list, err := r.Observe(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := syscall.Kill(list[0].PID, syscall.SIGSTOP); err != nil { // it lives, and does not answer
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if p, err := r.Dump(ctx, r.in, t.TempDir(), false); err == nil {
		t.Errorf("dumped without an answer: %+v", p)
	} else {
		t.Log(err)
	}
}

// TestDamagedDataset: of a stopped server only a file that is whole is a dump.
func TestDamagedDataset(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Start(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	if _, err := r.cli(t.Context(), strings.Repeat("x", 10<<10), "-x", "SET", "big"); err != nil {
		t.Fatal(err)
	}
	if err := r.Stop(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	dir, _, err := place.Place(r.in.StateDir).Find()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, rdbFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(good)
	flipped[len(good)/2] ^= 1
	for what, b := range map[string][]byte{"absent": nil, "empty": {}, "truncated": good[:len(good)/2], "without its end": good[:len(good)-8], "flipped": flipped, "zeros": make([]byte, len(good))} {
		err := os.Remove(path)
		if b != nil {
			err = errors.Join(err, os.WriteFile(path, b, 0o600))
		}
		if err != nil && what != "absent" && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		if p, err := r.Dump(t.Context(), r.in, t.TempDir(), true); err == nil {
			t.Errorf("%s: dumped: %+v", what, p)
		} else {
			t.Log(what+":", err)
		}
	}
	_ = os.Remove(path)
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Dump(t.Context(), r.in, t.TempDir(), true); err != nil {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	good := emptyDataset()
	if _, err := check(bytes.NewReader(good), int64(len(good))); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := check(bytes.NewReader(good[:n]), int64(n)); err == nil {
			t.Errorf("cut after %d bytes: taken for whole", n)
		}
		bad := bytes.Clone(good)
		bad[n] ^= 1
		if _, err := check(bytes.NewReader(bad), int64(len(bad))); err == nil {
			t.Errorf("a bit of byte %d: not seen", n)
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(emptyDataset())
	f.Fuzz(func(t *testing.T, b []byte) { _, _ = check(bytes.NewReader(b), int64(len(b))) })
}

func FuzzReply(f *testing.F) {
	f.Add([]byte("$3\r\nabc\r\n"))
	f.Add([]byte("-ERR no\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := reply(bufio.NewReader(bytes.NewReader(b))); err == nil && len(s) > len(b) {
			t.Errorf("%q of %q", s, b)
		}
	})
}

// TestStopUnknown: the server of a row of which nothing is known but its mark is ended, and has saved.
func TestStopUnknown(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	if err := r.Start(t.Context(), r.in); err != nil {
		t.Fatal(err)
	}
	addr, err := address(r.in)
	if err != nil {
		t.Fatal(err)
	}
	c, err := dial(t.Context(), addr, password)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	if _, err := c.do("SET", "a", "b"); err != nil {
		t.Fatal(err)
	}
	m := r.again(r.marks)
	entries, err := m.Active()
	if err != nil || len(entries) != 1 {
		t.Fatalf("%+v, %v", entries, err)
	}
	in := entries[0].Instance()
	in.Type = Type
	if err := m.Stop(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if list, err := m.Observe(t.Context()); err != nil || len(list) > 0 {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := m.Deletable(r.in); err != nil {
		t.Error(err)
	}
	if p, err := m.Dump(t.Context(), r.in, t.TempDir(), true); err != nil || p.Facts["bytes"] == strconv.Itoa(len(emptyDataset())) {
		t.Errorf("%+v, %v", p, err)
	}
}
