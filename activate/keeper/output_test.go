package keeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

func TestSplitterKeepsEveryByte(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		line := rapid.OneOf(
			rapid.StringMatching(`[a-c]{0,5}`),
			rapid.Custom(func(t *rapid.T) string {
				return strings.Repeat("x", rapid.IntRange(maxLine-2, 3*maxLine).Draw(t, "long"))
			}))
		lines := rapid.SliceOfN(line, 0, 8).Draw(t, "lines")
		in := []byte(strings.Join(lines, "\n"))
		var s splitter
		var got bytes.Buffer
		emit := func(text []byte, cut bool) bool {
			if len(text) > maxLine || bytes.Contains(text, []byte("\n")) {
				t.Fatalf("piece of %d bytes", len(text))
			}
			got.Write(text)
			if !cut {
				got.WriteByte('\n')
			}
			return true
		}
		for rest := in; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
			s.feed(rest[:n], emit)
			rest = rest[n:]
		}
		s.end(emit)
		want := in
		if len(in) > 0 && in[len(in)-1] != '\n' {
			want = append(slices.Clone(in), '\n')
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("got %d bytes, want %d", got.Len(), len(want))
		}
	})
}

func TestSplitterCountsWhatItSkips(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := []byte(rapid.StringMatching(`[a\n]{0,200}`).Draw(t, "in"))
		refuse := rapid.SliceOfN(rapid.Bool(), 500, 500).Draw(t, "refuse")
		var s splitter
		emitted, skipped := 0, 0
		emit := func(text []byte, cut bool) bool {
			emitted++
			return !refuse[emitted]
		}
		for rest := in; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(t, "chunk")
			skipped += s.feed(rest[:n], emit)
			rest = rest[n:]
		}
		s.end(emit)
		want := bytes.Count(in, []byte("\n"))
		if len(in) > 0 && in[len(in)-1] != '\n' {
			want++
		}
		if emitted+skipped != want {
			t.Fatalf("emitted %d, skipped %d, of %d", emitted, skipped, want)
		}
	})
}

func TestBucket(t *testing.T) {
	t.Parallel()
	now := time.Unix(0, 0)
	b := newBucket(10, 20, now)
	take := func() (n int) {
		for b.take(now) {
			n++
		}
		return n
	}
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{0, 20}, {0, 0}, {time.Second, 10}, {50 * time.Millisecond, 0}, {50 * time.Millisecond, 1}, {-time.Hour, 0}, {3 * time.Hour, 20}} {
		now = now.Add(c.after)
		if got := take(); got != c.want {
			t.Fatalf("after %v: %d tokens, want %d", c.after, got, c.want)
		}
	}
}

// smallLog is a log with small files.
func smallLog(t testing.TB, size int64, files int) *logFile {
	l := newLogFile(logPath(t.TempDir(), "a"))
	l.size, l.files = size, files
	t.Cleanup(l.close)
	return l
}

func (l *logFile) read(t testing.TB, opts ReadOptions) []Line {
	t.Helper()
	var lines []Line
	for line, err := range ReadLog(context.Background(), filepath.Dir(l.path), "a", opts) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines
}

func TestRotation(t *testing.T) {
	t.Parallel()
	l := smallLog(t, 1000, 3)
	const n = 200
	for i := range n {
		if !l.append(time.Now(), 'o', false, fmt.Appendf(nil, "line %d", i)) {
			t.Fatal("no room")
		}
		if i%7 == 0 {
			l.sync(time.Minute)
		}
	}
	l.sync(time.Minute)
	names, _ := filepath.Glob(l.path + "*")
	if len(names) != 3 {
		t.Fatalf("files %v", names)
	}
	for _, name := range names {
		if fi, err := os.Stat(name); err != nil || fi.Size() > 1000 || fi.Size() == 0 {
			t.Errorf("%s: %v, %v", name, fi.Size(), err)
		}
	}
	lines := l.read(t, ReadOptions{})
	for i, line := range lines {
		if want := fmt.Sprintf("line %d", n-len(lines)+i); line.Text != want {
			t.Fatalf("record %d is %q, want %q", i, line.Text, want)
		}
	}
	if len(lines) < 55 { // 3 files of 1000 bytes, 34 a record, the newest perhaps nearly empty
		t.Errorf("only %d records left", len(lines))
	}
	for _, tail := range []int{1, 10, 29, 30, 31, 50, len(lines), n} {
		got := l.read(t, ReadOptions{Tail: tail})
		if want := lines[max(0, len(lines)-tail):]; !slices.Equal(got, want) {
			t.Errorf("tail %d: %d records, want %d", tail, len(got), len(want))
		}
	}
}

