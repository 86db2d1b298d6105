package raftfsm

import (
	"cmp"
	"slices"
)

// ServerInfo is what Shape knows of a raft server, or of a member that should become one.
type ServerInfo struct {
	ID       string
	Wanted   bool // a member that may be a raft server: admitted, not removed, not leaving
	Up       bool // a member that may become one now: not marked down, not drained, not too old
	Present  bool // in the raft configuration
	Voter    bool
	Healthy  bool // it answers this leader
	CaughtUp bool // its log ends where the leader's does
	Sick     bool // it says so itself: somebody else does it better
}

// Act is a kind of change to the raft configuration.
type Act string

// Acts.
const (
	ActAdd      Act = "add"      // as a non-voter: it gets the log
	ActPromote  Act = "promote"  // a non-voter to voter
	ActDemote   Act = "demote"   // a voter to non-voter
	ActRemove   Act = "remove"   // from the configuration
	ActTransfer Act = "transfer" // leadership, to ID
)

// Action is one change, with its reason for the log.
type Action struct {
	Act Act
	ID  string
	Why string
}

// Standbys is how many raft servers there are at most besides the voters: caught up, and ready to replace one. All other
// members follow.
const Standbys = 4

// Voters is how many voters a cluster of so many members should have.
func Voters(members int) int {
	switch {
	case members >= 5:
		return 5
	case members >= 3:
		return 3
	}
	return 1
}

// Shape gives the changes that bring the raft servers nearer to what they should be, in the order in which the leader
// (self) should make them; after them, or the first that fails, it is asked again. None means that nothing can be
// bettered now. It is pure, and keeps these rules:
//
//   - 1 voter for one or two members, 3 for three or four, 5 from five up, dead ones counted.
//   - Besides them at most Standbys non-voters, by id, which change only for a reason: one that is dead goes when another
//     member can come.
//   - Growth adds its two voters back to back, once both are healthy and caught up: never an even number for long.
//   - A dead voter is replaced by a standby: added first, then demoted. Without a standby it stays a voter, for a
//     smaller majority would be no safer; only of five, when two are dead and three healthy, both are demoted.
//   - A sick voter that answers is replaced likewise by a standby that is not sick; the leader hands over first.
//   - What is not wanted any more goes at once, and the number of voters follows.
//   - Every configuration on the way has a healthy majority if the one before had: else the change waits.
//   - The leader is never demoted or removed: it transfers leadership first, and its successor does that.
func Shape(servers []ServerInfo, self string) []Action {
	s := newShape(servers, self)
	if s.want == 0 {
		return nil // no member is known: State has not come yet
	}
	s.dropNonvoters()
	s.dropSurplus()
	s.addWanted()
	if s.leaving() {
		return s.acts
	}
	s.grow()
	s.replace()
	s.removeUnwanted()
	for target := s.target(); s.count(ServerInfo.wantedVoter) > target && s.demoteOne(); {
	}
	s.removeUnwanted() // what had to wait for the demotion of a dead voter
	return s.acts
}

// shape is the configuration as it will be after acts.
type shape struct {
	self    string
	want    int // voters
	servers []ServerInfo
	acts    []Action
}

func newShape(servers []ServerInfo, self string) *shape {
	s := &shape{self: self, servers: slices.Clone(servers)}
	slices.SortFunc(s.servers, func(a, b ServerInfo) int { return cmp.Compare(a.ID, b.ID) })
	for i := range s.servers {
		switch v := &s.servers[i]; {
		case v.ID == self:
			v.Healthy, v.CaughtUp = true, true
		case !v.Present:
			v.Healthy, v.CaughtUp = false, false // not asked yet
		}
	}
	if wanted := s.count(func(v ServerInfo) bool { return v.Wanted }); wanted > 0 {
		s.want = Voters(wanted)
	}
	return s
}

func (s *shape) count(is func(ServerInfo) bool) int {
	n := 0
	for _, v := range s.servers {
		if is(v) {
			n++
		}
	}
	return n
}

func (s *shape) pick(is func(ServerInfo) bool) []string {
	var ids []string
	for _, v := range s.servers {
		if is(v) {
			ids = append(ids, v.ID)
		}
	}
	return ids
}

func (v ServerInfo) standby() bool {
	return v.Wanted && v.Present && !v.Voter && v.Healthy && v.CaughtUp
}
func (v ServerInfo) wantedVoter() bool { return v.Wanted && v.Voter }

// deadNonvoter: not only does it not answer this leader lately, it is marked down too.
func (v ServerInfo) deadNonvoter() bool {
	return v.Wanted && v.Present && !v.Voter && !v.Healthy && !v.Up
}

// do notes a change and makes it in the copy, if the configuration then has a healthy majority, or never had one.
func (s *shape) do(act Act, id, why string) bool {
	i := slices.IndexFunc(s.servers, func(v ServerInfo) bool { return v.ID == id })
	before := s.servers[i]
	after := before
	switch act {
	case ActAdd:
		after.Present = true
	case ActPromote:
		after.Voter = true
	case ActDemote:
		after.Voter = false
	case ActRemove:
		after.Voter, after.Present = false, false
	}
	s.servers[i] = after
	if before.Voter != after.Voter && !s.healthyMajority() {
		s.servers[i] = before
		return false
	}
	s.acts = append(s.acts, Action{act, id, why})
	return true
}

func (s *shape) healthyMajority() bool {
	voters := s.count(func(v ServerInfo) bool { return v.Voter })
	healthy := s.count(func(v ServerInfo) bool { return v.Voter && v.Healthy })
	return healthy > voters/2
}

