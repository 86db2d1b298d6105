package snapshotstore

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// noSync is a disk for tests that only want to be fast.
type noSync struct{ osDisk }

type noSyncFile struct{ diskFile }

func (noSyncFile) Sync() error           { return nil }
func (noSync) syncDir(path string) error { return nil }

func (d noSync) create(path string) (diskFile, error) {
	f, err := d.osDisk.create(path)
	return noSyncFile{f}, err
}

func (d noSync) reopen(path string) (diskFile, error) {
	f, err := d.osDisk.reopen(path)
	return noSyncFile{f}, err
}

var errDied = errors.New("the process is dead")

// faultDisk fails one operation, or dies at one: then nothing that follows
// has any effect. It remembers what was synced, so that a power cut can be
// played: see cutPower.
type faultDisk struct {
	real disk

	mu      sync.Mutex
	ops     int   // done so far
	at      int   // the operation that fails; 0 for none
	fail    error // what it fails with; nil to die
	dead    bool
	names   map[string]*inode // as the process sees them
	durable map[string]*inode // as of the last sync of their directory
	pending []nameChange      // since then
}

// nameChange is a create, rename or remove that no sync has confirmed.
type nameChange struct {
	ino      *inode
	from, to string // either may be ""
}

func (c nameChange) apply(names map[string]*inode) {
	delete(names, c.from)
	if c.to != "" {
		names[c.to] = c.ino
	}
}

// inode is a file, whatever its name.
type inode struct {
	synced []byte // content when it was last synced
	never  bool   // it was not
}

// newFaultDisk looks at a directory, all of which counts as synced.
func newFaultDisk(t *testing.T, dir string, at int, fail error) *faultDisk {
	d := &faultDisk{real: noSync{}, at: at, fail: fail, names: map[string]*inode{}, durable: map[string]*inode{}}
	if _, err := os.Stat(dir); err == nil {
		for _, path := range storedFiles(t, dir) {
			data, err := os.ReadFile(path)
			check(t, err)
			d.names[path] = &inode{synced: data}
			d.durable[path] = d.names[path]
		}
	}
	return d
}

// step counts an operation. The caller holds d.mu until the operation is done.
func (d *faultDisk) step() error {
	if d.dead {
		return errDied
	}
	d.ops++
	if d.ops != d.at {
		return nil
	}
	if d.fail != nil {
		return d.fail
	}
	d.dead = true
	return errDied
}

func (d *faultDisk) create(path string) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.real.create(path)
	if err != nil {
		return nil, err
	}
	d.change(nameChange{ino: &inode{never: true}, to: path})
	return &faultFile{f, d, d.names[path], path}, nil
}

func (d *faultDisk) reopen(path string) (diskFile, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return nil, err
	}
	f, err := d.real.reopen(path)
	return &faultFile{f, d, d.names[path], path}, err
}

func (d *faultDisk) rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.change(nameChange{d.names[from], from, to})
	return d.real.rename(from, to)
}

func (d *faultDisk) remove(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.change(nameChange{from: path})
	return d.real.remove(path)
}

func (d *faultDisk) change(c nameChange) {
	c.apply(d.names)
	d.pending = append(d.pending, c)
}

func (d *faultDisk) syncDir(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.step(); err != nil {
		return err
	}
	d.pending = slices.DeleteFunc(d.pending, func(c nameChange) bool {
		if filepath.Dir(cmp.Or(c.from, c.to)) != path {
			return false
		}
		c.apply(d.durable)
		return true
	})
	return nil
}

type faultFile struct {
	diskFile
	d    *faultDisk
	ino  *inode
	path string // when it was opened
}

func (f *faultFile) WriteAt(b []byte, at int64) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		n := 0
		if !f.d.dead || f.d.ops == f.d.at { // a write may be cut in the middle
			n, _ = f.diskFile.WriteAt(b[:len(b)/2], at)
		}
		return n, err
	}
	return f.diskFile.WriteAt(b, at)
}

func (f *faultFile) Truncate(n int64) error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return err
	}
	return f.diskFile.Truncate(n)
}

