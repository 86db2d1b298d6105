package keeper

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"
)

// The versions of the protocol that this binary speaks. A keeper is not restarted when the agent is upgraded, so an
// agent keeps talking to older ones.
const (
	minVersion = 1
	maxVersion = 1
)

const (
	maxFrame     = 1 << 20 // bytes of one frame's JSON
	maxID        = 1024    // bytes of an id
	listChunk    = 256     // statuses in one frame
	maxTailLines = 1000
)

// Request operations. Never renamed, never reused.
const (
	opHello    = "hello"
	opStart    = "start"
	opStop     = "stop"
	opList     = "list"
	opWatch    = "watch"
	opTail     = "tail"
	opOwner    = "owner"
	opForget   = "forget"
	opShutdown = "shutdown"
	opLease    = "lease"
)

// Error codes of the wire and the sentinels that they stand for on both sides. Never renamed, never reused.
const (
	codeBadRequest = "bad_request"
	codeUnknownOp  = "unknown_op"
	codeVersion    = "version"
	codeUnknownID  = "unknown_id"
	codeRunning    = "running"
	codeExec       = "exec"
	codeClosing    = "closing"
	codeFull       = "full"
	codeInternal   = "internal"
	codeNoLease    = "no_lease"
)

// Errors that callers branch on; errors.Is finds them on the client's side of the socket too.
var (
	ErrBadRequest = errors.New("bad request")
	ErrUnknownOp  = errors.New("operation unknown to this keeper")
	ErrVersion    = errors.New("no common protocol version")
	ErrUnknownID  = errors.New("no such start")
	ErrRunning    = errors.New("still running")
	ErrClosing    = errors.New("keeper is shutting down")
	ErrFull       = errors.New("too many starts kept")
	// ErrNoLease is the answer to a leased start when no lease runs.
	ErrNoLease = errors.New("the node has no lease at the moment")
	// ErrNotRunning is the client's own: nothing answers on DIR/keeper.sock.
	ErrNotRunning = errors.New("no keeper is running")
)

var sentinels = map[string]error{
	codeBadRequest: ErrBadRequest, codeUnknownOp: ErrUnknownOp, codeVersion: ErrVersion, codeUnknownID: ErrUnknownID,
	codeRunning: ErrRunning, codeClosing: ErrClosing, codeFull: ErrFull, codeNoLease: ErrNoLease,
}

// ExecError says that the program could not be started: its Errno is that of fork, chdir or exec.
type ExecError struct {
	Path  string
	Errno syscall.Errno
}

func (e *ExecError) Error() string { return fmt.Sprintf("start %q: %v", e.Path, e.Errno) }

// Unwrap lets errors.Is(err, fs.ErrNotExist) see the errno.
func (e *ExecError) Unwrap() error { return e.Errno }

// Spec is one start of one service: everything the keeper needs, nothing to look up.
type Spec struct {
	// ID names this start, not the service: a restart has another one. 1 to 1024 bytes, opaque.
	ID string `json:"id"`
	// Argv[0] is an absolute path.
	Argv []string `json:"argv"`
	// Env is the whole environment as NAME=value; the keeper adds only ISONOMIA_INSTANCE.
	Env []string `json:"env"`
	// Dir is the absolute working directory.
	Dir string `json:"dir"`
	// User is whom to run as; nil means as the keeper itself.
	User *User `json:"user,omitempty"`
	// LogDir/LogName.log gets the output. Several starts may share one log.
	LogDir  string `json:"log_dir"`
	LogName string `json:"log_name"`
	// Notify, if set, is the absolute path of a datagram socket that the keeper makes for sd_notify messages; see
	// Client.NotifyPath. Its directory must belong to the keeper's user.
	Notify string `json:"notify,omitempty"`
	// Grace is how long processes may outlive the main one after it ended by itself, between TERM and KILL.
	Grace time.Duration `json:"grace_ns"`
	// Leased: it may run while the node's lease does, and no longer. See Lease.
	Leased bool `json:"leased,omitempty"`
}

