package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

const (
	// quietTime is how long a stream may be silent before the client asks the node, on another connection, whether
	// it still answers. A stream speaks only when something changed, so silence alone means nothing; a stopped
	// process keeps its sockets open, so silence is also all that one would see of it.
	quietTime = 10 * time.Second
	// probeTimeout is how long the node has to answer then.
	probeTimeout = 5 * time.Second
	// maxLine bounds one line of a stream in bytes: a status of 10,000 services fits.
	maxLine = 64 << 20
)

// LogQuery says which log lines to send. Empty fields do not restrict.
type LogQuery struct {
	System, Service, Node string
	Tail                  int // newest lines; negative means all that are kept
	Follow                bool
	Since                 time.Time
	// Unanswered is told, before the first line, which nodes could not be asked, if any; nil: nobody is.
	Unanswered func(nodes []string)
}

// EventQuery says which events to send.
type EventQuery struct {
	Tail   int // newest events; negative means all that are kept
	Follow bool
	// Unanswered is told, before the first event, which nodes could not be asked, if any; nil: nobody is.
	Unanswered func(nodes []string)
}

// UnansweredHeader names, in the answer with lines of several nodes, those that could not be asked, commas between them.
const UnansweredHeader = "Isonomia-Unanswered"

// Build runs a build and streams its log. The last event carries Output; an event with Error ends the stream with
// that error. The whole may take as long as the build's own deadline says.
func (c *Client) Build(ctx context.Context, req BuildRequest) iter.Seq2[BuildEvent, error] {
	return stream(ctx, c, http.MethodPost, "/v1/builds", req, func(ev BuildEvent) bool { return ev.Output != "" }, nil)
}

// Watch streams the status of an intent until its outcome is final (Done). A stream that ends before is an error
// with CodeUnreachable.
func (c *Client) Watch(ctx context.Context, system string, intent uint64) iter.Seq2[WatchEvent, error] {
	q := url.Values{"system": {system}, "intent": {strconv.FormatUint(intent, 10)}}
	return stream(ctx, c, http.MethodGet, "/v1/watch?"+q.Encode(), nil, func(ev WatchEvent) bool { return ev.Done }, nil)
}

// Logs streams log lines; with Follow until ctx ends.
func (c *Client) Logs(ctx context.Context, query LogQuery) iter.Seq2[LogLine, error] {
	q := url.Values{"tail": {tailText(query.Tail)}}
	for name, value := range map[string]string{"system": query.System, "service": query.Service, "node": query.Node} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if query.Follow {
		q.Set("follow", "1")
	}
	if !query.Since.IsZero() {
		q.Set("since", query.Since.UTC().Format(time.RFC3339Nano))
	}
	return stream(ctx, c, http.MethodGet, "/v1/logs?"+q.Encode(), nil, unless[LogLine](query.Follow), query.Unanswered)
}

// Events streams what nodes noticed; with Follow until ctx ends.
func (c *Client) Events(ctx context.Context, query EventQuery) iter.Seq2[Event, error] {
	q := url.Values{"tail": {tailText(query.Tail)}}
	if query.Follow {
		q.Set("follow", "1")
	}
	return stream(ctx, c, http.MethodGet, "/v1/events?"+q.Encode(), nil, unless[Event](query.Follow), query.Unanswered)
}

// tailText writes a number of lines; for all that are kept it is one that no ring holds.
func tailText(n int) string {
	if n < 0 {
		n = math.MaxInt32
	}
	return strconv.Itoa(n)
}

// unless is the test for the last item of a stream that may end anywhere, or of one that is followed: that has none.
func unless[T any](follow bool) func(T) bool {
	if !follow {
		return nil
	}
	return func(T) bool { return false }
}

// stream sends a request and yields the lines of its answer. A line with an "error" member yields that error and
// ends the stream, whatever T is; empty lines are skipped. isLast knows the last item: an answer that ends before it
// was cut off, which is CodeUnreachable (nil: it may end anywhere). The request ends when the loop over it does.
func stream[T any](ctx context.Context, c *Client, method, path string, body any, isLast func(T) bool, unanswered func([]string)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		dog := newWatchdog(ctx, c, cancel)
		defer dog.stop()
		var zero T
		resp, err := c.send(ctx, method, path, body)
		if err != nil {
			yield(zero, err)
			return
		}
		defer resp.Body.Close()
		if names := resp.Header.Get(UnansweredHeader); names != "" && unanswered != nil {
			unanswered(strings.Split(names, ","))
		}
		err = eachLine(bufio.NewReader(dog.reader(resp.Body)), isLast, func(item T) bool { return yield(item, nil) })
		if err != nil {
			yield(zero, c.translate(ctx, err))
		}
	}
}

// eachLine decodes lines until the last one or until yield says stop, which are both no error.
func eachLine[T any](lines *bufio.Reader, isLast func(T) bool, yield func(T) bool) error {
	for {
		raw, err := readLine(lines, maxLine)
		if errors.Is(err, io.EOF) && isLast == nil {
			return nil
		}
		if err != nil {
			return err
		}
		item, err := decodeLine[T](raw)
		if err != nil {
			return err
		}
		if !yield(item) || isLast != nil && isLast(item) {
			return nil
		}
	}
}

// readLine returns the next line that is not empty, without its end. A last line without an end was cut off by a
// node that died and counts as io.ErrUnexpectedEOF.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(line)+len(part) > limit {
			return nil, &Error{Code: CodeFailed, Message: fmt.Sprintf("a line of the answer is longer than %d bytes", limit)}
		}
		line = append(line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		case len(trimEnd(line)) == 0:
			line = line[:0]
		default:
			return trimEnd(line), nil
		}
	}
}

func trimEnd(line []byte) []byte {
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line
}

func decodeLine[T any](raw []byte) (T, error) {
	var item T
	if err := json.Unmarshal(raw, &item); err != nil {
		return item, &Error{Code: CodeFailed, Message: "decode line of the answer: " + err.Error()}
	}
	var failure struct {
		Error *Error `json:"error"`
	}
	if json.Unmarshal(raw, &failure) == nil && failure.Error != nil {
		if failure.Error.Code == "" {
			failure.Error.Code = CodeFailed
		}
		return item, failure.Error
	}
	return item, nil
}

// watchdog ends a request whose node no longer answers. It asks only after a silence, so an active stream costs
// nothing.
type watchdog struct {
	moved atomic.Bool // bytes went either way since the last look
	done  chan struct{}
}

func newWatchdog(ctx context.Context, c *Client, cancel context.CancelCauseFunc) *watchdog {
	w := &watchdog{done: make(chan struct{})}
	go w.run(ctx, c, cancel)
	return w
}

func (w *watchdog) run(ctx context.Context, c *Client, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(c.quiet)
	defer tick.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if w.moved.Swap(false) {
			continue
		}
		probe, stop := context.WithTimeoutCause(ctx, c.probe, slowError(c.socket, c.probe))
		_, err := c.Version(probe)
		stop()
		if CodeOf(err) == CodeUnreachable {
			cancel(err)
			return
		}
	}
}

func (w *watchdog) stop() { close(w.done) }

// reader passes bytes through and notes that there were some.
func (w *watchdog) reader(r io.Reader) io.Reader { return movedReader{r, &w.moved} }

type movedReader struct {
	r     io.Reader
	moved *atomic.Bool
}

func (m movedReader) Read(p []byte) (int, error) {
	n, err := m.r.Read(p)
	if n > 0 {
		m.moved.Store(true)
	}
	return n, err
}
