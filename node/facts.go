package node

import (
	"fmt"
	"math/bits"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/activate/fileset"
	"github.com/isonomia-mesh/isonomia/activate/git"
	"github.com/isonomia-mesh/isonomia/activate/mysql"
	"github.com/isonomia-mesh/isonomia/activate/postgresql"
	"github.com/isonomia-mesh/isonomia/activate/process"
	"github.com/isonomia-mesh/isonomia/activate/redis"
	"github.com/isonomia-mesh/isonomia/activate/sqlite"
	"github.com/isonomia-mesh/isonomia/activate/subversion"
	"github.com/isonomia-mesh/isonomia/model"
)

// Facts are attributes of a node that it finds out itself. Whoever composes reads them from State, so one that changes
// all the time would have the leader compose all the time: each is rounded to what placement can use.

// sizeDigits is how many binary digits of a size are told: it is less than a hundredth too low.
const sizeDigits = 7

// facts are what this machine is and has, in words of the model. announced is what was told last; an operator's own
// attributes win over what was found, but for the data directory, from which paths of states are composed.
func facts(cfg Config, announced map[string]string) map[string]string {
	out := map[string]string{model.AttrOS: runtime.GOOS, model.AttrArch: runtime.GOARCH, model.AttrCores: strconv.Itoa(runtime.NumCPU()),
		model.AttrModules: strings.Join(availableModules(), ",")}
	if total, err := memory(); err == nil {
		out[model.AttrMemory] = strconv.FormatUint(roundSize(total, sizeDigits), 10)
	}
	if size, free, err := diskSpace(cfg.Dir); err == nil {
		out[model.AttrDisk] = strconv.FormatUint(roundSize(size, sizeDigits), 10)
		out[model.AttrDiskFree] = steadyFree(free, announced[model.AttrDiskFree])
	}
	for k, v := range cfg.Attributes {
		out[k] = v
	}
	out[model.DataAttribute] = cfg.Dir
	return out
}

// availableModules are the types of services whose programs are here, in order.
func availableModules() []string {
	types := []string{fileset.Type, process.Type, sqlite.Type} // these need none
	for typ, available := range map[string]func() error{git.Type: git.Available, mysql.Type: mysql.Available, postgresql.Type: postgresql.Available,
		redis.Type: redis.Available, subversion.Type: subversion.Available} {
		if available() == nil {
			types = append(types, typ)
		}
	}
	slices.Sort(types)
	return types
}

// memory is what the machine has, in bytes.
func memory() (uint64, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return 0, fmt.Errorf("ask for memory: %w", err)
	}
	return uint64(info.Totalram) * uint64(info.Unit), nil
}

// diskSpace is the size of a directory's file system and what of it is free for anybody, in bytes.
func diskSpace(dir string) (size, free uint64, err error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return 0, 0, fmt.Errorf("ask for free space: %w", err)
	}
	return fs.Blocks * uint64(fs.Bsize), fs.Bavail * uint64(fs.Bsize), nil
}

// roundSize rounds down to so many binary digits.
func roundSize(n uint64, digits int) uint64 {
	if drop := bits.Len64(n) - digits; drop > 0 {
		return n >> drop << drop
	}
	return n
}

// steadyFree is free space to announce: rounded down to two binary digits (..., 2, 3, 4, 6, 8 GiB, ...), and left as it was told
// last until it is a twentieth beyond the step where that would change, so that a log that grows and is cut does not make
// the cluster compose again and again.
func steadyFree(free uint64, announced string) string {
	last, err := strconv.ParseUint(announced, 10, 64)
	for _, n := range []uint64{free - free/20, free + free/20} {
		if err == nil && roundSize(n, 2) == last {
			return announced
		}
	}
	return strconv.FormatUint(roundSize(free, 2), 10)
}