// User is a uid, its gid and supplementary groups.
type User struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
}

// State is where a start is in its life.
type State string

// The states of a start. Forgotten is only ever seen in a watch.
const (
	Running   State = "running"
	Stopping  State = "stopping" // told to end, or its main process ended and others are left
	Exited    State = "exited"   // nothing of it is left, its output is on disk, its status is kept
	Forgotten State = "forgotten"
)

// Status is what the keeper knows about one start.
type Status struct {
	ID        string        `json:"id"`
	State     State         `json:"state"`
	PID       int           `json:"pid"`
	StartedAt time.Time     `json:"started_at"`
	Age       time.Duration `json:"age_ns"` // since the start on the monotonic clock, at the time of this status
	// Notified: it has sent something to its notify socket. Ready: READY=1 was in it. Text is its last STATUS=.
	Notified bool   `json:"notified,omitempty"`
	Ready    bool   `json:"ready,omitempty"`
	Text     string `json:"text,omitempty"`
	// Dropped counts output lines that are not in the log, for the rate limit or for a slow or full disk.
	Dropped uint64 `json:"dropped,omitempty"`
	// Exit is set as soon as the main process has ended, which may be before State is Exited.
	Exit *Exit `json:"exit,omitempty"`
}

// Exit is how the main process of a start ended.
type Exit struct {
	Code   int            `json:"code"`             // exit status, -1 if it died of a signal
	Signal syscall.Signal `json:"signal,omitempty"` // 0 unless it died of one
	At     time.Time      `json:"at"`
	After  time.Duration  `json:"after_ns"` // since the start, monotonic
	// Unleased: it was told to end because the node's lease was over.
	Unleased bool `json:"unleased,omitempty"`
}

func (e Exit) String() string {
	if e.Unleased {
		return fmt.Sprintf("ended for lack of a lease after %s", shortDuration(e.After))
	}
	if e.Signal != 0 {
		return fmt.Sprintf("killed by signal %d (%v) after %s", int(e.Signal), e.Signal, shortDuration(e.After))
	}
	return fmt.Sprintf("exited with status %d after %s", e.Code, shortDuration(e.After))
}

// shortDuration rounds for people: 0.2 s, 12.3 s, 5m4s.
func shortDuration(d time.Duration) string {
	if d < time.Minute {
		return fmt.Sprintf("%.1f s", d.Seconds())
	}
	return d.Round(time.Second).String()
}

type request struct {
	Op    string        `json:"op"`
	Min   int           `json:"min,omitempty"`
	Max   int           `json:"max,omitempty"`
	ID    string        `json:"id,omitempty"`
	Spec  *Spec         `json:"spec,omitempty"`
	Grace time.Duration `json:"grace_ns,omitempty"`
	Lines int           `json:"lines,omitempty"`
	PID   int           `json:"pid,omitempty"`
	Lease *Lease        `json:"lease,omitempty"`
}

type reply struct {
	Error   *wireError `json:"error,omitempty"`
	Version int        `json:"version,omitempty"`
	PID     int        `json:"pid,omitempty"`
	Boot    string     `json:"boot,omitempty"`
	ID      string     `json:"id,omitempty"`
	Status  *Status    `json:"status,omitempty"`
	List    []Status   `json:"list,omitempty"`
	Lines   []string   `json:"lines,omitempty"`
	More    bool       `json:"more,omitempty"`
}

type wireError struct {
	Code    string        `json:"code"`
	Message string        `json:"message"`
	Errno   syscall.Errno `json:"errno,omitempty"`
	Path    string        `json:"path,omitempty"`
}

// toWire finds the code of err; what has none is internal.
func toWire(err error) *wireError {
	var ee *ExecError
	if errors.As(err, &ee) {
		return &wireError{Code: codeExec, Message: err.Error(), Errno: ee.Errno, Path: ee.Path}
	}
	for code, s := range sentinels {
		if errors.Is(err, s) {
			return &wireError{Code: code, Message: err.Error()}
		}
	}
	return &wireError{Code: codeInternal, Message: err.Error()}
}

