package process

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

const (
	aliveFor   = time.Second           // what must be enough of a program without ports, health check or notice
	firstProbe = 10 * time.Millisecond // while starting, probes come more often at first
)

// readiness decides when a start is ready, as the package comment says. It belongs to one await.
type readiness struct {
	probe    probe // nil: none
	interval time.Duration
	timeout  time.Duration // of one probe
	health   bool          // the probe decides alone
	notify   bool          // READY=1 decides alone

	well bool  // the probe has succeeded
	last error // what it said last
}

func newReadiness(in activate.Instance) (*readiness, error) {
	r := &readiness{interval: activate.DefaultInterval, timeout: activate.DefaultTimeout}
	h := in.Spec.Health
	switch {
	case h == nil && len(in.Spec.Ports) > 0:
		r.probe = probeAllPorts(in)
	case h == nil:
	default:
		r.interval, r.timeout = cmp.Or(h.Interval, r.interval), cmp.Or(h.Timeout, r.timeout)
		if r.notify = h.Notify; r.notify {
			return r, nil
		}
		var err error
		r.health = true
		r.probe, err = newProbe(in)
		return r, err
	}
	return r, nil
}

// is decides from what is known. Pure.
func (r *readiness) is(st keeper.Status, age time.Duration) bool {
	switch {
	case r.health:
		return r.well
	case st.Ready:
		return true
	case r.notify || st.Notified: // it will say so
		return false
	case r.probe != nil:
		return r.well
	default:
		return age >= aliveFor
	}
}

// why says what is missing.
func (r *readiness) why(st keeper.Status) string {
	switch {
	case !r.health && (r.notify || st.Notified):
		if st.Text != "" {
			return fmt.Sprintf("it has not sent READY=1, its status is %q", st.Text)
		}
		return "it has not sent READY=1"
	case r.last != nil:
		return r.last.Error()
	default:
		return "no probe came to an end"
	}
}

// probeUntilWell probes, quickly at first and then in the interval, until a probe succeeds or ctx ends.
func (r *readiness) probeUntilWell(ctx context.Context, results chan<- error) {
	if r.probe == nil {
		return
	}
	for wait := firstProbe; ; wait = min(2*wait, r.interval) {
		err := r.probeOnce(ctx)
		if ctx.Err() != nil { // cut short: it says nothing about the instance
			return
		}
		select {
		case results <- err:
		case <-ctx.Done():
			return
		}
		if err == nil {
			return
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

func (r *readiness) probeOnce(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	return r.probe(ctx)
}

// Check probes the health of a running instance once; nil also if it has no health check that can be asked.
func (m *Module) Check(ctx context.Context, in activate.Instance) error {
	if h := in.Spec.Health; h == nil || h.Notify {
		return nil
	}
	r, err := newReadiness(in)
	if err != nil {
		return err
	}
	return r.probeOnce(ctx)
}
