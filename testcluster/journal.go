//go:build linux

package testcluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// Kinds of events. A test service reports what happens to it before it lets
// anybody see the consequence: "start" before anything else, "ready" before it
// answers for the first time, "stop" when it was told to end, "exit" when it
// ends without having been told. Faults are written by the cluster itself.
const (
	EventStart = "start"
	EventReady = "ready"
	EventStop  = "stop"
	EventExit  = "exit"
	EventFault = "fault"
	// EventIgnored is a service that was told to end and will not; only what
	// outlives it tells when it did.
	EventIgnored = "ignored"
)

// Event is what the outside observer was told, in the order in which it was.
type Event struct {
	Seq     int       `json:"seq"`
	At      time.Time `json:"at"` // for people; checks use Seq
	Kind    string    `json:"kind"`
	Service string    `json:"service"`
	Version string    `json:"version"`
	Node    string    `json:"node"`
	Address string    `json:"address,omitempty"` // HOST:PORT of the service
	Boot    string    `json:"boot"`              // one run of one process
	Epoch   string    `json:"epoch"`             // ISONOMIA_EPOCH: the claim that it runs under
	PID     int       `json:"pid"`
	Deps    []Dep     `json:"deps,omitempty"`
	Detail  string    `json:"detail,omitempty"`
}

// Dep is one dependency as the service found it when it started.
type Dep struct {
	Service  string `json:"service"`
	Version  string `json:"version"` // empty: any
	Address  string `json:"address"`
	Answered bool   `json:"answered"`
}

func (e Event) String() string {
	s := fmt.Sprintf("%5d %s %-5s %s", e.Seq, e.At.Format("15:04:05.000"), e.Kind, e.Node)
	if e.Service != "" {
		s += fmt.Sprintf(" %s@%s pid %d boot %s epoch %q", e.Service, e.Version, e.PID, e.Boot, e.Epoch)
	}
	for _, d := range e.Deps {
		s += fmt.Sprintf(" %s@%s answered=%v", d.Service, d.Version, d.Answered)
	}
	return strings.TrimRight(s+" "+e.Detail, " ")
}

// Hold is a stretch of time in which one process, and no other in between, told
// the lock server that it acts for a service.
type Hold struct {
	Service, Node, Boot, Epoch string
	From, To                   int // Seq of its first and last message
}

// Observer is the outside witness: a server in the test process that every node
// reaches whatever the partition, and that no node can lead to believe that it
// sees a State.
//
//	POST /event   one Event as JSON; 204 once it has its place in the order
//	POST /hold    the same: this process acts for the service right now
type Observer struct {
	mu     sync.Mutex
	seq    int     // guarded by mu, as all below
	events []Event // bounded by eventLimit
	holds  []Hold  // in order of From
	over   int     // events that were dropped
	server *http.Server
}

// eventLimit bounds the journal; a test that writes more is told so.
const eventLimit = 1_000_000

// NewObserver serves on l until Close.
func NewObserver(l net.Listener) *Observer {
	o := &Observer{}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /event", o.receive)
	mux.HandleFunc("POST /hold", o.receive)
	o.server = &http.Server{Handler: mux, ReadTimeout: time.Minute, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = o.server.Serve(l) }() // until Close
	return o
}

// Close ends the server and its connections.
func (o *Observer) Close() { o.server.Close() }

func (o *Observer) receive(w http.ResponseWriter, r *http.Request) {
	var e Event
	if err := json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&e); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if r.URL.Path == "/hold" {
		o.hold(e)
	} else {
		o.Record(e)
	}
	w.WriteHeader(http.StatusNoContent)
}

// Record gives e its place in the order of events.
func (o *Observer) Record(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seq++
	e.Seq, e.At = o.seq, time.Now()
	if len(o.events) >= eventLimit {
		o.over++
		return
	}
	o.events = append(o.events, e)
}

// Fault records what the test did to a node.
func (o *Observer) Fault(node, what string) {
	o.Record(Event{Kind: EventFault, Node: node, Detail: what})
}

// hold extends the current stretch of a service or begins another one.
func (o *Observer) hold(e Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.seq++
	for i := len(o.holds) - 1; i >= 0; i-- {
		if h := &o.holds[i]; h.Service == e.Service {
			if h.Boot == e.Boot {
				h.To = o.seq
				return
			}
			break
		}
	}
	if len(o.holds) >= eventLimit {
		o.over++
		return
	}
	o.holds = append(o.holds, Hold{Service: e.Service, Node: e.Node, Boot: e.Boot, Epoch: e.Epoch, From: o.seq, To: o.seq})
}

// Events returns a copy of the journal.
func (o *Observer) Events() []Event {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.events)
}

// Holds returns a copy of what the lock server saw.
func (o *Observer) Holds() []Hold {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.holds)
}

// Dropped is how many events did not fit.
func (o *Observer) Dropped() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.over
}
