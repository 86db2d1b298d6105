package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// inEachIsolation runs f in the isolation that this machine allows, and in none.
func inEachIsolation(t *testing.T, f func(t *testing.T, n *Node)) {
	t.Parallel()
	for _, mode := range []isolation{0, isolateNone} {
		t.Run(map[isolation]string{0: "best", isolateNone: "none"}[mode], func(t *testing.T) {
			t.Parallel()
			n := newBuilder(t, dataDir(t))
			n.builds.mode = mode
			f(t, n)
			if _, err := os.Lstat(n.dir.buildWork()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the work directory is still there: %v", err)
			}
		})
	}
}

// lines collects a build's output.
type collected struct {
	mu   sync.Mutex
	text []string
}

func (c *collected) add(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.text = append(c.text, line)
}

func (c *collected) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return strings.Join(c.text, "\n")
}

// fails runs a build that must fail by its own fault and gives the message.
func fails(t *testing.T, n *Node, req api.BuildRequest) string {
	t.Helper()
	tree, err := n.runBuild(t.Context(), req, func(string) {})
	var e *api.Error
	if !errors.As(err, &e) || e.Code != api.CodeBuildFailed {
		t.Fatalf("got %q, %v", tree, err)
	}
	return e.Message
}

func builds(t *testing.T, n *Node, req api.BuildRequest) map[string]string {
	t.Helper()
	var log collected
	tree, err := n.runBuild(t.Context(), req, log.add)
	if err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	return contents(t, n, tree)
}

// refuse defines for a script what must not be possible.
const refuse = `no() { if "$@" 2>/dev/null; then echo "possible: $*"; exit 9; fi; }; `

func contains(t *testing.T, got string, want ...string) {
	t.Helper()
	for _, w := range want {
		if !strings.Contains(got, w) {
			t.Errorf("%q is not in %q", w, got)
		}
	}
}

func TestBuildMakesAPackage(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"in/text": "hello", "tool": "#!/bin/sh\ncat in/text\n"})
		var log collected
		req := sh(src, `./tool > "$out/said"; echo $1 | cat > ${out}/arg; printf %s "$WHERE" > $out/where; echo new > in/text; echo one; echo two >&2`)
		req.Command = append(req.Command, "sh", "${src}/x")
		req.Env = map[string]string{"WHERE": "${out}:${src}:$out"}
		tree, err := n.runBuild(t.Context(), req, log.add)
		if err != nil {
			t.Fatal(err, log.String())
		}
		got := contents(t, n, tree)
		if got["said"] != "hello" || !strings.HasSuffix(got["arg"], "/src/x\n") || !strings.HasSuffix(got["where"], "/src:$out") {
			t.Errorf("got %q", got)
		}
		contains(t, log.String(), "one\n", "two")
	})
}

func TestBuildThatFailsQuotesItsEnd(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		got := fails(t, n, sh(src, `i=0; while [ $i -lt 50 ]; do echo line $i; i=$((i+1)); done; echo alas >&2; exit 3`))
		contains(t, got, "exit status 3", "line 49\n  alas")
		if strings.Contains(got, "line 30\n") || len(got) > 1000 {
			t.Errorf("too much is quoted: %q", got)
		}
		contains(t, fails(t, n, sh(src, `kill -SEGV $$`)), "signal 11")
		contains(t, fails(t, n, api.BuildRequest{Source: src, Timeout: time.Minute, Command: []string{"no-such-program"}}), `no program "no-such-program" in /usr/local`)
		contains(t, fails(t, n, api.BuildRequest{Source: src, Timeout: time.Minute, Command: []string{"./none"}}), "no such file")
		contains(t, fails(t, n, sh(src, `echo dangling`)), "no file to ${out}")
		contains(t, fails(t, n, sh(src, `mkdir -p out/a; echo in the wrong place > out/a/b`)), "no file to ${out}")
	})
}

