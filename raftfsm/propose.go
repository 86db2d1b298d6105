package raftfsm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/isonomia-mesh/isonomia/model"
)

const (
	tryTime     = 250 * time.Millisecond // of one forwarded try, or one question for a read index
	retryPause  = 20 * time.Millisecond  // between tries, unless the role changes first
	proposeTime = 30 * time.Second       // where the caller's context has no deadline
	enqueueTime = time.Second            // to get into raft's queue
)

// errRefused says that no try will help.
var errRefused = errors.New("proposal refused")

// Propose writes commands into the log as one entry, through the leader, from any node. It gives one result for each
// command; a command that State refuses is no error here: see model.Result.Err.
//
// It tries until ctx ends, or for 30 s where ctx has no deadline. One leader writes an entry once however often it is
// tried; when leadership changes in between, the entry may be applied twice, so commands must be idempotent. Errors:
// ErrNoQuorum with the last reason when time is up; ErrTooLarge; *MustUpgradeError.
func (n *Node) Propose(ctx context.Context, cmds ...model.Command) ([]model.Result, error) {
	entry, err := EncodeCommands(cmds)
	if err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	ctx, cancel := withDefaultDeadline(ctx)
	defer cancel()
	p := proposal{n: n, id: newRequestID(), entry: entry}
	var results []model.Result
	err = n.retry(ctx, func(ctx context.Context, r role) error {
		results, err = p.try(ctx, r)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	return results, nil
}

func withDefaultDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, proposeTime)
}

// retry calls try until it succeeds, with the role of the moment; its context ends when another leader is known.
func (n *Node) retry(ctx context.Context, try func(ctx context.Context, r role) error) error {
	for {
		r, changed := n.roles.look()
		err := errNoLeader
		if r.Leader != "" {
			err = n.cut(ctx, r, func(ctx context.Context) error { return try(ctx, r) })
		}
		switch {
		case err == nil || final(err):
			return err
		case isClosed(n.closing):
			return ErrClosed
		case errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%w: %w (%w)", ErrNoQuorum, err, ctx.Err())
		case ctx.Err() != nil:
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-time.After(retryPause):
		case <-ctx.Done():
		case <-n.closing:
		}
	}
}

var errNoLeader = errors.New("no leader is known")

func final(err error) bool {
	must := (*MustUpgradeError)(nil)
	return errors.Is(err, errRefused) || errors.Is(err, ErrClosed) || errors.As(err, &must)
}

// cut runs f with a context that ends as soon as another leader is known than that of r.
func (n *Node) cut(ctx context.Context, r role, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			now, changed := n.roles.look()
			if now.Leader != r.Leader && now.Leader != "" {
				cancel(fmt.Errorf("%s leads now", now.Leader))
				return
			}
			select {
			case <-changed:
			case <-done:
				return
			}
		}
	}()
	return f(ctx)
}

// WithLeader calls f with the id of the leader of the moment and a context that ends as soon as another is known: who asks
// a leader that died must not wait for it longer than the others do. It returns what f does, or ErrNoQuorum when no leader
// is known.
func (n *Node) WithLeader(ctx context.Context, f func(ctx context.Context, leader string) error) error {
	r, _ := n.roles.look()
	if r.Leader == "" {
		return fmt.Errorf("%w: %w", ErrNoQuorum, errNoLeader)
	}
	return n.cut(ctx, r, func(ctx context.Context) error { return f(ctx, r.Leader) })
}

// proposal is one entry on its way, the same bytes at every try.
type proposal struct {
	n     *Node
	id    requestID
	entry []byte
}

func (p proposal) try(ctx context.Context, r role) ([]model.Result, error) {
	if r.Leading {
		return p.n.submit(ctx, p.id, p.entry)
	}
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	answer, err := p.n.cfg.Forward(ctx, r.Leader, encodeRequest(p.id, p.entry))
	if err != nil {
		p.n.follow.suspect()
		return nil, fmt.Errorf("forward to %s: %w", r.Leader, err)
	}
	rep, err := decodeReply(answer)
	if err != nil {
		return nil, err
	}
	return rep.outcome()
}

