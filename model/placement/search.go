package placement

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// makeRoom looks for a placement in which nothing lacks a place, or less does, and as little as possible moves that could
// stay.
func (s *Solver) makeRoom(items []int) {
	x := newSearch(s, items)
	x.run()
	if x.cutOff && (x.best.unplaced > 0 || x.best.moves > 0) {
		s.notes = append(s.notes, fmt.Sprintf("not all ways of making room were tried (%d were): less might have to move, or more might fit", min(x.tries, x.limit)))
	}
}

// optimize replaces what the warm start found by the best, or says how far from it that may be.
func (s *Solver) optimize(items []int) {
	x := newSearch(s, items)
	x.objective, x.moveCost = cmp.Or(s.p.Minimize, MinLoad), s.p.MoveCost
	x.run()
	what := map[Objective]string{MinLoad: "the spread", MinCost: "the cost", MinLinks: "the number of links between nodes"}[x.objective]
	switch value := s.optimum(x.objective, x.best.value); {
	case !x.cutOff:
		s.notes = append(s.notes, fmt.Sprintf("%s is optimal: %s", what, value))
	case x.best.unplaced == 0 && x.best.value <= x.bound:
		s.notes = append(s.notes, fmt.Sprintf("%s is optimal: %s, which is the lower bound", what, value))
	default:
		s.notes = append(s.notes, fmt.Sprintf("%s is %s, at least %s is needed: the search was cut off after %d tries", what, value, s.optimum(x.objective, x.bound), x.limit))
	}
}

func (s *Solver) optimum(o Objective, v int64) string {
	if o == MinCost {
		return s.cost(v)
	}
	return fmt.Sprint(v)
}

// price of a placement, the first difference counts.
type price struct {
	unplaced int64 // instances
	moves    int64 // weight of what moved and could have stayed
	value    int64 // of the objective, with what moves cost
}

func (a price) compare(b price) int {
	return cmp.Or(cmp.Compare(a.unplaced, b.unplaced), cmp.Compare(a.moves, b.moves), cmp.Compare(a.value, b.value))
}

// maxLacked bounds the names in a reason.
const maxLacked = 5

// slot is a copy of an item on a node.
type slot struct{ item, node int }

// search is a depth-first branch and bound. It begins with everything where it is. What lacks a place is placed, copy by
// copy, on every node that may have it; where that needs room, each smallest set of copies that could stay there and
// whose leaving makes the room is sent away, and placed in turn. A copy never leaves unless it must, and in a placement in
// which the least moves none does, so nothing is missed.
type search struct {
	s         *Solver
	items     []int
	objective Objective
	moveCost  int64
	limit     int
	tries     int
	cutOff    bool

	stays  [][]int       // by item: where it could stay
	home   map[slot]bool // copies that are where they were and may be sent away
	here   [][]int       // by node: items at home there
	asked  []slot        // copies that cannot all stay: each stays or goes
	queue  []int         // items to place one more copy of
	given  int           // length of the queue at the beginning; what is behind was sent away
	chosen []int         // by place in the queue, of those given: the node
	sent   map[slot]bool // homes that copies were sent away from: they do not come back
	coarse bool          // not all ways of making room were tried
	lacked []string      // what had no place before the search
	now    price
	best   price
	found  [][]int // by item of items
	bound  int64   // of the objective, whatever is chosen
}

func newSearch(s *Solver, items []int) *search {
	return &search{s: s, items: items, limit: cmp.Or(s.p.Tries, DefaultTries), home: map[slot]bool{}, stays: make([][]int, len(s.p.Items)),
		here: make([][]int, len(s.p.Nodes)), sent: map[slot]bool{}}
}

// run searches and leaves the best placement in the solver.
func (x *search) run() {
	s := x.s
	before := make([][]int, len(x.items))
	for k, i := range x.items {
		before[k] = slices.Clone(s.where[i])
		if s.missing(i) > 0 && len(x.lacked) < maxLacked {
			x.lacked = append(x.lacked, s.p.Items[i].Name)
		}
		for _, n := range s.p.Items[i].Previous {
			if s.allowed(i, n) && !slices.Contains(x.stays[i], n) && len(x.stays[i]) < s.p.Items[i].Copies && !s.p.Items[i].Everywhere {
				x.stays[i] = append(x.stays[i], n)
			}
		}
	}
	x.found = before
	x.best = x.judge()
	x.begin()
	x.bound = x.now.value + x.rest(0, 0)
	x.step(0, 0)
	x.cutOff = x.cutOff || x.coarse
	x.install(before)
}

