package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Action is what a plan does with an instance.
type Action string

// Actions.
const (
	ActStart   Action = "start"
	ActStop    Action = "stop"
	ActRestart Action = "restart"
	ActMove    Action = "move"
	ActRetry   Action = "retry"
)

// Change is one instance's line in a plan, with the reasons for it.
type Change struct {
	Action  Action
	Service string
	Node    string // id: where it will be, or was for a stop
	From    string // id, for a move
	Reasons []string
}

// Plan is the way from the newest generation to a manifest: a value that is shown, compared and turned into commands.
type Plan struct {
	System   string
	Base     uint64
	Digest   string
	Changes  []Change // in order of service and node
	Added    []RowSpec
	Gone     []string
	Retry    []string
	Order    []Order
	Reserve  []Reservation
	Release  []Reservation
	Counters map[string]int
	Policies map[string]StatePolicy // that change
	Returns  []Return
	Moves    int // as in Distribution
	Warnings []string
	Moved    map[string]string // as in Manifest
	// Placements say why services are where they are, if that was asked for.
	Placements []Placement
}

// Empty says that the plan changes nothing.
func (p Plan) Empty() bool {
	return len(p.Added)+len(p.Gone)+len(p.Retry)+len(p.Order)+len(p.Reserve)+len(p.Release)+len(p.Policies)+len(p.Returns) == 0
}

// Diff gives the plan from the newest generation of a system to a manifest.
func Diff(s *State, system string, m Manifest) Plan {
	p := Plan{System: system, Base: s.Systems.At(system).Generation, Digest: m.Digest, Reserve: m.Reserve, Returns: m.Returns, Moves: m.Moves, Warnings: m.Warnings, Moved: m.Moved, Placements: m.Placements}
	now := map[string]Row{}
	for _, r := range s.SystemRows(system) {
		if !r.Obsolete {
			now[r.Key] = r
		}
	}
	wanted := map[string]RowSpec{}
	for _, r := range m.Rows {
		wanted[r.Key] = r
		old, exists := now[r.Key]
		switch {
		case !exists:
			p.Added = append(p.Added, r)
		case old.Phase == Failed:
			p.Retry = append(p.Retry, r.Key)
			p.Changes = append(p.Changes, Change{Action: ActRetry, Service: r.Service, Node: r.Node, Reasons: []string{"it failed: " + old.Reason}})
		}
		if exists && !slices.Equal(old.After, r.After) {
			p.Order = append(p.Order, Order{r.Key, r.After})
		}
	}
	for _, k := range sortedKeys(now) {
		if _, stays := wanted[k]; !stays {
			p.Gone = append(p.Gone, k)
		}
	}
	for _, k := range m.Release {
		p.Release = append(p.Release, s.Reservations.At(k))
	}
	if len(p.Reserve) > 0 {
		p.Counters = m.Counters
	}
	p.Policies = changedPolicies(s, system, m.Policies)
	p.explain(s, now, wanted)
	p.Warnings = append(slices.Clip(p.Warnings), p.tellMoves(wanted)...)
	return p
}

// tellMoves says that not all states move at once, where that is so.
func (p *Plan) tellMoves(wanted map[string]RowSpec) []string {
	moves, to := 0, map[string]int{}
	stateful := map[string]bool{}
	for _, r := range wanted {
		stateful[r.Service] = stateful[r.Service] || r.Managed
	}
	most := 0
	for _, c := range p.Changes {
		if c.Action == ActMove && stateful[c.Service] {
			moves++
			to[c.Node]++
			most = max(most, to[c.Node])
		}
	}
	limit := cmp.Or(p.Moves, MovesAtOnce)
	if moves <= limit && most <= min(limit, MovesPerNode) {
		return nil
	}
	return []string{fmt.Sprintf("%d states move: at most %d at once, and %d to one node", moves, limit, min(limit, MovesPerNode))}
}

