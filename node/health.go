package node

import (
	"context"
	"sync"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/model"
)

// healthEvery is how often the health of what runs is looked at; a service's own interval may make it rarer.
const healthEvery = time.Second

// maxProbes bounds the health probes under way on a node.
const maxProbes = 16

// checker is a module that can ask an instance whether it is well.
type checker interface {
	Check(ctx context.Context, in activate.Instance) error
}

// healthLoop asks what is active whether it is well, so that status can say so. It is an observation: nothing of it
// goes into the log, and an unhealthy service is shown as degraded, not restarted; only its process's end restarts it.
func (n *Node) healthLoop(ctx context.Context) error {
	t := time.NewTicker(healthEvery)
	defer t.Stop()
	asked := map[string]time.Time{}
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-t.C:
			n.checkHealth(ctx, now, asked)
		}
	}
}

func (n *Node) checkHealth(ctx context.Context, now time.Time, asked map[string]time.Time) {
	s := n.fsm.State()
	var probes sync.WaitGroup
	slots := make(chan struct{}, maxProbes)
	active := map[string]bool{}
	for _, r := range s.Rows.Prefix(n.id.ID + "/") {
		if r.Phase != model.Active || r.Spec.Health == nil {
			continue
		}
		mod, _ := n.module(r.Spec.Type)
		check, ok := mod.(checker)
		if !ok {
			continue
		}
		active[r.Key] = true
		if now.Sub(asked[r.Key]) < r.Spec.Health.Interval || !n.agent.runs(r.Key) {
			continue
		}
		asked[r.Key] = now
		probes.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			n.agent.setHealth(r.Key, check.Check(ctx, n.agent.instance(s, r.RowSpec, r.Claim)))
		})
	}
	probes.Wait()
	for key := range asked {
		if !active[key] {
			delete(asked, key)
			n.agent.setHealth(key, nil)
		}
	}
}

func (a *agent) runs(row string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	_, busy := a.running[row]
	return a.seen[row].Running && !busy
}

// setHealth remembers what the last probe said; a change is an event.
func (a *agent) setHealth(row string, err error) {
	a.mu.Lock()
	was, ill := a.ill[row]
	switch {
	case err == nil:
		delete(a.ill, row)
	default:
		a.ill[row] = err.Error()
	}
	a.mu.Unlock()
	r := a.n.fsm.State().Rows.At(row)
	switch {
	case err != nil && !ill:
		a.n.note(Noted{Kind: "unhealthy", System: r.System, Service: r.Service, Message: err.Error()})
	case err == nil && ill && r.Phase == model.Active:
		a.n.note(Noted{Kind: "healthy", System: r.System, Service: r.Service, Message: "healthy again, after: " + was})
	}
}
