package node

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/fileset"
	"github.com/isonomia-mesh/isonomia/activate/git"
	"github.com/isonomia-mesh/isonomia/activate/mysql"
	"github.com/isonomia-mesh/isonomia/activate/postgresql"
	"github.com/isonomia-mesh/isonomia/activate/process"
	"github.com/isonomia-mesh/isonomia/activate/redis"
	"github.com/isonomia-mesh/isonomia/activate/sqlite"
	"github.com/isonomia-mesh/isonomia/activate/subversion"
	"github.com/isonomia-mesh/isonomia/model"
)

// TestModelKnowsTheModules holds what composing knows of the types against the modules: names, settings and outputs.
func TestModelKnowsTheModules(t *testing.T) {
	t.Parallel()
	n := &Node{dir: "/var/lib/iso nomia?"}
	n.openModules()
	var types []string
	for _, k := range n.kinds {
		types = append(types, k.typ)
	}
	slices.Sort(types)
	if !slices.Equal(types, model.Modules()) {
		t.Fatalf("the node has %q, the model %q", types, model.Modules())
	}
	outputs := map[string]func(activate.Instance) map[string]string{fileset.Type: fileset.Outputs, git.Type: git.Outputs, mysql.Type: mysql.Outputs,
		postgresql.Type: postgresql.Outputs, sqlite.Type: sqlite.Outputs, subversion.Type: subversion.Outputs}
	dirs := map[string]string{fileset.Type: "fileset", git.Type: "git", mysql.Type: "mysql", postgresql.Type: "postgresql", process.Type: "process",
		redis.Type: "redis", sqlite.Type: "sqlite", subversion.Type: "subversion"}
	for _, typ := range types {
		if got, want := model.ModuleSettings(typ), settingsRead(t, dirs[typ]); !slices.Equal(got, want) {
			t.Errorf("%s: the model allows the settings %q, the module reads %q", typ, got, want)
		}
		all := map[string]string{}
		for _, s := range model.ModuleSettings(typ) {
			all[s] = "/x/../" + s
		}
		for _, settings := range []map[string]string{nil, all} {
			in := activate.Instance{Service: "staff", StateDir: n.dir.state("default", "staff"), Settings: settings}
			want := map[string]string{}
			if f := outputs[typ]; f != nil {
				want = f(in)
			}
			if got := model.ModuleOutputs(typ, "default", "staff", settings, string(n.dir)); !maps.Equal(got, want) {
				t.Errorf("%s: the model composes %q, the module says %q", typ, got, want)
			}
		}
	}
}

