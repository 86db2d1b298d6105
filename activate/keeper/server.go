package keeper

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxConns     = 1024
	writeTimeout = 10 * time.Second // of one frame: whoever does not read is cut off
	helloTimeout = 10 * time.Second
	killPatience = 10 * time.Second // how long a shutdown waits for killed processes to be gone
)

// socketPath is where the keeper of dir listens.
func socketPath(dir string) string { return filepath.Join(dir, "keeper.sock") }

// listen binds DIR/keeper.sock for its owner only. It changes the umask of the process for that moment: call it before
// there are others that make files.
func listen(dir string) (*net.UnixListener, error) {
	if err := os.Remove(socketPath(dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	defer unix.Umask(unix.Umask(0o077))
	var l *net.UnixListener
	err := underDir(dir, "keeper.sock", func(p string) (err error) {
		l, err = net.ListenUnix("unix", &net.UnixAddr{Name: p, Net: "unix"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %q: %w", dir, err)
	}
	l.SetUnlinkOnClose(false) // its name is that of a descriptor long closed
	return l, nil
}

// server speaks the protocol to any number of clients.
type server struct {
	k    *keeper
	boot string
	quit chan struct{} // closed by a shutdown

	once  sync.Once
	conns sync.WaitGroup
	mu    sync.Mutex
	open  map[*net.UnixConn]struct{}
}

// serve accepts until l is closed, then closes all connections and waits for their handlers.
func (s *server) serve(l *net.UnixListener) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				break
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: some will come back
			continue
		}
		if !s.add(c) {
			c.Close()
			continue
		}
		s.conns.Go(func() {
			defer s.remove(c)
			if err := s.converse(c); err != nil {
				s.k.log.Debug("connection ended", "error", err)
			}
		})
	}
	s.mu.Lock()
	for c := range s.open {
		c.Close()
	}
	s.mu.Unlock()
	s.conns.Wait()
}

func (s *server) add(c *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.open) >= maxConns {
		return false
	}
	s.open[c] = struct{}{}
	return true
}

func (s *server) remove(c *net.UnixConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	c.Close()
}

// converse serves one client until it goes.
func (s *server) converse(c *net.UnixConn) error {
	if err := checkPeer(c); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	if err := s.hello(c); err != nil {
		return err
	}
	_ = c.SetReadDeadline(time.Time{})
	for {
		body, err := readFrame(c)
		if err != nil {
			return err
		}
		req, err := parseRequest(body)
		if err == nil && req.Op == opWatch {
			return s.stream(c, req.ID)
		}
		if err == nil {
			err = s.answer(c, req)
		}
		if err != nil {
			err = send(c, reply{Error: toWire(err)})
		}
		if err != nil {
			return err
		}
	}
}

// hello agrees on the highest version that both speak.
func (s *server) hello(c *net.UnixConn) error {
	body, err := readFrame(c)
	if err != nil {
		return err
	}
	req, err := parseRequest(body)
	if err == nil && req.Op != opHello {
		err = fmt.Errorf("%w: %s before hello", ErrBadRequest, req.Op)
	}
	version := min(req.Max, maxVersion)
	if err == nil && (version < minVersion || version < req.Min) {
		err = fmt.Errorf("%w: keeper speaks %d to %d, client %d to %d", ErrVersion, minVersion, maxVersion, req.Min, req.Max)
	}
	if err != nil {
		return errors.Join(err, send(c, reply{Error: toWire(err)}))
	}
	return send(c, reply{Version: version, PID: os.Getpid(), Boot: s.boot})
}

func send(c *net.UnixConn, r reply) error {
	_ = c.SetWriteDeadline(time.Now().Add(writeTimeout))
	return writeFrame(c, r)
}

// answer does one request. The error is for the client.
func (s *server) answer(c *net.UnixConn, req request) error {
	switch req.Op {
	case opStart:
		st, err := s.k.start(*req.Spec)
		if err != nil {
			return err
		}
		return send(c, reply{Status: &st})
	case opList:
		return sendList(c, s.k.list(req.ID), false)
	case opStop, opTail:
		return s.answerOne(c, req)
	case opOwner:
		id, err := s.k.owner(req.PID)
		if err != nil {
			return err
		}
		return send(c, reply{ID: id})
	case opForget:
		if err := s.k.forget(req.ID); err != nil {
			return err
		}
	case opLease:
		if err := req.Lease.check(Boottime()); err != nil {
			return err
		}
		if err := s.k.lease.renew(*req.Lease); err != nil {
			return err
		}
	case opShutdown:
		s.k.stopAll(req.Grace, killPatience)
		defer s.once.Do(func() { close(s.quit) })
	default:
		return fmt.Errorf("%w: %s", ErrBadRequest, req.Op)
	}
	return send(c, reply{})
}

// answerOne does what is about one known start.
func (s *server) answerOne(c *net.UnixConn, req request) error {
	in, err := s.k.find(req.ID)
	if err != nil {
		return err
	}
	if req.Op == opTail {
		return send(c, reply{Lines: in.lastOutput(req.Lines)})
	}
	in.stop(req.Grace)
	return send(c, reply{})
}

// sendList sends list in as many frames as it takes. more: others follow anyway.
func sendList(c *net.UnixConn, list []Status, more bool) error {
	for len(list) > listChunk {
		if err := send(c, reply{List: list[:listChunk], More: true}); err != nil {
			return err
		}
		list = list[listChunk:]
	}
	return send(c, reply{List: list, More: more})
}

// stream sends what changes until the client goes.
func (s *server) stream(c *net.UnixConn, id string) error {
	w := s.k.watch(id)
	defer s.k.unwatch(w)
	gone := make(chan struct{})
	s.conns.Go(func() {
		defer close(gone)
		_, _ = c.Read(make([]byte, 1)) // a watching client has nothing more to say
	})
	if err := sendList(c, s.k.news(w), true); err != nil {
		return err
	}
	for {
		select {
		case <-gone:
			return nil
		case <-w.wake:
		}
		if list := s.k.news(w); len(list) > 0 {
			if err := sendList(c, list, true); err != nil {
				return err
			}
		}
	}
}

// checkPeer refuses whoever is neither of this user nor root.
func checkPeer(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("read peer's uid: %w", err)
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("refuse peer of uid %d", cred.Uid)
	}
	return nil
}
