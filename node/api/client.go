package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Deadlines of a request, from its start to the end of its answer. They are longer than what a node itself waits
// for a leader, so that the node's own error (which says more) normally comes first.
const (
	dialTimeout   = 3 * time.Second
	queryTimeout  = 15 * time.Second
	changeTimeout = 60 * time.Second // plan, deploy, abort, tokens
	maxReply      = 256 << 20        // bytes of one answer that is not a stream
	maxMissing    = 10_000           // ids in one MissingRequest
	maxSocketPath = 107              // bytes: what sun_path holds on Linux, less its zero
)

// Client speaks to one node over its Unix socket. It is safe for concurrent use.
//
// Every method answers with a *Error for what the node refused (as the node sent it) and for a node that cannot be
// reached (CodeUnreachable). When the caller's own context ended, the error wraps that context's error instead.
type Client struct {
	socket string
	http   *http.Client
	quiet  time.Duration // silence on a stream after which the node is asked whether it lives
	probe  time.Duration // how long it has to answer then
}

// NewClient returns a client for the node that listens on socket. It connects with the first request.
func NewClient(socket string) *Client {
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", socket)
		},
		MaxIdleConnsPerHost: 8,
		IdleConnTimeout:     30 * time.Second,
		DisableCompression:  true, // it never leaves the machine
	}
	return &Client{socket: socket, http: &http.Client{Transport: transport}, quiet: quietTime, probe: probeTimeout}
}

// Socket is the path that the client was made with.
func (c *Client) Socket() string { return c.socket }

// Close drops idle connections. The client can still be used.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// CodeOf is the code of the *Error that err holds: "" for nil, CodeFailed when it holds none.
func CodeOf(err error) string {
	var e *Error
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e) && e.Code != "":
		return e.Code
	}
	return CodeFailed
}

// Version asks which binary the node runs.
func (c *Client) Version(ctx context.Context) (Version, error) {
	return call[Version](ctx, c, queryTimeout, http.MethodGet, "/v1/version", nil)
}

// Members lists the members of the cluster.
func (c *Client) Members(ctx context.Context) (Members, error) {
	return call[Members](ctx, c, queryTimeout, http.MethodGet, "/v1/members", nil)
}

// Status shows a system. A consistent read asks the leader first; the other kind answers without a quorum.
func (c *Client) Status(ctx context.Context, system string, consistent bool) (Status, error) {
	q := url.Values{"system": {system}}
	if consistent {
		q.Set("consistent", "1")
	}
	return call[Status](ctx, c, queryTimeout, http.MethodGet, "/v1/status?"+q.Encode(), nil)
}

// Ports lists the numbers that services hold.
func (c *Client) Ports(ctx context.Context) ([]Reservation, error) {
	return call[[]Reservation](ctx, c, queryTimeout, http.MethodGet, "/v1/ports", nil)
}

// History lists the generations of a system as the node sends them. A consistent read asks the leader first; the other
// kind answers without a quorum.
func (c *Client) History(ctx context.Context, system string, consistent bool) ([]HistoryEntry, error) {
	q := url.Values{"system": {system}}
	if consistent {
		q.Set("consistent", "1")
	}
	return call[[]HistoryEntry](ctx, c, queryTimeout, http.MethodGet, "/v1/history?"+q.Encode(), nil)
}

// Tokens lists the tokens, never their secrets.
func (c *Client) Tokens(ctx context.Context) ([]Token, error) {
	return call[[]Token](ctx, c, queryTimeout, http.MethodGet, "/v1/tokens", nil)
}

// CreateToken makes a token.
func (c *Client) CreateToken(ctx context.Context, req TokenRequest) (TokenCreated, error) {
	return call[TokenCreated](ctx, c, changeTimeout, http.MethodPost, "/v1/tokens", req)
}

// RevokeToken makes a token useless; CodeNotFound when there is none of that id.
func (c *Client) RevokeToken(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, c, changeTimeout, http.MethodDelete, "/v1/tokens/"+url.PathEscape(id), nil)
	return err
}

// Missing says which of the objects the node's store lacks, in the order of ids; it asks in portions.
func (c *Client) Missing(ctx context.Context, ids []string) ([]string, error) {
	var missing []string
	for len(ids) > 0 {
		n := min(len(ids), maxMissing)
		reply, err := call[MissingReply](ctx, c, changeTimeout, http.MethodPost, "/v1/objects/missing", MissingRequest{IDs: ids[:n]})
		if err != nil {
			return nil, err
		}
		missing, ids = append(missing, reply.IDs...), ids[n:]
	}
	return missing, nil
}

// PutObjects sends a stream of snapshotstore frames. There is no deadline for the whole, which may be large; a node
// that stops taking bytes is noticed as on a silent stream.
func (c *Client) PutObjects(ctx context.Context, frames io.Reader) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w := newWatchdog(ctx, c, cancel)
	defer w.stop()
	resp, err := c.do(ctx, http.MethodPut, "/v1/objects", "application/octet-stream", w.reader(frames))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, io.LimitReader(resp.Body, maxReply))
	return c.translate(ctx, err)
}

