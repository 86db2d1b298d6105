package placement

import (
	"slices"
)

// Solver places the items of a problem, in one go or in several: what was placed stays while others are.
type Solver struct {
	p       *Problem
	rules   [][]rule // by item
	links   [][]int  // by item: those that it is linked with, ascending, each once
	nodeRnk []uint64
	itemRnk []uint64

	where [][]int   // by item: nodes, in the order in which they were chosen
	free  [][]int64 // by node and dimension
	load  []int     // by node: instances
	used  []int     // by node: copies of items
	last  int       // node that was chosen last; -1

	wanted  map[int]bool // items whose choices are to be explained; nil: none
	reasons map[int]map[int]string
	moved   map[int]string // items that could have stayed: why not
	notes   []string
	buf     []int
}

// rule is an Apart as one of the two sees it.
type rule struct{ other, domain int }

// New gives a solver with nothing placed.
func New(p *Problem) *Solver {
	s := &Solver{p: p, rules: make([][]rule, len(p.Items)), links: make([][]int, len(p.Items)), where: make([][]int, len(p.Items)),
		free: make([][]int64, len(p.Nodes)), load: make([]int, len(p.Nodes)), used: make([]int, len(p.Nodes)), last: -1,
		reasons: map[int]map[int]string{}, moved: map[int]string{}}
	for n, node := range p.Nodes {
		s.nodeRnk = append(s.nodeRnk, ranking(node.ID))
		s.load[n] = node.Load
		s.free[n] = make([]int64, len(p.Dimensions))
		for d := range s.free[n] {
			s.free[n][d] = at(node.Capacity, d) - at(node.Used, d)
		}
	}
	for _, it := range p.Items {
		s.itemRnk = append(s.itemRnk, ranking(it.Name))
	}
	for _, a := range p.Apart {
		s.addRule(a.A, rule{a.B, a.Domain})
		s.addRule(a.B, rule{a.A, a.Domain})
	}
	for _, l := range p.Links {
		if l[0] != l[1] {
			s.links[l[0]], s.links[l[1]] = append(s.links[l[0]], l[1]), append(s.links[l[1]], l[0])
		}
	}
	for i := range s.links {
		slices.Sort(s.links[i])
		s.links[i] = slices.Compact(s.links[i])
	}
	if p.Strategy == Colouring {
		for i, others := range s.links {
			for _, j := range others {
				s.addRule(i, rule{j, 0})
			}
		}
	}
	return s
}

func (s *Solver) addRule(item int, r rule) {
	if !slices.Contains(s.rules[item], r) {
		s.rules[item] = append(s.rules[item], r)
	}
}

// at is a vector's element; what is not there is 0.
func at(v []int64, d int) int64 {
	if d < len(v) {
		return v[d]
	}
	return 0
}

// Explain has the solver remember, from now on, why it chooses as it does for an item.
func (s *Solver) Explain(item int) {
	if s.wanted == nil {
		s.wanted = map[int]bool{}
	}
	s.wanted[item] = true
}

// Where are the nodes of an item, ascending.
func (s *Solver) Where(item int) []int { return slices.Sorted(slices.Values(s.where[item])) }

// Moved says why an item does not stay where it is although it may be there; "" if it stays, or may not.
func (s *Solver) Moved(item int) string { return s.moved[item] }

// Notes are what people should know of how the placement was found, such as the gap of a search that was cut off.
func (s *Solver) Notes() []string { return s.notes }

// Place places items: what is somewhere stays if it can, the rest goes where the strategy says. If something has no
// place then, as little as possible of these items moves to make room.
func (s *Solver) Place(items []int) {
	evicted := s.keep(items)
	s.everywhere(items)
	s.fill(items)
	switch {
	case s.p.Strategy == Optimal:
		s.optimize(items)
	case evicted || s.lacking(items) > 0:
		s.makeRoom(items)
	}
}

// fill places what lacks copies by the strategy.
func (s *Solver) fill(items []int) {
	open := s.open(items)
	switch minimize := s.p.Minimize; {
	case s.p.Strategy == MinSetCover, s.p.Strategy == Optimal && minimize == MinCost:
		s.cover(open)
	case s.p.Strategy == MultiwayCut, s.p.Strategy == Optimal && minimize == MinLinks:
		s.cut(open)
	case s.p.Strategy == Colouring:
		s.colour(open)
	default:
		choose := s.chooser()
		for _, i := range open {
			for len(s.where[i]) < s.p.Items[i].Copies && s.choose(i, choose) {
			}
		}
	}
}

