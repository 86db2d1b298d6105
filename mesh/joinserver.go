package mesh

import (
	"context"
	"crypto/ed25519"
	"errors"
	"time"

	"github.com/quic-go/quic-go"
)

const (
	joinTimeout = 15 * time.Second // of one request, the caller's work included
	joinLinger  = 2 * time.Second  // for the joiner to read the reply
	maxJoins    = 16               // at once; more are told that we are busy
)

// Codes of Refused that mesh itself sends; the caller's Join has its own.
const (
	CodeInternal = "internal" // the message of an error that is no *Refused
	CodeBusy     = "busy"
)

// serveJoin answers one request on a connection of an unknown key.
func (m *Mesh) serveJoin(ctx context.Context, qc *quic.Conn) {
	select {
	case m.joins <- struct{}{}:
		defer func() { <-m.joins }()
	default:
		_ = qc.CloseWithError(connBusy, "too many joins at once")
		return
	}
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	stop := context.AfterFunc(qc.Context(), cancel)
	defer stop()
	if err := m.answerJoin(ctx, qc); err != nil {
		m.log.Debug("join failed", "from", qc.RemoteAddr(), "error", err)
	}
	_ = qc.CloseWithError(connBye, "")
}

func (m *Mesh) answerJoin(ctx context.Context, qc *quic.Conn) error {
	pub, err := peerKey(qc.ConnectionState().TLS.PeerCertificates)
	if err != nil {
		return err
	}
	s, err := qc.AcceptStream(ctx)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	request, err := readFrame(s)
	if err != nil {
		return err
	}
	reply, refused := m.callJoin(ctx, pub, request)
	if err := writeJoinReply(s, reply, refused); err != nil {
		return err
	}
	_ = s.Close()
	select { // the joiner closes the connection when it has read the reply
	case <-qc.Context().Done():
	case <-time.After(joinLinger):
	case <-ctx.Done():
	}
	return nil
}

// callJoin asks the caller. Any error travels: as it is if it is a *Refused,
// else as its text.
func (m *Mesh) callJoin(ctx context.Context, pub ed25519.PublicKey, request []byte) ([]byte, *Refused) {
	reply, err := m.cfg.Join(ctx, pub, request)
	var refused *Refused
	switch {
	case err == nil && len(reply) > joinLimit:
		return nil, &Refused{Code: CodeInternal, Message: "the reply is too long"}
	case err == nil:
		return reply, nil
	case errors.As(err, &refused):
		return nil, refused
	}
	return nil, &Refused{Code: CodeInternal, Message: err.Error(), Retry: timedOut(err)}
}
