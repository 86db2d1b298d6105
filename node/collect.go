package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// Packages that nothing refers to any more are collected: their directories, then their objects. What is referred to is
// read from State, from one that is no older than the leader's, so that a node that lags, or is cut off, collects
// nothing. There is no list of what to remove: each round looks at everything again, and a round that is cut off
// anywhere is made good by the next.

const (
	collectEvery = 5 * time.Minute
	collectFully = time.Hour     // at the latest; in between only when what is referred to changed
	packageGrace = 2 * time.Hour // since something was put, asked for or referred to
	setAside     = ".gc-"        // before the name of a package's directory that is being removed
)

// collector remembers between rounds what was referred to lately. It belongs to one goroutine.
type collector struct {
	n     *Node
	grace time.Duration
	now   func() time.Time

	trees, dirs map[string]time.Time // when last referred to, or first seen
	kept        []string             // by the last collection of the store
	last        time.Time
}

func newCollector(n *Node) *collector {
	return &collector{n: n, grace: packageGrace, now: time.Now, trees: map[string]time.Time{}, dirs: map[string]time.Time{}}
}

func (n *Node) collectLoop(ctx context.Context) error {
	c := newCollector(n)
	for ctx.Err() == nil {
		n.pause(ctx, collectEvery)
		if err := c.round(ctx); err != nil && ctx.Err() == nil {
			n.log.Warn("collecting packages", "err", err)
		}
	}
	return nil
}

// round collects once what has not been referred to for the grace time.
func (c *collector) round(ctx context.Context) error {
	reading, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s, err := c.n.fsm.Read(reading)
	if err != nil {
		return fmt.Errorf("what is referred to is not certain: %w", err)
	}
	if err := c.collectDirs(s); err != nil {
		return err
	}
	return c.collectStore(ctx, s)
}

// referred are the packages that State refers to: those of the rows of all generations that are kept, of intents that a
// rollback can compose again, of deployments under way, and the outputs of builds.
func referred(s *model.State) map[string]bool {
	trees := map[string]bool{}
	for _, r := range s.Specs.All() {
		trees[r.Spec.Package] = true
	}
	for _, r := range s.Rows.All() {
		trees[r.Spec.Package] = true
	}
	packages := func(m map[string]string) {
		for _, tree := range m {
			trees[tree] = true
		}
	}
	for _, in := range s.Intents.All() {
		packages(in.Packages)
	}
	for _, p := range s.Pending.All() {
		for _, part := range p.Parts {
			packages(part.Packages)
			for _, r := range part.Added {
				trees[r.Spec.Package] = true
			}
		}
	}
	for _, b := range s.Builds.All() {
		trees[b.Output] = true
	}
	for _, snap := range s.Snapshots.All() {
		trees[snap.ID], trees[snap.Facts] = true, true
	}
	for _, c := range s.Custody.All() {
		trees[c.Snapshot] = true
	}
	delete(trees, "")
	return trees
}

// referredOn are the packages whose directories a node needs: those of its own rows, of all generations that are kept.
func referredOn(s *model.State, self string) map[string]bool {
	trees := map[string]bool{}
	for _, r := range s.Specs.Prefix(self + "/") {
		trees[r.Spec.Package] = true
	}
	for _, r := range s.Rows.Prefix(self + "/") {
		trees[r.Spec.Package] = true
	}
	delete(trees, "")
	return trees
}

// refresh notes what is referred to now, and gives what has not been for the grace time.
func refresh(seen map[string]time.Time, referred map[string]bool, now time.Time, grace time.Duration) (expired []string) {
	for tree := range referred {
		seen[tree] = now
	}
	for tree, at := range seen {
		if !referred[tree] && now.Sub(at) >= grace {
			expired = append(expired, tree)
		}
	}
	slices.Sort(expired)
	return expired
}

// collectDirs removes directories of packages. One that is met without a reference gets the grace time from then on.
func (c *collector) collectDirs(s *model.State) error {
	here, err := c.n.packageDirs()
	if err != nil {
		return err
	}
	for _, tree := range here {
		if _, known := c.dirs[tree]; !known {
			c.dirs[tree] = c.now()
		}
	}
	for _, tree := range refresh(c.dirs, referredOn(s, c.n.id.ID), c.now(), c.grace) {
		delete(c.dirs, tree)
		if err := c.n.removePackage(tree); err != nil {
			return err
		}
	}
	return nil
}

