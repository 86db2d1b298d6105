package raftfsm

import (
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/isonomia-mesh/isonomia/model"
)

// requestVersion is the first byte of a forwarded proposal and of its reply.
const requestVersion = 1

// requestID names a proposal across its tries, so that a leader that has it already does not write it twice.
type requestID [16]byte

func newRequestID() requestID {
	var id requestID
	_, _ = rand.Read(id[:]) // never fails
	return id
}

// encodeRequest makes what Config.Forward carries: version, id, entry.
func encodeRequest(id requestID, entry []byte) []byte {
	out := make([]byte, 0, 1+len(id)+len(entry))
	return append(append(append(out, requestVersion), id[:]...), entry...)
}

func decodeRequest(b []byte) (id requestID, entry []byte, err error) {
	switch {
	case len(b) < 1+len(id):
		return id, nil, errors.New("decode forwarded proposal: it is cut short")
	case b[0] != requestVersion:
		return id, nil, fmt.Errorf("decode forwarded proposal: version %d", b[0])
	}
	copy(id[:], b[1:])
	return id, b[1+len(id):], nil
}

// status of a reply. The numbers are for ever.
type status uint8

const (
	statusDone      status = 1 // Results answer the commands
	statusNotLeader status = 2 // nothing was written here; Leader is who leads, if known
	statusBusy      status = 3 // nothing was written
	statusUncertain status = 4 // leadership was lost: it may be written
	statusRefused   status = 5 // the entry cannot be read here: trying again does not help
)

// reply answers a forwarded proposal.
type reply struct {
	Status  status         `cbor:"1,keyasint"`
	Results []model.Result `cbor:"2,keyasint,omitempty"`
	Leader  string         `cbor:"3,keyasint,omitempty"`
	Message string         `cbor:"4,keyasint,omitempty"`
}

func encodeReply(r reply) ([]byte, error) {
	b, err := replyModes.enc.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode reply: %w", err)
	}
	return append([]byte{requestVersion}, b...), nil
}

func decodeReply(b []byte) (reply, error) {
	var r reply
	if len(b) < 2 || b[0] != requestVersion || len(b) > maxReplyBytes {
		return r, fmt.Errorf("decode reply of %d bytes: not one of version %d", len(b), requestVersion)
	}
	if err := replyModes.dec.Unmarshal(b[1:], &r); err != nil {
		return reply{}, fmt.Errorf("decode reply: %w", err)
	}
	return r, nil
}

// maxReplyBytes bounds a reply: verdicts for every item of an entry, with their reasons.
const maxReplyBytes = 8 << 20

// replyOf says an outcome in a reply.
func replyOf(results []model.Result, err error) reply {
	notLeader := (*NotLeaderError)(nil)
	switch {
	case err == nil:
		return reply{Status: statusDone, Results: results}
	case errors.As(err, &notLeader):
		return reply{Status: statusNotLeader, Leader: notLeader.Leader}
	case errors.Is(err, ErrUncertain):
		return reply{Status: statusUncertain}
	case errors.Is(err, errRefused):
		return reply{Status: statusRefused, Message: err.Error()}
	}
	return reply{Status: statusBusy, Message: err.Error()}
}

// outcome is the opposite of replyOf.
func (r reply) outcome() ([]model.Result, error) {
	switch r.Status {
	case statusDone:
		return r.Results, nil
	case statusNotLeader:
		return nil, &NotLeaderError{Leader: r.Leader}
	case statusUncertain:
		return nil, ErrUncertain
	case statusRefused:
		return nil, fmt.Errorf("%w: %s", errRefused, r.Message)
	}
	return nil, fmt.Errorf("%w: %s", errBusy, r.Message)
}
