package raftfsm

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/isonomia-mesh/isonomia/model"
)

// drawState makes a State with a few rows in every table. Keys are what Apply would give where an index needs it.
func drawState(t *rapid.T) *model.State {
	s := &model.State{Version: 1, Index: rapid.Uint64().Draw(t, "index"), Cluster: draw[model.Cluster](t)}
	fill(t, &s.Nodes, nil)
	fill(t, &s.Removed, nil)
	fill(t, &s.Tokens, nil)
	fill(t, &s.Systems, nil)
	fill(t, &s.Intents, nil)
	fill(t, &s.Gens, nil)
	fill(t, &s.Rows, func(r *model.Row) string { return r.Key })
	fill(t, &s.Specs, nil)
	fill(t, &s.Reservations, func(r *model.Reservation) string { return r.Key() })
	fill(t, &s.Counters, nil)
	fill(t, &s.Builds, nil)
	fill(t, &s.Custody, nil)
	fill(t, &s.Pending, nil)
	fill(t, &s.Proposals, nil)
	reindex(s)
	return s
}

func fill[V any](t *rapid.T, table *model.Table[V], key func(*V) string) {
	for range rapid.IntRange(0, 2).Draw(t, "rows") {
		v := draw[V](t)
		k := rapid.SampledFrom([]string{"", "a", "default/7", "n1/x", "\xff"}).Draw(t, "key")
		if key != nil {
			k = key(&v)
		}
		*table = table.Set(k, v)
	}
}

func TestCheckpointRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawState(t)
		var first, second bytes.Buffer
		if err := WriteState(&first, s); err != nil {
			t.Fatal(err)
		}
		got, err := ReadState(bytes.NewReader(first.Bytes()))
		if err != nil {
			t.Fatal(err)
		}
		if d := diffStates(s, got); d != "" {
			t.Fatal(d)
		}
		if err := WriteState(&second, got); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Fatalf("written twice, the bytes differ (%v)", err)
		}
		if Digest(s) != Digest(got) || !bytes.HasSuffix(first.Bytes(), digestOf(s)) {
			t.Fatal("the digest is not the checksum at the end")
		}
	})
}

func digestOf(s *model.State) []byte { d := Digest(s); return d[:] }

// diffStates compares every table, the indexes too.
func diffStates(a, b *model.State) string {
	return cmp.Diff(flat(a), flat(b), cmpopts.EquateEmpty())
}

// flat turns the tables of a State into maps.
func flat(s *model.State) map[string]any {
	out := map[string]any{}
	v := reflect.ValueOf(*s)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if !strings.HasPrefix(f.Type.Name(), "Table[") {
			out[f.Name] = v.Field(i).Interface()
			continue
		}
		rows := map[string]any{}
		for k, val := range v.Field(i).MethodByName("All").Call(nil)[0].Seq2() {
			rows[k.String()] = val.Interface()
		}
		out[f.Name] = rows
	}
	return out
}

func TestDigestSeesEveryTable(t *testing.T) {
	t.Parallel()
	base := &model.State{Version: 1, Index: 7}
	seen := map[[32]byte]string{Digest(base): "nothing"}
	for name, change := range map[string]func(*model.State){
		"index":   func(s *model.State) { s.Index++ },
		"cluster": func(s *model.State) { s.Cluster.Epoch++ },
		"node":    func(s *model.State) { s.Nodes = s.Nodes.Set("n1", model.Node{ID: "n1"}) },
		"counter": func(s *model.State) { s.Counters = s.Counters.Set("ports", 1) },
		"row":     func(s *model.State) { s.Rows = s.Rows.Set("n1/a", model.Row{Phase: model.Active}) },
		"custody": func(s *model.State) { s.Custody = s.Custody.Set("a/b/c", model.Custody{Node: "n1"}) },
	} {
		s := *base
		change(&s)
		if same, dup := seen[Digest(&s)]; dup {
			t.Errorf("%s and %s have one digest", name, same)
		}
		seen[Digest(&s)] = name
	}
}

func sampleCheckpoint(t testing.TB) []byte {
	t.Helper()
	s := &model.State{Version: 1, Index: 9, Cluster: model.Cluster{ID: "c"}}
	s.Nodes = s.Nodes.Set("n1", model.Node{ID: "n1", Name: "m1"}).Set("n2", model.Node{ID: "n2", Name: "m2"})
	s.Counters = s.Counters.Set("ports", 8000)
	var b bytes.Buffer
	if err := WriteState(&b, s); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestEveryDamagedByteIsSeen(t *testing.T) {
	t.Parallel()
	good := sampleCheckpoint(t)
	for i := range good {
		bad := bytes.Clone(good)
		bad[i] ^= 0x21
		if _, err := ReadState(bytes.NewReader(bad)); err == nil {
			t.Errorf("byte %d changed: no error", i)
		}
		if _, err := ReadState(bytes.NewReader(good[:i])); err == nil {
			t.Errorf("cut at byte %d: no error", i)
		}
	}
	if _, err := ReadState(bytes.NewReader(append(bytes.Clone(good), 0))); err == nil {
		t.Error("a byte more: no error")
	}
}

func TestCheckpointsThatNeedAnUpgrade(t *testing.T) {
	t.Parallel()
	var newer bytes.Buffer
	if err := WriteState(&newer, &model.State{Version: model.StateVersion + 1}); err != nil {
		t.Fatal(err)
	}
	format := sampleCheckpoint(t)
	format[len(checkpointMagic)]++
	for name, b := range map[string][]byte{
		"state version": newer.Bytes(),
		"format":        format,
		"unknown table": rawCheckpoint(section{Table: 99, Rows: 0}),
		"unknown field": rawCheckpoint(section{Table: 2, Rows: 1}, []any{"n1", map[int]string{1: "m1", 77: "new"}}),
	} {
		_, err := ReadState(bytes.NewReader(b))
		if must := (*MustUpgradeError)(nil); !errors.As(err, &must) {
			t.Errorf("%s: %v, want a MustUpgradeError", name, err)
		}
	}
}

// rawCheckpoint has a header and then the records given; its end does not matter to those who use it.
func rawCheckpoint(records ...any) []byte {
	var b bytes.Buffer
	w := recordWriter{w: &b}
	w.raw(append([]byte(checkpointMagic), CheckpointVersion))
	w.record(header{Version: 1})
	for _, r := range records {
		w.record(r)
	}
	return b.Bytes()
}

func FuzzReadState(f *testing.F) {
	f.Add(sampleCheckpoint(f))
	f.Add(rawCheckpoint(section{Table: 1, Rows: 1 << 60}))
	f.Add([]byte(checkpointMagic + "\x01\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadState(bytes.NewReader(b))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteState(&again, s); err != nil {
			t.Fatal(err)
		}
		got, err := ReadState(&again)
		if err != nil || Digest(s) != Digest(got) {
			t.Fatalf("read, written and read again it differs (%v)", err)
		}
	})
}
