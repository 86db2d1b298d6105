package mesh

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
)

// Token lets a new node ask for admission. Its text is
//
//	iso1.<CA fingerprint>.<token id>.<secret>.<checksum>
//
// all in lower-case base32. The checksum tells a paste that was cut short from
// a token that is wrong.
type Token struct {
	CAFingerprint string // see CA.Fingerprint
	ID            string // public name, what `token list` and `revoke` use
	Secret        []byte // 20 bytes; the cluster keeps only its hash
}

const (
	tokenPrefix   = "iso1"
	tokenLimit    = 512 // bytes of text
	secretBytes   = 20
	tokenIDBytes  = 5
	checksumBytes = 5
)

// Errors of ParseToken.
var (
	ErrNotToken     = errors.New("not a join token (it begins with \"iso1.\")")
	ErrTokenDamaged = errors.New("the token is incomplete or mistyped: copy it whole")
)

// NewToken makes a random token for the CA with that fingerprint.
func NewToken(caFingerprint string) Token {
	b := make([]byte, tokenIDBytes+secretBytes)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return Token{CAFingerprint: caFingerprint, ID: lowerBase32.EncodeToString(b[:tokenIDBytes]), Secret: b[tokenIDBytes:]}
}

// String is the text that ParseToken reads. It contains the secret.
func (t Token) String() string {
	body := strings.Join([]string{tokenPrefix, t.CAFingerprint, t.ID, lowerBase32.EncodeToString(t.Secret)}, ".")
	return body + "." + checksum(body)
}

// SecretHash is what the cluster stores in place of the secret: 32 bytes.
func (t Token) SecretHash() []byte {
	sum := sha256.Sum256(append([]byte("isonomia join token\x00"), t.Secret...))
	return sum[:]
}

// ParseToken reads a token's text; space around it is ignored.
func ParseToken(s string) (Token, error) {
	s = strings.TrimSpace(s)
	if len(s) > tokenLimit || !strings.HasPrefix(s, tokenPrefix+".") {
		return Token{}, ErrNotToken
	}
	cut := strings.LastIndexByte(s, '.')
	f := strings.Split(s[:cut], ".")
	if len(f) != 4 || s[cut+1:] != checksum(s[:cut]) {
		return Token{}, ErrTokenDamaged
	}
	secret, err := lowerBase32.DecodeString(f[3])
	if err != nil || len(secret) != secretBytes || lowerBase32.EncodeToString(secret) != f[3] {
		return Token{}, fmt.Errorf("%w: its secret is not %d bytes", ErrTokenDamaged, secretBytes)
	}
	if !validID(f[1]) || f[2] == "" {
		return Token{}, fmt.Errorf("%w: its fields are not a token's", ErrTokenDamaged)
	}
	return Token{CAFingerprint: f[1], ID: f[2], Secret: secret}, nil
}

func checksum(body string) string {
	sum := sha256.Sum256([]byte(body))
	return lowerBase32.EncodeToString(sum[:checksumBytes])
}
