package snapshotstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// changed is a state of one file and what it becomes: two snapshots in from,
// of which to has the first.
type changed struct {
	from, to   *Store
	dir        string
	old, fresh StateInfo
	amount     int // bytes that are new
}

// changePages overwrites some pages of a file of size bytes, or inserts as much
// before them.
func changePages(t *testing.T, size, pages int, insert bool) *changed {
	t.Helper()
	c := &changed{from: stateStore(t, Options{}), to: stateStore(t, Options{}), amount: pages * page}
	data := noise(uint64(size), size)
	c.dir = files(t, map[string]string{"db": data, "other": noise(3, 40_000)})
	c.old = putState(t, c.from, c.dir, StateOptions{})
	check(t, c.to.Fetch(ctxb, c.old.Root, []Source{&storeSource{name: "from", store: c.from}}, nil))
	var out strings.Builder
	for i := range pages {
		part := data[size*i/pages : size*(i+1)/pages]
		at := len(part) / 3
		out.WriteString(part[:at] + noise(1<<10+uint64(i), page))
		if !insert {
			at += page
		}
		out.WriteString(part[at:])
	}
	check(t, os.WriteFile(filepath.Join(c.dir, "db"), []byte(out.String()), 0o644))
	c.fresh = putState(t, c.from, c.dir, StateOptions{})
	return c
}

// arrived fails unless to has the second snapshot, whole.
func (c *changed) arrived(t *testing.T) {
	t.Helper()
	mustHave(t, c.to, c.fresh.Root, true)
	noProblems(t, c.to)
	dest := filepath.Join(outDir(t), "out")
	restore(t, c.to, c.fresh.Root, dest, RestoreOptions{})
	if a, b := describe(t, c.dir), describe(t, dest); a != b {
		t.Fatalf("%s\nis not\n%s", b, a)
	}
}

func (c *changed) fetch(sources ...Source) error {
	return c.to.FetchWith(ctxb, c.fresh.Root, sources, FetchOptions{Older: []ID{{1}, c.old.Root}})
}

// What is sent is in proportion to what has changed, be it overwritten or
// inserted.
func TestDeltasAreSmall(t *testing.T) {
	t.Parallel()
	for _, insert := range []bool{false, true} {
		c := changePages(t, 60<<20, 150, insert)
		src := &wire{from: c.from}
		check(t, c.fetch(src))
		c.arrived(t)
		if sent := src.bytes.Load(); sent > uint64(c.amount)*13/10 {
			t.Errorf("insert %v: %d bytes for a change of %d", insert, sent, c.amount)
		}
	}
}

// oldWire is a source of a program that knows no deltas, found out late.
type oldWire struct{ *wire }

func (oldWire) Deltas(context.Context, []Want) (io.ReadCloser, error) { return nil, ErrNoDeltas }

// Whoever knows no deltas, or has not the older tree, sends objects whole.
func TestDeltasAreOptional(t *testing.T) {
	t.Parallel()
	c := changePages(t, 3<<20, 5, false)
	check(t, c.fetch(oldWire{&wire{from: c.from}}))
	c.arrived(t)

	c = changePages(t, 3<<20, 5, false)
	newer := stateStore(t, Options{})
	check(t, newer.Fetch(ctxb, c.fresh.Root, []Source{&storeSource{name: "from", store: c.from}}, nil))
	for id := range newer.index.at { // only what is not in the older tree
		if _, err := c.to.Get(id); err == nil {
			newer.index.remove(id)
		}
	}
	src := &wire{from: newer}
	check(t, c.fetch(src))
	c.arrived(t)
	if sent := src.bytes.Load(); sent < 3*uint64(c.amount) {
		t.Errorf("%d bytes: from what are they a difference?", sent)
	}

	c = changePages(t, 3<<20, 5, false)
	src = &wire{from: c.from, spoil: func(_ ID, stored []byte) ([]byte, error) { return stored, nil }}
	check(t, c.to.FetchWith(ctxb, c.fresh.Root, []Source{src}, FetchOptions{Older: []ID{c.fresh.Root, {7}}}))
	c.arrived(t)
	if src.wants != nil {
		t.Error("asked for deltas from a tree that is not here")
	}
}