// packageDirs lists the packages that are laid out here.
func (n *Node) packageDirs() ([]string, error) {
	entries, err := os.ReadDir(n.dir.packages())
	if err != nil {
		return nil, fmt.Errorf("list packages: %w", err)
	}
	var trees []string
	for _, e := range entries {
		if _, err := snapshotstore.ParseID(e.Name()); err == nil && e.IsDir() {
			trees = append(trees, e.Name())
		}
	}
	return trees, nil
}

// removePackage takes a package's directory away unless State refers to it by now. It vanishes by rename, at once and
// under the lock under which the agent looks which packages are here, so that no step begins with one that is going.
func (n *Node) removePackage(tree string) error {
	n.fetches.lock(dirKey(tree))
	defer n.fetches.unlock(dirKey(tree))
	aside := filepath.Join(n.dir.packages(), setAside+tree)
	if err := removeAll(aside); err != nil {
		return fmt.Errorf("remove package %.12s: %w", tree, err)
	}
	gone, err := n.putAside(tree, aside)
	if err == nil && gone {
		n.log.Info("removing a package that nothing refers to", "package", tree)
		err = cmp.Or(removeAll(aside), n.store.RemoveTree(n.dir.pkg(tree))) // of that, only the marker is left
	}
	if err != nil {
		return fmt.Errorf("remove package %.12s: %w", tree, err)
	}
	return nil
}

func (n *Node) putAside(tree, aside string) (gone bool, err error) {
	n.agent.mu.Lock()
	defer n.agent.mu.Unlock()
	if referredOn(n.fsm.State(), n.id.ID)[tree] {
		return false, nil
	}
	err = os.Rename(n.dir.pkg(tree), aside)
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err == nil {
		delete(n.agent.packages, tree)
	}
	return err == nil, err
}

// dirKey is the key of a package's directory among the locks of fetches.
func dirKey(tree string) string { return "dir " + tree }

// sweepPackages removes what earlier rounds and crashes left half removed or half made. Nothing uses packages yet.
func (n *Node) sweepPackages() error {
	left, err := filepath.Glob(filepath.Join(n.dir.packages(), setAside+"*"))
	if err != nil {
		return err
	}
	for _, d := range left {
		if err := removeAll(d); err != nil {
			return fmt.Errorf("sweep packages: %w", err)
		}
	}
	if err := snapshotstore.RemoveUnfinished(n.dir.packages()); err != nil {
		return fmt.Errorf("sweep packages: %w", err)
	}
	return n.sweepMarkers()
}

// sweepMarkers removes the markers of directories that are no more.
func (n *Node) sweepMarkers() error {
	markers, err := filepath.Glob(filepath.Join(n.dir.packages(), ".*.complete"))
	if err != nil {
		return err
	}
	for _, m := range markers {
		tree := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(m), "."), ".complete")
		if _, err := os.Lstat(n.dir.pkg(tree)); errors.Is(err, fs.ErrNotExist) {
			if err := os.Remove(m); err != nil {
				return fmt.Errorf("sweep packages: %w", err)
			}
		}
	}
	return nil
}

// collectStore removes objects of trees that have not been referred to for the grace time; the store itself spares what
// was put or asked for in that time. Looking at all trees is not free: it is done when the references changed, and once
// an hour.
func (c *collector) collectStore(ctx context.Context, s *model.State) error {
	for _, tree := range refresh(c.trees, referred(s), c.now(), c.grace) {
		delete(c.trees, tree)
	}
	keep := slices.Sorted(maps.Keys(c.trees))
	if slices.Equal(keep, c.kept) && c.now().Sub(c.last) < collectFully {
		return nil
	}
	ids := make([]snapshotstore.ID, 0, len(keep))
	for _, tree := range keep {
		if id, err := snapshotstore.ParseID(tree); err == nil { // what is no id names nothing in the store
			ids = append(ids, id)
		}
	}
	removed, bytes, err := c.n.store.Collect(ctx, ids)
	if err != nil {
		return err
	}
	c.kept, c.last = keep, c.now()
	if removed > 0 {
		c.n.log.Info("collected objects of packages", "objects", removed, "bytes", bytes)
	}
	return nil
}