func TestBuildThatHangsLeavesNothing(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		mark := fmt.Sprintf("36%08d", time.Now().UnixNano()%1e8)
		req := sh(src, `trap "" TERM HUP INT; echo here; setsid sh -c "(sleep `+mark+` &) ; sleep `+mark+`" & sleep `+mark)
		req.Timeout = 5 * time.Second
		contains(t, fails(t, n, req), "timeout of 5s", "here")
		if left := processesWith(mark); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		// One that ends but leaves something behind that holds its output.
		contains(t, fails(t, n, sh(src, `setsid sh -c "sleep `+mark+`" & exit 1`)), "exit status 1")
		if left := processesWith(mark); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

func TestBuildEndsWithItsClient(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		mark := fmt.Sprintf("37%08d", time.Now().UnixNano()%1e8)
		ctx, cancel := context.WithCancel(t.Context())
		_, err := n.runBuild(ctx, sh(src, `echo go; sleep `+mark), func(line string) {
			if line == "go" {
				cancel()
			}
		})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		if left := processesWith(mark); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	})
}

func TestBuildThatFillsTheDisk(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		n.builds.limits = buildLimits{disk: 8 << 20, reserve: 1}
		contains(t, fails(t, n, sh(src, `i=0; while :; do head -c 100000 /dev/zero > ${out}/$i; i=$((i+1)); done`)), "too much of the disk: a build may take 8 MiB")
		contains(t, fails(t, n, sh(src, `i=0; while :; do head -c 100000 /dev/zero > $HOME/$i; i=$((i+1)); done`)), "too much of the disk")
		contains(t, fails(t, n, sh(src, `head -c 100000000 /dev/zero > $TMPDIR/large`)), "head")
		n.builds.limits = buildLimits{disk: 64 << 20, reserve: 1, cache: 1 << 20}
		builds(t, n, sh(src, `head -c 2000000 /dev/zero > $HOME/large; echo > $out/f`))
		if used := diskUsed(n.dir.buildCache()); used > 1<<20 {
			t.Errorf("the cache has %d bytes", used)
		}
	})
}

// A disk that really is full: a small tmpfs as the data directory.
func TestBuildOnASmallDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root mounts")
	}
	dir := dataDir(t)
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=0755"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	n := newBuilder(t, dir)
	src := putSource(t, n, map[string]string{"f": ""})
	contains(t, fails(t, n, sh(src, `true`)), "nearly full", "256 MiB must stay free")
	n.builds.limits = buildLimits{reserve: 8 << 20}
	contains(t, fails(t, n, sh(src, `while :; do head -c 500000 /dev/zero >> ${out}/f; sleep 0.01; done`)), "too much of the disk")
	if got := builds(t, n, sh(src, `echo fine > ${out}/f`)); got["f"] != "fine\n" {
		t.Errorf("got %q", got)
	}
}

func TestBuildOutputThatIsNoPackage(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		contains(t, fails(t, n, sh(src, `echo > $out/f; mkdir $out/d; ln -s /etc/passwd $out/d/p`)), "cannot be a package", "d/p", "absolute")
		contains(t, fails(t, n, sh(src, `echo > $out/f; ln -s ../../f $out/p`)), "cannot be a package", "leads out")
		contains(t, fails(t, n, sh(src, `echo > $out/f; mkfifo $out/p`)), "cannot be a package", `"p"`)
		contains(t, fails(t, n, sh(src, `echo > $out/f; mknod $out/null c 1 3`)), "exit status")
		contains(t, fails(t, n, sh(src, `rm -r $out; ln -s /etc $out`)), "cannot be a package")
		if got := builds(t, n, sh(src, `mkdir $out/ro; echo > $out/ro/f; chmod 0500 $out/ro; ln -s ro/f $out/l`)); len(got) != 1 {
			t.Errorf("got %q", got)
		}
	})
}

func TestBuildCacheStays(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		script := `echo . >> $HOME/.runs; echo left > $TMPDIR/left; echo left > ../left; cat $HOME/.runs > $out/runs`
		builds(t, n, sh(src, script))
		if got := builds(t, n, sh(src, `test ! -e $TMPDIR/left; test ! -e ../left; `+script))["runs"]; got != ".\n.\n" {
			t.Errorf("got %q", got)
		}
		info, err := os.Stat(filepath.Join(n.dir.buildCache(), ".runs"))
		if err != nil {
			t.Fatal(err)
		}
		want := os.Geteuid()
		if want == 0 {
			want = buildUID
		}
		if got := ownerOf(info); got != want {
			t.Errorf("the cache is user %d's, not %d's", got, want)
		}
	})
}

