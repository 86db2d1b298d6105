package node

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// Snapshots on demand and on schedule, copies on other nodes, and restores. All happen on the node that has custody of
// the state; any other passes the request on. While an operator's work on a row is under way the agent loop leaves the
// row alone; dying in the middle leaves a row that is active and does not run, which the loop repairs, and for a restore
// the file restoring.json, which is gone through with before the next start.

const (
	keepingEvery  = 5 * time.Second // how often a node looks which snapshots it should take or hold
	restoringFile = "restoring.json"
)

// busyRow holds a row back from the agent loop for an operator's work, if it still is what it was: active under the same
// claim, with its state here. What was read before it was held may be old.
func (a *agent) busyRow(ctx context.Context, r model.Row) (s *model.State, done func(), err error) {
	changed := &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s on %s is being changed at the moment", r.Service, a.n.cfg.Name), Hint: "Try again in a moment; see isonomia status."}
	if !a.reserve(r.Key, model.StepSave) {
		return nil, nil, changed
	}
	done = func() { a.clearRunning(r.Key); a.poke() }
	if s, err = a.n.readState(ctx); err != nil {
		done()
		return nil, nil, err
	}
	now, ok := s.Rows.Get(r.Key)
	if !ok || now.Obsolete || now.Phase != model.Active || now.Claim != r.Claim || s.Custody.At(r.CustodyKey()).Node != a.n.id.ID {
		done()
		return nil, nil, changed
	}
	return s, done, nil
}

// takeSnapshot puts the state of an active row into the store and the catalogue. What can be copied consistently while
// it runs is; else a warm copy is made first, and the row is stopped for what changed since.
func (a *agent) takeSnapshot(ctx context.Context, r model.Row, why string) (api.SnapshotTaken, error) {
	s, done, err := a.busyRow(ctx, r)
	if err != nil {
		return api.SnapshotTaken{}, err
	}
	defer done()
	d, err := a.n.dump(ctx, s, r.RowSpec, a.instance(s, r.RowSpec, r.Claim), false)
	var pause time.Duration
	if warm := d.snap.Stored; err == nil && d.live {
		pause, err = a.stopped(ctx, r, func(ctx context.Context) (err error) {
			d, err = a.n.dump(ctx, s, r.RowSpec, a.instance(s, r.RowSpec, r.Claim), true)
			return err
		})
		d.snap.Stored += warm // the store grew by both
	}
	if err != nil {
		return api.SnapshotTaken{}, fmt.Errorf("snapshot of %s: %w", r.Service, err)
	}
	d.snap.Why = why
	snap, fresh, err := a.n.catalogue(ctx, d.snap, false)
	if err != nil {
		return api.SnapshotTaken{}, err
	}
	return api.SnapshotTaken{Snapshot: a.n.describe(snap), New: fresh, Pause: pause}, nil
}

// stopped runs f while a row's instance is stopped, and starts it again whatever f says, unless a restore could neither
// be made nor taken back: then the agent loop's repair goes on with that until it succeeds. Once it is stopped, the end
// of who asked does not matter any more.
func (a *agent) stopped(ctx context.Context, r model.Row, f func(context.Context) error) (pause time.Duration, err error) {
	mod, err := a.n.module(r.Spec.Type)
	if err != nil {
		return 0, err
	}
	ctx = context.WithoutCancel(ctx)
	began := time.Now()
	s := a.n.fsm.State()
	if err := mod.Stop(ctx, a.instance(s, r.RowSpec, r.Claim)); err != nil {
		return 0, fmt.Errorf("stop %s: %w", r.Service, err)
	}
	err = f(ctx)
	if unfinished := a.goThrough(ctx, s, r.RowSpec); unfinished != nil {
		return time.Since(began), errors.Join(err, unfinished)
	}
	a.observe(ctx, s) // so that the next start has a number of its own
	if r.Exclusive && a.n.lease.left() <= 0 {
		return time.Since(began), err // it is started when there is a lease again
	}
	if again := mod.Start(ctx, a.instance(s, r.RowSpec, r.Claim)); again != nil {
		err = errors.Join(err, fmt.Errorf("start %s again: %w", r.Service, again)) // the agent loop repairs it
	}
	return time.Since(began), err
}

