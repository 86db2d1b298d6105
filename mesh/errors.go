package mesh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/quic-go/quic-go"
)

// Sentinels that callers branch on. All are wrapped with the node or address
// concerned.
var (
	// ErrUnreachable: nobody answered in time. Worth trying again.
	ErrUnreachable = errors.New("cannot be reached")
	// ErrWrongCluster: the server's chain does not end in the CA that the token
	// names. Nothing was sent to it.
	ErrWrongCluster = errors.New("belongs to another cluster")
	// ErrUnauthorized: one side does not accept the other as a member.
	ErrUnauthorized = errors.New("not accepted as a member")
	// ErrImpostor: another node than the wanted one answered at the address.
	ErrImpostor = errors.New("another node answers there")
	// ErrUnknownNode: no address is known for the id.
	ErrUnknownNode = errors.New("no address is known")
	// ErrNotServed: the peer has no listener for the protocol at the moment.
	ErrNotServed = errors.New("protocol is not served there")
	// ErrBusy: the peer's listener has too many streams waiting.
	ErrBusy = errors.New("too busy")
	// ErrReset: the peer gave up the stream or the connection to it broke.
	ErrReset = errors.New("connection lost")
	// ErrSelf: a node does not dial itself.
	ErrSelf = errors.New("that is this node itself")
)

// Refused is the final answer of a join: the server heard the request and said
// no. Code is for programs, Message for people.
type Refused struct {
	Code    string `cbor:"1,keyasint"`
	Message string `cbor:"2,keyasint"`
	// Retry says that the same request may succeed later (no quorum, busy).
	Retry bool `cbor:"3,keyasint,omitempty"`
}

func (r *Refused) Error() string {
	if r.Message == "" {
		return "refused: " + r.Code
	}
	return fmt.Sprintf("refused: %s (%s)", r.Message, r.Code)
}

// Codes of streams that are reset and of connections that are closed. They are
// on the wire: never renumber, never reuse. Unknown ones mean ErrReset.
const (
	streamClosed    quic.StreamErrorCode = 0 // closed by its user
	streamNotServed quic.StreamErrorCode = 1
	streamBusy      quic.StreamErrorCode = 2
	streamBadProto  quic.StreamErrorCode = 3

	connBye          quic.ApplicationErrorCode = 0 // clean shutdown
	connIdle         quic.ApplicationErrorCode = 1 // unused for long
	connStale        quic.ApplicationErrorCode = 2 // the peer restarted, moved or failed
	connUnauthorized quic.ApplicationErrorCode = 3 // no longer trusted
	connBadHello     quic.ApplicationErrorCode = 4
	connBusy         quic.ApplicationErrorCode = 5
)

// streamError gives the error of a stream its meaning for our callers.
// io.EOF and deadline errors pass as they are.
func streamError(err error) error {
	if err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	var se *quic.StreamError
	if errors.As(err, &se) {
		return resetError(se)
	}
	if errors.Is(err, quic.ErrStreamClosed) {
		return net.ErrClosed
	}
	return connError(err)
}

func resetError(se *quic.StreamError) error {
	if !se.Remote {
		return net.ErrClosed
	}
	switch se.ErrorCode {
	case streamNotServed:
		return ErrNotServed
	case streamBusy:
		return ErrBusy
	case streamBadProto:
		return fmt.Errorf("%w: the peer does not know it", ErrNotServed)
	}
	return fmt.Errorf("%w: closed by the peer", ErrReset)
}

// connError gives the error of a whole connection its meaning.
func connError(err error) error {
	var te *quic.TransportError
	var ae *quic.ApplicationError
	switch {
	case err == nil, errors.Is(err, ErrUnauthorized), errors.Is(err, ErrReset):
		return err
	case errors.As(err, &te) && te.ErrorCode.IsCryptoError():
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	case errors.As(err, &ae) && ae.ErrorCode == connUnauthorized:
		return fmt.Errorf("%w: %w", ErrUnauthorized, err)
	case errors.As(err, &ae) && ae.ErrorCode == connBusy:
		return fmt.Errorf("%w: %w", ErrBusy, err)
	}
	return fmt.Errorf("%w: %w", ErrReset, err)
}

// timedOut tells a peer that did not answer from one that answered badly.
func timedOut(err error) bool {
	var ne net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &ne) && ne.Timeout()
}