// HandleForward is the leader's side of Config.Forward. It answers that it is not the leader rather than forward
// again; its error is only for what cannot be answered. When ctx ends the proposal goes on, and a later try joins it.
func (n *Node) HandleForward(ctx context.Context, request []byte) ([]byte, error) {
	id, entry, err := decodeRequest(request)
	if err != nil {
		return nil, err
	}
	if entry, err = canonical(entry); err != nil {
		return encodeReply(replyOf(nil, fmt.Errorf("%w: %w", errRefused, err)))
	}
	results, err := n.submit(ctx, id, entry)
	return encodeReply(replyOf(results, err))
}

// canonical encodes an entry anew, so that nothing gets into the log that our own encoder would not write.
func canonical(entry []byte) ([]byte, error) {
	cmds, err := DecodeCommands(entry)
	if err != nil {
		return nil, err
	}
	return EncodeCommands(cmds)
}

// submit writes an entry as the leader, unless a try of the same request did.
func (n *Node) submit(ctx context.Context, id requestID, entry []byte) ([]model.Result, error) {
	select {
	case <-n.closing:
		return nil, &NotLeaderError{}
	default:
	}
	if r, _ := n.roles.look(); !r.Leading {
		return nil, &NotLeaderError{Leader: r.Leader}
	}
	c, mine, err := n.calls.join(id)
	if err != nil {
		return nil, err
	}
	if mine {
		go n.carryOut(id, raft.Log{Data: entry})
	}
	return c.wait(ctx)
}

// carryOut writes an entry and gives its call the outcome. It is bounded: raft answers, or is shut down.
func (n *Node) carryOut(id requestID, l raft.Log) {
	results, err := n.write(l)
	n.calls.finish(id, results, err)
}

// ProposeLocal writes commands as the leader, and never forwards. Under Lead's context they count only in the term
// that f runs in; otherwise in the term that this node leads in when called. If another term begins first the commands
// are not applied, even when this node leads again. Errors: ErrNotLeader (not applied), ErrUncertain, ErrTooLarge.
func (n *Node) ProposeLocal(ctx context.Context, cmds ...model.Command) ([]model.Result, error) {
	entry, err := EncodeCommands(cmds)
	if err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	r, _ := n.roles.look()
	term, ok := ctx.Value(termKey{}).(uint64)
	if !ok {
		term = r.Term
	}
	if !r.Leading || r.Term != term {
		return nil, &NotLeaderError{Leader: r.Leader}
	}
	id := newRequestID()
	c, _, err := n.calls.join(id)
	if err != nil {
		return nil, err
	}
	go n.carryOut(id, raft.Log{Data: entry, Extensions: stampTerm(term)})
	return c.wait(ctx)
}

// write puts an entry into the log and waits for its results. It ends when raft answers, or is shut down.
func (n *Node) write(l raft.Log) ([]model.Result, error) {
	f, err := await(context.Background(), n, func() raft.ApplyFuture { return n.raft.ApplyLog(l, enqueueTime) })
	if err != nil {
		return nil, n.writeError(err)
	}
	switch answer := f.Response().(type) {
	case []model.Result:
		return answer, nil
	case error:
		if errors.Is(answer, errOtherTerm) {
			return nil, &NotLeaderError{}
		}
	}
	return nil, ErrUncertain // it is in the log; a node that understands it will lead and say what became of it
}

// writeError tells what was certainly not written from what may have been.
func (n *Node) writeError(err error) error {
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		r, _ := n.roles.look()
		if r.Leading { // on its way to somebody
			n.wedge.refused(time.Now())
			r.Leader = ""
		}
		return &NotLeaderError{Leader: r.Leader}
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return errBusy
	case errors.Is(err, ErrClosed), errors.Is(err, raft.ErrRaftShutdown), errors.Is(err, raft.ErrLeadershipLost):
		return ErrUncertain
	}
	n.log.Warn("log entry was not written", "error", err)
	return ErrUncertain
}
