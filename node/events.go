package node

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// Noted is an event as this node notices it.
type Noted struct {
	Kind, System, Service, Message string
}

// note keeps an event on this node's ring.
func (n *Node) note(e Noted) {
	n.events.add(api.Event{At: time.Now().UTC(), Node: n.cfg.Name, Kind: e.Kind, System: e.System, Service: e.Service, Message: e.Message})
}

const (
	eventFile  = 1 << 20 // bytes of a file of the ring; two are kept
	eventsHeld = 2000    // of the newest in memory
)

// eventRing keeps what a node noticed: the newest in memory, more in two files of JSON lines. An event is no decision:
// losing the last few in a power cut is accepted, so nothing is fsynced.
type eventRing struct {
	path string

	mu     sync.Mutex // guards what follows
	file   *os.File
	size   int64
	recent []api.Event
	wakes  map[chan struct{}]struct{}
}

func openEvents(path string) (*eventRing, error) {
	r := &eventRing{path: path, wakes: map[chan struct{}]struct{}{}}
	for _, p := range []string{path + ".1", path} {
		b, err := os.ReadFile(p)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read events: %w", err)
		}
		r.load(b)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open events: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	r.file, r.size = f, st.Size()
	r.endTornLine()
	return r, nil
}

// endTornLine ends a line that a crash cut, so that the next event does not become part of it.
func (r *eventRing) endTornLine() {
	if b, err := os.ReadFile(r.path); err == nil && len(b) > 0 && b[len(b)-1] != '\n' {
		_, _ = r.file.WriteString("\n")
		r.size++
	}
}

// load takes the whole lines of a file; one that a crash cut is passed over.
func (r *eventRing) load(b []byte) {
	for line := range bytes.Lines(b) {
		var e api.Event
		if json.Unmarshal(line, &e) == nil {
			r.keep(e)
		}
	}
}

func (r *eventRing) keep(e api.Event) {
	r.recent = append(r.recent, e)
	if len(r.recent) > 2*eventsHeld {
		r.recent = slices.Clone(r.recent[eventsHeld:])
	}
}

func (r *eventRing) add(e api.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.keep(e)
	b, err := json.Marshal(e)
	if err == nil && r.file != nil {
		b = append(b, '\n')
		_, _ = r.file.Write(b) // a full disk must not stop the node
		if r.size += int64(len(b)); r.size > eventFile {
			r.rotate()
		}
	}
	for c := range r.wakes {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

func (r *eventRing) rotate() {
	_ = r.file.Close()
	_ = os.Rename(r.path, r.path+".1")
	r.file, _ = os.OpenFile(r.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	r.size = 0
}

// tail gives the newest n events, and when the newest of all was noted: what comes after that is not among them.
func (r *eventRing) tail(n int) (events []api.Event, newest time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := len(r.recent); k > 0 {
		newest = r.recent[k-1].At
	}
	return slices.Clone(r.recent[max(0, len(r.recent)-n):]), newest
}

// after gives the events later than t.
func (r *eventRing) after(t time.Time) []api.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := len(r.recent)
	for i > 0 && r.recent[i-1].At.After(t) {
		i--
	}
	return slices.Clone(r.recent[i:])
}

func (r *eventRing) watch() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wakes[c] = struct{}{}
	return c, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.wakes, c)
	}
}

func (r *eventRing) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file != nil {
		_ = r.file.Close()
		r.file = nil
	}
}

// getEvents merges the rings of all nodes that are up, oldest first; with follow=1 it goes on.
func (n *Node) getEvents(w http.ResponseWriter, r *http.Request) {
	tail, err := intParam(r, "tail", 100)
	if err != nil {
		writeError(w, err)
		return
	}
	follow := r.URL.Query().Get("follow") != ""
	own, newest := n.events.tail(tail)
	if peerID(r.Context()) == "" {
		n.mergeEvents(w, r, own, newest, tail, follow)
		return
	}
	out := newLines(w)
	sendEvents(out, own)
	n.followEvents(r.Context(), follow, newest, func(e api.Event) error { return out.send(e) })
}

