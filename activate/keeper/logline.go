package keeper

import (
	"bytes"
	"time"
)

// maxLine is how many bytes of text one log record holds; a longer line goes on in further records.
const maxLine = 16 << 10

const logTime = "2006-01-02T15:04:05.000Z"

// Line is one record of a log.
type Line struct {
	Time   time.Time // UTC, milliseconds
	Stream byte      // 'o' stdout, 'e' stderr, 'k' the keeper's own
	Cut    bool      // the line goes on in the next record of this stream
	Text   string
}

// String is the record as it stands in the file, without the newline.
func (l Line) String() string {
	return string(bytes.TrimSuffix(appendRecord(nil, l.Time, l.Stream, l.Cut, l.Text), []byte("\n")))
}

// appendRecord appends one record with its newline. text holds no newline.
func appendRecord[T string | []byte](dst []byte, at time.Time, stream byte, cut bool, text T) []byte {
	dst = at.UTC().AppendFormat(dst, logTime)
	dst = append(dst, ' ', stream)
	if cut {
		dst = append(dst, '+')
	}
	dst = append(dst, ' ')
	dst = append(dst, text...)
	return append(dst, '\n')
}

// ParseLine reads one record without its newline. What is no record (torn by a crash, written by a stranger) is not
// ok. Pure; never looks beyond b.
func ParseLine(b []byte) (l Line, ok bool) {
	const n = len(logTime)
	if len(b) < n+3 || b[n] != ' ' || len(b) > n+4+maxLine {
		return Line{}, false
	}
	at, err := time.Parse(logTime, string(b[:n]))
	if err != nil || at.Format(logTime) != string(b[:n]) { // Parse is generous: a comma, a sign
		return Line{}, false
	}
	l = Line{Time: at, Stream: b[n+1]}
	if l.Stream != 'o' && l.Stream != 'e' && l.Stream != 'k' {
		return Line{}, false
	}
	rest := b[n+2:]
	if rest[0] == '+' {
		l.Cut, rest = true, rest[1:]
	}
	if len(rest) == 0 || rest[0] != ' ' || bytes.IndexByte(rest, '\n') >= 0 {
		return Line{}, false
	}
	l.Text = string(rest[1:])
	return l, true
}
