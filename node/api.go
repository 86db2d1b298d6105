package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
)

// maxRequest bounds a JSON request: a model with its files, base64 in JSON.
const maxRequest = 8 << 20

// apiRoutes is the public API under /v1; the same for people on this machine and, over the mesh, for a node that
// passes a request on. What must run where raft leads is passed on to there.
func (n *Node) apiRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/version", handle(n.getVersion))
	mux.HandleFunc("GET /v1/members", handle(n.getMembers))
	mux.HandleFunc("GET /v1/infrastructure", handle(n.getInfrastructure))
	mux.HandleFunc("GET /v1/status", handle(n.getStatus))
	mux.HandleFunc("GET /v1/ports", handle(n.getPorts))
	mux.HandleFunc("GET /v1/history", handle(n.getHistory))
	mux.HandleFunc("GET /v1/tokens", handle(n.getTokens))
	mux.HandleFunc("POST /v1/tokens", handle(n.postToken))
	mux.HandleFunc("DELETE /v1/tokens/{id}", handle(n.deleteToken))
	mux.HandleFunc("POST /v1/objects/missing", handle(n.postMissing))
	mux.HandleFunc("PUT /v1/objects", handle(n.putObjects))
	mux.HandleFunc("POST /v1/builds", n.postBuild)
	mux.HandleFunc("POST /v1/plan", handle(n.postPlan))
	mux.HandleFunc("POST /v1/deploy", handle(n.postDeploy))
	mux.HandleFunc("POST /v1/compose", n.onLeader(handle(n.postCompose)))
	mux.HandleFunc("POST /v1/abort", handle(n.postAbort))
	mux.HandleFunc("GET /v1/snapshots", handle(n.getSnapshots))
	mux.HandleFunc("POST /v1/snapshots", handle(n.postSnapshot))
	mux.HandleFunc("POST /v1/restore", handle(n.postRestore))
	mux.HandleFunc("GET /v1/snapshots/archive", n.getArchive)
	mux.HandleFunc("PUT /v1/snapshots/archive", handle(n.putArchive))
	mux.HandleFunc("GET /v1/snapshots/diff", handle(n.getDiff))
	mux.HandleFunc("POST /v1/whatif", handle(n.postWhatIf))
	mux.HandleFunc("POST /v1/drain", handle(n.postDrain))
	mux.HandleFunc("POST /v1/leave", handle(n.postLeave))
	mux.HandleFunc("POST /v1/remove", handle(n.postRemove))
	mux.HandleFunc("POST /v1/recover", handle(n.postRecover))
	mux.HandleFunc("POST /v1/reconstruct", handle(n.postReconstruct))
	mux.HandleFunc("POST /v1/gc", handle(n.postGC))
	mux.HandleFunc("POST /v1/check", handle(n.postCheck))
	mux.HandleFunc("GET /v1/watch", n.getWatch)
	mux.HandleFunc("GET /v1/logs", n.getLogs)
	mux.HandleFunc("GET /v1/events", n.getEvents)
	mux.HandleFunc("/", handle(func(r *http.Request) (any, error) {
		return nil, &api.Error{Code: api.CodeNotFound, Message: "there is no " + r.Method + " " + r.URL.Path}
	}))
	return namesSystems(mux)
}

