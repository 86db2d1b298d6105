package model_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/isonomia-mesh/isonomia/model"
)

// TestMovesWait: of many states that move only so many are claimed at once; the others say what they wait for, and plan says
// how many it is about.
func TestMovesWait(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 2)
	models := func(node, more string) string {
		var text strings.Builder
		var pins []string
		for i := range 6 {
			name := fmt.Sprintf("s%d", i)
			text.WriteString(service(name, "state {\n managed = true\n}"))
			pins = append(pins, fmt.Sprintf("%s = [%q]", name, node))
		}
		return text.String() + "distribution {\n pin = { " + strings.Join(pins, ", ") + " }\n" + more + "}\n"
	}
	c.run(models("n1", ""))
	for more, want := range map[string]string{"": "6 states move: at most 16 at once, and 4 to one node", "moves = 3\n": "6 states move: at most 3 at once, and 3 to one node"} {
		if p := c.plan(models("n2", more)); len(p.Warnings) != 1 || p.Warnings[0] != want {
			t.Errorf("%q: %q", more, p.Warnings)
		}
	}
	c.deploy(models("n2", "moves = 3\n"))
	var olds []model.Row
	for _, r := range c.s.SystemRows("default") {
		if !r.Obsolete {
			c.advance(r) // prepared
		} else {
			olds = append(olds, r)
		}
	}
	accepted := 0
	for _, r := range olds {
		res := c.apply(model.Claims{Node: r.Node, Epoch: 1, Items: []model.Claim{{Row: r.Key, Phase: model.Saving, Generation: 2}}})
		if v := res[0].Verdicts[0]; v.Code == model.OK {
			accepted++
		} else if want := "waits: 3 other states are moving to n2"; v.Code != model.ErrGate || v.Reason != want || model.MoveWaits(c.s, r) != want {
			t.Errorf("%s: %+v, %q", r.Service, v, model.MoveWaits(c.s, r))
		}
	}
	if accepted != 3 {
		t.Errorf("%d are saved at once", accepted)
	}
	if why := model.MoveWaits(c.s, c.row("s5")); !strings.Contains(why, "waits: 3 other states") {
		t.Errorf("the new row of one that waits says %q", why)
	}
	for _, r := range olds { // what was saved counts on until it can be restored no more
		if now := c.s.Rows.At(r.Key); now.Phase == model.Saving {
			c.advance(now)
		}
	}
	if why := model.MoveWaits(c.s, olds[5]); why != "waits: 3 other states are moving to n2" {
		t.Errorf("while three wait to be restored: %q", why)
	}
	c.settle()
}
