//go:build !linux

package snapshotstore

import (
	"errors"
	"fmt"
	"os"
)

// Snapshots of state need system calls of Linux.
var errLinux = fmt.Errorf("snapshots of state: %w", errors.ErrUnsupported)

func openDir(string) (*os.File, error)                             { return nil, errLinux }
func openDirAt(*os.File, string) (*os.File, error)                 { return nil, errLinux }
func openFileAt(*os.File, string, int, uint32) (*os.File, error)   { return nil, errLinux }
func statAt(*os.File, string) (fileStat, error)                    { return fileStat{}, errLinux }
func statFile(*os.File) (fileStat, error)                          { return fileStat{}, errLinux }
func readlinkAt(*os.File, string) (string, error)                  { return "", errLinux }
func chmodFile(*os.File, uint32) error                             { return errLinux }
func mkdirAt(*os.File, string, uint32) error                       { return errLinux }
func symlinkAt(*os.File, string, string) error                     { return errLinux }
func mkfifoAt(*os.File, string, uint32) error                      { return errLinux }
func linkAt(*os.File, string, *os.File, string) error              { return errLinux }
func unlinkAt(*os.File, string, bool) error                        { return errLinux }
func chownAt(*os.File, string, uint32, uint32) error               { return errLinux }
func chmodAt(*os.File, string, uint32) error                       { return errLinux }
func setTimeAt(*os.File, string, fileTime) error                   { return errLinux }
func readXattrs(*os.File) ([]Xattr, error)                         { return nil, errLinux }
func setXattr(*os.File, Xattr) error                               { return errLinux }
func removeXattr(*os.File, string) error                           { return errLinux }
func nextData(_ *os.File, at, size uint64) (uint64, uint64, error) { return at, size, nil }
func punchHole(*os.File, uint64, uint64) error                     { return errLinux }
func exchangeAt(*os.File, string, string) error                    { return errLinux }
func syncAll(*os.File) error                                       { return errLinux }