// fromWire restores what toWire was given, as far as anybody can branch on it.
func fromWire(w *wireError) error {
	if w.Code == codeExec {
		return &ExecError{Path: w.Path, Errno: w.Errno}
	}
	s, ok := sentinels[w.Code]
	if !ok {
		return errors.New(w.Message)
	}
	return fmt.Errorf("%w: %s", s, strings.TrimPrefix(w.Message, s.Error()+": "))
}

// readFrame reads one frame's JSON; io.EOF only between frames.
func readFrame(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n == 0 || n > maxFrame {
		return nil, fmt.Errorf("%w: frame of %d bytes", ErrBadRequest, n)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, fmt.Errorf("read frame: %w", noEOF(err))
	}
	return body, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// writeFrame writes v in one Write, so that frames of a stream never interleave.
func writeFrame(w io.Writer, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	if len(body) > maxFrame {
		return fmt.Errorf("%w: frame of %d bytes", ErrBadRequest, len(body))
	}
	frame := binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(body)), uint32(len(body)))
	_, err = w.Write(append(frame, body...))
	return err
}

// parseRequest decodes and checks one request. It is pure: the only place where bytes of a client are interpreted.
func parseRequest(body []byte) (request, error) {
	var r request
	if err := json.Unmarshal(body, &r); err != nil {
		return request{}, fmt.Errorf("%w: %w", ErrBadRequest, err)
	}
	if len(r.ID) > maxID || r.Grace < 0 || r.Lines < 0 || r.PID < 0 {
		return request{}, fmt.Errorf("%w: a value of %q is out of range", ErrBadRequest, r.Op)
	}
	switch r.Op {
	case opHello, opList, opWatch, opShutdown:
	case opStop, opForget, opTail:
		if r.ID == "" {
			return request{}, fmt.Errorf("%w: %s without an id", ErrBadRequest, r.Op)
		}
	case opLease:
		if r.Lease == nil {
			return request{}, fmt.Errorf("%w: lease without one", ErrBadRequest)
		}
	case opOwner:
		if r.PID == 0 {
			return request{}, fmt.Errorf("%w: owner without a pid", ErrBadRequest)
		}
	case opStart:
		if r.Spec == nil {
			return request{}, fmt.Errorf("%w: start without a spec", ErrBadRequest)
		}
		if err := r.Spec.check(); err != nil {
			return request{}, err
		}
	default:
		return request{}, fmt.Errorf("%w: %.40q", ErrUnknownOp, r.Op)
	}
	r.Lines = min(r.Lines, maxTailLines)
	return r, nil
}

// check says what is wrong with a spec. Both sides use it: the client because JSON would silently replace bytes that
// are not UTF-8.
func (s *Spec) check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: start: "+format, append([]any{ErrBadRequest}, a...)...)
	}
	if s.ID == "" || len(s.ID) > maxID || !plain(s.ID) {
		return bad("id %.40q", s.ID)
	}
	if len(s.Argv) == 0 || !filepath.IsAbs(s.Argv[0]) {
		return bad("the program is no absolute path")
	}
	if !filepath.IsAbs(s.Dir) || !filepath.IsAbs(s.LogDir) || s.Notify != "" && !filepath.IsAbs(s.Notify) {
		return bad("a path is not absolute")
	}
	if s.LogName == "" || len(s.LogName) > 200 || s.LogName[0] == '.' || strings.ContainsAny(s.LogName, "/\n") {
		return bad("log name %.40q", s.LogName)
	}
	if s.Grace < 0 {
		return bad("grace %v", s.Grace)
	}
	for _, e := range s.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return bad("environment entry %.40q", e)
		}
	}
	for _, list := range [][]string{s.Argv, s.Env, {s.Dir, s.LogDir, s.LogName, s.Notify}} {
		for _, v := range list {
			if !plain(v) {
				return bad("%.40q has a zero byte or is not UTF-8", v)
			}
		}
	}
	return nil
}

func plain(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
