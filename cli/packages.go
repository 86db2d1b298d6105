package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
	"github.com/isonomia-mesh/isonomia/snapshotstore"
)

// packages brings the directories of all services into the node's store and builds there what is to be built. It
// answers with the tree of each service's package.
func (op *operation) packages(ctx context.Context, dir string, m *model.Model) (map[string]string, error) {
	show := newDisplay(op.console)
	defer show.close()
	s := &shipment{remote: newRemoteStore(op.client), show: show, trees: map[string]string{}}
	trees := map[string]string{}
	for _, svc := range m.Services {
		if svc.Package == "" {
			continue
		}
		tree, err := s.send(ctx, svc, filepath.Join(dir, filepath.FromSlash(svc.Package)))
		if err == nil && svc.Build != nil {
			tree, err = op.build(ctx, show, svc, tree)
		}
		if err != nil {
			return nil, err
		}
		trees[svc.Name] = tree
	}
	if s.objects > 0 {
		show.line(fmt.Sprintf("Sent %s to the node, which lacked %s.", byteSize(s.remote.sent()), count(s.objects, "object")))
	}
	return trees, nil
}

// shipment is what one deployment brings to the node.
type shipment struct {
	remote  remoteStore
	show    display
	trees   map[string]string // by path: services with the same directory share one scan
	objects int               // sent so far
}

// send scans one directory and sends what the node lacks of it.
func (s *shipment) send(ctx context.Context, svc *model.Service, path string) (string, error) {
	if tree, ok := s.trees[path]; ok {
		return tree, nil
	}
	if info, err := os.Stat(path); err != nil || !info.IsDir() {
		return "", invalidModel(position(svc), "service %q: its package %q is not a directory here", svc.Name, svc.Package)
	}
	m := s.show.meter("sending " + svc.Name)
	defer m.end()
	var last int
	info, err := snapshotstore.Upload(ctx, path, s.remote, snapshotstore.ScanOptions{}, func(sent, total int) {
		last = sent
		m.set(int64(sent), int64(total), "")
	})
	if err != nil {
		return "", packageError(ctx, svc, err)
	}
	s.objects += last
	s.trees[path] = info.Root.String()
	return s.trees[path], nil
}

// packageError tells what the node said from what is wrong with the directory.
func packageError(ctx context.Context, svc *model.Service, err error) error {
	var said *api.Error
	var here *snapshotstore.EntryError
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.As(err, &here) && !errors.Is(here, context.Canceled) { // a file that fails here breaks the connection too
		err = here
	} else if errors.As(err, &said) {
		return said
	}
	return invalidModel(position(svc), "package of service %q: %v", svc.Name, err)
}

// position is where a service is declared, file:line.
func position(svc *model.Service) string {
	return fmt.Sprintf("%s:%d", svc.Range.Filename, svc.Range.Start.Line)
}

// remoteStore is the node's store behind its API.
type remoteStore struct {
	client *api.Client
	bytes  *atomic.Int64
}

func newRemoteStore(client *api.Client) remoteStore { return remoteStore{client, &atomic.Int64{}} }

func (r remoteStore) sent() int64 { return r.bytes.Load() }

func (r remoteStore) Absent(ctx context.Context, ids []snapshotstore.ID) ([]snapshotstore.ID, error) {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	missing, err := r.client.Missing(ctx, texts)
	if err != nil {
		return nil, err
	}
	absent := make([]snapshotstore.ID, len(missing))
	for i, text := range missing {
		if absent[i], err = snapshotstore.ParseID(text); err != nil {
			return nil, fmt.Errorf("read the node's answer: %w", err)
		}
	}
	return absent, nil
}

func (r remoteStore) Send(ctx context.Context, frames io.Reader) error {
	return r.client.PutObjects(ctx, io.TeeReader(frames, counter{r.bytes}))
}

// counter counts what is written to it.
type counter struct{ n *atomic.Int64 }

func (c counter) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// build runs a service's build on the node and shows its log.
func (op *operation) build(ctx context.Context, show display, svc *model.Service, source string) (string, error) {
	m := show.meter("building " + svc.Name)
	defer m.end()
	req := api.BuildRequest{System: op.req.System, Service: svc.Name, Source: source, Command: svc.Build.Command, Env: svc.Build.Env,
		Timeout: svc.Build.Timeout, Rebuild: op.rebuild}
	for ev, err := range op.client.Build(ctx, req) {
		if err != nil {
			return "", buildError(svc, err)
		}
		showBuildLog(show, op.paint(), svc.Name, ev.Log)
		if ev.Output != "" {
			if !ev.Cached {
				show.line("Built " + op.paint().bold(svc.Name) + ".")
			}
			return ev.Output, nil
		}
	}
	return "", buildError(svc, fmt.Errorf("the build ended without a result"))
}

func showBuildLog(show display, p painter, service, log string) {
	if log == "" {
		return
	}
	for line := range strings.SplitSeq(strings.TrimRight(log, "\n"), "\n") {
		show.line(p.dim(service+" |") + " " + cleanText(line))
	}
}

// buildError says where the build that failed is written down.
func buildError(svc *model.Service, err error) error {
	e := *explain(err)
	if e.Where == "" {
		e.Where = position(svc)
	}
	if e.Code == api.CodeBuildFailed {
		e.Message = fmt.Sprintf("build of service %q: %s", svc.Name, strings.TrimPrefix(e.Message, "build: "))
	}
	return &e
}
