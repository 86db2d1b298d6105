package snapshotstore

import (
	"context"
	"sync"
)

// ChunkSink takes the objects that ScanDir makes. Both methods are called
// from several goroutines at once.
type ChunkSink interface {
	// Has says for each id whether the sink needs it no more.
	Has(ctx context.Context, ids []ID) ([]bool, error)
	// Put takes one object. plain is valid during the call only.
	Put(ctx context.Context, id ID, plain []byte) error
}

// discard is the sink of those who want the root only.
type discard struct{}

func (discard) Has(_ context.Context, ids []ID) ([]bool, error) {
	all := make([]bool, len(ids))
	for i := range all {
		all[i] = true
	}
	return all, nil
}

func (discard) Put(context.Context, ID, []byte) error { return nil }

// recorder is a sink that keeps the IDs, each once, in no order.
type recorder struct {
	mu  sync.Mutex
	ids map[ID]struct{}
}

func (r *recorder) Has(ctx context.Context, ids []ID) ([]bool, error) {
	r.mu.Lock()
	for _, id := range ids {
		r.ids[id] = struct{}{}
	}
	r.mu.Unlock()
	return discard{}.Has(ctx, ids)
}

func (r *recorder) Put(context.Context, ID, []byte) error { return nil }

// storeSink puts objects into a store.
type storeSink struct {
	store  *Store
	naming Naming
}

func (k storeSink) Has(_ context.Context, ids []ID) ([]bool, error) {
	return k.store.hasAll(ids), nil
}

func (k storeSink) Put(_ context.Context, id ID, plain []byte) error {
	_, err := k.store.put(id, plain, k.naming)
	return err
}