// catalogue puts a snapshot into State. It answers with its row there, and whether that is a new generation.
func (n *Node) catalogue(ctx context.Context, snap model.Snapshot, foreign bool) (model.Snapshot, bool, error) {
	before := n.fsm.State()
	res, err := n.fsm.Propose(ctx, model.TakeSnapshot{Snapshot: snap, Epoch: before.Nodes.At(n.id.ID).Epoch, Foreign: foreign})
	if err != nil {
		return snap, false, err
	}
	if err := res[0].Err(); err != nil {
		return snap, false, err
	}
	s, err := n.fsm.Wait(ctx, res[0].Index)
	if err != nil {
		return snap, false, err
	}
	got, ok := s.Snapshots.Get(res[0].Value)
	if !ok {
		return snap, false, &api.Error{Code: api.CodeConflict, Message: "the snapshot was dropped again at once"}
	}
	return got, !before.Snapshots.Has(res[0].Value), nil
}

// describe is a snapshot as the API shows it.
func (n *Node) describe(snap model.Snapshot) api.Snapshot {
	s := n.fsm.State()
	out := api.Snapshot{System: snap.System, Service: snap.Service, Container: snap.Container, Component: snap.Service, ID: snap.ID,
		Generation: snap.Generation, Size: snap.Size, Stored: snap.Stored, Files: snap.Files, At: snap.At, Node: s.NodeName(snap.Node), Why: snap.Why,
		Holders: []string{}, Stray: snap.Stray, Checked: known(snap.Checked), Proven: known(snap.Proven)}
	for _, id := range snap.Holders {
		out.Holders = append(out.Holders, s.NodeName(id))
	}
	slices.Sort(out.Holders)
	return out
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (n *Node) getSnapshots(r *http.Request) (any, error) {
	s, _, err := n.stateFor(r)
	if err != nil {
		return nil, err
	}
	system, service := systemOf(r.URL.Query().Get("system")), r.URL.Query().Get("service")
	out := []api.Snapshot{}
	for _, snap := range s.Snapshots.Prefix(system + "/") {
		if service == "" || snap.Service == service {
			out = append(out, n.describe(snap))
		}
	}
	slices.SortStableFunc(out, func(a, b api.Snapshot) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Container, b.Container), cmp.Compare(b.Generation, a.Generation))
	})
	return out, nil
}

// custodian finds the active row of a service's state.
func custodian(s *model.State, system, service string) (model.Row, error) {
	var why string
	for _, r := range s.ServiceRows(system, service) {
		switch {
		case !r.Managed:
			return r, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%s has no managed state", service), Hint: "Add a state block to it."}
		case !r.Obsolete && r.Phase == model.Active:
			return r, nil
		case !r.Obsolete:
			why = fmt.Sprintf("%s on %s is %s", service, s.NodeName(r.Node), r.Phase)
		}
	}
	if why == "" {
		return model.Row{}, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("%s is not deployed in system %s", service, system), Hint: "See isonomia status."}
	}
	return model.Row{}, &api.Error{Code: api.CodeConflict, Message: why, Hint: "Wait until it is active; see isonomia status."}
}

// custodianNow is custodian, on a State that is as new as the leader's.
func (n *Node) custodianNow(ctx context.Context, system, service string) (*model.State, model.Row, error) {
	s, err := n.readState(ctx)
	if err != nil {
		return nil, model.Row{}, err
	}
	r, err := custodian(s, system, service)
	return s, r, err
}

// nodeAnswer is what one node answered.
type nodeAnswer[T any] struct {
	name   string
	answer T
	err    error
}

var errIsDown = errors.New("it is down")

// everyNode asks every node that is up, all at once; this one by here. The answers are in the order of names.
func everyNode[T any](n *Node, r *http.Request, path string, body any, here func() (T, error)) []nodeAnswer[T] {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var all []nodeAnswer[T]
	for id, node := range n.fsm.State().Nodes.All() {
		wg.Go(func() {
			a := nodeAnswer[T]{name: node.Name, err: errIsDown}
			switch {
			case id == n.id.ID:
				a.answer, a.err = here()
			case !node.Down:
				a.answer, _, a.err = passOn[T](n, r, id, path, body)
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, a)
		})
	}
	wg.Wait()
	slices.SortFunc(all, func(a, b nodeAnswer[T]) int { return strings.Compare(a.name, b.name) })
	return all
}

