// Command testservice is the service that tests deploy. It answers HTTP on
// HOST:PORT and tells an outside observer what happens to it, always before
// anybody can see the consequence. It uses no net/http, so that a thousand of
// them fit on a small machine.
//
// Environment:
//
//	HOST, PORT   where to listen; no PORT: nowhere
//	JOURNAL      URL of the observer; empty: none
//	VERSION      reported and served
//	DEPS         space-separated SERVICE@VERSION=HOST:PORT, tried once at start
//	MODES        comma-separated misbehaviour, see parseModes
//	ISONOMIA_SERVICE, ISONOMIA_NODE, ISONOMIA_EPOCH, STATE_DIRECTORY: the agent's
//
// Served: /healthz (200 or 503), /state (GET reads, POST appends a line to
// $STATE_DIRECTORY/state), and for anything else one line that says who answers.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "child" {
		select {} // the mode "fork"; dies with its group
	}
	s, err := newService(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testservice:", err)
		os.Exit(2)
	}
	os.Exit(s.run())
}

// run is the life of the service; it returns the exit code.
func (s *service) run() int {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	s.report("start", "")
	for i := range s.modes.print {
		fmt.Printf("line %d of %d\n", i+1, s.modes.print)
	}
	if s.modes.fail {
		return s.exit("told to fail")
	}
	if s.modes.spoil && s.state != "" {
		if err := os.WriteFile(s.state, []byte("spoiled\n"), 0o600); err != nil {
			fmt.Fprintln(os.Stderr, "testservice:", err)
			return s.exit(err.Error())
		}
	}
	if s.modes.fork {
		if err := exec.Command(os.Args[0], "child").Start(); err != nil {
			fmt.Fprintln(os.Stderr, "testservice:", err)
			return s.exit(err.Error())
		}
	}
	if err := s.listen(); err != nil {
		fmt.Fprintln(os.Stderr, "testservice:", err)
		return s.exit(err.Error())
	}
	if s.modes.hold {
		go s.hold()
	}
	return s.wait(signals)
}

// wait waits for the end of the service.
func (s *service) wait(signals <-chan os.Signal) int {
	var failure <-chan time.Time
	if s.modes.failAfter > 0 {
		failure = time.After(s.modes.failAfter)
	}
	for {
		select {
		case <-failure:
			return s.exit("told to fail")
		case sig := <-signals:
			if s.modes.ignoreTerm {
				s.report("ignored", sig.String())
				continue
			}
			s.report("stop", sig.String())
			return 0
		}
	}
}

func (s *service) exit(why string) int {
	s.report("exit", why)
	return 1
}

// listen serves in the background. A service without a health check counts as
// ready once its port accepts, so without one "ready" is reported before that.
func (s *service) listen() error {
	if s.port == "" {
		s.ready()
		return nil
	}
	if s.modes.noHealth {
		s.ready()
	}
	l, err := net.Listen("tcp", net.JoinHostPort(s.host, s.port))
	if err != nil {
		return err
	}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go s.serve(conn)
		}
	}()
	return nil
}

// modes is how the service misbehaves.
type modes struct {
	fail           bool
	failAfter      time.Duration
	unhealthy      bool
	unhealthyAfter time.Duration
	readyAfter     time.Duration
	noHealth       bool
	ignoreTerm     bool
	hold, fork     bool
	spoil          bool
	print          int
}

// parseModes reads MODES.
func parseModes(list string) (m modes, err error) {
	for mode := range strings.SplitSeq(list, ",") {
		name, value, _ := strings.Cut(mode, "=")
		switch name {
		case "":
		case "fail": // exit 1 at once
			m.fail = true
		case "fail-after": // exit 1 after a duration
			m.failAfter, err = time.ParseDuration(value)
		case "unhealthy": // never healthy
			m.unhealthy = true
		case "unhealthy-after": // no longer healthy after a duration
			m.unhealthyAfter, err = time.ParseDuration(value)
		case "ready-after": // not healthy before a duration
			m.readyAfter, err = time.ParseDuration(value)
		case "no-health": // ready by its port
			m.noHealth = true
		case "ignore-term": // only KILL ends it
			m.ignoreTerm = true
		case "hold": // tells the lock server all the time that it acts
			m.hold = true
		case "fork": // has a child that does nothing
			m.fork = true
		case "spoil": // replaces its state by a line that says so
			m.spoil = true
		case "print": // prints that many lines first
			_, err = fmt.Sscan(value, &m.print)
		default:
			err = fmt.Errorf("unknown mode %q", mode)
		}
		if err != nil {
			return m, fmt.Errorf("parse MODES %q: %w", list, err)
		}
	}
	return m, nil
}
