package snapshotstore

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
)

const askAtOnce = 4096 // ids in one question for what is missing

// Remote is a store elsewhere that takes a tree, see Upload.
type Remote interface {
	// Absent returns those of at most 4,096 ids that the remote lacks.
	Absent(ctx context.Context, ids []ID) ([]ID, error)
	// Send carries a stream of frames to the remote's ReceiveObjects. It
	// reads to the end, or fails.
	Send(ctx context.Context, frames io.Reader) error
}

// Upload brings the tree that dir is to a remote store, without a store here:
// a first pass over dir computes its objects, a second sends those that the
// remote lacks. A directory that changes in between is ErrChanged.
// progress, which may be nil, is called with objects sent and to be sent.
func Upload(ctx context.Context, dir string, remote Remote, opts ScanOptions, progress func(sent, total int)) (TreeInfo, error) {
	rec := &recorder{ids: map[ID]struct{}{}}
	info, err := ScanDir(ctx, dir, rec, opts)
	if err != nil {
		return TreeInfo{}, err
	}
	lacks, err := askAbsent(ctx, remote, rec.ids)
	if err != nil {
		return TreeInfo{}, fmt.Errorf("upload %q: %w", dir, err)
	}
	if progress == nil {
		progress = func(int, int) {}
	}
	progress(0, len(lacks))
	if len(lacks) == 0 {
		return info, nil
	}
	again, err := sendTree(ctx, dir, remote, opts, lacks, progress)
	if err == nil && again.Root != info.Root {
		err = &EntryError{".", ErrChanged}
	}
	if err != nil {
		return TreeInfo{}, fmt.Errorf("upload %q: %w", dir, err)
	}
	return info, nil
}

func askAbsent(ctx context.Context, remote Remote, ids map[ID]struct{}) (map[ID]struct{}, error) {
	lacks := map[ID]struct{}{}
	all := slices.SortedFunc(maps.Keys(ids), ID.Compare)
	for some := range slices.Chunk(all, askAtOnce) {
		absent, err := remote.Absent(ctx, some)
		if err != nil {
			return nil, err
		}
		for _, id := range absent {
			lacks[id] = struct{}{}
		}
	}
	return lacks, nil
}

// sendTree scans dir again and streams the objects that are lacking.
func sendTree(ctx context.Context, dir string, remote Remote, opts ScanOptions, lacks map[ID]struct{}, progress func(int, int)) (TreeInfo, error) {
	scanCtx, cancel := context.WithCancel(ctx) // Send must outlive the scan
	defer cancel()
	codec, err := newCodec(max(opts.Workers, 1))
	if err != nil {
		return TreeInfo{}, err
	}
	r, w := io.Pipe()
	k := &frameSink{codec: codec, lacks: lacks, total: len(lacks), progress: progress, frames: make(chan Frame)}
	var info TreeInfo
	var scanErr error
	var wg sync.WaitGroup
	wg.Go(func() { // reads dir
		info, scanErr = ScanDir(scanCtx, dir, k, opts)
		close(k.frames)
	})
	wg.Go(func() { // makes the stream
		err := WriteFrames(w, func(yield func(Frame, error) bool) {
			for f := range k.frames {
				if !yield(f, nil) {
					return
				}
			}
			if scanErr != nil {
				yield(Frame{}, scanErr)
			}
		})
		w.CloseWithError(err)
		cancel()
		for range k.frames { // lets the scan end
		}
	})
	err = remote.Send(ctx, r)
	r.CloseWithError(io.ErrClosedPipe)
	wg.Wait()
	if scanErr != nil && err != nil {
		return info, fmt.Errorf("%w (scan: %w)", err, scanErr)
	}
	return info, err
}

// frameSink turns the objects that are lacking into frames, each once.
type frameSink struct {
	codec    *codec
	progress func(sent, total int)
	frames   chan Frame

	mu    sync.Mutex
	lacks map[ID]struct{}
	total int
}

func (k *frameSink) Has(_ context.Context, ids []ID) ([]bool, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	has := make([]bool, len(ids))
	for i, id := range ids {
		_, lacks := k.lacks[id]
		has[i] = !lacks
	}
	return has, nil
}

func (k *frameSink) Put(ctx context.Context, id ID, plain []byte) error {
	k.mu.Lock()
	_, lacks := k.lacks[id]
	delete(k.lacks, id)
	k.mu.Unlock()
	if !lacks {
		return nil
	}
	select {
	case k.frames <- Frame{id, k.codec.encode(nil, plain, PlainNaming)}:
	case <-ctx.Done():
		return ctx.Err()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.progress(k.total-len(k.lacks), k.total)
	return nil
}
