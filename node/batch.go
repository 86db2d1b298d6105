package node

import (
	"context"
	"fmt"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// batcher gathers the reports of a node: those that arrive while one entry is on its way go into the next.
type batcher struct {
	n  *Node
	in chan pendingReport
}

type pendingReport struct {
	rep   model.Report
	reply chan reportReply
}

type reportReply struct {
	index   uint64
	verdict model.Verdict
	err     error
}

// maxBatch bounds the reports in one entry.
const maxBatch = 200

func newBatcher(n *Node) *batcher { return &batcher{n: n, in: make(chan pendingReport, maxBatch)} }

// report sends one report and waits for its verdict.
func (b *batcher) report(ctx context.Context, rep model.Report) (uint64, model.Verdict, error) {
	p := pendingReport{rep, make(chan reportReply, 1)}
	if err := sendOrDone(ctx, b.in, p); err != nil {
		return 0, model.Verdict{}, err
	}
	select {
	case r := <-p.reply:
		return r.index, r.verdict, r.err
	case <-ctx.Done():
		return 0, model.Verdict{}, ctx.Err()
	}
}

func (b *batcher) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-b.in:
			b.flush(ctx, b.drain(first))
		}
	}
}

func (b *batcher) drain(first pendingReport) []pendingReport {
	batch := []pendingReport{first}
	for len(batch) < maxBatch {
		select {
		case p := <-b.in:
			batch = append(batch, p)
		default:
			return batch
		}
	}
	return batch
}

// flush proposes a batch. A report is a fact: it is repeated until it got through, or is told to have failed so that
// the step is done again, which is idempotent.
func (b *batcher) flush(ctx context.Context, batch []pendingReport) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	s := b.n.fsm.State()
	c := model.Reports{Node: b.n.id.ID, Epoch: s.Nodes.At(b.n.id.ID).Epoch, At: time.Now().UTC()}
	for _, p := range batch {
		c.Items = append(c.Items, p.rep)
	}
	res, err := b.n.fsm.Propose(ctx, c)
	if err == nil && res[0].Code == model.OK && len(res[0].Verdicts) != len(batch) {
		err = fmt.Errorf("%d verdicts for %d reports", len(res[0].Verdicts), len(batch))
	}
	for i, p := range batch {
		r := reportReply{err: err}
		if err == nil {
			r.index, r.verdict = res[0].Index, model.Verdict{Code: res[0].Code, Reason: res[0].Message}
			if res[0].Code == model.OK {
				r.verdict = res[0].Verdicts[i]
			}
		}
		p.reply <- r
	}
}
