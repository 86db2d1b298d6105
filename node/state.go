package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// A service's state goes into the store as a tree of files that its module gives, and comes out of it in a directory that
// its module takes over. Where it moves, the new node has a warm copy made beside that directory while the old instance
// still runs, so that what is left for the pause is what changed since.
//
//	DIR/stage/SYSTEM/SERVICE/dump    what a module dumps
//	DIR/stage/SYSTEM/SERVICE/facts   what it saw while dumping, one file
//	DIR/stage/SYSTEM/SERVICE/state   what is restored, until the module takes it

const (
	warmRounds   = 3                // copies made while the old instance runs
	warmEnough   = 1 << 20          // bytes: what is new in a copy when another would save nothing
	warmPatience = 15 * time.Minute // for all of them: then the move goes on with what there is
	keptFree     = 256 << 20        // bytes that no state takes, or a twentieth of a smaller disk
	maxFacts     = 4 << 20          // bytes, as JSON
	factsFile    = "facts.json"
)

// useStoreKey lets the store read and name objects of snapshots, once the cluster's key is known.
func (n *Node) useStoreKey(s *model.State) {
	if key := s.Cluster.StoreKey; len(key) == 32 && !n.keyed.Swap(true) {
		n.store.UseKeys([32]byte(key))
	}
}

// stage is a private place for a service's state on its way.
func (n *Node) stage(r model.RowSpec, what string) (string, error) {
	dir := n.dir.stage(r.System, r.Service)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make stage: %w", err)
	}
	return filepath.Join(dir, what), nil
}

// emptyStage is a stage with nothing in it.
func (n *Node) emptyStage(r model.RowSpec, what string) (string, error) {
	dir, err := n.stage(r, what)
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err == nil {
		err = os.Mkdir(dir, 0o700)
	}
	return dir, err
}

// sweepStages removes what moves and snapshots that were cut off have left. A warm copy that is lost costs only time; what
// says that a restore is under way stays.
func (n *Node) sweepStages() {
	left, _ := filepath.Glob(n.dir.stage("*", "*") + "/*") // the pattern is good
	hidden, _ := filepath.Glob(n.dir.stage("*", "*") + "/.*")
	for _, path := range append(left, hidden...) {
		if filepath.Base(path) != restoringFile {
			n.logClose("stage", os.RemoveAll(path))
		}
	}
}

// dumped is a state that was put into this node's store.
type dumped struct {
	snap  model.Snapshot
	fresh uint64 // bytes that the store did not have
	live  bool   // it may have changed meanwhile: a warm copy only
}

// dump puts the state of an instance into the store. final says that the instance is stopped.
func (n *Node) dump(ctx context.Context, s *model.State, r model.RowSpec, in activate.Instance, final bool) (dumped, error) {
	mod, err := n.stateful(r.Spec.Type)
	if err != nil {
		return dumped{}, err
	}
	n.useStoreKey(s)
	n.fetches.lock(stageKey(r))
	defer n.fetches.unlock(stageKey(r))
	dir, err := n.emptyStage(r, "dump")
	if err != nil {
		return dumped{}, err
	}
	defer func() { n.logClose("stage", os.RemoveAll(dir)) }()
	p, err := mod.Dump(ctx, in, dir, final)
	if err != nil {
		return dumped{}, err
	}
	known, knownFacts := knownRoots(s, r)
	info, err := n.store.PutState(ctx, p.Dir, snapshotstore.StateOptions{Name: r.CustodyKey(), Known: known, Quiet: final})
	if err != nil {
		return dumped{}, err
	}
	if final && (p.Live || info.Changed > 0) {
		return dumped{}, fmt.Errorf("the state of %s changed while it was saved, though nothing should be running", r.Service)
	}
	facts, err := n.putFacts(ctx, r, p.Facts, knownFacts)
	if err != nil {
		return dumped{}, err
	}
	d := dumped{fresh: info.Stored, live: p.Live || info.Changed > 0}
	d.snap = model.Snapshot{System: r.System, Service: r.Service, Container: r.Container, Type: r.Spec.Type, ID: info.Root.String(), Facts: facts,
		Size: int64(info.Bytes), Stored: int64(info.Stored), Files: int64(info.Files), Node: n.id.ID, At: time.Now().UTC(),
		Checked: time.Now().UTC(), Ownership: p.Ownership}
	return d, nil
}

func stageKey(r model.RowSpec) string { return "stage " + r.CustodyKey() }

// knownRoots are the newest kept snapshots of a state, newest first: what has not changed is one of them again.
func knownRoots(s *model.State, r model.RowSpec) (states, facts []snapshotstore.ID) {
	snaps := s.ComponentSnapshots(r.CustodyKey())
	for _, snap := range slices.Backward(snaps[max(len(snaps)-20, 0):]) {
		if id, err := snapshotstore.ParseID(snap.ID); err == nil {
			states = append(states, id)
		}
		if id, err := snapshotstore.ParseID(snap.Facts); err == nil {
			facts = append(facts, id)
		}
	}
	return states, facts
}

