package raftfsm

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/isonomia-mesh/isonomia/model"
)

// drawn is how random values are made: times that RFC 3339 can say, strings that may not be UTF-8, and containers of
// at most two, for a value's shape matters here, not its size.
var drawn = newDrawn()

func newDrawn() rapid.MakeConfig {
	cfg := rapid.MakeConfig{Types: map[reflect.Type]*rapid.Generator[any]{
		reflect.TypeFor[time.Time]():                   drawTime().AsAny(),
		reflect.TypeFor[string]():                      drawString().AsAny(),
		reflect.TypeFor[[]byte]():                      rapid.SliceOfN(rapid.Byte(), 0, 4).AsAny(),
		reflect.TypeFor[[]string]():                    rapid.SliceOfN(drawString(), 0, 2).AsAny(),
		reflect.TypeFor[map[string]string]():           rapid.MapOfN(drawString(), drawString(), 0, 2).AsAny(),
		reflect.TypeFor[map[string]int]():              rapid.MapOfN(drawString(), rapid.Int(), 0, 2).AsAny(),
		reflect.TypeFor[map[string][]byte]():           rapid.MapOfN(drawString(), rapid.SliceOfN(rapid.Byte(), 0, 4), 0, 2).AsAny(),
		reflect.TypeFor[map[string]model.PortAssign](): rapid.MapOfN(drawString(), rapid.Just(model.PortShared), 0, 2).AsAny(),
	}}
	few[model.RowSpec](cfg)
	few[model.Reservation](cfg)
	few[model.Order](cfg)
	few[model.Claim](cfg)
	few[model.Report](cfg)
	few[model.Verdict](cfg)
	few[model.Part](cfg)
	return cfg
}

// few limits lists of V to two.
func few[V any](cfg rapid.MakeConfig) {
	v := rapid.Deferred(func() *rapid.Generator[V] { return rapid.MakeCustom[V](cfg) })
	cfg.Types[reflect.TypeFor[[]V]()] = rapid.SliceOfN(v, 0, 2).AsAny()
}

func drawTime() *rapid.Generator[time.Time] {
	return rapid.Custom(func(t *rapid.T) time.Time {
		if rapid.Bool().Draw(t, "zero") {
			return time.Time{}
		}
		sec := rapid.Int64Range(-62135596800, 253402300799).Draw(t, "sec") // years 1 to 9999
		return time.Unix(sec, rapid.Int64Range(0, 999_999_999).Draw(t, "nsec")).UTC()
	})
}

func drawString() *rapid.Generator[string] {
	return rapid.SampledFrom([]string{"", "n1", "staff", "cut \xe2\x82", "a/b|c", "00000000000000000007"})
}

// drawKind makes a command of one kind. The switch is a second list of the kinds: a new one is not forgotten here.
func drawKind(t *rapid.T, k kind) model.Command {
	switch reflect.Zero(k.typ).Interface().(type) {
	case model.Init:
		return draw[model.Init](t)
	case model.Admit:
		return draw[model.Admit](t)
	case model.CreateToken:
		return draw[model.CreateToken](t)
	case model.RevokeToken:
		return draw[model.RevokeToken](t)
	case model.UpdateNode:
		return draw[model.UpdateNode](t)
	case model.MarkDown:
		return draw[model.MarkDown](t)
	case model.MarkUp:
		return draw[model.MarkUp](t)
	case model.RemoveNode:
		return draw[model.RemoveNode](t)
	case model.SealCA:
		return draw[model.SealCA](t)
	case model.Begin:
		return draw[model.Begin](t)
	case model.Part:
		return draw[model.Part](t)
	case model.Commit:
		return draw[model.Commit](t)
	case model.Claims:
		return draw[model.Claims](t)
	case model.Reports:
		return draw[model.Reports](t)
	case model.Finish:
		return draw[model.Finish](t)
	case model.Retry:
		return draw[model.Retry](t)
	case model.Abort:
		return draw[model.Abort](t)
	case model.RecordBuild:
		return draw[model.RecordBuild](t)
	case model.TakeSnapshot:
		return draw[model.TakeSnapshot](t)
	case model.HoldSnapshots:
		return draw[model.HoldSnapshots](t)
	case model.DropSnapshots:
		return draw[model.DropSnapshots](t)
	case model.GiveUpState:
		return draw[model.GiveUpState](t)
	case model.DrainNode:
		return draw[model.DrainNode](t)
	case model.Fence:
		return draw[model.Fence](t)
	case model.TakeOver:
		return draw[model.TakeOver](t)
	case model.Leave:
		return draw[model.Leave](t)
	case model.Rejoin:
		return draw[model.Rejoin](t)
	}
	t.Fatalf("no generator for %s", k.typ)
	return nil
}

