package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

func script(t *testing.T, body string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gen.sh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+body+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestInventories(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "rack.json")
	if err := os.WriteFile(file, []byte(`[{"name":"n1","attributes":{"rack":"7"}}]`), 0o644); err != nil {
		t.Fatal(err)
	}
	src := model.Source{Files: map[string][]byte{"a.hcl": []byte("")}}
	gen := script(t, `echo note >&2; echo '[{"name":"n1","attributes":{"zone":"a"}}]'`)
	if err := readInventories(t.Context(), []string{gen, file}, src); err != nil {
		t.Fatal(err)
	}
	if got := string(src.Files["01-gen.sh"+model.InventorySuffix]); !strings.Contains(got, `"zone":"a"`) {
		t.Errorf("of the program: %q", got)
	}
	if got := string(src.Files["02-rack"+model.InventorySuffix]); !strings.Contains(got, `"rack":"7"`) {
		t.Errorf("of the file: %q", got)
	}
}

// A generator that fails, prints too much or does not end stops the deploy before anything is sent.
func TestGeneratorsThatFail(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		body     string
		deadline time.Duration
		want     string
	}{
		{"echo no cloud here >&2; exit 3", time.Minute, "exit status 3: no cloud here"},
		{"head -c 2000000 /dev/zero", time.Minute, "prints more than"},
		{"sleep 600", 300 * time.Millisecond, "has not ended within"},
		{"sleep 600 & exec sleep 600", 300 * time.Millisecond, "has not ended within"},
	} {
		began := time.Now()
		_, err := runGenerator(t.Context(), script(t, tc.body), tc.deadline)
		if err == nil || !strings.Contains(err.Error(), tc.want) || api.CodeOf(err) != api.CodeInvalidModel {
			t.Errorf("%q: %v", tc.body, err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("%q took %s", tc.body, took)
		}
	}
	if err := readInventories(t.Context(), []string{"/nonexistent"}, model.Source{}); err == nil {
		t.Error("a file that there is not was taken")
	}
}

// What is shown can be read back as a model, and as an inventory.
func TestInfrastructure(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/infrastructure", []api.InventoryNode{{Name: "n1", Address: "10.0.0.1", Status: "alive",
		Attributes: map[string]string{"zone": "b", "note": "a \"b\" ${c} %{d}\n\u2028", "data": "/var/lib/isonomia"},
		Containers: map[string]map[string]string{"postgresql-database": {"postgresqlUsername": "postgres"}},
		Provenance: map[string]string{"zone": "model", "note": "announced", "data": "announced", "postgresql-database.postgresqlUsername": "generator"}}})
	got := invoke(t, n, []string{"infrastructure"})
	got.want(t, 0)
	wantContains(t, got.out, `node "n1" {`, `zone = "b"`, "# model", "# generator", "# 10.0.0.1, alive")
	m, diags := model.Parse(model.Source{Files: map[string][]byte{"i.hcl": []byte(got.out)}}, model.Known{})
	if diags.HasErrors() {
		t.Fatalf("%v\n%s", diags, got.out)
	}
	want := map[string]string{"zone": "b", "note": "a \"b\" ${c} %{d}\n\u2028"}
	if d := m.Nodes[0]; fmt.Sprint(d.Properties) != fmt.Sprint(want) || d.Containers["postgresql-database"]["postgresqlUsername"] != "postgres" {
		t.Errorf("read back: %q %v", d.Properties, d.Containers)
	}
	asJSON := invoke(t, n, []string{"infrastructure", "--json"})
	m, diags = model.Parse(model.Source{Files: map[string][]byte{"i.hcl": nil, "i.inventory.json": []byte(asJSON.out)}}, model.Known{})
	if diags.HasErrors() || m.Inventory["n1"].Properties["zone"] != "b" || m.Inventory["n1"].Properties["data"] != "" {
		t.Errorf("as an inventory: %v %+v", diags, m)
	}
}
