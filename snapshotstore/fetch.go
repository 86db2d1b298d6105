package snapshotstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

const (
	fetchBatch    = 128     // objects asked for at once
	fetchBytes    = 8 << 20 // plain bytes asked for at once, about
	fetchFailures = 3       // failed requests in a row before a source is dropped
	frameTimeout  = 30 * time.Second
	hedgeAfter    = 2 * time.Second // then others are asked for the same
)

// ErrStalled is a source that sent no object for 30 seconds.
var ErrStalled = errors.New("sends nothing")

// errLying is a source whose bytes are not what they claim.
var errLying = errors.New("sends what is not asked for or not true")

// Source is where objects can be had, usually another node.
type Source interface {
	// String names the source in errors.
	String() string
	// Objects asks for some objects and returns a stream of frames that
	// answers each, in any order, by the object or by "missing". Reading must
	// fail when ctx ends.
	Objects(ctx context.Context, ids []ID) (io.ReadCloser, error)
}

// Fetch brings a whole tree here, asking the sources side by side. Every
// object is verified; a source that sends something wrong, or nothing for 30
// seconds, is asked no more, one that fails is asked again a few times. What a
// source has not sent after two seconds others are asked for too. What was fetched stays, so that
// a Fetch that failed or was cancelled is resumed by another. When it returns
// without error the tree is complete and on disk.
//
// progress, which may be nil, is called with the plain bytes of files that
// are here and in total (0 until the root is here), never concurrently.
//
// The error joins a *SourceError for each source that was dropped and, if
// nobody has them, a *MissingError for one of the objects.
// A source whose objects are named with a key that is not here is dropped with
// ErrNoKey.
func (s *Store) Fetch(ctx context.Context, root ID, sources []Source, progress func(done, total uint64)) error {
	return s.FetchWith(ctx, root, sources, FetchOptions{Progress: progress})
}

// FetchOptions say how a tree is fetched.
type FetchOptions struct {
	// Progress as in Fetch.
	Progress func(done, total uint64)
	// Limit bounds the bytes a second that are taken from all sources
	// together; 0 for no bound.
	Limit uint64
	// Name of the state whose snapshot this is, as in StateOptions: the last
	// one put or fetched with that name since the store was opened is tried
	// before Older.
	Name string
	// Older are roots of trees that resemble the one to be fetched, the best
	// first: the first whose root is here is used. From a DeltaSource what
	// has changed since then comes as a difference from what it replaces,
	// where the source has that too.
	Older []ID
}

// FetchWith is Fetch with options.
func (s *Store) FetchWith(ctx context.Context, root ID, sources []Source, opts FetchOptions) error {
	o, err := s.begin()
	if err != nil {
		return err
	}
	if opts.Progress == nil {
		opts.Progress = func(uint64, uint64) {}
	}
	ctx, cancel := context.WithCancel(ctx)
	f := &fetch{s: s, root: root, walk: s.walk(root), progress: opts.Progress, batchBytes: fetchBytes, hedgeAfter: s.opts.hedgeAfter,
		wanted: map[ID]*wanted{}, results: make(chan fetchResult, len(sources))}
	f.walk.near = newNearby(s, root, append(s.latest.of(opts.Name), opts.Older...))
	limit := newLimiter(opts.Limit)
	if limit != nil { // a request is about a second's worth, and is slow in good order
		f.batchBytes = min(fetchBytes, opts.Limit)
		f.hedgeAfter += time.Duration(2*len(sources)) * time.Second
	}
	var wg sync.WaitGroup
	for i, src := range sources {
		p := &peer{src: src, bit: i, batches: make(chan []Want, 1), limit: limit}
		p.deltas, _ = src.(DeltaSource)
		f.peers = append(f.peers, p)
		wg.Go(func() {
			for wants := range p.batches {
				f.results <- s.request(ctx, p, wants)
			}
		})
	}
	err = f.run(ctx)
	cancel()
	for _, p := range f.peers {
		close(p.batches)
	}
	wg.Wait()
	if err = o.end(err); err != nil {
		return fmt.Errorf("fetch tree %s: %w", root, err)
	}
	s.latest.set(opts.Name, root)
	return nil
}

// fetch is the state of one Fetch, owned by the goroutine in run.
type fetch struct {
	s        *Store
	root     ID
	total    uint64 // 0 until the root is here
	walk     *walker
	progress func(done, total uint64)
	peers    []*peer
	queue    []ID           // wanted and not asked for
	wanted   map[ID]*wanted // not here yet
	busy     int
	results  chan fetchResult
	dropped  []error

	batchBytes uint64 // plain bytes to ask for at once, about
	hedgeAfter time.Duration
}

