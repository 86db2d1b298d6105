package raftfsm

import (
	"reflect"

	"github.com/isonomia-mesh/isonomia/model"
)

// kind joins a number of the log format with the command that it stands for.
type kind struct {
	number uint64
	typ    reflect.Type
	decode func(body []byte) (model.Command, error)
}

// kinds is append-only: a number is never changed and never given again, for it lies in logs on disk. The package
// comment has the same table, and a test pins it.
var kinds = []kind{
	kindOf[model.Init](1),
	kindOf[model.Admit](2),
	kindOf[model.CreateToken](3),
	kindOf[model.RevokeToken](4),
	kindOf[model.UpdateNode](5),
	kindOf[model.MarkDown](6),
	kindOf[model.MarkUp](7),
	kindOf[model.RemoveNode](8),
	kindOf[model.SealCA](9),
	kindOf[model.Begin](10),
	kindOf[model.Part](11),
	kindOf[model.Commit](12),
	kindOf[model.Claims](13),
	kindOf[model.Reports](14),
	kindOf[model.Finish](15),
	kindOf[model.Retry](16),
	kindOf[model.Abort](17),
	kindOf[model.RecordBuild](18),
	kindOf[model.TakeSnapshot](19),
	kindOf[model.HoldSnapshots](20),
	kindOf[model.DropSnapshots](21),
	kindOf[model.GiveUpState](22),
	kindOf[model.DrainNode](23),
	kindOf[model.Fence](24),
	kindOf[model.TakeOver](25),
	kindOf[model.Leave](26),
	kindOf[model.Rejoin](27),
}

func kindOf[C model.Command](number uint64) kind {
	decode := func(body []byte) (model.Command, error) {
		var c C
		err := entryModes.dec.Unmarshal(body, &c)
		return c, err
	}
	return kind{number, reflect.TypeFor[C](), decode}
}

func kindByNumber(number uint64) (kind, bool) {
	if number == 0 || number > uint64(len(kinds)) {
		return kind{}, false
	}
	return kinds[number-1], true // numbers have no gaps: see the test
}

func kindOfCommand(c model.Command) (kind, bool) {
	typ := reflect.TypeOf(c)
	for _, k := range kinds {
		if k.typ == typ {
			return k, true
		}
	}
	return kind{}, false
}
