package raftfsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// servers reads a cluster from words: a name and letters. V voter, S non-voter in the configuration (neither: not in
// it), s sick, d dead, D dead and marked down, b behind, u unwanted. The leader is "l".
func parseServers(t interface{ Fatalf(string, ...any) }, text string) []ServerInfo {
	var list []ServerInfo
	for _, w := range strings.Fields(text) {
		name, letters, _ := strings.Cut(w, ":")
		v := ServerInfo{ID: name, Wanted: true, Up: true, Healthy: true, CaughtUp: true}
		for _, c := range letters {
			switch c {
			case 'V':
				v.Present, v.Voter = true, true
			case 'S':
				v.Present = true
			case 'd':
				v.Healthy, v.CaughtUp = false, false
			case 'D':
				v.Healthy, v.CaughtUp, v.Up = false, false, false
			case 'b':
				v.CaughtUp = false
			case 's':
				v.Sick = true
			case 'u':
				v.Wanted = false
			default:
				t.Fatalf("letter %c in %q", c, w)
			}
		}
		list = append(list, v)
	}
	return list
}

func actsText(acts []Action) string {
	var words []string
	for _, a := range acts {
		words = append(words, fmt.Sprintf("%s %s", a.Act, a.ID))
	}
	return strings.Join(words, ", ")
}

