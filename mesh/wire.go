package mesh

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/fxamacker/cbor/v2"
)

// Proto is the first byte of every stream. On the wire: never renumber.
type Proto byte

const (
	protoProbe  Proto = 1 // mesh's own: eight bytes, echoed
	ProtoGossip Proto = 2
	ProtoRaft   Proto = 3
	ProtoRPC    Proto = 4
	ProtoBlob   Proto = 5 // bulk
	ProtoProxy  Proto = 6 // bulk
	ProtoFeed   Proto = 7
)

func (p Proto) String() string {
	names := [...]string{1: "probe", 2: "gossip", 3: "raft", 4: "rpc", 5: "blob", 6: "proxy", 7: "feed"}
	if int(p) < len(names) && names[p] != "" {
		return names[p]
	}
	return fmt.Sprintf("proto(%d)", byte(p))
}

// class is which of a peer's two connections a stream belongs on.
type class byte

const (
	control class = iota
	bulk
)

// The ALPN names.
const (
	alpnControl = "isonomia/1"
	alpnBulk    = "isonomia-bulk/1"
	alpnJoin    = "isonomia-join/1"
)

func (p Proto) class() class {
	if p == ProtoBlob || p == ProtoProxy {
		return bulk
	}
	return control
}

func (c class) alpn() string {
	if c == bulk {
		return alpnBulk
	}
	return alpnControl
}

func classOf(alpn string) (class, bool) {
	switch alpn {
	case alpnControl:
		return control, true
	case alpnBulk:
		return bulk, true
	}
	return 0, false
}

// boot is a number drawn once in each life of a process.
type boot [8]byte

const (
	helloVersion = 1
	helloLimit   = 256 // bytes
)

func (b boot) hello() []byte { return append([]byte{helloVersion}, b[:]...) }

// parseHello reads a hello; what a later version adds behind is ignored.
func parseHello(data []byte) (boot, error) {
	var b boot
	if len(data) < 1+len(b) || len(data) > helloLimit {
		return b, fmt.Errorf("parse hello: %d bytes", len(data))
	}
	if data[0] == 0 {
		return b, errors.New("parse hello: version 0")
	}
	copy(b[:], data[1:])
	return b, nil
}

const (
	joinLimit      = 64 << 10 // bytes of a request or a reply
	joinReply byte = 0
	joinNo    byte = 1

	refusedCodeLimit    = 64   // bytes
	refusedMessageLimit = 1024 // bytes
)

// writeFrame writes length and body in one piece.
func writeFrame(w io.Writer, head, body []byte) error {
	if len(body) > joinLimit {
		return fmt.Errorf("write frame: %d bytes, the limit is %d", len(body), joinLimit)
	}
	b := binary.BigEndian.AppendUint32(head, uint32(len(body)))
	_, err := w.Write(append(b, body...))
	return err
}

// readFrame reads what writeFrame wrote (without head). It allocates no more
// than arrives.
func readFrame(r io.Reader) ([]byte, error) {
	var n [4]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	size := binary.BigEndian.Uint32(n[:])
	if size > joinLimit {
		return nil, fmt.Errorf("read frame: %d bytes, the limit is %d", size, joinLimit)
	}
	body, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(body) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("read frame: %w", err)
	}
	return body, nil
}

// writeJoinReply sends the reply, or the refusal if refused is not nil.
func writeJoinReply(w io.Writer, reply []byte, refused *Refused) error {
	if refused == nil {
		return writeFrame(w, []byte{joinReply}, reply)
	}
	short := *refused
	short.Code = cut(short.Code, refusedCodeLimit)
	short.Message = cut(short.Message, refusedMessageLimit)
	body, err := cbor.Marshal(short)
	if err != nil {
		return fmt.Errorf("write refusal: %w", err)
	}
	return writeFrame(w, []byte{joinNo}, body)
}

// readJoinReply reads what writeJoinReply wrote; a refusal is a *Refused error.
func readJoinReply(r io.Reader) ([]byte, error) {
	var kind [1]byte
	if _, err := io.ReadFull(r, kind[:]); err != nil {
		return nil, fmt.Errorf("read join reply: %w", err)
	}
	body, err := readFrame(r)
	if err != nil {
		return nil, err
	}
	switch kind[0] {
	case joinReply:
		return body, nil
	case joinNo:
		return nil, parseRefusal(body)
	}
	return nil, fmt.Errorf("read join reply: unknown kind %d", kind[0])
}

func parseRefusal(body []byte) error {
	dec, err := cbor.DecOptions{MaxNestedLevels: 4, MaxMapPairs: 16, MaxArrayElements: 16}.DecMode()
	if err != nil {
		return err
	}
	var r Refused
	if err := dec.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("read refusal: %w", err)
	}
	r.Code, r.Message = cut(r.Code, refusedCodeLimit), cut(r.Message, refusedMessageLimit)
	return &r
}

// cut shortens s to at most n bytes of valid UTF-8.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
