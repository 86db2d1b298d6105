package main

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/isonomia-mesh/isonomia/"

// allowed says which of our packages, and which modules of others, the non-test files of a package may import. It is
// the table of docs/DESIGN.md; the standard library is free except in model (see TestModelIsPure).
var allowed = map[string]struct{ ours, others []string }{
	"model":            {[]string{"model/placement"}, []string{"github.com/hashicorp/hcl", "github.com/zclconf/go-cty", "github.com/hashicorp/go-immutable-radix"}},
	"model/placement":  {nil, nil},
	"raftfsm":          {[]string{"model"}, []string{"github.com/hashicorp/raft", "github.com/hashicorp/raft-boltdb", "go.etcd.io/bbolt", "github.com/hashicorp/go-hclog", "github.com/hashicorp/go-metrics", "github.com/fxamacker/cbor"}},
	"mesh":             {nil, []string{"github.com/quic-go/quic-go", "github.com/hashicorp/serf", "github.com/hashicorp/memberlist", "github.com/hashicorp/go-hclog", "github.com/fxamacker/cbor"}},
	"activate":         {[]string{"model"}, []string{"golang.org/x/sys"}},
	"activate/keeper":  {[]string{"activate"}, []string{"golang.org/x/sys"}},
	"activate/process": {[]string{"model", "activate", "activate/keeper", "activate/ledger", "activate/place"}, []string{"golang.org/x/sys"}},
	// Modules with state, and what they share: programs run with a deadline, marks, a state that is a directory.
	"activate/tool":       {nil, nil},
	"activate/place":      {[]string{"activate"}, []string{"golang.org/x/sys"}},
	"activate/ledger":     {[]string{"activate", "activate/place"}, []string{"golang.org/x/sys"}},
	"activate/statetest":  {[]string{"activate"}, nil},
	"activate/fileset":    {[]string{"activate", "activate/ledger", "activate/place"}, nil},
	"activate/git":        {[]string{"activate", "activate/ledger", "activate/place", "activate/tool"}, nil},
	"activate/served":     {nil, nil},
	"activate/mysql":      {[]string{"activate", "activate/ledger", "activate/served", "activate/tool"}, nil},
	"activate/postgresql": {[]string{"activate", "activate/ledger", "activate/served", "activate/tool"}, nil},
	"activate/subversion": {[]string{"activate", "activate/ledger", "activate/place", "activate/tool"}, nil},
	"activate/redis":      {[]string{"activate", "activate/keeper", "activate/ledger", "activate/place", "activate/process", "activate/tool"}, nil},
	"activate/sqlite":     {[]string{"activate", "activate/ledger", "activate/place"}, []string{"modernc.org/sqlite"}},
	"snapshotstore":       {nil, []string{"github.com/klauspost/compress", "github.com/zeebo/blake3", "filippo.io/age", "golang.org/x/crypto", "golang.org/x/sys"}},
	"node/api":            {nil, nil},
	// hcl: the agent's configuration file has the model's syntax.
	"node": {[]string{"model", "raftfsm", "mesh", "activate", "activate/keeper", "activate/process", "activate/ledger", "activate/fileset", "activate/git", "activate/mysql",
		"activate/postgresql", "activate/redis", "activate/sqlite", "activate/subversion", "snapshotstore", "node/api"},
		[]string{"github.com/danielgtaylor/huma", "github.com/prometheus", "golang.org/x/sync", "github.com/fxamacker/cbor", "golang.org/x/sys", "github.com/hashicorp/hcl"}},
	"cli":                       {[]string{"node", "node/api", "model", "snapshotstore"}, []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "github.com/vbauerster/mpb", "golang.org/x/term"}},
	"testcluster":               {[]string{"node/api", "testcluster"}, []string{"golang.org/x/sys"}},
	"testcluster/lineservice":   {nil, nil},
	"testcluster/sqliteservice": {nil, []string{"modernc.org/sqlite"}},
	// What idle cost is held against: raft and serf alone.
	"testcluster/bare": {nil, []string{"github.com/hashicorp"}},
	"":                 {[]string{"cli"}, nil},
}

type listed struct {
	ImportPath string
	Dir        string
	GoFiles    []string
	Imports    []string
	Doc        string
}

func list(t *testing.T) []listed {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Doc", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var pkgs []listed
	for dec := json.NewDecoder(strings.NewReader(string(out))); dec.More(); {
		var p listed
		if err := dec.Decode(&p); err != nil {
			t.Fatal(err)
		}
		pkgs = append(pkgs, p)
	}
	return pkgs
}

// TestImports holds every package's imports against the table.
func TestImports(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, strings.TrimSuffix(module, "/")), "/")
		rule, ok := allowed[name]
		if strings.HasPrefix(name, "testcluster/") && !ok {
			rule, ok = allowed["testcluster"], true
		}
		if !ok {
			t.Errorf("package %s is not in the table of arch_test.go", name)
		}
		for _, imp := range p.Imports {
			if why := refused(imp, rule.ours, rule.others); why != "" {
				t.Errorf("%s imports %s: %s", name, imp, why)
			}
		}
		if p.Doc == "" && name != "" && len(p.GoFiles) > 0 {
			t.Errorf("package %s has no package comment", name)
		}
	}
}

func refused(imp string, ours, others []string) string {
	if rest, own := strings.CutPrefix(imp, module); own {
		if !slices.Contains(ours, rest) && !slices.ContainsFunc(ours, func(o string) bool { return o == "testcluster" && strings.HasPrefix(rest, "testcluster/") }) {
			return "not allowed by the table of directions"
		}
		return ""
	}
	if first, _, _ := strings.Cut(imp, "/"); !strings.Contains(first, ".") {
		return "" // the standard library
	}
	for _, o := range others {
		if imp == o || strings.HasPrefix(imp, o+"/") {
			return ""
		}
	}
	return "not among the modules that this package may use"
}

// TestModelIsPure looks for what would make a decision differ between two machines, or do I/O.
func TestModelIsPure(t *testing.T) {
	barred := []string{"os", "net", "sync", "log", "math/rand", "io/ioutil", "os/exec", "syscall", "unsafe", "crypto/rand"}
	fset := token.NewFileSet()
	files, err := filepath.Glob("model/*.go")
	below, err2 := filepath.Glob("model/*/*.go")
	if err != nil || err2 != nil || len(files) == 0 || len(below) == 0 {
		t.Fatalf("no files: %v, %v", err, err2)
	}
	files = append(files, below...)
	for _, path := range files {
		if strings.HasSuffix(path, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(fset, path, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range f.Imports {
			name, _ := strconv.Unquote(imp.Path.Value)
			if slices.ContainsFunc(barred, func(b string) bool { return name == b || strings.HasPrefix(name, b+"/") }) {
				t.Errorf("%s imports %s", path, name)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine", fset.Position(n.Pos()))
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains([]string{"Now", "Since", "Until", "Sleep", "After", "NewTimer", "Tick"}, n.Sel.Name) {
					t.Errorf("%s reads the clock: time.%s", fset.Position(n.Pos()), n.Sel.Name)
				}
			}
			return true
		})
	}
}

// TestMainIsThin keeps logic out of main.go.
func TestMainIsThin(t *testing.T) {
	fset := token.NewFileSet()
	f, err := parser.ParseFile(fset, "main.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if n := fset.Position(f.End()).Line; n > 16 {
		t.Errorf("main.go has %d lines", n)
	}
}