// Everything wrong that can come in the place of a delta: the source is
// dropped, another brings what is right, and nothing wrong is kept.
func TestBadDeltas(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(id ID, stored []byte) ([]byte, error){
		"flipped bit": func(_ ID, stored []byte) ([]byte, error) {
			stored[len(stored)-1] ^= 4
			return stored, nil
		},
		"cut": func(_ ID, stored []byte) ([]byte, error) { return stored[:len(stored)-5], nil },
		"longer than it says": func(_ ID, stored []byte) ([]byte, error) {
			stored[5]--
			return stored, nil
		},
		"too long": func(_ ID, stored []byte) ([]byte, error) {
			stored[7] = 9
			return stored, nil
		},
		"of no bases": func(_ ID, stored []byte) ([]byte, error) {
			d, err := (&deltaCodec{}).encode(bytes.Repeat([]byte("x"), 5000), KeyedNaming, 5000)
			return d, err
		},
		"other name": func(_ ID, stored []byte) ([]byte, error) {
			stored[0] = byte(PlainNaming)<<4 | codecDelta
			return stored, nil
		},
		"encrypted": func(_ ID, stored []byte) ([]byte, error) {
			stored[1] = 1
			return stored, nil
		},
		"nothing": func(_ ID, stored []byte) ([]byte, error) { return stored[:storedHeader], nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := changePages(t, 3<<20, 5, false)
			bad := &wire{from: c.from, spoil: func(id ID, stored []byte) ([]byte, error) {
				if !isDelta(stored) {
					return stored, nil
				}
				return spoil(id, bytes.Clone(stored))
			}}
			if err := c.fetch(bad); !errors.Is(err, errLying) {
				t.Fatalf("taken: %v", err)
			}
			check(t, c.fetch(bad, &wire{from: c.from}))
			c.arrived(t)
		})
	}
}

// A delta is for who asked for one: it is neither taken unasked nor ever
// stored.
func TestDeltasAreNotStored(t *testing.T) {
	t.Parallel()
	s := stateStore(t, Options{})
	base, err := s.Put(KeyedNaming, []byte(noise(1, 9000)))
	check(t, err)
	plain := []byte(noise(1, 9000) + "x")
	id := s.namer(KeyedNaming)(plain)
	c := &deltaCodec{}
	check(t, c.fill(s, []ID{base}))
	d, err := c.encode(plain, KeyedNaming, len(plain))
	check(t, err)
	if len(d) > 60 {
		t.Fatalf("%d bytes", len(d))
	}
	if err := s.PutRaw(id, d); !isCorrupt(err) {
		t.Fatalf("stored: %v", err)
	}
	bare := s.codec.encode(nil, bytes.Repeat([]byte("x"), 900), KeyedNaming)
	bare[0] = byte(KeyedNaming)<<4 | codecDelta // one that needs no bases
	if err := s.PutRaw(s.namer(KeyedNaming)(bytes.Repeat([]byte("x"), 900)), bare); !isCorrupt(err) {
		t.Fatalf("stored: %v", err)
	}
	if err := s.putDelta(id, d, nil); !isCorrupt(err) {
		t.Fatalf("unasked: %v", err)
	}
	check(t, s.putDelta(id, d, []ID{base}))
	stored, err := s.GetRaw(id)
	check(t, err)
	if isDelta(stored) {
		t.Fatal("stored as a delta")
	}
}

// A base that turns out to be damaged here is no fault of the source: what
// came against it comes again, whole.
func TestBaseOfDeltaIsDamaged(t *testing.T) {
	t.Parallel()
	c := changePages(t, 3<<20, 5, false)
	src := &wire{from: c.from}
	src.spoil = func(id ID, stored []byte) ([]byte, error) {
		if i := slices.IndexFunc(src.wants, func(w Want) bool { return w.ID == id }); isDelta(stored) && c.to.touch(src.wants[i].Bases[0]) {
			damage(t, c.to, src.wants[i].Bases[0])
		}
		return stored, nil
	}
	check(t, c.fetch(src))
	mustHave(t, c.to, c.fresh.Root, true)
	if c.to.Stats().Damaged == 0 {
		t.Fatal("no base was damaged")
	}
	check(t, c.to.Fetch(ctxb, c.old.Root, []Source{src}, nil)) // which heals it
	c.arrived(t)
}

