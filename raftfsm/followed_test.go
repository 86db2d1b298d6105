package raftfsm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

func testLog() *slog.Logger { return slog.New(slog.DiscardHandler) }

// idleCPU is how much of a core this process uses, in per cent, over two seconds.
func idleCPU() float64 {
	used := func() time.Duration {
		var u syscall.Rusage
		_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
		return time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	before, began := used(), time.Now()
	<-time.After(2 * time.Second)
	return 100 * float64(used()-before) / float64(time.Since(began))
}

func applyFed(s *model.State, e feedEntry) (*model.State, error) {
	cmds, err := DecodeCommands(e.entry)
	if err != nil {
		return nil, err
	}
	next, _ := Apply(s, e.index, cmds)
	return next, nil
}

func fedEntry(t testing.TB, prev uint64, v string) feedEntry {
	t.Helper()
	b, err := EncodeCommands([]model.Command{set("k", v)})
	if err != nil {
		t.Fatal(err)
	}
	return feedEntry{prev, prev + 2, b}
}

// stored is a directory with a checkpoint at 10 and entries 12, 14, 16, and the States at each.
func stored(t testing.TB) (dir string, states map[uint64]*model.State) {
	t.Helper()
	dir = t.TempDir()
	s := &model.State{Version: 1, Index: 10, Cluster: model.Cluster{ID: "c"}}
	f := newFollowed(dir, testLog())
	f.save(s)
	states = map[uint64]*model.State{10: s}
	for i := range 3 {
		e := fedEntry(t, s.Index, fmt.Sprint(i))
		next, err := applyFed(s, e)
		if err != nil {
			t.Fatal(err)
		}
		f.add(e, next)
		s = next
		states[s.Index] = s
	}
	f.close()
	return dir, states
}

// TestFollowedSurvivesAnyCut: whatever is left of the entries, a State that was is found, and the rest can be added.
func TestFollowedSurvivesAnyCut(t *testing.T) {
	t.Parallel()
	dir, states := stored(t)
	path := filepath.Join(dir, followedDir, followedEntries)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := uint64(0)
	for n := 0; n <= len(whole); n++ {
		for _, flip := range []bool{false, true} {
			cut := bytes.Clone(whole[:n])
			if flip && n > 0 {
				cut[n-1] ^= 0x40
			}
			if err := os.WriteFile(path, cut, 0o600); err != nil {
				t.Fatal(err)
			}
			f := newFollowed(dir, testLog())
			s, err := f.load(applyFed)
			if err != nil || s == nil || states[s.Index] == nil || Digest(s) != Digest(states[s.Index]) {
				t.Fatalf("cut at %d: %v, %v", n, s, err)
			}
			if !flip && s.Index < last {
				t.Fatalf("cut at %d: State %d, with less it was %d", n, s.Index, last)
			}
			last = max(last, s.Index)
			if n%8 != 0 { // what follows syncs, which takes its time
				f.close()
				continue
			}
			e := fedEntry(t, s.Index, "more")
			next, err := applyFed(s, e)
			if err != nil {
				t.Fatal(err)
			}
			f.add(e, next)
			f.close()
			again, err := newFollowed(dir, testLog()).load(applyFed)
			if err != nil || again.Index != e.index {
				t.Fatalf("cut at %d, then one added: State %d, want %d: %v", n, again.Index, e.index, err)
			}
		}
	}
	if last != 16 {
		t.Errorf("the whole file leads to %d", last)
	}
	for n := range whole {
		flipped := bytes.Clone(whole)
		flipped[n] ^= 0x04
		if err := os.WriteFile(path, flipped, 0o600); err != nil {
			t.Fatal(err)
		}
		f := newFollowed(dir, testLog())
		s, err := f.load(applyFed)
		if err != nil || states[s.Index] == nil || Digest(s) != Digest(states[s.Index]) {
			t.Fatalf("byte %d changed: %v, %v", n, s, err)
		}
		f.close()
	}
}

// TestFollowedDamage: what is damaged is fetched again, only a newer checkpoint is an error.
func TestFollowedDamage(t *testing.T) {
	t.Parallel()
	dir, states := stored(t)
	f := newFollowed(dir, testLog())
	if s, err := newFollowed(t.TempDir(), testLog()).load(applyFed); s != nil || err != nil {
		t.Errorf("nothing stored: %v, %v", s, err)
	}
	// A crash between the checkpoint and the empty entries.
	if _, err := f.writeCheckpoint(states[14]); err != nil {
		t.Fatal(err)
	}
	if s, err := f.load(applyFed); err != nil || s.Index != 16 || Digest(s) != Digest(states[16]) {
		t.Errorf("entries from before the checkpoint: %v, %v", s, err)
	}
	f.close()
	path := filepath.Join(dir, followedDir, followedCheckpoint)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	newer := bytes.Clone(whole)
	newer[len(checkpointMagic)]++
	for name, k := range map[string]struct {
		b    []byte
		must bool
	}{"cut": {whole[:len(whole)-3], false}, "empty": {nil, false}, "newer": {newer, true}} {
		if err := os.WriteFile(path, k.b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := newFollowed(dir, testLog()).load(applyFed)
		if must := (*MustUpgradeError)(nil); s != nil || errors.As(err, &must) != k.must || !k.must && err != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// TestFollowedOnAFullDisk: storing fails, following does not; what was stored before stays good.
func TestFollowedOnAFullDisk(t *testing.T) {
	t.Parallel()
	dir, states := stored(t)
	f := newFollowed(dir, testLog())
	s, err := f.load(applyFed)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.file.Close() // every write fails from here
	e := fedEntry(t, s.Index, "lost")
	next, _ := applyFed(s, e)
	f.add(e, next)
	f.sync()
	if f.file != nil || !f.told {
		t.Error("a failed write is not noticed")
	}
	e2 := fedEntry(t, next.Index, "later")
	next, _ = applyFed(next, e2)
	f.add(e2, next)
	if got, err := newFollowed(dir, testLog()).load(applyFed); err != nil || got.Index != 16 || Digest(got) != Digest(states[16]) {
		t.Errorf("stored: %v, %v", got, err)
	}
	f.again = time.Time{}
	f.add(fedEntry(t, 18, "x"), next)
	if got, err := newFollowed(dir, testLog()).load(applyFed); err != nil || got.Index != next.Index || f.told {
		t.Errorf("when the disk is well again: %v, %v", got, err)
	}
	f.close()
}

func FuzzFeed(f *testing.F) {
	f.Add(hello{id: "n1", epoch: 2, index: 7, insist: true}.encode())
	f.Add(hello{id: "n1", epoch: 2, index: 7, compare: true, digest: [32]byte{1}}.encode())
	var b bytes.Buffer
	st, _ := replyModes.enc.Marshal(feedStatus{Leader: "n1", Servers: []toldServer{{ID: "n1", Voter: true}}})
	re, _ := replyModes.enc.Marshal(refusal{Reason: reasonFull, Servers: []toldServer{{ID: "n2"}}})
	e := feedEntry{1, 2, []byte("x")}
	for _, err := range []error{writeFrame(&b, frameStatus, st), writeFrame(&b, frameRefusal, re), writeFrame(&b, frameEntry, e.head(), e.entry),
		writeFrame(&b, frameChunk, []byte("chunk")), writeFrame(&b, frameEnd), writeFrame(&b, frameCheck, check{index: 3}.encode())} {
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Add(appendRecord(nil, e))
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, err := readHello(bytes.NewReader(b)); err == nil && (h.id == "" || !bytes.HasPrefix(b, []byte{feedVersion})) {
			t.Errorf("%+v of %x", h, b)
		}
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			k, body, err := readFrame(r, nil)
			if err != nil {
				break
			}
			if len(body) > frameLimit(k) {
				t.Errorf("kind %d: %d bytes", k, len(body))
			}
			if st, err := decodeStatus(body); err == nil && len(st.Servers) > maxToldServers {
				t.Error("too many servers")
			}
			_, _ = decodeRefusal(body)
			if e, err := decodeFeedEntry(body); err == nil && (e.prev >= e.index || !bytes.Equal(append(e.head(), e.entry...), body)) {
				t.Errorf("entry %+v of %x", e, body)
			}
			if c, err := decodeCheck(body); err == nil && !bytes.Equal(c.encode(), body) {
				t.Errorf("check %+v of %x", c, body)
			}
		}
		if e, n, err := readRecord(bytes.NewReader(b)); err == nil && !bytes.Equal(appendRecord(nil, e), b[:n]) {
			t.Errorf("record %+v of %x", e, b)
		}
	})
}
