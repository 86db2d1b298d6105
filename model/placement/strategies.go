package placement

import (
	"cmp"
	"fmt"
	"slices"
)

// The strategies that place one copy after the other.

func (s *Solver) chooser() chooser {
	switch s.p.Strategy {
	case RoundRobin:
		return s.roundRobin
	case Greedy:
		return s.greedy
	case HighestBidder:
		return s.highestBidder
	case LowestBidder:
		return s.lowestBidder
	}
	return s.spread
}

// spread takes the node with the fewest instances; copies of one item go to different zones first. Ties by rank.
func (s *Solver) spread(i int, options []int) (int, string, func(int) string) {
	best, inZone := options[0], s.inZone(i, options[0])
	for _, n := range options[1:] {
		z := s.inZone(i, n)
		if c := cmp.Or(cmp.Compare(z, inZone), cmp.Compare(s.load[n], s.load[best])); c < 0 || c == 0 && s.outranks(i, n, best) {
			best, inZone = n, z
		}
	}
	return best, fmt.Sprintf("it has the fewest instances, %d", s.load[best]), func(m int) string {
		switch {
		case s.inZone(i, m) > inZone:
			return "its zone has an instance of it already"
		case s.load[m] > s.load[best]:
			return fmt.Sprintf("it has %d instances, %s had %d", s.load[m], s.name(best), s.load[best])
		}
		return "it has as few instances as " + s.name(best) + ", and a lower rank for this service"
	}
}

// inZone counts the copies of an item in the zone of a node: the first domain, where there is one.
func (s *Solver) inZone(i, n int) int {
	if len(s.p.Domains) == 0 || len(s.where[i]) == 0 {
		return 0
	}
	count := 0
	for _, m := range s.where[i] {
		if s.together(1, m, n) {
			count++
		}
	}
	return count
}

// outranks says whether node a comes before node b for an item when all else is equal.
func (s *Solver) outranks(i, a, b int) bool {
	x, y := mixed(s.itemRnk[i], s.nodeRnk[a]), mixed(s.itemRnk[i], s.nodeRnk[b])
	return x < y || x == y && s.p.Nodes[a].ID < s.p.Nodes[b].ID
}

// roundRobin takes the node that comes, in the item's own list, after the one that was chosen last for any; the first one
// if that is not in the list.
func (s *Solver) roundRobin(i int, options []int) (int, string, func(int) string) {
	n, why := options[0], "it is the first that may"
	list := s.p.Items[i].Allowed
	if at, in := slices.BinarySearch(list, s.last); in && s.last >= 0 {
		for k := range list {
			if next := list[(at+1+k)%len(list)]; slices.Contains(options, next) {
				n, why = next, "its turn comes after that of "+s.name(s.last)
				break
			}
		}
	}
	return n, why, func(int) string { return "it was the turn of " + s.name(n) }
}

// greedy takes the first node with room.
func (s *Solver) greedy(_ int, options []int) (int, string, func(int) string) {
	n := options[0]
	return n, "it is the first with room", func(int) string { return s.name(n) + " comes first and has room" }
}

func (s *Solver) highestBidder(_ int, options []int) (int, string, func(int) string) {
	n := options[0]
	for _, m := range options[1:] {
		if s.bid(m) > s.bid(n) {
			n = m
		}
	}
	return n, "it has the most left, " + s.amount(s.p.Dimension, s.bid(n)), s.whyOutbid(n, s.bid(n), "less")
}

func (s *Solver) lowestBidder(_ int, options []int) (int, string, func(int) string) {
	n := options[0]
	for _, m := range options[1:] {
		if s.bid(m) < s.bid(n) {
			n = m
		}
	}
	return n, "it has the least left that is enough, " + s.amount(s.p.Dimension, s.bid(n)), s.whyOutbid(n, s.bid(n), "more")
}

// bid is what a node has left of the dimension that bidders look at.
func (s *Solver) bid(n int) int64 { return at(s.free[n], s.p.Dimension) }