// passOn sends a request to the node that has a row, if that is another; the answer is its.
func passOn[T any](n *Node, r *http.Request, node, path string, body any) (out T, passed bool, err error) {
	if node == n.id.ID {
		return out, false, nil
	}
	if peerID(r.Context()) != "" {
		return out, true, &api.Error{Code: api.CodeConflict, Message: "the service moved at this moment", Hint: "Try again."}
	}
	b, err := json.Marshal(body)
	if err == nil {
		b, err = n.peers.call(r.Context(), node, http.MethodPost, path, b)
		var unsent *url.Error
		if errors.As(err, &unsent) {
			err = &api.Error{Code: api.CodeUnreachable, Message: fmt.Sprintf("node %s does not answer: %v", n.fsm.State().NodeName(node), unsent.Err),
				Hint: "See isonomia members."}
		}
	}
	if err == nil {
		err = json.Unmarshal(b, &out)
	}
	return out, true, err
}

func (n *Node) postSnapshot(r *http.Request) (any, error) {
	req, err := decode[api.SnapshotRequest](r)
	if err != nil {
		return nil, err
	}
	req.System = systemOf(req.System)
	_, row, err := n.custodianNow(r.Context(), req.System, req.Service)
	if err != nil {
		return nil, err
	}
	if out, passed, err := passOn[api.SnapshotTaken](n, r, row.Node, "/v1/snapshots", req); passed {
		return out, err
	}
	return n.agent.takeSnapshot(r.Context(), row, cmp.Or(req.Why, "asked for"))
}

func (n *Node) postRestore(r *http.Request) (any, error) {
	req, err := decode[api.RestoreRequest](r)
	if err != nil {
		return nil, err
	}
	req.System = systemOf(req.System)
	s, err := n.readState(r.Context())
	if err != nil {
		return nil, err
	}
	if out, done, err := n.takeOver(r.Context(), s, req); done || err != nil {
		return out, err
	}
	row, err := custodian(s, req.System, req.Service)
	if err != nil {
		return nil, err
	}
	if out, passed, err := passOn[api.Restored](n, r, row.Node, "/v1/restore", req); passed {
		return out, err
	}
	snap, err := generationOf(s, row.CustodyKey(), row.Service, req.Generation)
	if err != nil {
		return nil, err
	}
	return n.agent.restoreTo(r.Context(), row, snap)
}

// generationOf finds a kept generation of a component; 0 is the newest.
func generationOf(s *model.State, custodyKey, service string, generation uint64) (model.Snapshot, error) {
	snap, ok := s.NewestSnapshot(custodyKey, nil)
	if generation != 0 {
		system, service, container := model.SplitCustodyKey(custodyKey)
		snap, ok = s.Snapshots.Get(model.SnapshotKey(system, service, container, generation))
	}
	if ok {
		return snap, nil
	}
	var have []string
	for _, snap := range s.ComponentSnapshots(custodyKey) {
		have = append(have, strconv.FormatUint(snap.Generation, 10))
	}
	if len(have) == 0 {
		return snap, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("there is no snapshot of %s", service), Hint: "Take one: isonomia snapshot " + service}
	}
	return snap, &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("generation %d of %s is not kept", generation, service),
		Hint: "Kept are " + strings.Join(have, ", ") + "."}
}