// After a cut only what did not arrive is sent again: less than one object
// twice for each cut.
func TestDeltasResume(t *testing.T) {
	t.Parallel()
	c := changePages(t, 12<<20, 60, false)
	src := &wire{from: c.from}
	check(t, c.fetch(src))
	whole := src.bytes.Load()

	c = changePages(t, 12<<20, 60, false)
	src = &wire{from: c.from, cut: 90_000}
	check(t, c.fetch(src))
	c.arrived(t)
	if twice := src.bytes.Load() - whole; src.cuts == 0 || twice > uint64(src.cuts*(2*page+60*3*33)) {
		t.Fatalf("%d bytes sent twice after %d cuts", twice, src.cuts)
	}
}

// Any tree, whatever becomes of it, arrives whole through deltas from any
// older one.
func TestDeltasProperty(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	from, to := stateStore(t, Options{}), stateStore(t, Options{})
	dir := t.TempDir()
	var roots []ID
	for step := range 25 {
		mutate(t, dir, rnd)
		info := putState(t, from, dir, StateOptions{})
		if err := to.FetchWith(ctxb, info.Root, []Source{&wire{from: from}}, FetchOptions{Older: roots}); err != nil {
			t.Fatalf("seed %d step %d: %v", seed, step, err)
		}
		mustHave(t, to, info.Root, true)
		roots = append(roots, info.Root)
		rnd.Shuffle(len(roots), func(i, j int) { roots[i], roots[j] = roots[j], roots[i] })
	}
	noProblems(t, to)
}

// A tree whose lists and directories have other levels than those of the older
// one is compared all the same.
func TestDeltasAcrossLevels(t *testing.T) {
	t.Parallel()
	from := stateStore(t, Options{})
	data := []byte(noise(8, 900_000))
	var roots []ID
	var levels [][2]int
	for i := range 5 {
		copy(data[500_000:], noise(uint64(100+i), 500))
		roots = append(roots, levelled(t, from, data, i%4, i/2))
		levels = append(levels, [2]int{i % 4, i / 2})
	}
	for i, old := range roots {
		for k, fresh := range roots {
			if i == k || levels[i][0] == 0 && levels[k][0] > 0 { // the latter: a limitation
				continue
			}
			to := stateStore(t, Options{})
			check(t, to.Fetch(ctxb, old, []Source{&storeSource{name: "from", store: from}}, nil))
			src := &wire{from: from}
			check(t, to.FetchWith(ctxb, fresh, []Source{src}, FetchOptions{Older: []ID{old}}))
			mustHave(t, to, fresh, true)
			if sent := src.bytes.Load(); sent > 8000 {
				t.Errorf("levels %v to %v: %d bytes", levels[i], levels[k], sent)
			}
		}
	}
}

// levelled stores a snapshot of one file, whose lists and directories have
// at least those levels.
func levelled(t *testing.T, s *Store, data []byte, lists, dirs int) ID {
	t.Helper()
	put := func(plain []byte) ID {
		id, err := s.Put(KeyedNaming, plain)
		check(t, err)
		return id
	}
	gear := newGearTable()
	e := entry{Kind: File, Mode: 0o644, Name: "db", Size: uint64(len(data)), Level: lists}
	for rest := data; len(rest) > 0; {
		n := gear.cut(rest)
		e.Refs = append(e.Refs, ref{put(rest[:n]), Totals{Bytes: uint64(n)}})
		rest = rest[n:]
	}
	for level := 1; level <= lists; level++ {
		plain := appendNodeHeader(nil, kindList, stateVersion, level)
		for _, r := range e.Refs {
			plain = appendRef(plain, kindList, r)
		}
		e.Refs = []ref{{put(plain), Totals{Bytes: e.Size}}}
	}
	dir := ref{put(appendEntry(appendNodeHeader(nil, kindDir, stateVersion, 0), stateVersion, &e)), e.totals()}
	for level := 1; level <= dirs; level++ {
		dir.ID = put(appendRef(appendNodeHeader(nil, kindDir, stateVersion, level), kindDir, dir))
	}
	return put(appendState(nil, &stateRoot{mode: 0o755, dir: dir}))
}