func (s *shape) present() int {
	return s.count(func(v ServerInfo) bool { return v.Wanted && v.Present })
}

// addWanted fills the seats that are free, or that dead non-voters have.
func (s *shape) addWanted() {
	free := s.want + Standbys - s.present()
	dead := s.pick(ServerInfo.deadNonvoter)
	for _, id := range s.pick(func(v ServerInfo) bool { return v.Wanted && !v.Present && v.Up }) {
		switch {
		case free > 0:
			free--
		case len(dead) > 0:
			s.do(ActRemove, dead[0], "another member takes its place")
			dead = dead[1:]
		default:
			return
		}
		s.do(ActAdd, id, "raft servers are missing")
	}
}

// dropSurplus takes out non-voters for which there is no seat, dead ones first, then the last by id: a voter that was
// replaced while all seats were taken, or what the standbys of more voters were.
func (s *shape) dropSurplus() {
	nonvoter := func(v ServerInfo) bool { return v.Wanted && v.Present && !v.Voter && v.ID != s.self }
	dead := s.pick(func(v ServerInfo) bool { return nonvoter(v) && !v.Healthy })
	alive := s.pick(func(v ServerInfo) bool { return nonvoter(v) && v.Healthy })
	order := append(dead, backwards(alive)...)
	for _, id := range order[:min(len(order), max(0, s.present()-s.want-Standbys))] {
		s.do(ActRemove, id, "there are more standbys than needed")
	}
}

func (s *shape) dropNonvoters() {
	for _, id := range s.pick(func(v ServerInfo) bool { return !v.Wanted && v.Present && !v.Voter && v.ID != s.self }) {
		s.do(ActRemove, id, "it left or was removed")
	}
}

// leaving deals with a leader that is not wanted any more: it only finds its successor.
func (s *shape) leaving() bool {
	if s.count(func(v ServerInfo) bool { return v.ID == s.self && !v.Wanted }) == 0 {
		return false
	}
	successors := s.pick(func(v ServerInfo) bool { return v.wantedVoter() && v.Healthy && v.CaughtUp })
	if len(successors) == 0 {
		if standby := s.pick(ServerInfo.standby); len(standby) > 0 && s.do(ActPromote, standby[0], "the leader leaves") {
			successors = standby
		}
	}
	if len(successors) > 0 {
		s.acts = append(s.acts, Action{ActTransfer, successors[0], "the leader leaves"})
	}
	return true
}

// grow promotes standbys to the number wanted, or to the next lower odd one.
func (s *shape) grow() {
	standby := s.pick(ServerInfo.standby)
	have := s.count(ServerInfo.wantedVoter)
	n := min(max(0, s.want-have), len(standby))
	if n > 0 && (have+n)%2 == 0 {
		n--
	}
	for _, id := range standby[:n] {
		s.do(ActPromote, id, "voters are missing")
	}
}

// replace puts standbys in the place of dead voters, and of sick ones; the leader hands over first.
func (s *shape) replace() {
	dead := s.pick(func(v ServerInfo) bool { return v.wantedVoter() && !v.Healthy })
	sick := s.pick(func(v ServerInfo) bool { return v.wantedVoter() && v.Healthy && v.Sick && v.ID != s.self })
	sound := s.pick(func(v ServerInfo) bool { return v.standby() && !v.Sick })
	standby := append(sound, s.pick(func(v ServerInfo) bool { return v.standby() && v.Sick })...)
	for i := range min(len(dead), len(standby)) {
		s.swap(standby[i], dead[i], "does not answer")
	}
	for i := range min(len(sick), len(sound)-len(dead)) {
		s.swap(sound[len(dead)+i], sick[i], "is sick")
	}
}

func (s *shape) swap(standby, voter, why string) {
	if s.do(ActPromote, standby, "it replaces a voter that "+why) {
		s.do(ActDemote, voter, "it "+why+" and was replaced")
	}
}

// removeUnwanted takes voters out, dead ones first.
func (s *shape) removeUnwanted() {
	for _, healthy := range []bool{false, true} {
		unwanted := s.pick(func(v ServerInfo) bool { return v.Voter && !v.Wanted && v.Healthy == healthy && v.ID != s.self })
		for _, id := range unwanted {
			s.do(ActRemove, id, "it left or was removed")
		}
	}
}

// target is how many wanted voters may stay.
func (s *shape) target() int {
	have := s.count(ServerInfo.wantedVoter)
	dead := s.count(func(v ServerInfo) bool { return v.wantedVoter() && !v.Healthy })
	coming := s.count(func(v ServerInfo) bool { return v.Wanted && !v.Voter && v.Healthy })
	switch {
	case have == 5 && dead == 2 && s.count(ServerInfo.standby) == 0:
		return 3
	case have < s.want && have%2 == 0 && coming == 0:
		return have - 1 // half of a growth whose other half died
	}
	return s.want
}

// demoteOne takes the vote of a dead server, or else of the last by id that is not the leader.
func (s *shape) demoteOne() bool {
	others := s.pick(func(v ServerInfo) bool { return v.wantedVoter() && v.ID != s.self })
	dead := s.pick(func(v ServerInfo) bool { return v.wantedVoter() && !v.Healthy })
	for _, id := range append(dead, backwards(others)...) {
		if s.do(ActDemote, id, "there are more voters than needed") {
			return true
		}
	}
	return false
}

func backwards(ids []string) []string {
	ids = slices.Clone(ids)
	slices.Reverse(ids)
	return ids
}
