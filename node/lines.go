package node

import (
	"bytes"
	"encoding/json"
	"log"
	"log/slog"
	"net/http"
	"sync"
)

// lines sends JSON values, one per line, each at once.
type lines struct {
	w   http.ResponseWriter
	rc  *http.ResponseController
	enc *json.Encoder
	mu  sync.Mutex // guards w: builds log from two goroutines
}

func newLines(w http.ResponseWriter) *lines {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &lines{w: w, rc: http.NewResponseController(w), enc: json.NewEncoder(w)}
}

func (l *lines) send(v any) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.enc.Encode(v); err != nil {
		return err
	}
	return l.rc.Flush()
}

// quietLog brings what net/http has to say into our log, at debug level.
func quietLog(l *slog.Logger) *log.Logger { return log.New(debugWriter{l}, "", 0) }

type debugWriter struct{ log *slog.Logger }

func (d debugWriter) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) { // a fault of ours: the request failed, the agent goes on
		d.log.Error(string(bytes.TrimSpace(b)))
		return len(b), nil
	}
	d.log.Debug(string(bytes.TrimSpace(b)))
	return len(b), nil
}
