package process

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
)

// Type is the module's name in models.
const Type = "process"

// Module runs programs under a keeper. What runs is what the keeper says; of managed states there are marks.
type Module struct {
	keeper *keeper.Client
	log    *slog.Logger
	prefix string         // of the keeper's ids that are this module's: process:ROW#ATTEMPT
	marks  *ledger.Ledger // nil: the states are another module's
}

var _ activate.Module = (*Module)(nil)

// New makes the module. What it remembers is in dir. k serves for its whole life, also when the keeper behind it is
// started anew.
func New(dir string, k *keeper.Client, log *slog.Logger) *Module {
	m := NewFor(Type, k, log)
	m.marks = ledger.Open(dir)
	return m
}

// NewFor makes the part of another module that runs programs: what it starts is seen by it alone.
func NewFor(module string, k *keeper.Client, log *slog.Logger) *Module {
	return &Module{keeper: k, log: log, prefix: module + ":"}
}

func (m *Module) keeperID(row string, attempt int) string {
	return m.prefix + row + "#" + strconv.Itoa(attempt)
}

// parseID is the reverse of keeperID; what is not this module's is not ok.
func (m *Module) parseID(id string) (row string, attempt int, ok bool) {
	rest, ok := strings.CutPrefix(id, m.prefix)
	i := strings.LastIndexByte(rest, '#')
	if !ok || i < 0 {
		return "", 0, false
	}
	attempt, err := strconv.Atoi(rest[i+1:])
	return rest[:i], attempt, err == nil
}

// Prepare checks the spec, the command, the user and the ports. What holds a port may be a row that this one
// replaces, or an earlier attempt of it.
func (m *Module) Prepare(ctx context.Context, in activate.Instance) error {
	if _, err := m.spec(in); err != nil {
		return err
	}
	if h := in.Spec.Health; h != nil {
		if _, err := newProbe(in); err != nil {
			return err
		}
	}
	rows := append(slices.Clone(in.Replaces), in.ID)
	mine := func(pid int) bool {
		if pid == 0 {
			return false
		}
		id, err := m.keeper.Owner(ctx, pid)
		row, _, ok := m.parseID(id)
		return err == nil && ok && slices.Contains(rows, row)
	}
	for _, name := range sortedPorts(in.Spec) {
		if err := activate.CheckPort(ctx, name, in.Spec.Host, in.Spec.Ports[name], mine); err != nil {
			return err
		}
	}
	return nil
}

func sortedPorts(s activate.Spec) []string {
	names := make([]string, 0, len(s.Ports))
	for name := range s.Ports {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int {
		return cmp.Or(s.Ports[a]-s.Ports[b], strings.Compare(a, b))
	})
	return names
}

// spec is what the keeper is to start.
func (m *Module) spec(in activate.Instance) (keeper.Spec, error) {
	id, err := identify(in)
	if err != nil {
		return keeper.Spec{}, err
	}
	start := m.keeperID(in.ID, in.Attempt)
	notify := m.keeper.NotifyPath(start)
	env, err := environ(in, id, notify)
	if err != nil {
		return keeper.Spec{}, err
	}
	argv, err := resolve(in.Package, in.Spec.Command, env)
	if err != nil {
		return keeper.Spec{}, err
	}
	dir := workDir(in)
	if fi, err := os.Stat(dir); err != nil || !fi.IsDir() {
		return keeper.Spec{}, fmt.Errorf("working directory %q: %w", dir, cmp.Or(err, errors.New("not a directory")))
	}
	return keeper.Spec{
		ID: start, Argv: argv, Env: env, Dir: dir, User: id.user,
		LogDir: in.LogDir, LogName: in.LogName(), Notify: notify, Grace: in.Spec.StopGrace(), Leased: in.Exclusive,
	}, nil
}

// Observe returns what the keeper has of this module.
func (m *Module) Observe(ctx context.Context) ([]activate.Running, error) {
	list, err := m.keeper.List(ctx)
	if err != nil {
		return nil, err
	}
	var all []activate.Running
	for _, s := range list {
		if row, attempt, ok := m.parseID(s.ID); ok {
			all = append(all, running(row, attempt, s))
		}
	}
	slices.SortFunc(all, func(a, b activate.Running) int {
		return cmp.Or(strings.Compare(a.ID, b.ID), a.Attempt-b.Attempt)
	})
	return all, nil
}

func running(row string, attempt int, s keeper.Status) activate.Running {
	r := activate.Running{ID: row, Attempt: attempt, PID: s.PID, StartedAt: s.StartedAt, Age: s.Age, Dropped: s.Dropped,
		Ending: s.State == keeper.Stopping}
	if s.State == keeper.Exited {
		e := exit(*s.Exit)
		r.Exit = &e
	}
	return r
}

func exit(e keeper.Exit) activate.Exit {
	return activate.Exit{Code: e.Code, Signal: int(e.Signal), At: e.At, After: e.After, Unleased: e.Unleased}
}

// Watch calls changed whenever something of this module starts, ends or is forgotten.
func (m *Module) Watch(ctx context.Context, changed func()) error {
	changed()
	return m.keeper.Watch(ctx, "", func(s keeper.Status) bool {
		if strings.HasPrefix(s.ID, m.prefix) {
			changed()
		}
		return true
	})
}

// Stop ends every attempt of the instance and forgets how it ended.
func (m *Module) Stop(ctx context.Context, in activate.Instance) error {
	if err := m.end(ctx, in, func(int) bool { return true }); err != nil {
		return err
	}
	if err := os.RemoveAll(in.RunDir); err != nil {
		return fmt.Errorf("remove what %q needed to run: %w", in.Service, err)
	}
	return m.markStopped(in)
}

// end stops and forgets the attempts of the instance that which chooses.
func (m *Module) end(ctx context.Context, in activate.Instance, which func(attempt int) bool) error {
	list, err := m.keeper.List(ctx)
	if err != nil {
		return err
	}
	for _, s := range list {
		row, attempt, ok := m.parseID(s.ID)
		if !ok || row != in.ID || !which(attempt) {
			continue
		}
		if s.State != keeper.Exited {
			if _, err := m.kill(ctx, s.ID, in.Spec); err != nil {
				return err
			}
		}
		if err := m.keeper.Forget(ctx, s.ID); err != nil {
			return err
		}
	}
	return nil
}

// kill stops one start and waits until nothing of it is left.
func (m *Module) kill(ctx context.Context, id string, s activate.Spec) (keeper.Status, error) {
	if err := m.keeper.Stop(ctx, id, s.StopGrace()); err != nil && !errors.Is(err, keeper.ErrUnknownID) {
		return keeper.Status{}, err
	}
	st, err := m.keeper.Await(ctx, id)
	if err != nil {
		return st, fmt.Errorf("wait for the end of pid %d: %w", st.PID, err)
	}
	return st, nil
}