// changedPolicies gives what differs from State: what is there no more, as the zero policy.
func changedPolicies(s *State, system string, wanted map[string]StatePolicy) map[string]StatePolicy {
	out := map[string]StatePolicy{}
	for key := range s.Policies.Prefix(system + "/") {
		if service := strings.TrimPrefix(key, system+"/"); !wanted[service].Managed {
			out[service] = StatePolicy{}
		}
	}
	for service, p := range wanted {
		if s.Policies.At(system+"/"+service) != p {
			out[service] = p
		}
	}
	return out
}

// explain pairs what goes with what comes, by service, and says why.
func (p *Plan) explain(s *State, now map[string]Row, wanted map[string]RowSpec) {
	gone := map[string][]Row{}
	for _, k := range p.Gone {
		gone[now[k].Service] = append(gone[now[k].Service], now[k])
	}
	for _, r := range p.Added {
		old, paired := takePair(gone, r)
		c := Change{Service: r.Service, Node: r.Node}
		switch {
		case !paired:
			c.Action, c.Reasons = ActStart, []string{"it is new"}
			if hasService(r.Service, now) {
				c.Reasons = []string{"one more instance"}
			}
		case old.Node == r.Node:
			c.Action, c.Reasons = ActRestart, p.differences(s, old.RowSpec, r, now, wanted)
		default:
			c.Action, c.From, c.Reasons = ActMove, old.Node, []string{p.whyLeft(s, old.Service, old.Node)}
			if s.Custody.At(r.CustodyKey()).Node == old.Node && r.Managed {
				c.Reasons = append(c.Reasons, "its state moves with it")
			}
			if why, taken := describeTakeOver(s, r, old.Node); taken {
				c.Reasons = append(c.Reasons, why)
			} else if old.Spec.Timeline != r.Spec.Timeline {
				c.Reasons = append(c.Reasons, describeReturn(s, r, p.Returns))
			}
		}
		p.Changes = append(p.Changes, c)
	}
	for _, service := range sortedKeys(gone) {
		for _, r := range gone[service] {
			p.Changes = append(p.Changes, Change{Action: ActStop, Service: service, Node: r.Node, Reasons: []string{whyStopped(r, wanted)}})
		}
	}
	slices.SortStableFunc(p.Changes, func(a, b Change) int {
		return cmp.Or(strings.Compare(a.Service, b.Service), strings.Compare(s.NodeName(a.Node), s.NodeName(b.Node)))
	})
}

func hasService(service string, now map[string]Row) bool {
	for _, r := range now {
		if r.Service == service {
			return true
		}
	}
	return false
}

// takePair takes the old row that r replaces: the one on the same node, else any of the service.
func takePair(gone map[string][]Row, r RowSpec) (Row, bool) {
	rows := gone[r.Service]
	i := slices.IndexFunc(rows, func(o Row) bool { return o.Node == r.Node })
	if i < 0 {
		i = len(rows) - 1
	}
	if i < 0 {
		return Row{}, false
	}
	old := rows[i]
	gone[r.Service] = slices.Delete(slices.Clone(rows), i, i+1)
	return old, true
}

// whyLeft says why a service leaves a node.
func (p *Plan) whyLeft(s *State, service, node string) string {
	n, member := s.Nodes.Get(node)
	switch {
	case !member:
		return fmt.Sprintf("node %s was removed", s.NodeName(node))
	case n.Down:
		return fmt.Sprintf("node %s is down", n.Name)
	case n.Draining:
		return fmt.Sprintf("node %s is drained", n.Name)
	}
	if why := p.Moved[movedKey(service, node)]; why != "" {
		return fmt.Sprintf("it cannot stay on %s: %s", n.Name, why)
	}
	return fmt.Sprintf("node %s may not run it any more", n.Name)
}

// notInModel is why a service is stopped of which no instance stays, unless whoever asked for the plan knows better.
const notInModel = "it is not in the model any more"

func whyStopped(r Row, wanted map[string]RowSpec) string {
	for _, w := range wanted {
		if w.Service == r.Service {
			return "one instance less"
		}
	}
	return notInModel
}