func (s *Solver) whyOutbid(n int, won int64, how string) func(int) string {
	return func(m int) string {
		if s.bid(m) == won {
			return "it has as much left as " + s.name(n) + ", which comes first"
		}
		return fmt.Sprintf("it has %s left, %s than %s with %s", s.amount(s.p.Dimension, s.bid(m)), how, s.name(n), s.amount(s.p.Dimension, won))
	}
}

// cover is the greedy approximation of the cheapest set of nodes that can have all items: again and again the node whose
// cost is the smallest for each instance that it can take, the first of several; it takes all that it can. A node that has
// items already costs nothing more. One that can take nothing is not looked at, so it ends.
func (s *Solver) cover(items []int) {
	takes := make([]int, len(s.p.Nodes)) // instances, or more where rules keep some away
	done := make([]bool, len(s.p.Nodes))
	for _, i := range items {
		s.count(i, done, func(n int) { takes[n] += s.p.Items[i].Size })
	}
	for {
		best := -1
		for n := range s.p.Nodes {
			// cost/takes < cost of the best/takes of the best, without a division
			if takes[n] > 0 && (best < 0 || s.price(n)*int64(takes[best]) < s.price(best)*int64(takes[n])) {
				best = n
			}
		}
		if best < 0 {
			return
		}
		if now := s.couldTake(items, best); now != takes[best] {
			takes[best] = now
			continue
		}
		price, could := s.price(best), takes[best]
		done[best], takes[best] = true, 0
		for _, i := range items {
			if s.missing(i) == 0 || !s.allowed(i, best) || !s.fits(i, best) {
				continue
			}
			s.explain(i, best, fmt.Sprintf("it costs %s and could take %d of the instances that had no place", s.cost(price), could), func(int) string {
				return s.name(best) + " costs less for each instance that it can take, or comes first"
			})
			s.put(i, best)
			if s.missing(i) == 0 {
				s.count(i, done, func(n int) { takes[n] -= s.p.Items[i].Size })
			}
		}
	}
}

// count visits the nodes, of those that are not done, that have room for an item and no copy of it.
func (s *Solver) count(i int, done []bool, visit func(n int)) {
	for _, n := range s.p.Items[i].Allowed {
		if !done[n] && s.room(i, n) && !slices.Contains(s.where[i], n) {
			visit(n)
		}
	}
}

// maxPrice keeps products of costs from overflowing.
const maxPrice = 1e13

func (s *Solver) price(n int) int64 {
	if s.used[n] > 0 {
		return 0
	}
	return min(max(s.p.Nodes[n].Cost, 0), maxPrice)
}

// couldTake counts the instances that a node could take, each item looked at alone.
func (s *Solver) couldTake(items []int, n int) int {
	count := 0
	for _, i := range items {
		if s.missing(i) > 0 && s.allowed(i, n) && s.fits(i, n) {
			count += s.p.Items[i].Size
		}
	}
	return count
}

// colour is DSATUR: again and again the item with the most colours among its linked ones, of several the one with the most
// links, gets the first node that none of them has. That linked items are apart is a rule like others (see New), so what
// this heuristic cannot colour, making room may.
func (s *Solver) colour(items []int) {
	todo := slices.Clone(items)
	colours := make([]int, len(s.p.Items))
	for _, i := range todo {
		colours[i] = s.coloursAround(i)
	}
	for len(todo) > 0 {
		best := 0
		for k, i := range todo {
			b := todo[best]
			if colours[i] > colours[b] || colours[i] == colours[b] && len(s.links[i]) > len(s.links[b]) {
				best = k
			}
		}
		i := todo[best]
		todo = slices.Delete(todo, best, best+1)
		for s.missing(i) > 0 && s.choose(i, func(_ int, options []int) (int, string, func(int) string) {
			n := options[0]
			return n, "it is the first without anything that this is linked with", func(int) string { return s.name(n) + " comes first" }
		}) {
		}
		for _, j := range s.links[i] {
			colours[j] = s.coloursAround(j)
		}
	}
}

func (s *Solver) coloursAround(i int) int {
	var seen []int
	for _, j := range s.links[i] {
		for _, n := range s.where[j] {
			if !slices.Contains(seen, n) {
				seen = append(seen, n)
			}
		}
	}
	return len(seen)
}
