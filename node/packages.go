package node

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/raftfsm"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

const (
	maxMissing    = 10_000           // ids in one question
	fetchPatience = 10 * time.Minute // for one tree, all sources together
	holders       = 2                // nodes that must have a package before a generation that needs it is made; voters follow soon
)

func (n *Node) postMissing(r *http.Request) (any, error) {
	req, err := decode[api.MissingRequest](r)
	if err != nil {
		return nil, err
	}
	if len(req.IDs) > maxMissing {
		return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("at most %d ids at once", maxMissing)}
	}
	ids, err := parseIDs(req.IDs)
	if err != nil {
		return nil, err
	}
	out := api.MissingReply{IDs: []string{}}
	for _, id := range n.store.Absent(ids) {
		out.IDs = append(out.IDs, id.String())
	}
	return out, nil
}

func parseIDs(hex []string) ([]snapshotstore.ID, error) {
	ids := make([]snapshotstore.ID, len(hex))
	for i, h := range hex {
		var err error
		if ids[i], err = snapshotstore.ParseID(h); err != nil {
			return nil, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is not an object id", h)}
		}
	}
	return ids, nil
}

// putObjects takes a stream of objects into the store; each is verified before it counts.
func (n *Node) putObjects(r *http.Request) (any, error) {
	if _, err := n.store.ReceiveObjects(r.Context(), r.Body); err != nil {
		return nil, fmt.Errorf("take in objects: %w", err)
	}
	// The frames end before the body does: an answer while the client still writes would cost it the connection.
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, 1<<20)); err != nil {
		return nil, fmt.Errorf("take in objects: %w", err)
	}
	return struct{}{}, nil
}

// fetchTrees brings trees here from whichever nodes have them. What is here already costs a look.
func (n *Node) fetchTrees(ctx context.Context, trees []string) error {
	for _, tree := range trees {
		if tree == "" {
			continue
		}
		if err := n.fetchTree(ctx, tree); err != nil {
			return err
		}
	}
	return nil
}

func (n *Node) fetchTree(ctx context.Context, tree string) error {
	return n.fetchLike(ctx, tree, snapshotstore.FetchOptions{})
}

// fetchLike is fetchTree with a say in what the tree resembles.
func (n *Node) fetchLike(ctx context.Context, tree string, opts snapshotstore.FetchOptions) error {
	id, err := snapshotstore.ParseID(tree)
	if err != nil {
		return fmt.Errorf("package %q: %w", tree, err)
	}
	if whole, err := n.store.HasTree(ctx, id); err == nil && whole {
		return nil
	}
	n.fetches.lock(tree)
	defer n.fetches.unlock(tree)
	ctx, cancel := context.WithTimeout(ctx, fetchPatience)
	defer cancel()
	if err := n.store.FetchWith(ctx, id, n.sources(), opts); err != nil {
		return fmt.Errorf("fetch package %.12s: %w", tree, err)
	}
	return nil
}

// sources are the other nodes that are up, this zone's first.
func (n *Node) sources() []snapshotstore.Source {
	s := n.fsm.State()
	zone := s.Nodes.At(n.id.ID).Zone()
	var near, far []snapshotstore.Source
	for id, node := range s.Nodes.All() {
		if id == n.id.ID || node.Down {
			continue
		}
		src := source{n.peers, id, node.Name}
		if zone != "" && node.Zone() == zone {
			near = append(near, src)
		} else {
			far = append(far, src)
		}
	}
	return append(near, far...)
}

// spread makes sure that packages outlive this node: before a generation that needs them is made, another node has
// them on disk as well, if there is one.
func (n *Node) spread(ctx context.Context, trees []string) error {
	trees = slices.Compact(slices.Sorted(slices.Values(trees)))
	for _, tree := range trees {
		id, err := snapshotstore.ParseID(tree)
		if err != nil {
			return &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is not a package id", tree)}
		}
		if err := n.fetchTree(ctx, id.String()); err != nil {
			return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("package %.12s is not here and cannot be had: %v", tree, err), Hint: "Deploy again: what is missing is sent."}
		}
	}
	if len(trees) == 0 {
		return nil
	}
	return n.copyTo(ctx, trees, holders-1)
}

// answerTime is how long a node may take for a sign of life before another one is asked for what any can do.
const answerTime = 300 * time.Millisecond

// answering puts those that give no sign of life last: State does not have a node down from the moment it dies. It probes
// one after the other as they are asked for, so that who is content with the first probes no other.
func (n *Node) answering(ctx context.Context, ids []string) iter.Seq[string] {
	return func(yield func(string) bool) {
		var silent []string
		for _, id := range ids {
			probe, cancel := context.WithTimeout(ctx, answerTime)
			err := n.mesh.Probe(probe, id)
			cancel()
			if err != nil {
				silent = append(silent, id)
			} else if !yield(id) {
				return
			}
		}
		for _, id := range silent {
			if !yield(id) {
				return
			}
		}
	}
}

