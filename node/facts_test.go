package node

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

func TestFacts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	got := facts(Config{Dir: dir, Attributes: map[string]string{"zone": "a", "cores": "7", "data": "/elsewhere"}}, nil)
	for _, name := range []string{model.AttrMemory, model.AttrDisk, model.AttrDiskFree} {
		if n, err := strconv.ParseUint(got[name], 10, 64); err != nil || n == 0 {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	if got["zone"] != "a" || got["cores"] != "7" || got[model.DataAttribute] != dir {
		t.Errorf("what the operator gave: %v", got)
	}
	if types := strings.Split(got[model.AttrModules], ","); !slices.Contains(types, "process") || !slices.IsSorted(types) {
		t.Errorf("modules %v", types)
	}
	for _, name := range model.FactNames() {
		if got[name] == "" {
			t.Errorf("%s is not announced", name)
		}
	}
}

// Free space that goes up and down around a step is told once.
func TestSteadyFree(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	told := steadyFree(5*gib, "")
	if told != strconv.Itoa(4*gib) {
		t.Fatalf("told %s", told)
	}
	for _, free := range []uint64{4 * gib, 39 * gib / 10, 59 * gib / 10, 62 * gib / 10} {
		if got := steadyFree(free, told); got != told {
			t.Errorf("%d bytes free: told %s after %s", free, got, told)
		}
	}
	for free, want := range map[uint64]int{37 * gib / 10: 3 * gib, 65 * gib / 10: 6 * gib, 100 * gib: 96 * gib} {
		if got := steadyFree(free, told); got != strconv.Itoa(want) {
			t.Errorf("%d bytes free: told %s, want %d", free, got, want)
		}
	}
	if got := steadyFree(0, told); got != "0" {
		t.Errorf("a full disk: %s", got)
	}
}

// Facts of every node are in State, and what a model says of a node is known from any.
func TestInfrastructureOfACluster(t *testing.T) {
	t.Parallel()
	a := startNode(t, "a", nil)
	b := startNode(t, "b", a)
	run := "service \"idle\" {\n type = \"process\"\n run {\n command = [\"/bin/sleep\", \"1000\"]\n user = \"root\"\n }\n}\n"
	if os.Geteuid() != 0 {
		run = strings.Replace(run, "user = \"root\"\n", "", 1)
	}
	a.deploy(run+"node \"b\" {\n properties = { zone = \"east\", arch = \"any\" }\n container \"redis\" {\n settings = { redisPassword = \"p\" }\n }\n}\n", nil)
	await(t, 20*time.Second, func() string {
		nodes, err := b.Infrastructure(t.Context(), "")
		if err != nil || len(nodes) != 2 {
			return fmt.Sprintf("%v %v", err, nodes)
		}
		n := nodes[1]
		got := fmt.Sprint(n.Name, n.Status, n.Attributes["zone"], n.Provenance["zone"], n.Attributes["arch"], n.Provenance["arch"], n.Provenance["os"], n.Provenance["redis.redisPassword"])
		if got != "balive"+"eastmodelanymodelannouncedmodel" || nodes[0].Attributes["zone"] != "" || nodes[0].Attributes[model.AttrMemory] == "" {
			return fmt.Sprintf("%s %+v", got, nodes)
		}
		return ""
	})
}
