package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

func TestWhatIsReferredTo(t *testing.T) {
	t.Parallel()
	spec := func(node, tree string) model.RowSpec {
		return model.RowSpec{Key: node + "/" + tree, Node: node, Spec: model.Spec{Package: tree}}
	}
	s := &model.State{}
	s.Rows = s.Rows.Set("a/row", model.Row{RowSpec: spec("a", "row")})
	s.Specs = s.Specs.Set("a/old", spec("a", "old")).Set("b/other", spec("b", "other")).Set("b/none", spec("b", ""))
	s.Intents = s.Intents.Set("i", model.Intent{Packages: map[string]string{"web": "intent"}})
	s.Builds = s.Builds.Set("in", model.BuildRecord{Output: "built"})
	s.Pending = s.Pending.Set("p", model.Pending{Parts: []model.Part{{Packages: map[string]string{"web": "begun"}}, {Added: []model.RowSpec{spec("a", "part")}}}})
	want := []string{"begun", "built", "intent", "old", "other", "part", "row"}
	if got := slices.Sorted(maps.Keys(referred(s))); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := slices.Sorted(maps.Keys(referredOn(s, "a"))); !slices.Equal(got, []string{"old", "row"}) {
		t.Errorf("on a: %q", got)
	}
}

func TestReferencesExpire(t *testing.T) {
	t.Parallel()
	seen, now := map[string]time.Time{}, time.Unix(1000, 0)
	for _, step := range []struct {
		after    time.Duration
		referred string
		expired  string
	}{
		{0, "a b", ""}, {50 * time.Second, "b", ""}, {time.Second, "a b", ""},
		{time.Minute - 1, "b", ""}, {1, "b", "a"}, {time.Hour, "", "a b"},
	} {
		now = now.Add(step.after)
		referred := map[string]bool{}
		for _, tree := range strings.Fields(step.referred) {
			referred[tree] = true
		}
		if got := strings.Join(refresh(seen, referred, now, time.Minute), " "); got != step.expired {
			t.Errorf("at %v: %q expired, not %q", now.Unix(), got, step.expired)
		}
	}
}