// judge prices the placement as it is.
func (x *search) judge() price {
	var p price
	for _, i := range x.items {
		p.unplaced += int64(x.s.missing(i)) * int64(x.s.p.Items[i].Size)
		for _, n := range x.stays[i] {
			if !slices.Contains(x.s.where[i], n) {
				p = x.moved(p, i)
			}
		}
	}
	p.value += x.value()
	return p
}

func (x *search) moved(p price, i int) price {
	weight := max(x.s.p.Items[i].Weight, 1)
	if x.moveCost > 0 {
		p.value += weight * x.moveCost
	} else {
		p.moves += weight
	}
	return p
}

// value is the objective's, of all that is placed.
func (x *search) value() int64 {
	var v int64
	switch x.objective {
	case MinLoad:
		for n := range x.s.p.Nodes {
			v += int64(x.s.load[n]) * int64(x.s.load[n])
		}
	case MinCost:
		for n := range x.s.p.Nodes {
			if x.s.used[n] > 0 {
				v += max(x.s.p.Nodes[n].Cost, 0)
			}
		}
	case MinLinks:
		for i := range x.s.p.Items {
			for _, j := range x.s.links[i] {
				if i < j {
					v += x.crossing(i, j)
				}
			}
		}
	}
	return v
}

// crossing is 1 if two linked items have all their copies and no node in common. That of one that lacks copies does not
// count, so the objective never becomes smaller by placing more.
func (x *search) crossing(i, j int) int64 {
	a, b := x.s.where[i], x.s.where[j]
	if x.s.missing(i) > 0 || x.s.missing(j) > 0 || slices.ContainsFunc(a, func(n int) bool { return slices.Contains(b, n) }) {
		return 0
	}
	return 1
}

// begin takes away what the strategy placed, puts back what was somewhere, and asks about what cannot all stay.
func (x *search) begin() {
	s := x.s
	for _, i := range x.items {
		for _, n := range slices.Clone(s.where[i]) {
			if !slices.Contains(s.p.Items[i].Fixed, n) && !s.p.Items[i].Everywhere {
				s.remove(i, n)
			}
		}
	}
	for _, i := range x.items {
		for _, n := range x.stays[i] {
			if !slices.Contains(s.where[i], n) && len(s.where[i]) < s.most(i) {
				s.put(i, n)
				x.settleIn(slot{i, n})
			}
		}
	}
	contested := func(sl slot) bool { return x.moveCost > 0 || x.crowded(sl) }
	for _, i := range x.items {
		for _, n := range x.stays[i] {
			if x.home[slot{i, n}] && contested(slot{i, n}) {
				x.asked = append(x.asked, slot{i, n})
			}
		}
	}
	for _, sl := range x.asked {
		x.leave(sl)
	}
	slices.SortStableFunc(x.asked, func(a, b slot) int { return cmp.Compare(s.p.Items[b.item].Weight, s.p.Items[a.item].Weight) })
	for _, i := range x.items {
		missing := s.missing(i)
		for _, sl := range x.asked {
			if sl.item == i {
				missing--
			}
		}
		x.queue = append(x.queue, slices.Repeat([]int{i}, max(missing, 0))...)
	}
	slices.SortStableFunc(x.queue, func(a, b int) int {
		return cmp.Or(cmp.Compare(len(s.p.Items[a].Allowed), len(s.p.Items[b].Allowed)), cmp.Compare(x.bulk(b), x.bulk(a)), cmp.Compare(a, b))
	})
	x.given, x.chosen = len(x.queue), make([]int, len(x.queue))
	x.now = price{value: x.value()}
}

// bulk orders items by how hard they are to place.
func (x *search) bulk(i int) int64 {
	var most int64
	for d, want := range x.s.p.Items[i].Demand {
		largest := int64(1)
		for _, n := range x.s.p.Nodes {
			largest = max(largest, at(n.Capacity, d))
		}
		most = max(most, min(want, largest)*1000/largest)
	}
	return most
}

// crowded says whether a copy shares a node that is overfull in something that it needs, or breaks a rule with another.
func (x *search) crowded(sl slot) bool {
	s := x.s
	for d, want := range s.p.Items[sl.item].Demand {
		if want > 0 && s.free[sl.node][d] < 0 {
			return true
		}
	}
	for _, r := range s.rules[sl.item] {
		for _, m := range s.where[r.other] {
			if (r.other != sl.item || m != sl.node) && s.together(r.domain, m, sl.node) {
				return true
			}
		}
	}
	return false
}

