package snapshotstore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMissingIsResumable(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	from, to := newStore(t, Options{}), newStore(t, Options{})
	info := putTree(t, from, sample(t))
	rounds := 0
	for {
		ids, err := to.Missing(ctx, info.Root, 3)
		check(t, err)
		if len(ids) == 0 {
			break
		}
		if len(ids) > 3 {
			t.Fatalf("%d ids", len(ids))
		}
		rounds++
		var b bytes.Buffer
		check(t, from.SendObjects(ctx, &b, ids))
		n, err := to.ReceiveObjects(ctx, &b)
		check(t, err)
		if n != len(ids) {
			t.Fatalf("%d of %d", n, len(ids))
		}
	}
	mustHave(t, to, info.Root, true)
	if rounds < 3 || to.Stats().Objects != from.Stats().Objects {
		t.Fatalf("%d rounds, %+v", rounds, to.Stats())
	}
}

func TestFetch(t *testing.T) {
	t.Parallel()
	from := newStore(t, Options{})
	content := map[string]string{}
	for i := range 500 {
		content["d"+string(rune('a'+i%7))+"/f"+string(rune('a'+i%26))+noise(uint64(i), 4)[:0]+strings.Repeat("x", i%90)] = noise(uint64(i), 100*i)
	}
	info := putTree(t, from, files(t, content))
	to := newStore(t, Options{hedgeAfter: time.Hour}) // nothing is asked for twice
	a, b := &storeSource{name: "a", store: from}, &storeSource{name: "b", store: from}
	var last, total uint64
	check(t, to.Fetch(context.Background(), info.Root, []Source{a, b}, func(d, n uint64) {
		if d < last || total != 0 && n != total {
			t.Errorf("progress from %d/%d to %d/%d", last, total, d, n)
		}
		last, total = d, n
	}))
	if last != info.Bytes || total != info.Bytes {
		t.Errorf("ended at %d of %d, want %d", last, total, info.Bytes)
	}
	if a.asked == 0 || b.asked == 0 || a.asked+b.asked != from.Stats().Objects {
		t.Errorf("asked %d + %d of %d", a.asked, b.asked, from.Stats().Objects)
	}
	mustHave(t, to, info.Root, true)
	check(t, to.Fetch(context.Background(), info.Root, nil, nil)) // nothing to do
	noProblems(t, to)
}

// Everything wrong that a source can send. Alone it makes Fetch fail and say
// so; beside a good one it does no harm.
func TestBadSources(t *testing.T) {
	t.Parallel()
	from := newStore(t, Options{})
	info := putTree(t, from, sample(t))
	frames := func(fs ...Frame) io.Reader {
		var b bytes.Buffer
		check(t, WriteFrames(&b, func(yield func(Frame, error) bool) {
			for _, f := range fs {
				if !yield(f, nil) {
					return
				}
			}
		}))
		return &b
	}
	for name, c := range map[string]struct {
		spoil func(ids []ID, stream []byte) (io.Reader, error)
		want  error
	}{
		"flipped bit": {func(_ []ID, s []byte) (io.Reader, error) {
			s[len(s)-6] ^= 1
			return bytes.NewReader(s), nil
		}, errLying},
		"not asked for": {func([]ID, []byte) (io.Reader, error) {
			return frames(Frame{ID{9}, nil}), nil
		}, errLying},
		"answered twice": {func(ids []ID, _ []byte) (io.Reader, error) {
			return frames(Frame{ids[0], nil}, Frame{ids[0], nil}), nil
		}, errLying},
		"no answer": {func([]ID, []byte) (io.Reader, error) { return frames(), nil }, errLying},
		"cut": {func(ids []ID, s []byte) (io.Reader, error) {
			if len(ids) > 1 {
				s = s[:len(s)-7]
			}
			return bytes.NewReader(s), nil
		}, nil},
		"always cut": {func(_ []ID, s []byte) (io.Reader, error) { return bytes.NewReader(s[:20]), nil }, ErrFrames},
		"endless": {func([]ID, []byte) (io.Reader, error) {
			return io.MultiReader(strings.NewReader(framesMagic), zeros{}), nil
		}, ErrFrames},
		"refuses": {func([]ID, []byte) (io.Reader, error) { return nil, os.ErrPermission }, os.ErrPermission},
		"has nothing": {func(ids []ID, _ []byte) (io.Reader, error) {
			var fs []Frame
			for _, id := range ids {
				fs = append(fs, Frame{id, nil})
			}
			return frames(fs...), nil
		}, ErrMissing},
		"silent": {func([]ID, []byte) (io.Reader, error) { return newSilence(), nil }, ErrStalled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			badSource(t, from, info, c.spoil, c.want)
		})
	}
}

