package keeper

import "bytes"

// splitter cuts a stream of bytes into lines. It keeps at most one unfinished line of maxLine bytes.
type splitter struct {
	partial []byte
}

// feed hands out every line that is complete after b, and every full piece of an overlong one (cut). The slice given
// to emit is valid only during the call. Once emit returns false it is not called for further lines of b: feed only
// counts those, and returns how many they were. A service that floods its log costs little more than reading it.
func (s *splitter) feed(b []byte, emit func(text []byte, cut bool) bool) (skipped int) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			s.piece(b, false, emit)
			return 0
		}
		more := s.piece(b[:i], true, emit)
		b = b[i+1:]
		if end := bytes.LastIndexByte(b, '\n') + 1; !more && end > 0 {
			s.piece(b[end:], false, emit)
			return bytes.Count(b[:end], []byte{'\n'})
		}
	}
	return 0
}

// piece adds to the unfinished line; done ends it. It returns what emit said last.
func (s *splitter) piece(line []byte, done bool, emit func([]byte, bool) bool) (more bool) {
	more = true
	for len(s.partial)+len(line) > maxLine {
		n := maxLine - len(s.partial)
		more = emit(append(s.partial, line[:n]...), true)
		s.partial, line = nil, line[n:]
	}
	switch {
	case !done:
		s.partial = append(s.partial, line...)
	case len(s.partial) == 0:
		more = emit(line, false)
	default:
		more = emit(append(s.partial, line...), false)
		s.partial = nil // not [:0]: an idle service keeps no buffer
	}
	return more
}

// end hands out what the stream ended with, if it did not end with a newline.
func (s *splitter) end(emit func([]byte, bool) bool) {
	if len(s.partial) > 0 {
		emit(s.partial, false)
		s.partial = nil
	}
}
