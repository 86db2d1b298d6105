package node

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/mesh"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// Nodes speak HTTP/1.1 on mesh streams: one stream is one connection, the host of a URL is the node's id. Deadlines,
// streaming bodies and routing are then net/http's; who is at the other end is mesh's word, not a header.
//
//	POST /raft/forward   a log entry for the leader             (raftfsm)
//	GET  /raft/index     the leader's read index                (raftfsm)
//	GET  /survey         what a node has to rebuild the cluster from  (any)
//	POST /announce       say what a node cannot that says it of itself  (any)
//	POST /lease          until when exclusive services may run   (leader)
//	POST /sign           a leaf for a member's key              (leader)
//	GET  /observed       what runs on that node                 (any)
//	GET  /unanswered     shared ports that it cannot answer     (any)
//	POST /hold           fetch these trees and keep them        (any)
//	POST /warm           take a warm copy of a service's state  (where it is active)
//	POST /ahead          take a snapshot of a service's state ahead of an upgrade  (where it is active)
//	*    /v1/...         the public API, passed on for a user of another node
//
// On blob streams:
//
//	GET  /journal        the newest State that the node knows to be committed
//	GET  /tail           the State that its raft log leads to   (raft servers, without a leader)
//	POST /objects        hex ids, one per line -> frames of those that it has

const maxPeerBody = 4 << 20

// peers is the client side.
type peers struct {
	rpc  *http.Client
	blob *http.Client
}

func newPeers(m *mesh.Mesh) *peers {
	client := func(p mesh.Proto) *http.Client {
		return &http.Client{Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				id, _, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				return m.Dial(ctx, id, p)
			},
			MaxIdleConnsPerHost: 4, MaxConnsPerHost: 64, IdleConnTimeout: 30 * time.Second, DisableCompression: true,
		}}
	}
	return &peers{rpc: client(mesh.ProtoRPC), blob: client(mesh.ProtoBlob)}
}

func (p *peers) close() {
	p.rpc.CloseIdleConnections()
	p.blob.CloseIdleConnections()
}

// call makes one request and gives the body of a 200; any other status is the peer's error.
func (p *peers) call(ctx context.Context, id, method, path string, body []byte) ([]byte, error) {
	resp, err := p.open(ctx, p.rpc, id, method, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxPeerBody+1))
	if err != nil {
		return nil, fmt.Errorf("read the answer of node %.8s: %w", id, err)
	}
	if len(b) > maxPeerBody {
		return nil, fmt.Errorf("the answer of node %.8s is too large", id)
	}
	return b, nil
}

func (p *peers) open(ctx context.Context, c *http.Client, id, method, path string, body []byte) (*http.Response, error) {
	if id == "" {
		return nil, errNoLeader
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+id+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask node %.8s: %w", id, err)
	}
	if resp.StatusCode != http.StatusOK {
		defer resp.Body.Close()
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
		var e api.Error
		if json.Unmarshal(b, &e) == nil && e.Code != "" {
			return nil, &e
		}
		if resp.StatusCode == http.StatusNotFound {
			return nil, fmt.Errorf("node %.8s: %w", id, errNoRoute)
		}
		return nil, fmt.Errorf("node %.8s: %s", id, strings.TrimSpace(string(b)))
	}
	return resp, nil
}

var errNoLeader = &api.Error{Code: api.CodeNoQuorum, Message: "the cluster has no leader at the moment"}

// errNoRoute is a peer of a version that does not know the question.
var errNoRoute = errors.New("does not know what it is asked")

func (p *peers) forward(ctx context.Context, leader string, entry []byte) ([]byte, error) {
	return p.call(ctx, leader, http.MethodPost, "/raft/forward", entry)
}

func (p *peers) index(ctx context.Context, leader string) (uint64, error) {
	b, err := p.call(ctx, leader, http.MethodGet, "/raft/index", nil)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(string(b), 10, 64)
}

func (p *peers) sign(ctx context.Context, leader string, key ed25519.PublicKey) ([]byte, error) {
	return p.call(ctx, leader, http.MethodPost, "/sign", key)
}

// observed asks a node what runs there, by row key.
func (p *peers) observed(ctx context.Context, id string) (map[string]observation, error) {
	b, err := p.call(ctx, id, http.MethodGet, "/observed", nil)
	if err != nil {
		return nil, err
	}
	var out map[string]observation
	if err := json.Unmarshal(b, &out); err != nil {
		return nil, fmt.Errorf("decode the answer of node %.8s: %w", id, err)
	}
	return out, nil
}

// hold asks a node to fetch trees and to answer when it has them on disk.
func (p *peers) hold(ctx context.Context, id string, trees []string) error {
	_, err := p.call(ctx, id, http.MethodPost, "/hold", []byte(strings.Join(trees, "\n")))
	return err
}

// warm asks a node for a warm copy of a service's state that is there.
func (p *peers) warm(ctx context.Context, id, system, service, container string) (warmCopy, error) {
	req, _ := json.Marshal([3]string{system, service, container}) // strings always encode
	b, err := p.call(ctx, id, http.MethodPost, "/warm", req)
	if err != nil {
		return warmCopy{}, err
	}
	var w warmCopy
	if err := json.Unmarshal(b, &w); err != nil {
		return warmCopy{}, fmt.Errorf("decode the answer of node %.8s: %w", id, err)
	}
	return w, nil
}

// source is a peer as a source of objects.
type source struct {
	p    *peers
	id   string
	name string
}

func (s source) String() string { return s.name }

