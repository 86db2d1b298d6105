// Package git is the module git-repository: a bare repository in a directory of its own, which those that depend on it
// read and push to by its path.
//
// The first start fetches all refs of *.bundle in the package's root, in the order of names. Settings: `gitDefaultBranch`
// (main), where HEAD points in a new repository. The output is `path`.
package git

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/place"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	// Type is the module's name in models.
	Type = "git-repository"

	longTimeout = 6 * time.Hour
	maxBundle   = 16 << 30  // bytes
	maxRefs     = 256 << 20 // bytes of packed-refs, and of what git says of refs
	attempts    = 3         // to see the refs of a live repository twice alike
)

// Module keeps repositories. A repository is in.StateDir/live while it is started.
type Module struct{ ledger.Directory }

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir.
func New(dir string) *Module { return &Module{ledger.Directory{Ledger: ledger.Open(dir)}} }

// Outputs are what a dependent needs: `path`, which holds on the instance's node only.
func Outputs(in activate.Instance) map[string]string {
	return map[string]string{"path": place.Place(in.StateDir).Live()}
}

// command runs git on a repository, with no configuration but its own. Whose the files are does not matter: the agent
// may read all of them.
func command(in activate.Instance, dir string, args ...string) tool.Command {
	return tool.Command{Program: "git", Dirs: []string{in.Settings["gitPrograms"]}, Args: append([]string{"--git-dir=" + dir}, args...), Timeout: longTimeout,
		Env: []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*"}}
}

// Prepare looks for git and the package's bundles.
func (m *Module) Prepare(_ context.Context, in activate.Instance) error {
	if _, err := place.OwnerOf(in.Spec); err != nil {
		return err
	}
	if _, err := tool.Find("git", in.Settings["gitPrograms"]); err != nil {
		return err
	}
	_, err := ledger.PackageFiles(in, ".bundle", maxBundle)
	return err
}

// Create makes the repository and fetches the package's bundles.
func (m *Module) Create(ctx context.Context, in activate.Instance) error {
	branch := cmp.Or(in.Settings["gitDefaultBranch"], "main")
	return m.MakeAbsent(in, func(dir string) error {
		bundles, err := ledger.PackageFiles(in, ".bundle", maxBundle)
		if err != nil {
			return err
		}
		err = tool.Run(ctx, command(in, dir, "init", "--quiet", "--bare", "--shared=group", "--template=", "--initial-branch="+branch))
		if err == nil {
			// Housekeeping in the background would outlive those that a stop waits for.
			err = tool.Run(ctx, command(in, dir, "config", "gc.autoDetach", "false"))
		}
		for _, b := range bundles {
			if err == nil {
				err = tool.Run(ctx, command(in, dir, "fetch", "--quiet", "--no-write-fetch-head", b, "+refs/*:refs/*"))
			}
		}
		return err
	})
}

// Start makes the repository reachable.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	return m.Open(in)
}

// Dump makes a repository of the refs as they are and of links to the files of objects, which never change. Every ref
// must lead to objects that are there; while the repository is live all objects are read as well.
func (m *Module) Dump(ctx context.Context, in activate.Instance, dir string, final bool) (activate.Payload, error) {
	return m.CopyOut(in, dir, final, func(from string) (map[string]string, error) {
		return dump(ctx, in, from, dir, !final)
	})
}

