package snapshotstore

import (
	"io"
	"os"
	"path/filepath"
)

// disk is what the store does to its directory beyond reading. Tests put a
// disk in between that dies, fails, or forgets what was not synced.
type disk interface {
	create(path string) (diskFile, error) // must not exist
	reopen(path string) (diskFile, error) // must exist
	rename(from, to string) error
	remove(path string) error
	syncDir(path string) error
}

type diskFile interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Truncate(size int64) error
	Close() error
}

type osDisk struct{}

func (osDisk) create(path string) (diskFile, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osDisk) reopen(path string) (diskFile, error) { return os.OpenFile(path, os.O_RDWR, 0) }
func (osDisk) rename(from, to string) error         { return os.Rename(from, to) }
func (osDisk) remove(path string) error             { return os.Remove(path) }

func (osDisk) syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

const tempSuffix = ".tmp" // of files that Open may remove

// writeFile makes path appear whole or not at all.
func writeFile(d disk, path string, data []byte) error {
	temp := path + tempSuffix
	f, err := d.create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = d.rename(temp, path)
	}
	if err != nil {
		_ = d.remove(temp)
		return err
	}
	return d.syncDir(filepath.Dir(path))
}