// StopsBecause gives the services of which no instance stays another reason.
func (p *Plan) StopsBecause(why func(Change) string) {
	for i, c := range p.Changes {
		if c.Action == ActStop && slices.Equal(c.Reasons, []string{notInModel}) {
			p.Changes[i].Reasons = []string{why(c)}
		}
	}
}

// differences says what makes row b another one than row a.
func (p *Plan) differences(s *State, a, b RowSpec, now map[string]Row, wanted map[string]RowSpec) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	x, y := a.Spec, b.Spec
	if x.Package != y.Package {
		add("its package changed")
	}
	if !slices.Equal(x.Command, y.Command) {
		add("its command changed")
	}
	for _, k := range changedKeys(x.Env, y.Env) {
		add("env %s changed", k)
	}
	for _, k := range changedKeys(x.Settings, y.Settings) {
		add("setting %s changed", k)
	}
	for _, k := range changedKeys(x.Ports, y.Ports) {
		add("port %s: %s", k, fromTo(x.Ports[k], y.Ports[k]))
	}
	if x.Host != y.Host {
		add("the address of %s changed from %s to %s", s.NodeName(b.Node), x.Host, y.Host)
	}
	if !sameJSON(x.Health, y.Health) {
		add("its health check changed")
	}
	if x.User != y.User || x.UID != y.UID || x.Dir != y.Dir || x.Grace != y.Grace || x.StartWait != y.StartWait || a.Managed != b.Managed {
		add("how it runs changed")
	}
	if !maps.Equal(a.Needs, b.Needs) {
		add("its resources changed")
	}
	if x.Timeline != y.Timeline {
		out = append(out, describeReturn(s, b, p.Returns))
	}
	return append(out, dependencyReasons(a, b, now, wanted)...)
}

func fromTo(a, b int) string {
	switch {
	case a == 0:
		return fmt.Sprintf("new, %d", b)
	case b == 0:
		return fmt.Sprintf("%d is released", a)
	}
	return fmt.Sprintf("%d instead of %d", b, a)
}

func dependencyReasons(a, b RowSpec, now map[string]Row, wanted map[string]RowSpec) []string {
	var out []string
	had := map[string]bool{}
	for _, k := range a.DependsOn {
		had[now[k].Service] = true
	}
	for _, k := range b.DependsOn {
		if slices.Contains(a.DependsOn, k) {
			continue
		}
		dep := wanted[k].Service
		if had[dep] {
			out = append(out, fmt.Sprintf("%s, which it depends on, is replaced", dep))
		} else {
			out = append(out, "it depends on "+dep+" now")
		}
	}
	for _, k := range a.DependsOn {
		dep := now[k].Service
		if !slices.ContainsFunc(b.DependsOn, func(n string) bool { return wanted[n].Service == dep }) {
			out = append(out, "it does not depend on "+dep+" any more")
		}
	}
	return out
}

