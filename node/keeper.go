package node

import (
	"context"
	"time"

	"github.com/isonomia-mesh/isonomia/activate/keeper"
)

// RunKeeper is the keeper's process from start to end.
func RunKeeper(dir string) error { return keeper.Main(dir) }

// openKeeper finds the keeper of this data directory, or starts it. It stays when the agent goes.
func (n *Node) openKeeper(ctx context.Context) error {
	k, err := n.ensureKeeper(ctx)
	if err != nil {
		return err
	}
	n.keeper = k
	n.onClose(func() { n.logClose("keeper", k.Close()) })
	n.openModules()
	return nil
}

func (n *Node) ensureKeeper(ctx context.Context) (*keeper.Client, error) {
	exe, err := executable()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return keeper.Ensure(ctx, n.cfg.Dir, exe, []string{"keeper", n.cfg.Dir})
}

// watchKeeper wakes the agent loop whenever a process starts or ends. When the keeper itself died, its services died
// with it: another is started and the agent loop starts what is missing.
func (n *Node) watchKeeper(ctx context.Context) error {
	for ctx.Err() == nil {
		n.agent.poke()
		err := n.keeper.Watch(ctx, "", func(keeper.Status) bool { n.agent.poke(); return true })
		if ctx.Err() != nil {
			return nil
		}
		n.log.Warn("the keeper is gone; starting another", "err", err)
		n.lease.set(0) // the next one knows of none
		n.note(Noted{Kind: "keeper", Message: "the keeper died, and its services with it; starting them again"})
		k, err := n.ensureKeeper(ctx)
		if err != nil {
			n.log.Error("starting a keeper", "err", err)
			n.pause(ctx, time.Second)
			continue
		}
		n.logClose("second keeper client", k.Close())
		n.agent.poke()
	}
	return nil
}

// stopServices ends every service of this node, and the keeper.
func (n *Node) stopServices() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	n.logClose("services", n.keeper.Shutdown(ctx, 10*time.Second))
}
