package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// healing is a closed store with a package and a snapshot, and a peer that has
// both.
type healing struct {
	store string
	peer  *Store
	dir   string // what was snapshotted
	roots []ID
}

func newHealing(t *testing.T) *healing {
	t.Helper()
	h := &healing{store: filepath.Join(t.TempDir(), "store"), peer: stateStore(t, Options{}),
		dir: files(t, map[string]string{"db": noise(1, 900), "log/a": strings.Repeat("text ", 90)})}
	age(t, h.dir)
	s := openStore(t, h.store, stateOptions(Options{Grace: -1}))
	for _, to := range []*Store{s, h.peer} {
		h.roots = []ID{putTree(t, to, files(t, map[string]string{"bin/run": "#!/bin/sh\n", "lib": "->bin"})).Root,
			putState(t, to, h.dir, StateOptions{}).Root}
	}
	check(t, s.Close())
	return h
}

func (h *healing) sources() []Source { return []Source{&storeSource{name: "peer", store: h.peer}} }

// A bit flipped in any byte of any file of a store is found, or changes
// nothing; what is lost by it comes from a peer, and then all is as before.
func TestEveryFlippedBitIsHealed(t *testing.T) {
	t.Parallel()
	h := newHealing(t)
	step := 5
	if testing.Short() {
		step = 31
	}
	for _, path := range storedFiles(t, h.store) {
		rel, err := filepath.Rel(h.store, path)
		check(t, err)
		whole, err := os.ReadFile(path)
		check(t, err)
		for i := 0; i < len(whole); i += step {
			dir := filepath.Join(t.TempDir(), "store")
			check(t, os.CopyFS(dir, os.DirFS(h.store)))
			flipped := slices.Clone(whole)
			flipped[i] ^= 1 << (i % 8)
			check(t, os.WriteFile(filepath.Join(dir, rel), flipped, 0o600))
			h.isHealed(t, dir, fmt.Sprintf("%s byte %d", rel, i), strings.HasPrefix(rel, "scans"))
			check(t, os.RemoveAll(dir))
		}
	}
}

func (h *healing) isHealed(t *testing.T, dir, what string, cache bool) {
	s, err := Open(dir, stateOptions(Options{Grace: -1, disk: noSync{}}))
	if errors.Is(err, ErrFormat) && strings.HasPrefix(what, "store") {
		return
	}
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
	defer s.Close()
	problems, err := s.Check(ctxb)
	if err != nil || (len(problems) == 0) != cache {
		t.Fatalf("%s: check finds %v: %v", what, problems, err)
	}
	if _, broken, err := s.Heal(ctxb, h.roots, h.sources()); err != nil || len(broken) > 0 {
		t.Fatalf("%s: not healed: %v %v", what, broken, err)
	}
	if info, err := s.PutState(ctxb, h.dir, StateOptions{}); err != nil || info.Root != h.roots[1] {
		t.Fatalf("%s: another snapshot: %v", what, err)
	}
	if _, _, err := s.Collect(ctxb, h.roots); err != nil {
		t.Fatalf("%s: collect: %v", what, err)
	}
	if problems, err := s.Check(ctxb); err != nil || len(problems) > 0 {
		t.Fatalf("%s: left are %v: %v", what, problems, err)
	}
	for _, root := range h.roots {
		mustHave(t, s, root, true)
	}
}