func (x *search) settleIn(sl slot) {
	x.home[sl] = true
	x.here[sl.node] = append(x.here[sl.node], sl.item)
}

// leave takes a copy from its home.
func (x *search) leave(sl slot) {
	x.drop(sl)
	delete(x.home, sl)
	at := slices.Index(x.here[sl.node], sl.item)
	x.here[sl.node] = slices.Delete(x.here[sl.node], at, at+1)
}

// step decides one thing and goes on: the asked copies first, then the queue.
func (x *search) step(asked, queued int) {
	if x.tries++; x.tries > x.limit {
		x.cutOff = true
		return
	}
	bound := x.now
	bound.value += x.rest(asked, queued)
	if bound.compare(x.best) >= 0 {
		return
	}
	switch {
	case asked < len(x.asked):
		x.ask(asked, queued)
	case queued < len(x.queue):
		x.place(queued)
	default:
		if p := x.judge(); p.compare(x.best) < 0 {
			x.best = p
			x.found = make([][]int, len(x.items))
			for k, i := range x.items {
				x.found[k] = slices.Clone(x.s.where[i])
			}
		}
	}
}

// ask lets a copy stay where it is, then go.
func (x *search) ask(asked, queued int) {
	sl, was := x.asked[asked], x.now
	if x.s.fits(sl.item, sl.node) {
		x.add(sl)
		x.step(asked+1, queued)
		x.drop(sl)
		x.now = was
	}
	if x.cutOff {
		return
	}
	x.now = x.moved(x.now, sl.item)
	x.queue = append(x.queue, sl.item)
	x.step(asked+1, queued)
	x.queue = x.queue[:len(x.queue)-1]
	x.now = was
}

// add puts a copy somewhere and prices it; drop is the opposite.
func (x *search) add(sl slot)  { x.change(sl, func() { x.s.put(sl.item, sl.node) }) }
func (x *search) drop(sl slot) { x.change(sl, func() { x.s.remove(sl.item, sl.node) }) }

func (x *search) change(sl slot, do func()) {
	x.now.value -= x.around(sl)
	do()
	x.now.value += x.around(sl)
}

// around is the part of the objective that a copy on a node can change.
func (x *search) around(sl slot) (v int64) {
	switch x.objective {
	case MinLoad:
		v = int64(x.s.load[sl.node]) * int64(x.s.load[sl.node])
	case MinCost:
		if x.s.used[sl.node] > 0 {
			v = max(x.s.p.Nodes[sl.node].Cost, 0)
		}
	case MinLinks:
		for _, j := range x.s.links[sl.item] {
			v += x.crossing(sl.item, j)
		}
	}
	return v
}

// place tries every node for one more copy of an item: those with room first, then those where others have to leave, and
// at last none.
func (x *search) place(queued int) {
	s, i, was := x.s, x.queue[queued], x.now
	least := -1
	if queued > 0 && queued < x.given && x.queue[queued-1] == i { // two copies the other way round would be the same
		least = x.chosen[queued-1]
	}
	order := x.order(i)
	x.tries += len(order) / 8
	for _, crowd := range []bool{false, true} {
		for _, n := range order {
			if x.cutOff {
				return
			}
			if n <= least || x.sent[slot{i, n}] || slices.Contains(s.where[i], n) || s.fits(i, n) == crowd {
				continue
			}
			if queued < x.given {
				x.chosen[queued] = n
			}
			if !crowd {
				x.put(slot{i, n}, queued)
				continue
			}
			for _, gone := range x.evictions(i, n) {
				x.evict(gone, slot{i, n}, queued)
			}
		}
	}
	if x.cutOff {
		return
	}
	if queued < x.given {
		x.chosen[queued] = len(s.p.Nodes) // the twins have none either
	}
	x.now.unplaced += int64(s.p.Items[i].Size)
	x.step(len(x.asked), queued+1)
	x.now = was
}

func (x *search) put(sl slot, queued int) {
	was := x.now
	x.add(sl)
	x.step(len(x.asked), queued+1)
	x.drop(sl)
	x.now = was
}

// evict sends copies away, places one in their stead, and goes on with those that were sent away waiting for a place.
func (x *search) evict(gone []slot, sl slot, queued int) {
	was := x.now
	for _, g := range gone {
		x.leave(g)
		x.now = x.moved(x.now, g.item)
		x.queue = append(x.queue, g.item)
		x.sent[g] = true
	}
	x.put(sl, queued)
	for _, g := range gone {
		delete(x.sent, g)
		x.s.put(g.item, g.node)
		x.settleIn(g)
	}
	x.queue = x.queue[:len(x.queue)-len(gone)]
	x.now = was
}

