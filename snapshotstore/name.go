package snapshotstore

import (
	"fmt"
	"strings"
)

// checkName refuses what can not be, or must not be, one name in a directory.
// Names are bytes: they need not be UTF-8.
func checkName(name string) error {
	switch {
	case name == "", name == ".", name == "..":
		return fmt.Errorf("%w %q", ErrBadName, name)
	case len(name) > maxName:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrBadName, len(name), maxName)
	case strings.ContainsAny(name, "/\x00"):
		return fmt.Errorf("%w %q", ErrBadName, name)
	}
	return nil
}

// checkTarget refuses a symlink whose target could lead out of the tree;
// depth is the number of directories between the root and the link.
//
// ".." is allowed at the beginning only. There it is counted from a real
// directory; after a name it could follow another link to a shallower place,
// and no look at the text could bound it.
func checkTarget(target string, depth int) error {
	switch {
	case target == "" || len(target) > maxTarget || strings.ContainsRune(target, 0):
		return fmt.Errorf("%w of a symlink's target", ErrBadName)
	case target[0] == '/':
		return fmt.Errorf("%w: to %q", ErrSymlinkAbsolute, target)
	}
	up, down := 0, false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if up++; down || up > depth {
				return fmt.Errorf("%w: to %q", ErrSymlinkEscapes, target)
			}
		default:
			down = true
		}
	}
	return nil
}