func TestBuildCannotReadWhatIsPrivate(t *testing.T) {
	t.Parallel()
	n := newBuilder(t, dataDir(t))
	for _, name := range []string{"node.key", "cluster.json"} {
		if err := os.WriteFile(n.dir.join(name), []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	src := putSource(t, n, map[string]string{"f": ""})
	for _, mode := range []isolation{0, isolateNone} {
		if n.builds.mode = mode; mode == isolateNone && os.Geteuid() != 0 {
			continue // it is the same user: nothing keeps it away
		}
		var log collected
		script := fmt.Sprintf(refuse+`no cat %[1]s/node.key; no cat %[1]s/cluster.json; no ls %[1]s/store; no touch %[1]s/mine; touch $out/f`, n.dir)
		_, err := n.runBuild(t.Context(), sh(src, script), log.add)
		if n.builds.mode == isolateNone && os.Geteuid() != 0 {
			t.Skip("no namespaces here")
		}
		if err != nil {
			t.Errorf("%v: %v\n%s", mode, err, &log)
		}
		if strings.Contains(log.String(), "secret") {
			t.Errorf("%v: it read %s", mode, &log)
		}
	}
}

// In namespaces a build writes nowhere but in its own directories, has no privileges and sees no other process.
func TestBuildIsConfined(t *testing.T) {
	t.Parallel()
	n := newBuilder(t, dataDir(t))
	src := putSource(t, n, map[string]string{"f": ""})
	if builds(t, n, sh(src, `touch $out/f`)); n.builds.mode == isolateNone {
		t.Skip("no namespaces here")
	}
	shared := filepath.Join(dataDir(t), "open")
	if err := os.Mkdir(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(shared, 0o777); err != nil {
		t.Fatal(err)
	}
	got := builds(t, n, sh(src, refuse+`
		pwd > $out/pwd; id -u > $out/id
		grep -E '^(CapEff|NoNewPrivs)' /proc/self/status > $out/status
		ls /proc | grep -c '^[0-9]' > $out/processes
		for d in /etc `+shared+` /var/lock /usr /root /sys; do no touch $d/x; done
		touch /tmp/a /var/tmp/b /dev/shm/c
		no mount -t tmpfs x /tmp
		no umount /tmp/build
		echo > /dev/null`))
	if got["pwd"] != "/tmp/build/src\n" || got["status"] != "NoNewPrivs:\t1\nCapEff:\t0000000000000000\n" && got["status"] != "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n" {
		t.Errorf("got %q", got)
	}
	if n := len(strings.TrimSpace(got["processes"])); n != 1 {
		t.Errorf("it saw %s processes", got["processes"])
	}
	if left, _ := os.ReadDir(shared); len(left) > 0 {
		t.Errorf("it wrote %v", left)
	}
}

func TestBuildSeesOnlyTheStatedEnvironment(t *testing.T) {
	t.Setenv("ISONOMIA_TOKEN", "secret")
	t.Setenv("GOFLAGS", "-tags=ours")
	t.Setenv("GOPROXY", "http://proxy.example")
	n := newBuilder(t, dataDir(t))
	src := putSource(t, n, map[string]string{"f": ""})
	req := sh(src, `tr '\0' '\n' < /proc/self/environ > $out/env`)
	req.Env = map[string]string{"LANG": "de_DE", "out": "mine", "MINE": "a=b ${src}"}
	got := builds(t, n, req)["env"]
	names := map[string]string{}
	for line := range strings.Lines(got) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		if _, twice := names[k]; twice {
			t.Errorf("%s is there twice", k)
		}
		names[k] = v
	}
	for _, known := range append(inherited, "PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "CGO_ENABLED", "src", "PWD", "_", "OLDPWD", "SHLVL") {
		delete(names, known)
	}
	want := map[string]string{"LANG": "de_DE", "MINE": "a=b /tmp/build/src", "out": "/tmp/build/out", "GOFLAGS": "-buildvcs=false"}
	if n.builds.mode != isolateNone && fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", names, want)
	}
	contains(t, got, "GOPROXY=http://proxy.example", "HOME=")
	if strings.Contains(got, "secret") {
		t.Error("a token is in the build's environment")
	}
}

// The same source gives the same tree on two nodes whose data directories differ, and so do compilers that write down
// paths.
func TestBuildIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("go"); err != nil || testing.Short() {
		t.Skip("needs Go, and time")
	}
	files := map[string]string{"go.mod": "module tiny\n\ngo 1.24\n",
		"main.go": "package main\n\nimport \"tiny/say\"\n\nfunc main() { say.Hello() }\n", "say/say.go": "package say\n\nfunc Hello() { println(\"hello\") }\n"}
	var trees []string
	cache := ""
	for _, dir := range []string{filepath.Join(dataDir(t), "a"), filepath.Join(dataDir(t), "another", "place")} {
		n := newBuilder(t, dir)
		src := putSource(t, n, files)
		if cache != "" { // the standard library is the same, and compiled already
			if out, err := exec.Command("cp", "-a", cache, n.dir.buildCache()).CombinedOutput(); err != nil {
				t.Fatal(err, string(out))
			}
			if err := os.RemoveAll(n.dir.join("build", "cache", ".cache", "tiny")); err != nil {
				t.Fatal(err)
			}
		}
		cache = n.dir.buildCache()
		var log collected
		req := api.BuildRequest{Source: src, Command: []string{"go", "build", "-o", "${out}/bin/tiny", "."}, Timeout: 10 * time.Minute}
		tree, err := n.runBuild(t.Context(), req, log.add)
		if err != nil {
			t.Fatal(err, log.String())
		}
		if n.builds.mode == isolateNone {
			t.Skip("without namespaces paths differ")
		}
		if got := contents(t, n, tree); len(got) != 1 || !strings.Contains(got["bin/tiny"], "/tmp/build/src/say/say.go") {
			t.Errorf("built %d files", len(got))
		}
		trees = append(trees, tree)
	}
	if trees[0] != trees[1] {
		t.Errorf("two nodes built %s and %s", trees[0], trees[1])
	}
}