func draw[V any](t *rapid.T) V { return rapid.MakeCustom[V](drawn).Draw(t, "value") }

func TestKindsArePinned(t *testing.T) {
	t.Parallel()
	// Never edit a line of this list: append. The numbers lie in logs on disk.
	want := strings.Fields(`Init Admit CreateToken RevokeToken UpdateNode MarkDown MarkUp RemoveNode SealCA Begin Part
		Commit Claims Reports Finish Retry Abort RecordBuild TakeSnapshot HoldSnapshots DropSnapshots
		GiveUpState DrainNode Fence TakeOver Leave Rejoin`)
	if len(kinds) != len(want) {
		t.Fatalf("%d kinds, want %d", len(kinds), len(want))
	}
	for i, k := range kinds {
		if k.number != uint64(i+1) || k.typ.Name() != want[i] {
			t.Errorf("kind %d is %s, want %d %s", k.number, k.typ.Name(), i+1, want[i])
		}
	}
}

func TestTablesArePinned(t *testing.T) {
	t.Parallel()
	want := strings.Fields(`nodes removed tokens systems intents generations rows specs reservations counters builds
		custody pending proposals snapshots policies`)
	if len(tables) != len(want) {
		t.Fatalf("%d tables, want %d", len(tables), len(want))
	}
	for i, tab := range tables {
		if tab.number != uint64(i+1) || tab.name != want[i] {
			t.Errorf("table %d is %s, want %d %s", tab.number, tab.name, i+1, want[i])
		}
	}
	// Every table of State is in the list, or an index.
	fields := 0
	for f := range reflect.TypeFor[model.State]().Fields() {
		if strings.HasPrefix(f.Type.Name(), "Table[") {
			fields++
		}
	}
	if indexes := 5; fields != len(tables)+indexes {
		t.Errorf("State has %d tables; %d are written and %d are indexes", fields, len(tables), indexes)
	}
}

func TestEveryKindSurvivesTheCodec(t *testing.T) {
	t.Parallel()
	for _, k := range kinds {
		t.Run(k.typ.Name(), func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				cmds := []model.Command{drawKind(t, k)}
				entry, err := EncodeCommands(cmds)
				if err != nil {
					t.Fatal(err)
				}
				got, err := DecodeCommands(entry)
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(cmds, got, cmpopts.EquateEmpty()); d != "" {
					t.Fatal(d)
				}
				again, err := EncodeCommands(got)
				if err != nil || !bytes.Equal(entry, again) {
					t.Fatalf("encoded twice: %x, %x, %v", entry, again, err)
				}
			})
		})
	}
}

func TestEntryGolden(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 21, 1, 2, 3, 4000, time.FixedZone("here", 3600))
	entry, err := EncodeCommands([]model.Command{model.RevokeToken{ID: "t1"}, model.RemoveNode{ID: "n1", At: at}})
	if err != nil {
		t.Fatal(err)
	}
	want := "\x01\x82\x82\x04\xa1\x01\x62t1\x82\x08\xa2\x01\x62n1\x02\x78\x1b2026-11-21T00:02:03.000004Z"
	if string(entry) != want {
		t.Errorf("entry %q\nwant  %q", entry, want)
	}
}

func TestEntriesThatNeedAnUpgrade(t *testing.T) {
	t.Parallel()
	body := func(v any) cbor.RawMessage { return mustMarshal(t, v) }
	for name, entry := range map[string][]byte{
		"newer version": {EntryVersion + 1, 0x80},
		"unknown kind":  entryOf(t, item{Kind: 4242, Body: body(map[int]int{})}),
		"unknown field": entryOf(t, item{Kind: 4, Body: body(map[int]string{1: "t1", 99: "new"})}),
	} {
		_, err := DecodeCommands(entry)
		if must := (*MustUpgradeError)(nil); !errors.As(err, &must) {
			t.Errorf("%s: %v, want a MustUpgradeError", name, err)
		}
	}
}

