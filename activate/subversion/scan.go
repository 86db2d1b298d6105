package subversion

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	maxHeader  = 64 << 10 // bytes of one line of a header: a path is in it
	maxHeaders = 100      // lines of a record
)

// scan reads a dump to its end and returns the last revision and the uuid that it names.
//
// A dump is records: lines `Name: value` up to an empty one, then as many bytes as Content-length says, then empty
// lines. Revisions come one after the other.
func scan(r io.Reader) (map[string]string, error) {
	in := bufio.NewReaderSize(r, maxHeader)
	facts := map[string]string{}
	next := int64(0)
	for {
		record, err := header(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if v := record["SVN-fs-dump-format-version"]; v != "" {
			facts["version"] = v
		}
		if v := record["UUID"]; v != "" {
			facts["uuid"] = v
		}
		if v := record["Revision-number"]; v != "" {
			if v != strconv.FormatInt(next, 10) {
				return nil, fmt.Errorf("the dump has revision %.20q where %d should be", v, next)
			}
			facts["youngest"] = v
			next++
		}
		if err := skip(in, record["Content-length"]); err != nil {
			return nil, err
		}
	}
	if facts["version"] == "" || facts["youngest"] == "" {
		return nil, errors.New("the dump has no revision")
	}
	delete(facts, "version")
	return facts, nil
}

// header reads the lines of a record's beginning.
func header(in *bufio.Reader) (map[string]string, error) {
	record := map[string]string{}
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 && len(record) == 0 {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("the dump ends in the middle of a record, or has a line of more than %d bytes: %w", maxHeader, noEOF(err))
		}
		text := strings.TrimSuffix(string(line), "\n")
		if text == "" {
			if len(record) == 0 {
				n = -1
				continue // between two records
			}
			return record, nil
		}
		name, value, ok := strings.Cut(text, ": ")
		if !ok || n == maxHeaders {
			return nil, fmt.Errorf("the dump has %.100q where a header should be", text)
		}
		record[name] = value
	}
}

func skip(in *bufio.Reader, length string) error {
	if length == "" {
		return nil
	}
	n, err := strconv.ParseInt(length, 10, 64)
	if err != nil || n < 0 {
		return fmt.Errorf("the dump has a record of %.20q bytes", length)
	}
	if _, err := io.CopyN(io.Discard, in, n); err != nil {
		return fmt.Errorf("the dump ends in the middle of a record: %w", noEOF(err))
	}
	return nil
}

// noEOF makes an end that comes too soon one that is not taken for the right one.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// lastLine keeps the last line that was written, cut after a kilobyte.
type lastLine struct {
	buf  []byte
	over bool // the line in buf has ended
}

func (l *lastLine) Write(b []byte) (int, error) {
	for _, c := range b {
		if l.over {
			l.buf, l.over = l.buf[:0], false
		}
		if c == '\n' {
			l.over = true
		} else if len(l.buf) < 1<<10 {
			l.buf = append(l.buf, c)
		}
	}
	return len(b), nil
}

func (l *lastLine) line() string { return string(l.buf) }