func TestTailAcrossChunks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		l := smallLog(t, rapid.Int64Range(50, 200_000).Draw(rt, "size"), rapid.IntRange(1, 4).Draw(rt, "files"))
		n := rapid.IntRange(0, 40).Draw(rt, "lines")
		for range n {
			text := strings.Repeat("y", rapid.IntRange(0, maxLine).Draw(rt, "len"))
			for !l.append(time.Now(), 'o', false, []byte(text)) {
				l.sync(time.Minute)
			}
		}
		l.sync(time.Minute)
		all := l.read(t, ReadOptions{})
		tail := rapid.IntRange(1, 50).Draw(rt, "tail")
		if got := l.read(t, ReadOptions{Tail: tail}); !slices.Equal(got, all[max(0, len(all)-tail):]) {
			rt.Fatalf("tail %d of %d: got %d", tail, len(all), len(got))
		}
		l.close()
	})
}

func TestATornRecordIsPassedOver(t *testing.T) {
	t.Parallel()
	l := smallLog(t, 1<<20, 3)
	if err := os.WriteFile(l.path, []byte("2026-01-02T03:04:05.678Z o good\n2026-01-02T03:04:05.678Z o to"), 0o600); err != nil {
		t.Fatal(err)
	}
	l.append(time.Now(), 'o', false, []byte("after"))
	l.sync(time.Minute)
	var got []string
	for _, line := range l.read(t, ReadOptions{}) {
		got = append(got, line.Text)
	}
	if !slices.Equal(got, []string{"good", "to", "after"}) {
		t.Fatalf("got %q", got)
	}
}

func TestSince(t *testing.T) {
	t.Parallel()
	l := smallLog(t, 300, 3)
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i := range 20 {
		l.append(at.Add(time.Duration(i)*time.Second), 'o', false, []byte("x"))
	}
	l.sync(time.Minute)
	if got := l.read(t, ReadOptions{Since: at.Add(15 * time.Second)}); len(got) != 5 || !got[0].Time.Equal(at.Add(15*time.Second)) {
		t.Fatalf("got %v", got)
	}
}

// A follower reads every record once, whatever is rotated under it, as long as it is not slower than the rotation.
func TestFollow(t *testing.T) {
	t.Parallel()
	l := smallLog(t, 2000, 4)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const n = 400
	got := make(chan string, n)
	go func() {
		defer close(got)
		for line, err := range ReadLog(ctx, filepath.Dir(l.path), "a", ReadOptions{Follow: true}) {
			if err != nil {
				got <- err.Error()
				return
			}
			got <- line.Text
		}
	}()
	for i := range n {
		l.append(time.Now(), 'o', false, []byte(strconv.Itoa(i)))
		if i%50 == 49 { // within what the files hold
			l.sync(time.Minute)
			for j := i - 49; j <= i; j++ {
				if text := <-got; text != strconv.Itoa(j) {
					t.Fatalf("got %q, want %d", text, j)
				}
			}
		}
	}
	cancel()
	if text, ok := <-got; ok {
		t.Fatalf("got %q after the end", text)
	}
}

// What a slow disk cannot take is dropped and counted, and memory stays bounded; nobody waits.
func TestSlowDiskDropsAndCounts(t *testing.T) {
	t.Parallel()
	l := smallLog(t, 1<<30, 3)
	hold := make(chan struct{})
	l.write = func(f *os.File, b []byte) (int, error) {
		<-hold
		return f.Write(b)
	}
	o := newOutput(l)
	o.bucket = newBucket(1e9, 1e9, time.Now())
	const n = 20_000
	text := bytes.Repeat([]byte("z"), 100)
	for range n {
		o.line(time.Now(), 'o', false, text)
	}
	if c := cap(l.buf); c > 2*l.room {
		t.Errorf("buffer of %d bytes", c)
	}
	close(hold)
	l.sync(time.Minute)
	o.finish(time.Minute)
	written, noted := counts(t, l)
	if o.lost() == 0 || uint64(written)+o.lost() != n || noted != o.lost() {
		t.Fatalf("written %d, dropped %d, noted %d, of %d", written, o.lost(), noted, n)
	}
}

// counts returns the output records of a log and the sum of what its notes say is missing.
func counts(t testing.TB, l *logFile) (written int, noted uint64) {
	t.Helper()
	for _, line := range l.read(t, ReadOptions{}) {
		var n uint64
		if line.Stream != 'k' {
			written++
		} else if _, err := fmt.Sscanf(line.Text, "dropped %d lines", &n); err == nil {
			noted += n
		} else if _, err := fmt.Sscanf(line.Text, "lost %d lines", &n); err == nil {
			noted += n
		}
	}
	return written, noted
}