func TestBadEntries(t *testing.T) {
	t.Parallel()
	deep := bytes.Repeat([]byte{0x81}, 40)
	for name, entry := range map[string][]byte{
		"empty":         {},
		"version 0":     {0, 0x80},
		"no commands":   {EntryVersion, 0x80},
		"cut":           {EntryVersion, 0x81},
		"not a list":    {EntryVersion, 0xa0},
		"trailing":      append(entryOf(t, item{Kind: 4, Body: mustMarshal(t, map[int]string{1: "x"})}), 0),
		"nested":        append([]byte{EntryVersion}, deep...),
		"false length":  {EntryVersion, 0x9b, 0, 0, 0, 1, 0, 0, 0, 0},
		"twice a field": {EntryVersion, 0x81, 0x82, 0x04, 0xa2, 0x01, 0x61, 'a', 0x01, 0x61, 'b'},
		"huge":          make([]byte, MaxEntryBytes+1),
	} {
		if cmds, err := DecodeCommands(entry); err == nil {
			t.Errorf("%s: decoded to %v", name, cmds)
		} else if must := (*MustUpgradeError)(nil); errors.As(err, &must) {
			t.Errorf("%s: %v, want a plain error", name, err)
		}
	}
}

func TestEncodeRefuses(t *testing.T) {
	t.Parallel()
	if _, err := EncodeCommands(nil); err == nil {
		t.Error("no commands: no error")
	}
	if _, err := EncodeCommands([]model.Command{nil}); err == nil {
		t.Error("nil command: no error")
	}
	big := model.Reports{Node: strings.Repeat("x", MaxEntryBytes)}
	if _, err := EncodeCommands([]model.Command{big}); !errors.Is(err, ErrTooLarge) {
		t.Errorf("big command: %v, want ErrTooLarge", err)
	}
}

func FuzzDecodeCommands(f *testing.F) {
	f.Add([]byte("\x01\x82\x82\x04\xa1\x01\x62t1\x82\x08\xa2\x01\x62n1\x02\x78\x1b2026-11-21T00:02:03.000004Z"))
	f.Add([]byte{EntryVersion, 0x81, 0x82, 0x18, 0x63, 0xa0})
	f.Add([]byte{2, 0x80})
	for _, k := range kinds {
		if k.typ.Kind() == reflect.Struct {
			if entry, err := EncodeCommands([]model.Command{reflect.Zero(k.typ).Interface().(model.Command)}); err == nil {
				f.Add(entry)
			}
		}
	}
	f.Fuzz(func(t *testing.T, entry []byte) {
		cmds, err := DecodeCommands(entry)
		if err != nil {
			return
		}
		first, err := EncodeCommands(cmds)
		if errors.Is(err, ErrTooLarge) {
			return // our encoding writes fields that the input left out
		}
		if err != nil {
			t.Fatalf("decoded, but cannot be encoded: %v", err)
		}
		again, err := DecodeCommands(first)
		if err != nil {
			t.Fatal(err)
		}
		if second, err := EncodeCommands(again); err != nil || !bytes.Equal(first, second) {
			t.Fatalf("encodings differ: %x, %x, %v", first, second, err)
		}
	})
}

func mustMarshal(t *testing.T, v any) []byte {
	t.Helper()
	b, err := entryModes.enc.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func entryOf(t *testing.T, items ...item) []byte {
	t.Helper()
	return append([]byte{EntryVersion}, mustMarshal(t, items)...)
}

func TestGroup(t *testing.T) {
	t.Parallel()
	of := func(kb ...int) (cmds []model.Command) {
		for _, n := range kb {
			cmds = append(cmds, model.Reports{Node: strings.Repeat("x", n<<10)})
		}
		return cmds
	}
	many := make([]int, MaxCommands+1)
	for _, c := range []struct {
		kb   []int
		want string
	}{
		{nil, "[]"}, {[]int{1}, "[1]"}, {[]int{1, 250, 1}, "[3]"}, {[]int{1, 250, 250, 250, 1}, "[3 2]"}, {[]int{900, 1, 900}, "[1 1 1]"}, {many, "[1024 1]"},
	} {
		groups, err := Group(of(c.kb...))
		var sizes []int
		for _, g := range groups {
			if _, err := EncodeCommands(g); err != nil {
				t.Errorf("%v: %v", c.kb, err)
			}
			sizes = append(sizes, len(g))
		}
		if got := fmt.Sprint(sizes); err != nil || got != c.want {
			t.Errorf("%.10v: %s, %v, want %s", c.kb, got, err, c.want)
		}
	}
}