// putFacts stores what a module saw while dumping; "" for nothing.
func (n *Node) putFacts(ctx context.Context, r model.RowSpec, facts map[string]string, known []snapshotstore.ID) (string, error) {
	if len(facts) == 0 {
		return "", nil
	}
	b, err := json.Marshal(facts) // keys sorted: the same facts are the same bytes
	if err == nil && len(b) > maxFacts {
		err = fmt.Errorf("%d bytes of facts, more than %d", len(b), maxFacts)
	}
	if err != nil {
		return "", err
	}
	dir, err := n.emptyStage(r, "facts")
	if err != nil {
		return "", err
	}
	defer func() { n.logClose("stage", os.RemoveAll(dir)) }()
	if err := os.WriteFile(filepath.Join(dir, factsFile), b, 0o600); err != nil {
		return "", err
	}
	info, err := n.store.PutState(ctx, dir, snapshotstore.StateOptions{NoCache: true, Known: known, Quiet: true})
	return info.Root.String(), err
}

// readFacts reads them again.
func (n *Node) readFacts(ctx context.Context, r model.RowSpec, root string) (map[string]string, error) {
	if root == "" {
		return nil, nil
	}
	id, err := snapshotstore.ParseID(root)
	if err != nil {
		return nil, err
	}
	dir, err := n.stage(r, "facts")
	if err != nil {
		return nil, err
	}
	if _, err := n.store.RestoreState(ctx, id, dir, snapshotstore.RestoreOptions{Discard: true}); err != nil {
		return nil, err
	}
	defer func() { n.logClose("stage", os.RemoveAll(dir)) }()
	b, err := os.ReadFile(filepath.Join(dir, factsFile))
	if err != nil {
		return nil, err
	}
	var facts map[string]string
	if err := json.Unmarshal(b, &facts); err != nil {
		return nil, fmt.Errorf("read facts of snapshot: %w", err)
	}
	return facts, nil
}

// fetchState brings a snapshot here from whichever nodes have it.
func (n *Node) fetchState(ctx context.Context, s *model.State, snap model.Snapshot) error {
	n.useStoreKey(s)
	name := model.RowSpec{System: snap.System, Service: snap.Service, Container: snap.Container}
	older, _ := knownRoots(s, name)
	if snap.ID == "" {
		return n.fetchTrees(ctx, []string{snap.Facts})
	}
	if err := n.fetchLike(ctx, snap.ID, snapshotstore.FetchOptions{Name: name.CustodyKey(), Older: older}); err != nil {
		return err
	}
	return n.fetchTrees(ctx, []string{snap.Facts})
}

// loaded is what loading a state did.
type loaded struct {
	written uint64 // bytes
	took    time.Duration
}

// load makes a snapshot that is in the store the state of an instance that is stopped, and reads it back. What a warm copy
// brought already was compared when it was made.
func (n *Node) load(ctx context.Context, r model.RowSpec, in activate.Instance, snap model.Snapshot) (loaded, error) {
	began := time.Now()
	mod, err := n.stateful(r.Spec.Type)
	if err != nil {
		return loaded{}, err
	}
	id, err := snapshotstore.ParseID(snap.ID)
	if err != nil {
		return loaded{}, err
	}
	n.fetches.lock(stageKey(r))
	defer n.fetches.unlock(stageKey(r))
	dir, err := n.stage(r, "state")
	if err != nil {
		return loaded{}, err
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(dir), ".state.warm")); err != nil { // all of it is written
		if err := n.roomFor(snap.Size); err != nil {
			return loaded{}, err
		}
	}
	info, err := n.store.RestoreState(ctx, id, dir, snapshotstore.RestoreOptions{Discard: true})
	if whole, looked := n.store.HasTree(ctx, id); err != nil && looked == nil && !whole { // reading found damage: others may have it
		n.log.Warn("a snapshot is damaged here", "service", r.Service, "generation", snap.Generation, "err", err)
		if err = n.fetchTrees(ctx, []string{snap.ID, snap.Facts}); err == nil {
			info, err = n.store.RestoreState(ctx, id, dir, snapshotstore.RestoreOptions{Discard: true})
		}
	}
	if err != nil {
		return loaded{}, err
	}
	if info.Reused == 0 || info.Written > info.Bytes/4 { // hardly a warm copy: all of it is read back
		diffs, err := n.store.VerifyState(ctx, id, dir, snapshotstore.VerifyOptions{Most: 3})
		if err == nil && len(diffs) > 0 {
			err = fmt.Errorf("what was restored is not the snapshot: %v", diffs)
		}
		if err != nil {
			return loaded{}, err
		}
	}
	facts, err := n.readFacts(ctx, r, snap.Facts)
	if err != nil {
		return loaded{}, err
	}
	p := activate.Payload{Dir: dir, Facts: facts, Ownership: snap.Ownership}
	if err := mod.Load(ctx, in, p); err != nil {
		return loaded{}, err
	}
	if err := mod.Verify(ctx, in, p); err != nil {
		return loaded{}, err
	}
	return loaded{info.Written, time.Since(began)}, nil
}