func dump(ctx context.Context, in activate.Instance, from, dir string, all bool) (map[string]string, error) {
	refs, err := twice(ctx, in, from)
	if err != nil {
		return nil, err
	}
	head, err := readSmall(filepath.Join(from, "HEAD"), 64<<10)
	if err != nil {
		return nil, err
	}
	for name, b := range map[string][]byte{"packed-refs": refs, "HEAD": head, "config": []byte("[core]\n\trepositoryformatversion = 0\n\tbare = true\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return nil, err
		}
	}
	if err := scaffold(dir); err != nil {
		return nil, err
	}
	// The refs came first: what they lead to was there before them.
	if err := linkObjects(filepath.Join(from, "objects"), filepath.Join(dir, "objects")); err != nil {
		return nil, err
	}
	if err := fsck(ctx, in, dir, all); err != nil {
		return nil, err
	}
	for _, name := range []string{"config", "description", "hooks", "info"} {
		if err := copyFiles(filepath.Join(from, name), filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return facts(refs, head), nil
}

// scaffold makes the directories without which a directory is no repository. A store need not keep empty ones.
func scaffold(dir string) error {
	return errors.Join(os.MkdirAll(filepath.Join(dir, "refs", "heads"), 0o755), os.MkdirAll(filepath.Join(dir, "refs", "tags"), 0o755),
		os.MkdirAll(filepath.Join(dir, "objects", "info"), 0o755), os.MkdirAll(filepath.Join(dir, "objects", "pack"), 0o755))
}

func facts(refs, head []byte) map[string]string {
	sum := sha256.Sum256(refs)
	return map[string]string{"refs": strconv.Itoa(strings.Count(string(refs), "\n")), "digest": hex.EncodeToString(sum[:8]), "head": strings.TrimSpace(string(head))}
}

// fsck checks that everything the refs lead to is there; all: that all objects are what their names say.
func fsck(ctx context.Context, in activate.Instance, dir string, all bool) error {
	if err := packsWhole(filepath.Join(dir, "objects", "pack")); err != nil {
		return err
	}
	args := []string{"fsck", "--full", "--no-dangling", "--no-progress"}
	if !all {
		args = append(args, "--connectivity-only")
	}
	return tool.Run(ctx, command(in, dir, args...))
}

// packsWhole checks that each pack ends as its index says: connectivity alone is looked up in the index.
func packsWhole(dir string) error {
	packs, err := filepath.Glob(filepath.Join(dir, "pack-*.pack"))
	if err != nil {
		return err
	}
	for _, pack := range packs {
		// An index ends with the checksum of the pack, which is the pack's end, and its own.
		for _, size := range []int64{20, 32} {
			var end, want []byte
			if end, err = readAt(pack, size, size); err != nil {
				return err
			}
			if want, err = readAt(strings.TrimSuffix(pack, ".pack")+".idx", 2*size, size); err != nil {
				return err
			}
			if err = nil; bytes.Equal(end, want) {
				break
			}
			err = fmt.Errorf("pack %q does not end as its index says", filepath.Base(pack))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// readAt reads n bytes that begin so far before the end.
func readAt(path string, before, n int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b := make([]byte, n)
	if _, err = f.Seek(-before, io.SeekEnd); err == nil {
		_, err = io.ReadFull(f, b)
	}
	return b, err
}

// twice returns the refs as git says them and as their files do: one way alone could be cut short unnoticed. Of a live
// repository they can differ for a moment.
func twice(ctx context.Context, in activate.Instance, dir string) ([]byte, error) {
	for n := 1; ; n++ {
		said := &strings.Builder{}
		c := command(in, dir, "for-each-ref", "--format=%(objectname) %(refname)")
		c.Stdout = said
		if err := tool.Run(ctx, c); err != nil {
			return nil, err
		}
		refs, err := readRefs(dir)
		if err != nil {
			return nil, err
		}
		if said.String() == refs {
			return []byte(refs), nil
		}
		if n == attempts {
			return nil, fmt.Errorf("git says that there are %d refs, their files hold %d, or other ones", strings.Count(said.String(), "\n"), strings.Count(refs, "\n"))
		}
	}
}

// readRefs reads the refs from their files, and returns them as packed-refs has them: sorted, one a line. Symbolic refs
// beside HEAD are resolved.
func readRefs(dir string) (string, error) {
	all := map[string]string{}
	b, err := readSmall(filepath.Join(dir, "packed-refs"), maxRefs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := parsePacked(string(b), all); err != nil {
		return "", err
	}
	symbolic := map[string]string{}
	err = filepath.WalkDir(filepath.Join(dir, "refs"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".lock") {
			return err
		}
		b, err := readSmall(path, 64<<10)
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		text := strings.TrimSpace(string(b))
		if to, ok := strings.CutPrefix(text, "ref: "); ok {
			symbolic[name] = to
		} else if !objectName.MatchString(text) {
			return fmt.Errorf("ref %q: %.100q is no object's name", name, text)
		} else {
			all[name] = text
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	for name, to := range symbolic {
		if id, ok := all[to]; ok {
			all[name] = id
		}
	}
	var out strings.Builder
	names := make([]string, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&out, "%s %s\n", all[name], name)
	}
	return out.String(), nil
}

var objectName = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// parsePacked reads packed-refs: lines of `OBJECT REF`, comments, and what tags lead to, which is passed over.
func parsePacked(text string, all map[string]string) error {
	for line := range strings.Lines(text) {
		whole, ok := strings.CutSuffix(line, "\n")
		if strings.HasPrefix(whole, "#") || strings.HasPrefix(whole, "^") {
			continue
		}
		id, name, found := strings.Cut(whole, " ")
		if !ok || !found || !objectName.MatchString(id) || !strings.HasPrefix(name, "refs/") {
			return fmt.Errorf("packed-refs: %.100q is no ref", line)
		}
		all[name] = id
	}
	return nil
}

// objectFile are the names of files that hold objects, below objects/; what can be made from them is left out.
var objectFile = regexp.MustCompile(`^([0-9a-f]{2}/[0-9a-f]{38,62}|pack/pack-[0-9a-f]+\.(pack|idx))$`)

// linkObjects links, or on another file system copies, the files of objects.
func linkObjects(from, to string) error {
	if _, err := os.Lstat(filepath.Join(from, "info", "alternates")); err == nil {
		return errors.New("the repository borrows objects of another one (objects/info/alternates)")
	}
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // housekeeping removed it; what replaces it is there, or fsck says that it is not
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, _ := filepath.Rel(from, path)
		if !objectFile.MatchString(name) {
			return nil
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		err = os.Link(path, target)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			err = place.CopyFile(path, target)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// copyFiles copies a file, or the files in a directory; links and what is absent are passed over, and samples.
func copyFiles(from, to string) error {
	err := filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, ".sample") {
			return err
		}
		name, _ := filepath.Rel(from, path)
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return place.CopyFile(path, target)
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func readSmall(path string, max int64) ([]byte, error) {
	fi, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, fmt.Errorf("read %q: not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(b)) > max {
		err = fmt.Errorf("read %q: more than %d bytes", path, max)
	}
	return b, err
}

// Load puts the payload's repository in the place of the state.
func (m *Module) Load(_ context.Context, in activate.Instance, p activate.Payload) error {
	return m.Make(in, true, func(dir string) error {
		if err := place.Take(p.Dir, dir); err != nil {
			return err
		}
		return scaffold(dir)
	})
}

// Verify compares the refs, and checks that what they lead to is there.
func (m *Module) Verify(ctx context.Context, in activate.Instance, p activate.Payload) error {
	return m.Compare(in, p, func(dir string, _ bool) (map[string]string, error) {
		refs, err := twice(ctx, in, dir)
		if err == nil {
			err = fsck(ctx, in, dir, false)
		}
		if err != nil {
			return nil, err
		}
		head, err := readSmall(filepath.Join(dir, "HEAD"), 64<<10)
		return facts(refs, head), err
	})
}

// Available says why the programs that the module needs are not on this machine; nil if they are. Those that a service's
// settings name are not looked for.
func Available() error {
	_, err := tool.Find("git")
	return err
}