func (f *faultFile) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if err := f.d.step(); err != nil {
		return err
	}
	for name, ino := range f.d.names {
		if ino == f.ino {
			data, err := os.ReadFile(name)
			f.ino.synced, f.ino.never = data, false
			return err
		}
	}
	return nil
}

// cutPower writes to fresh what may be on the disk after the power was cut:
// names as of the last sync of their directory and none, all or some of
// the changes since; of each file what was synced and any part of what came later, or zeros in its place.
func (d *faultDisk) cutPower(t *testing.T, dir, fresh string, rnd *rand.Rand) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	current := map[*inode][]byte{}
	for name, ino := range d.names {
		data, err := os.ReadFile(name)
		check(t, err)
		current[ino] = data
	}
	names := maps.Clone(d.durable)
	which := rnd.IntN(4) // none, all, any, or only the last, the least expected
	for i, c := range d.pending {
		if which == 1 || which == 2 && rnd.IntN(2) == 0 || which == 3 && i == len(d.pending)-1 {
			c.apply(names)
		}
	}
	for _, sub := range []string{"packs", "aside", "scans"} {
		check(t, os.MkdirAll(filepath.Join(fresh, sub), 0o700))
	}
	for name, ino := range names {
		rel, _ := filepath.Rel(dir, name)
		check(t, os.WriteFile(filepath.Join(fresh, rel), afterCut(ino, current[ino], rnd), 0o600))
	}
}

func afterCut(ino *inode, now []byte, rnd *rand.Rand) []byte {
	if !bytes.HasPrefix(now, ino.synced) { // removed since
		return ino.synced
	}
	rest := bytes.Clone(now[len(ino.synced):])
	rest = rest[:rnd.IntN(len(rest)+1)]
	if rnd.IntN(3) == 0 && len(rest) > 0 {
		clear(rest[rnd.IntN(len(rest)):])
	}
	return append(bytes.Clone(ino.synced), rest...)
}

// workload is what is done to a store under faults. It returns the roots that
// must be there: each was put without error, and never left out of a Collect.
type workload struct {
	t    *testing.T
	dirs []string
	dest string // of a warm copy
	must map[ID]bool
}

func newWorkload(t *testing.T) *workload {
	w := &workload{t: t, must: map[ID]bool{}}
	for i := range 3 {
		w.dirs = append(w.dirs, files(t, map[string]string{"a": noise(uint64(i), 40_000), "b": noise(100+uint64(i/2), 20_000), "c/d": fmt.Sprint(i)}))
	}
	return w
}

func faultOptions(d disk) Options {
	return stateOptions(Options{Grace: -1, packTarget: 100_000, disk: d, workers: 1})
}

// run does everything, past errors. It returns the first.
func (w *workload) run(s *Store) (first error) {
	note := func(err error) bool {
		if first == nil {
			first = err
		}
		return err == nil
	}
	var roots []ID
	took := func(root ID, err error) {
		if note(err) {
			w.must[root] = true
			roots = append(roots, root)
		}
	}
	for i, dir := range w.dirs {
		info, err := s.PutTree(ctxb, dir)
		took(info.Root, err)
		state, err := s.PutState(ctxb, dir, StateOptions{Name: "service", Quiet: true})
		took(state.Root, err)
		if err == nil {
			_, err = s.RestoreState(ctxb, state.Root, w.dest, RestoreOptions{Warm: true})
			note(err)
		}
		if i > 0 && len(roots) > 2 {
			keep := roots[2:]
			for _, root := range roots[:2] {
				delete(w.must, root)
			}
			for _, root := range keep { // the same content may have been put again
				w.must[root] = true
			}
			_, _, err = s.Collect(ctxb, keep)
			note(err)
			roots = keep
		}
	}
	note(s.Close())
	return first
}

