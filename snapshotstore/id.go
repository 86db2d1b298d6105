package snapshotstore

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/zeebo/blake3"
)

// ID names an object: the hash of its plain bytes.
type ID [32]byte

// String returns the ID as 64 lower-case hexadecimal digits.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// IsZero reports whether the ID was never set.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders IDs by their bytes.
func (id ID) Compare(other ID) int { return bytes.Compare(id[:], other[:]) }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	var id ID
	if err := id.UnmarshalText([]byte(s)); err != nil {
		return ID{}, err
	}
	return id, nil
}

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; 64 lower-case
// hexadecimal digits and nothing else.
func (id *ID) UnmarshalText(text []byte) error {
	var out ID
	if len(text) != hex.EncodedLen(len(out)) {
		return fmt.Errorf("parse id %.80q: want 64 hexadecimal digits", text)
	}
	if _, err := hex.Decode(out[:], text); err != nil {
		return fmt.Errorf("parse id %.80q: %w", text, err)
	}
	if !bytes.Equal([]byte(out.String()), text) {
		return fmt.Errorf("parse id %.80q: upper case", text)
	}
	*id = out
	return nil
}

// Naming says how an object got its ID. It is part of the stored format.
type Naming byte

const (
	// PlainNaming is BLAKE3 without a key: packages, which a cli without
	// keys must be able to name.
	PlainNaming Naming = 0
	// KeyedNaming is BLAKE3 with the cluster's store key: snapshots, so that
	// an ID tells a stranger nothing about the content.
	KeyedNaming Naming = 1
)

// Namer computes the ID of plain bytes. It must be safe for concurrent use.
type Namer func(plain []byte) ID

// PlainNamer is the Namer of PlainNaming.
func PlainNamer(plain []byte) ID { return blake3.Sum256(plain) }

// KeyedNamer returns the Namer of KeyedNaming for a 32-byte key.
func KeyedNamer(key [32]byte) Namer {
	pool := &sync.Pool{New: func() any { return newKeyedHasher(key) }} // a hasher is 10 KiB
	return func(plain []byte) ID {
		h := pool.Get().(*blake3.Hasher)
		defer pool.Put(h)
		h.Reset()
		h.Write(plain)
		var id ID
		h.Sum(id[:0])
		return id
	}
}

func newKeyedHasher(key [32]byte) *blake3.Hasher {
	h, err := blake3.NewKeyed(key[:])
	if err != nil { // only a wrong key length, which the type excludes
		panic(err)
	}
	return h
}