// keep leaves items where they are. It answers whether something that may be where it is cannot, for others do not leave it
// room. What is most costly to move stays first.
func (s *Solver) keep(items []int) (evicted bool) {
	for _, i := range items {
		for _, n := range s.p.Items[i].Fixed {
			if len(s.where[i]) < s.most(i) && !slices.Contains(s.where[i], n) {
				s.put(i, n)
				s.explain(i, n, "it stays there", nil)
			}
		}
	}
	order := slices.Clone(items)
	slices.SortStableFunc(order, func(a, b int) int { return int(min(max(s.p.Items[b].Weight-s.p.Items[a].Weight, -1), 1)) })
	for _, i := range order {
		for _, n := range s.p.Items[i].Previous {
			if len(s.where[i]) >= s.most(i) || slices.Contains(s.where[i], n) || !s.allowed(i, n) {
				continue
			}
			if !s.fits(i, n) {
				evicted = true
				continue
			}
			s.put(i, n)
			s.last = n
			s.explain(i, n, "it is there already", func(m int) string { return "it stays on " + s.name(n) })
		}
	}
	return evicted
}

// most is how many copies an item may have.
func (s *Solver) most(i int) int {
	if s.p.Items[i].Everywhere {
		return len(s.p.Nodes)
	}
	return s.p.Items[i].Copies
}

func (s *Solver) everywhere(items []int) {
	for _, i := range items {
		if !s.p.Items[i].Everywhere {
			continue
		}
		for _, n := range s.p.Items[i].Allowed {
			if s.fits(i, n) {
				s.put(i, n)
				s.explain(i, n, "it is to be on every node", nil)
			}
		}
	}
}

// open are the items that lack copies, in order.
func (s *Solver) open(items []int) []int {
	var out []int
	for _, i := range items {
		if s.missing(i) > 0 {
			out = append(out, i)
		}
	}
	return out
}

func (s *Solver) missing(i int) int {
	if s.p.Items[i].Everywhere {
		return 0
	}
	return s.p.Items[i].Copies - len(s.where[i])
}

func (s *Solver) lacking(items []int) int {
	n := 0
	for _, i := range items {
		n += s.missing(i)
	}
	return n
}

func (s *Solver) allowed(i, n int) bool {
	_, found := slices.BinarySearch(s.p.Items[i].Allowed, n)
	return found
}

// fits says whether one more copy of an item can be on an allowed node as things are.
func (s *Solver) fits(i, n int) bool {
	if slices.Contains(s.where[i], n) || !s.room(i, n) {
		return false
	}
	for _, r := range s.rules[i] {
		if _, near := s.near(r, n); near {
			return false
		}
	}
	return true
}

func (s *Solver) room(i, n int) bool {
	for d, want := range s.p.Items[i].Demand {
		if want > 0 && s.free[n][d] < want {
			return false
		}
	}
	return true
}

// near finds a copy, of the item that a rule speaks of, in the same domain as a node.
func (s *Solver) near(r rule, n int) (int, bool) {
	for _, m := range s.where[r.other] {
		if s.together(r.domain, m, n) {
			return m, true
		}
	}
	return 0, false
}

func (s *Solver) together(domain, a, b int) bool {
	if a == b || domain == 0 {
		return a == b
	}
	v := s.p.Domains[domain-1].Values
	return v[a] >= 0 && v[a] == v[b]
}

func (s *Solver) put(i, n int) {
	s.where[i] = append(s.where[i], n)
	s.take(i, n, 1)
}

func (s *Solver) remove(i, n int) {
	at := slices.Index(s.where[i], n)
	s.where[i] = slices.Delete(s.where[i], at, at+1)
	s.take(i, n, -1)
}

func (s *Solver) take(i, n, sign int) {
	it := &s.p.Items[i]
	s.load[n] += sign * it.Size
	s.used[n] += sign
	for d, want := range it.Demand {
		s.free[n][d] -= int64(sign) * want
	}
}

// chooser picks one of several nodes for an item, all of which may be. why says what was good about it, and whyNot about
// another what was not; they are asked only if somebody wants to know.
type chooser func(i int, options []int) (n int, why string, whyNot func(m int) string)

// choose gives an item one more copy; false if there is no place.
func (s *Solver) choose(i int, choose chooser) bool {
	options := s.options(i)
	if len(options) == 0 {
		return false
	}
	n, why, whyNot := choose(i, options)
	s.explain(i, n, why, whyNot) // what the others lack is asked before this one is taken
	s.put(i, n)
	s.last = n
	return true
}

// options are the nodes that may take one more copy. The slice is good until the next call.
func (s *Solver) options(i int) []int {
	s.buf = s.buf[:0]
	for _, n := range s.p.Items[i].Allowed {
		if s.fits(i, n) {
			s.buf = append(s.buf, n)
		}
	}
	return s.buf
}

func (s *Solver) name(n int) string { return s.p.Nodes[n].Name }
