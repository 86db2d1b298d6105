package node

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// agent is the loop that does this node's part of what State asks for. It holds what Next calls Own: nothing of it is
// in the log, and all of it can be observed again after a restart.
type agent struct {
	n    *Node
	wake chan struct{} // capacity 1: Own changed

	mu       sync.Mutex // guards what follows
	running  map[string]runningStep
	failures map[string]model.Failure
	packages map[string]bool
	seen     map[string]model.Process // the last observation, by row
	types    map[string]string        // of what is in seen, by row
	blind    map[string]error         // by type: why it could not be observed
	attempts map[string]int           // by row: the newest start that the keeper knows
	counted  map[string]int           // by row: the start whose death was counted last
	ill      map[string]string        // by row: what the last health probe complained of

	slots chan struct{} // bounds the steps under way
	warms chan struct{} // bounds those of them that make warm copies
	steps sync.WaitGroup
	batch *batcher
}

// A start is numbered by the claim under which it was made and, below, by the tries under that claim: so that a
// process still tells its claim after the agent was killed.
const tryBits = 12

func claimOf(attempt int) uint64 { return uint64(attempt) >> tryBits }

func (a *agent) nextAttempt(row string, claim uint64) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := a.attempts[row]
	if a.seen[row].Running {
		return last // it runs already, since before this agent or before its node was marked down: it is taken over
	}
	return max(last+1, int(claim)<<tryBits)
}

// runningStep is a step under way.
type runningStep struct {
	kind   model.StepKind
	cancel context.CancelFunc
}

// maxSteps bounds the steps under way on a node. Starting a process is mostly waiting for it.
const maxSteps = 64

func newAgent(n *Node) *agent {
	return &agent{n: n, wake: make(chan struct{}, 1), running: map[string]runningStep{}, failures: map[string]model.Failure{},
		packages: map[string]bool{}, seen: map[string]model.Process{}, attempts: map[string]int{}, counted: map[string]int{}, ill: map[string]string{}, slots: make(chan struct{}, maxSteps), warms: make(chan struct{}, model.MovesPerNode), batch: newBatcher(n)}
}

// poke makes the loop look again.
func (a *agent) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run looks, acts and waits until ctx ends; then it waits for the steps under way, which ctx has cancelled.
func (a *agent) run(ctx context.Context) error {
	changed, stop := a.n.fsm.Watch()
	defer stop()
	defer a.steps.Wait()
	a.sweepRun(ctx)
	a.n.sweepStages()
	a.catchUp(ctx)
	for ctx.Err() == nil {
		waitAny(ctx, a.turn(ctx), changed, a.wake)
	}
	return nil
}

// catchUp waits until this node's State is as new as the cluster's was after it started: the one on disk may be old, and
// acting on it could start again what has moved elsewhere since. What runs goes on meanwhile, and after a while without a
// quorum what needs none is started.
func (a *agent) catchUp(ctx context.Context) {
	began, offline := time.Now(), false
	for ctx.Err() == nil {
		if time.Since(began) < offlineAfter {
			a.observe(ctx, a.n.fsm.State())
		} else {
			a.offline(ctx, !offline)
			offline = true
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err := a.n.fsm.Read(try)
		cancel()
		if err == nil {
			return
		}
		a.n.log.Debug("waiting for the cluster", "err", err)
		a.n.pause(ctx, 50*time.Millisecond)
	}
}

// sweepRun removes what a power cut left behind of instances that do not run any more. No step is under way yet.
func (a *agent) sweepRun(ctx context.Context) {
	keep := map[string]bool{}
	for _, k := range a.n.kinds {
		if !k.kept {
			continue // nothing of it runs
		}
		running, err := k.mod.Observe(ctx)
		if err != nil {
			return // the keeper is being started: its services, if any, keep their files
		}
		for _, p := range running {
			keep[a.n.dir.run(p.ID)] = true
		}
	}
	dirs, _ := filepath.Glob(a.n.dir.join("run", "*"))
	for _, d := range dirs {
		if !keep[d] {
			a.n.logClose("run directory", os.RemoveAll(d))
		}
	}
}

// turn looks at State and at this node once and starts what Next asks for: first all claims of the turn in one log
// entry, then the steps whose claim was accepted. Losing a claim is normal; State has moved and the next turn sees it.
func (a *agent) turn(ctx context.Context) time.Time {
	s := a.n.fsm.State()
	a.n.useStoreKey(s)
	a.observe(ctx, s)
	a.cancelObsolete(s)
	steps, wake := model.Next(s, a.n.id.ID, a.own(s), time.Now())
	var claims []model.Step
	for _, st := range steps {
		if !a.reserve(st.Key(), st.Kind) {
			continue // an operator's work on it began since Own was copied
		}
		if st.Claim != "" {
			claims = append(claims, st)
			continue
		}
		a.start(ctx, s, st, 0)
	}
	if len(claims) > 0 {
		a.claim(ctx, s, claims)
	}
	return wake
}

// own copies what Next may look at. Rows of which nothing can be seen count as busy: they are neither dead nor alive.
func (a *agent) own(s *model.State) model.Own {
	a.mu.Lock()
	defer a.mu.Unlock()
	own := model.Own{Processes: maps.Clone(a.seen), Packages: maps.Clone(a.packages), Busy: map[string]bool{}, Failures: maps.Clone(a.failures), Leased: a.n.lease.left() > 0}
	for k := range a.running {
		own.Busy[k] = true
	}
	if len(a.blind) > 0 {
		for _, r := range s.Rows.Prefix(a.n.id.ID + "/") {
			own.Busy[r.Key] = own.Busy[r.Key] || a.blind[r.Spec.Type] != nil
		}
	}
	return own
}

// claim proposes the claims of a turn without holding up the loop: the rows count as busy meanwhile.
func (a *agent) claim(ctx context.Context, s *model.State, steps []model.Step) {
	self, ok := s.Nodes.Get(a.n.id.ID)
	if !ok {
		for _, st := range steps {
			a.clearRunning(st.Key())
		}
		return
	}
	c := model.Claims{Node: self.ID, Epoch: self.Epoch, At: time.Now().UTC()}
	for _, st := range steps {
		c.Items = append(c.Items, model.Claim{Row: st.Row, Phase: st.Claim, Generation: st.Generation})
		a.setRunning(st.Key(), runningStep{kind: st.Kind, cancel: func() {}})
	}
	a.steps.Add(1)
	go func() {
		defer a.steps.Done()
		verdicts, index := a.proposeClaims(ctx, c)
		for i, st := range steps {
			if i < len(verdicts) && verdicts[i].Code == model.OK {
				a.start(ctx, s, st, index)
			} else {
				a.clearRunning(st.Key())
			}
		}
		a.poke()
	}()
}

// proposeClaims answers with the verdicts, or none if the claims did not get through; the row's phase tells then, as
// soon as State has it.
func (a *agent) proposeClaims(ctx context.Context, c model.Claims) ([]model.Verdict, uint64) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	res, err := a.n.fsm.Propose(ctx, c)
	switch {
	case err != nil:
		a.n.log.Warn("claiming: no answer", "rows", len(c.Items), "err", err)
		a.pokeLater(time.Second)
		return nil, 0
	case res[0].Code != model.OK:
		a.n.log.Info("claims refused", "reason", res[0].Message)
		return nil, 0
	}
	return res[0].Verdicts, res[0].Index
}

