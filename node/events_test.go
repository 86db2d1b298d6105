package node

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func openRing(t *testing.T, path string) *eventRing {
	t.Helper()
	r, err := openEvents(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func event(i int) api.Event {
	return api.Event{At: epoch.Add(time.Duration(i) * time.Second), Node: "n1", Kind: "test", Message: fmt.Sprint(i)}
}

// messages joins what a ring's tail says.
func messages(r *eventRing, n int) string {
	events, _ := r.tail(n)
	var out []string
	for _, e := range events {
		out = append(out, e.Message)
	}
	return strings.Join(out, " ")
}

func TestEventsSurviveARestart(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	r := openRing(t, path)
	if _, newest := r.tail(5); !newest.IsZero() {
		t.Error("an empty ring has a newest event")
	}
	for i := range 5 {
		r.add(event(i))
	}
	r.close()
	r.add(event(99)) // late: kept in memory only
	r = openRing(t, path)
	r.add(event(5))
	if got := messages(r, 3); got != "3 4 5" {
		t.Errorf("got %q", got)
	}
	if got := messages(r, 100); got != "0 1 2 3 4 5" {
		t.Errorf("got %q", got)
	}
	if got := r.after(epoch.Add(3 * time.Second)); len(got) != 2 || got[0].Message != "4" {
		t.Errorf("got %v", got)
	}
	if _, newest := r.tail(0); !newest.Equal(event(5).At) {
		t.Errorf("the newest is of %v", newest)
	}
}

func TestTornLineOfEvents(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	r := openRing(t, path)
	r.add(event(1))
	r.add(event(2))
	r.close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, string(b[:len(b)-20]))
	r = openRing(t, path)
	r.add(event(3)) // not lost to the line that was cut
	r.close()
	if got := messages(openRing(t, path), 10); got != "1 3" {
		t.Errorf("got %q", got)
	}
}

func TestGarbageAmongEvents(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	r := openRing(t, path)
	r.add(event(1))
	r.close()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path, "\x00\x00\n[]\n"+strings.Repeat("x", 200_000)+"\n"+string(b))
	if got := messages(openRing(t, path), 10); !strings.HasSuffix(got, "1") {
		t.Errorf("got %q", got)
	}
	if _, err := openEvents(filepath.Join(path, "x")); err == nil {
		t.Error("opened below a file")
	}
}

func TestEventsRotate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "events")
	r := openRing(t, path)
	long := strings.Repeat("m", 4000)
	const n = 3 * eventFile / 4000
	for i := range n {
		e := event(i)
		e.Message = fmt.Sprint(i, " ", long)
		r.add(e)
	}
	var sum int64
	for _, p := range []string{path, path + ".1"} {
		st, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if sum += st.Size(); st.Size() > eventFile+8000 {
			t.Errorf("%s has %d bytes", p, st.Size())
		}
	}
	if sum < eventFile {
		t.Errorf("only %d bytes are kept", sum)
	}
	r.close()
	events, _ := openRing(t, path).tail(1 << 20)
	for i, e := range events {
		if want := fmt.Sprint(n-len(events)+i, " "); !strings.HasPrefix(e.Message, want) {
			t.Fatalf("event %d begins with %.10q, not %q", i, e.Message, want)
		}
	}
	if len(events) < eventFile/5000 {
		t.Errorf("%d events were read", len(events))
	}
}

func TestEventsInMemoryAreBounded(t *testing.T) {
	t.Parallel()
	r := openRing(t, filepath.Join(t.TempDir(), "events"))
	for i := range 3*eventsHeld + 7 {
		r.add(event(i))
	}
	events, _ := r.tail(1 << 20)
	if k := len(events); k < eventsHeld || k > 2*eventsHeld || events[k-1].Message != fmt.Sprint(3*eventsHeld+6) {
		t.Errorf("%d events, the last is %s", k, events[k-1].Message)
	}
}

func TestEventsWakeWhoFollows(t *testing.T) {
	t.Parallel()
	n := &Node{cfg: Config{Name: "n1"}, events: openRing(t, filepath.Join(t.TempDir(), "events"))}
	n.note(Noted{Kind: "test", Message: "old"})
	_, newest := n.events.tail(0)
	var mu sync.Mutex
	var got []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		n.followEvents(t.Context(), true, newest, func(e api.Event) error {
			mu.Lock()
			defer mu.Unlock()
			if got = append(got, e.Message); e.Message == "9" {
				return os.ErrClosed
			}
			return nil
		})
	}()
	for i := range 10 {
		n.note(Noted{Kind: "test", Message: fmt.Sprint(i)})
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatal("not all came")
	}
	if s := strings.Join(got, " "); s != "0 1 2 3 4 5 6 7 8 9" {
		t.Errorf("got %q", s)
	}
	if len(n.events.wakes) > 0 {
		t.Error("it is still waited for")
	}
}