// warm makes copies of a state that is to come here while its instance still runs elsewhere, until a further one would
// bring little. That it does not work only makes the pause longer, unless there is no room: then nothing may move here.
func (n *Node) warm(ctx context.Context, s *model.State, r model.RowSpec) error {
	c, ok := s.Custody.Get(r.CustodyKey())
	if from, up := s.Nodes.Get(c.Node); !ok || !r.Managed || c.Node == n.id.ID || !up || from.Down {
		return nil
	}
	select {
	case n.agent.warms <- struct{}{}:
		defer func() { <-n.agent.warms }()
	case <-ctx.Done():
		return ctx.Err()
	}
	ctx, cancel := context.WithTimeout(ctx, warmPatience)
	defer cancel()
	last := uint64(1 << 62)
	for round := range warmRounds {
		fresh, err := n.warmOnce(ctx, s, r, c.Node)
		if err != nil {
			if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
				return fmt.Errorf("there is no room for the state of %s on %s: %w", r.Service, n.cfg.Name, err)
			}
			n.log.Info("no warm copy", "service", r.Service, "from", s.NodeName(c.Node), "round", round+1, "err", err)
			return nil
		}
		n.log.Info("warm copy", "service", r.Service, "from", s.NodeName(c.Node), "round", round+1, "new bytes", fresh)
		if fresh < warmEnough || fresh > last/2 {
			return nil
		}
		last = fresh
	}
	return nil
}

func (n *Node) warmOnce(ctx context.Context, s *model.State, r model.RowSpec, from string) (fresh uint64, err error) {
	d, err := n.peers.warm(ctx, from, r.System, r.Service, r.Container)
	if err != nil {
		return 0, err
	}
	need := d.Size // as files, which may be there from the last copy, and then they go as these come
	if !n.holdsAny(s, r) {
		need *= 2 // in the store
	}
	if err := n.roomFor(need); err != nil {
		return 0, err
	}
	if err := n.fetchState(ctx, s, model.Snapshot{ID: d.ID, System: r.System, Service: r.Service, Container: r.Container}); err != nil {
		return 0, err
	}
	id, err := snapshotstore.ParseID(d.ID)
	if err != nil {
		return 0, err
	}
	n.fetches.lock(stageKey(r))
	defer n.fetches.unlock(stageKey(r))
	dir, err := n.stage(r, "state")
	if err != nil {
		return 0, err
	}
	_, err = n.store.RestoreState(ctx, id, dir, snapshotstore.RestoreOptions{Warm: true})
	return d.Fresh, err
}

// holdsAny says whether a snapshot of a state is in this node's store, from which the next differs little.
func (n *Node) holdsAny(s *model.State, r model.RowSpec) bool {
	_, ok := s.NewestSnapshot(r.CustodyKey(), func(snap model.Snapshot) bool { return slices.Contains(snap.Holders, n.id.ID) })
	return ok
}

// kept is how much of a disk of so many bytes stays free for the node itself.
func kept(size int64) int64 { return min(keptFree, size/20) }

// roomFor holds when a state of so many bytes fits on the disk and leaves what the node itself needs: its log, journals and
// the logs of services. Otherwise it is an error that is syscall.ENOSPC.
func (n *Node) roomFor(bytes int64) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(n.dir.join(), &fs); err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	free, kept := int64(fs.Bavail)*fs.Bsize, kept(int64(fs.Blocks)*fs.Bsize)
	if free < bytes+kept {
		return fmt.Errorf("%d bytes are needed and %d are free, of which %d stay free: %w", bytes, free, kept, syscall.ENOSPC)
	}
	return nil
}

// warmCopy is a snapshot of a state that may be changing.
type warmCopy struct {
	ID    string `json:"id"`
	Fresh uint64 `json:"fresh"` // bytes that the store of its node did not have
	Size  int64  `json:"size"`  // bytes of its files
}