// restoreTo replaces the state of an active row by a snapshot, after one of what there is now. When loading fails, what
// there was is loaded again.
func (a *agent) restoreTo(ctx context.Context, r model.Row, snap model.Snapshot) (api.Restored, error) {
	s, done, err := a.busyRow(ctx, r)
	if err != nil {
		return api.Restored{}, err
	}
	defer done()
	out := api.Restored{Service: r.Service, Node: s.NodeName(r.Node), Generation: snap.Generation, Size: snap.Size}
	if err := a.n.fetchState(ctx, s, snap); err != nil {
		return out, err
	}
	out.Pause, err = a.stopped(ctx, r, func(ctx context.Context) error {
		in := a.instance(s, r.RowSpec, r.Claim)
		d, err := a.n.dump(ctx, s, r.RowSpec, in, true)
		if err != nil {
			return fmt.Errorf("snapshot before the restore: %w", err)
		}
		d.snap.Why = "before a restore"
		safety, _, err := a.n.catalogue(ctx, d.snap, false)
		if err != nil {
			return fmt.Errorf("snapshot before the restore: %w", err)
		}
		out.Safety = safety.Generation
		if err := a.n.noteRestoring(r.RowSpec, snap); err != nil {
			return err
		}
		if _, err := a.n.load(ctx, r.RowSpec, in, snap); err != nil {
			err = fmt.Errorf("restore generation %d of %s: %w", snap.Generation, r.Service, err)
			return errors.Join(err, a.n.noteRestoring(r.RowSpec, safety)) // gone through before it is started
		}
		snap.Checked = time.Now().UTC() // loaded and verified: also what came from outside
		snap.Node, snap.At, snap.Why, snap.Stored = a.n.id.ID, snap.Checked, fmt.Sprintf("generation %d restored", snap.Generation), 0
		now, _, err := a.n.catalogue(ctx, snap, false)
		out.Now = now.Generation
		return errors.Join(err, a.n.doneRestoring(r.RowSpec))
	})
	if err == nil {
		a.n.note(Noted{Kind: "restored", System: r.System, Service: r.Service, Message: fmt.Sprintf("generation %d of its state, by request; what it was is generation %d", out.Generation, out.Safety)})
	}
	return out, err
}

// noteRestoring writes down that a state is being replaced: from here on only what the snapshot has may be started.
func (n *Node) noteRestoring(r model.RowSpec, snap model.Snapshot) error {
	path, err := n.stage(r, restoringFile)
	if err != nil {
		return err
	}
	b, err := json.Marshal(snap)
	if err != nil {
		return err
	}
	return writeFileDurably(path, b, 0o600)
}