// Where nobody has a good copy, the trees and the paths that need it are
// named; what can be healed is.
func TestHealNamesWhatIsLost(t *testing.T) {
	t.Parallel()
	h := newHealing(t)
	s := openStore(t, h.store, stateOptions(Options{}))
	chunk := s.namer(KeyedNaming)([]byte(noise(1, 900)))
	script := PlainNamer([]byte("#!/bin/sh\n"))
	for _, id := range []ID{chunk, script} {
		damage(t, s, id)
	}
	damage(t, h.peer, chunk)
	if broken, err := s.Broken(ctxb, h.roots); err != nil || len(broken) > 0 {
		t.Fatal(broken, err) // nobody has read them
	}
	problems, err := s.Check(ctxb)
	check(t, err)
	if len(problems) != 2 {
		t.Fatal(problems)
	}
	broken, err := s.Broken(ctxb, h.roots)
	check(t, err)
	want := []BrokenTree{{Root: h.roots[0], Missing: []ID{script}, Paths: []string{"bin/run"}},
		{Root: h.roots[1], Missing: []ID{chunk}, Paths: []string{"db"}}}
	if fmt.Sprint(broken) != fmt.Sprint(want) {
		t.Fatal(broken)
	}
	healed, broken, err := s.Heal(ctxb, h.roots, h.sources())
	check(t, err)
	if healed != 1 || len(broken) != 1 || !errors.Is(broken[0].Err, ErrMissing) {
		t.Fatal(healed, broken)
	}
	if says := broken[0].String(); !strings.Contains(says, h.roots[1].String()) || !strings.Contains(says, "db") {
		t.Fatal(says)
	}
	if _, err := s.RestoreState(ctxb, h.roots[1], filepath.Join(outDir(t), "out"), RestoreOptions{}); err == nil {
		t.Fatal("restored without")
	}
	mustHave(t, s, h.roots[0], true)
	putState(t, h.peer, h.dir, StateOptions{NoCache: true}) // the peer has it again
	healed, broken, err = s.Heal(ctxb, h.roots, h.sources())
	if err != nil || healed != 1 || len(broken) > 0 {
		t.Fatal(healed, broken, err)
	}
	noProblems(t, s)
}

// A directory that is lost is named itself; many paths are not all named.
func TestBrokenNamesSome(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	content := map[string]string{}
	for i := range 40 {
		content[fmt.Sprintf("d%02d/f", i)] = noise(uint64(i), 500)
	}
	root := putState(t, s, files(t, content), StateOptions{}).Root
	for i := range 40 {
		id := s.namer(KeyedNaming)([]byte(noise(uint64(i), 500)))
		damage(t, s, id)
	}
	_, err := s.Check(ctxb)
	check(t, err)
	broken, err := s.Broken(ctxb, []ID{root})
	check(t, err)
	if len(broken) != 1 || len(broken[0].Paths) != brokenExamples || broken[0].Paths[3] != "d03/f" || len(broken[0].Missing) != brokenExamples {
		t.Fatal(broken)
	}
	damage(t, s, root)
	if broken, err = s.Broken(ctxb, []ID{root}); err != nil || len(broken) != 1 || broken[0].Paths[0] != "." || broken[0].Missing[0] != root {
		t.Fatal(broken, err)
	}
}

// A format file that was damaged since Open is put right, so that the store
// can be opened again.
func TestHealFormat(t *testing.T) {
	t.Parallel()
	h := newHealing(t)
	s := openStore(t, h.store, stateOptions(Options{}))
	check(t, os.WriteFile(filepath.Join(h.store, "store"), []byte("isonomia store 3\n"), 0o600))
	if problems, err := s.Check(ctxb); err != nil || len(problems) != 1 {
		t.Fatal(problems, err)
	}
	_, _, err := s.Heal(ctxb, nil, nil)
	check(t, err)
	noProblems(t, s)
	check(t, s.Close())
	openStore(t, h.store, stateOptions(Options{}))
}

func TestHealEndsWithItsContext(t *testing.T) {
	t.Parallel()
	h := newHealing(t)
	s := openStore(t, h.store, stateOptions(Options{}))
	damage(t, s, h.roots[0])
	_, _ = s.Get(h.roots[0])
	ctx, cancel := context.WithCancel(ctxb)
	src := &storeSource{name: "peer", store: h.peer, spoil: func([]ID, []byte) (io.Reader, error) {
		cancel()
		return nil, os.ErrDeadlineExceeded
	}}
	if _, broken, err := s.Heal(ctx, h.roots, []Source{src}); !errors.Is(err, context.Canceled) || len(broken) != 1 {
		t.Fatal(broken, err)
	}
}

// The index of a pack that is damaged while the store is open is found by
// Check, and the next Collect writes the pack anew: nothing is missing.
func TestDamagedIndexOfOpenStore(t *testing.T) {
	t.Parallel()
	h := newHealing(t)
	s := openStore(t, h.store, stateOptions(Options{Grace: -1}))
	path := filepath.Join(h.store, "packs", "00000001.pack")
	raw, err := os.ReadFile(path)
	check(t, err)
	raw[len(raw)-20] ^= 1
	check(t, os.WriteFile(path, raw, 0o600))
	if problems, err := s.Check(ctxb); err != nil || len(problems) != 1 {
		t.Fatal(problems, err)
	}
	_, _, err = s.Collect(ctxb, h.roots)
	check(t, err)
	noProblems(t, s)
	for _, root := range h.roots {
		mustHave(t, s, root, true)
	}
}
