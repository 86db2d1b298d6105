package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// Leaving: a node that was drained is taken out in the log, and its agent, which sees that, ends with its keeper. A file keeps
// it from coming back by itself, for who supervises agents starts them again; with --rejoin it does.

// leftFile is in the data directory of a node that left.
const leftFile = "left"

// leavePause lets the answer get out to who asked this node, of all, to have itself leave.
const leavePause = 500 * time.Millisecond

// errLeft ends the loops of a node that has left.
var errLeft = errors.New("this node has left the cluster")

// postLeave takes a node out of the cluster that has nothing left.
func (n *Node) postLeave(r *http.Request) (any, error) {
	req, err := decode[api.DrainRequest](r)
	if err != nil {
		return nil, err
	}
	s, node, err := n.memberNow(r.Context(), req.Node)
	switch {
	case err != nil:
		return nil, err
	case node.Left:
		return api.Node{ID: node.ID, Name: node.Name}, nil
	case node.Down:
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("node %s is down", node.Name), Hint: fmt.Sprintf("It cannot leave by itself: isonomia remove %s.", node.Name)}
	}
	if why := model.MayLeave(s, node.ID); why != "" {
		return nil, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("node %s cannot leave yet: %s", node.Name, why),
			Hint: "The state of a service that is not deployed stays where it is: deploy the service elsewhere, or delete its state with isonomia gc."}
	}
	if err := n.proposeOne(r.Context(), model.Leave{ID: node.ID, Epoch: node.Epoch}); err != nil {
		return nil, err
	}
	n.note(Noted{Kind: "left", Message: "node " + node.Name + " has left, by request"})
	return api.Node{ID: node.ID, Name: node.Name}, nil
}

// mayStart refuses to start a node that has left, unless it is to come back.
func (n *Node) mayStart() error {
	_, err := os.Stat(n.dir.join(leftFile))
	if err == nil && !n.cfg.Rejoin {
		return &api.Error{Code: api.CodeConflict, Message: "this node has left the cluster", Hint: "Start it with --rejoin to have it back."}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// leaveLoop ends the agent when its node has left, and has one rejoin that is to.
func (n *Node) leaveLoop(ctx context.Context) error {
	if n.cfg.Rejoin {
		if err := n.rejoin(ctx); err != nil {
			return err
		}
	}
	changed, stop := n.fsm.Watch()
	defer stop()
	for ctx.Err() == nil {
		if n.fsm.State().Nodes.At(n.id.ID).Left {
			n.log.Info("this node has left the cluster: its services and its keeper end")
			n.pause(ctx, leavePause)
			if err := writeFileDurably(n.dir.join(leftFile), nil, 0o600); err != nil {
				return err
			}
			return errLeft
		}
		waitAny(ctx, time.Time{}, changed)
	}
	return nil
}

// rejoin has this node be a member as before, as soon as somebody answers.
func (n *Node) rejoin(ctx context.Context) error {
	for ctx.Err() == nil {
		err := n.proposeOne(ctx, model.Rejoin{ID: n.id.ID})
		if err == nil {
			break
		}
		n.log.Info("coming back", "err", err)
		n.pause(ctx, time.Second)
	}
	for ctx.Err() == nil && n.fsm.State().Nodes.At(n.id.ID).Left {
		n.pause(ctx, 50*time.Millisecond)
	}
	err := os.Remove(n.dir.join(leftFile))
	if errors.Is(err, fs.ErrNotExist) || ctx.Err() != nil {
		return nil
	}
	return err
}
