package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

const (
	formatLine   = "isonomia store 1\n"
	defaultPack  = 32 << 20
	defaultGrace = 10 * time.Minute
)

// Options of a store. The zero value is good.
type Options struct {
	// Keys of KeyedNaming, see UseKeys. Without one, such objects are
	// refused (ErrNoKey).
	Keys [][32]byte
	// ReadOnly shares the store with other readers and changes nothing.
	ReadOnly bool
	// Grace is for how long Collect spares what was put, or asked for and
	// found; default 10 minutes, negative for none. It bridges the time
	// between an upload and the moment its root is among those to keep.
	Grace time.Duration
	// Limits of packages' trees that are put, fetched and materialised.
	Limits Limits
	// StateLimits of snapshots' trees; a zero field takes a default that no
	// honest state meets: 100 million entries, 1 PiB, 256 levels.
	StateLimits Limits
	// Room is asked before so many bytes more are put or fetched, every few
	// megabytes, and its error ends that: for who keeps some of the disk free.
	// Default: nothing is kept. Collect, which frees room, does not ask.
	Room func(bytes int64) error
	// Log; default none.
	Log *slog.Logger
	// Now; default time.Now.
	Now func() time.Time

	disk         disk
	packTarget   int64
	workers      int
	frameTimeout time.Duration
	hedgeAfter   time.Duration
}

func (o Options) withDefaults() Options {
	if o.Grace == 0 {
		o.Grace = defaultGrace
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.disk == nil {
		o.disk = osDisk{}
	}
	if o.packTarget == 0 {
		o.packTarget = defaultPack
	}
	if o.workers == 0 {
		o.workers = runtime.GOMAXPROCS(0)
	}
	if o.frameTimeout == 0 {
		o.frameTimeout = frameTimeout
	}
	if o.hedgeAfter == 0 {
		o.hedgeAfter = hedgeAfter
	}
	o.Limits = o.Limits.withDefaults()
	o.StateLimits = o.StateLimits.stateDefaults()
	return o
}

// pack is what is known of one pack file. Guarded by the store's mutex,
// except num and created, which never change.
type pack struct {
	num     uint32
	created uint32
	size    int64
	sealed  bool
	suspect bool // its index was damaged: Collect writes it anew
}

// Store keeps objects in one directory. All methods may be called from
// several goroutines at once.
type Store struct {
	dir, packDir, asideDir string

	opts       Options
	disk       disk
	packTarget int64
	lock       *os.File
	codec      *codec
	clock      *clock
	keys       atomic.Pointer[[]storeKey]
	log        *slog.Logger

	w        writer       // its mutex first,
	mu       sync.RWMutex // then this one; it guards all below
	index    *index
	packs    map[uint32]*pack
	aside    map[ID]struct{} // damaged at some time, see aside.go
	lastPack uint32
	closed   bool

	collecting sync.Mutex // one Collect at a time; before all others
	dests      keyed      // one Materialise per destination
	latest     latest
}

// Open opens or makes the store in dir and removes what a crash left. A store
// in use elsewhere is an *InUseError; one of a newer format is ErrFormat.
func Open(dir string, opts Options) (_ *Store, err error) {
	opts = opts.withDefaults()
	s := &Store{dir: dir, packDir: filepath.Join(dir, "packs"), asideDir: filepath.Join(dir, "aside"),
		opts: opts, disk: opts.disk, packTarget: opts.packTarget, log: opts.Log, clock: newClock(opts.Now),
		index: newIndex(), packs: map[uint32]*pack{}, aside: map[ID]struct{}{}}
	s.UseKeys(opts.Keys...)
	if !opts.ReadOnly {
		if err := s.makeDirs(); err != nil {
			return nil, err
		}
	}
	if s.lock, err = lockDir(dir, filepath.Join(dir, "lock"), opts.ReadOnly); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			_ = unlockDir(s.lock)
		}
	}()
	if err := s.checkFormat(); err != nil {
		return nil, err
	}
	if s.codec, err = newCodec(opts.workers); err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("open store %q: %w", dir, err)
	}
	return s, nil
}

func (s *Store) makeDirs() error {
	for _, d := range []string{s.dir, s.packDir, s.asideDir, filepath.Join(s.dir, "scans")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return fmt.Errorf("open store: %w", err)
		}
	}
	return nil
}