// sound checks what must hold after any fault: the store opens, Check accepts
// it, all that was acknowledged is there, and it works.
func (w *workload) sound(dir, when string, state bool) {
	w.t.Helper()
	s, err := Open(dir, faultOptions(noSync{}))
	if err != nil {
		w.t.Fatalf("%s: %v", when, err)
	}
	defer s.Close()
	problems, err := s.Check(ctxb)
	if err != nil || len(problems) > 0 {
		w.t.Fatalf("%s: check: %v %v", when, problems, err)
	}
	for root := range w.must {
		if has, err := s.HasTree(ctxb, root); !has || err != nil {
			w.t.Fatalf("%s: lost %s: %v", when, root, err)
		}
	}
	for _, path := range storedFiles(w.t, dir) {
		if strings.HasSuffix(path, tempSuffix) || strings.HasSuffix(path, ".open") {
			w.t.Fatalf("%s: %s is left", when, path)
		}
	}
	if info, err := s.PutTree(ctxb, w.dirs[0]); err != nil {
		w.t.Fatalf("%s: put: %v", when, err)
	} else if has, err := s.HasTree(ctxb, info.Root); !has || err != nil {
		w.t.Fatalf("%s: put: %v", when, err)
	}
	if state {
		w.soundState(s, when)
	}
}

// soundState checks that no scan cache that a fault left hides anything.
func (w *workload) soundState(s *Store, when string) {
	w.t.Helper()
	for _, dir := range w.dirs[1:] {
		info, err := s.PutState(ctxb, dir, StateOptions{Name: "service", Quiet: true})
		if err != nil {
			w.t.Fatalf("%s: put state: %v", when, err)
		}
		if has, err := s.HasTree(ctxb, info.Root); !has || err != nil {
			w.t.Fatalf("%s: put state: not whole: %v", when, err)
		}
		whole, err := s.PutState(ctxb, dir, StateOptions{NoCache: true})
		if err != nil || whole.Root != info.Root {
			w.t.Fatalf("%s: the cache hides a change: %v", when, err)
		}
		if _, err := s.RestoreState(ctxb, info.Root, w.dest, RestoreOptions{Discard: true}); err != nil {
			w.t.Fatalf("%s: restore: %v", when, err)
		}
		if diffs, err := s.VerifyState(ctxb, info.Root, w.dest, VerifyOptions{}); err != nil || len(diffs) > 0 {
			w.t.Fatalf("%s: restored: %v %v", when, diffs, err)
		}
	}
}

// everyPoint calls f for operation 1, 2, ... until f says that the workload
// ended before it.
func everyPoint(t *testing.T, f func(at int) (reached bool)) {
	step := 1
	if testing.Short() {
		step = 7
	}
	for at := 1; f(at); at += step {
		if at > 2000 {
			t.Fatal("never ends")
		}
	}
}

// Death of the process, and of the machine, at every operation on the disk.
func TestDeathAtEveryOperation(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	model := newWorkload(t)
	everyPoint(t, func(at int) bool {
		base := t.TempDir()
		dir := filepath.Join(base, "store")
		w := &workload{t: t, dirs: model.dirs, dest: filepath.Join(base, "restored", "to"), must: map[ID]bool{}}
		d := newFaultDisk(t, dir, at, nil)
		s, err := Open(dir, faultOptions(d))
		if err == nil {
			err = w.run(s)
		}
		if d.dead != errors.Is(err, errDied) {
			t.Fatalf("operation %d: dead %v, but %v", at, d.dead, err)
		}
		if s != nil {
			_ = unlockDir(s.lock)
		}
		for i := range 3 {
			fresh := filepath.Join(base, fmt.Sprint("power", i))
			d.cutPower(t, dir, fresh, rnd)
			w.sound(fresh, fmt.Sprintf("power cut %d at operation %d of seed %d", i, at, seed), i == 0)
		}
		w.sound(dir, fmt.Sprintf("death at operation %d", at), true)
		check(t, os.RemoveAll(base))
		return d.dead
	})
}

