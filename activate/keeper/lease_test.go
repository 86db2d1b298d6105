package keeper

import (
	"errors"
	"testing"
	"time"
)

// short is a lease of so long from now.
func short(d time.Duration) Lease {
	return Lease{Until: Boottime() + d, Term: 400 * time.Millisecond, Kill: 200 * time.Millisecond}
}

func (b *bench) renew(l Lease) {
	b.Helper()
	if err := b.Renew(b.Context(), l); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) leased(id, script string) Spec {
	s := b.sh(id, script)
	s.Leased = true
	return s
}

func TestLeasedEndsWithTheLease(t *testing.T) {
	inEachMode(t, func(b *bench) {
		if _, err := b.Start(b.Context(), b.leased("early", "true")); !errors.Is(err, ErrNoLease) {
			b.Fatalf("started without a lease: %v", err)
		}
		l := short(2 * time.Second)
		b.renew(l)
		b.start(b.leased("stubborn", `trap 'echo told' TERM; setsid sh -c 'trap "" TERM; while :; do sleep 0.1; done' & echo up; while :; do sleep 0.1; done`))
		b.start(b.leased("polite", `trap 'exit 7' TERM; while :; do sleep 0.1; done`))
		b.start(b.sh("free", "exec sleep 1000"))
		for _, id := range []string{"stubborn", "polite"} {
			st := b.exited(id)
			if now := Boottime(); now > l.Until+time.Second { // the machine is shared: what is asserted is that nobody else ended it
				b.Logf("%s was seen to be gone %v after the end of the lease", id, now-l.Until)
			}
			if st.Exit == nil || !st.Exit.Unleased {
				b.Errorf("%s: %+v", id, st.Exit)
			}
		}
		if st := b.exited("polite"); st.Exit.Code != 7 {
			b.Errorf("what heeds TERM was killed: %+v", st.Exit)
		}
		if list, err := b.List(b.Context()); err != nil || len(list) != 3 || list[0].ID != "free" || list[0].State != Running {
			b.Errorf("what needs no lease: %+v, %v", list, err)
		}
		if _, err := b.Start(b.Context(), b.leased("late", "true")); !errors.Is(err, ErrNoLease) {
			b.Errorf("started after the lease: %v", err)
		}
	})
}

func TestRenewedLeaseKeepsRunning(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	first := short(1500 * time.Millisecond)
	b.renew(first)
	st := b.start(b.leased("a", "exec sleep 1000"))
	b.renew(short(time.Minute))
	b.renew(short(time.Second)) // an older answer that was late
	b.start(b.leased("clock", "sleep 2"))
	b.exited("clock") // longer than the first lease
	list, err := b.List(t.Context())
	if err != nil || len(list) != 2 || list[0].State != Running || list[0].PID != st.PID {
		t.Errorf("%+v, %v", list, err)
	}
	if b.exited("clock").Exit.Unleased {
		t.Error("an end of its own was put down to the lease")
	}
}

func TestBadLeases(t *testing.T) {
	t.Parallel()
	b := newBench(t, "keeper")
	for _, l := range []Lease{{}, {Until: -1}, {Until: time.Second, Term: 1, Kill: 2}, {Until: time.Second, Kill: -1}, {Until: Boottime() + 2*maxLease}} {
		if err := b.Renew(t.Context(), l); !errors.Is(err, ErrBadRequest) {
			t.Errorf("%+v: %v", l, err)
		}
	}
}
