package raftfsm

import (
	"slices"

	"github.com/isonomia-mesh/isonomia/model"
)

// trim drops the intents of a system beyond model.MaxIntents, except the newest of those that a rollback can still
// reach, and then the generations older than any intent that is kept, with the row specs that only they had. The newest
// model.MaxGenerations stay in any case, for the history: an intent that adapted to a change of nodes has its own
// generation, by whom and why, before its last.
func (t *tx) trim(system string) {
	keep := t.keptIntents(system)
	newest := t.s.Systems.At(system).Generation
	oldest := newest - min(newest, model.MaxGenerations) + 1
	for key, in := range t.s.Intents.Prefix(system + "/") {
		if !keep[in.Number] {
			t.s.Intents = t.s.Intents.Delete(key)
		} else {
			oldest = min(oldest, in.Last)
		}
	}
	t.dropGenerations(system, oldest)
}

func (t *tx) keptIntents(system string) map[uint64]bool {
	sys := t.s.Systems.At(system)
	keep := map[uint64]bool{}
	for n := sys.Intent; n > 0 && sys.Intent-n < model.MaxIntents; n-- {
		keep[n] = true
	}
	for n, i := sys.Settled, 0; n != 0 && i < model.MaxIntents; i++ {
		keep[n] = true
		in, ok := t.s.Intent(system, n)
		if !ok {
			break
		}
		n = in.Parent
	}
	return keep
}

func (t *tx) dropGenerations(system string, oldest uint64) {
	var gone []string
	needed := map[string]bool{} // by a generation that is kept, as far as not in Rows
	for key, g := range t.s.Gens.Prefix(system + "/") {
		if g.Number <= oldest {
			gone = append(gone, g.Gone...)
		}
		if g.Number < oldest {
			t.s.Gens = t.s.Gens.Delete(key)
			continue
		}
		for _, k := range g.Added {
			needed[k] = true
		}
		for _, k := range g.Gone {
			needed[k] = needed[k] || g.Number > oldest
		}
	}
	t.dropSpecs(gone, needed)
}

// dropSpecs forgets rows that left before the oldest generation kept, unless one that is kept has them.
func (t *tx) dropSpecs(gone []string, needed map[string]bool) {
	for _, k := range slices.Compact(slices.Sorted(slices.Values(gone))) {
		if !needed[k] && !t.s.Rows.Has(k) {
			t.s.Specs = t.s.Specs.Delete(k)
		}
	}
}
