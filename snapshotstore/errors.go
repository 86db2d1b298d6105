package snapshotstore

import (
	"errors"
	"fmt"
)

// Reasons that callers branch on, with errors.Is.
var (
	ErrMissing  = errors.New("object is not in the store")
	ErrInUse    = errors.New("store is in use by another process")
	ErrReadOnly = errors.New("store is open for reading only")
	ErrClosed   = errors.New("store is closed")
	ErrNoKey    = errors.New("no key for the naming of the object")
	ErrFormat   = errors.New("unknown store format")
	ErrExists   = errors.New("destination exists and is not this tree")

	ErrSymlinkAbsolute = errors.New("symlink is absolute")
	ErrSymlinkEscapes  = errors.New("symlink leads out of the tree")
	ErrSpecialFile     = errors.New("neither file, directory nor symlink")
	ErrBadName         = errors.New("bad name")
	ErrChanged         = errors.New("changed while it was read")
	ErrTooDeep         = errors.New("too many levels of directories")
	ErrPathTooLong     = errors.New("path too long")
	ErrTooManyEntries  = errors.New("too many entries")
	ErrTooManyBytes    = errors.New("too many bytes")
	ErrXattrs          = errors.New("extended attributes of more than 64 KiB")
)

// EntryError says which path of a tree was refused and why; Err is or wraps
// one of the reasons above, or an error of the file system.
type EntryError struct {
	Path string // relative to the tree's root, "." for the root itself
	Err  error
}

func (e *EntryError) Error() string { return fmt.Sprintf("entry %q: %v", e.Path, e.Err) }
func (e *EntryError) Unwrap() error { return e.Err }

// MissingError names an object that the store does not have. It is ErrMissing.
type MissingError struct{ ID ID }

func (e *MissingError) Error() string        { return fmt.Sprintf("object %s: %v", e.ID, ErrMissing) }
func (e *MissingError) Is(target error) bool { return target == ErrMissing }

// CorruptError names an object whose bytes do not match its ID, or which is
// not what the object that leads to it says.
type CorruptError struct {
	ID     ID
	Where  string // the pack's file name, "" if the bytes came from elsewhere
	Reason string
}

func (e *CorruptError) Error() string {
	if e.Where == "" {
		return fmt.Sprintf("object %s is damaged: %s", e.ID, e.Reason)
	}
	return fmt.Sprintf("object %s in %s is damaged: %s", e.ID, e.Where, e.Reason)
}

// SourceError says why Fetch stopped asking a source.
type SourceError struct {
	Source string
	Err    error
}

func (e *SourceError) Error() string { return fmt.Sprintf("source %q: %v", e.Source, e.Err) }
func (e *SourceError) Unwrap() error { return e.Err }

// InUseError is ErrInUse with what is known about the holder.
type InUseError struct {
	Dir    string
	Holder string // what the holder wrote about itself, may be empty
}

func (e *InUseError) Error() string {
	if e.Holder == "" {
		return fmt.Sprintf("open store %q: %v", e.Dir, ErrInUse)
	}
	return fmt.Sprintf("open store %q: %v (%s)", e.Dir, ErrInUse, e.Holder)
}
func (e *InUseError) Is(target error) bool { return target == ErrInUse }

// TreeError says that an object is whole but can not stand where the tree
// puts it: whoever made the tree made it wrong. Fetching it again is useless.
type TreeError struct {
	ID     ID
	Reason string
}

func (e *TreeError) Error() string { return fmt.Sprintf("tree object %s: %s", e.ID, e.Reason) }