// packaged is the echo service in a package with some text beside it.
func packaged(t *testing.T, n *testNode, text string) (tree, hcl string) {
	t.Helper()
	tree = putSource(t, n.Node, map[string]string{"data": text, "run": "#!/bin/sh\nread text < data\nexec sleep 1000\n"})
	return tree, fmt.Sprintf("service \"held\" {\n  type = \"process\"\n  package = \"./p\"\n  run {\n    command = [\"./run\"]\n    env = { TEXT = %q }\n  }\n}\n", text)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func hasTree(t *testing.T, n *Node, tree string) bool {
	t.Helper()
	id, err := snapshotstore.ParseID(tree)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := n.store.HasTree(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return whole
}

func TestPackagesAreCollected(t *testing.T) {
	defer noLeak(t)()
	n := startNode(t, "n1", nil)
	defer n.stop()
	first, hcl := packaged(t, n, "one")
	n.deploy(hcl, map[string]string{"held": first})
	second, hcl := packaged(t, n, "two")
	n.deploy(hcl, map[string]string{"held": second})
	stray := putSource(t, n.Node, map[string]string{"f": "of no use to anybody"})
	if err := n.materialise(t.Context(), stray); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(n.dir.packages(), "notes")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}

	now := time.Now()
	c := newCollector(n.Node)
	c.now = func() time.Time { return now }
	round := func() {
		t.Helper()
		if err := c.round(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	round()
	now = now.Add(packageGrace - time.Second)
	round()
	if !exists(n.dir.pkg(stray)) {
		t.Fatal("collected before its time")
	}
	now = now.Add(2 * time.Second)
	for range 2 {
		round()
		if exists(n.dir.pkg(stray)) || !exists(n.dir.pkg(first)) || !exists(n.dir.pkg(second)) || !exists(foreign) {
			t.Fatalf("the stray is there: %v, the old one: %v, the new one: %v", exists(n.dir.pkg(stray)), exists(n.dir.pkg(first)), exists(n.dir.pkg(second)))
		}
	}
	if left, _ := filepath.Glob(filepath.Join(n.dir.packages(), ".*"+stray+"*")); len(left) > 0 {
		t.Errorf("left %q", left)
	}

	// What is kept is enough to go back.
	plan, err := n.Plan(t.Context(), api.PlanRequest{Kind: "rollback"})
	if err == nil {
		_, err = n.Deploy(t.Context(), api.DeployRequest{PlanRequest: api.PlanRequest{Kind: "rollback"}, Proposal: "back", Base: plan.Base, Digest: plan.Digest})
	}
	if err != nil {
		t.Fatal(err)
	}
	n.settled()
	// A directory that State refers to stays, even if it was chosen for removal.
	if err := n.removePackage(first); err != nil || !exists(n.dir.pkg(first)) {
		t.Errorf("%v, there: %v", err, exists(n.dir.pkg(first)))
	}
}

// What nobody refers to goes, what is referred to stays; what was put lately is spared.
func TestObjectsAreCollected(t *testing.T) {
	t.Parallel()
	n := newBuilder(t, dataDir(t))
	old := putSource(t, n, map[string]string{"f": "of an older generation"})
	used := putSource(t, n, map[string]string{"f": "used", "g": "of an older generation"})
	stray := putSource(t, n, map[string]string{"f": strings.Repeat("of no use to anybody", 1000)})
	s := &model.State{}
	s.Specs = s.Specs.Set("a/1", model.RowSpec{Spec: model.Spec{Package: used}}).Set("a/0", model.RowSpec{Spec: model.Spec{Package: old}})
	there := func() string { return fmt.Sprint(hasTree(t, n, old), hasTree(t, n, used), hasTree(t, n, stray)) }

	if err := newCollector(n).collectStore(t.Context(), s); err != nil || there() != "true true true" {
		t.Fatal(err, there())
	}
	n.close()
	n.undo = nil
	var err error
	if n.store, err = snapshotstore.Open(n.dir.store(), snapshotstore.Options{Grace: -1}); err != nil {
		t.Fatal(err)
	}
	defer n.store.Close()
	now := time.Now()
	c := newCollector(n)
	c.now = func() time.Time { return now }
	if err := c.collectStore(t.Context(), s); err != nil || there() != "true true false" {
		t.Fatal(err, there())
	}
	s.Specs = s.Specs.Delete("a/0")
	for _, step := range []struct {
		after time.Duration
		want  string
	}{{packageGrace - 1, "true true false"}, {1, "false true false"}} {
		now = now.Add(step.after)
		if err := c.collectStore(t.Context(), s); err != nil || there() != step.want {
			t.Fatal(err, there(), step.want)
		}
	}
}

// A node that cannot be sure what is referred to collects nothing.
func TestNothingIsCollectedWithoutQuorum(t *testing.T) {
	n1 := startNode(t, "n1", nil)
	n2 := startNode(t, "n2", n1)
	defer n2.stop()
	stray := putSource(t, n2.Node, map[string]string{"f": "x"})
	if err := n2.materialise(t.Context(), stray); err != nil {
		t.Fatal(err)
	}
	c := newCollector(n2.Node)
	c.grace = 0
	n1.stop()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	if err := c.round(ctx); err == nil {
		t.Error("it collected")
	}
	if !exists(n2.dir.pkg(stray)) {
		t.Error("a package is gone")
	}
}

// Laying out and taking away at once: what the agent believes to be here is here.
func TestCollectingWhileFetching(t *testing.T) {
	t.Parallel()
	n := newBuilder(t, dataDir(t))
	n.agent = newAgent(n)
	tree := putSource(t, n, map[string]string{"a": "x", "b/c": "y"})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 50 {
			if err := n.materialise(t.Context(), tree); err != nil {
				t.Error(err)
			}
			n.agent.mu.Lock()
			n.agent.packages[tree] = exists(n.dir.pkg(tree))
			n.agent.mu.Unlock()
		}
	})
	wg.Go(func() {
		for range 50 {
			n.fetches.lock(dirKey(tree))
			aside := filepath.Join(n.dir.packages(), setAside+tree)
			n.agent.mu.Lock()
			err := os.Rename(n.dir.pkg(tree), aside)
			delete(n.agent.packages, tree)
			n.agent.mu.Unlock()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
			if err := errors.Join(removeAll(aside), n.store.RemoveTree(n.dir.pkg(tree))); err != nil {
				t.Error(err)
			}
			n.fetches.unlock(dirKey(tree))
		}
	})
	wg.Wait()
	if n.agent.packages[tree] != exists(n.dir.pkg(tree)) {
		t.Error("the agent is wrong about what is here")
	}
}

func TestHalfRemovedPackagesAreSwept(t *testing.T) {
	t.Parallel()
	dir := dataDir(t)
	n := newBuilder(t, dir)
	whole := putSource(t, n, map[string]string{"a": "x"})
	if err := n.materialise(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	n.close()
	n.undo = nil
	id := strings.Repeat("ab", 32)
	for _, d := range []string{setAside + id, "." + id + ".unfinished"} {
		if err := os.MkdirAll(filepath.Join(n.dir.packages(), d, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(n.dir.packages(), d), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(n.dir.packages(), "."+id+".complete"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	n = newBuilder(t, dir)
	entries, err := os.ReadDir(n.dir.packages())
	if err != nil || len(entries) != 2 || !exists(n.dir.pkg(whole)) {
		t.Errorf("%v, %v", entries, err)
	}
}

// A node that died a moment ago, which State does not know yet, is asked last.
func TestWhoAnswersIsAskedFirst(t *testing.T) {
	t.Parallel()
	one := startNode(t, "one", nil)
	two := startNode(t, "two", one)
	nobody := strings.Repeat("a", len(two.id.ID))
	if got, want := slices.Collect(one.answering(t.Context(), []string{nobody, two.id.ID})), []string{two.id.ID, nobody}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
