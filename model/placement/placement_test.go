package placement

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// The StaffTracker system of the reference: what each service needs of `mem`, and who talks to whom.
var (
	stafftracker = []struct {
		name string
		mem  int64
		uses []string
	}{
		{"nginx", 20, []string{"stafftracker"}},
		{"rooms", 10, nil},
		{"roomservice", 40, []string{"rooms"}},
		{"staff", 10, nil},
		{"staffservice", 40, []string{"staff"}},
		{"stafftracker", 60, []string{"roomservice", "staffservice", "zipcodeservice"}},
		{"zipcodes", 10, nil},
		{"zipcodeservice", 40, []string{"zipcodes"}},
	}
	machines = []int64{100, 150, 120}
)

func system(strategy Strategy) *Problem {
	p := &Problem{Strategy: strategy, Dimensions: []string{"mem"}}
	for i, mem := range machines {
		p.Nodes = append(p.Nodes, Node{ID: fmt.Sprint("m", i+1), Name: fmt.Sprint("m", i+1), Capacity: []int64{mem}})
	}
	names := []string{}
	sorted := slices.Clone(stafftracker)
	slices.SortFunc(sorted, func(a, b struct {
		name string
		mem  int64
		uses []string
	}) int {
		return strings.Compare(a.name, b.name)
	})
	for _, s := range sorted {
		names = append(names, s.name)
		p.Items = append(p.Items, Item{Name: s.name, Size: 1, Copies: 1, Demand: []int64{s.mem}, Allowed: []int{0, 1, 2}, Weight: 1})
	}
	for i, s := range sorted {
		for _, u := range s.uses {
			p.Links = append(p.Links, [2]int{i, slices.Index(names, u)})
		}
	}
	return p
}

func free(p *Problem) *Problem {
	p.Dimensions = nil
	for i := range p.Items {
		p.Items[i].Demand = nil
	}
	return p
}

func (p *Problem) all() []int {
	var out []int
	for i := range p.Items {
		out = append(out, i)
	}
	return out
}

func (p *Problem) solve() *Solver {
	s := New(p)
	for i := range p.Items {
		s.Explain(i)
	}
	s.Place(p.all())
	return s
}

// by says what is on each node.
func by(s *Solver) string {
	on := make([][]string, len(s.p.Nodes))
	for i, it := range s.p.Items {
		for _, n := range s.where[i] {
			on[n] = append(on[n], it.Name)
		}
	}
	var out []string
	for n, names := range on {
		slices.Sort(names)
		out = append(out, s.name(n)+": "+strings.Join(names, " "))
	}
	return strings.Join(out, "\n")
}

const everything = "nginx rooms roomservice staff staffservice stafftracker zipcodes zipcodeservice"

// What the reference's tools give for StaffTracker.
func TestReferenceVectors(t *testing.T) {
	t.Parallel()
	costs := func(p *Problem) *Problem {
		for n, c := range []int64{10, 10, 30} {
			p.Nodes[n].Cost = c
		}
		return free(p)
	}
	for _, tc := range []struct {
		name string
		p    *Problem
		want string
	}{
		{"greedy", system(Greedy), "m1: nginx rooms roomservice staff zipcodes\nm2: staffservice stafftracker zipcodeservice\nm3: "},
		{"highest bidder", system(HighestBidder), "m1: stafftracker\nm2: nginx rooms roomservice zipcodes zipcodeservice\nm3: staff staffservice"},
		{"lowest bidder", system(LowestBidder), "m1: nginx rooms roomservice staff zipcodes\nm2: zipcodeservice\nm3: staffservice stafftracker"},
		{"min set cover", costs(system(MinSetCover)), "m1: " + everything + "\nm2: \nm3: "},
		{"multiway cut", free(system(MultiwayCut)), "m1: " + everything + "\nm2: \nm3: "},
	} {
		s := tc.p.solve()
		if got := by(s); got != tc.want {
			t.Errorf("%s:\n%s\nwant\n%s", tc.name, got, tc.want)
		}
		checkReasons(t, s)
	}
}

