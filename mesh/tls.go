package mesh

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Every tls.Config here has InsecureSkipVerify or RequireAnyClientCert: the
// standard check knows one set of roots, ours knows pinned keys and removals.
// VerifyConnection takes its place; it runs in every handshake, and there is no
// resumption (no tickets, no session cache) that could skip the certificates.

// peerKey is the key that the peer proved to hold.
func peerKey(chain []*x509.Certificate) (ed25519.PublicKey, error) {
	if len(chain) == 0 {
		return nil, fmt.Errorf("%w: no certificate", ErrUnauthorized)
	}
	pub, ok := chain[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: not an Ed25519 key", ErrUnauthorized)
	}
	return pub, nil
}

// judge decides about a peer of ALPN isonomia/1. want is the id that must
// answer; "" accepts any member.
func (m *Mesh) judge(cs tls.ConnectionState, want string) error {
	pub, err := peerKey(cs.PeerCertificates)
	if err != nil {
		return err
	}
	id := NodeID(pub)
	if id == m.id.ID {
		return ErrSelf
	}
	if want != "" && id != want {
		return fmt.Errorf("%w: wanted %q, found %q", ErrImpostor, want, id)
	}
	if m.cfg.Trust == nil {
		return fmt.Errorf("%w: %q: nobody is", ErrUnauthorized, id)
	}
	if err := m.cfg.Trust(pub, cs.PeerCertificates); err != nil {
		return fmt.Errorf("%w: %q: %w", ErrUnauthorized, id, err)
	}
	return nil
}

// verdict carries the error of VerifyConnection past the TLS layer, which would
// keep only its text.
type verdict struct{ err atomic.Pointer[error] }

func (v *verdict) note(err error) error {
	if err != nil {
		v.err.Store(&err)
	}
	return err
}

// or returns what was noted, else err.
func (v *verdict) or(err error) error {
	if p := v.err.Load(); p != nil {
		return *p
	}
	return err
}

func (m *Mesh) clientTLS(want string, c class, v *verdict) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{c.alpn()},
		ServerName:           "node.isonomia", // sent in the clear, so it names nobody
		InsecureSkipVerify:   true,            // judge decides
		VerifyConnection:     func(cs tls.ConnectionState) error { return v.note(m.judge(cs, want)) },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return m.certs.get() },
	}
}

// serverTLS offers the members' ALPNs, and the join ALPN only to those who ask
// for nothing else.
func (m *Mesh) serverTLS() *tls.Config {
	members := &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{alpnControl, alpnBulk},
		SessionTicketsDisabled: true,
		ClientAuth:             tls.RequireAnyClientCert, // judge decides
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.certs.get() },
		VerifyConnection: func(cs tls.ConnectionState) error {
			err := m.judge(cs, "")
			if err != nil {
				m.log.Debug("handshake refused", "error", err)
			}
			return err
		},
	}
	join := members.Clone()
	join.NextProtos = []string{alpnJoin}
	join.VerifyConnection = func(cs tls.ConnectionState) error { _, err := peerKey(cs.PeerCertificates); return err }
	base := members.Clone()
	base.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if m.cfg.Join != nil && slices.Equal(hello.SupportedProtos, join.NextProtos) {
			return join, nil
		}
		return members, nil
	}
	return base
}

// certificates turns what Config.Cert returns into what TLS wants, and keeps it
// while it stays the same.
type certificates struct {
	id   *Identity
	cert func() ([][]byte, error) // nil: self-signed
	last atomic.Pointer[tls.Certificate]
}

func (c *certificates) get() (*tls.Certificate, error) {
	chain, err := c.chain()
	if err != nil {
		return nil, fmt.Errorf("get own certificate: %w", err)
	}
	if last := c.last.Load(); last != nil && slices.EqualFunc(last.Certificate, chain, slices.Equal[[]byte]) {
		return last, nil
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("parse own certificate: %w", err)
	}
	if !c.id.Public().Equal(leaf.PublicKey) {
		return nil, errors.New("own certificate is for another key")
	}
	cert := &tls.Certificate{Certificate: chain, PrivateKey: c.id.Key, Leaf: leaf}
	c.last.Store(cert)
	return cert, nil
}

// chain asks for the current leaf and CA. A node without one vouches for itself;
// peers that pinned its key accept that.
func (c *certificates) chain() ([][]byte, error) {
	if c.cert != nil {
		chain, err := c.cert()
		if err != nil || len(chain) > 0 {
			return chain, err
		}
	}
	if last := c.last.Load(); last != nil && len(last.Certificate) == 1 && time.Until(last.Leaf.NotAfter) > 0 {
		return last.Certificate, nil
	}
	der, err := selfSigned(c.id, time.Now())
	return [][]byte{der}, err
}
