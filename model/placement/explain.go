package placement

import (
	"fmt"
	"slices"
	"strconv"
)

// Reason says, of an item that was to be explained, why it is on a node, or why not, as far as this package knows: that a
// node is not allowed, whoever made the problem knows better.
func (s *Solver) Reason(i, n int) string {
	if slices.Contains(s.where[i], n) {
		return s.reasons[i][n]
	}
	if why := s.Obstacle(i, n); why != "" {
		return why
	}
	if why := s.reasons[i][n]; why != "" {
		return why
	}
	return "it has as many instances as it is to have"
}

// Obstacle says why an allowed node cannot take one more copy of an item as things are; "" if it can, or has one.
func (s *Solver) Obstacle(i, n int) string {
	if slices.Contains(s.where[i], n) {
		return ""
	}
	it := s.p.Items[i]
	for d, want := range it.Demand {
		if want > 0 && s.free[n][d] < want {
			return fmt.Sprintf("no room: it needs %s, and %s of %s is free", s.amount(d, want), s.bare(d, max(s.free[n][d], 0)), s.bare(d, at(s.p.Nodes[n].Capacity, d)))
		}
	}
	for _, r := range s.rules[i] {
		if m, near := s.near(r, n); near {
			return s.tooNear(i, n, r, m)
		}
	}
	return ""
}

func (s *Solver) tooNear(i, n int, r rule, m int) string {
	what := s.p.Items[r.other].Name + " is"
	if r.other == i {
		what = "another instance of it is"
	}
	where := "there"
	if m != n {
		where = fmt.Sprintf("on %s, with the same %s", s.name(m), s.p.Domains[r.domain-1].Name)
	}
	return fmt.Sprintf("%s %s, and they are to be apart", what, where)
}

// explain remembers why an item goes to a node, and why not to others. It is called before the node is taken.
func (s *Solver) explain(i, n int, why string, whyNot func(m int) string) {
	if !s.wanted[i] {
		return
	}
	if s.reasons[i] == nil {
		s.reasons[i] = map[int]string{}
	}
	s.reasons[i][n] = why
	if whyNot == nil {
		return
	}
	for _, m := range s.p.Items[i].Allowed {
		if m != n && !slices.Contains(s.where[i], m) {
			s.reasons[i][m] = whyNot(m)
		}
	}
}

// amount writes an amount with the name of its dimension.
func (s *Solver) amount(d int, amount int64) string {
	if d >= len(s.p.Dimensions) {
		return s.bare(d, amount)
	}
	return s.bare(d, amount) + " " + s.p.Dimensions[d]
}

// bare writes an amount alone.
func (s *Solver) bare(d int, amount int64) string {
	if s.p.Amount != nil && d < len(s.p.Dimensions) {
		return s.p.Amount(s.p.Dimensions[d], amount)
	}
	return strconv.FormatInt(amount, 10)
}

// cost writes a cost.
func (s *Solver) cost(amount int64) string {
	if s.p.Amount != nil {
		return s.p.Amount("cost", amount)
	}
	return strconv.FormatInt(amount, 10)
}
