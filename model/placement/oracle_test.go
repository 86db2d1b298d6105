package placement

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// drawProblem draws a problem that is small enough to try everything.
func drawProblem(t *rapid.T) *Problem {
	p := &Problem{Strategy: Strategy(rapid.SampledFrom(Strategies()).Draw(t, "strategy"))}
	p.Minimize = Objective(rapid.SampledFrom(Objectives()).Draw(t, "minimize"))
	if p.Strategy == Optimal {
		p.MoveCost = int64(rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "move cost"))
	}
	nodes, dims := rapid.IntRange(1, 4).Draw(t, "nodes"), rapid.IntRange(0, 2).Draw(t, "dimensions")
	for d := range dims {
		p.Dimensions = append(p.Dimensions, fmt.Sprint("d", d))
	}
	zone := Domain{Name: "zone"}
	for n := range nodes {
		name := fmt.Sprint("n", n)
		p.Nodes = append(p.Nodes, Node{ID: name, Name: name, Load: rapid.IntRange(0, 2).Draw(t, "load"), Cost: int64(rapid.IntRange(0, 5).Draw(t, "cost"))})
		for range dims {
			p.Nodes[n].Capacity = append(p.Nodes[n].Capacity, int64(rapid.IntRange(0, 10).Draw(t, "capacity")))
		}
		zone.Values = append(zone.Values, rapid.IntRange(-1, 1).Draw(t, "zone"))
	}
	p.Domains = []Domain{zone}
	for i := range rapid.IntRange(1, 5).Draw(t, "items") {
		it := Item{Name: fmt.Sprint("i", i), Size: rapid.IntRange(1, 2).Draw(t, "size"), Copies: rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(t, "copies"), Weight: int64(rapid.IntRange(1, 3).Draw(t, "weight"))}
		for n := range nodes {
			if rapid.IntRange(0, 4).Draw(t, "allowed") > 0 {
				it.Allowed = append(it.Allowed, n)
			}
		}
		for range dims {
			it.Demand = append(it.Demand, int64(rapid.IntRange(0, 6).Draw(t, "demand")))
		}
		it.Previous = rapid.SliceOfNDistinct(rapid.IntRange(0, nodes-1), 0, min(it.Copies, nodes), rapid.ID).Draw(t, "previous")
		p.Items = append(p.Items, it)
	}
	for range rapid.IntRange(0, 2).Draw(t, "rules") {
		p.Apart = append(p.Apart, Apart{rapid.IntRange(0, len(p.Items)-1).Draw(t, "a"), rapid.IntRange(0, len(p.Items)-1).Draw(t, "b"), rapid.IntRange(0, 1).Draw(t, "domain")})
	}
	for range rapid.IntRange(0, 5).Draw(t, "links") {
		p.Links = append(p.Links, [2]int{rapid.IntRange(0, len(p.Items)-1).Draw(t, "from"), rapid.IntRange(0, len(p.Items)-1).Draw(t, "to")})
	}
	return p
}

// oracle says what is allowed and what it costs, and tries everything. It shares no code with the solver.
type oracle struct {
	p     *Problem
	apart []Apart
	best  price
}

func newOracle(p *Problem) *oracle {
	o := &oracle{p: p, apart: slices.Clone(p.Apart), best: price{unplaced: 1 << 40}}
	if p.Strategy == Colouring {
		for _, l := range p.Links {
			if l[0] != l[1] {
				o.apart = append(o.apart, Apart{l[0], l[1], 0})
			}
		}
	}
	return o
}

// wrong says what a placement breaks; "" if nothing.
func (o *oracle) wrong(where [][]int) string {
	for n, node := range o.p.Nodes {
		for d := range o.p.Dimensions {
			used, asks := int64(0), false
			for i, nodes := range where {
				if slices.Contains(nodes, n) {
					used += o.p.Items[i].Demand[d]
					asks = asks || o.p.Items[i].Demand[d] > 0
				}
			}
			if asks && used > node.Capacity[d] {
				return fmt.Sprintf("%s is too full", node.Name)
			}
		}
	}
	for _, a := range o.apart {
		for _, n := range where[a.A] {
			for _, m := range where[a.B] {
				if a.A == a.B && n == m {
					continue
				}
				v := o.p.Domains[0].Values
				if n == m || a.Domain == 1 && v[n] >= 0 && v[n] == v[m] {
					return fmt.Sprintf("%d and %d are too near", a.A, a.B)
				}
			}
		}
	}
	for i, nodes := range where {
		it := o.p.Items[i]
		for k, n := range nodes {
			if !slices.Contains(it.Allowed, n) || slices.Contains(nodes[:k], n) || len(nodes) > it.Copies {
				return fmt.Sprintf("%d may not be on %v", i, nodes)
			}
		}
	}
	return ""
}

