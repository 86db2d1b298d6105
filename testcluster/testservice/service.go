package main

import (
	"bufio"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Deadlines of what the service does itself.
const (
	dialTimeout   = time.Second
	reportTimeout = 3 * time.Second
	holdPause     = 20 * time.Millisecond
)

type service struct {
	event
	host, port string
	observer   string // HOST:PORT; empty: none
	state      string // file; empty: none
	modes      modes
	born       time.Time
	readyOnce  sync.Once
}

// event is what the observer is told; testcluster.Event is its other side.
type event struct {
	Kind    string `json:"kind"`
	Service string `json:"service"`
	Version string `json:"version"`
	Node    string `json:"node"`
	Address string `json:"address"`
	Boot    string `json:"boot"`
	Epoch   string `json:"epoch"`
	PID     int    `json:"pid"`
	Deps    []dep  `json:"deps,omitempty"`
	Detail  string `json:"detail,omitempty"`
}

type dep struct {
	Service  string `json:"service"`
	Version  string `json:"version"`
	Address  string `json:"address"`
	Answered bool   `json:"answered"`
}

func newService(env func(string) string) (*service, error) {
	m, err := parseModes(env("MODES"))
	if err != nil {
		return nil, err
	}
	deps, err := parseDeps(env("DEPS"))
	if err != nil {
		return nil, err
	}
	s := &service{host: env("HOST"), port: env("PORT"), modes: m, born: time.Now()}
	s.observer = strings.TrimPrefix(env("JOURNAL"), "http://")
	if dir := env("STATE_DIRECTORY"); dir != "" {
		s.state = filepath.Join(dir, "state")
	}
	boot := make([]byte, 6)
	rand.Read(boot)
	s.event = event{Service: env("ISONOMIA_SERVICE"), Version: env("VERSION"), Node: env("ISONOMIA_NODE"),
		Epoch: env("ISONOMIA_EPOCH"), PID: os.Getpid(), Boot: hex.EncodeToString(boot), Deps: tryAll(deps)}
	if s.port != "" {
		s.Address = net.JoinHostPort(s.host, s.port)
	}
	return s, nil
}

// parseDeps reads DEPS.
func parseDeps(list string) (deps []dep, err error) {
	for f := range strings.FieldsSeq(list) {
		name, address, ok := strings.Cut(f, "=")
		if !ok {
			return nil, fmt.Errorf("parse DEPS %q: %q has no address", list, f)
		}
		d := dep{Address: address}
		d.Service, d.Version, _ = strings.Cut(name, "@")
		deps = append(deps, d)
	}
	return deps, nil
}

// tryAll asks each dependency once whether it is healthy.
func tryAll(deps []dep) []dep {
	var wg sync.WaitGroup
	for i := range deps {
		wg.Go(func() {
			code, err := request(deps[i].Address, "GET", "/healthz", nil, dialTimeout)
			deps[i].Answered = err == nil && code == 200
		})
	}
	wg.Wait()
	return deps
}

// report tells the observer. Nobody waits for an observer that is not there
// longer than reportTimeout: the service matters more.
func (s *service) report(kind, detail string) {
	if s.observer == "" {
		return
	}
	e := s.event
	e.Kind, e.Detail = kind, detail
	if kind != "start" {
		e.Deps = nil
	}
	body, err := json.Marshal(e)
	if err != nil {
		panic(err) // plain values
	}
	for deadline := time.Now().Add(reportTimeout); time.Now().Before(deadline); time.Sleep(holdPause) {
		if code, err := request(s.observer, "POST", "/event", body, dialTimeout); err == nil && code < 300 {
			return
		}
	}
	fmt.Fprintln(os.Stderr, "testservice: the observer does not answer")
}

// hold tells the lock server for ever that this process acts for its service.
func (s *service) hold() {
	e := s.event
	e.Kind, e.Deps = "hold", nil
	body, err := json.Marshal(e)
	if err != nil {
		panic(err) // plain values
	}
	for ; ; time.Sleep(holdPause) {
		_, _ = request(s.observer, "POST", "/hold", body, dialTimeout) // the next one may get through
	}
}

// ready reports once that the service is about to be seen as ready.
func (s *service) ready() { s.readyOnce.Do(func() { s.report("ready", "") }) }

func (s *service) healthy() bool {
	age := time.Since(s.born)
	return !s.modes.unhealthy && age >= s.modes.readyAfter &&
		(s.modes.unhealthyAfter == 0 || age < s.modes.unhealthyAfter)
}

// serve answers one request.
func (s *service) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	method, path, body, err := readRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	code, text := s.answer(method, path, body)
	fmt.Fprintf(conn, "HTTP/1.1 %d -\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", code, len(text), text)
}

func (s *service) answer(method, path string, body []byte) (code int, text string) {
	switch path, _, _ = strings.Cut(path, "?"); path {
	case "/healthz":
		if !s.healthy() {
			return 503, "unhealthy\n"
		}
		s.ready()
		return 200, "healthy\n"
	case "/state":
		text, err := s.keep(method, body)
		if err != nil {
			return 500, err.Error() + "\n"
		}
		return 200, text
	}
	return 200, fmt.Sprintf("%s %s %s\n", s.Service, s.Version, s.Node)
}

// keep appends a line to the state of the service, or reads it all.
func (s *service) keep(method string, line []byte) (string, error) {
	if s.state == "" {
		return "", fmt.Errorf("no STATE_DIRECTORY")
	}
	if method != "POST" {
		content, err := os.ReadFile(s.state)
		if os.IsNotExist(err) {
			err = nil
		}
		return string(content), err
	}
	f, err := os.OpenFile(s.state, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if _, err := f.Write(append(line, '\n')); err != nil {
		return "", err
	}
	return "", f.Sync()
}

// bodyLimit bounds what is read of a request, in bytes.
const bodyLimit = 1 << 20

func readRequest(r *bufio.Reader) (method, path string, body []byte, err error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", "", nil, err
	}
	f := strings.Fields(line)
	if len(f) < 2 {
		return "", "", nil, fmt.Errorf("parse request %q", line)
	}
	length, err := readHeader(r)
	if err != nil {
		return "", "", nil, err
	}
	body = make([]byte, length)
	_, err = io.ReadFull(r, body)
	return f[0], f[1], body, err
}

// readHeader reads to the empty line and returns the length of what follows.
func readHeader(r *bufio.Reader) (length int, err error) {
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return 0, err
		}
		if line = strings.TrimSpace(line); line == "" {
			return length, nil
		}
		name, value, _ := strings.Cut(line, ":")
		if strings.EqualFold(name, "Content-Length") {
			if length, err = strconv.Atoi(strings.TrimSpace(value)); err != nil || length < 0 || length > bodyLimit {
				return 0, fmt.Errorf("parse length %q", value)
			}
		}
	}
}

// request makes one HTTP request and returns the status.
func request(address, method, path string, body []byte, timeout time.Duration) (code int, err error) {
	conn, err := net.DialTimeout("tcp", address, timeout)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(timeout))
	if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
		method, path, address, len(body), body); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	if f := strings.Fields(line); len(f) >= 2 {
		return strconv.Atoi(f[1])
	}
	return 0, fmt.Errorf("parse status %q", line)
}
