package keeper

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"
	"time"
	"unicode/utf8"
)

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.678Z o text"))
	f.Add([]byte("2026-01-02T03:04:05.678Z e+ "))
	f.Add([]byte("2026-01-02T03:04:05.678Z k dropped 3 lines"))
	f.Add([]byte("9999-99-99T99:99:99.999Z o"))
	f.Add([]byte("torn"))
	f.Add([]byte("0000-01-01T00:00:00,000Z k "))
	f.Add([]byte("0000-01-01T00:00:00.+00Z k "))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, ok := ParseLine(b)
		if !ok {
			return
		}
		if got := l.String(); got != string(b) {
			t.Fatalf("%q was read as %q", b, got)
		}
	})
}

func FuzzRecordRoundTrip(f *testing.F) {
	f.Add(int64(0), "text", true)
	f.Add(int64(1800000000123), "\x00\xff +", false)
	f.Fuzz(func(t *testing.T, ms int64, text string, cut bool) {
		at := time.UnixMilli(ms).UTC()
		if y := at.Year(); y < 0 || y > 9999 || len(text) > maxLine || bytes.IndexByte([]byte(text), '\n') >= 0 {
			return
		}
		want := Line{Time: at, Stream: 'e', Cut: cut, Text: text}
		got, ok := ParseLine([]byte(want.String()))
		if !ok || !got.Time.Equal(want.Time) || got.Text != text || got.Cut != cut || got.Stream != 'e' {
			t.Fatalf("%+v was read as %+v, %v", want, got, ok)
		}
	})
}

func FuzzProtocol(f *testing.F) {
	frame := func(v any) []byte {
		var b bytes.Buffer
		if err := writeFrame(&b, v); err != nil {
			f.Fatal(err)
		}
		return b.Bytes()
	}
	f.Add(frame(request{Op: opHello, Min: 1, Max: 1}))
	f.Add(frame(request{Op: opStop, ID: "a", Grace: time.Second}))
	f.Add(frame(request{Op: opStart, Spec: &Spec{ID: "a", Argv: []string{"/bin/true"}, Env: []string{"A=1"}, Dir: "/", LogDir: "/l", LogName: "a"}}))
	f.Add(frame(request{Op: opLease, Lease: &Lease{Until: 5, Term: 2, Kill: 1}}))
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{0, 0, 0, 9, '{'})
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readFrame(bytes.NewReader(b))
		if err != nil {
			return
		}
		if n := int(binary.BigEndian.Uint32(b)); n != len(body) || n > maxFrame {
			t.Fatalf("frame of %d bytes, body of %d", n, len(body))
		}
		req, err := parseRequest(body)
		if err != nil {
			if !errors.Is(err, ErrBadRequest) && !errors.Is(err, ErrUnknownOp) {
				t.Fatalf("untyped error %v", err)
			}
			return
		}
		again, err := json.Marshal(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseRequest(again); err != nil {
			t.Fatalf("accepted %q, but not %q: %v", body, again, err)
		}
	})
}

func FuzzParseNotify(f *testing.F) {
	f.Add([]byte("STATUS=x\nREADY=1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := parseNotify(b); len(n.text) > maxNotifyText || !utf8.ValidString(n.text) || n.text != "" && !n.hasText {
			t.Fatalf("%+v", n)
		}
	})
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (a b) c) S 1 12 12 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 99"))
	f.Add([]byte("(("))
	f.Fuzz(func(t *testing.T, b []byte) { parseStat(b) })
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	p, ok := parseStat([]byte("12 (evil) Z 1 (x) R 7 8 9 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 777 99"))
	if !ok || p != (proc{pid: 12, parent: 7, session: 9, began: "777"}) {
		t.Fatalf("%+v, %v", p, ok)
	}
}

func TestCgroupDir(t *testing.T) {
	t.Parallel()
	const mounts = "30 23 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n" +
		"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
	const inner = "41 31 0:38 /docker/x /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ mounts, own, want string }{
		{mounts, "4:memory:/a\n0::/\n", "/sys/fs/cgroup/unified"},
		{mounts, "0::/system.slice/isonomia.service\n", "/sys/fs/cgroup/unified/system.slice/isonomia.service"},
		{mounts, "4:memory:/a\n", ""},
		{"", "0::/\n", ""},
		{inner, "0::/docker/x/y\n", "/sys/fs/cgroup/y"},
		{inner, "0::/elsewhere\n", ""},
		{mounts, "0::/../..\n", ""},
	} {
		if got := cgroupDir(c.mounts, c.own); got != c.want {
			t.Errorf("%q: %q, want %q", c.own, got, c.want)
		}
	}
}

func TestErrorCodesRoundTrip(t *testing.T) {
	t.Parallel()
	for code, s := range sentinels {
		w := toWire(s)
		if w.Code != code || !errors.Is(fromWire(w), s) {
			t.Errorf("%s: %+v", code, w)
		}
	}
}
