package mesh

import (
	"cmp"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"
)

const (
	// LeafLife is how long a node's certificate lives unless the cluster has another life; it is renewed at half.
	LeafLife = 7 * 24 * time.Hour

	caLife    = 10 * 365 * 24 * time.Hour
	clockSlop = time.Hour // how far behind a peer's clock may be
	uriScheme = "isonomia"
	dnsSuffix = ".node.isonomia"
)

// CA is the cluster's certificate authority (P-256, 10 years). Whoever holds
// Key can make members.
type CA struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// NewCA makes an authority for the cluster of that name.
func NewCA(name string) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA %q: %w", name, err)
	}
	now := time.Now()
	t := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-clockSlop), NotAfter: now.Add(caLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make CA %q: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	return &CA{Cert: cert, Key: key}, err
}

// ParseCA puts together what Cert.Raw and KeyDER gave.
func ParseCA(certDER, keyDER []byte) (*CA, error) {
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("parse CA certificate: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(keyDER)
	if err != nil {
		return nil, fmt.Errorf("parse CA key: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !cert.IsCA || !key.PublicKey.Equal(cert.PublicKey) {
		return nil, errors.New("parse CA: the key is not the certificate's")
	}
	return &CA{Cert: cert, Key: key}, nil
}

// KeyDER is the private key in PKCS #8. Seal it before it leaves the process.
func (ca *CA) KeyDER() ([]byte, error) { return x509.MarshalPKCS8PrivateKey(ca.Key) }

// Fingerprint names the CA in tokens: 32 characters.
func (ca *CA) Fingerprint() string { return fingerprint(ca.Cert.Raw) }

// SignNode makes the leaf of the node with that key: for both sides of a
// handshake, URI isonomia://node/<id>, DNS <id>.node.isonomia. life 0: LeafLife.
func (ca *CA) SignNode(pub ed25519.PublicKey, now time.Time, life time.Duration) (leafDER []byte, err error) {
	id := NodeID(pub)
	t := leafTemplate(id, now, life)
	t.DNSNames = []string{id + dnsSuffix}
	t.URIs = []*url.URL{nodeURI(id)}
	t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	der, err := x509.CreateCertificate(rand.Reader, t, ca.Cert, pub, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of node %q: %w", id, err)
	}
	return der, nil
}

// SignServer makes a leaf for an HTTPS server on these hosts (names or
// addresses). It carries no node URI, so it is no member's certificate.
func (ca *CA) SignServer(pub crypto.PublicKey, hosts []string, now time.Time) (leafDER []byte, err error) {
	t := leafTemplate("isonomia api", now, 0)
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.Cert, pub, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("sign server certificate for %q: %w", hosts, err)
	}
	return der, nil
}

// leafTemplate begins a little in the past, for clocks that are behind: by an
// hour, or by an eighth of its life if that is short.
func leafTemplate(name string, now time.Time, life time.Duration) *x509.Certificate {
	life = cmp.Or(life, LeafLife)
	return &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{CommonName: name},
		NotBefore: now.Add(-min(clockSlop, life/8)), NotAfter: now.Add(life),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
}

// VerifyNode says whether leaf is a valid member certificate of its own key's
// node, signed by one of cas. now zero: expiry is not looked at.
func VerifyNode(leaf *x509.Certificate, cas []*x509.Certificate, now time.Time) (id string, err error) {
	pub, ok := leaf.PublicKey.(ed25519.PublicKey)
	if !ok {
		return "", errors.New("verify certificate: not an Ed25519 key")
	}
	id = NodeID(pub)
	if now.IsZero() {
		now = leaf.NotBefore
	}
	pool := x509.NewCertPool()
	for _, c := range cas {
		pool.AddCert(c)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: x509.NewCertPool(), CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return "", fmt.Errorf("verify certificate of %q: %w", id, err)
	}
	for _, u := range leaf.URIs {
		if *u == *nodeURI(id) {
			return id, nil
		}
	}
	return "", fmt.Errorf("verify certificate of %q: it names another node", id)
}

func nodeURI(id string) *url.URL { return &url.URL{Scheme: uriScheme, Host: "node", Path: "/" + id} }

func newSerial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// selfSigned is what a node presents before it has a leaf: its key, vouched for
// by nobody.
func selfSigned(id *Identity, now time.Time) ([]byte, error) {
	t := leafTemplate(id.ID, now, 0)
	t.URIs = []*url.URL{nodeURI(id.ID)}
	t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	der, err := x509.CreateCertificate(rand.Reader, t, t, id.Public(), id.Key)
	if err != nil {
		return nil, fmt.Errorf("make certificate of %q: %w", id.ID, err)
	}
	return der, nil
}
