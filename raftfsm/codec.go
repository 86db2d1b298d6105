package raftfsm

import (
	"errors"
	"fmt"

	"github.com/fxamacker/cbor/v2"

	"github.com/isonomia-mesh/isonomia/model"
)

// Limits of one log entry. A proposer that has more to say splits it (model.Part).
const (
	EntryVersion  = 1       // first byte of an entry
	MaxEntryBytes = 1 << 20 // encoded, version byte included
	MaxCommands   = 1024    // in one entry

	groupBytes = MaxEntryBytes / 2 // what Group puts into an entry of several commands; one alone may be larger

	maxNesting  = 16      // deepest command is 6
	maxElements = 1 << 17 // of one array or map in an entry
)

// ErrTooLarge says that commands do not fit in one entry.
var ErrTooLarge = errors.New("too large for a log entry")

// MustUpgradeError says that the log or a checkpoint holds what this binary does not understand. The node keeps its
// last State, keeps its services running, and does not lead.
type MustUpgradeError struct {
	Index uint64 // log index of the entry; 0 when it is a checkpoint or not in the log yet
	What  string // what it does not understand
	Err   error  // nil when What says everything
}

func (e *MustUpgradeError) Error() string {
	at := ""
	if e.Index != 0 {
		at = fmt.Sprintf(" (entry %d)", e.Index)
	}
	if e.Err != nil {
		return fmt.Sprintf("this node must be upgraded: %s%s: %v", e.What, at, e.Err)
	}
	return fmt.Sprintf("this node must be upgraded: %s%s", e.What, at)
}

func (e *MustUpgradeError) Unwrap() error { return e.Err }

// modes are an encoder and a decoder that agree.
type modes struct {
	enc cbor.EncMode
	dec cbor.DecMode
}

var (
	entryModes = newModes(maxElements, cbor.ExtraDecErrorUnknownField)
	replyModes = newModes(maxElements, cbor.ExtraDecErrorNone) // a newer leader may say more than we ask for
	tableModes = newModes(1<<22, cbor.ExtraDecErrorUnknownField)
)

// newModes gives the project's CBOR: core deterministic, times as RFC 3339 in UTC with nanoseconds.
//
// Decoders of what becomes State refuse fields that they do not know: dropping one in silence would let two versions
// make different States of one entry. All let strings pass that are not UTF-8, for a service's last output may be cut in the middle
// of a character, and an entry that is in the log must be applied.
func newModes(elements int, unknown cbor.ExtraDecErrorCond) modes {
	eo := cbor.CoreDetEncOptions()
	eo.Time = cbor.TimeRFC3339NanoUTC
	do := cbor.DecOptions{
		DupMapKey:         cbor.DupMapKeyEnforcedAPF,
		IndefLength:       cbor.IndefLengthForbidden,
		TagsMd:            cbor.TagsForbidden,
		UTF8:              cbor.UTF8DecodeInvalid,
		ExtraReturnErrors: unknown,
		MaxNestedLevels:   maxNesting,
		MaxArrayElements:  elements,
		MaxMapPairs:       elements,
	}
	enc, encErr := eo.EncMode()
	dec, decErr := do.DecMode()
	if err := errors.Join(encErr, decErr); err != nil {
		panic(err) // options are constants
	}
	return modes{enc, dec}
}

// item is one command of an entry.
type item struct {
	_    struct{} `cbor:",toarray"`
	Kind uint64
	Body cbor.RawMessage
}

// EncodeCommands gives a log entry. What it gives, DecodeCommands of the same version takes: it tries, because a bad
// entry in the log would stop every node.
func EncodeCommands(cmds []model.Command) ([]byte, error) {
	if len(cmds) == 0 || len(cmds) > MaxCommands {
		return nil, fmt.Errorf("encode entry of %d commands: want 1 to %d", len(cmds), MaxCommands)
	}
	items := make([]item, len(cmds))
	for i, c := range cmds {
		k, ok := kindOfCommand(c)
		if !ok {
			return nil, fmt.Errorf("encode command %T: it has no number", c)
		}
		body, err := entryModes.enc.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("encode command %T: %w", c, err)
		}
		items[i] = item{Kind: k.number, Body: body}
	}
	list, err := entryModes.enc.Marshal(items)
	if err != nil {
		return nil, fmt.Errorf("encode entry: %w", err)
	}
	entry := append([]byte{EntryVersion}, list...)
	if len(entry) > MaxEntryBytes {
		return nil, fmt.Errorf("encode %d commands of %d bytes: %w", len(cmds), len(entry), ErrTooLarge)
	}
	_, err = DecodeCommands(entry)
	return entry, err
}

// Group cuts commands into entries of half the limit at most, in order; a larger command is alone in its entry.
func Group(cmds []model.Command) ([][]model.Command, error) {
	var groups [][]model.Command
	first, size := 0, 0
	for i, c := range cmds {
		body, err := entryModes.enc.Marshal(c)
		if err != nil {
			return nil, fmt.Errorf("encode command %T: %w", c, err)
		}
		if i > first && (size+len(body) > groupBytes || i-first == MaxCommands) {
			groups, first, size = append(groups, cmds[first:i]), i, 0
		}
		size += len(body)
	}
	if first < len(cmds) {
		groups = append(groups, cmds[first:])
	}
	return groups, nil
}

// DecodeCommands reads a log entry. It answers with a *MustUpgradeError for a newer version, an unknown kind or an
// unknown field.
func DecodeCommands(entry []byte) ([]model.Command, error) {
	switch {
	case len(entry) == 0:
		return nil, errors.New("decode entry: it is empty")
	case len(entry) > MaxEntryBytes:
		return nil, fmt.Errorf("decode entry of %d bytes: %w", len(entry), ErrTooLarge)
	case entry[0] > EntryVersion:
		return nil, &MustUpgradeError{What: fmt.Sprintf("entries of version %d", entry[0])}
	case entry[0] != EntryVersion:
		return nil, fmt.Errorf("decode entry: version %d", entry[0])
	}
	var items []item
	if err := entryModes.dec.Unmarshal(entry[1:], &items); err != nil {
		return nil, fmt.Errorf("decode entry: %w", err)
	}
	if len(items) == 0 || len(items) > MaxCommands {
		return nil, fmt.Errorf("decode entry of %d commands: want 1 to %d", len(items), MaxCommands)
	}
	cmds := make([]model.Command, len(items))
	for i, it := range items {
		c, err := decodeItem(it)
		if err != nil {
			return nil, err
		}
		cmds[i] = c
	}
	return cmds, nil
}

func decodeItem(it item) (model.Command, error) {
	k, ok := kindByNumber(it.Kind)
	if !ok {
		return nil, &MustUpgradeError{What: fmt.Sprintf("commands of kind %d", it.Kind)}
	}
	c, err := k.decode(it.Body)
	if unknown := (*cbor.UnknownFieldError)(nil); errors.As(err, &unknown) {
		return nil, &MustUpgradeError{What: "a field of " + k.typ.String(), Err: err}
	}
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", k.typ, err)
	}
	return c, nil
}
