package ledger

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
)

func instance(id string, attempt int) activate.Instance {
	return activate.Instance{ID: id, Attempt: attempt, Service: "staff", Container: "db", Type: "sql", StateDir: "/state/staff", Settings: map[string]string{"port": "1"}}
}

func TestLife(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := Open(dir)
	is := func(what string, err error, want error) {
		t.Helper()
		if want == nil && err != nil || want != nil && !errors.As(err, new(*activate.NotGarbageError)) {
			t.Fatalf("%s: %v", what, err)
		}
	}
	refused := &activate.NotGarbageError{}
	a := instance("a", 1)
	is("never seen", l.Deletable(a), refused)
	is("deactivate what never was", l.Deactivate(a), nil)
	is("never seen", l.Deletable(a), refused)
	is("made", l.Made(a), nil)
	is("made is garbage", l.Deletable(a), nil)
	is("activate", l.Activate(a), nil)
	is("active", l.Deletable(a), refused)
	before, err := Open(dir).Active() // as after a restart
	if err != nil || len(before) != 1 || before[0].ID != "a" || before[0].Attempt != 1 || before[0].Settings["port"] != "1" {
		t.Fatalf("%+v, %v", before, err)
	}
	is("activate again", l.Activate(a), nil)
	is("made again", l.Made(a), nil)
	is("still active", l.Deletable(a), refused)
	if err := l.write(l.garbage(a), a); err != nil { // as a death leaves it between the two marks of an activation
		t.Fatal(err)
	}
	if list, err := l.Garbage(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("active, and garbage: %+v, %v", list, err)
	}
	if again, _ := l.Active(); !again[0].Started.Equal(before[0].Started) {
		t.Error("a repetition began anew")
	}
	is("the next row", l.Activate(instance("b", 2)), nil)
	if own, err := l.Owns(a); own || err != nil {
		t.Errorf("the old row owns it: %v", err)
	}
	if run, _ := l.Running(func(Entry) (bool, error) { return true, nil }); len(run) != 1 || run[0].ID != "b" || run[0].Attempt != 2 || run[0].Age < 0 || run[0].Age > time.Minute {
		t.Errorf("%+v", run)
	}
	is("deactivate", l.Deactivate(instance("b", 2)), nil)
	is("garbage", l.Deletable(a), nil)
	if list, err := Open(dir).Garbage(t.Context()); err != nil || len(list) != 1 || list[0].ID != "b" || list[0].Type != "sql" || l.Deletable(list[0]) != nil {
		t.Errorf("%+v, %v", list, err)
	}
	other := a
	other.StateDir = "/state/other/staff" // the same name in another system
	is("not garbage elsewhere", l.Deletable(other), refused)
	is("deleted", l.Deleted(a), nil)
	is("deleted again", l.Deleted(a), nil)
	is("forgotten", l.Deletable(a), refused)
}

func TestDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := Open(dir)
	if err := l.Activate(instance("a", 1)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "activated", ".new-1"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := l.Active(); len(list) != 1 || err != nil {
		t.Fatalf("%+v, %v", list, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "activated", "x.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if list, err := l.Active(); err == nil {
		t.Fatalf("%+v", list)
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	l := Open(t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	changes, ended := make(chan int), make(chan error)
	go func() { ended <- l.Watch(ctx, func() { changes <- 1 }) }()
	<-changes
	if err := l.Activate(instance("a", 1)); err != nil {
		t.Fatal(err)
	}
	<-changes
	if err := l.Deactivate(instance("a", 1)); err != nil {
		t.Fatal(err)
	}
	<-changes
	cancel()
	for {
		select {
		case <-changes:
		case err := <-ended:
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			return
		}
	}
}
