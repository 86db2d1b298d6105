package snapshotstore

import "fmt"

// storeKey is a key of KeyedNaming and its namer.
type storeKey struct {
	key  [32]byte
	name Namer
}

// UseKeys replaces the keys of KeyedNaming: the first names what is put, all
// are tried on what is read. It may be called at any time; a node learns the
// cluster's store key after its store is open. Without keys, keyed objects
// are kept but neither served, taken nor put (ErrNoKey).
func (s *Store) UseKeys(keys ...[32]byte) {
	ring := make([]storeKey, 0, len(keys))
	for _, k := range keys {
		ring = append(ring, storeKey{k, KeyedNamer(k)})
	}
	s.keys.Store(&ring)
}

// key returns the key that names what is put.
func (s *Store) key() (storeKey, error) {
	if ring := *s.keys.Load(); len(ring) > 0 {
		return ring[0], nil
	}
	return storeKey{}, ErrNoKey
}

// verifyKeyed compares an object of KeyedNaming with its name.
func (s *Store) verifyKeyed(id ID, plain []byte) error {
	ring := *s.keys.Load()
	for _, k := range ring {
		if k.name(plain) == id {
			return nil
		}
	}
	if len(ring) > 0 || PlainNamer(plain) == id { // the latter: a changed format byte
		return fmt.Errorf("%w: content is not what its keyed name says", errDamaged)
	}
	return ErrNoKey // a store without its key is not a damaged one
}