func TestFullDiskIsCountedAndRecovered(t *testing.T) {
	t.Parallel()
	l := smallLog(t, 1<<20, 3)
	var full atomic.Bool
	l.write = func(f *os.File, b []byte) (int, error) {
		if full.Load() {
			n, _ := f.Write(b[:len(b)/2])
			return n, unix.ENOSPC
		}
		return f.Write(b)
	}
	for i := range 30 {
		full.Store(i >= 10 && i < 20)
		l.append(time.Now(), 'o', false, []byte(strconv.Itoa(i)))
		l.sync(time.Minute)
	}
	written, noted := counts(t, l)
	if written != 20 || noted != 10 || l.lostLines() != 10 {
		t.Fatalf("written %d, noted %d, lost %d", written, noted, l.lostLines())
	}
}

// The note about dropped lines does not wait for the next line.
func TestDropNoteComesByItself(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		l := newLogFile(logPath(dir, "a"))
		o := newOutput(l)
		for range linesBurst + 5 {
			for !o.log.hasRoom() {
				synctest.Wait()
			}
			o.line(time.Now(), 'o', false, []byte("x"))
		}
		time.Sleep(2 * dropNotes) // virtual
		synctest.Wait()
		written, noted := counts(t, l)
		if written != linesBurst || noted != 5 || o.lost() != 5 {
			t.Errorf("written %d, noted %d, dropped %d", written, noted, o.lost())
		}
		l.close()
	})
}

func (l *logFile) hasRoom() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.buf) < l.room-1000
}

func TestRateLimitCountsExactlyThroughTheKeeper(t *testing.T) {
	inEachMode(t, func(b *bench) {
		const n = 200_000
		b.start(b.sh("a", fmt.Sprintf("exec seq 1 %d", n)))
		st := b.exited("a")
		l := newLogFile(logPath(b.dir, "a"))
		written := len(b.said("a", 'o'))
		var noted uint64
		for _, text := range b.said("a", 'k') {
			var k uint64
			if _, err := fmt.Sscanf(text, "dropped %d lines", &k); err == nil {
				noted += k
			}
		}
		if uint64(written)+st.Dropped != n || noted != st.Dropped || st.Dropped == 0 {
			b.Fatalf("written %d, dropped %d, noted %d, of %d in %s", written, st.Dropped, noted, n, l.path)
		}
	})
}

func TestLongAndOddLinesThroughTheKeeper(t *testing.T) {
	inEachMode(t, func(b *bench) {
		b.start(b.sh("a", `head -c 40000 /dev/zero | tr '\0' x; echo; printf '\r\n\n\377\n'; head -c 20000 /dev/zero | tr '\0' y`))
		b.exited("a")
		x, y := strings.Repeat("x", maxLine), strings.Repeat("y", maxLine)
		want := []string{x, x, x[:40000-2*maxLine], "\r", "", "\xff", y, y[:20000-maxLine]}
		if got := b.said("a", 'o'); !slices.Equal(got, want) {
			b.Errorf("got %d records", len(got))
		}
	})
}

func TestNotifySocket(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	spec := b.sh("a", "")
	spec.Argv = []string{"/proc/self/exe", "notify", b.dir} // what the keeper is, this test's binary
	spec.Notify = b.NotifyPath("a")
	spec.Env = append(spec.Env, "NOTIFY_SOCKET="+spec.Notify)
	b.start(spec)
	err := b.Watch(t.Context(), "a", func(s Status) bool {
		if s.Ready || s.State != Running {
			t.Errorf("too early: %+v", s)
		}
		return s.Text != "warming up"
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The agent that asks is another one than the agent that was there.
	c, err := Connect(t.Context(), b.dir)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = c.Watch(t.Context(), "a", func(s Status) bool { return !(s.Ready && s.Text == "serving") && s.State == Running })
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Stop(t.Context(), "a", 0); err != nil {
		t.Fatal(err)
	}
	b.exited("a")
	if _, err := os.Stat(spec.Notify); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the notify socket is left: %v", err)
	}
}

func TestParseNotify(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]notice{
		"READY=1":                      {ready: true},
		"READY=0":                      {},
		"XREADY=1\n":                   {},
		"STATUS=a=b\nREADY=1\nMAINPID": {ready: true, hasText: true, text: "a=b"},
		"STATUS=\xff":                  {hasText: true, text: "?"},
		"":                             {},
	} {
		if got := parseNotify([]byte(in)); got != want {
			t.Errorf("%q: %+v", in, got)
		}
	}
	long := parseNotify([]byte("STATUS=" + strings.Repeat("é", 1000)))
	if len(long.text) > maxNotifyText || strings.ContainsRune(long.text, '\ufffd') {
		t.Errorf("text of %d bytes", len(long.text))
	}
}