// Plan computes what a request would change.
func (c *Client) Plan(ctx context.Context, req PlanRequest) (Plan, error) {
	return call[Plan](ctx, c, changeTimeout, http.MethodPost, "/v1/plan", req)
}

// Deploy asks for a new generation; CodeStale when it would no longer lead to the manifest of req.Digest. A request
// whose reply was lost may be sent again with the same proposal.
func (c *Client) Deploy(ctx context.Context, req DeployRequest) (DeployReply, error) {
	return call[DeployReply](ctx, c, changeTimeout, http.MethodPost, "/v1/deploy", req)
}

// Abort ends the running intent of a system.
func (c *Client) Abort(ctx context.Context, req AbortRequest) error {
	_, err := call[struct{}](ctx, c, changeTimeout, http.MethodPost, "/v1/abort", req)
	return err
}

// call sends one request and decodes its answer. An empty answer leaves the zero value.
func call[T any](ctx context.Context, c *Client, timeout time.Duration, method, path string, body any) (T, error) {
	var reply T
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, slowError(c.socket, timeout))
	defer cancel()
	resp, err := c.send(ctx, method, path, body)
	if err != nil {
		return reply, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	if err != nil {
		return reply, c.translate(ctx, err)
	}
	if len(bytes.TrimSpace(raw)) == 0 {
		return reply, nil
	}
	if err := json.Unmarshal(raw, &reply); err != nil {
		return reply, fmt.Errorf("decode answer to %s %s: %w", method, path, err)
	}
	return reply, nil
}

// send encodes body as JSON (nil sends none) and returns an answer that succeeded.
func (c *Client) send(ctx context.Context, method, path string, body any) (*http.Response, error) {
	if body == nil {
		return c.do(ctx, method, path, "", nil)
	}
	raw, err := json.Marshal(body)
	if err != nil {
		return nil, fmt.Errorf("encode request %s %s: %w", method, path, err)
	}
	return c.do(ctx, method, path, "application/json", bytes.NewReader(raw))
}

// do sends one request. The caller closes the body of an answer that it gets; every error is translated already.
func (c *Client) do(ctx context.Context, method, path, contentType string, body io.Reader) (*http.Response, error) {
	// The host is never resolved; it only has to be there.
	req, err := http.NewRequestWithContext(ctx, method, "http://isonomia"+path, body)
	if err != nil {
		return nil, fmt.Errorf("make request %s %q: %w", method, path, err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.translate(ctx, err)
	}
	if resp.StatusCode >= 400 {
		defer resp.Body.Close()
		raw, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // a part is better than nothing
		return nil, decodeError(resp.StatusCode, raw)
	}
	return resp, nil
}

// decodeError restores the Error that a node sent, or makes one for an answer that is not ours.
func decodeError(status int, raw []byte) *Error {
	e := &Error{}
	if json.Unmarshal(raw, e) == nil && e.Message != "" {
		if e.Code == "" {
			e.Code = CodeFailed
		}
		return e
	}
	text := strings.TrimSpace(string(raw[:min(len(raw), 200)]))
	return &Error{Code: CodeFailed, Message: strings.TrimSpace("the node answered " + strconv.Itoa(status) + " " + http.StatusText(status) + ": " + text)}
}

// translate turns what the transport says into what an operator can act on. An error of the node's stays as it is,
// and so does the end of the caller's own context.
func (c *Client) translate(ctx context.Context, err error) error {
	var known *Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return known
	case errors.As(context.Cause(ctx), &known): // our own deadline or watchdog
		return known
	case ctx.Err() != nil:
		return fmt.Errorf("ask node at %s: %w", c.socket, ctx.Err())
	}
	return c.unreachable(err)
}

const startHint = "start the agent (isonomia agent), or name another node's socket with --node or $ISONOMIA_NODE"

func (c *Client) unreachable(err error) *Error {
	e := &Error{Code: CodeUnreachable, Hint: startHint, Where: c.socket}
	switch {
	case len(c.socket) > maxSocketPath:
		e.Message = fmt.Sprintf("the socket path %s is longer than %d bytes", c.socket, maxSocketPath)
		e.Hint = "use a data directory with a shorter path"
	case errors.Is(err, fs.ErrNotExist):
		e.Message = "no node listens on " + c.socket
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Message = "the node at " + c.socket + " is not running"
	case errors.Is(err, fs.ErrPermission):
		e.Code, e.Message = CodeDenied, "no permission to open "+c.socket
		e.Hint = "run it as root or as a member of the group that owns the socket"
	case errors.Is(err, syscall.ENOTSOCK), errors.Is(err, syscall.ENOTDIR):
		e.Message = c.socket + " is not the socket of a node"
	default:
		e.Message = "the connection to the node at " + c.socket + " broke"
	}
	return e
}

// slowError is the cause of a deadline that the client set itself.
func slowError(socket string, d time.Duration) *Error {
	return &Error{Code: CodeUnreachable, Where: socket, Hint: startHint,
		Message: fmt.Sprintf("the node at %s did not answer within %s", socket, d)}
}
