package keeper

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

const (
	maxNotify     = 4096 // bytes of one message
	maxNotifyText = 512  // bytes of STATUS= that are kept
)

// maxSocketName is the longest path that a socket's address holds, in bytes.
const maxSocketName = 107

// notifyDir is where the notify sockets of dir are. They are not beside what else belongs to a service, because a
// program connects by path, and those paths may be longer than an address.
func notifyDir(dir string) string { return filepath.Join(dir, "notify") }

// clearNotify makes the directory anew: sockets of an earlier keeper lead nowhere.
func clearNotify(dir string) error {
	if err := os.RemoveAll(notifyDir(dir)); err != nil {
		return fmt.Errorf("remove old notify sockets: %w", err)
	}
	if err := os.Mkdir(notifyDir(dir), 0o755); err != nil {
		return fmt.Errorf("make directory for notify sockets: %w", err)
	}
	return nil
}

// NotifyPath is the path for the notify socket of start id, for Spec.Notify and $NOTIFY_SOCKET; "" if DIR is so deep
// that no program could connect to it.
func (c *Client) NotifyPath(id string) string {
	dir, err := filepath.Abs(c.dir)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256([]byte(id))
	if p := filepath.Join(notifyDir(dir), hex.EncodeToString(sum[:8])); len(p) <= maxSocketName {
		return p
	}
	return ""
}

// notice is what a message to the notify socket said, as sd_notify(3) has it.
type notice struct {
	ready   bool
	text    string
	hasText bool
}

// parseNotify reads one message: lines NAME=value. What it does not know it passes over. Pure.
func parseNotify(b []byte) notice {
	var n notice
	for line := range strings.Lines(string(b[:min(len(b), maxNotify)])) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		switch {
		case name == "READY" && value == "1":
			n.ready = true
		case name == "STATUS":
			n.hasText, n.text = true, cutText(strings.ToValidUTF8(value, "?"))
		}
	}
	return n
}

func cutText(s string) string {
	if len(s) <= maxNotifyText {
		return s
	}
	end := maxNotifyText
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end]
}

// listenNotify makes the datagram socket at path, for user alone to write to. A stale one is removed.
func listenNotify(path string, user *User) (*net.UnixConn, error) {
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("remove old notify socket: %w", err)
	}
	var conn *net.UnixConn
	err := underDir(filepath.Dir(path), filepath.Base(path), func(p string) (err error) {
		conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: p, Net: "unixgram"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen on notify socket: %w", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil && user != nil {
		err = os.Lchown(path, int(user.UID), int(user.GID))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("hand over notify socket: %w", err)
	}
	return conn, nil
}

// readNotify hands over every message until conn is closed.
func readNotify(conn *net.UnixConn, take func(notice)) {
	for {
		err := readSome(conn, func(b []byte) { take(parseNotify(b)) })
		if err != nil && !errors.Is(err, io.EOF) { // EOF is an empty message
			return
		}
	}
}