// Objects asks the peer for objects; it sends those that it has, as frames.
func (s source) Objects(ctx context.Context, ids []snapshotstore.ID) (io.ReadCloser, error) {
	var b strings.Builder
	for _, id := range ids {
		fmt.Fprintln(&b, id)
	}
	resp, err := s.p.open(ctx, s.p.blob, s.id, http.MethodPost, "/objects", []byte(b.String()))
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Deltas asks the peer for objects as differences from those that are here. One of an older version has no such route.
func (s source) Deltas(ctx context.Context, wants []snapshotstore.Want) (io.ReadCloser, error) {
	resp, err := s.p.open(ctx, s.p.blob, s.id, http.MethodPost, "/deltas", snapshotstore.AppendWants(nil, wants))
	if errors.Is(err, errNoRoute) {
		return nil, snapshotstore.ErrNoDeltas
	}
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// observation is what a node says of one of its processes.
type observation struct {
	PID     int       `json:"pid"`
	Running bool      `json:"running"`
	Since   time.Time `json:"since"`
	Health  string    `json:"health"`
	Trouble string    `json:"trouble,omitempty"`
}

type peerKey struct{}

// peerID is the node at the other end of a request that came over the mesh; "" for a local one.
func peerID(ctx context.Context) string {
	id, _ := ctx.Value(peerKey{}).(string)
	return id
}

// servePeers answers RPC and blob streams until ctx ends.
func (n *Node) servePeers(ctx context.Context) error {
	rpc := n.peerServer(n.peerRoutes())
	blob := n.peerServer(n.blobRoutes())
	errs := make(chan error, 2)
	go func() { errs <- rpc.Serve(n.mesh.Listener(mesh.ProtoRPC)) }()
	go func() { errs <- blob.Serve(n.mesh.Listener(mesh.ProtoBlob)) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-errs:
		errs <- nil
	}
	_ = rpc.Close()
	_ = blob.Close()
	_, _ = <-errs, <-errs // that they were closed
	if ctx.Err() != nil || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (n *Node) peerServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		ErrorLog: quietLog(n.log),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if mc, ok := c.(interface{ PeerID() string }); ok {
				return context.WithValue(ctx, peerKey{}, mc.PeerID())
			}
			return ctx
		}}
}

func (n *Node) peerRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /raft/forward", n.handleBytes(func(ctx context.Context, b []byte) ([]byte, error) {
		return n.fsm.HandleForward(ctx, b)
	}))
	mux.HandleFunc("GET /raft/index", n.handleBytes(func(ctx context.Context, _ []byte) ([]byte, error) {
		i, err := n.fsm.HandleReadIndex(ctx)
		return strconv.AppendUint(nil, i, 10), err
	}))
	mux.HandleFunc("POST /sign", n.handleBytes(func(_ context.Context, b []byte) ([]byte, error) {
		if len(b) != ed25519.PublicKeySize {
			return nil, errors.New("that is no key")
		}
		return n.signLeafHere(b)
	}))
	mux.HandleFunc("GET /observed", n.handleBytes(func(context.Context, []byte) ([]byte, error) {
		return json.Marshal(n.agent.observations())
	}))
	mux.HandleFunc("GET /unanswered", n.handleBytes(func(context.Context, []byte) ([]byte, error) {
		return json.Marshal(n.shared.unanswered())
	}))
	mux.HandleFunc("POST /hold", n.handleBytes(func(ctx context.Context, b []byte) ([]byte, error) {
		return nil, n.fetchTrees(ctx, strings.Fields(string(b)))
	}))
	mux.HandleFunc("GET /survey", n.handleBytes(func(context.Context, []byte) ([]byte, error) { return json.Marshal(n.surveyHere()) }))
	mux.HandleFunc("POST /announce", n.handleBytes(n.handleAnnounce))
	mux.HandleFunc("POST /lease", n.handleBytes(n.handleLease))
	mux.HandleFunc("POST /ahead", n.handleBytes(n.handleAhead))
	mux.HandleFunc("POST /warm", n.handleBytes(func(ctx context.Context, b []byte) ([]byte, error) {
		var of [3]string
		if err := json.Unmarshal(b, &of); err != nil {
			return nil, err
		}
		w, err := n.giveWarm(ctx, of[0], of[1], of[2])
		if err != nil {
			return nil, err
		}
		return json.Marshal(w)
	}))
	mux.Handle("/v1/", n.apiRoutes())
	return mux
}

// handleBytes adapts a function of bytes to a handler, with a bounded body.
func (n *Node) handleBytes(f func(ctx context.Context, body []byte) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPeerBody))
		var out []byte
		if err == nil {
			out, err = f(r.Context(), body)
		}
		if err != nil {
			writeError(w, err)
			return
		}
		_, _ = w.Write(out)
	}
}

func (n *Node) blobRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /objects", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPeerBody))
		var ids []snapshotstore.ID
		for _, line := range strings.Fields(string(body)) {
			var id snapshotstore.ID
			if err == nil {
				id, err = snapshotstore.ParseID(line)
			}
			ids = append(ids, id)
		}
		if err == nil {
			err = n.store.SendObjects(r.Context(), w, ids)
		}
		n.sentObjects(r, err)
	})
	mux.HandleFunc("GET /journal", n.sendJournal)
	mux.HandleFunc("GET /tail", n.sendTail)
	mux.HandleFunc("POST /deltas", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPeerBody))
		var wants []snapshotstore.Want
		if err == nil {
			wants, err = snapshotstore.ParseWants(body)
		}
		if err == nil {
			err = n.store.SendDeltas(r.Context(), w, wants)
		}
		n.sentObjects(r, err)
	})
	return mux
}

// sentObjects ends an answer. Part of one that failed may be out: the reader must not take it for whole.
func (n *Node) sentObjects(r *http.Request, err error) {
	if err != nil {
		n.log.Debug("sending objects", "peer", peerID(r.Context()), "err", err)
		panic(http.ErrAbortHandler)
	}
}
