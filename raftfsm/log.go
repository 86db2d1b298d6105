package raftfsm

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// bridge is an hclog.Logger over slog. raft tells at Info what only its developers want to know, and at Error what is
// an everyday matter in a cluster where machines come and go; levels are lowered accordingly.
type bridge struct {
	log  *slog.Logger
	name string
	args []any
}

func newBridge(l *slog.Logger) hclog.Logger {
	return &bridge{log: l.With("component", "raft"), name: "raft"}
}

// told are the messages that keep raft's level, less one step for Error: they happen once per event.
var told = []string{
	"entering leader state",
	"entering follower state",
	"heartbeat timeout reached",
	"failed to contact quorum",
	"new leader elected",
	"failed to commit logs",
	"failed to append to logs",
	"failed to restore snapshot",
	"failed to take snapshot",
	"failed to install snapshot",
	"clearing log suffix",
	"removed ourself",
}

// everyday are errors that repeat for as long as a server is away.
var everyday = []string{
	"failed to heartbeat",
	"failed to appendEntries",
	"failed to make requestVote",
	"failed to decode incoming command",
	"failed to flush response",
	"failed to get log",
	"failed to send snapshot",
	"failed to accept connection",
	"failed to get previous log",
}

func levelOf(l hclog.Level, msg string) slog.Level {
	switch {
	case l <= hclog.Debug || hasPrefix(everyday, msg):
		return slog.LevelDebug
	case l == hclog.Error:
		return slog.LevelWarn
	case hasPrefix(told, msg):
		return slog.LevelInfo
	}
	return slog.LevelDebug
}

func hasPrefix(list []string, msg string) bool {
	for _, p := range list {
		if strings.HasPrefix(msg, p) {
			return true
		}
	}
	return false
}

// Log writes one line.
func (b *bridge) Log(l hclog.Level, msg string, args ...any) {
	level := levelOf(l, msg)
	if !b.log.Enabled(context.Background(), level) {
		return
	}
	out := make([]any, len(args))
	for i, a := range args {
		out[i] = plain(a)
	}
	b.log.Log(context.Background(), level, msg, out...)
}

// plain makes text of what slog would print as an empty object.
func plain(a any) any {
	switch a := a.(type) {
	case hclog.Format:
		if len(a) > 0 {
			return fmt.Sprintf(fmt.Sprint(a[0]), a[1:]...)
		}
	case error:
		return a.Error()
	case fmt.Stringer:
		return a.String()
	}
	return a
}

// Trace, Debug, Info, Warn and Error write one line at their level.
func (b *bridge) Trace(msg string, args ...any) { b.Log(hclog.Trace, msg, args...) }
func (b *bridge) Debug(msg string, args ...any) { b.Log(hclog.Debug, msg, args...) }
func (b *bridge) Info(msg string, args ...any)  { b.Log(hclog.Info, msg, args...) }
func (b *bridge) Warn(msg string, args ...any)  { b.Log(hclog.Warn, msg, args...) }
func (b *bridge) Error(msg string, args ...any) { b.Log(hclog.Error, msg, args...) }

func (b *bridge) enabled(l slog.Level) bool { return b.log.Enabled(context.Background(), l) }

// IsTrace to IsError say what may be written; raft asks before it builds costly arguments.
func (b *bridge) IsTrace() bool { return false }
func (b *bridge) IsDebug() bool { return b.enabled(slog.LevelDebug) }
func (b *bridge) IsInfo() bool  { return b.enabled(slog.LevelInfo) }
func (b *bridge) IsWarn() bool  { return b.enabled(slog.LevelInfo) }
func (b *bridge) IsError() bool { return b.enabled(slog.LevelWarn) }

// With, Name, Named and ResetNamed make loggers that say more of where they are.
func (b *bridge) With(args ...any) hclog.Logger {
	return &bridge{b.log.With(args...), b.name, append(append([]any{}, b.args...), args...)}
}
func (b *bridge) ImpliedArgs() []any { return b.args }
func (b *bridge) Name() string       { return b.name }
func (b *bridge) Named(name string) hclog.Logger {
	return &bridge{b.log.With("part", name), b.name + "." + name, b.args}
}
func (b *bridge) ResetNamed(name string) hclog.Logger { return &bridge{b.log, name, b.args} }

// SetLevel does nothing: slog's handler decides.
func (b *bridge) SetLevel(hclog.Level) {}

// GetLevel gives the lowest level that is written.
func (b *bridge) GetLevel() hclog.Level {
	switch {
	case b.IsDebug():
		return hclog.Debug
	case b.IsInfo():
		return hclog.Info
	}
	return hclog.Error
}

// StandardLogger and StandardWriter are not used by raft.
func (b *bridge) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return log.New(b.StandardWriter(nil), "", 0)
}
func (b *bridge) StandardWriter(*hclog.StandardLoggerOptions) io.Writer { return lines{b} }

type lines struct{ b *bridge }

func (w lines) Write(p []byte) (int, error) {
	w.b.Debug(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
