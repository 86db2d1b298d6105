package mesh

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"
)

// logBridge takes the lines of serf and memberlist ("[WARN] memberlist: ...")
// to slog. Both shout: what they call a warning is a lost datagram. So only
// their errors are more than debug, and of those one a second: a stranger's
// datagrams must not fill the log.
type logBridge struct {
	log  *slog.Logger
	last atomic.Int64 // Unix second of the last error shown
}

func (b *logBridge) Write(line []byte) (int, error) {
	level, text := splitLevel(strings.TrimSpace(string(line)))
	if now := time.Now().Unix(); level > slog.LevelDebug && b.last.Swap(now) == now {
		level = slog.LevelDebug
	}
	b.log.Log(context.Background(), level, text)
	return len(line), nil
}

func splitLevel(line string) (slog.Level, string) {
	head, text, ok := strings.Cut(line, "] ")
	if !ok || !strings.HasPrefix(head, "[") {
		return slog.LevelDebug, line
	}
	if head == "[ERR" || head == "[ERROR" {
		return slog.LevelInfo, text
	}
	return slog.LevelDebug, text
}
