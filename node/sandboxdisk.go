package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// buildLimits bound what a build may take of the disk, in bytes. Zero fields take their defaults.
type buildLimits struct {
	disk    int64 // by which work and cache may grow together during one build; default 4 GiB
	reserve int64 // that must stay free for the node itself; default 256 MiB
	cache   int64 // beyond which the cache is thrown away after a build; default 16 GiB
}

const (
	minInodes  = 2000 // that must stay free
	inodeCosts = 1024 // bytes that an entry counts at least, so that empty files count
)

func (l buildLimits) complete() buildLimits {
	return buildLimits{cmp.Or(l.disk, 4<<30), cmp.Or(l.reserve, 256<<20), cmp.Or(l.cache, 16<<30)}
}

var errBuildDisk = errors.New("the build took too much of the disk")

func (l buildLimits) exceeded() string {
	return fmt.Sprintf("it took too much of the disk: a build may take %d MiB, and %d MiB must stay free", l.disk>>20, l.reserve>>20)
}

// watchDisk cancels a build that fills the disk. The free space, which costs nothing to see, is looked at 20 times a
// second; how much the build itself took, twice a second, or less often when looking takes long. What a build can
// write in between is what the reserve is for. stop returns when the watch has ended, and trims the cache.
func (b *sandbox) watchDisk(ctx context.Context, cancel context.CancelCauseFunc) (stop func(), err error) {
	work, cache := b.dir.buildWork(), b.dir.buildCache()
	if b.limits.tight(work) {
		return nil, &buildError{why: fmt.Sprintf("the disk of %s is nearly full: %d MiB must stay free", b.dir, b.limits.reserve>>20)}
	}
	before := diskUsed(work) + diskUsed(cache)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var look time.Time
		for ctx.Err() == nil {
			if b.limits.tight(work) {
				cancel(errBuildDisk)
			}
			if now := time.Now(); now.After(look) {
				if diskUsed(work)+diskUsed(cache)-before > b.limits.disk {
					cancel(errBuildDisk)
				}
				look = time.Now().Add(max(500*time.Millisecond, 10*time.Since(now)))
			}
			waitAny(ctx, time.Now().Add(50*time.Millisecond))
		}
	}()
	return func() { <-ended; b.trimCache() }, nil
}

// trimCache throws the cache away when it became too large, or when it may be what fills the disk.
func (b *sandbox) trimCache() {
	cache := b.dir.buildCache()
	used := diskUsed(cache)
	if used > b.limits.cache || b.limits.tight(cache) && used > b.limits.reserve {
		_ = removeAll(cache) // what stays is trimmed the next time
	}
}

// tight says whether a disk has too little left.
func (l buildLimits) tight(dir string) bool {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return false
	}
	return int64(st.Bavail)*st.Bsize < l.reserve || st.Files > 0 && st.Ffree < minInodes
}

// diskUsed is what a tree takes, in bytes. What vanishes or may not be read while being looked at counts nothing.
func diskUsed(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			sum += entrySize(info)
		}
		return nil
	})
	return sum
}

func entrySize(info os.FileInfo) int64 {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return info.Size()
	}
	return max(st.Blocks*512, inodeCosts)
}

func ownerOf(info os.FileInfo) int {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return -1
	}
	return int(st.Uid)
}
