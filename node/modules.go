package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/fileset"
	"github.com/isonomia-mesh/isonomia/activate/git"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/mysql"
	"github.com/isonomia-mesh/isonomia/activate/postgresql"
	"github.com/isonomia-mesh/isonomia/activate/process"
	"github.com/isonomia-mesh/isonomia/activate/redis"
	"github.com/isonomia-mesh/isonomia/activate/sqlite"
	"github.com/isonomia-mesh/isonomia/activate/subversion"
)

// Modules whose instances are in servers of others ask these what there is. The agent loop does not wait for that.
const (
	askPatience = 250 * time.Millisecond // of one look of the loop
	askTimeout  = 30 * time.Second       // for all servers of a type
	askEvery    = 10 * time.Second       // while there are instances: nobody says that a database went
)

// errAsking says that it is not known yet what there is.
var errAsking = errors.New("its servers are being asked")

// kind is the module of one type, and what was seen of its instances last.
type kind struct {
	typ  string
	mod  activate.Module
	kept bool // its instances run under the keeper, which is watched as a whole
	asks bool // Observe asks servers, and may take its time

	mu      sync.Mutex // guards what follows, for kinds that ask
	changes uint64     // how often something was done
	answer  answer
	asking  chan struct{} // closed when the look under way is over; nil: none is
}

// answer is what servers said.
type answer struct {
	seen    []activate.Running
	err     error
	at      time.Time // when it was there; zero: never
	changes uint64    // when they were asked
}

// openModules makes the modules. None reads or starts anything before it is asked to.
func (n *Node) openModules() {
	dir := n.dir.module
	n.kinds = []*kind{
		{typ: process.Type, mod: process.New(dir(process.Type), n.keeper, n.log), kept: true},
		{typ: fileset.Type, mod: fileset.New(dir(fileset.Type))},
		{typ: git.Type, mod: git.New(dir(git.Type))},
		{typ: mysql.Type, mod: mysql.New(dir(mysql.Type)), asks: true},
		{typ: postgresql.Type, mod: postgresql.New(dir(postgresql.Type)), asks: true},
		{typ: redis.Type, mod: redis.New(dir(redis.Type), n.keeper, n.log), kept: true},
		{typ: sqlite.Type, mod: sqlite.New(dir(sqlite.Type))},
		{typ: subversion.Type, mod: subversion.New(dir(subversion.Type))},
	}
}

// kind finds the module of a type; nil if there is none.
func (n *Node) kind(typ string) *kind {
	if i := slices.IndexFunc(n.kinds, func(k *kind) bool { return k.typ == typ }); i >= 0 {
		return n.kinds[i]
	}
	return nil
}

// module is what runs the instances of a type.
func (n *Node) module(typ string) (activate.Module, error) {
	if k := n.kind(typ); k != nil {
		return k.mod, nil
	}
	return nil, fmt.Errorf("type %q: this node has no module for it", typ)
}

// stateful is the module of a type, if it knows state.
func (n *Node) stateful(typ string) (activate.Stateful, error) {
	m, err := n.module(typ)
	if err != nil {
		return nil, err
	}
	s, ok := m.(activate.Stateful)
	if !ok {
		return nil, fmt.Errorf("type %q: its services have no state that could be saved", typ)
	}
	return s, nil
}

// observe gives what there is of a type. For one that asks servers it is at most askEvery old and not older than the
// last change; errAsking if it is not known within the patience of the loop, and then done is called when it is.
func (k *kind) observe(ctx context.Context, done func()) ([]activate.Running, error) {
	if !k.asks {
		return k.mod.Observe(ctx)
	}
	patience := time.NewTimer(askPatience)
	defer patience.Stop()
	for {
		k.mu.Lock()
		if a := k.answer; !a.at.IsZero() && a.changes == k.changes && time.Since(a.at) < askEvery {
			k.mu.Unlock()
			return a.seen, a.err
		}
		if k.asking == nil {
			k.asking = make(chan struct{})
			go k.ask(ctx, k.changes, done)
		}
		asking := k.asking
		k.mu.Unlock()
		select {
		case <-asking:
		case <-patience.C:
			return nil, errAsking
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// ask asks the servers of a type once. It ends by itself, within askTimeout.
func (k *kind) ask(ctx context.Context, changes uint64, done func()) {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	seen, err := k.mod.Observe(ctx)
	k.mu.Lock()
	k.answer = answer{seen: seen, err: err, at: time.Now(), changes: changes}
	close(k.asking)
	k.asking = nil
	k.mu.Unlock()
	done()
}

// touched says that something was done to an instance: what was seen before does not count any more.
func (k *kind) touched() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.changes++
}

// some says whether instances were there when they were looked for last.
func (k *kind) some() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.answer.seen) > 0
}

// watchModules wakes the agent loop when an instance changes that is not under the keeper.
func (n *Node) watchModules(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, k := range n.kinds {
		if k.kept {
			continue
		}
		g.Go(func() error {
			for ctx.Err() == nil {
				err := k.mod.Watch(ctx, func() { k.touched(); n.agent.poke() })
				if ctx.Err() == nil {
					n.log.Warn("watching instances", "type", k.typ, "err", err)
					n.pause(ctx, time.Second)
				}
			}
			return nil
		})
		if k.asks {
			g.Go(func() error { n.askAgain(ctx, k); return nil })
		}
	}
	return g.Wait()
}

// askAgain wakes the agent loop from time to time while there are instances that nobody tells of.
func (n *Node) askAgain(ctx context.Context, k *kind) {
	t := time.NewTicker(askEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			if k.some() {
				k.touched()
				n.agent.poke()
			}
		}
	}
}

// forgotten is an instance of which State knows nothing any more, as far as its module remembers it.
func (k *kind) forgotten(row string) activate.Instance {
	in := activate.Instance{ID: row, Type: k.typ}
	l, ok := k.mod.(interface {
		Active() ([]ledger.Entry, error)
	})
	if !ok {
		return in
	}
	entries, _ := l.Active() // what cannot be read is told by Observe
	for _, e := range entries {
		if e.ID == row {
			in = e.Instance()
			in.Type = k.typ
		}
	}
	return in
}