func (a *agent) pokeLater(d time.Duration) { time.AfterFunc(d, a.poke) }

func (a *agent) setRunning(key string, r runningStep) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.running[key] = r
}

// reserve makes a key busy, unless it is.
func (a *agent) reserve(key string, kind model.StepKind) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, busy := a.running[key]; busy {
		return false
	}
	a.running[key] = runningStep{kind: kind, cancel: func() {}}
	return true
}

// clearRunning ends what was under way for a key. What is there of a row is looked at anew.
func (a *agent) clearRunning(key string) {
	typ := a.n.fsm.State().Rows.At(key).Spec.Type
	a.mu.Lock()
	defer a.mu.Unlock()
	if k := a.n.kind(cmp.Or(typ, a.types[key])); k != nil {
		k.touched()
	}
	delete(a.running, key)
}

// start runs a step on its own goroutine. claim is the log index of the claim just accepted; 0 means that the row
// carries it, or that none is needed.
func (a *agent) start(ctx context.Context, s *model.State, st model.Step, claim uint64) {
	ctx, cancel := context.WithCancel(ctx)
	a.setRunning(st.Key(), runningStep{kind: st.Kind, cancel: cancel})
	a.steps.Add(1)
	go func() {
		defer a.steps.Done()
		defer a.poke()
		defer a.clearRunning(st.Key())
		defer cancel()
		select {
		case a.slots <- struct{}{}:
			defer func() { <-a.slots }()
		case <-ctx.Done():
			return
		}
		a.perform(ctx, s, st, claim)
		a.seeClaim(ctx, claim)
	}()
}

// seeClaim waits until this node's own State shows a claim. Before that Next would take the row for one that was never
// tried, and try it again at once.
func (a *agent) seeClaim(ctx context.Context, claim uint64) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, _ = a.n.fsm.Wait(ctx, claim) // later is fine too: the row is claimed once more then
}

// cancelObsolete gives up the start of rows that are not wanted any more, so that stopping them need not wait for a
// start deadline.
func (a *agent) cancelObsolete(s *model.State) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for key, r := range a.running {
		switch r.kind {
		case model.StepStart, model.StepRepair, model.StepRestore, model.StepPrepare:
		default:
			continue
		}
		if row, ok := s.Rows.Get(key); !ok || row.Obsolete {
			r.cancel()
		}
	}
}

// fail counts a failed try of a row under f.Claim. Tries that failed for want of what other nodes have count apart.
func (a *agent) fail(r model.Row, f model.Failure) {
	a.mu.Lock()
	defer a.mu.Unlock()
	f.Retry, f.Attempts, f.At = r.Retry, 1, time.Now()
	if old := a.failures[r.Key]; old.Claim == f.Claim && old.Retry == f.Retry && old.Missing == f.Missing {
		f.Attempts += old.Attempts
	}
	a.failures[r.Key] = f
}

func (a *agent) failure(key string) model.Failure {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.failures[key]
}

func (a *agent) forgetFailure(key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.failures, key)
}