func changedKeys[V comparable](a, b map[string]V) []string {
	var out []string
	for _, k := range sortedKeys(a) {
		if v, ok := b[k]; !ok || v != a[k] {
			out = append(out, k)
		}
	}
	for _, k := range sortedKeys(b) {
		if _, ok := a[k]; !ok {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func sameJSON(a, b any) bool {
	x, _ := json.Marshal(a) // plain data: it always encodes
	y, _ := json.Marshal(b)
	return string(x) == string(y)
}

// Draft is what, beside the plan, makes a generation: who asked for it, why, and the source that it comes from.
type Draft struct {
	ID       string // of the proposal
	Kind     string
	Source   Source
	Packages map[string]string
	Excluded []string
	Target   uint64 // rollback: the intent gone back to
	Intent   uint64 // adapt: the intent it belongs to
	By, Why  string
	At       time.Time
	Origin   string
	Ending   Outcome
	Reason   string
	Failed   Fault
}

// Commands gives begin, as many parts as needed to keep each below PartBytes, and commit.
func (p Plan) Commands(pr Draft) []Command {
	begin := Begin{Proposal: pr.ID, System: p.System, Base: p.Base, Kind: pr.Kind, Excluded: pr.Excluded,
		Target: pr.Target, Intent: pr.Intent, By: pr.By, Why: pr.Why, At: pr.At, Origin: pr.Origin, Digest: p.Digest,
		Ending: pr.Ending, Reason: pr.Reason, Failed: pr.Failed, Moves: p.Moves}
	s := splitter{id: pr.ID, cur: Part{Proposal: pr.ID}}
	s.changes(p)
	for _, name := range sortedKeys(pr.Source.Files) {
		s.file(name, pr.Source.Files[name])
	}
	for _, name := range sortedKeys(pr.Packages) {
		s.pack(name, pr.Packages[name])
	}
	for _, name := range sortedKeys(p.Policies) {
		s.policy(name, p.Policies[name])
	}
	for _, r := range p.Returns {
		s.room(encodedSize(r))
		s.cur.Returns = append(s.cur.Returns, r)
	}
	for _, r := range p.Added {
		s.room(encodedSize(r))
		s.cur.Added = append(s.cur.Added, r)
	}
	s.flush()
	out := []Command{begin}
	for _, part := range s.parts {
		out = append(out, part)
	}
	return append(out, Commit{Proposal: pr.ID, Parts: len(s.parts)})
}

// splitter fills parts up to PartBytes.
type splitter struct {
	id    string
	parts []Part
	cur   Part
	size  int
}

// partSlack is left free in a part for its own fields and for an estimate that was too low.
const partSlack = 4 << 10

func (s *splitter) room(n int) {
	if s.size > 0 && s.size+n > PartBytes-partSlack {
		s.flush()
	}
	s.size += n
}

// changes puts in what a plan changes beside the rows that are new.
func (s *splitter) changes(p Plan) {
	for _, k := range p.Gone {
		s.room(len(k) + 4)
		s.cur.Gone = append(s.cur.Gone, k)
	}
	for _, k := range p.Retry {
		s.room(len(k) + 4)
		s.cur.Retry = append(s.cur.Retry, k)
	}
	for _, o := range p.Order {
		s.room(encodedSize(o))
		s.cur.Order = append(s.cur.Order, o)
	}
	for _, r := range p.Release {
		s.room(len(r.Key()) + 4)
		s.cur.Release = append(s.cur.Release, r.Key())
	}
	for _, r := range p.Reserve {
		s.room(encodedSize(r))
		s.cur.Reserve = append(s.cur.Reserve, r)
	}
	for _, k := range sortedKeys(p.Counters) {
		s.room(len(k) + 16)
		if s.cur.Counters == nil {
			s.cur.Counters = map[string]int{}
		}
		s.cur.Counters[k] = p.Counters[k]
	}
}

// file puts a file in, in pieces that fit; a part has at most one piece of it, and Apply joins them in order.
func (s *splitter) file(name string, content []byte) {
	for first := true; first || len(content) > 0; first = false {
		n := min(len(content), PartBytes/2)
		s.room(len(name) + n + 16)
		if _, have := s.cur.Files[name]; have {
			s.flush()
			s.size = len(name) + n + 16
		}
		if s.cur.Files == nil {
			s.cur.Files = map[string][]byte{}
		}
		s.cur.Files[name], content = content[:n:n], content[n:]
	}
}

func (s *splitter) pack(service, tree string) {
	s.room(len(service) + len(tree) + 8)
	if s.cur.Packages == nil {
		s.cur.Packages = map[string]string{}
	}
	s.cur.Packages[service] = tree
}

func (s *splitter) policy(service string, p StatePolicy) {
	s.room(len(service) + 40)
	if s.cur.Policies == nil {
		s.cur.Policies = map[string]StatePolicy{}
	}
	s.cur.Policies[service] = p
}

func (s *splitter) flush() {
	s.cur.Number = len(s.parts)
	s.parts = append(s.parts, s.cur)
	s.cur, s.size = Part{Proposal: s.id}, 0
}

func encodedSize(v any) int {
	b, _ := json.Marshal(v) // an upper bound for the log's denser encoding
	return len(b)
}
