package snapshotstore

// Stats counts what a store holds.
type Stats struct {
	Objects int   // that can be had
	Stored  int64 // bytes of them, compressed
	Packs   int
	Disk    int64 // bytes of all packs
	Damaged int   // objects moved aside and not put again since
}

// Stats looks at memory only.
func (s *Store) Stats() Stats {
	s.mu.RLock()
	defer s.mu.RUnlock()
	st := Stats{Objects: len(s.index.at), Packs: len(s.packs)}
	for _, l := range s.index.each {
		st.Stored += int64(l.length)
	}
	for _, p := range s.packs {
		st.Disk += p.size
	}
	for id := range s.aside {
		if _, ok := s.index.lookup(id); !ok {
			st.Damaged++
		}
	}
	return st
}
