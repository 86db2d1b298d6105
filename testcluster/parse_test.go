//go:build linux

package testcluster

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

func FuzzParseStat(f *testing.F) {
	f.Add("12 (a b) S 3 1 1")
	f.Add("12 (a) ) b) Z 3")
	f.Add(") (")
	f.Fuzz(func(t *testing.T, s string) {
		if p, err := parseStat(s); err == nil && p.State == "" {
			t.Errorf("%q has no state", s)
		}
	})
}

func FuzzParseListeners(f *testing.F) {
	f.Add("  sl\n 0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4242 1\n")
	f.Add(" 0: 00000000000000000000000001000000:0050 0:0 0A 0 0 0 0 0 7")
	f.Add(" 0: 0100:1F90 00000000:0000 0A x x x x x x")
	f.Fuzz(func(t *testing.T, s string) {
		list, err := parseListeners(s)
		for _, l := range list {
			if err == nil && !l.Address.IsValid() {
				t.Errorf("%q gives %v", s, l)
			}
		}
	})
}

func TestParseStat(t *testing.T) {
	p, err := parseStat("12 (a) S (b) Z 3 1 1")
	if err != nil || p.PID != 12 || p.PPID != 3 || !p.zombie() {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestParseListeners(t *testing.T) {
	list, err := parseListeners("  sl local\n" +
		" 0: 0100007F:1F90 00000000:0000 0A 0:0 0:0 0 0 0 4242 1\n" +
		" 1: 0100007F:1F91 0100007F:0050 01 0:0 0:0 0 0 0 4243 1\n" +
		" 2: 00000000000000000000000001000000:0050 0:0 0A 0:0 0:0 0 0 0 7 1\n" +
		" 3: 0000000000000000FFFF00000100140A:0050 0:0 0A 0:0 0:0 0 0 0 8 1\n")
	var got []string
	for _, l := range list {
		got = append(got, l.Address.String())
	}
	if err != nil || !slices.Equal(got, []string{"127.0.0.1:8080", "[::1]:80", "10.20.0.1:80"}) || list[0].Inode != 4242 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestParseHierarchies(t *testing.T) {
	const membership = "4:memory:/outer/x\n3:cpu,cpuacct:/\n2:devices:/\n1:name=systemd:/\n0::/user\n"
	const mounts = `30 20 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 /outer /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices
`
	var got []string
	for _, h := range parseHierarchies(membership, mounts) {
		got = append(got, h.Type+" "+h.Options+" "+h.own)
	}
	want := []string{"cgroup2  /sys/fs/cgroup/unified/user", "cgroup memory /sys/fs/cgroup/memory/x", "cgroup cpu,cpuacct /sys/fs/cgroup/cpu,cpuacct"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestFaultRules(t *testing.T) {
	rules := faults{cut: between([][]int{{1, 2}, {3}}), lost: 30}.rules()
	for _, want := range []string{"{ p1 . p3 }", "{ p3 . p1 }", "{ p2 . p3 }", "mod 100 < 30 drop"} {
		if !strings.Contains(rules, want) {
			t.Errorf("no %q in\n%s", want, rules)
		}
	}
	if strings.Contains(rules, "p1 . p2") || strings.Contains(faults{}.rules(), "chain") {
		t.Error("too many rules")
	}
}

func TestPollSaysTheLastReason(t *testing.T) {
	n := 0
	err := Poll(100*time.Millisecond, func() error { n++; return errors.New(strings.Repeat("x", n)) })
	if err == nil || err.Error() != strings.Repeat("x", n) || n < 2 {
		t.Errorf("%v after %d", err, n)
	}
	n = 0
	if err := Poll(time.Hour, func() error { n++; return giveUp{errors.New("never")} }); err == nil || n != 1 {
		t.Errorf("%v after %d", err, n)
	}
	if err := Poll(-1, func() error { return nil }); err != nil {
		t.Error(err)
	}
}