// giveWarm takes a warm copy of a state that is here.
func (n *Node) giveWarm(ctx context.Context, system, service, container string) (warmCopy, error) {
	s := n.fsm.State()
	r, ok := activeHere(s, n.id.ID, system, service, container)
	if !ok {
		return warmCopy{}, fmt.Errorf("%s is not active here", service)
	}
	d, err := n.dump(ctx, s, r.RowSpec, n.agent.instance(s, r.RowSpec, r.Claim), false)
	return warmCopy{d.snap.ID, d.fresh, d.snap.Size}, err
}

// saveRow stops a row whose state moves and saves it.
func (a *agent) saveRow(ctx context.Context, s *model.State, r model.Row, claim uint64) {
	in := a.instance(s, r.RowSpec, claim)
	began := time.Now()
	err := a.stopInstance(ctx, in)
	if err == nil {
		err = a.goThrough(ctx, s, r.RowSpec)
	}
	if err == nil {
		var d dumped
		if d, err = a.n.dump(ctx, s, r.RowSpec, in, true); err == nil {
			d.snap.Why = whySaved(s, r)
			a.n.note(Noted{Kind: "saved", System: r.System, Service: r.Service,
				Message: fmt.Sprintf("its state, %d bytes in %d files, %d of them new, in %v", d.snap.Size, d.snap.Files, d.fresh, time.Since(began).Round(time.Millisecond))})
			a.forgetFailure(r.Key)
			a.report(ctx, s, r, model.Report{Row: r.Key, Phase: model.Saved, Claim: claim, Snapshot: &d.snap})
			return
		}
	}
	a.stateFailed(ctx, r, model.Failure{Claim: claim}, "saving its state", err)
}

// whySaved says for the catalogue why a row that ends had its state saved.
func whySaved(s *model.State, r model.Row) string {
	switch {
	case s.Custody.At(r.CustodyKey()).Wanted != "":
		return "before it returns to an earlier snapshot"
	case model.MustMove(s, r.RowSpec):
		return "moves to another node"
	}
	return fmt.Sprintf("ahead of generation %d", s.Systems.At(r.System).Generation)
}

// stateIsHere refuses to start what has its state here when the directory of it is gone: it would begin anew, empty, and
// nobody would know. Types that keep their state in a server of somebody else's have none.
func (a *agent) stateIsHere(s *model.State, r model.Row) error {
	if !r.Managed || s.Custody.At(r.CustodyKey()).Node != a.n.id.ID || !model.StateInDirectory(r.Spec.Type) {
		return nil
	}
	dir := a.n.dir.state(r.System, r.Service)
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return fmt.Errorf("its state should be in %s, which is gone; make the directory to start without, then isonomia restore %s brings a snapshot back", dir, r.Service)
}

// restoreRow loads the state that is on its way here. What may run of the row is of an earlier claim, from before its
// node was cut off: what that accepted was never promised.
func (a *agent) restoreRow(ctx context.Context, s *model.State, r model.Row, claim uint64) {
	c := s.Custody.At(r.CustodyKey())
	snap, ok := s.SnapshotByID(r.CustodyKey(), c.Snapshot)
	if !ok {
		a.stateFailed(ctx, r, model.Failure{Claim: claim}, "restoring its state", fmt.Errorf("snapshot %.12q is not in the catalogue", c.Snapshot))
		return
	}
	in := a.instance(s, r.RowSpec, claim)
	err, missing := a.stopInstance(ctx, in), false
	if err == nil {
		err = a.n.fetchState(ctx, s, snap)
		missing = err != nil && !noRoom(err) // a holder may come, room does not
	}
	var l loaded
	if err == nil {
		l, err = a.n.load(ctx, r.RowSpec, in, snap)
	}
	if err == nil {
		err = a.n.doneRestoring(r.RowSpec) // one that was cut off here when the state was here before is pointless now
	}
	if err != nil {
		a.stateFailed(ctx, r, model.Failure{Claim: claim, Missing: missing}, "restoring its state", err)
		return
	}
	a.n.note(Noted{Kind: "restored", System: r.System, Service: r.Service,
		Message: fmt.Sprintf("its state, generation %d, from %s, %d bytes, of which %d were written, in %v", snap.Generation, s.NodeName(snap.Node), snap.Size, l.written, l.took.Round(time.Millisecond))})
	a.forgetFailure(r.Key)
	a.report(ctx, s, r, model.Report{Row: r.Key, Phase: model.Restored, Claim: claim, Snapshot: &model.Snapshot{ID: snap.ID}})
}

func (a *agent) stateFailed(ctx context.Context, r model.Row, f model.Failure, what string, err error) {
	if ctx.Err() != nil {
		return
	}
	reason := what + ": " + err.Error()
	a.n.log.Warn("moving state", "service", r.Service, "reason", reason)
	a.n.note(Noted{Kind: "state-failed", System: r.System, Service: r.Service, Message: reason})
	f.Reason = reason
	a.fail(r, f)
}
