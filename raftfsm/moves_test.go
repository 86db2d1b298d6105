package raftfsm

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// movers writes a model of n services with state, some of which depend on others, all pinned to one node if pin is set.
func (s *sim) movers(n, moves int, pin string) model.Source {
	var b, pins strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "service \"s%02d\" {\n type = \"process\"\n state {\n managed = true\n }\n run {\n command = [\"run\", \"1\"]\n }\n", i)
		if i%3 == 2 {
			fmt.Fprintf(&b, " depends_on = { d = \"s%02d\" }\n", i*7%i)
		}
		b.WriteString("}\n")
		fmt.Fprintf(&pins, " s%02d = [%q]\n", i, pin)
	}
	b.WriteString("distribution {\n")
	if moves > 0 {
		fmt.Fprintf(&b, " moves = %d\n", moves)
	}
	if pin != "" {
		b.WriteString(" pin = {\n" + pins.String() + " }\n")
	}
	b.WriteString("}\n")
	return model.Source{Files: map[string][]byte{"services.hcl": []byte(b.String())}}
}

// underWay is how many states are being saved or restored, and at most to one node.
func (s *sim) underWay() (all, most int) {
	to := map[string]int{}
	for _, r := range s.state.Rows.All() {
		node := r.Node
		if r.Phase == model.Saving {
			for _, o := range s.state.ServiceRows(simSystem, r.Service) {
				if !o.Obsolete {
					node = o.Node
				}
			}
		}
		if r.Phase == model.Saving || r.Phase == model.Restoring {
			all++
			to[node]++
			most = max(most, to[node])
		}
	}
	return all, most
}

// onNode names a service that a node has.
func (s *sim) onNode(id string) string {
	for _, r := range s.state.Rows.Prefix(id + "/") {
		return r.Service
	}
	return ""
}

// TestMovesAreBounded: what a node had goes elsewhere a few at a time, never more than the model says, nor than four to one
// node, and all of it arrives, also when another node dies meanwhile.
func TestMovesAreBounded(t *testing.T) {
	t.Parallel()
	for seed := range uint64(12) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			moves := []int{0, 1, 2, 3, 6, 40}[seed%6]
			limit := moves
			if moves == 0 {
				limit = model.MovesAtOnce
			}
			nodes := 2 + int(seed)%5
			s := newSim(t, seed, nodes)
			s.deploy("there", s.movers(24, moves, "n1"))
			s.await(10 * time.Minute)
			s.deploy("free", s.movers(24, moves, ""))
			s.await(10 * time.Minute)
			dies := nodes > 2 && seed%2 == 1
			s.apply(model.DrainNode{ID: "node01", On: true})
			reached, toOne, moved := 0, 0, s.moves
			const patience = 6000 // turns of 55 ms
			for i := 0; i < 250 || s.onNode("node01") != "" && i < patience; i++ {
				s.turn()
				all, most := s.underWay()
				reached, toOne = max(reached, all), max(toOne, most)
				if all > limit || most > min(limit, model.MovesPerNode) && !dies {
					s.fatal("%d states move at once, %d of them to one node; %d may", all, most, limit)
				}
				switch {
				case dies && i == 60:
					s.crash(s.nodes[1])
				case dies && i == 200:
					s.back(s.nodes[1])
				}
			}
			s.await(10 * time.Minute)
			if r := s.onNode("node01"); r != "" {
				s.fatal("%s is still on the drained node", r)
			}
			if s.moves-moved < 24 {
				s.fatal("only %d states moved", s.moves-moved)
			}
			if reached < min(limit, model.MovesPerNode) {
				s.fatal("only %d at once, %d to one node: the bound shows nothing", reached, toOne)
			}
			t.Logf("%d nodes, %d may: %d at once, %d to one node", nodes, limit, reached, toOne)
		})
	}
}