// checkFormat reads the format file; a new store gets one.
func (s *Store) checkFormat() error {
	path := filepath.Join(s.dir, "store")
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !s.opts.ReadOnly {
		_ = s.disk.remove(path + tempSuffix)
		if err := writeFile(s.disk, path, []byte(formatLine)); err != nil {
			return fmt.Errorf("make store %q: %w", s.dir, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("open store %q: %w", s.dir, err)
	}
	if string(have) != formatLine {
		return fmt.Errorf("open store %q: %w: %.40q, this program knows %q", s.dir, ErrFormat, have, formatLine)
	}
	return nil
}

// Close seals the open pack and lets go of the directory. Operations under
// way fail with ErrClosed.
func (s *Store) Close() error {
	s.collecting.Lock()
	defer s.collecting.Unlock()
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	s.mu.Lock()
	was := s.closed
	s.closed = true
	s.mu.Unlock()
	if was {
		return nil
	}
	err := s.sealCurrent()
	if s.w.cur != nil { // could not be sealed: it will be read at the next Open
		s.w.cur.f.Close()
	}
	if lerr := unlockDir(s.lock); err == nil {
		err = lerr
	}
	if err != nil {
		return fmt.Errorf("close store %q: %w", s.dir, err)
	}
	return nil
}

// writable reports why nothing can be written.
func (s *Store) writable() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return ErrClosed
	case s.opts.ReadOnly:
		return ErrReadOnly
	}
	return nil
}

// touch reports whether id is here, and makes Collect spare it for a while.
func (s *Store) touch(id ID) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.index.touch(id, s.clock.tick())
}

func (s *Store) hasAll(ids []ID) []bool {
	has := make([]bool, len(ids))
	s.mu.RLock()
	defer s.mu.RUnlock()
	tick := s.clock.tick()
	for i, id := range ids {
		has[i] = s.index.touch(id, tick)
	}
	return has
}

// Absent returns those of ids that the store lacks, in order. What it has is
// safe from Collect for the grace time, or as long as a Hold lasts.
func (s *Store) Absent(ids []ID) []ID {
	var out []ID
	for i, has := range s.hasAll(ids) {
		if !has {
			out = append(out, ids[i])
		}
	}
	return out
}

// Hold begins a Hold: see there. The caller must release it.
func (s *Store) Hold() *Hold { return s.clock.hold() }

// namer names new objects; nil if there is no key to do it with.
func (s *Store) namer(n Naming) Namer {
	switch n {
	case PlainNaming:
		return PlainNamer
	case KeyedNaming:
		if keys := *s.keys.Load(); len(keys) > 0 {
			return keys[0].name
		}
	}
	return nil
}

// put stores plain under an id that its namer gave and returns the bytes that
// this added to a pack. It is on disk after the next flush.
func (s *Store) put(id ID, plain []byte, naming Naming) (int, error) {
	if len(plain) > MaxObject {
		return 0, fmt.Errorf("put object: %d bytes, at most %d", len(plain), MaxObject)
	}
	if s.touch(id) {
		return 0, nil
	}
	buf := storedBuffers.Get().(*[]byte)
	defer storedBuffers.Put(buf)
	*buf = s.codec.encode(*buf, plain, naming)
	return s.append(id, *buf)
}

// storedBuffers spares an allocation of up to MaxStored per object.
var storedBuffers = sync.Pool{New: func() any { return new([]byte) }}

// PutTree scans dir into the store, with the store's limits and plain
// naming. When it returns without error everything is on disk.
func (s *Store) PutTree(ctx context.Context, dir string, ignore ...string) (TreeInfo, error) {
	o, err := s.begin()
	if err != nil {
		return TreeInfo{}, err
	}
	info, err := ScanDir(ctx, dir, storeSink{s, PlainNaming},
		ScanOptions{Limits: s.opts.Limits, Ignore: ignore, Workers: s.opts.workers})
	if err = o.end(err); err != nil {
		return TreeInfo{}, err
	}
	return info, nil
}

// Put stores one object of at most MaxObject bytes. It survives a crash of
// the machine after Flush.
func (s *Store) Put(naming Naming, plain []byte) (ID, error) {
	name := s.namer(naming)
	if name == nil {
		return ID{}, fmt.Errorf("put object: %w", ErrNoKey)
	}
	id := name(plain)
	_, err := s.put(id, plain, naming)
	return id, err
}

// PutRaw stores an object as GetRaw of another store gave it. It must be
// what id names; otherwise *CorruptError, or ErrNoKey where that can not be
// known, and nothing is stored. It survives
// a crash of the machine after Flush.
func (s *Store) PutRaw(id ID, stored []byte) error {
	if _, err := s.verify(id, stored); errors.Is(err, ErrNoKey) {
		return fmt.Errorf("put object %s: %w", id, err)
	} else if err != nil {
		return &CorruptError{ID: id, Reason: err.Error()}
	}
	_, err := s.append(id, stored)
	return err
}

// Flush returns when all that was put before is on disk.
func (s *Store) Flush() error {
	if err := s.writable(); err != nil {
		return err
	}
	return s.flush()
}
