package cli

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// storeNode is a fake node with a real store.
func storeNode(t *testing.T) (*fakeNode, *snapshotstore.Store) {
	t.Helper()
	n := newFakeNode(t)
	store, err := snapshotstore.Open(t.TempDir(), snapshotstore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	n.mux.HandleFunc("POST /v1/objects/missing", func(w http.ResponseWriter, r *http.Request) {
		var req api.MissingRequest
		if err := json.NewDecoder(r.Body).Decode(&req); err != nil {
			t.Error(err)
		}
		var ids []snapshotstore.ID
		for _, text := range req.IDs {
			id, err := snapshotstore.ParseID(text)
			if err != nil {
				t.Error(err)
			}
			ids = append(ids, id)
		}
		reply := api.MissingReply{}
		for _, id := range store.Absent(ids) {
			reply.IDs = append(reply.IDs, id.String())
		}
		json.NewEncoder(w).Encode(reply)
	})
	n.mux.HandleFunc("PUT /v1/objects", func(w http.ResponseWriter, r *http.Request) {
		if _, err := store.ReceiveObjects(r.Context(), r.Body); err != nil {
			writeError(w, api.Error{Code: api.CodeFailed, Message: err.Error()})
		}
	})
	return n, store
}

// newOperation is a deploy operation against n whose output goes to the buffer.
func newOperation(n *fakeNode) (*operation, *bytes.Buffer) {
	var out bytes.Buffer
	c := newConsole(strings.NewReader(""), &out, &out, func(string) string { return "" })
	c.now, c.node = func() time.Time { return epoch }, n.socket
	op := &operation{console: c, kind: deployKind, client: api.NewClient(n.socket)}
	op.req.System = "default"
	return op, &out
}

func writeFiles(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPackagesTravelOnce(t *testing.T) {
	t.Parallel()
	n, store := storeNode(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"web/bin/run": strings.Repeat("program ", 100_000), "web/page.html": "<p>", "staff/run": "x"})
	m := &model.Model{Services: []*model.Service{
		{Name: "one", Package: "./web"}, {Name: "two", Package: "web"}, {Name: "bare"}, {Name: "staff", Package: "staff"},
	}}
	op, out := newOperation(n)
	trees, err := op.packages(t.Context(), dir, m)
	if err != nil {
		t.Fatal(err)
	}
	if len(trees) != 3 || trees["one"] != trees["two"] || trees["one"] == trees["staff"] {
		t.Errorf("trees %v", trees)
	}
	for service, tree := range trees {
		id, err := snapshotstore.ParseID(tree)
		if err != nil {
			t.Fatal(err)
		}
		if whole, err := store.HasTree(t.Context(), id); err != nil || !whole {
			t.Errorf("%s is not whole in the store: %v", service, err)
		}
	}
	if sends := n.asked("PUT /v1/objects"); sends != 2 {
		t.Errorf("%d streams for two directories", sends)
	}
	wantContains(t, out.String(), "Sent ", " to the node, which lacked ")
	out.Reset()
	again, err := op.packages(t.Context(), dir, m)
	if err != nil || again["one"] != trees["one"] {
		t.Errorf("second time %v, %v", again, err)
	}
	if sends := n.asked("PUT /v1/objects"); sends != 2 || out.Len() > 0 {
		t.Errorf("unchanged packages were sent again: %d, %s", sends, out)
	}
}

func TestPackageProblemsNameTheirPlace(t *testing.T) {
	t.Parallel()
	n, _ := storeNode(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"file": "x", "escape/x": "x"})
	if err := os.Symlink("../../etc/passwd", filepath.Join(dir, "escape", "link")); err != nil {
		t.Fatal(err)
	}
	for path, says := range map[string]string{"absent": "is not a directory here", "file": "is not a directory here", "escape": "link"} {
		svc := &model.Service{Name: "web", Package: path}
		svc.Range.Filename, svc.Range.Start.Line = "services.hcl", 12
		op, _ := newOperation(n)
		_, err := op.packages(t.Context(), dir, &model.Model{Services: []*model.Service{svc}})
		e := explain(err)
		if err == nil || e.Code != api.CodeInvalidModel || e.Where != "services.hcl:12" || !strings.Contains(e.Message, says) {
			t.Errorf("%s: got %+v", path, e)
		}
	}
}

func TestUploadThatIsRefused(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.mux.HandleFunc("POST /v1/objects/missing", func(w http.ResponseWriter, r *http.Request) {
		var req api.MissingRequest
		json.NewDecoder(r.Body).Decode(&req)
		json.NewEncoder(w).Encode(api.MissingReply(req))
	})
	n.refuse("PUT /v1/objects", api.Error{Code: api.CodeFailed, Message: "no room on disk"})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"web/a": "a"})
	op, _ := newOperation(n)
	_, err := op.packages(t.Context(), dir, &model.Model{Services: []*model.Service{{Name: "web", Package: "web"}}})
	if err == nil || !strings.Contains(err.Error(), "no room on disk") || api.CodeOf(err) != api.CodeFailed {
		t.Errorf("got %v", err)
	}
}

