package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// Problem is something that Check found.
type Problem struct {
	Where string // a file, relative to the store
	ID    ID     // the object, zero if it concerns the whole file
	What  string
}

func (p Problem) String() string {
	if p.ID.IsZero() {
		return fmt.Sprintf("%s: %s", p.Where, p.What)
	}
	return fmt.Sprintf("%s: object %s: %s", p.Where, p.ID, p.What)
}

// Check reads everything and returns what is wrong. Damaged objects it finds
// are moved aside, as Get does, and reported until they are put again. err is
// only what kept it from looking.
func (s *Store) Check(ctx context.Context) ([]Problem, error) {
	var problems []Problem
	s.mu.RLock()
	objects, nums := s.index.byPack(), slices.Sorted(maps.Keys(s.packs))
	s.mu.RUnlock()
	for _, num := range nums {
		found, err := s.checkPack(ctx, num, objects[num])
		if err != nil {
			return problems, fmt.Errorf("check pack %d: %w", num, err)
		}
		problems = append(problems, found...)
	}
	told := map[ID]bool{}
	for _, p := range problems {
		told[p.ID] = true
	}
	more, err := s.checkRest(told)
	if err != nil {
		return problems, fmt.Errorf("check: %w", err)
	}
	return append(problems, more...), nil
}

// checkPack compares a pack with its index and reads its objects. A pack that
// goes away meanwhile was collected.
func (s *Store) checkPack(ctx context.Context, num uint32, objects []packEntry) ([]Problem, error) {
	s.mu.RLock()
	p, path := s.packs[num], s.pathLocked(num)
	sealed := p != nil && p.sealed
	s.mu.RUnlock()
	if p == nil {
		return nil, nil
	}
	where := filepath.Join("packs", filepath.Base(path))
	f, size, err := openSized(path)
	if errors.Is(err, fs.ErrNotExist) {
		if s.stillThere(num, path) {
			return []Problem{{Where: where, What: "the file is gone"}}, nil
		}
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var problems []Problem
	if sealed {
		_, _, err = readIndex(f, size)
	} else {
		_, err = readPackHeader(f)
	}
	if err != nil {
		problems = append(problems, Problem{Where: where, What: err.Error()})
		s.mu.Lock()
		p.suspect = true // what is in memory is right: Collect writes the pack anew
		s.mu.Unlock()
	}
	for _, e := range objects {
		if err := ctx.Err(); err != nil {
			return problems, err
		}
		if found, bad := s.checkObject(f, where, e); bad {
			problems = append(problems, found)
		}
	}
	return problems, nil
}

// stillThere reports whether a pack should be at path.
func (s *Store) stillThere(num uint32, path string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.packs[num] != nil && s.pathLocked(num) == path
}

// checkObject verifies one record. f stays open when the pack is renamed or
// removed, so nothing that happens meanwhile looks like damage.
func (s *Store) checkObject(f *os.File, where string, e packEntry) (Problem, bool) {
	stored, err := readRecord(f, e)
	if err == nil {
		_, err = s.verify(e.id, stored)
	}
	if err == nil {
		return Problem{}, false
	}
	if isDamage(err) {
		num, _, _ := parsePackName(filepath.Base(where))
		_ = s.setAside(e.id, loc{pack: num, offset: e.offset, length: e.length}, stored, err)
	}
	return Problem{where, e.id, err.Error()}, true
}

// checkRest looks at what is not in packs; objects in told were reported.
func (s *Store) checkRest(told map[ID]bool) ([]Problem, error) {
	var problems []Problem
	line, err := os.ReadFile(filepath.Join(s.dir, "store"))
	if err != nil || string(line) != formatLine {
		problems = append(problems, Problem{Where: "store", What: fmt.Sprintf("%q where %q should be", line, formatLine)})
	}
	files, err := os.ReadDir(s.asideDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, f := range files {
		if _, id, ok := parseAside(f.Name()); ok && !told[id] {
			if _, here := s.index.lookup(id); !here {
				problems = append(problems, Problem{filepath.Join("aside", f.Name()), id, "damaged earlier, to be fetched again"})
			}
		}
	}
	return problems, nil
}