func badSource(t *testing.T, from *Store, info TreeInfo, spoil func([]ID, []byte) (io.Reader, error), want error) {
	opts := Options{hedgeAfter: time.Millisecond}
	if errors.Is(want, ErrStalled) {
		opts.frameTimeout = 50 * time.Millisecond
	}
	bad := &storeSource{name: "bad", store: from, spoil: spoil}
	to := newStore(t, opts)
	err := to.Fetch(context.Background(), info.Root, []Source{bad}, nil)
	if want == nil {
		check(t, err) // every request brings something: it gets there
		return
	}
	if !errors.Is(err, want) || !errors.Is(err, ErrMissing) {
		t.Fatalf("got %v, want %v", err, want)
	}
	var se *SourceError
	if !errors.Is(want, ErrMissing) && (!errors.As(err, &se) || se.Source != "bad") {
		t.Fatalf("the source is not named: %v", err)
	}
	noProblems(t, to)
	to.opts.frameTimeout = frameTimeout // a silent source does not hold up the others
	check(t, to.Fetch(context.Background(), info.Root, []Source{bad, &storeSource{name: "good", store: from}}, nil))
	mustHave(t, to, info.Root, true)
	noProblems(t, to)
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// silence blocks until it is closed.
type silence struct {
	done  func() <-chan struct{}
	close func()
}

func newSilence() io.Reader {
	ctx, cancel := context.WithCancel(context.Background())
	return &silence{ctx.Done, cancel}
}

func (s *silence) Read([]byte) (int, error) { <-s.done(); return 0, io.ErrClosedPipe }
func (s *silence) Close() error             { s.close(); return nil }

// Two sources with half of the objects each are one good source, and what was
// fetched before a failure is not fetched again.
func TestFetchResumesAndCombines(t *testing.T) {
	t.Parallel()
	from := newStore(t, Options{})
	info := putTree(t, from, sample(t))
	half := func(even bool) func(ids []ID, _ []byte) (io.Reader, error) {
		return func(ids []ID, _ []byte) (io.Reader, error) {
			var b bytes.Buffer
			err := WriteFrames(&b, func(yield func(Frame, error) bool) {
				for _, id := range ids {
					f := Frame{ID: id}
					if (id[31]&1 == 0) == even {
						f.Stored, _ = from.GetRaw(id)
					}
					if !yield(f, nil) {
						return
					}
				}
			})
			return &b, err
		}
	}
	a := &storeSource{name: "a", store: from, spoil: half(info.Root[31]&1 == 0)}
	b := &storeSource{name: "b", store: from, spoil: half(info.Root[31]&1 != 0)}
	dir := filepath.Join(t.TempDir(), "store")
	to := openStore(t, dir, Options{})
	if err := to.Fetch(context.Background(), info.Root, []Source{a}, nil); !errors.Is(err, ErrMissing) {
		t.Fatal(err)
	}
	had := to.Stats().Objects
	if had == 0 {
		t.Fatal("nothing stayed")
	}
	check(t, to.Close())
	to = openStore(t, dir, Options{hedgeAfter: time.Hour})
	a.asked, b.asked = 0, 0
	check(t, to.Fetch(context.Background(), info.Root, []Source{a, b}, nil))
	mustHave(t, to, info.Root, true)
	if most := 2 * (from.Stats().Objects - had); a.asked+b.asked > most {
		t.Fatalf("asked for %d objects, %d were missing", a.asked+b.asked, most/2)
	}
}

func TestFetchCancelled(t *testing.T) {
	t.Parallel()
	from := newStore(t, Options{})
	info := putTree(t, from, sample(t))
	ctx, cancel := context.WithCancel(context.Background())
	src := &storeSource{name: "s", store: from, spoil: func([]ID, []byte) (io.Reader, error) {
		cancel()
		return newSilence(), nil
	}}
	if err := newStore(t, Options{}).Fetch(ctx, info.Root, []Source{src}, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}

// remoteStore is a store behind the interface that the cli has.
type remoteStore struct {
	*Store
	sends int
}

func (r *remoteStore) Absent(_ context.Context, ids []ID) ([]ID, error) {
	return r.Store.Absent(ids), nil
}

func (r *remoteStore) Send(ctx context.Context, frames io.Reader) error {
	r.sends++
	_, err := r.ReceiveObjects(ctx, frames)
	return err
}

func TestUpload(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	remote := &remoteStore{Store: newStore(t, Options{})}
	dir := sample(t)
	sent, total := 0, 0
	info, err := Upload(ctx, dir, remote, ScanOptions{}, func(s, n int) { sent, total = s, n })
	check(t, err)
	mustHave(t, remote.Store, info.Root, true)
	if sent != total || total != remote.Stats().Objects {
		t.Fatalf("sent %d of %d", sent, total)
	}
	again, err := Upload(ctx, dir, remote, ScanOptions{}, nil)
	check(t, err)
	if again != info || remote.sends != 1 {
		t.Fatalf("%+v after %d sends", again, remote.sends)
	}
	check(t, os.WriteFile(filepath.Join(dir, "bin/new"), []byte("new"), 0o644))
	_, err = Upload(ctx, dir, remote, ScanOptions{}, func(_, n int) { total = n })
	check(t, err)
	if total != 3 { // the file, its directory, the root
		t.Fatalf("sent %d objects", total)
	}
	check(t, remote.Close())
	check(t, os.WriteFile(filepath.Join(dir, "bin/new2"), []byte("new2"), 0o644))
	if _, err = Upload(ctx, dir, remote, ScanOptions{}, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func FuzzFrames(f *testing.F) {
	var b bytes.Buffer
	check(f, WriteFrames(&b, func(yield func(Frame, error) bool) {
		_ = yield(Frame{ID{1}, make([]byte, 40)}, nil) && yield(Frame{ID{2}, nil}, nil)
	}))
	f.Add(b.Bytes())
	f.Add(binary.LittleEndian.AppendUint32(append([]byte(framesMagic+"O"), make([]byte, 32)...), 1<<31))
	f.Fuzz(func(t *testing.T, raw []byte) {
		var got []Frame
		var failed error
		for fr, err := range ReadFrames(bytes.NewReader(raw)) {
			if failed = err; err != nil {
				break
			}
			got = append(got, Frame{fr.ID, bytes.Clone(fr.Stored)})
		}
		if failed != nil {
			if !errors.Is(failed, ErrFrames) {
				t.Fatal(failed)
			}
			return
		}
		var again bytes.Buffer
		check(t, WriteFrames(&again, func(yield func(Frame, error) bool) {
			for _, fr := range got {
				if !yield(fr, nil) {
					return
				}
			}
		}))
		if !bytes.HasPrefix(raw, again.Bytes()) {
			t.Fatal("read something else than was written")
		}
	})
}
