package node

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// A build turns a source tree into a package. It is identified by its input, not by who built it or when: the digest
// of the source tree, of the build block and of the system. State maps inputs to outputs and the first one wins, so
// what is unchanged is never built again, whoever deploys from wherever. sandbox.go says where it runs.

const (
	defaultBuildTime = 10 * time.Minute
	minBuildTime     = time.Second
	maxBuildTime     = 2 * time.Hour
	maxBuildWords    = 128 << 10 // bytes of command and environment together: execve takes no more in one piece
)

// builder lets one build run at a time: they share the sandbox's path and the cache. The zero value is ready.
type builder struct {
	once   sync.Once
	slot   chan struct{} // capacity 1, taken by whoever builds
	limits buildLimits

	// Guarded by slot.
	mode isolation // the best that this machine allows; 0 until the first build found out
}

// take waits for its turn. waiting is called if it has to.
func (b *builder) take(ctx context.Context, waiting func()) (release func(), err error) {
	b.once.Do(func() { b.slot = make(chan struct{}, 1) })
	select {
	case b.slot <- struct{}{}:
		return func() { <-b.slot }, nil
	default:
		waiting()
	}
	select {
	case b.slot <- struct{}{}:
		return func() { <-b.slot }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// buildInput names what a build depends on. Sandbox is raised when the sandbox gives builds something else to see.
func buildInput(req api.BuildRequest) string {
	b := mustJSON(struct {
		Sandbox        int
		Source, System string
		Command        []string
		Env            map[string]string
	}{sandboxVersion, req.Source, runtime.GOOS + "/" + runtime.GOARCH, req.Command, req.Env})
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// postBuild answers with the log as it comes and the package's tree at the end.
func (n *Node) postBuild(w http.ResponseWriter, r *http.Request) {
	req, err := decode[api.BuildRequest](r)
	if err == nil {
		err = checkBuild(&req)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	out := newLines(w)
	log := newBuildLog(func(line string) error { return out.send(api.BuildEvent{Log: line}) })
	ev, err := n.build(r.Context(), req, log.add)
	log.close()
	if err != nil {
		ev = api.BuildEvent{Error: asError(err)}
	}
	_ = out.send(ev)
}

func checkBuild(req *api.BuildRequest) error {
	req.Timeout = cmp.Or(req.Timeout, defaultBuildTime)
	if _, err := snapshotstore.ParseID(req.Source); err != nil {
		return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("source %q is not a tree id", req.Source)}
	}
	if len(req.Command) == 0 || req.Command[0] == "" || req.Timeout < minBuildTime || req.Timeout > maxBuildTime {
		return &api.Error{Code: api.CodeUsage, Message: "a build needs a command, and a timeout between 1 s and 2 h"}
	}
	return checkWords(*req)
}

// checkWords refuses what the kernel would.
func checkWords(req api.BuildRequest) error {
	size := 0
	words := append([]string(nil), req.Command...)
	for name, value := range req.Env {
		if name == "" || strings.Contains(name, "=") {
			return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is no name for a variable of the build's environment", name)}
		}
		words = append(words, name+"="+value)
	}
	for _, w := range words {
		size += len(w) + 1
		if strings.ContainsRune(w, 0) {
			return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("the build's command or environment has a zero byte in it: %q", w)}
		}
	}
	if size > maxBuildWords {
		return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("the build's command and environment are longer than %d KiB", maxBuildWords>>10)}
	}
	return nil
}

// build gives the package for an input: the known one if it can be had, else what building makes.
func (n *Node) build(ctx context.Context, req api.BuildRequest, log func(string)) (api.BuildEvent, error) {
	input := buildInput(req)
	if out, _, ok := n.knownBuild(ctx, n.fsm.State(), input, req.Rebuild); ok {
		return api.BuildEvent{Output: out, Cached: true}, nil
	}
	release, err := n.builds.take(ctx, func() { log("waiting for another build on this node") })
	if err != nil {
		return api.BuildEvent{}, err
	}
	defer release()
	out, lost, ok := n.knownBuild(ctx, n.newestState(ctx), input, req.Rebuild)
	if ok { // built while this one waited, or on another node a moment ago
		return api.BuildEvent{Output: out, Cached: true}, nil
	}
	start := time.Now()
	tree, err := n.runBuild(ctx, req, log)
	if err != nil {
		why, _, _ := strings.Cut(err.Error(), quotation)
		n.noteBuild(req, "failed: "+why)
		return api.BuildEvent{}, err
	}
	n.noteBuild(req, fmt.Sprintf("built %.12s in %.1f s", tree, time.Since(start).Seconds()))
	return n.recordBuild(ctx, model.RecordBuild{Replace: req.Rebuild || lost,
		Build: model.BuildRecord{Input: input, Output: tree, At: time.Now().UTC(), Origin: n.id.ID}})
}

// newestState is the leader's State if that can be had soon, else this node's own.
func (n *Node) newestState(ctx context.Context) *model.State {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := n.fsm.Read(ctx)
	if err != nil {
		return n.fsm.State()
	}
	return s
}

func (n *Node) noteBuild(req api.BuildRequest, message string) {
	n.note(Noted{Kind: "build", System: systemOf(req.System), Service: req.Service, Message: message})
}

// recordBuild tells the cluster. If another node was first, its output is the one, and is brought here.
func (n *Node) recordBuild(ctx context.Context, c model.RecordBuild) (api.BuildEvent, error) {
	proposing, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	res, err := n.fsm.Propose(proposing, c)
	if err == nil {
		err = res[0].Err()
	}
	if err != nil {
		return api.BuildEvent{}, err
	}
	return api.BuildEvent{Output: res[0].Value}, n.fetchTree(ctx, res[0].Value)
}

// knownBuild looks an output up and makes sure that it is here. One that nobody has any more is lost: it is built again
// and what is built then takes its place.
func (n *Node) knownBuild(ctx context.Context, s *model.State, input string, rebuild bool) (out string, lost, ok bool) {
	b, known := s.Builds.Get(input)
	if !known || rebuild {
		return "", false, false
	}
	if err := n.fetchTree(ctx, b.Output); err != nil {
		n.log.Warn("a known build cannot be had; building again", "output", b.Output, "err", err)
		return "", true, false
	}
	return b.Output, false, true
}

// runBuild builds and puts what comes out into the store.
func (n *Node) runBuild(ctx context.Context, req api.BuildRequest, log func(string)) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, req.Timeout, errBuildTime)
	defer cancel()
	tree, err := n.buildTree(ctx, req, log)
	if err == nil {
		return tree, nil
	}
	var failed *buildError
	ours := errors.As(err, &failed)
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errBuildTime):
		late := &buildError{why: fmt.Sprintf("it took longer than its timeout of %v", req.Timeout)}
		if ours {
			late.last = failed.last
		}
		return "", late.api()
	case cause != nil:
		return "", cause
	case ours:
		return "", failed.api()
	}
	return "", err
}