func (n *Node) doneRestoring(r model.RowSpec) error {
	path, err := n.stage(r, restoringFile)
	if err == nil {
		if err = os.Remove(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	return cmp.Or(err, syncDir(filepath.Dir(path)))
}

// goThrough finishes a restore that was under way when the agent died. Without one it does nothing.
func (a *agent) goThrough(ctx context.Context, s *model.State, r model.RowSpec) error {
	if !r.Managed {
		return nil
	}
	b, err := os.ReadFile(filepath.Join(a.n.dir.stage(r.System, r.Service), restoringFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var snap model.Snapshot
	if err == nil {
		err = json.Unmarshal(b, &snap)
	}
	if err == nil {
		err = a.n.fetchState(ctx, s, snap)
	}
	if err == nil {
		_, err = a.n.load(ctx, r, a.instance(s, r, 0), snap)
	}
	if err != nil {
		return fmt.Errorf("finish restoring generation %d of %s: %w", snap.Generation, r.Service, err)
	}
	a.n.note(Noted{Kind: "restored", System: r.System, Service: r.Service, Message: fmt.Sprintf("generation %d of its state: a restore that was cut off is finished", snap.Generation)})
	return a.n.doneRestoring(r)
}

// keepSnapshotsLoop takes the snapshots that are due here and holds copies of what this node should hold.
func (n *Node) keepSnapshotsLoop(ctx context.Context) error {
	t := time.NewTicker(keepingEvery)
	defer t.Stop()
	looked := false      // whether what should be here is
	settled := uint64(0) // the index of the State in which nothing was left to hold
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		s := n.fsm.State()
		if !looked {
			looked = n.verifyHeld(ctx) == nil
		}
		if s.Policies.Len() == 0 && s.Snapshots.Len() == 0 {
			continue
		}
		n.takeDue(ctx, s)
		if s.Index == settled {
			continue
		}
		held, err := n.holdCopies(ctx, s)
		switch {
		case err == nil && held == 0:
			settled = s.Index
		case err != nil && ctx.Err() == nil:
			n.log.Warn("holding copies of snapshots", "err", err)
		}
	}
}

// takeDue takes the snapshots of the services here that a schedule asks for.
func (n *Node) takeDue(ctx context.Context, s *model.State) {
	for _, r := range s.Rows.Prefix(n.id.ID + "/") {
		every := s.Policies.At(r.System + "/" + r.Service).Every
		if !r.Managed || r.Obsolete || r.Phase != model.Active || every == 0 || time.Since(lastTaken(s, r)) < every {
			continue
		}
		if _, err := n.agent.takeSnapshot(ctx, r, "every "+every.String()); err != nil && ctx.Err() == nil {
			n.log.Warn("snapshot by schedule", "service", r.Service, "err", err)
			n.note(Noted{Kind: "state-failed", System: r.System, Service: r.Service, Message: "snapshot by schedule: " + err.Error()})
		}
	}
}

// lastTaken is when the newest snapshot of a row's state was taken, or else when the row became active.
func lastTaken(s *model.State, r model.Row) time.Time {
	if snap, ok := s.NewestSnapshot(r.CustodyKey(), nil); ok {
		return snap.At
	}
	return r.At
}

// holdCopies fetches the snapshots that this node should hold and does not, and says so. It returns how many it fetched.
func (n *Node) holdCopies(ctx context.Context, s *model.State) (int, error) {
	held := model.HoldSnapshots{Node: n.id.ID}
	var failed error
	for key, snap := range s.Snapshots.All() {
		has := slices.Contains(snap.Holders, n.id.ID)
		if has || !slices.Contains(model.WantedHolders(s, snap), n.id.ID) {
			continue
		}
		if err := n.fetchState(ctx, s, snap); err != nil {
			failed = fmt.Errorf("generation %d of %s: %w", snap.Generation, snap.Service, err)
			continue
		}
		if held.Items = append(held.Items, model.HeldSnapshot{Key: key, ID: snap.ID}); len(held.Items) == 100 {
			break
		}
	}
	if len(held.Items) > 0 {
		if _, err := n.fsm.Propose(ctx, held); err != nil {
			return len(held.Items), err
		}
	}
	return len(held.Items), failed
}

// trimSnapshots is the leader's: it drops what the policies do not keep.
func (n *Node) trimSnapshots(ctx context.Context) {
	t := time.NewTicker(6 * keepingEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		s := n.fsm.State()
		var drop model.DropSnapshots
		services := map[[2]string]bool{}
		for _, snap := range s.Snapshots.All() {
			services[[2]string{snap.System, snap.Service}] = true
		}
		for of := range services {
			drop.Keys = append(drop.Keys, model.Expired(s, of[0], of[1], s.Policy(of[0], of[1]))...)
		}
		if len(drop.Keys) == 0 {
			continue
		}
		slices.Sort(drop.Keys)
		if _, err := n.fsm.ProposeLocal(ctx, model.DropSnapshots{Keys: drop.Keys[:min(len(drop.Keys), 1000)]}); err != nil && ctx.Err() == nil {
			n.log.Warn("dropping old snapshots", "err", err)
		}
	}
}

// verifyHeld says of the snapshots that State thinks this node holds and that its store does not have that they are not
// here: a store that was lost is filled again from others.
func (n *Node) verifyHeld(ctx context.Context) error {
	s, err := n.fsm.Read(ctx)
	if err != nil {
		return err
	}
	n.useStoreKey(s)
	lost := model.HoldSnapshots{Node: n.id.ID}
	for key, snap := range s.Snapshots.All() {
		if !slices.Contains(snap.Holders, n.id.ID) {
			continue
		}
		id, err := snapshotstore.ParseID(snap.ID)
		if err != nil {
			continue
		}
		if whole, err := n.store.HasTree(ctx, id); err == nil && !whole {
			lost.Items = append(lost.Items, model.HeldSnapshot{Key: key, ID: snap.ID, Lost: true})
		}
	}
	if len(lost.Items) == 0 {
		return nil
	}
	n.note(Noted{Kind: "snapshots-missing", Message: fmt.Sprintf("%d snapshots that should be here are not", len(lost.Items))})
	_, err = n.fsm.Propose(ctx, lost)
	return err
}
