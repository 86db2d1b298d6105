package snapshotstore

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

// Everything wrong that a source can send of a snapshot: see TestBadSources.
// What is named with another key, or without one, is as wrong as a flipped bit.
func TestBadSourcesOfState(t *testing.T) {
	t.Parallel()
	from := stateStore(t, Options{})
	info := putState(t, from, stateSample(t), StateOptions{})
	forge := func(ids []ID, name func(plain []byte) []byte) (io.Reader, error) {
		var b bytes.Buffer
		err := WriteFrames(&b, func(yield func(Frame, error) bool) {
			for _, id := range ids {
				plain, err := from.Get(id)
				check(t, err)
				if !yield(Frame{id, name(plain)}, nil) {
					return
				}
			}
		})
		return &b, err
	}
	for name, c := range map[string]struct {
		spoil func(ids []ID, stream []byte) (io.Reader, error)
		want  error
	}{
		"other content": {func(ids []ID, _ []byte) (io.Reader, error) {
			return forge(ids, func(plain []byte) []byte { return from.codec.encode(nil, append(plain, 1), KeyedNaming) })
		}, errLying},
		"without the key": {func(ids []ID, _ []byte) (io.Reader, error) {
			return forge(ids, func(plain []byte) []byte { return from.codec.encode(nil, plain, PlainNaming) })
		}, errLying},
		"flipped bit": {func(_ []ID, s []byte) (io.Reader, error) {
			s[len(s)-6] ^= 1
			return bytes.NewReader(s), nil
		}, errLying},
		"always cut":  {func(_ []ID, s []byte) (io.Reader, error) { return bytes.NewReader(s[:20]), nil }, ErrFrames},
		"refuses":     {func([]ID, []byte) (io.Reader, error) { return nil, os.ErrPermission }, os.ErrPermission},
		"silent":      {func([]ID, []byte) (io.Reader, error) { return newSilence(), nil }, ErrStalled},
		"has nothing": {func(ids []ID, _ []byte) (io.Reader, error) { return missingAll(ids) }, ErrMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			badStateSource(t, from, info, c.spoil, c.want)
		})
	}
}

func missingAll(ids []ID) (io.Reader, error) {
	var b bytes.Buffer
	err := WriteFrames(&b, func(yield func(Frame, error) bool) {
		for _, id := range ids {
			if !yield(Frame{ID: id}, nil) {
				return
			}
		}
	})
	return &b, err
}

func badStateSource(t *testing.T, from *Store, info StateInfo, spoil func([]ID, []byte) (io.Reader, error), want error) {
	opts := Options{hedgeAfter: time.Millisecond}
	if errors.Is(want, ErrStalled) {
		opts.frameTimeout = 50 * time.Millisecond
	}
	to := stateStore(t, opts)
	bad := &storeSource{name: "bad", store: from, spoil: spoil}
	if err := to.Fetch(ctxb, info.Root, []Source{bad}, nil); !errors.Is(err, want) || !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v, want %v", err, want)
	}
	to.opts.frameTimeout = frameTimeout
	var done, total uint64
	check(t, to.Fetch(ctxb, info.Root, []Source{bad, &storeSource{name: "good", store: from}}, func(d, n uint64) { done, total = d, n }))
	if done != total || total != info.Bytes {
		t.Fatalf("%d of %d", done, total)
	}
	mustHave(t, to, info.Root, true)
	dest := filepath.Join(outDir(t), "out")
	restore(t, to, info.Root, dest, RestoreOptions{})
	verified(t, to, info.Root, dest)
	noProblems(t, to)
}

// A cut is resumed with what is missing; the next snapshot with its difference.
func TestFetchStateIncrement(t *testing.T) {
	t.Parallel()
	from := stateStore(t, Options{})
	dir := stateSample(t)
	first := putState(t, from, dir, StateOptions{})
	to := stateStore(t, Options{hedgeAfter: time.Hour})
	calls := 0
	src := &storeSource{name: "cut", store: from}
	src.spoil = func(_ []ID, s []byte) (io.Reader, error) {
		if calls++; calls > 2 {
			return nil, os.ErrDeadlineExceeded
		}
		return bytes.NewReader(s), nil
	}
	if err := to.Fetch(ctxb, first.Root, []Source{src}, nil); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatal(err)
	}
	had := to.Stats().Objects
	src.spoil, src.asked = nil, 0
	check(t, to.Fetch(ctxb, first.Root, []Source{src, &storeSource{name: "other", store: from}}, nil))
	if all := from.Stats().Objects; had == 0 || src.asked > all-had {
		t.Fatalf("%d of %d were here, %d asked", had, all, src.asked)
	}
	check(t, os.WriteFile(filepath.Join(dir, "conf/new"), []byte("new"), 0o644))
	second := putState(t, from, dir, StateOptions{})
	src.asked = 0
	check(t, to.Fetch(ctxb, second.Root, []Source{src}, nil))
	if src.asked > 4 { // the file, two directories, the root
		t.Fatalf("asked for %d objects", src.asked)
	}
	mustHave(t, to, second.Root, true)
}

// A limit is kept over all sources together, and is no reason to drop one or
// to ask another for the same.
func TestFetchLimit(t *testing.T) {
	t.Parallel()
	from := stateStore(t, Options{})
	info := putState(t, from, files(t, map[string]string{"a": noise(1, 1<<20), "b": noise(2, 1<<20)}), StateOptions{})
	disk := filepath.Join(t.TempDir(), "store")
	synctest.Test(t, func(t *testing.T) {
		to, err := Open(disk, Options{Keys: [][32]byte{testKey}, disk: noSync{}, workers: 1})
		check(t, err)
		a, b := &storeSource{name: "a", store: from}, &storeSource{name: "b", store: from}
		c := &storeSource{name: "c", store: from}
		start := time.Now()
		check(t, to.FetchWith(context.Background(), info.Root, []Source{a, b, c}, FetchOptions{Limit: 50_000}))
		took := time.Since(start).Seconds()
		if bytes := float64(info.Stored); took < 0.9*bytes/50_000 || took > 1.2*bytes/50_000 {
			t.Errorf("%.0f bytes in %.1f s", bytes, took)
		}
		if all := from.Stats().Objects; a.asked == 0 || b.asked == 0 || a.asked+b.asked+c.asked > all {
			t.Errorf("asked %d + %d + %d of %d", a.asked, b.asked, c.asked, all)
		}
		check(t, to.Close())
	})
}

func TestLimiter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(1000)
		start := time.Now()
		for range 11 {
			_, err := l.wait(t.Context(), 500)
			check(t, err)
		}
		if took := time.Since(start); took != 5*time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := l.wait(ctx, 500); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(time.Hour) // fake: what is unused does not add up
		for range 3 {
			_, err := l.wait(t.Context(), 500)
			check(t, err)
		}
		if took := time.Since(start); took != time.Hour+6*time.Second {
			t.Errorf("took %v", took)
		}
	})
}