func (n *Node) buildTree(ctx context.Context, req api.BuildRequest, log func(string)) (string, error) {
	b, err := n.newSandbox(ctx, log)
	if err != nil {
		return "", err
	}
	defer func() { n.logClose("build directory", b.remove()) }()
	if err := n.fillSandbox(ctx, b, req.Source); err != nil {
		return "", err
	}
	if err := b.run(ctx, req, log); err != nil {
		return "", err
	}
	info, err := n.store.PutTree(ctx, b.host("out"))
	if err != nil {
		return "", &buildError{why: "its output cannot be a package: " + err.Error()}
	}
	if info.Files == 0 {
		return "", &buildError{why: "it wrote no file to ${out}"}
	}
	return info.Root.String(), nil
}

var errBuildTime = errors.New("the build took longer than its timeout")

// quotation parts the reason of a failure from what the build printed.
const quotation = "; its last lines:"

// buildError is a build that failed by its own fault, with the end of what it printed.
type buildError struct {
	why  string
	last []string
}

func (e *buildError) Error() string {
	if len(e.last) == 0 {
		return e.why
	}
	return e.why + quotation + "\n  " + strings.Join(e.last, "\n  ")
}

func (e *buildError) api() error {
	return &api.Error{Code: api.CodeBuildFailed, Message: "build: " + e.Error()}
}

// buildLog passes lines on without ever holding up the build: a client that reads too slowly misses lines, and is told
// how many.
type buildLog struct {
	lines   chan string
	done    chan struct{}
	mu      sync.Mutex // guards dropped
	dropped int
}

const maxLogQueue = 4096 // lines

func newBuildLog(send func(string) error) *buildLog {
	l := &buildLog{lines: make(chan string, maxLogQueue), done: make(chan struct{})}
	go func() {
		defer close(l.done)
		var err error
		for line := range l.lines {
			if err == nil { // once the client is gone the rest is let go
				err = send(line)
			}
		}
		if n := l.missed(); err == nil && n > 0 {
			_ = send(fmt.Sprintf("(%d lines not shown)", n))
		}
	}()
	return l
}

func (l *buildLog) add(line string) {
	select {
	case l.lines <- line:
		return
	default:
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dropped++
}

func (l *buildLog) missed() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.dropped
}

// close returns when everything was sent.
func (l *buildLog) close() {
	close(l.lines)
	<-l.done
}