// settingsRead are the settings that the sources of a module look up.
func settingsRead(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("..", "activate", dir, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no sources of %s: %v", dir, err)
	}
	lookup := regexp.MustCompile(`ettings\["(\w+)"\]`)
	var out []string
	for _, f := range files {
		if ok, _ := filepath.Match("*_test.go", filepath.Base(f)); ok {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range lookup.FindAllSubmatch(text, -1) {
			out = append(out, string(m[1]))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// seer is a module of which only Observe is used: the rest is nil.
type seer struct {
	activate.Module
	see func(ctx context.Context) ([]activate.Running, error)
}

func (s seer) Observe(ctx context.Context) ([]activate.Running, error) { return s.see(ctx) }

func running(id string) []activate.Running {
	return []activate.Running{{ID: id, Attempt: 1, StartedAt: time.Unix(1, 0)}}
}

// TestOneBlindModule: a module that cannot see hides neither the others nor its own instances, whose rows are left alone.
func TestOneBlindModule(t *testing.T) {
	t.Parallel()
	var broken atomic.Bool
	n := startNode(t, "n1", nil)
	row := func(service, typ string) model.Row {
		return model.Row{RowSpec: model.RowSpec{Key: n.id.ID + "/" + service, Service: service, Node: n.id.ID, Spec: model.Spec{Type: typ}}, Phase: model.Active}
	}
	s := &model.State{}
	for _, r := range []model.Row{row("a", "seen"), row("b", "blind"), row("c", "blind")} {
		s.Rows = s.Rows.Set(r.Key, r)
	}
	a := newAgent(&Node{log: testLog(), id: n.id, dir: n.dir, kinds: []*kind{
		{typ: "blind", mod: seer{see: func(context.Context) ([]activate.Running, error) {
			if broken.Load() {
				return nil, errors.New("broken")
			}
			return running(n.id.ID + "/b"), nil
		}}},
		{typ: "seen", mod: seer{see: func(context.Context) ([]activate.Running, error) { return running(n.id.ID + "/a"), nil }}}}})
	for range 2 {
		a.observe(t.Context(), s)
		own := a.own(s)
		if !own.Processes[n.id.ID+"/a"].Running || !own.Processes[n.id.ID+"/b"].Running || own.Processes[n.id.ID+"/c"].Running {
			t.Errorf("broken %v: %+v", broken.Load(), own.Processes)
		}
		if own.Busy[n.id.ID+"/a"] || own.Busy[n.id.ID+"/b"] != broken.Load() || own.Busy[n.id.ID+"/c"] != broken.Load() {
			t.Errorf("broken %v: busy are %v", broken.Load(), own.Busy)
		}
		broken.Store(true)
	}
}

// TestAskingDoesNotHoldUp: a server that does not answer holds up nobody, and what was seen before a change does not count.
func TestAskingDoesNotHoldUp(t *testing.T) {
	t.Parallel()
	asked, answer := make(chan struct{}, 10), make(chan []activate.Running)
	told := make(chan struct{}, 10)
	k := &kind{typ: "x", asks: true, mod: seer{see: func(ctx context.Context) ([]activate.Running, error) {
		asked <- struct{}{}
		select {
		case r := <-answer:
			return r, nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}}}
	look := func() ([]activate.Running, error) { return k.observe(t.Context(), func() { told <- struct{}{} }) }
	for range 2 {
		if _, err := look(); !errors.Is(err, errAsking) {
			t.Fatalf("while it does not answer: %v", err)
		}
	}
	answer <- running("a")
	<-told
	if r, err := look(); err != nil || len(r) != 1 || r[0].ID != "a" || len(asked) != 1 {
		t.Errorf("%v, %v, asked %d times", r, err, len(asked))
	}
	k.touched()
	if _, err := look(); !errors.Is(err, errAsking) || len(asked) != 2 {
		t.Errorf("after a change: %v, asked %d times", err, len(asked))
	}
	k.touched() // during the look
	answer <- running("b")
	<-told
	go func() { answer <- running("c") }()
	if r, err := look(); err != nil || len(r) != 1 || r[0].ID != "c" {
		t.Errorf("%v, %v", r, err)
	}
	<-told
}

func TestStagesAreSwept(t *testing.T) {
	t.Parallel()
	n := &Node{dir: paths(t.TempDir()), log: testLog()}
	r := model.RowSpec{System: "default", Service: "db"}
	for _, what := range []string{"state/a", ".state.warm/b", "dump/c"} {
		dir, err := n.stage(r, what)
		if err == nil {
			err = os.MkdirAll(dir, 0o700)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := n.noteRestoring(r, model.Snapshot{ID: "x"}); err != nil {
		t.Fatal(err)
	}
	n.sweepStages()
	left, err := os.ReadDir(n.dir.stage("default", "db"))
	if err != nil || len(left) != 1 || left[0].Name() != restoringFile {
		t.Errorf("%v, %v", left, err)
	}
}

// TestForgottenInstance: of a row that State knows nothing of, the marks say what is to be stopped.
func TestForgottenInstance(t *testing.T) {
	t.Parallel()
	m := sqlite.New(t.TempDir())
	k := &kind{typ: sqlite.Type, mod: m}
	in := activate.Instance{ID: "n1/staff", Attempt: 1, Service: "staff", Container: sqlite.Type, Type: sqlite.Type, StateDir: t.TempDir()}
	if err := m.Start(t.Context(), in); err != nil {
		t.Fatal(err)
	}
	if other := k.forgotten("n1/other"); other.StateDir != "" || other.ID != "n1/other" {
		t.Errorf("%+v", other)
	}
	if err := m.Stop(t.Context(), k.forgotten(in.ID)); err != nil {
		t.Fatal(err)
	}
	if all, err := m.Observe(t.Context()); err != nil || len(all) > 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if err := m.Deletable(in); err != nil {
		t.Error(err)
	}
}