// maxEvictions bounds the ways of making room on one node, and exactEvictions is up to how many copies all ways are tried.
const (
	maxEvictions   = 500
	exactEvictions = 12
)

// evictions are the smallest sets of copies at home that have to leave so that an item fits on a node: nothing of a set could
// stay. Lighter ones come first. None: it would not help.
func (x *search) evictions(i, n int) [][]slot {
	s := x.s
	var must []slot
	for _, r := range s.rules[i] {
		for _, m := range s.where[r.other] {
			if sl := (slot{r.other, m}); s.together(r.domain, m, n) && !slices.Contains(must, sl) {
				if !x.home[sl] {
					return nil
				}
				must = append(must, sl)
			}
		}
	}
	lack := x.lack(i, n, must)
	var could []slot
	for _, j := range x.here[n] {
		if sl := (slot{j, n}); !slices.Contains(must, sl) && x.helps(j, lack) {
			could = append(could, sl)
		}
	}
	slices.SortFunc(could, func(a, b slot) int {
		return cmp.Or(cmp.Compare(s.p.Items[a.item].Weight, s.p.Items[b.item].Weight), cmp.Compare(x.bulk(b.item), x.bulk(a.item)), cmp.Compare(a.item, b.item))
	})
	if len(could) > exactEvictions {
		could = could[:exactEvictions]
		x.coarse = true
	}
	e := &eviction{x: x, must: must, could: could}
	e.choose(0, nil, lack)
	slices.SortStableFunc(e.sets, func(a, b []slot) int { return cmp.Compare(x.weight(a), x.weight(b)) })
	return e.sets
}

func (x *search) weight(set []slot) (w int64) {
	for _, sl := range set {
		w += max(x.s.p.Items[sl.item].Weight, 1)
	}
	return w
}

// lack is what a node has too little of for an item, once some copies have left; what it has enough of is not above 0.
func (x *search) lack(i, n int, gone []slot) []int64 {
	lack := make([]int64, len(x.s.p.Dimensions))
	for d := range lack {
		if want := at(x.s.p.Items[i].Demand, d); want > 0 {
			lack[d] = want - x.s.free[n][d]
		}
		for _, g := range gone {
			if g.node == n {
				lack[d] -= at(x.s.p.Items[g.item].Demand, d)
			}
		}
	}
	return lack
}

func (x *search) helps(j int, lack []int64) bool {
	for d, l := range lack {
		if l > 0 && at(x.s.p.Items[j].Demand, d) > 0 {
			return true
		}
	}
	return false
}

// eviction enumerates sets.
type eviction struct {
	x           *search
	must, could []slot
	sets        [][]slot
}

// choose goes through the copies that could leave from one on, with some chosen already.
func (e *eviction) choose(from int, chosen []slot, lack []int64) {
	if e.x.tries++; len(e.sets) >= maxEvictions {
		e.x.coarse = true
		return
	}
	if !slices.ContainsFunc(lack, func(l int64) bool { return l > 0 }) {
		if e.minimal(chosen, lack) {
			e.sets = append(e.sets, slices.Concat(e.must, chosen))
		}
		return
	}
	for k := from; k < len(e.could); k++ {
		left := slices.Clone(lack)
		for d := range left {
			left[d] -= at(e.x.s.p.Items[e.could[k].item].Demand, d)
		}
		e.choose(k+1, append(slices.Clone(chosen), e.could[k]), left)
	}
}

// minimal says whether no copy of a set could stay.
func (e *eviction) minimal(chosen []slot, lack []int64) bool {
	for _, sl := range chosen {
		needed := false
		for d, l := range lack {
			if at(e.x.s.p.Items[sl.item].Demand, d) > -l {
				needed = true
			}
		}
		if !needed {
			return false
		}
	}
	return true
}

// order is that in which nodes are tried for an item: that of the strategy, so that of several placements that are as good the
// search finds the one that is most like it.
func (x *search) order(i int) []int {
	s := x.s
	out := slices.Clone(s.p.Items[i].Allowed)
	slices.SortStableFunc(out, func(a, b int) int { return s.prefer(x.objective, i, a, b) })
	return out
}

