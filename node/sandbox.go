package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// sandboxVersion is part of every build's input: raised when builds get something else to see.
const sandboxVersion = 1

// isolation says how well a build is kept apart; smaller is better.
type isolation int

const (
	// isolateRoot: the agent is root. Mount and process namespaces, a user of its own.
	isolateRoot isolation = iota + 1
	// isolateUser: the same in a user namespace, which needs no privilege; the user is the agent's.
	isolateUser
	// isolateNone: where neither is allowed. Its processes are found and ended, and as root it has a user of its own, but
	// it sees the real paths.
	isolateNone
)

const (
	buildUID = 69999 // where the agent is root; below the range of the services' own uids

	sandboxTmp  = "/tmp"
	sandboxPath = "/tmp/build" // always, so that paths that a compiler writes down are the same on every machine
)

// sandbox is where a build runs, below DIR/build. In its namespaces the build sees
//
//	/tmp/build        work/box: src, a writable copy of the source; out, what becomes the package
//	/tmp/build/home   cache: HOME, which stays from build to build
//	/tmp, /var/tmp    work/tmp
//	/dev/shm          an empty tmpfs of 64 MiB
//	DIR               nothing
//
// and everything else read-only.
type sandbox struct {
	dir    paths
	mode   isolation
	uid    int // of the build, -1 for the agent's own
	limits buildLimits
}

func (b *sandbox) host(name string) string { return b.dir.buildWork("box", name) }

// seen is where the build itself finds src, out and home.
func (b *sandbox) seen(name string) string {
	switch {
	case b.mode != isolateNone:
		return filepath.Join(sandboxPath, name)
	case name == "home":
		return b.dir.buildCache()
	}
	return b.host(name)
}

func (b *sandbox) tmp() string {
	if b.mode != isolateNone {
		return sandboxTmp
	}
	return b.dir.buildWork("tmp")
}

func (p paths) buildWork(elem ...string) string {
	return p.join(append([]string{"build", "work"}, elem...)...)
}
func (p paths) buildCache() string { return p.join("build", "cache") }

// newSandbox lays out empty directories. The caller has the builder's slot.
func (n *Node) newSandbox(ctx context.Context, log func(string)) (*sandbox, error) {
	b := &sandbox{dir: n.dir, uid: -1, limits: n.builds.limits.complete()}
	if os.Geteuid() == 0 {
		b.uid = buildUID
	}
	if err := b.remove(); err != nil {
		return nil, fmt.Errorf("clear the build directory: %w", err)
	}
	if err := b.makeDirs(); err != nil {
		return nil, fmt.Errorf("make the build directory: %w", err)
	}
	if n.builds.mode == 0 {
		var why string
		if n.builds.mode, why = b.probe(ctx); why != "" {
			n.log.Warn("builds cannot have namespaces", "reason", why)
		}
	}
	b.mode = n.builds.mode
	if b.mode == isolateNone {
		log("note: this node can make no namespaces, so the build sees the node's own paths")
	}
	return b, nil
}

func (m isolation) String() string {
	return [...]string{"unknown", "namespaces", "user namespace", "none"}[m]
}

func (b *sandbox) makeDirs() error {
	if err := b.checkCache(); err != nil {
		return err
	}
	// Others may pass through work, not look around in it: the build's own user must reach box where there are no
	// namespaces.
	for _, d := range []struct {
		path string
		mode os.FileMode
		own  bool
	}{
		{b.dir.buildWork(), 0o711, false}, {b.dir.buildWork("box"), 0o700, true}, {b.dir.buildWork("tmp"), 0o700, true},
		{b.dir.buildWork("tmp", "build"), 0o700, false}, {b.host("out"), 0o755, true}, {b.host("home"), 0o755, false}, {b.dir.buildCache(), 0o700, true},
	} {
		if err := os.MkdirAll(d.path, d.mode); err != nil {
			return err
		}
		if !d.own || b.uid < 0 {
			continue
		}
		if err := os.Lchown(d.path, b.uid, b.uid); err != nil {
			return err
		}
	}
	return nil
}

// checkCache begins a new cache when the old one is another user's, as when an agent becomes root.
func (b *sandbox) checkCache() error {
	st, err := os.Lstat(b.dir.buildCache())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	want := b.uid
	if want < 0 {
		want = os.Geteuid()
	}
	if ownerOf(st) == want && st.IsDir() {
		return nil
	}
	return removeAll(b.dir.buildCache())
}

// remove takes away all but the cache.
func (b *sandbox) remove() error { return removeAll(b.dir.buildWork()) }

// fillSandbox lays out the source, writable and the build's own.
func (n *Node) fillSandbox(ctx context.Context, b *sandbox, tree string) error {
	id, err := snapshotstore.ParseID(tree)
	if err != nil {
		return err
	}
	if err := n.fetchTree(ctx, tree); err != nil {
		return err
	}
	src := b.dir.buildWork("src") // beside the box: its marker is none of the build's business
	if err := n.store.Materialise(ctx, id, src, snapshotstore.MaterialiseOptions{}); err != nil {
		return fmt.Errorf("lay out the source: %w", err)
	}
	if err := b.handOver(src); err != nil {
		return fmt.Errorf("hand the source over: %w", err)
	}
	return os.Rename(src, b.host("src"))
}

// handOver makes a tree writable and the build user's.
func (b *sandbox) handOver(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && d.Type()&fs.ModeSymlink == 0 {
			err = os.Chmod(path, info.Mode().Perm()|0o200)
		}
		if err == nil && b.uid >= 0 {
			err = os.Lchown(path, b.uid, b.uid)
		}
		return err
	})
}

// inherited are the only variables of the agent that a build sees: how this machine reaches the outside. They say
// where things come from, not what they are, so they are no part of the input.
var inherited = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy",
	"GOPROXY", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GONOSUMDB", "GOINSECURE",
	"NPM_CONFIG_REGISTRY", "npm_config_registry", "PIP_INDEX_URL", "SSL_CERT_FILE", "SSL_CERT_DIR"}

// env is the whole environment of a build. What would make two machines build differently is fixed here: Go's flags
// are not inherited, for they change what is built (and without -buildvcs=false it would depend on git being there).
func (b *sandbox) env(req api.BuildRequest) []string {
	env := map[string]string{"PATH": buildPath, "HOME": b.seen("home"), "USER": "build", "LOGNAME": "build", "LANG": "C.UTF-8", "TMPDIR": b.tmp(),
		"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"}
	for _, name := range inherited {
		if v, ok := os.LookupEnv(name); ok {
			env[name] = v
		}
	}
	for k, v := range req.Env {
		env[k] = b.expand(v)
	}
	env["out"], env["src"] = b.seen("out"), b.seen("src")
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// buildPath is the usual six and where Go's own installer puts it.
const buildPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/go/bin"

func (b *sandbox) expand(s string) string {
	return strings.NewReplacer("${out}", b.seen("out"), "${src}", b.seen("src")).Replace(s)
}

// removeAll removes a tree that may hold read-only directories.
func removeAll(dir string) error {
	if os.RemoveAll(dir) == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			_ = os.Chmod(path, 0o700)
		}
		return nil
	})
	return os.RemoveAll(dir)
}