// One operation fails, with a full or a broken disk; the process goes on.
func TestFailureOfEveryOperation(t *testing.T) {
	t.Parallel()
	model := newWorkload(t)
	for _, fail := range []error{syscall.ENOSPC, syscall.EIO} {
		everyPoint(t, func(at int) bool {
			dir := filepath.Join(t.TempDir(), "store")
			w := &workload{t: t, dirs: model.dirs, dest: filepath.Join(filepath.Dir(dir), "restored", "to"), must: map[ID]bool{}}
			d := newFaultDisk(t, dir, at, fail)
			s, err := Open(dir, faultOptions(d))
			if err == nil {
				err = w.run(s)
			}
			if err != nil && !errors.Is(err, fail) {
				t.Fatalf("%v at operation %d: %v", fail, at, err)
			}
			w.sound(dir, fmt.Sprintf("%v at operation %d", fail, at), true)
			check(t, os.RemoveAll(dir))
			return d.ops >= at
		})
	}
}

// The checker above must be able to fail: without syncs it does.
func TestFaultsAreSeen(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	d := newFaultDisk(t, dir, 0, nil)
	s, err := Open(dir, faultOptions(lyingDisk{d}))
	check(t, err)
	info := putTree(t, s, files(t, map[string]string{"a": noise(1, 50_000)}))
	lost := false
	for i := range 20 {
		fresh := filepath.Join(t.TempDir(), "store")
		d.cutPower(t, dir, fresh, rand.New(rand.NewPCG(uint64(i), 0)))
		o, err := Open(fresh, Options{})
		if err != nil {
			lost = true
			continue
		}
		has, err := o.HasTree(ctxb, info.Root)
		check(t, err)
		lost = lost || !has
		check(t, o.Close())
	}
	if !lost {
		t.Fatal("a disk that does not sync loses nothing")
	}
}

// lyingDisk says that it has synced.
type lyingDisk struct{ *faultDisk }

func (lyingDisk) syncDir(string) error { return nil }

func (d lyingDisk) create(path string) (diskFile, error) {
	f, err := d.faultDisk.create(path)
	return noSyncFile{f}, err
}

// An fsync that fails loses what others have put too: each must be told.
func TestLostWritesAreToldToAll(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	d := newFaultDisk(t, dir, 0, syscall.EIO)
	s := openStore(t, dir, faultOptions(d))
	a, err := s.begin()
	check(t, err)
	id, err := s.Put(PlainNaming, []byte("of a"))
	check(t, err)
	d.mu.Lock()
	d.at = d.ops + 1
	d.mu.Unlock()
	b, err := s.begin()
	check(t, err)
	if err := b.end(nil); !errors.Is(err, syscall.EIO) {
		t.Fatal(err)
	}
	if s.touch(id) {
		t.Fatal("an object that may not be on disk is said to be here")
	}
	if err := a.end(nil); err == nil {
		t.Fatal("a was not told")
	}
	c, err := s.begin()
	check(t, err)
	_, err = s.Put(PlainNaming, []byte("of c"))
	check(t, err)
	check(t, c.end(nil))
}

// Who keeps some of the disk free ends a put with an error of its own; what was put before stays, and the next put goes on
// when there is room again.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	full := errors.New("no room")
	var left int64 = 16 << 20
	s, err := Open(t.TempDir(), Options{Room: func(bytes int64) error {
		if left -= bytes; left < 0 {
			return full
		}
		return nil
	}})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close()) })
	rng := rand.New(rand.NewPCG(1, 2))
	noise := func() []byte {
		b := make([]byte, 256<<10)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	var ids []ID
	for range 100 {
		var id ID
		if id, err = s.Put(PlainNaming, noise()); err != nil {
			break
		}
		ids = append(ids, id)
	}
	if !errors.Is(err, full) || len(ids) < 48 || len(ids) > 64 {
		t.Fatalf("%d quarters of a MiB put in 16 MiB, then: %v", len(ids), err)
	}
	left = 16 << 20
	more, err := s.Put(PlainNaming, noise())
	check(t, err)
	check(t, s.Flush())
	for i, here := range s.hasAll(append(ids, more)) {
		if !here {
			t.Errorf("object %d is gone", i)
		}
	}
	problems, err := s.Check(t.Context())
	if check(t, err); len(problems) > 0 {
		t.Error(problems)
	}
}
