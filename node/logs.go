package node

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/model"
	"github.com/isonomia-mesh/isonomia/node/api"
)

// logQuery is what GET /v1/logs asks for.
type logQuery struct {
	system, service, node string
	tail                  int
	follow                bool
	since                 time.Time
}

func parseLogQuery(r *http.Request) (logQuery, error) {
	v := r.URL.Query()
	q := logQuery{system: systemOf(v.Get("system")), service: v.Get("service"), node: v.Get("node"), follow: v.Get("follow") != ""}
	var err error
	if q.tail, err = intParam(r, "tail", 100); err != nil {
		return q, err
	}
	if s := v.Get("since"); s != "" {
		if q.since, err = time.Parse(time.RFC3339, s); err != nil {
			return q, &api.Error{Code: api.CodeUsage, Message: fmt.Sprintf("since: %q is not an RFC 3339 time", s)}
		}
	}
	if q.service == "" {
		return q, &api.Error{Code: api.CodeUsage, Message: "which service's logs?"}
	}
	return q, nil
}

func (q logQuery) encode() string {
	v := url.Values{"system": {q.system}, "service": {q.service}, "tail": {fmt.Sprint(q.tail)}}
	if q.follow {
		v.Set("follow", "1")
	}
	if !q.since.IsZero() {
		v.Set("since", q.since.Format(time.RFC3339Nano))
	}
	return "/v1/logs?" + v.Encode()
}

// getLogs answers with a service's lines, from every node that has or had it, oldest first.
func (n *Node) getLogs(w http.ResponseWriter, r *http.Request) {
	q, err := parseLogQuery(r)
	if err != nil {
		writeError(w, err)
		return
	}
	if peerID(r.Context()) != "" {
		n.sendOwnLogs(w, r, q)
		return
	}
	err = n.knowsService(q)
	if err == nil && q.node != "" {
		_, err = memberNamed(n.fsm.State(), q.node)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	all := n.ownLines(r.Context(), q)
	once := q
	once.follow = false
	for _, lines := range gather(n, w, r, once.encode(), q.node) {
		for _, line := range lines {
			var l api.LogLine
			if json.Unmarshal([]byte(line), &l) == nil {
				all = append(all, l)
			}
		}
	}
	all = slices.DeleteFunc(all, func(l api.LogLine) bool { return q.node != "" && l.Node != q.node })
	slices.SortStableFunc(all, func(a, b api.LogLine) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.Node, b.Node)) })
	out := newLines(w)
	for _, l := range all[max(0, len(all)-q.tail):] {
		if out.send(l) != nil {
			return
		}
	}
	if q.follow {
		n.followLogs(r.Context(), out, q)
	}
}

func (n *Node) knowsService(q logQuery) error {
	s := n.fsm.State()
	if len(s.ServiceRows(q.system, q.service)) > 0 {
		return nil
	}
	for _, spec := range s.Specs.All() {
		if spec.System == q.system && spec.Service == q.service {
			return nil
		}
	}
	return &api.Error{Code: api.CodeNotFound, Message: fmt.Sprintf("no service %q is or was deployed", q.service),
		Hint: model.Suggestion(q.service, n.serviceNames(s, q.system))}
}

func (n *Node) serviceNames(s *model.State, system string) []string {
	var names []string
	for _, r := range s.SystemRows(system) {
		names = append(names, r.Service)
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

func (n *Node) ownLines(ctx context.Context, q logQuery) []api.LogLine {
	var out []api.LogLine
	for line, err := range keeper.ReadLog(ctx, n.dir.logs(q.system), q.service, keeper.ReadOptions{Tail: max(q.tail, 1), Since: q.since}) {
		if err != nil {
			n.log.Warn("reading a log", "service", q.service, "err", err)
			break
		}
		out = append(out, n.apiLine(q, line))
	}
	return out[max(0, len(out)-q.tail):]
}

func (n *Node) apiLine(q logQuery, l keeper.Line) api.LogLine {
	stream := map[byte]string{'o': "stdout", 'e': "stderr", 'k': "keeper"}[l.Stream]
	return api.LogLine{At: l.Time, Node: n.cfg.Name, Service: q.service, Stream: stream, Text: l.Text}
}

func (n *Node) sendOwnLogs(w http.ResponseWriter, r *http.Request, q logQuery) {
	out := newLines(w)
	if !q.follow {
		for _, l := range n.ownLines(r.Context(), q) {
			if out.send(l) != nil {
				return
			}
		}
		return
	}
	n.followOwn(r.Context(), q, func(l api.LogLine) error { return out.send(l) })
}

// followOwn passes on what is written from now.
func (n *Node) followOwn(ctx context.Context, q logQuery, send func(api.LogLine) error) {
	for line, err := range keeper.ReadLog(ctx, n.dir.logs(q.system), q.service, keeper.ReadOptions{Since: time.Now(), Follow: true}) {
		if err != nil || send(n.apiLine(q, line)) != nil {
			return
		}
	}
}

func (n *Node) followLogs(ctx context.Context, out *lines, q logQuery) {
	merged := make(chan api.LogLine, 64)
	q.tail = 0
	go n.followOwn(ctx, q, func(l api.LogLine) error { return sendOrDone(ctx, merged, l) })
	go n.followPeers(ctx, q.encode(), func(b []byte) {
		var l api.LogLine
		if json.Unmarshal(b, &l) == nil {
			_ = sendOrDone(ctx, merged, l)
		}
	})
	for {
		select {
		case <-ctx.Done():
			return
		case l := <-merged:
			if q.node != "" && l.Node != q.node {
				continue
			}
			if out.send(l) != nil {
				return
			}
		}
	}
}
