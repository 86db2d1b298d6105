package model

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// rowID names a row by everything that makes it this row: what runs, where, with which addresses and ports, and the
// rows that it depends on. A changed dependency therefore changes its dependents' ids, and nothing else's. Order
// (After) is not in it.
func rowID(r RowSpec) string {
	r.Key, r.After = "", nil
	b, err := json.Marshal(r) // struct fields in order, map keys sorted: one encoding for one value
	if err != nil {
		panic("model: row spec does not encode: " + err.Error()) // it holds only strings, numbers and maps of them
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12])
}

// digestRows names a manifest: its rows, their order and its reservations.
func digestRows(rows []RowSpec, reserved []Reservation) string {
	h := sha256.New()
	enc := json.NewEncoder(h)
	for _, r := range rows {
		_ = enc.Encode([]any{r.Key, r.After}) // writing to a hash does not fail
	}
	keys := make([]string, len(reserved))
	for i, r := range reserved {
		keys[i] = r.Key() + "=" + r.NumberKey()
	}
	slices.Sort(keys)
	_ = enc.Encode(keys)
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// rendezvous ranks a node for a service: the same on every machine, spread evenly, stable when nodes come and go.
func rendezvous(service, node string) string {
	sum := sha256.Sum256([]byte(service + "\x00" + node))
	return string(sum[:8])
}
