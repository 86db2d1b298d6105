package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// Snapshots as plain archives, to take data away and to bring it in; what differs between two; and whether what the
// stores hold is what it should be.

const maxDiff = 10_000 // paths in one answer

// asked finds the snapshot that a query names, and has it here.
func (n *Node) asked(r *http.Request, generation string) (model.Snapshot, snapshotstore.ID, error) {
	q := r.URL.Query()
	number, err := strconv.ParseUint(cmp.Or(q.Get(generation), "0"), 10, 64)
	if err != nil {
		return model.Snapshot{}, snapshotstore.ID{}, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("%q is not a generation", q.Get(generation))}
	}
	s, _, err := n.stateFor(r)
	if err != nil {
		return model.Snapshot{}, snapshotstore.ID{}, err
	}
	system, service := systemOf(q.Get("system")), q.Get("service")
	container := q.Get("container")
	for _, snap := range s.ServiceSnapshots(system, service) {
		container = cmp.Or(container, snap.Container)
	}
	snap, err := generationOf(s, model.CustodyKey(system, service, container), service, number)
	if err == nil {
		err = n.fetchState(r.Context(), s, snap)
	}
	if err != nil {
		return model.Snapshot{}, snapshotstore.ID{}, err
	}
	id, err := snapshotstore.ParseID(snap.ID)
	return snap, id, err
}

// getArchive sends a snapshot as a tar archive. One that cannot be finished is cut off, so that nobody takes it for whole.
func (n *Node) getArchive(w http.ResponseWriter, r *http.Request) {
	_, id, err := n.asked(r, "generation")
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-tar")
	if err := n.store.ExportTar(r.Context(), id, w); err != nil {
		n.log.Warn("sending an archive", "snapshot", id, "err", err)
		panic(http.ErrAbortHandler)
	}
}

// putArchive takes an archive in as the newest snapshot of a service; nothing is restored.
func (n *Node) putArchive(r *http.Request) (any, error) {
	q := r.URL.Query()
	s, _, err := n.stateFor(r)
	if err != nil {
		return nil, err
	}
	row, err := custodian(s, systemOf(q.Get("system")), q.Get("service"))
	if err != nil {
		return nil, err
	}
	n.useStoreKey(s)
	info, err := n.store.ImportTar(r.Context(), r.Body, snapshotstore.ImportOptions{})
	var entry *snapshotstore.EntryError
	switch {
	case errors.Is(err, snapshotstore.ErrTar), errors.As(err, &entry):
		return nil, &api.Error{Code: api.CodeUsage, Message: err.Error()}
	case err != nil:
		return nil, err
	case info.Files == 0:
		return nil, &api.Error{Code: api.CodeUsage, Message: "the archive has no files", Hint: "An empty state would replace what there is."}
	}
	snap, fresh, err := n.catalogue(r.Context(), model.Snapshot{System: row.System, Service: row.Service, Container: row.Container, Type: row.Spec.Type,
		ID: info.Root.String(), Size: int64(info.Bytes), Stored: int64(info.Stored), Files: int64(info.Files), Node: n.id.ID, At: time.Now().UTC(),
		Ownership: true, Why: "imported"}, true)
	return api.SnapshotTaken{Snapshot: n.describe(snap), New: fresh}, err
}

func (n *Node) getDiff(r *http.Request) (any, error) {
	_, a, err := n.asked(r, "from")
	if err != nil {
		return nil, err
	}
	_, b, err := n.asked(r, "to")
	if err != nil {
		return nil, err
	}
	out := api.SnapshotDiff{Changes: []api.SnapshotChange{}}
	err = n.store.DiffState(r.Context(), a, b, func(c snapshotstore.Change) error {
		if len(out.Changes) == maxDiff {
			out.More = true
			return fs.SkipAll
		}
		change := api.SnapshotChange{Path: c.Path, What: "changed"}
		if c.Old != nil {
			change.Old = int64(c.Old.Size)
		} else {
			change.What = "added"
		}
		if c.New != nil {
			change.New = int64(c.New.Size)
		} else {
			change.What = "removed"
		}
		out.Changes = append(out.Changes, change)
		return nil
	})
	return out, err
}

// belongsHere names what should be in this node's store: the snapshots that it holds, and the packages of its rows, of all
// rows where it votes.
func (n *Node) belongsHere(s *model.State) map[snapshotstore.ID]string {
	out := map[snapshotstore.ID]string{}
	add := func(tree, what string) {
		if id, err := snapshotstore.ParseID(tree); err == nil {
			out[id] = what
		}
	}
	votes := n.votes()
	for _, r := range s.Rows.All() {
		if r.Node == n.id.ID && r.Phase != model.Planned || votes && !r.Obsolete {
			add(r.Spec.Package, "package of "+r.Service)
		}
	}
	for _, snap := range s.Snapshots.All() {
		if slices.Contains(snap.Holders, n.id.ID) {
			what := fmt.Sprintf("snapshot %d of %s", snap.Generation, snap.Service)
			add(snap.ID, what)
			add(snap.Facts, what)
		}
	}
	return out
}

// checkStore reads all that this node's store holds, and has what is damaged made whole by others.
func (n *Node) checkStore(ctx context.Context) api.NodeCheck {
	out := api.NodeCheck{Node: n.cfg.Name, Problems: []string{}, Lost: []string{}}
	began := time.Now()
	n.useStoreKey(n.fsm.State())
	problems, err := n.store.Check(ctx)
	for _, p := range problems {
		out.Problems = append(out.Problems, p.String())
	}
	if err == nil {
		names := n.belongsHere(n.fsm.State())
		var broken []snapshotstore.BrokenTree
		out.Healed, broken, err = n.store.Heal(ctx, slices.Collect(maps.Keys(names)), n.sources())
		for _, b := range broken {
			out.Lost = append(out.Lost, names[b.Root]+": "+b.String())
		}
		slices.Sort(out.Lost)
	}
	if err == nil {
		err = n.verifyHeld(ctx)
	}
	if err != nil {
		out.Error = err.Error()
	}
	st := n.store.Stats()
	out.Objects, out.Bytes, out.Took = int64(st.Objects), st.Stored, time.Since(began)
	return out
}

// postCheck has every node that is up check its store, all at once.
func (n *Node) postCheck(r *http.Request) (any, error) {
	if peerID(r.Context()) != "" {
		return []api.NodeCheck{n.checkStore(r.Context())}, nil
	}
	var all []api.NodeCheck
	for _, a := range everyNode(n, r, "/v1/check", struct{}{}, func() ([]api.NodeCheck, error) {
		return []api.NodeCheck{n.checkStore(r.Context())}, nil
	}) {
		switch {
		case a.err == nil && len(a.answer) == 1:
			all = append(all, a.answer...)
		case errors.Is(a.err, errIsDown):
			all = append(all, api.NodeCheck{Node: a.name, Problems: []string{}, Lost: []string{}, Error: a.err.Error()})
		default:
			all = append(all, api.NodeCheck{Node: a.name, Problems: []string{}, Lost: []string{}, Error: fmt.Sprintf("it does not answer: %v", a.err)})
		}
	}
	return all, nil
}