// wanted is an object that is not here yet.
type wanted struct {
	refs  []want       // all references to it met so far
	tried map[int]bool // peers that do not have it
}

// peer is a source and what became of it. Its goroutine sees batches only,
// and owns deltas.
type peer struct {
	src      Source
	deltas   DeltaSource // nil if it knows none
	bit      int
	batches  chan []Want
	limit    *limiter // shared by all
	asked    []ID     // under way; nil if idle
	since    time.Time
	hedged   bool // what is under way is in the queue again
	gone     bool
	failures int
}

// fetchResult is what became of one request.
type fetchResult struct {
	peer       *peer
	got        []ID
	missing    []ID
	unanswered []ID
	spoiled    []ID  // came as deltas against what is not here any more
	err        error // of the source
	local      error // of this store: ends the Fetch
}

func (f *fetch) run(ctx context.Context) error {
	tick := time.NewTicker(f.hedgeAfter / 2)
	defer tick.Stop()
	for {
		if err := f.fill(ctx); err != nil {
			return err
		}
		f.assign()
		f.report()
		if f.busy == 0 || len(f.wanted) == 0 {
			return f.verdict()
		}
		select {
		case r := <-f.results:
			if err := f.take(r); err != nil {
				return err
			}
		case <-tick.C:
			f.hedge()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// hedge puts into the queue again what slow peers have not sent.
func (f *fetch) hedge() {
	for _, p := range f.peers {
		if p.asked == nil || p.hedged || time.Since(p.since) < f.hedgeAfter {
			continue
		}
		p.hedged = true
		f.queue = append(f.queue, f.s.Absent(p.asked)...)
	}
}

// fill walks on until there is enough to ask for.
func (f *fetch) fill(ctx context.Context) error {
	for len(f.queue) < 2*fetchBatch*len(f.peers)+1 {
		wants, err := f.walk.next(ctx, fetchBatch)
		if err != nil || len(wants) == 0 {
			return err
		}
		for _, x := range wants {
			w := f.wanted[x.ID]
			if w == nil {
				w = &wanted{tried: map[int]bool{}}
				f.wanted[x.ID] = w
				f.queue = append(f.queue, x.ID)
			}
			w.refs = append(w.refs, x)
		}
	}
	return nil
}

// assign gives work to the idle peers.
func (f *fetch) assign() {
	for _, p := range f.peers {
		if p.asked != nil || p.gone {
			continue
		}
		if wants := f.batch(p); len(wants) > 0 {
			p.asked, p.since, p.hedged = idsOf(wants), time.Now(), false
			f.busy++
			p.batches <- wants
		}
	}
}

// batch takes from the queue what p may have.
func (f *fetch) batch(p *peer) []Want {
	var wants []Want
	var size uint64
	f.queue = slices.DeleteFunc(f.queue, func(id ID) bool {
		w := f.wanted[id]
		if w == nil { // came from somebody else
			return true
		}
		if len(wants) == fetchBatch || size >= f.batchBytes || w.tried[p.bit] {
			return false
		}
		wants = append(wants, Want{id, f.s.here(f.walk.near.bases[id])})
		size += AvgChunk
		if x := w.refs[0]; x.kind == kindChunk {
			size += x.Bytes - AvgChunk
		}
		return true
	})
	return wants
}

func idsOf(wants []Want) []ID {
	ids := make([]ID, len(wants))
	for i, w := range wants {
		ids[i] = w.ID
	}
	return ids
}

func (f *fetch) take(r fetchResult) error {
	hedged := r.peer.hedged
	r.peer.asked = nil
	f.busy--
	for _, id := range r.got {
		if w := f.wanted[id]; w != nil {
			f.walk.stack = append(f.walk.stack, w.refs...)
			delete(f.wanted, id)
		}
	}
	for _, id := range r.missing {
		if w := f.wanted[id]; w != nil {
			w.tried[r.peer.bit] = true
		}
	}
	for _, id := range r.spoiled {
		delete(f.walk.near.bases, id)
	}
	f.queue = append(f.queue, r.spoiled...)
	if !hedged {
		f.queue = append(f.queue, r.missing...)
		f.queue = append(f.queue, r.unanswered...)
	}
	if r.local != nil {
		return r.local
	}
	f.judge(r)
	return nil
}

// judge drops the source of a result, or lets it go on.
func (f *fetch) judge(r fetchResult) {
	if len(r.got) > 0 || r.err == nil {
		r.peer.failures = 0
	}
	if r.err == nil {
		return
	}
	r.peer.failures++
	if errors.Is(r.err, errLying) || errors.Is(r.err, ErrStalled) || errors.Is(r.err, ErrNoKey) || r.peer.failures >= fetchFailures {
		r.peer.gone = true
		f.dropped = append(f.dropped, &SourceError{r.peer.src.String(), r.err})
		f.s.log.Warn("source dropped", "source", r.peer.src.String(), "error", r.err)
	}
}

func (f *fetch) report() {
	if f.total == 0 {
		if info, err := f.s.Info(f.root); err == nil {
			f.total = info.Bytes
		}
	}
	f.progress(min(f.walk.done, f.total), f.total)
}

// verdict is called when nothing is wanted, or nobody can be asked.
func (f *fetch) verdict() error {
	for id := range f.wanted {
		none := fmt.Errorf("no source left for %d objects: %w", len(f.wanted), &MissingError{id})
		return errors.Join(append(f.dropped, none)...)
	}
	return nil
}

// request asks one source for some objects and stores what comes.
func (s *Store) request(ctx context.Context, p *peer, wants []Want) fetchResult {
	open := make(map[ID][]ID, len(wants))
	for _, w := range wants {
		open[w.ID] = w.Bases
	}
	res := fetchResult{peer: p}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stall := time.AfterFunc(s.opts.frameTimeout, func() { cancel(ErrStalled) })
	defer stall.Stop()
	res.err = s.requestFrames(ctx, p, wants, open, &res, stall)
	if cause := context.Cause(ctx); res.err != nil && cause != nil {
		res.err = cause
	}
	for _, w := range wants {
		if _, ok := open[w.ID]; ok {
			res.unanswered = append(res.unanswered, w.ID)
		}
	}
	if res.err == nil && len(res.unanswered) > 0 {
		res.err = fmt.Errorf("%w: no answer for %d objects", errLying, len(res.unanswered))
	}
	return res
}

// limitedReader reads at the pace of a limiter. The time that it waits is not
// held against the source.
type limitedReader struct {
	ctx   context.Context // of one request
	r     io.Reader
	limit *limiter
	stall *time.Timer
	quiet time.Duration // that a source may send nothing
}

func (l *limitedReader) Read(b []byte) (int, error) {
	if l.limit == nil {
		return l.r.Read(b)
	}
	n, err := l.r.Read(b[:min(uint64(len(b)), max(l.limit.rate/8, 512))])
	waited, werr := l.limit.wait(l.ctx, n)
	if waited {
		l.stall.Reset(l.quiet)
	}
	if err == nil {
		err = werr
	}
	return n, err
}

// ask sends the request, for deltas where there are bases and p knows them.
func (p *peer) ask(ctx context.Context, wants []Want) (io.ReadCloser, error) {
	based := slices.ContainsFunc(wants, func(w Want) bool { return len(w.Bases) > 0 })
	if p.deltas != nil && based {
		r, err := p.deltas.Deltas(ctx, wants)
		if !errors.Is(err, ErrNoDeltas) {
			return r, err
		}
		p.deltas = nil
	}
	return p.src.Objects(ctx, idsOf(wants))
}

// requestFrames reads the answer into res and takes what is answered from
// open, which has the bases of each.
func (s *Store) requestFrames(ctx context.Context, p *peer, wants []Want, open map[ID][]ID, res *fetchResult, stall *time.Timer) error {
	r, err := p.ask(ctx, wants)
	if err != nil {
		return err
	}
	defer r.Close()
	stop := context.AfterFunc(ctx, func() { r.Close() }) // for streams that do not look at ctx
	defer stop()
	for fr, err := range ReadFrames(&limitedReader{ctx, r, p.limit, stall, s.opts.frameTimeout}) {
		if err != nil {
			return err
		}
		stall.Reset(s.opts.frameTimeout)
		bases, asked := open[fr.ID]
		if !asked {
			return fmt.Errorf("%w: object %s", errLying, fr.ID)
		}
		if err := s.takeFrame(fr, bases, res); err != nil {
			return err
		}
		delete(open, fr.ID)
	}
	return nil
}

// takeFrame stores what one frame brings and notes it in res.
func (s *Store) takeFrame(fr Frame, bases []ID, res *fetchResult) (err error) {
	switch {
	case fr.Stored == nil:
		res.missing = append(res.missing, fr.ID)
		return nil
	case isDelta(fr.Stored):
		err = s.putDelta(fr.ID, fr.Stored, bases)
	default:
		err = s.PutRaw(fr.ID, fr.Stored)
	}
	var corrupt *CorruptError
	switch {
	case err == nil:
		res.got = append(res.got, fr.ID)
		return nil
	case errors.Is(err, errBase):
		res.spoiled = append(res.spoiled, fr.ID)
		return nil
	case errors.As(err, &corrupt):
		return fmt.Errorf("%w: %w", errLying, err)
	case !errors.Is(err, ErrNoKey): // that one is of the source: it must not end the Fetch of a package
		res.local = err
	}
	return err
}