func buildAgent(dir, source string) error {
	n, err := openBuilder(dir)
	if err != nil {
		return err
	}
	n.builds.mode = map[string]isolation{"none": isolateNone}[os.Getenv("TEST_ISOLATION")]
	_, err = n.runBuild(context.Background(), sh(source, `echo begun; setsid sleep `+os.Getenv("TEST_MARK")+` & sleep `+os.Getenv("TEST_MARK")), func(l string) { fmt.Println(l) })
	return err
}

func TestAgentKilledInABuild(t *testing.T) {
	inEachIsolation(t, func(t *testing.T, n *Node) {
		src := putSource(t, n, map[string]string{"f": ""})
		mode := "best"
		if n.builds.mode == isolateNone {
			mode = "none"
		}
		n.close()
		n.undo = nil
		mark := fmt.Sprintf("38%08d", time.Now().UnixNano()%1e8)
		cmd := exec.Command(os.Args[0], "build-agent", string(n.dir), src)
		cmd.Env = append(os.Environ(), "TEST_MARK="+mark, "TEST_ISOLATION="+mode)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		for buf, text := make([]byte, 100), ""; !strings.Contains(text, "begun"); {
			k, err := out.Read(buf)
			if text += string(buf[:k]); err != nil {
				t.Fatal(err, text)
			}
		}
		await(t, 10*time.Second, func() string {
			if len(processesWith("sleep\x00"+mark)) < 2 {
				return "not both of its processes run"
			}
			return ""
		})
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		await(t, 10*time.Second, func() string { return strings.Join(processesWith(mark), "; ") })
		if _, err := os.Stat(n.dir.buildWork()); err != nil {
			t.Errorf("nothing was left to clean: %v", err)
		}
		again := newBuilder(t, string(n.dir))
		if _, err := os.Stat(again.dir.buildWork()); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what the dead agent left is still there: %v", err)
		}
	})
}

