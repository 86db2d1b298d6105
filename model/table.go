package model

import (
	"iter"
	"strings"

	iradix "github.com/hashicorp/go-immutable-radix/v2"
)

// Table is a persistent map with ordered keys: Set and Delete give a new Table and leave the old one as it was, in
// O(key length), so a State may be read while the next one is made. The zero Table is empty.
//
// A radix tree rather than a hash trie because every loop over a table must be in the same order on every node, and
// because tables are asked for all keys under a prefix (rows of a node, generations of a system).
type Table[V any] struct{ tree *iradix.Tree[V] }

// Get finds the value of key.
func (t Table[V]) Get(key string) (V, bool) {
	if t.tree == nil {
		var zero V
		return zero, false
	}
	return t.tree.Get([]byte(key))
}

// At is Get without the flag: the zero value where key is absent.
func (t Table[V]) At(key string) V {
	v, _ := t.Get(key)
	return v
}

// Has says whether key is present.
func (t Table[V]) Has(key string) bool {
	_, ok := t.Get(key)
	return ok
}

// Set gives a table in which key has value v.
func (t Table[V]) Set(key string, v V) Table[V] {
	tree := t.tree
	if tree == nil {
		tree = iradix.New[V]()
	}
	next, _, _ := tree.Insert([]byte(key), v)
	return Table[V]{next}
}

// Delete gives a table without key.
func (t Table[V]) Delete(key string) Table[V] {
	if t.tree == nil {
		return t
	}
	next, _, _ := t.tree.Delete([]byte(key))
	return Table[V]{next}
}

// Len is the number of keys.
func (t Table[V]) Len() int {
	if t.tree == nil {
		return 0
	}
	return t.tree.Len()
}

// All yields every key and value in key order.
func (t Table[V]) All() iter.Seq2[string, V] { return t.Prefix("") }

// Prefix yields the keys that begin with prefix, in order.
func (t Table[V]) Prefix(prefix string) iter.Seq2[string, V] {
	return func(yield func(string, V) bool) {
		if t.tree == nil {
			return
		}
		it := t.tree.Root().Iterator()
		it.SeekPrefix([]byte(prefix))
		for k, v, ok := it.Next(); ok; k, v, ok = it.Next() {
			if !yield(string(k), v) {
				return
			}
		}
	}
}

// Last gives the greatest key under prefix.
func (t Table[V]) Last(prefix string) (string, V, bool) {
	var zero V
	if t.tree == nil {
		return "", zero, false
	}
	it := t.tree.Root().ReverseIterator()
	it.SeekReverseLowerBound([]byte(prefix + "\xff"))
	k, v, ok := it.Previous()
	if !ok || !strings.HasPrefix(string(k), prefix) {
		return "", zero, false
	}
	return string(k), v, true
}
