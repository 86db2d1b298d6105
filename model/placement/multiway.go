package placement

import (
	"fmt"
	"slices"
)

// cut makes links between nodes few. Of items that are linked with each other, those near to what is placed are given to
// its nodes by the isolation heuristic for multiway cut (Dahlhaus and others): for each such node the smallest cut that
// separates it from the others, of which the largest is left out. What is left goes where most of what it is linked with
// is; if nothing of it is placed anywhere, to the node that can take the most. In the end single items move while that
// saves a link.
func (s *Solver) cut(items []int) {
	for _, i := range items { // what has one node only is where it is; it pulls the others
		if len(s.p.Items[i].Allowed) == 1 && s.fits(i, s.p.Items[i].Allowed[0]) {
			n := s.p.Items[i].Allowed[0]
			s.explain(i, n, "it is the only one that may", nil)
			s.put(i, n)
		}
	}
	placed := make([][]int, len(s.p.Items)) // what must not be moved in the end
	for i := range placed {
		placed[i] = slices.Clone(s.where[i])
	}
	for _, part := range s.components(items) {
		s.isolate(part)
		s.pull(part)
	}
	s.improve(items, placed)
}

// components are the parts of the open items that are linked with each other, in order of their first item.
func (s *Solver) components(items []int) [][]int {
	open := map[int]bool{}
	for _, i := range items {
		open[i] = s.missing(i) > 0
	}
	var parts [][]int
	for _, i := range items {
		if !open[i] {
			continue
		}
		open[i] = false
		part := []int{i}
		for k := 0; k < len(part); k++ {
			for _, j := range s.links[part[k]] {
				if open[j] {
					open[j] = false
					part = append(part, j)
				}
			}
		}
		slices.Sort(part)
		parts = append(parts, part)
	}
	return parts
}

// maxFlowWork bounds the work of the cuts of one part, in edges looked at; beyond it nothing is isolated.
const maxFlowWork = 20_000_000

// isolate gives items to the nodes, of what they are linked with, from which a smallest cut does not separate them.
func (s *Solver) isolate(part []int) {
	var terminals []int
	edges := 0
	for _, i := range part {
		for _, j := range s.links[i] {
			edges++
			for _, n := range s.where[j] {
				if !slices.Contains(terminals, n) {
					terminals = append(terminals, n)
				}
			}
		}
	}
	if len(terminals) < 2 || edges*edges > maxFlowWork {
		return
	}
	slices.Sort(terminals)
	sides, heaviest, most := make([][]int, len(terminals)), 0, -1
	for k, t := range terminals {
		var weight int
		if sides[k], weight = s.isolating(part, t); weight > most {
			heaviest, most = k, weight
		}
	}
	for k, t := range terminals {
		for _, i := range sides[k] {
			if k != heaviest && s.missing(i) > 0 && s.allowed(i, t) && s.fits(i, t) {
				s.explain(i, t, "it is on the side of "+s.name(t)+" of the smallest cut between nodes", func(int) string { return "links from it would be cut" })
				s.put(i, t)
			}
		}
	}
}

// isolating gives the items on a node's side of a smallest cut between it and the other nodes with something placed, and
// the cut's weight.
func (s *Solver) isolating(part []int, t int) (side []int, weight int) {
	const source, sink = 0, 1
	g := newFlow(len(part) + 2)
	vertex := map[int]int{}
	for k, i := range part {
		vertex[i] = k + 2
	}
	for _, i := range part {
		if !s.allowed(i, t) || !s.fits(i, t) {
			g.edge(vertex[i], sink, len(s.p.Links)+1, 0)
		}
		for _, j := range s.links[i] {
			if v, open := vertex[j]; open && i < j {
				g.edge(vertex[i], v, 1, 1)
			}
			for _, n := range s.where[j] {
				if n == t {
					g.edge(source, vertex[i], 1, 0)
				} else {
					g.edge(vertex[i], sink, 1, 0)
				}
			}
		}
	}
	for g.augment(source, sink) {
		weight++
	}
	reached := g.reach(source)
	for _, i := range part {
		if reached[vertex[i]] >= 0 {
			side = append(side, i)
		}
	}
	return side, weight
}

// flow is a network with whole capacities.
type flow struct {
	out  [][]int // by vertex: edges
	to   []int
	left []int // capacity that is left; edge e and e^1 are each other's reverse
}

func newFlow(vertices int) *flow { return &flow{out: make([][]int, vertices)} }

