package mesh

import (
	"crypto"
	"crypto/ecdh"
	"crypto/ed25519"
	"crypto/hpke"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Identity is who a node is: a key, never an address. The private parts never
// leave the node.
type Identity struct {
	ID      string             // see NodeID
	Key     ed25519.PrivateKey // signs handshakes
	SealPub []byte             // X25519 public key, 32 bytes: what others seal to

	seal *ecdh.PrivateKey
}

const (
	identityFile  = "node.key"
	identityLimit = 16 << 10 // bytes
	keyBlock      = "ISONOMIA NODE KEY"
	sealBlock     = "ISONOMIA SEALING KEY"
	idHeader      = "Id" // of both blocks: what the key must give, so that a flipped bit is noticed
)

var lowerBase32 = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// fingerprint is how mesh names keys and certificates: the first 20 bytes of
// the SHA-256, 32 characters of lower-case base32.
func fingerprint(data []byte) string {
	sum := sha256.Sum256(data)
	return lowerBase32.EncodeToString(sum[:20])
}

// NodeID is the id of the node that holds pub's private key.
func NodeID(pub ed25519.PublicKey) string { return fingerprint(pub) }

// validID says whether s has the form of a node id.
func validID(s string) bool {
	b, err := lowerBase32.DecodeString(s) // skips line ends, hence both lengths
	return err == nil && len(s) == 32 && len(b) == 20
}

// Public is the public half of Key.
func (id *Identity) Public() ed25519.PublicKey { return id.Key.Public().(ed25519.PublicKey) }

// LoadIdentity reads dir's node.key, or makes it at first use. A file that is
// damaged, half written or readable by others is an error: an identity is never
// replaced silently.
func LoadIdentity(dir string) (*Identity, error) {
	path := filepath.Join(dir, identityFile)
	data, err := readFile(path, identityLimit)
	if errors.Is(err, fs.ErrNotExist) {
		return createIdentity(path)
	}
	if err != nil {
		return nil, err
	}
	if fi, err := os.Stat(path); err == nil && fi.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("load identity %q: others may read it (mode %v); chmod 600 if they did not, else remove it and join as a new node", path, fi.Mode().Perm())
	}
	id, err := parseIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("load identity %q: damaged: %w; restore it, or remove it and join as a new node", path, err)
	}
	return id, nil
}

func createIdentity(path string) (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	seal, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	id := newIdentity(key, seal)
	data, err := id.encode()
	if err != nil {
		return nil, fmt.Errorf("make identity: %w", err)
	}
	return id, writeFile(path, data, 0o600)
}

func newIdentity(key ed25519.PrivateKey, seal *ecdh.PrivateKey) *Identity {
	id := &Identity{Key: key, seal: seal, SealPub: seal.PublicKey().Bytes()}
	id.ID = NodeID(id.Public())
	return id
}

func (id *Identity) encode() ([]byte, error) {
	key, err1 := x509.MarshalPKCS8PrivateKey(id.Key)
	seal, err2 := x509.MarshalPKCS8PrivateKey(id.seal)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: keyBlock, Headers: map[string]string{idHeader: id.ID}, Bytes: key})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: sealBlock, Headers: map[string]string{idHeader: fingerprint(id.SealPub)}, Bytes: seal})...), nil
}

// parseIdentity is the inverse of encode. It is pure.
func parseIdentity(data []byte) (*Identity, error) {
	k, rest, err := parseKeyBlock(data, keyBlock)
	if err != nil {
		return nil, err
	}
	s, rest, err := parseKeyBlock(rest, sealBlock)
	if err != nil {
		return nil, err
	}
	key, ok1 := k.key.(ed25519.PrivateKey)
	seal, ok2 := s.key.(*ecdh.PrivateKey)
	if !ok1 || !ok2 || len(rest) != 0 {
		return nil, errors.New("not the two keys that belong there")
	}
	id := newIdentity(key, seal)
	if id.ID != k.id || fingerprint(id.SealPub) != s.id {
		return nil, errors.New("the keys do not match their ids")
	}
	return id, nil
}

type keyEntry struct {
	key crypto.PrivateKey
	id  string
}

func parseKeyBlock(data []byte, kind string) (keyEntry, []byte, error) {
	b, rest := pem.Decode(data)
	if b == nil || b.Type != kind {
		return keyEntry{}, nil, fmt.Errorf("no %q block", kind)
	}
	key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
	if err != nil {
		return keyEntry{}, nil, fmt.Errorf("%q block: %w", kind, err)
	}
	return keyEntry{key: key, id: b.Headers[idHeader]}, rest, nil
}

// Seal encrypts plaintext so that only the holder of sealPub's private key can
// read it (HPKE: X25519, HKDF-SHA256, AES-256-GCM). info names the purpose and
// must be the same in Open.
func Seal(sealPub []byte, info string, plaintext []byte) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(sealPub)
	if err != nil {
		return nil, fmt.Errorf("seal for %q: %w", info, err)
	}
	pk, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("seal for %q: %w", info, err)
	}
	out, err := hpke.Seal(pk, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), plaintext)
	if err != nil {
		return nil, fmt.Errorf("seal for %q: %w", info, err)
	}
	return out, nil
}

// Open decrypts what was sealed to this node's SealPub with the same info.
func (id *Identity) Open(info string, sealed []byte) ([]byte, error) {
	sk, err := hpke.NewDHKEMPrivateKey(id.seal)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", info, err)
	}
	out, err := hpke.Open(sk, hpke.HKDFSHA256(), hpke.AES256GCM(), []byte(info), sealed)
	if err != nil {
		return nil, fmt.Errorf("open %q: not sealed to this node, or damaged: %w", info, err)
	}
	return out, nil
}