func (o *oracle) price(where [][]int) price {
	var c price
	for i, it := range o.p.Items {
		c.unplaced += int64(it.Size) * int64(it.Copies-len(where[i]))
		for _, n := range it.Previous {
			if slices.Contains(it.Allowed, n) && !slices.Contains(where[i], n) {
				if o.p.MoveCost > 0 {
					c.value += it.Weight * o.p.MoveCost
				} else {
					c.moves += it.Weight
				}
			}
		}
	}
	if o.p.Strategy != Optimal {
		return c
	}
	for n, node := range o.p.Nodes {
		load, used := node.Load, false
		for i, nodes := range where {
			if slices.Contains(nodes, n) {
				load, used = load+o.p.Items[i].Size, true
			}
		}
		switch {
		case o.p.Minimize == MinLoad:
			c.value += int64(load * load)
		case o.p.Minimize == MinCost && used:
			c.value += node.Cost
		}
	}
	if o.p.Minimize == MinLinks {
		seen := map[[2]int]bool{}
		for _, l := range o.p.Links {
			l = [2]int{min(l[0], l[1]), max(l[0], l[1])}
			a, b := where[l[0]], where[l[1]]
			whole := len(a) == o.p.Items[l[0]].Copies && len(b) == o.p.Items[l[1]].Copies
			if l[0] != l[1] && !seen[l] && whole && !slices.ContainsFunc(a, func(n int) bool { return slices.Contains(b, n) }) {
				c.value++
			}
			seen[l] = true
		}
	}
	return c
}

func (o *oracle) tryAll(where [][]int) {
	if o.wrong(append(slices.Clone(where), make([][]int, len(o.p.Items)-len(where))...)) != "" {
		return
	}
	if len(where) == len(o.p.Items) {
		if c := o.price(where); c.compare(o.best) < 0 {
			o.best = c
		}
		return
	}
	it := o.p.Items[len(where)]
	for set := range 1 << len(it.Allowed) {
		var nodes []int
		for k, n := range it.Allowed {
			if set&(1<<k) != 0 {
				nodes = append(nodes, n)
			}
		}
		if len(nodes) <= it.Copies {
			o.tryAll(append(slices.Clone(where), nodes))
		}
	}
}

// Whatever the strategy, nothing is broken, as much is placed as can be, and of what could stay the least moves; and the
// optimal strategy is. What was found stays as it is when it is composed again.
func TestAgainstTryingEverything(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drawProblem(t)
		s := p.solve()
		o := newOracle(p)
		if why := o.wrong(s.where); why != "" {
			t.Fatalf("%s: %v", why, s.where)
		}
		o.tryAll(nil)
		if got := o.price(s.where); got != o.best {
			t.Fatalf("%s, %s: got %+v by %v, the best is %+v", p.Strategy, p.Minimize, got, s.where, o.best)
		}
		if again := p.solve(); !reflect.DeepEqual(again.where, s.where) {
			t.Fatalf("%v, then %v", s.where, again.where)
		}
		next := *p
		next.Items = slices.Clone(p.Items)
		for i := range next.Items {
			next.Items[i].Previous = s.Where(i)
		}
		if then := next.solve(); !samePlaces(then, s) {
			t.Fatalf("%v became %v", s.where, then.where)
		}
		for i := range p.Items {
			for n := range p.Nodes {
				if s.Reason(i, n) == "" {
					t.Fatalf("no reason for %d on %d", i, n)
				}
			}
			for _, n := range p.Items[i].Previous {
				if slices.Contains(p.Items[i].Allowed, n) && !slices.Contains(s.where[i], n) && s.Moved(i) == "" {
					t.Fatalf("no reason why %d left %d", i, n)
				}
			}
		}
	})
}

func samePlaces(a, b *Solver) bool {
	for i := range a.p.Items {
		if !slices.Equal(a.Where(i), b.Where(i)) {
			return false
		}
	}
	return true
}