func TestShape(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, servers, want string }{
		{"alone", "l:V", ""},
		{"nothing known yet", "l:Vu", ""},
		{"a member joins", "l:V a", "add a"},
		{"two members, one voter", "l:V a:S", ""},
		{"the third of three is not ready: wait for both", "l:V a:S b:Sb", ""},
		{"the third of three is dead: wait for both", "l:V a:S b:Sd", ""},
		{"one to three, back to back", "l:V a:S b:S", "promote a, promote b"},
		{"the third joins", "l:V a:S b", "add b"},
		{"four members, three voters", "l:V a:V b:V c:S", ""},
		{"three to five", "l:V a:V b:V c:S d:S", "promote c, promote d"},
		{"three to five: one is behind", "l:V a:V b:V c:S d:Sb", ""},
		{"one to five at once", "l:V a:S b:S c:S d:S", "promote a, promote b, promote c, promote d"},
		{"one to three of five: two are behind", "l:V a:S b:S c:Sb d:Sb", "promote a, promote b"},
		{"one to three of five: one is behind", "l:V a:S b:S c:S d:Sb", "promote a, promote b"},
		{"seven members, five voters", "l:V a:V b:V c:V d:V e:S f:S", ""},
		{"the second half of a growth", "l:V a:V b:S", "promote b"},
		{"the other half of a growth died", "l:V a:V b:Sd", "demote a"},
		{"the other half of a growth is behind", "l:V a:V b:Sb", ""},
		{"four of five, the fifth died", "l:V a:V b:V c:V d:Sd", "demote c"},
		{"four of five, one of the four died too", "l:V a:V b:V c:Vd d:Sd", "demote c"},

		{"dead, no standby: stays", "l:V a:V b:Vd", ""},
		{"dead, a standby replaces it", "l:V a:V b:Vd c:S", "promote c, demote b"},
		{"dead, the standby is behind", "l:V a:V b:Vd c:Sb", ""},
		{"dead, of five members one standby", "l:V a:V b:Vd c:S d:Sb", "promote c, demote b"},
		{"sick, no standby: stays", "l:V a:V b:Vs", ""},
		{"sick, a standby replaces it", "l:V a:V b:Vs c:S", "promote c, demote b"},
		{"sick, the standby is too", "l:V a:V b:Vs c:Ss", ""},
		{"dead, the standby is sick", "l:V a:V b:Vd c:Ss", "promote c, demote b"},
		{"the dead first", "l:V a:V b:Vs c:V d:Vd e:S", "promote e, demote d"},
		{"dead and sick, one of two standbys is sick", "l:V a:V b:Vs c:V d:Vd e:Ss f:S", "promote f, demote d"},
		{"dead and sick, two standbys", "l:V a:V b:Vs c:V d:Vd e:S f:S", "promote e, demote d, promote f, demote b"},
		{"a sick leader waits for its successor", "l:Vs a:V b:V c:S", ""},
		{"one of five dead: stays", "l:V a:V b:V c:V d:Vd", ""},
		{"two of five dead: three stay", "l:V a:V b:V c:Vd d:Vd", "demote c, demote d"},
		{"two of five dead, one standby", "l:V a:V b:V c:Vd d:Vd e:S", "promote e, demote c"},
		{"two of five dead, two standbys", "l:V a:V b:V c:Vd d:Vd e:S f:S", "promote e, demote c, promote f, demote d"},
		{"two of five dead, a standby is behind", "l:V a:V b:V c:Vd d:Vd e:Sb", "demote c, demote d"},
		{"three of five dead: nothing can be done", "l:V a:V b:Vd c:Vd d:Vd", ""},
		{"shrunk, and one came back", "l:V a:V b:V c:Sd d:S", ""},
		{"shrunk, and both came back", "l:V a:V b:V c:S d:S", "promote c, promote d"},
		{"the dead came back after its replacement", "l:V a:V b:V c:V", "demote c"},

		{"nine members, four standbys", "l:V a:V b:V c:V d:V e:S f:S g:S h", "add h"},
		{"ten members, one follows", "l:V a:V b:V c:V d:V e:S f:S g:S h:S i", ""},
		{"a member that is down is not made a standby", "l:V a:V b:V c:V d:V e:S f:S g:S h:D i", "add i"},
		{"a standby died, a follower takes its place", "l:V a:V b:V c:V d:V e:S f:SD g:S h:S i", "remove f, add i"},
		{"a standby died, and every follower", "l:V a:V b:V c:V d:V e:S f:SD g:S h:S i:D", ""},
		{"a standby is silent for a moment", "l:V a:V b:V c:V d:V e:S f:Sd g:S h:S i", ""},
		{"a voter died: a standby, then a follower", "l:V a:V b:VD c:V d:V e:S f:S g:S h:S i", "promote e, demote b"},
		{"a voter died: the follower's turn", "l:V a:V b:SD c:V d:V e:V f:S g:S h:S i", "remove b, add i"},
		{"more standbys than seats", "l:V a:V b:V c:V d:V e:S f:S g:S h:S i:S", "remove i"},
		{"more standbys than seats, a dead one", "l:V a:V b:V c:V d:V e:S f:SD g:S h:S i:S", "remove f"},
		{"the dead one came back as a follower", "a l:V b:V c:V d:V e:V f:S g:S h:S i:S", ""},
		{"a standby was removed, a follower takes its place", "l:V a:V b:V c:V d:V e:Su f:S g:S h:S i", "remove e, add i"},

		{"a standby was removed", "l:V a:V b:V c:Su", "remove c"},
		{"a voter leaves, a standby takes its place", "l:V a:V b:Vu c:S", "promote c, remove b"},
		{"a voter leaves, the standby is behind", "l:V a:V b:Vu c:Sb", "remove b"},
		{"three to two: one voter", "l:V a:V b:Vu", "remove b, demote a"},
		{"three to two: the removed one is dead", "l:V a:V b:Vdu", "remove b, demote a"},
		{"three to two: the one that stays is dead", "l:V a:Vd b:Vu", "demote a, remove b"},
		{"three to one", "l:V a:Vu b:Vu", "remove a, remove b"},
		{"two to one", "l:V a:Su", "remove a"},
		{"five to four: three voters", "l:V a:V b:V c:V d:Vu", "remove d, demote c"},
		{"five to four, one of them dead", "l:V a:V b:Vd c:V d:Vu", "remove d, demote b"},
		{"leaving would lose the majority: wait for the standby", "l:V a:Vd b:Vu c:Sb", ""},
		{"leaving would lose the majority: the standby came", "l:V a:Vd b:Vu c:S", "promote c, remove b"},

		{"the leader leaves three", "l:Vu a:V b:V", "transfer a"},
		{"the leader leaves, one is behind", "l:Vu a:Vb b:V", "transfer b"},
		{"the leader leaves two", "l:Vu a:S", "promote a, transfer a"},
		{"the leader leaves two, the other is behind", "l:Vu a:Sb", ""},
		{"the leader left, its successor goes on", "a:V l:V z:Vu", "remove z, demote a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if got := actsText(Shape(parseServers(t, c.servers), "l")); got != c.want {
				t.Errorf("Shape(%s) = %q, want %q", c.servers, got, c.want)
			}
		})
	}
}

func TestVoters(t *testing.T) {
	t.Parallel()
	want := []int{1, 1, 1, 3, 3, 5, 5, 5, 5}
	for n, v := range want {
		if Voters(n) != v {
			t.Errorf("Voters(%d) = %d, want %d", n, Voters(n), v)
		}
	}
}

// world carries actions out as raft would, and checks each step.
type world struct {
	t       *rapid.T
	servers []ServerInfo
	leader  string
}

func (w *world) at(id string) *ServerInfo {
	i := slices.IndexFunc(w.servers, func(v ServerInfo) bool { return v.ID == id })
	if i < 0 {
		w.t.Fatalf("action on unknown server %q", id)
	}
	return &w.servers[i]
}

func (w *world) majority() bool {
	s := shape{servers: w.servers}
	return s.healthyMajority()
}

