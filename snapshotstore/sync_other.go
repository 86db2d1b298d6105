//go:build !linux

package snapshotstore

import "os"

// syncTree brings all files and directories beneath root to disk.
func syncTree(root *os.Root) error { return syncEach(root) }
