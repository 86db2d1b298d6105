package process

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

const (
	outputLines  = 20               // of last output in an error
	startTimeout = 15 * time.Second // for the keeper to fork
)

// Start starts the instance, unless this attempt of it is known already, and waits until it is ready. What an earlier
// attempt left running is stopped first. The time it has counts from its own start, whoever waited for it before; an
// attempt that is older than that is probed once more.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	spec, err := m.spec(in)
	if err != nil {
		return err
	}
	ready, err := newReadiness(in)
	if err != nil {
		return err
	}
	if err := m.end(ctx, in, func(attempt int) bool { return attempt != in.Attempt }); err != nil {
		return err
	}
	st, err := m.launch(ctx, in, spec)
	if err != nil {
		return err
	}
	return m.await(ctx, in, ready, st)
}

// launch has the keeper start spec. Directories are made only for what is not there yet: making them empties TMPDIR.
func (m *Module) launch(ctx context.Context, in activate.Instance, spec keeper.Spec) (keeper.Status, error) {
	list, err := m.keeper.List(ctx)
	if err != nil {
		return keeper.Status{}, err
	}
	for _, s := range list {
		if s.ID == spec.ID {
			return s, nil
		}
	}
	if err := m.markStarted(in); err != nil {
		return keeper.Status{}, err
	}
	if err := makeDirs(in, spec.User); err != nil {
		return keeper.Status{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	st, err := m.keeper.Start(ctx, spec)
	if err != nil {
		return st, explain(err)
	}
	m.log.Info("started", "service", in.Service, "row", in.ID, "attempt", in.Attempt, "pid", st.PID)
	return st, nil
}

// explain adds to an error of exec what it usually means: the program itself was seen to be there.
func explain(err error) error {
	var ee *keeper.ExecError
	if !errors.As(err, &ee) {
		return err
	}
	switch ee.Errno {
	case syscall.ENOENT:
		return fmt.Errorf("%w: the interpreter of its first line, or its loader, is not there", err)
	case syscall.EACCES:
		return fmt.Errorf("%w: its user may not run it, or not pass one of the directories above it or above the working directory", err)
	case syscall.ENOEXEC:
		return fmt.Errorf("%w: it is no program for this machine, and its first line names no interpreter", err)
	}
	return err
}

// await returns nil when the start is ready. If it ends, or is not ready in time, what is left of it is stopped.
func (m *Module) await(ctx context.Context, in activate.Instance, ready *readiness, st keeper.Status) error {
	began := time.Now().Add(-st.Age)
	waiting, cancel := context.WithTimeout(ctx, max(in.Spec.ReadyWithin()-st.Age, ready.timeout))
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	news, watched := make(chan keeper.Status), make(chan error, 1)
	helpers.Go(func() { watched <- m.follow(waiting, st.ID, news) })
	probed := make(chan error)
	helpers.Go(func() { ready.probeUntilWell(waiting, probed) })
	alive := time.NewTimer(aliveFor - st.Age)
	defer alive.Stop()
	for {
		if st.State != keeper.Running {
			return m.ended(ctx, st.ID)
		}
		if ready.is(st, time.Since(began)) {
			return nil
		}
		select {
		case st = <-news:
		case ready.last = <-probed:
			ready.well = ready.last == nil
		case <-alive.C:
		case err := <-watched:
			if waiting.Err() == nil {
				return fmt.Errorf("watch pid %d: %w", st.PID, err)
			}
		case <-waiting.Done():
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return m.late(ctx, in, ready, st)
		}
	}
}

// follow hands over every change of one start, until ctx ends.
func (m *Module) follow(ctx context.Context, id string, news chan<- keeper.Status) error {
	return m.keeper.Watch(ctx, id, func(s keeper.Status) bool {
		select {
		case news <- s:
			return true
		case <-ctx.Done():
			return false
		}
	})
}

// ended says how a start ended that should be running. Its exit status stays with the keeper until the next start or
// stop, so that asking again gets the same answer.
func (m *Module) ended(ctx context.Context, id string) error {
	st, err := m.keeper.Await(ctx, id)
	if err != nil {
		return fmt.Errorf("wait for the end of pid %d: %w", st.PID, err)
	}
	if st.Exit == nil {
		return errors.New("stopped while it was starting")
	}
	output, err := m.keeper.Tail(ctx, id, outputLines)
	if err != nil && !errors.Is(err, keeper.ErrUnknownID) {
		return fmt.Errorf("%v; read last output: %w", exit(*st.Exit), err)
	}
	return &activate.ExitedError{Exit: exit(*st.Exit), Output: output}
}

// late stops what was not ready in time. The output is read first: what it says when it is told to stop is beside the
// point.
func (m *Module) late(ctx context.Context, in activate.Instance, ready *readiness, st keeper.Status) error {
	output, tailErr := m.keeper.Tail(ctx, st.ID, outputLines)
	if _, err := m.kill(ctx, st.ID, in.Spec); err != nil {
		return err
	}
	if tailErr != nil {
		m.log.Warn("read last output", "service", in.Service, "error", tailErr)
	}
	return &activate.NotReadyError{Within: in.Spec.ReadyWithin(), Last: ready.why(st), Output: output}
}