// The same tests once more as a user without privileges.
func TestBuildsAsAnOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 || testing.Short() {
		t.Skip("runs again as another user")
	}
	dir := dataDir(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	binary := filepath.Join(dir, "node.test")
	b, err := os.ReadFile(os.Args[0])
	if err == nil {
		err = os.WriteFile(binary, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "-test.run=^(TestBuild(MakesAPackage|ThatHangs|CacheStays|CannotRead|IsConfined|OutputThat)|TestAgentKilledInABuild)", "-test.short", "-test.v")
	cmd.Env, cmd.Dir = append(os.Environ(), "TEST_AS_UID=65534", "TMPDIR="+dir, "HOME="+dir), dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if !strings.Contains(string(out), "PASS: TestBuildIsConfined") {
		t.Log("no user namespaces here")
	}
}

func TestBuildRequestsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	good := api.BuildRequest{Source: strings.Repeat("0", 64), Command: []string{"make"}}
	for name, spoil := range map[string]func(*api.BuildRequest){
		"source": func(r *api.BuildRequest) { r.Source = "../.." }, "no command": func(r *api.BuildRequest) { r.Command = nil },
		"empty": func(r *api.BuildRequest) { r.Command = []string{""} }, "short": func(r *api.BuildRequest) { r.Timeout = 1 },
		"long": func(r *api.BuildRequest) { r.Timeout = 3 * time.Hour }, "name": func(r *api.BuildRequest) { r.Env = map[string]string{"A=B": ""} },
		"zero": func(r *api.BuildRequest) { r.Command = []string{"a\x00b"} }, "large": func(r *api.BuildRequest) { r.Env = map[string]string{"A": strings.Repeat("x", 1<<20)} },
	} {
		req := good
		spoil(&req)
		var e *api.Error
		if err := checkBuild(&req); !errors.As(err, &e) || e.Code != api.CodeUsage {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := checkBuild(&good); err != nil || good.Timeout != defaultBuildTime {
		t.Error(err, good.Timeout)
	}
}

func TestBuildLogNeverWaits(t *testing.T) {
	t.Parallel()
	var got []string
	stuck := make(chan struct{})
	l := newBuildLog(func(line string) error { <-stuck; got = append(got, line); return nil })
	for i := range maxLogQueue + 100 {
		l.add(fmt.Sprint(i))
	}
	close(stuck)
	l.close()
	if n := len(got); n < maxLogQueue+1 || got[0] != "0" || !slices.ContainsFunc(got[n-1:], func(s string) bool { return strings.HasSuffix(s, " lines not shown)") }) {
		t.Errorf("%d lines, the last is %q", n, got[n-1])
	}
}

// request asks a node for a build through its API and gives the last event and the log.
func (n *testNode) request(req api.BuildRequest) (last api.BuildEvent, log string, err error) {
	for ev, e := range n.Build(n.t.Context(), req) {
		if e != nil {
			return last, log, e
		}
		last = ev
		log += ev.Log + "\n"
	}
	return last, log, nil
}

// What was built once, anywhere, is not built again.
func TestBuildOnce(t *testing.T) {
	defer noLeak(t)()
	n1 := startNode(t, "n1", nil)
	n2 := startNode(t, "n2", n1)
	defer func() { n2.stop(); n1.stop() }()
	files := map[string]string{"f": "source"}
	src := putSource(t, n1.Node, files)
	req := sh(src, `echo building; cat f > ${out}/f; head -c 20 /dev/urandom | od -x > ${out}/random`) // no two builds are the same
	req.System = "default"

	first, log, err := n1.request(req)
	if err != nil || first.Output == "" || first.Cached || !strings.Contains(log, "building\n") {
		t.Fatalf("%+v, %q, %v", first, log, err)
	}
	for _, n := range []*testNode{n1, n2} { // n2 fetches what came out; it never sees the source
		again, log, err := n.request(req)
		if err != nil || again.Output != first.Output || !again.Cached || strings.Contains(log, "building") {
			t.Errorf("%s: %+v, %q, %v", n.cfg.Name, again, log, err)
		}
		if !hasTree(t, n.Node, first.Output) {
			t.Errorf("%s does not have the package", n.cfg.Name)
		}
	}

	req.Rebuild = true
	second, _, err := n2.request(req) // fetches the source from n1
	if err != nil || second.Cached || second.Output == first.Output {
		t.Fatalf("%+v, %v", second, err)
	}
	req.Rebuild = false
	if now, _, err := n1.request(req); err != nil || now.Output != second.Output || !now.Cached {
		t.Errorf("%+v, %v", now, err)
	}

	// The environment and the command are part of the input.
	req.Env = map[string]string{"A": "b"}
	if other, _, err := n1.request(req); err != nil || other.Cached || other.Output == second.Output {
		t.Errorf("%+v, %v", other, err)
	}
	if got := len(n1.noted("build")) + len(n2.noted("build")); got != 3 {
		t.Errorf("%d builds are noted", got)
	}
}

// Two nodes build one input at once: one output is everybody's.
func TestTheFirstBuildWins(t *testing.T) {
	n1 := startNode(t, "n1", nil)
	n2 := startNode(t, "n2", n1)
	defer func() { n2.stop(); n1.stop() }()
	files := map[string]string{"f": "source"}
	src := putSource(t, n1.Node, files)
	putSource(t, n2.Node, files)
	req := sh(src, `head -c 20 /dev/urandom | od -x > ${out}/random; echo begun; until test -e $HOME/go; do sleep 0.01; done`)
	outputs := make(chan string, 4)
	var wg sync.WaitGroup
	for _, n := range []*testNode{n1, n2, n1, n2} { // the second on each waits for the first
		wg.Go(func() {
			ev, _, err := n.request(req)
			if err != nil {
				t.Error(err)
			}
			outputs <- ev.Output
		})
	}
	for _, n := range []*testNode{n1, n2} {
		await(t, 30*time.Second, func() string {
			if found, _ := filepath.Glob(filepath.Join(string(n.dir), "build", "work", "box", "out", "random")); len(found) == 0 {
				return "it has not begun"
			}
			return ""
		})
	}
	for _, n := range []*testNode{n1, n2} {
		write(t, filepath.Join(n.dir.buildCache(), "go"), "")
	}
	wg.Wait()
	want := <-outputs
	for range 3 {
		if got := <-outputs; got != want || got == "" {
			t.Errorf("outputs %q and %q", got, want)
		}
	}
	for _, n := range []*testNode{n1, n2} {
		if k := n.noted("build"); len(k) != 1 {
			t.Errorf("%s: %q", n.cfg.Name, k)
		}
	}
}

func TestBuildFailsOverTheAPI(t *testing.T) {
	n := startNode(t, "n1", nil)
	defer n.stop()
	src := putSource(t, n.Node, map[string]string{"f": ""})
	_, log, err := n.request(sh(src, `echo alas; exit 7`))
	if api.CodeOf(err) != api.CodeBuildFailed || !strings.Contains(err.Error(), "exit status 7; its last lines:\n  alas") || !strings.Contains(log, "alas") {
		t.Errorf("%q, %v", log, err)
	}
	_, _, err = n.request(sh(strings.Repeat("0", 64), `true`))
	if err == nil || api.CodeOf(err) == api.CodeBuildFailed {
		t.Errorf("a source that is nowhere: %v", err)
	}
	if k := n.fsm.State().Builds.Len(); k != 0 {
		t.Errorf("%d builds are recorded", k)
	}
	// A client that goes away ends its build, and the next one finds the way free.
	ctx, cancel := context.WithCancel(t.Context())
	for ev := range n.Build(ctx, sh(src, `echo here; sleep 1000`)) {
		if ev.Log == "here" {
			break
		}
	}
	cancel()
	if ev, _, err := n.request(sh(src, `echo > $out/f`)); err != nil || ev.Output == "" {
		t.Errorf("%+v, %v", ev, err)
	}
}
