package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

const (
	askTimeout = 10 * time.Second
	maxReply   = 1 << 20 // bytes
)

// conn is a connection to a server.
type conn struct {
	net.Conn
	in *bufio.Reader
}

func dial(ctx context.Context, addr, password string) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	c := &conn{nc, bufio.NewReader(nc)}
	if password != "" {
		if _, err := c.do("AUTH", password); err != nil {
			c.close()
			return nil, err
		}
	}
	return c, nil
}

func (c *conn) close() { _ = c.Conn.Close() }

// do sends a command and returns the answer, a line or a string.
func (c *conn) do(args ...string) (string, error) { return c.within(askTimeout, args...) }

func (c *conn) within(timeout time.Duration, args ...string) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(args))
	for _, a := range args {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(a), a)
	}
	if err := c.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(c, b.String()); err != nil {
		return "", err
	}
	answer, err := reply(c.in)
	if err != nil {
		return "", fmt.Errorf("redis %s: %w", args[0], err)
	}
	return answer, nil
}

// reply reads one answer.
func reply(in *bufio.Reader) (string, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	text := strings.TrimSuffix(string(line), "\r\n")
	if text == "" {
		return "", errors.New("an empty answer")
	}
	switch kind, rest := text[0], text[1:]; kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", errors.New(rest)
	case '$':
		n, err := strconv.Atoi(rest)
		if err != nil || n < 0 || n > maxReply {
			return "", fmt.Errorf("an answer of %.20q bytes", rest)
		}
		b := make([]byte, n+2)
		_, err = io.ReadFull(in, b)
		return string(b[:n]), err
	default:
		return "", fmt.Errorf("an answer that begins with %q", kind)
	}
}

// persistence is what INFO says of the dataset's file.
func (c *conn) persistence() (map[string]string, error) {
	text, err := c.do("INFO", "persistence")
	all := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), ":"); ok {
			all[name] = value
		}
	}
	return all, err
}

// saved returns when the file holds everything, as of now or later. how is SAVE, which lets nobody else in meanwhile, or
// BGSAVE.
func (c *conn) saved(ctx context.Context, how string) error {
	started := false
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		info, err := c.persistence()
		if err != nil {
			return err
		}
		switch {
		case info["rdb_bgsave_in_progress"] != "0" || info["aof_rewrite_in_progress"] == "1":
			// Somebody's own: it may have begun before what we want to have.
		case started && info["rdb_last_bgsave_status"] != "ok":
			return errors.New("the server could not write its dataset; its log says why")
		case started || info["rdb_changes_since_last_save"] == "0":
			return nil
		case how == "SAVE":
			_, err := c.within(saveWithin, "SAVE")
			return err
		default:
			if _, err := c.do("BGSAVE"); err != nil {
				return err
			}
			started = true
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