func (g *flow) edge(a, b, there, back int) {
	g.out[a], g.out[b] = append(g.out[a], len(g.to)), append(g.out[b], len(g.to)+1)
	g.to, g.left = append(g.to, b, a), append(g.left, there, back)
}

// reach gives for each vertex the edge by which it is reached from a source over edges with something left; -1: it is not.
func (g *flow) reach(source int) []int {
	by := slices.Repeat([]int{-1}, len(g.out))
	by[source] = 0
	for queue := []int{source}; len(queue) > 0; queue = queue[1:] {
		for _, e := range g.out[queue[0]] {
			if v := g.to[e]; g.left[e] > 0 && by[v] < 0 && v != source {
				by[v] = e
				queue = append(queue, v)
			}
		}
	}
	return by
}

// augment adds 1 to the flow; false if there is no way any more.
func (g *flow) augment(source, sink int) bool {
	by := g.reach(source)
	if by[sink] < 0 {
		return false
	}
	for v := sink; v != source; v = g.to[by[v]^1] {
		g.left[by[v]]--
		g.left[by[v]^1]++
	}
	return true
}

// pull places what is left of a part: the item with the most placed neighbours first, to the node with the most of them.
func (s *Solver) pull(part []int) {
	todo := slices.DeleteFunc(slices.Clone(part), func(i int) bool { return s.missing(i) == 0 })
	pulled := make(map[int]int, len(todo)) // placed neighbours
	for _, i := range todo {
		for _, j := range s.links[i] {
			pulled[i] += len(s.where[j])
		}
	}
	for len(todo) > 0 {
		best := 0
		for k, i := range todo {
			if pulled[i] > pulled[todo[best]] {
				best = k
			}
		}
		i := todo[best]
		if pulled[i] == 0 {
			s.settle(todo)
		}
		for s.missing(i) > 0 && s.choose(i, s.mostLinks) {
		}
		todo = slices.DeleteFunc(todo, func(j int) bool { return j == i || s.missing(j) == 0 })
		for _, j := range s.links[i] {
			pulled[j] += len(s.where[i])
		}
	}
}

// settle gives as many items as it can to the node that can take the most of them, the first of several.
func (s *Solver) settle(items []int) {
	best, most := -1, 0
	counts := make([]int, len(s.p.Nodes))
	for _, i := range items {
		for _, n := range s.options(i) {
			counts[n] += s.p.Items[i].Size
		}
	}
	for n, c := range counts {
		if c > most {
			best, most = n, c
		}
	}
	if best < 0 {
		return
	}
	for _, i := range items {
		if s.missing(i) > 0 && s.allowed(i, best) && s.fits(i, best) {
			s.explain(i, best, fmt.Sprintf("it can take the most of what is linked with this, %d instances", most), func(int) string { return s.name(best) + " can take more, or comes first" })
			s.put(i, best)
		}
	}
}

// mostLinks takes the node with the most of what an item is linked with, the first of several.
func (s *Solver) mostLinks(i int, options []int) (int, string, func(int) string) {
	best, most := options[0], s.linksTo(i, options[0])
	for _, n := range options[1:] {
		if l := s.linksTo(i, n); l > most {
			best, most = n, l
		}
	}
	return best, fmt.Sprintf("%d of what it is linked with are there", most), func(m int) string {
		return fmt.Sprintf("%d of what it is linked with are there, and %d on %s", s.linksTo(i, m), most, s.name(best))
	}
}

// linksTo counts the items, linked with one, that have a copy on a node.
func (s *Solver) linksTo(i, n int) int {
	count := 0
	for _, j := range s.links[i] {
		if slices.Contains(s.where[j], n) {
			count++
		}
	}
	return count
}

// improve moves single copies, but not those that were there before, while each saves a link. That makes the number of
// links smaller every time, so it ends; passes bound it all the same.
func (s *Solver) improve(items []int, stay [][]int) {
	const passes = 10
	for range passes {
		better := false
		for _, i := range items {
			for _, n := range slices.Clone(s.where[i]) {
				if slices.Contains(stay[i], n) {
					continue
				}
				had := s.linksTo(i, n)
				s.remove(i, n)
				to := n
				for _, m := range s.options(i) {
					if l := s.linksTo(i, m); l > had {
						to, had = m, l
					}
				}
				if to != n {
					better = true
					s.explain(i, to, fmt.Sprintf("%d of what it is linked with are there", had), func(int) string { return "fewer of what it is linked with are there" })
				}
				s.put(i, to)
			}
		}
		if !better {
			return
		}
	}
}