// handle adapts a function to a handler: its value becomes JSON, its error an api.Error.
func handle(f func(r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, err := f(r)
		if err != nil {
			writeError(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(v)
	}
}

func writeError(w http.ResponseWriter, err error) {
	e := asError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(statusOf(e.Code))
	_ = json.NewEncoder(w).Encode(e)
}

func statusOf(code string) int {
	switch code {
	case api.CodeNotFound:
		return http.StatusNotFound
	case api.CodeStale, api.CodeConflict:
		return http.StatusConflict
	case api.CodeUsage, api.CodeInvalidModel:
		return http.StatusUnprocessableEntity
	case api.CodeNoQuorum, api.CodeUnreachable:
		return http.StatusServiceUnavailable
	case api.CodeDenied:
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// asError gives any error the form in which it travels.
func asError(err error) *api.Error {
	var e *api.Error
	var refused *model.ResultError
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &refused):
		return &api.Error{Code: codeOf(refused.Result.Code), Message: err.Error()}
	case errors.Is(err, raftfsm.ErrNoQuorum), errors.Is(err, context.DeadlineExceeded):
		return &api.Error{Code: api.CodeNoQuorum, Message: "no leader answered in time: " + err.Error(),
			Hint: "See isonomia members; more than half of the voters must be up."}
	}
	return &api.Error{Code: api.CodeFailed, Message: err.Error()}
}

func codeOf(c model.Code) string {
	switch c {
	case model.ErrStale:
		return api.CodeStale
	case model.ErrUnknown, model.ErrRevoked:
		return api.CodeNotFound
	case model.ErrConflict, model.ErrPhase:
		return api.CodeConflict
	}
	return api.CodeFailed
}

func decode[T any](r *http.Request) (T, error) {
	var v T
	b, err := io.ReadAll(io.LimitReader(r.Body, maxRequest+1))
	if err != nil {
		return v, &api.Error{Code: api.CodeUsage, Message: "read the request: " + err.Error()}
	}
	if len(b) > maxRequest {
		return v, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("the request is larger than %d MiB", maxRequest>>20)}
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, &api.Error{Code: api.CodeUsage, Message: "the request is not the JSON expected: " + err.Error()}
	}
	return v, nil
}

// onLeader passes a request on to the node where raft leads, unless that is this one.
func (n *Node) onLeader(h http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if n.fsm.IsLeader() || peerID(r.Context()) != "" {
			h(w, r) // one hop at the most: a node that was asked in error says so
			return
		}
		leader := n.fsm.Leader()
		if leader == "" {
			writeError(w, errNoLeader)
			return
		}
		proxy := &httputil.ReverseProxy{Transport: n.peers.rpc.Transport, FlushInterval: -1, ErrorLog: quietLog(n.log),
			Rewrite: func(pr *httputil.ProxyRequest) { pr.Out.URL.Scheme, pr.Out.URL.Host = "http", leader },
			ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
				writeError(w, &api.Error{Code: api.CodeNoQuorum, Message: "ask the leader: " + err.Error()})
			}}
		proxy.ServeHTTP(w, r)
	}
}

// serveAPI listens on the local socket. Who may open it, may do everything: it belongs to the agent's user and group.
func (n *Node) serveAPI(ctx context.Context) error {
	path := n.dir.socket()
	l, err := listenUnix(path)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: n.apiRoutes(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: quietLog(n.log),
		BaseContext: func(net.Listener) context.Context { return ctx }}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", path, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", path, err)
	}
	return nil
}

// listenUnix makes the socket where nobody else gets to it and moves it into place when its mode is right, so that it is
// never open to others for an instant. (The umask would be the whole process's.) Whatever has the name is replaced.
func listenUnix(path string) (net.Listener, error) {
	if err := fitsSocket(path); err != nil {
		return nil, err
	}
	temp, err := os.MkdirTemp(filepath.Dir(path), ".a")
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	defer os.RemoveAll(temp)
	made := filepath.Join(temp, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: made, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(made, 0o660), os.Rename(made, path)); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, errors.Join(err, l.Close()))
	}
	return namedListener{l, path}, nil
}

// namedListener removes its socket's name when it is closed.
type namedListener struct {
	*net.UnixListener
	path string
}

func (l namedListener) Close() error {
	err := l.UnixListener.Close()
	if err == nil {
		err = os.Remove(l.path)
	}
	return err
}

func (n *Node) getVersion(*http.Request) (any, error) {
	return api.Version{Version: Version, Go: runtime.Version(), Node: n.cfg.Name, ID: n.id.ID}, nil
}

// systemOf is the system a request is about.
func systemOf(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// checkSystem refuses what cannot be the name of a system.
func checkSystem(name string) error {
	if model.ValidSystem(systemOf(name)) {
		return nil
	}
	return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q cannot be the name of a system", name), Hint: model.NameHint}
}

// namesSystems lets only requests pass whose query can name a system.
func namesSystems(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := checkSystem(r.URL.Query().Get("system")); err != nil {
			writeError(w, err)
			return
		}
		h.ServeHTTP(w, r)
	})
}

// stateFor gives State as the request wants it: consistent=1 asks the leader first.
func (n *Node) stateFor(r *http.Request) (*model.State, bool, error) {
	if r.URL.Query().Get("consistent") == "" {
		return n.fsm.State(), true, nil
	}
	s, err := n.readState(r.Context())
	return s, false, err
}

// readState gives a State that holds all that was acknowledged before.
func (n *Node) readState(ctx context.Context) (*model.State, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	s, err := n.fsm.Read(ctx)
	if sick := n.disk.sick(); err != nil && sick != "" {
		return nil, &api.Error{Code: api.CodeNoQuorum, Message: fmt.Sprintf("this node does not know what the cluster does: %s (%v)", sick, err), Hint: "Ask another node."}
	}
	return s, err
}

func intParam(r *http.Request, name string, otherwise int) (int, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return otherwise, nil
	}
	i, err := strconv.Atoi(v)
	if err != nil || i < 0 {
		return 0, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%s: %q is not a number", name, v)}
	}
	return i, nil
}