func TestBuild(t *testing.T) {
	t.Parallel()
	n, _ := storeNode(t)
	var req api.BuildRequest
	n.mux.HandleFunc("POST /v1/builds", func(w http.ResponseWriter, r *http.Request) {
		json.NewDecoder(r.Body).Decode(&req)
		enc := json.NewEncoder(w)
		enc.Encode(api.BuildEvent{Log: "compiling\nlinking \x1b[2Jfast\n"})
		if req.Service == "bad" {
			enc.Encode(api.BuildEvent{Error: &api.Error{Code: api.CodeBuildFailed, Message: "exit status 2"}})
			return
		}
		enc.Encode(api.BuildEvent{Output: strings.Repeat("ab", 32), Cached: req.Service == "known"})
	})
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"src/main.go": "package main"})
	service := func(name string) *model.Model {
		svc := &model.Service{Name: name, Package: "src", Build: &model.Build{Command: []string{"go", "build"}, Env: map[string]string{"A": "b"}, Timeout: time.Minute}}
		svc.Range.Filename, svc.Range.Start.Line = "services.hcl", 3
		return &model.Model{Services: []*model.Service{svc}}
	}
	op, out := newOperation(n)
	op.rebuild = true
	trees, err := op.packages(t.Context(), dir, service("web"))
	if err != nil || trees["web"] != strings.Repeat("ab", 32) {
		t.Errorf("got %v, %v", trees, err)
	}
	wantContains(t, out.String(), "web | compiling\nweb | linking fast\n", "Built web.")
	if len(req.Source) != 64 || !req.Rebuild || req.Timeout != time.Minute || req.Env["A"] != "b" || req.System != "default" {
		t.Errorf("asked for %+v", req)
	}
	out.Reset()
	if _, err := op.packages(t.Context(), dir, service("known")); err != nil || strings.Contains(out.String(), "Built") {
		t.Errorf("a build that was known: %v, %s", err, out)
	}
	_, err = op.packages(t.Context(), dir, service("bad"))
	if e := explain(err); err == nil || e.Code != api.CodeBuildFailed || e.Where != "services.hcl:3" || e.Message != `build of service "bad": exit status 2` {
		t.Errorf("got %+v", e)
	}
}

func TestReadSource(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"services.hcl": "a", "more.hcl.json": "{}", "README.md": "x", ".hidden.hcl": "x", "sub/other.hcl": "x"})
	src, err := readSource(dir)
	if err != nil || len(src.Files) != 2 || string(src.Files["services.hcl"]) != "a" {
		t.Errorf("got %v, %v", src.Files, err)
	}
	if err := os.Mkdir(filepath.Join(dir, "dir.hcl"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := readSource(dir); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a directory named like a file: %v", err)
	}
	if _, err := readSource(t.TempDir()); err == nil || !strings.Contains(err.Error(), "no *.hcl") {
		t.Errorf("an empty directory: %v", err)
	}
	large := t.TempDir()
	writeFiles(t, large, map[string]string{"a.hcl": strings.Repeat("#", model.MaxSourceBytes-10), "b.hcl": strings.Repeat("#", 11)})
	if _, err := readSource(large); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("too large: %v", err)
	}
}

func TestSlowWorkIsSaid(t *testing.T) {
	t.Parallel()
	said := &transcript{}
	d := &lineDisplay{w: said, slow: time.Millisecond}
	m := d.meter("building web")
	said.await(t, "(building web)\n")
	m.end()
	d.slow = time.Hour
	d.meter("quick").end()
	if strings.Contains(said.String(), "quick") {
		t.Error("said what was over at once")
	}
}

// What goes wrong with a file here must not be told as a broken connection.
func TestFileThatGoesWhileItIsSent(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	dir := t.TempDir()
	writeFiles(t, dir, map[string]string{"web/a": "a", "web/sub/b": "b"})
	n.mux.HandleFunc("POST /v1/objects/missing", func(w http.ResponseWriter, r *http.Request) {
		var req api.MissingRequest
		json.NewDecoder(r.Body).Decode(&req)
		if err := os.Symlink("/etc/passwd", filepath.Join(dir, "web", "sub", "c")); err != nil && !os.IsExist(err) {
			t.Error(err)
		}
		json.NewEncoder(w).Encode(api.MissingReply(req))
	})
	n.mux.HandleFunc("PUT /v1/objects", func(_ http.ResponseWriter, r *http.Request) { io.Copy(io.Discard, r.Body) })
	op, _ := newOperation(n)
	_, err := op.packages(t.Context(), dir, &model.Model{Services: []*model.Service{{Name: "web", Package: "web"}}})
	e := explain(err)
	if err == nil || e.Code != api.CodeInvalidModel || !strings.Contains(e.Message, `"sub/c"`) {
		t.Errorf("got %+v", e)
	}
}
