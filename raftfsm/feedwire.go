package raftfsm

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// feedVersion is the first byte of what a follower says.
const feedVersion = 1

// frameKind is the first byte of a frame. The numbers are for ever; a follower passes over kinds that it does not know,
// and finds out by the indexes if it missed an entry.
type frameKind byte

const (
	frameRefusal frameKind = 1 // CBOR refusal: the feed ends, or does not begin
	frameStatus  frameKind = 2 // CBOR status: the first of a feed, at each change, and when there was nothing else for long
	frameEntry   frameKind = 3 // previous index(8) index(8) entry
	frameChunk   frameKind = 4 // a piece of a checkpoint
	frameEnd     frameKind = 5 // of a checkpoint
	frameCheck   frameKind = 6 // index(8) digest(32) of State there
)

// Limits of what comes in.
const (
	maxChunkBytes  = 64 << 10
	maxFrameBytes  = 16 + MaxEntryBytes
	maxNoteBytes   = 64 << 10 // refusal, status, and what is not known
	maxToldServers = 64
	maxIDBytes     = 255
)

// frameLimit is how long the body of a frame may be.
func frameLimit(k frameKind) int {
	switch k {
	case frameEntry:
		return maxFrameBytes
	case frameChunk:
		return maxChunkBytes
	case frameEnd:
		return 0
	case frameCheck:
		return 8 + sha256.Size
	}
	return maxNoteBytes
}

// writeFrame writes kind(1) length(4) and the parts of the body.
func writeFrame(w io.Writer, k frameKind, parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	head := binary.BigEndian.AppendUint32([]byte{byte(k)}, uint32(n))
	for _, p := range append([][]byte{head}, parts...) {
		if _, err := w.Write(p); err != nil {
			return fmt.Errorf("write to a feed: %w", err)
		}
	}
	return nil
}

// readFrame reads a frame; its body is valid until the next one is read into the same buffer.
func readFrame(r *bufio.Reader, buf []byte) (k frameKind, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, buf, err
	}
	k = frameKind(head[0])
	n := int64(binary.BigEndian.Uint32(head[1:]))
	if n > int64(frameLimit(k)) {
		return 0, buf, fmt.Errorf("a frame of kind %d has %d bytes: the most is %d", k, n, frameLimit(k))
	}
	if int64(cap(buf)) < n {
		buf = make([]byte, n) // at most 1 MiB
	}
	body = buf[:n]
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, buf, noEOF(err)
	}
	return k, body, nil
}

// hello is what a follower says first.
type hello struct {
	id     string
	epoch  uint64 // of the cluster, by its State
	index  uint64 // of its State; 0 = it has none
	insist bool   // every server is full: be fuller
	// compare asks for nothing but the digest of the State of that index, and says what it is here.
	compare bool
	digest  [sha256.Size]byte
}

const (
	helloInsist  = 1
	helloCompare = 2
)

// encode gives version(1) flags(1) epoch(8) index(8) length of id(1) id, and with helloCompare digest(32).
func (h hello) encode() []byte {
	flags := byte(0)
	if h.insist {
		flags |= helloInsist
	}
	if h.compare {
		flags |= helloCompare
	}
	out := binary.BigEndian.AppendUint64([]byte{feedVersion, flags}, h.epoch)
	out = binary.BigEndian.AppendUint64(out, h.index)
	out = append(append(out, byte(len(h.id))), h.id...)
	if h.compare {
		out = append(out, h.digest[:]...)
	}
	return out
}

func readHello(r io.Reader) (h hello, err error) {
	var head [19]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return h, fmt.Errorf("read what a follower says: %w", noEOF(err))
	}
	if head[0] != feedVersion {
		return h, fmt.Errorf("a follower speaks version %d", head[0])
	}
	id := make([]byte, head[18])
	if _, err := io.ReadFull(r, id); err != nil {
		return h, fmt.Errorf("read a follower's id: %w", noEOF(err))
	}
	if len(id) == 0 {
		return h, errors.New("a follower has no id")
	}
	h = hello{id: string(id), epoch: binary.BigEndian.Uint64(head[2:]), index: binary.BigEndian.Uint64(head[10:]),
		insist: head[1]&helloInsist != 0, compare: head[1]&helloCompare != 0}
	if h.compare {
		if _, err := io.ReadFull(r, h.digest[:]); err != nil {
			return h, fmt.Errorf("read a follower's digest: %w", noEOF(err))
		}
	}
	return h, nil
}

