package keeper

import (
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// maxInstances is how many starts are kept, the exited ones that nobody has forgotten included.
const maxInstances = 16384

// keeper is the table of starts.
type keeper struct {
	home     *home
	cgroups  *cgroups // nil: no cgroup v2 to write to
	children *children
	lease    *leaseClock
	log      *slog.Logger
	minders  sync.WaitGroup // of the starts that are not Exited

	mu        sync.Mutex // guards what follows; never held while waiting
	closing   bool
	instances map[string]*instance
	starting  map[string]chan struct{} // ids being launched; closed when done
	logs      map[string]*sharedLog    // by path
	watchers  map[*watcher]struct{}
}

type sharedLog struct {
	*logFile
	users int
}

func newKeeper(h *home, c *children, g *cgroups, l *leaseClock, log *slog.Logger) *keeper {
	return &keeper{
		home: h, children: c, cgroups: g, lease: l, log: log,
		instances: map[string]*instance{}, starting: map[string]chan struct{}{},
		logs: map[string]*sharedLog{}, watchers: map[*watcher]struct{}{},
	}
}

// start launches spec, or returns what there is under its id already: an id is started at most once, whatever got
// lost on the way to the agent.
func (k *keeper) start(spec Spec) (Status, error) {
	in, log, err := k.reserve(spec)
	if err != nil {
		return Status{}, err
	}
	if in == nil {
		in, err = k.launch(spec, log)
		k.settle(spec.ID, in, log)
	}
	if err != nil {
		return Status{}, err
	}
	return in.status(), nil
}

// reserve finds what there is under the id of spec, or reserves the id, with a log to write to, for the caller to
// launch and settle.
func (k *keeper) reserve(spec Spec) (*instance, *logFile, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.starting[spec.ID] != nil {
		other := k.starting[spec.ID]
		k.mu.Unlock()
		<-other
		k.mu.Lock()
	}
	switch in, ok := k.instances[spec.ID]; {
	case ok:
		return in, nil, nil
	case k.closing:
		return nil, nil, ErrClosing
	case len(k.instances)+len(k.starting) >= maxInstances:
		return nil, nil, fmt.Errorf("%w: %d", ErrFull, maxInstances)
	}
	if _, over := k.lease.over(Boottime()); spec.Leased && over {
		return nil, nil, ErrNoLease
	}
	k.starting[spec.ID] = make(chan struct{})
	return nil, k.useLog(logPath(spec.LogDir, spec.LogName)), nil
}

// settle ends a reservation: with an instance, or without one if it could not be launched.
func (k *keeper) settle(id string, in *instance, log *logFile) {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.starting[id])
	delete(k.starting, id)
	if in == nil {
		k.dropLog(log)
		return
	}
	k.instances[id] = in
	k.wake(id)
	if k.closing {
		in.stop(0)
	}
	if grace, over := k.lease.over(Boottime()); in.spec.Leased && over { // while it was launched
		in.unlease(grace)
	}
}

// useLog returns the log at path, shared with whoever else writes to it. Called with mu held.
func (k *keeper) useLog(path string) *logFile {
	l, ok := k.logs[path]
	if !ok {
		l = &sharedLog{logFile: newLogFile(path)}
		k.logs[path] = l
	}
	l.users++
	return l.logFile
}

// dropLog gives a log back; the last user closes it. Called with mu held.
func (k *keeper) dropLog(log *logFile) {
	if l := k.logs[log.path]; l != nil && l.logFile == log {
		if l.users--; l.users == 0 {
			delete(k.logs, log.path)
			go log.close()
		}
	}
}

func (k *keeper) find(id string) (*instance, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	in, ok := k.instances[id]
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrUnknownID, id)
	}
	return in, nil
}

// list returns the status of id, or of all starts in the order of their ids.
func (k *keeper) list(id string) []Status {
	k.mu.Lock()
	all := slices.Collect(maps.Values(k.instances))
	k.mu.Unlock()
	var list []Status
	for _, in := range all {
		if id == "" || in.spec.ID == id {
			list = append(list, in.status())
		}
	}
	slices.SortFunc(list, func(a, b Status) int { return strings.Compare(a.ID, b.ID) })
	return list
}

// forget drops an exited start.
func (k *keeper) forget(id string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	in, ok := k.instances[id]
	if !ok {
		return nil
	}
	if in.status().State != Exited {
		return fmt.Errorf("%w: %q", ErrRunning, id)
	}
	delete(k.instances, id)
	k.wake(id)
	return nil
}

// owner says which start pid belongs to.
func (k *keeper) owner(pid int) (string, error) {
	for _, s := range k.list("") {
		if s.State == Exited {
			continue
		}
		if in, err := k.find(s.ID); err == nil && in.family.has(pid) {
			return s.ID, nil
		}
	}
	return "", fmt.Errorf("%w: pid %d", ErrUnknownID, pid)
}

// stopAll refuses new starts, stops what runs, and returns when nothing is left, at most patience after the grace.
func (k *keeper) stopAll(grace, patience time.Duration) {
	k.mu.Lock()
	k.closing = true
	for _, in := range k.instances {
		in.stop(grace)
	}
	launching := slices.Collect(maps.Values(k.starting))
	k.mu.Unlock()
	for _, l := range launching {
		<-l // start itself stops them
	}
	done := make(chan struct{})
	go func() { k.minders.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(grace + patience):
		k.log.Error("processes left at the end", "after", grace+patience)
	}
}

// watcher wants to know what changes.
type watcher struct {
	id   string        // "": all
	wake chan struct{} // holds one
	// dirty is guarded by the keeper's mu: what has changed since the watcher looked. It holds ids, not states, so
	// that a slow watcher costs no more than the table.
	dirty map[string]struct{}
}

func (k *keeper) watch(id string) *watcher {
	w := &watcher{id: id, wake: make(chan struct{}, 1), dirty: map[string]struct{}{}}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.watchers[w] = struct{}{}
	for known := range k.instances {
		w.mark(known)
	}
	if id != "" {
		w.mark(id)
	}
	return w
}

func (k *keeper) unwatch(w *watcher) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.watchers, w)
}

func (w *watcher) mark(id string) {
	if w.id != "" && w.id != id {
		return
	}
	w.dirty[id] = struct{}{}
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// changed wakes who watches id.
func (k *keeper) changed(id string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wake(id)
}

// wake is changed for callers that hold mu.
func (k *keeper) wake(id string) {
	for w := range k.watchers {
		w.mark(id)
	}
}

// news returns the present status of everything that has changed since the last call.
func (k *keeper) news(w *watcher) []Status {
	k.mu.Lock()
	ids := slices.Sorted(maps.Keys(w.dirty))
	ids = slices.DeleteFunc(ids, func(id string) bool { return k.starting[id] != nil }) // it is not in the table yet
	clear(w.dirty)
	k.mu.Unlock()
	list := make([]Status, 0, len(ids))
	for _, id := range ids {
		if in, err := k.find(id); err == nil {
			list = append(list, in.status())
		} else {
			list = append(list, Status{ID: id, State: Forgotten})
		}
	}
	return list
}

// releaseLog gives back the log of a start that has ended.
func (k *keeper) releaseLog(in *instance) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLog(in.out.log)
}