// checkReasons holds that for each item there is a reason for each node.
func checkReasons(t *testing.T, s *Solver) {
	t.Helper()
	for i, it := range s.p.Items {
		for n := range s.p.Nodes {
			if s.Reason(i, n) == "" {
				t.Errorf("%s: no reason for %s on %s", s.p.Strategy, it.Name, s.name(n))
			}
		}
	}
}

// items makes items of so much of one dimension each, that may be on the nodes given.
func problem(strategy Strategy, capacity []int64, demand []int64, allowed ...[]int) *Problem {
	p := &Problem{Strategy: strategy, Dimensions: []string{"mem"}}
	var all []int
	for n, c := range capacity {
		p.Nodes = append(p.Nodes, Node{ID: fmt.Sprint("t", n+1), Name: fmt.Sprint("t", n+1), Capacity: []int64{c}})
		all = append(all, n)
	}
	for i, d := range demand {
		it := Item{Name: fmt.Sprint("s", i+1), Size: 1, Copies: 1, Demand: []int64{d}, Allowed: all, Weight: 1}
		if i < len(allowed) {
			it.Allowed = allowed[i]
		}
		p.Items = append(p.Items, it)
	}
	return p
}

// The values of the reference's own tests: t1 has 1000 (or so), demands such that each strategy shows.
func TestReferenceTests(t *testing.T) {
	t.Parallel()
	three := []int64{100, 100, 100}
	where := func(p *Problem) string {
		s := p.solve()
		var out []string
		for i := range p.Items {
			for _, n := range s.Where(i) {
				out = append(out, s.name(n))
			}
		}
		return strings.Join(out, ",")
	}
	cover := problem(MinSetCover, three[:2], []int64{0, 0, 0}, []int{0}, []int{0}, []int{1})
	colour := problem(Colouring, three, []int64{0, 0, 0})
	colour.Links = [][2]int{{0, 1}, {1, 2}, {0, 2}}
	two := problem(Colouring, three[:2], []int64{0, 0, 0})
	two.Links = colour.Links
	for _, tc := range []struct {
		name string
		p    *Problem
		want string
	}{
		{"greedy", problem(Greedy, []int64{1024, 2048}, []int64{512, 512, 1024}), "t1,t1,t2"},
		{"highest", problem(HighestBidder, []int64{1024, 1100}, []int64{512, 512, 512}), "t2,t1,t2"},
		{"lowest", problem(LowestBidder, []int64{1024, 2048}, []int64{512, 512, 1024}), "t1,t1,t2"},
		{"round robin", problem(RoundRobin, three[:2], []int64{0, 0, 0}), "t1,t2,t1"},
		{"min set cover", problem(MinSetCover, three, []int64{0, 0, 0}), "t1,t1,t1"},
		{"min set cover with limits", cover, "t1,t1,t2"},
		{"multiway cut", problem(MultiwayCut, three, []int64{0, 0, 0}), "t1,t1,t1"},
		{"colouring", colour, "t1,t2,t3"},
		{"colouring with too few", two, "t1,t2"},
	} {
		if got := where(tc.p); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
	for _, s := range []Strategy{Greedy, HighestBidder, LowestBidder} {
		if got := where(problem(s, []int64{512, 512}, []int64{1024})); got != "" {
			t.Errorf("%s placed what has no room: %s", s, got)
		}
	}
}

// Where the reference hangs or crashes: no candidate, a machine that costs nothing and is of no use, a graph with three
// colours.
func TestReferenceDefects(t *testing.T) {
	t.Parallel()
	for _, name := range Strategies() {
		p := problem(Strategy(name), []int64{10, 10, 10}, []int64{1, 1, 1}, []int{0}, []int{}, []int{1, 2})
		p.Links = [][2]int{{0, 1}, {1, 2}, {0, 2}}
		s := p.solve()
		if got := fmt.Sprint(s.where[1], len(s.where[0]), len(s.where[2])); got != "[] 1 1" {
			t.Errorf("%s: %s", name, got)
		}
		checkReasons(t, s)
		empty := &Problem{Strategy: Strategy(name), Items: []Item{{Name: "a", Copies: 1}}}
		empty.solve()
	}
	useless := problem(MinSetCover, []int64{0, 10, 10}, []int64{1, 1})
	useless.Nodes[1].Cost, useless.Nodes[2].Cost = 5, 4
	if got := by(useless.solve()); got != "t1: \nt2: \nt3: s1 s2" {
		t.Errorf("a useless node without cost: %s", got)
	}
	graph := free(system(Colouring)).solve()
	for i := range graph.p.Items {
		for _, j := range graph.links[i] {
			if graph.where[i][0] == graph.where[j][0] {
				t.Errorf("%s and %s are on one node", graph.p.Items[i].Name, graph.p.Items[j].Name)
			}
		}
	}
}

// Links are few where a machine is fixed for some.
func TestMultiwayCut(t *testing.T) {
	t.Parallel()
	// a is on t1, f on t3; a-b, b-c, d-e, e-f and one link c-d between the halves.
	p := problem(MultiwayCut, []int64{9, 9, 9}, []int64{0, 0, 0, 0, 0, 0}, []int{0}, []int{0, 1, 2}, []int{0, 1, 2}, []int{0, 1, 2}, []int{0, 1, 2}, []int{2})
	p.Links = [][2]int{{0, 1}, {0, 2}, {1, 2}, {2, 3}, {3, 4}, {3, 5}, {4, 5}}
	if got := by(p.solve()); got != "t1: s1 s2 s3\nt2: \nt3: s4 s5 s6" {
		t.Error(got)
	}
}

func TestApartAndDomains(t *testing.T) {
	t.Parallel()
	p := problem(Spread, []int64{9, 9, 9, 9}, []int64{0, 0})
	p.Domains = []Domain{{Name: "zone", Values: []int{0, 0, 1, -1}}}
	p.Items[0].Copies = 3
	p.Apart = []Apart{{0, 0, 1}, {1, 0, 0}}
	s := p.solve()
	zones := map[int]bool{}
	for _, n := range s.where[0] {
		zones[p.Domains[0].Values[n]] = true
	}
	if len(s.where[0]) != 3 || len(zones) != 3 {
		t.Errorf("zones of %v", s.where[0])
	}
	if len(s.where[1]) != 1 || slices.Contains(s.where[0], s.where[1][0]) {
		t.Errorf("%v beside %v", s.where[1], s.where[0])
	}
	var why []string
	for n := range p.Nodes {
		why = append(why, s.Reason(0, n))
	}
	if got := strings.Join(why, "|"); !strings.Contains(got, "another instance of it is on t") || !strings.Contains(got, "with the same zone") {
		t.Error(got)
	}
}

// Copies of one item go to different zones where they can, without being told to.
func TestSpreadLooksAtZones(t *testing.T) {
	t.Parallel()
	p := problem(Spread, []int64{9, 9, 9}, []int64{0})
	p.Domains = []Domain{{Name: "zone", Values: []int{0, 0, 1}}}
	p.Items[0].Copies = 2
	p.Nodes[2].Load = 5
	if got := p.solve().Where(0); got[1] != 2 {
		t.Errorf("both are in one zone: %v", got)
	}
}

func TestSearchStates(t *testing.T) {
	t.Parallel()
	p := system(Optimal)
	p.Minimize = MinLinks
	s := p.solve()
	if got := s.Notes(); len(got) != 1 || !strings.Contains(got[0], "is optimal: 2") {
		t.Errorf("%v\n%s", got, by(s))
	}
	p = system(Optimal)
	p.Minimize, p.Tries = MinLinks, 3
	if got := p.solve().Notes(); len(got) != 1 || !strings.Contains(got[0], "at least 0 is needed") {
		t.Errorf("%v", got)
	}
}
