package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/quic-go/quic-go"
)

// Join asks the node at addr (HOST:PORT) for admission, from a socket of its
// own, with id's key. The server's certificate chain must end in the CA of that
// fingerprint: until that is checked nothing is sent, not even our own
// certificate. What request and reply mean is the callers' affair.
//
// Errors: ErrUnreachable (try again), ErrWrongCluster, *Refused. Without a
// deadline in ctx it takes at most 20 s.
func Join(ctx context.Context, addr string, id *Identity, caFingerprint string, request []byte) (reply []byte, err error) {
	if len(request) > joinLimit {
		return nil, fmt.Errorf("join %q: a request of %d bytes, the limit is %d", addr, len(request), joinLimit)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, joinTimeout+dialTimeout)
		defer cancel()
	}
	ips, err := resolve(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("join: %w: %w", ErrUnreachable, err)
	}
	var errs []error
	for _, ip := range ips {
		if reply, err = joinIP(ctx, ip, id, caFingerprint, request); err == nil {
			return reply, nil
		}
		if refused := (*Refused)(nil); errors.As(err, &refused) || errors.Is(err, ErrWrongCluster) {
			return nil, fmt.Errorf("join %q: %w", addr, err)
		}
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("join %q: %w", addr, errors.Join(errs...))
}

func joinIP(ctx context.Context, to netip.AddrPort, id *Identity, fp string, request []byte) ([]byte, error) {
	udp, err := net.ListenUDP("udp", nil)
	if err != nil {
		return nil, fmt.Errorf("open socket: %w", err)
	}
	defer udp.Close()
	tr := &quic.Transport{Conn: udp}
	defer tr.Close()
	var v verdict
	conf, err := joinTLS(id, fp, &v)
	if err != nil {
		return nil, err
	}
	qc, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(to), conf, quicConfig(control))
	if err != nil {
		if err = v.or(err); errors.Is(err, ErrWrongCluster) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	defer func() { _ = qc.CloseWithError(connBye, "") }()
	return exchange(ctx, qc, request)
}

// exchange sends the request and waits for the reply. A connection that breaks
// in between is retryable: admission is idempotent per key.
func exchange(ctx context.Context, qc *quic.Conn, request []byte) ([]byte, error) {
	s, err := qc.OpenStreamSync(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, connError(err))
	}
	deadline, _ := ctx.Deadline()
	_ = s.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeFrame(s, nil, request); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	_ = s.Close()
	reply, err := readJoinReply(s)
	if refused := (*Refused)(nil); err == nil || errors.As(err, &refused) {
		return reply, err
	}
	if cause := context.Cause(qc.Context()); cause != nil {
		err = connError(cause)
	}
	return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
}

func joinTLS(id *Identity, fp string, v *verdict) (*tls.Config, error) {
	certs := &certificates{id: id}
	cert, err := certs.get()
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpnJoin}, ServerName: "node.isonomia",
		InsecureSkipVerify:   true, // checkCluster decides
		VerifyConnection:     func(cs tls.ConnectionState) error { return v.note(checkCluster(cs.PeerCertificates, fp, time.Now())) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil },
	}, nil
}

// checkCluster says whether the chain is a member's of the CA of that
// fingerprint.
func checkCluster(chain []*x509.Certificate, fp string, now time.Time) error {
	for _, c := range chain {
		if c.IsCA && fingerprint(c.Raw) == fp {
			_, err := VerifyNode(chain[0], []*x509.Certificate{c}, now)
			return err
		}
	}
	return ErrWrongCluster
}