func (w *world) do(a Action) {
	had := w.majority()
	v := w.at(a.ID)
	if a.ID == w.leader && a.Act != ActTransfer {
		w.t.Fatalf("%v touches the leader", a)
	}
	switch a.Act {
	case ActAdd:
		v.Present = true
	case ActPromote:
		if !v.Present || v.Voter || !v.Healthy || !v.CaughtUp || !v.Wanted {
			w.t.Fatalf("%v: %+v is no standby", a, *v)
		}
		v.Voter = true
	case ActDemote:
		v.Voter = false
	case ActRemove:
		v.Present, v.Voter = false, false
	case ActTransfer:
		if !v.Voter || !v.Healthy || !v.Wanted {
			w.t.Fatalf("%v: %+v cannot lead", a, *v)
		}
		w.leader = a.ID
	}
	if had && !w.majority() {
		w.t.Fatalf("%v loses the healthy majority: %+v", a, w.servers)
	}
}

// settle runs Shape to its end.
func (w *world) settle() {
	for range 20 {
		acts := Shape(w.servers, w.leader)
		if len(acts) == 0 {
			return
		}
		for _, a := range acts {
			w.do(a)
		}
	}
	w.t.Fatalf("Shape does not end: %+v", w.servers)
}

func drawServers(t *rapid.T) []ServerInfo {
	var list []ServerInfo
	for i := range rapid.IntRange(1, 14).Draw(t, "servers") {
		v := ServerInfo{ID: fmt.Sprintf("n%02d", i), Wanted: rapid.IntRange(0, 4).Draw(t, "wanted") > 0, Up: rapid.IntRange(0, 4).Draw(t, "up") > 0, Sick: rapid.IntRange(0, 4).Draw(t, "sick") == 0}
		v.Present = rapid.IntRange(0, 4).Draw(t, "present") > 0
		v.Voter = v.Present && rapid.Bool().Draw(t, "voter")
		v.Healthy = rapid.IntRange(0, 3).Draw(t, "healthy") > 0
		v.CaughtUp = v.Healthy && rapid.IntRange(0, 3).Draw(t, "caught up") > 0
		list = append(list, v)
	}
	list[0] = ServerInfo{ID: "n00", Up: true, Wanted: rapid.IntRange(0, 5).Draw(t, "stays") > 0, Present: true, Voter: true, Healthy: true, CaughtUp: true}
	return list
}

func TestShapeIsSafeAndEnds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, servers: drawServers(t), leader: "n00"}
		if !w.majority() {
			t.Skip("no quorum, no leader")
		}
		w.settle()
		// Everybody becomes healthy and caught up: then the shape is exactly the one wanted.
		wanted := 0
		for i := range w.servers {
			v := &w.servers[i]
			v.Healthy, v.CaughtUp, v.Up = true, true, true
			if v.Wanted {
				wanted++
			}
		}
		w.settle()
		if wanted == 0 {
			return
		}
		voters, present := 0, 0
		for _, v := range w.servers {
			if v.Voter {
				voters++
			}
			if v.Present {
				present++
			}
			if (v.Present || v.Voter) && !v.Wanted {
				t.Fatalf("%+v is in the wrong place", v)
			}
		}
		if voters != Voters(wanted) || present != min(wanted, voters+Standbys) {
			t.Fatalf("%d voters, %d servers of %d members: %+v", voters, present, wanted, w.servers)
		}
	})
}

// TestShapeSurvivesDeaths kills one server after another, with time for Shape in between, as long as a majority of
// the voters lives: with five members that is three deaths, one more than five voters alone would survive.
func TestShapeSurvivesDeaths(t *testing.T) {
	t.Parallel()
	for members, want := range map[int]int{1: 0, 2: 0, 3: 1, 4: 2, 5: 3, 6: 4, 7: 5, 12: 10} {
		rapid.Check(t, func(t *rapid.T) {
			w := &world{t: t, leader: "n0"}
			for i := range members {
				w.servers = append(w.servers, ServerInfo{ID: fmt.Sprintf("n%d", i), Wanted: true, Up: true, Healthy: true, CaughtUp: true})
			}
			w.at("n0").Present, w.at("n0").Voter = true, true
			w.settle()
			for range want {
				alive := shape{servers: w.servers}
				id := rapid.SampledFrom(alive.pick(func(v ServerInfo) bool { return v.Healthy && v.ID != "n0" })).Draw(t, "dies")
				w.at(id).Healthy, w.at(id).CaughtUp, w.at(id).Up = false, false, false
				if !w.majority() {
					t.Fatalf("%d members did not survive %d deaths: %+v", members, want, w.servers)
				}
				w.settle()
			}
		})
	}
}