// The bases of what has changed are what stood in its place.
func TestAlign(t *testing.T) {
	t.Parallel()
	parse := func(s string) (refs []ref) {
		for _, name := range strings.Fields(s) {
			size := uint64(10)
			if name, n, ok := strings.Cut(name, "="); ok {
				_, err := fmt.Sscan(n, &size)
				check(t, err)
				refs = append(refs, ref{PlainNamer([]byte(name)), Totals{Bytes: size}})
				continue
			}
			refs = append(refs, ref{PlainNamer([]byte(name)), Totals{Bytes: size}})
		}
		return refs
	}
	for _, c := range []struct{ old, now, want string }{
		{"a b c", "a b c", ""},
		{"a b c", "a x c", "x:b"},
		{"a b c d", "a x y d", "x:b y:c"},
		{"a b c", "x b c", "x:a"},
		{"a b c", "a b x", "x:c"},
		{"a b c", "x y z", "x:a y:b z:c"},
		{"a b c", "a x=5 y=5 c", "x:b y:b"},
		{"a b=20 c d", "a x=30 d", "x:bc"},
		{"a b c", "a x b c", "x:"},                   // nothing was replaced
		{"a b c d e", "d x b c", "x:ae"},             // moved: what followed d and what came before b
		{"a a a b", "a a x b", "a:a a:a x:a"},        // no anchors but b
		{"a b c", "a x=1000000 c", "x:b"},            // much longer
		{"a b=1 c=1 d=1 e=1 f", "a x=1 f", "x:bcde"}, // much shorter: in proportion
		{"", "x", ""},
	} {
		old, now := parse(c.old), parse(c.now)
		names := map[ID]string{}
		for _, s := range strings.Fields(c.old + " " + c.now) {
			s, _, _ = strings.Cut(s, "=")
			names[PlainNamer([]byte(s))] = s
		}
		var got []string
		align(now, old, ofFiles(0), func(i int, bases []ID) {
			s := names[now[i].ID] + ":"
			for _, id := range bases {
				s += names[id]
			}
			got = append(got, s)
		})
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%q to %q: %q, want %q", c.old, c.now, s, c.want)
		}
	}
}

func TestAlignProperty(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3000) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		some := func() (refs []ref) {
			for range rnd.IntN(40) {
				refs = append(refs, ref{ID{byte(rnd.IntN(30))}, Totals{Bytes: rnd.Uint64N(100) + 1}})
			}
			return refs
		}
		old, now := some(), some()
		had := map[ID]bool{}
		for _, r := range old {
			had[r.ID] = true
		}
		align(now, old, ofFiles(int(seed%2)), func(i int, bases []ID) {
			for k, id := range bases {
				if !had[id] || id.IsZero() || slices.Contains(bases[:k], id) || len(bases) > maxBases {
					t.Fatalf("seed %d: %v", seed, bases)
				}
			}
		})
	}
}

func TestWants(t *testing.T) {
	t.Parallel()
	wants := []Want{{ID: ID{1}}, {ID: ID{2}, Bases: []ID{{3}, {4}}}, {ID: ID{5}, Bases: make([]ID, 99)}}
	got, err := ParseWants(AppendWants(nil, wants))
	check(t, err)
	wants[2].Bases = wants[2].Bases[:maxBases]
	if fmt.Sprint(got) != fmt.Sprint(wants) {
		t.Fatal(got)
	}
	for name, raw := range map[string][]byte{
		"empty":          nil,
		"other":          []byte("GET / HTTP/1.1"),
		"cut":            AppendWants(nil, wants)[:len(wantsMagic)+40],
		"too many bases": append(append([]byte(wantsMagic), make([]byte, 32)...), append([]byte{maxBases + 1}, make([]byte, maxBases*32)...)...),
		"too many":       AppendWants(nil, make([]Want, maxWants+1)),
	} {
		if _, err := ParseWants(raw); !errors.Is(err, ErrWants) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzWants(f *testing.F) {
	f.Add(AppendWants(nil, []Want{{ID: ID{1}}, {ID: ID{2}, Bases: []ID{{3}, {4}}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		wants, err := ParseWants(raw)
		if err == nil && !bytes.Equal(AppendWants(nil, wants), raw) {
			t.Fatal("written otherwise than read")
		}
	})
}

func FuzzDelta(f *testing.F) {
	c := &deltaCodec{dict: []byte(noise(1, 70_000))}
	for _, plain := range []string{noise(1, 70_000), noise(1, 300) + "x", "x"} {
		d, err := c.encode([]byte(plain), KeyedNaming, 100_000)
		check(f, err)
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, stored []byte) {
		plain, info, err := c.decode(stored)
		if err == nil && (len(plain) != info.plain || len(plain) > MaxObject) {
			t.Fatalf("%d bytes, announced %d", len(plain), info.plain)
		}
	})
}
