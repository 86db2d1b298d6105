package raftfsm

import (
	"fmt"

	"github.com/isonomia-mesh/isonomia/model"
)

// table joins a number of the checkpoint format with a table of State.
type table struct {
	number uint64
	name   string
	length func(s *model.State) int
	each   func(s *model.State, yield func(key string, value any) error) error
	load   func(s *model.State, key string, value []byte) error
}

// tables is append-only like kinds. The indexes (Numbers, ByService, Dependents, Moving, Transit) are not in it: see reindex.
var tables = []table{
	tableOf(1, "nodes", func(s *model.State) *model.Table[model.Node] { return &s.Nodes }),
	tableOf(2, "removed", func(s *model.State) *model.Table[model.Removed] { return &s.Removed }),
	tableOf(3, "tokens", func(s *model.State) *model.Table[model.Token] { return &s.Tokens }),
	tableOf(4, "systems", func(s *model.State) *model.Table[model.System] { return &s.Systems }),
	tableOf(5, "intents", func(s *model.State) *model.Table[model.Intent] { return &s.Intents }),
	tableOf(6, "generations", func(s *model.State) *model.Table[model.Generation] { return &s.Gens }),
	tableOf(7, "rows", func(s *model.State) *model.Table[model.Row] { return &s.Rows }),
	tableOf(8, "specs", func(s *model.State) *model.Table[model.RowSpec] { return &s.Specs }),
	tableOf(9, "reservations", func(s *model.State) *model.Table[model.Reservation] { return &s.Reservations }),
	tableOf(10, "counters", func(s *model.State) *model.Table[int] { return &s.Counters }),
	tableOf(11, "builds", func(s *model.State) *model.Table[model.BuildRecord] { return &s.Builds }),
	tableOf(12, "custody", func(s *model.State) *model.Table[model.Custody] { return &s.Custody }),
	tableOf(13, "pending", func(s *model.State) *model.Table[model.Pending] { return &s.Pending }),
	tableOf(14, "proposals", func(s *model.State) *model.Table[model.Proposal] { return &s.Proposals }),
	tableOf(15, "snapshots", func(s *model.State) *model.Table[model.Snapshot] { return &s.Snapshots }),
	tableOf(16, "policies", func(s *model.State) *model.Table[model.StatePolicy] { return &s.Policies }),
}

func tableOf[V any](number uint64, name string, of func(*model.State) *model.Table[V]) table {
	return table{
		number: number,
		name:   name,
		length: func(s *model.State) int { return of(s).Len() },
		each: func(s *model.State, yield func(string, any) error) error {
			for k, v := range of(s).All() {
				if err := yield(k, v); err != nil {
					return err
				}
			}
			return nil
		},
		load: func(s *model.State, key string, value []byte) error {
			var v V
			if err := tableModes.dec.Unmarshal(value, &v); err != nil {
				return fmt.Errorf("read %q of table %s: %w", key, name, err)
			}
			*of(s) = of(s).Set(key, v)
			return nil
		},
	}
}

func tableByNumber(number uint64) (table, bool) {
	if number == 0 || number > uint64(len(tables)) {
		return table{}, false
	}
	return tables[number-1], true
}

// reindex makes the indexes that are derived from other tables.
func reindex(s *model.State) {
	s.Numbers, s.ByService, s.Dependents = model.Table[string]{}, model.Table[struct{}]{}, model.Table[struct{}]{}
	s.Moving, s.Transit = model.Table[struct{}]{}, model.Table[struct{}]{}
	for key, r := range s.Reservations.All() {
		s.Numbers = s.Numbers.Set(r.NumberKey(), key)
	}
	for key, c := range s.Custody.All() {
		if c.Snapshot != "" {
			s.Transit = s.Transit.Set(key, struct{}{})
		}
	}
	for _, r := range s.Rows.All() {
		if r.Moving() {
			s.Moving = s.Moving.Set(r.Key, struct{}{})
		}
		s.ByService = s.ByService.Set(model.ServiceKey(r.RowSpec), struct{}{})
		for _, k := range r.DependentKeys() {
			s.Dependents = s.Dependents.Set(k, struct{}{})
		}
	}
}