// copyTo asks other nodes, the leader first, to hold the trees, until enough do.
func (n *Node) copyTo(ctx context.Context, trees []string, want int) error {
	if want <= 0 {
		return nil
	}
	var last error
	s := n.fsm.State()
	for id := range n.answering(ctx, n.holdersFor(s)) {
		ctx, cancel := context.WithTimeout(ctx, fetchPatience)
		err := n.peers.hold(ctx, id, trees)
		cancel()
		if err == nil {
			if want--; want == 0 {
				return nil
			}
			continue
		}
		n.log.Warn("copying packages", "to", s.NodeName(id), "err", err)
		last = err
	}
	if want > 0 && last != nil {
		return &api.Error{Code: api.CodeUnreachable, Message: "no other node could take a copy of the packages: " + last.Error(),
			Hint: "See isonomia members. A package that only one node has would be lost with it."}
	}
	return nil
}

// holdersFor lists the other nodes that are up and not sick, the leader first.
func (n *Node) holdersFor(s *model.State) []string {
	leader := n.fsm.Leader()
	var ids []string
	for id, node := range s.Nodes.All() {
		if id != n.id.ID && !node.Down && !node.Left && node.Sick == "" {
			ids = append(ids, id)
		}
	}
	slices.SortStableFunc(ids, func(a, b string) int {
		switch leader {
		case a:
			return -1
		case b:
			return 1
		}
		return 0
	})
	return ids
}

// keepPackagesLoop has this node, while it votes, hold the package of everything that is deployed: what the log survives, the
// packages survive too. Where a service runs, and where it was deployed from, may all be lost at once.
func (n *Node) keepPackagesLoop(ctx context.Context) error {
	t := time.NewTicker(keepingEvery)
	defer t.Stop()
	kept, settled := keptPackages{}, uint64(0) // settled: index of the State of which all is held
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		s := n.fsm.State()
		if s.Index == settled || !n.votes() {
			continue
		}
		if kept = n.keepPackages(ctx, s, kept, time.Now()); kept.whole() {
			settled = s.Index
		}
	}
}

// keptPackages says of each package that is deployed when it is looked at again: never while it is held.
type keptPackages map[string]keptPackage

type keptPackage struct {
	held  bool
	again backoff
}

func (k keptPackages) whole() bool {
	for _, p := range k {
		if !p.held {
			return false
		}
	}
	return true
}

// backoff says when something that failed is tried again: after 5 s, doubled up to ten minutes.
type backoff struct {
	at   time.Time
	wait time.Duration
}

func (b backoff) failed(now time.Time) backoff {
	b.wait = min(max(2*b.wait, keepingEvery), 10*time.Minute)
	b.at = now.Add(b.wait)
	return b
}

// votes says whether this node is a voter, as far as it knows.
func (n *Node) votes() bool {
	return slices.ContainsFunc(n.fsm.Servers(), func(s raftfsm.Server) bool { return s.ID == n.id.ID && s.Voter })
}

// keepPackages fetches what is deployed and was not held at the last look.
func (n *Node) keepPackages(ctx context.Context, s *model.State, before keptPackages, now time.Time) keptPackages {
	kept := keptPackages{}
	for tree := range deployedPackages(s) {
		p := before[tree]
		if !p.held && !now.Before(p.again.at) {
			err := n.fetchTree(ctx, tree)
			if p.held = err == nil; err != nil && ctx.Err() == nil {
				if p.again.wait == 0 {
					n.log.Warn("a package that a voter should hold cannot be fetched", "package", tree, "err", err)
				}
				p.again = p.again.failed(now)
			}
		}
		kept[tree] = p
	}
	return kept
}

// deployedPackages are those of all rows that are to run.
func deployedPackages(s *model.State) map[string]bool {
	trees := map[string]bool{}
	for _, r := range s.Rows.All() {
		if r.Spec.Package != "" && !r.Obsolete {
			trees[r.Spec.Package] = true
		}
	}
	return trees
}

// materialise puts a tree that is in the store into packages/ID, whole or not at all.
func (n *Node) materialise(ctx context.Context, tree string) error {
	id, err := snapshotstore.ParseID(tree)
	if err != nil {
		return fmt.Errorf("package %q: %w", tree, err)
	}
	n.fetches.lock(dirKey(tree)) // it may be on its way out
	defer n.fetches.unlock(dirKey(tree))
	return n.store.Materialise(ctx, id, n.dir.pkg(tree), snapshotstore.MaterialiseOptions{})
}

// keyedLock lets one at a time work on the same thing.
type keyedLock struct {
	mu   sync.Mutex // guards held
	held map[string]*heldLock
}

type heldLock struct {
	mu    sync.Mutex
	users int
}

func (k *keyedLock) lock(key string) {
	k.mu.Lock()
	if k.held == nil {
		k.held = map[string]*heldLock{}
	}
	h := k.held[key]
	if h == nil {
		h = &heldLock{}
		k.held[key] = h
	}
	h.users++
	k.mu.Unlock()
	h.mu.Lock()
}

func (k *keyedLock) unlock(key string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	h := k.held[key]
	h.mu.Unlock()
	if h.users--; h.users == 0 {
		delete(k.held, key)
	}
}