// prefer compares two nodes for an item as the strategy does, roughly.
func (s *Solver) prefer(objective Objective, i, a, b int) int {
	switch {
	case objective == MinCost, s.p.Strategy == MinSetCover:
		if c := cmp.Compare(s.price(a), s.price(b)); c != 0 {
			return c
		}
	case objective == MinLinks, s.p.Strategy == MultiwayCut:
		if c := cmp.Compare(s.linksTo(i, b), s.linksTo(i, a)); c != 0 {
			return c
		}
	case s.p.Strategy == HighestBidder:
		return cmp.Compare(s.bid(b), s.bid(a))
	case s.p.Strategy == LowestBidder:
		return cmp.Compare(s.bid(a), s.bid(b))
	case s.p.Strategy == Greedy, s.p.Strategy == Colouring, s.p.Strategy == RoundRobin:
		return 0 // in name order
	}
	return cmp.Compare(s.load[a], s.load[b])
}

// rest is what the objective must still grow by, whatever is chosen for what has no place yet, if all of it gets one.
func (x *search) rest(asked, queued int) int64 {
	switch x.objective {
	case MinLoad:
		return x.restLoad(asked, queued)
	case MinCost:
		return x.restCost(asked, queued)
	case MinLinks:
		return x.restLinks(asked, queued)
	}
	return 0
}

// waiting visits the items that have a copy without a place, once for each.
func (x *search) waiting(asked, queued int, visit func(i int)) {
	for _, sl := range x.asked[min(asked, len(x.asked)):] {
		visit(sl.item)
	}
	for _, i := range x.queue[queued:] {
		visit(i)
	}
}

// restLoad fills the emptiest nodes level by level, as if each instance could go anywhere.
func (x *search) restLoad(asked, queued int) (v int64) {
	count := 0
	x.waiting(asked, queued, func(i int) { count += x.s.p.Items[i].Size })
	if count == 0 || len(x.s.load) == 0 {
		return 0
	}
	x.tries += len(x.s.load) / 50
	loads := slices.Sorted(slices.Values(x.s.load))
	level, wide := loads[0], 0
	for count > 0 {
		for wide < len(loads) && loads[wide] <= level {
			wide++
		}
		n := min(count, wide)
		v += int64(n) * int64(2*level+1)
		count -= n
		level++
	}
	return v
}

// restCost is the price of the cheapest node for that waiting item for which this is the highest.
func (x *search) restCost(asked, queued int) (v int64) {
	work := 0
	defer func() { x.tries += work / 200 }()
	x.waiting(asked, queued, func(i int) {
		least := int64(-1)
		work += len(x.s.p.Items[i].Allowed)
		for _, n := range x.s.p.Items[i].Allowed {
			if p := x.s.price(n); least < 0 || p < least {
				least = p
			}
		}
		v = max(v, least)
	})
	return v
}

// restLinks counts, for each waiting item, the links to what is placed that no single node would save.
func (x *search) restLinks(asked, queued int) (v int64) {
	work := 0
	defer func() { x.tries += work / 20 }()
	x.waiting(asked, queued, func(i int) {
		if x.s.p.Items[i].Copies != 1 {
			return
		}
		work += len(x.s.links[i])
		placed, best, counts := 0, 0, map[int]int{}
		for _, j := range x.s.links[i] {
			if x.s.p.Items[j].Copies != 1 || x.s.missing(j) > 0 {
				continue
			}
			placed++
			n := x.s.where[j][0]
			counts[n]++
			best = max(best, counts[n])
		}
		v += int64(placed - best)
	})
	return v
}

// install puts the best placement into the solver, with reasons.
func (x *search) install(before [][]int) {
	s := x.s
	for _, i := range x.items {
		for _, n := range slices.Clone(s.where[i]) {
			s.remove(i, n)
		}
	}
	for k, i := range x.items {
		for _, n := range x.found[k] {
			s.put(i, n)
		}
	}
	for k, i := range x.items {
		for _, n := range x.found[k] {
			if !slices.Contains(before[k], n) || s.reasons[i][n] == "" {
				s.explain(i, n, x.why(), func(int) string { return "that placement has it on " + s.name(n) })
			}
		}
		for _, n := range x.stays[i] {
			if !slices.Contains(x.found[k], n) {
				s.moved[i] = cmp.Or(s.Obstacle(i, n), "another placement is better as a whole")
			}
		}
	}
}

// why says why a search chose what it chose.
func (x *search) why() string {
	switch {
	case x.objective != "":
		return "the best placement of all services that was found has it so"
	case len(x.lacked) > 0:
		return "one after the other there was no place for " + strings.Join(x.lacked, ", ") + "; of the placements in which the least moves this was found first"
	}
	return "of the placements in which the least moves this was found first"
}