// pingByte asks for a status at once. It is all that a follower says after its hello.
const pingByte = 1

// toldServer is a raft server of the configuration.
type toldServer struct {
	_     struct{} `cbor:",toarray"`
	ID    string
	Voter bool
}

// status is what a server knows of the raft servers.
type feedStatus struct {
	Leader  string       `cbor:"1,keyasint,omitempty"` // "" = none is known
	Servers []toldServer `cbor:"2,keyasint,omitempty"`
}

// reason of a refusal. The numbers are for ever; an unknown one is like full.
type reason uint8

const (
	reasonNoServer   reason = 1 // it is no raft server: Servers are, as far as it knows
	reasonFull       reason = 2 // it has as many followers as it should
	reasonOutOfTouch reason = 3 // it has not heard of a leader for long
	reasonBehind     reason = 4 // its State is older than the follower's
	reasonServer     reason = 5 // the follower is a raft server
	reasonUnable     reason = 6 // it must be upgraded, or closes
)

func (r reason) String() string {
	names := [...]string{reasonNoServer: "it is no raft server", reasonFull: "it has enough followers",
		reasonOutOfTouch: "it knows no leader", reasonBehind: "its State is older", reasonServer: "this node is a raft server",
		reasonUnable: "it must be upgraded, or closes"}
	if int(r) < len(names) && names[r] != "" {
		return names[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// refusal ends a feed, or says why there is none.
type refusal struct {
	Reason  reason       `cbor:"1,keyasint"`
	Leader  string       `cbor:"2,keyasint,omitempty"`
	Servers []toldServer `cbor:"3,keyasint,omitempty"`
}

func (r refusal) Error() string { return r.Reason.String() }

func decodeNote[T any](b []byte, v *T, servers func(*T) []toldServer) error {
	if err := replyModes.dec.Unmarshal(b, v); err != nil {
		return fmt.Errorf("decode a frame of a feed: %w", err)
	}
	list := servers(v)
	if len(list) > maxToldServers {
		return fmt.Errorf("decode a frame of a feed: %d servers", len(list))
	}
	for _, s := range list {
		if s.ID == "" || len(s.ID) > maxIDBytes {
			return fmt.Errorf("decode a frame of a feed: an id of %d bytes", len(s.ID))
		}
	}
	return nil
}

func decodeStatus(b []byte) (s feedStatus, err error) {
	err = decodeNote(b, &s, func(s *feedStatus) []toldServer { return s.Servers })
	return s, err
}

func decodeRefusal(b []byte) (r refusal, err error) {
	err = decodeNote(b, &r, func(r *refusal) []toldServer { return r.Servers })
	return r, err
}

// feedEntry is the body of an entry's frame.
type feedEntry struct {
	prev, index uint64
	entry       []byte
}

func (e feedEntry) head() []byte {
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, e.prev), e.index)
}

func decodeFeedEntry(b []byte) (e feedEntry, err error) {
	if len(b) < 17 {
		return e, fmt.Errorf("decode an entry of a feed: %d bytes", len(b))
	}
	e = feedEntry{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), b[16:]}
	if e.prev >= e.index {
		return e, fmt.Errorf("decode an entry of a feed: %d after %d", e.index, e.prev)
	}
	return e, nil
}

// check is the body of a check's frame.
type check struct {
	index  uint64
	digest [sha256.Size]byte
}

func (c check) encode() []byte {
	return append(binary.BigEndian.AppendUint64(nil, c.index), c.digest[:]...)
}

func decodeCheck(b []byte) (c check, err error) {
	if len(b) != 8+sha256.Size {
		return c, fmt.Errorf("decode a check of a feed: %d bytes", len(b))
	}
	c.index = binary.BigEndian.Uint64(b)
	copy(c.digest[:], b[8:])
	return c, nil
}
