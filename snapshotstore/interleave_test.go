package snapshotstore

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// lives is a store through several deaths, and a peer to exchange trees with.
type lives struct {
	rnd       *rand.Rand
	peer      *Store
	here      string      // the directory that is snapshotted in the store,
	there     string      // and at the peer
	must      map[ID]bool // put or fetched without error, and kept by every Collect since
	completed map[string]int
}

// Any sequence of snapshots, packages, prunes and transfers to and fro, with
// deltas, cut by deaths of the process and of the machine at any operation on
// the disk: the store opens, Check accepts it, and what was acknowledged and
// not pruned is whole.
func TestInterleavingsWithCrashes(t *testing.T) {
	t.Parallel()
	seeds, deaths := 3, 12
	if testing.Short() {
		seeds, deaths = 1, 4
	}
	for range seeds {
		seed := rand.Uint64()
		base := t.TempDir()
		l := &lives{rnd: rand.New(rand.NewPCG(seed, 7)), peer: stateStore(t, Options{}), here: t.TempDir(), there: t.TempDir(),
			must: map[ID]bool{}, completed: map[string]int{}}
		path := filepath.Join(base, "0")
		for life := range deaths {
			when := fmt.Sprintf("seed %d life %d", seed, life)
			d := newFaultDisk(t, path, 1+l.rnd.IntN(250), nil)
			s, err := Open(path, faultOptions(d))
			if err == nil {
				err = l.live(t, s, when)
				_ = unlockDir(s.lock)
			}
			if !d.dead || !errors.Is(err, errDied) {
				t.Fatalf("%s: dead %v, but %v", when, d.dead, err)
			}
			if l.rnd.IntN(2) == 0 {
				fresh := filepath.Join(base, fmt.Sprint(life+1))
				d.cutPower(t, path, fresh, l.rnd)
				check(t, os.RemoveAll(path))
				path = fresh
			}
			l.sound(t, path, when)
		}
		if len(l.completed) < 5 {
			t.Errorf("seed %d: only %v were ever completed", seed, l.completed)
		}
	}
}

// live works until the store dies.
func (l *lives) live(t *testing.T, s *Store, when string) error {
	for range 10_000 {
		var root ID
		var err error
		op := []string{"snapshot", "package", "prune", "fetch", "give"}[l.rnd.IntN(5)]
		switch op {
		case "snapshot":
			mutate(t, l.here, l.rnd)
			var info StateInfo
			info, err = s.PutState(ctxb, l.here, StateOptions{Name: "service", Known: l.roots()})
			root = info.Root
		case "package":
			var info TreeInfo
			info, err = s.PutTree(ctxb, files(t, map[string]string{"a": noise(uint64(l.rnd.IntN(9)), 90_000), "b": "same"}))
			root = info.Root
		case "prune":
			for root := range l.must {
				if l.rnd.IntN(3) == 0 {
					delete(l.must, root)
				}
			}
			_, _, err = s.Collect(ctxb, l.roots())
		case "fetch":
			mutate(t, l.there, l.rnd)
			root = putState(t, l.peer, l.there, StateOptions{}).Root
			err = s.FetchWith(ctxb, root, []Source{&wire{from: l.peer}}, FetchOptions{Older: l.roots()})
		case "give":
			if roots := l.roots(); len(roots) > 0 {
				give := roots[l.rnd.IntN(len(roots))]
				if err = l.peer.FetchWith(ctxb, give, []Source{&wire{from: s}}, FetchOptions{Name: "service"}); err != nil {
					t.Fatalf("%s: not given: %v", when, err)
				}
				mustHave(t, l.peer, give, true)
			}
		}
		if err != nil {
			return err
		}
		l.completed[op]++
		if root != (ID{}) {
			l.must[root] = true
		}
	}
	return errors.New("never dies")
}

func (l *lives) roots() []ID { return slices.SortedFunc(maps.Keys(l.must), ID.Compare) }

func (l *lives) sound(t *testing.T, path, when string) {
	t.Helper()
	s, err := Open(path, faultOptions(noSync{}))
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer s.Close()
	if problems, err := s.Check(ctxb); err != nil || len(problems) > 0 {
		t.Fatalf("%s: check: %v %v", when, problems, err)
	}
	for root := range l.must {
		if has, err := s.HasTree(ctxb, root); !has || err != nil {
			t.Fatalf("%s: lost %s: %v", when, root, err)
		}
	}
	for _, file := range storedFiles(t, path) {
		if strings.HasSuffix(file, tempSuffix) || strings.HasSuffix(file, ".open") {
			t.Fatalf("%s: %s is left", when, file)
		}
	}
}