// followEvents sends what is noted after last, until ctx ends.
func (n *Node) followEvents(ctx context.Context, follow bool, last time.Time, send func(api.Event) error) {
	if !follow {
		return
	}
	wake, stop := n.events.watch()
	defer stop()
	for ctx.Err() == nil {
		for _, e := range n.events.after(last) {
			if send(e) != nil {
				return
			}
			last = e.At
		}
		waitAny(ctx, time.Time{}, wake)
	}
}

func sendEvents(out *lines, events []api.Event) {
	for _, e := range events {
		if out.send(e) != nil {
			return
		}
	}
}

func (n *Node) mergeEvents(w http.ResponseWriter, r *http.Request, own []api.Event, newest time.Time, tail int, follow bool) {
	all := slices.Clone(own)
	for _, events := range gather(n, w, r, fmt.Sprintf("/v1/events?tail=%d", tail), "") {
		for _, line := range events {
			var e api.Event
			if json.Unmarshal([]byte(line), &e) == nil {
				all = append(all, e)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b api.Event) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Node, b.Node)) })
	out := newLines(w)
	sendEvents(out, all[max(0, len(all)-tail):])
	if !follow {
		return
	}
	merged := make(chan api.Event, 64)
	go n.followPeers(r.Context(), "/v1/events?tail=0&follow=1", func(line []byte) {
		var e api.Event
		if json.Unmarshal(line, &e) == nil {
			_ = sendOrDone(r.Context(), merged, e) // the request has ended, and so will the stream
		}
	})
	go n.followEvents(r.Context(), true, newest, func(e api.Event) error { return sendOrDone(r.Context(), merged, e) })
	for {
		select {
		case <-r.Context().Done():
			return
		case e := <-merged:
			if out.send(e) != nil {
				return
			}
		}
	}
}

func sendOrDone[T any](ctx context.Context, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// maxGathered bounds what one node adds to the lines of several, in bytes.
const maxGathered = 64 << 20

// gather asks every other node that is up for lines, two seconds at the most. Those that are down or do not answer are
// named in the header of the answer. only, unless empty, is the one node to ask.
func gather(n *Node, w http.ResponseWriter, r *http.Request, path, only string) [][]string {
	ctx, cancel := context.WithTimeout(r.Context(), 2*time.Second)
	defer cancel()
	s := n.fsm.State()
	var mu sync.Mutex
	var wg sync.WaitGroup
	var out [][]string
	var silent []string
	for id, node := range s.Nodes.All() {
		if id == n.id.ID || only != "" && only != node.Name {
			continue
		}
		wg.Go(func() {
			b, err := n.gatherFrom(ctx, node, path)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				n.log.Debug("gathering", "path", path, "node", node.Name, "err", err)
				silent = append(silent, node.Name)
				return
			}
			out = append(out, strings.Split(strings.TrimSpace(string(b)), "\n"))
		})
	}
	wg.Wait()
	if slices.Sort(silent); len(silent) > 0 {
		w.Header().Set(api.UnansweredHeader, strings.Join(silent, ","))
	}
	return out
}

func (n *Node) gatherFrom(ctx context.Context, node model.Node, path string) ([]byte, error) {
	if node.Down {
		return nil, errors.New("it is down")
	}
	resp, err := n.peers.open(ctx, n.peers.rpc, node.ID, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxGathered+1))
	if err == nil && len(b) > maxGathered {
		err = fmt.Errorf("more than %d bytes", maxGathered)
	}
	return b, err
}

// followPeers passes on the lines of every other node until ctx ends, asking again after a break.
func (n *Node) followPeers(ctx context.Context, path string, line func([]byte)) {
	var wg sync.WaitGroup
	for id := range n.fsm.State().Nodes.All() {
		if id == n.id.ID {
			continue
		}
		wg.Go(func() {
			for ctx.Err() == nil {
				n.followPeer(ctx, id, path, line)
				n.pause(ctx, 2*time.Second)
			}
		})
	}
	wg.Wait()
}

func (n *Node) followPeer(ctx context.Context, id, path string, line func([]byte)) {
	resp, err := n.peers.open(ctx, n.peers.rpc, id, http.MethodGet, path, nil)
	if err != nil {
		return
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		line(sc.Bytes())
	}
}
