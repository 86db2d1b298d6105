package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

func inventory(text string) model.Source {
	return model.Source{Files: map[string][]byte{"a.hcl": []byte("node \"n1\" {\n properties = { zone = \"model\" }\n}\n"), "01-gen.inventory.json": []byte(text)}}
}

// The model wins over a generator, and that over what a node announces.
func TestInfrastructure(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	c.must(model.UpdateNode{ID: "id-n1", Attributes: map[string]string{"zone": "own", "rack": "own", "os": "linux"}, Host: "10.0.0.1"})
	src := inventory(`[{"name":"n1","address":"x","attributes":{"zone":"gen","rack":7,"data":"/x"},"containers":{"redis":{"redisPassword":"p"}}},{"name":"elsewhere"}]`)
	src.Files["02-gen.inventory.json"] = []byte(`[{"name":"n1","attributes":{"spare":true,"none":null}}]`)
	m, diags := model.Parse(src, model.Known{})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	infos := model.Infrastructure(c.s, m)
	if len(infos) != 2 || infos[0].Name != "n1" || infos[1].Name != "n2" {
		t.Fatalf("%+v", infos)
	}
	if got, want := fmt.Sprint(infos[0].Attributes), "map[os:{linux announced} rack:{7 generator} spare:{true generator} zone:{model model}]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got := infos[0].Containers["redis"]["redisPassword"]; got != (model.Value{Text: "p", From: model.FromGenerator}) {
		t.Errorf("container: %v", got)
	}
	if got := model.Infrastructure(c.s, nil)[0].Attributes["zone"]; got.From != model.FromNode {
		t.Errorf("without a model: %v", got)
	}
}

// Expressions see what the model and generators say of a node.
func TestInventoryIsEvaluated(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1)
	src := inventory(`[{"name":"n1","attributes":{"rack":"7","zone":"gen"}}]`)
	src.Files["s.hcl"] = []byte("service \"a\" {\n type = \"process\"\n run { command = [\"run\", node.rack, node.zone] }\n}\n")
	m, diags := model.Parse(src, model.Known{Modules: model.Modules()})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	got, diags := model.Compose{State: c.s, System: "default", Model: m}.Run()
	if diags.HasErrors() || fmt.Sprint(got.Rows[0].Spec.Command) != "[run 7 model]" {
		t.Errorf("%v %+v", diags, got.Rows)
	}
}

func TestBadInventories(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`"a%d":"",`, 201)
	for i := range 201 {
		many = strings.Replace(many, "%d", fmt.Sprint(i), 1)
	}
	for text, want := range map[string]string{
		`{}`:                            "not the JSON expected",
		`[] []`:                         "something after its end",
		``:                              "not the JSON expected",
		`[{"name":"N"}]`:                "cannot be the name of a node",
		`[{"name":"n1"},{"name":"n1"}]`: "twice",
		`[{"name":"n1","attributes":{"a b":"c"}}]`:                             "cannot be a property",
		`[{"name":"n1","attributes":{"a":[1]}}]`:                               "a list or an object",
		`[{"name":"n1","attributes":{"a":"\u0000"}}]`:                          "zero character",
		`[{"name":"n1","containers":{"redis":{"redisPasword":"p"}}}]`:          `no setting "redisPasword"`,
		`[{"name":"n1","attributes":{` + strings.TrimSuffix(many, ",") + `}}]`: "more than 200",
	} {
		m, diags := model.Parse(inventory(text), model.Known{})
		if m != nil || !strings.Contains(diags.Error(), want) || diags[0].Subject.File != "01-gen.inventory.json" || diags[0].Hint == "" {
			t.Errorf("%.80s: %+v", text, diags)
		}
	}
}

func FuzzInventory(f *testing.F) {
	f.Add([]byte(`[{"name":"n1","attributes":{"zone":"a","cores":2,"x":true},"containers":{"redis":{"redisPassword":"p"}}}]`))
	f.Add([]byte(`[{"name":"n1","attributes":{"a":[1]}},{"name":"n1"}]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		m, diags := model.Parse(inventory(string(text)), model.Known{})
		if (m == nil) != diags.HasErrors() {
			t.Fatalf("model %v with %v", m, diags)
		}
		if m != nil && m.Inventory == nil {
			t.Fatal("no inventory")
		}
	})
}
