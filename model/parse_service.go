package model

import (
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// serviceDecl is a service with the places that validation needs.
type serviceDecl struct {
	*Service
	links       []link
	exprs       []boundExpr
	badType     bool      // its type is missing or wrong, and was told
	instancesAt hcl.Range // of the attribute; of the header where there is none
	exclusiveAt hcl.Range
	stateAt     hcl.Range
	healthPort  located
	apart       []located // services that it names in anti_affinity
}

// link is a relation to another service as it is written.
type link struct {
	relation string // "depends_on", "connects_to" or "activates_after"
	alias    located
	target   located
}

// orders says whether the relation decides what starts first.
func (l link) orders() bool { return l.relation != "connects_to" }

// boundExpr is an expression that is evaluated after placement.
type boundExpr struct {
	name string
	kind exprKind
	expr hclsyntax.Expression
}

// exprKind is what an expression must give.
type exprKind int

const (
	wantString exprKind = iota
	wantStrings
	wantMap
)

func (p *parser) service(b block) {
	p.checkName("service", b.name)
	d := &serviceDecl{Service: &Service{Name: b.name.text, Instances: 1, Range: b.at}, instancesAt: b.at}
	c := p.content(b.body, schema{
		what:   fmt.Sprintf("service %q", d.Name),
		attrs:  []string{"type", "package", "depends_on", "connects_to", "activates_after", "instances", "exclusive", "settings"},
		blocks: map[string]string{"build": "", "port": "NAME", "run": "", "health": "", "state": "", "constraint": "", "resources": "", "anti_affinity": ""},
		later:  []string{"on_demand"},
	})
	p.serviceType(d, c)
	p.servicePackage(d, c)
	p.links(d, c)
	p.instances(d, c.has("instances"))
	if a := c.has("exclusive"); a != nil {
		d.Exclusive, d.exclusiveAt = new(p.boolOf(a, false)), a.nameAt
	}
	p.serviceBlocks(d, c)
	p.settings(d, c.has("settings"))
	p.defaultState(d)
	if p.first(b, fmt.Sprintf("service %q", d.Name)) {
		p.services[d.Name] = d
		p.model.Services = append(p.model.Services, d.Service)
	}
}

func (p *parser) serviceType(d *serviceDecl, c content) {
	a := c.has("type")
	if a == nil {
		d.badType = true
		p.rep.fail(d.Range, `Add type = "process".`, "service %q has no type", d.Name)
		return
	}
	var ok bool
	if d.Type, ok = p.stringOf(a, "process"); !ok {
		d.badType = true
		return
	}
	if !slices.Contains(p.known.Modules, d.Type) {
		d.badType = true
		p.rep.fail(a.expr.Range(), WayOut(d.Type, p.known.Modules, "There are no modules at all."), "there is no module %q for the type of service %q", d.Type, d.Name)
	}
}

// servicePackage reads the package: a directory in that of the model.
func (p *parser) servicePackage(d *serviceDecl, c content) {
	a := c.has("package")
	name, ok := p.stringOf(a, "./"+d.Name)
	if !ok {
		return
	}
	clean := path.Clean(name)
	if name == "" || path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../") || strings.ContainsRune(name, '\\') {
		p.rep.fail(a.expr.Range(), fmt.Sprintf(`Give a directory inside the model's, with slashes: package = "./%s".`, d.Name), "package %q is not a directory of the model", name)
		return
	}
	d.Package = clean
}

// links reads the three relations. The first two may be a map of aliases or a list of names, which are their own
// aliases; the last may be either, too, and needs no aliases.
func (p *parser) links(d *serviceDecl, c content) {
	aliases := map[string]link{}
	for _, relation := range []string{"depends_on", "connects_to", "activates_after"} {
		a := c.has(relation)
		if a == nil {
			continue
		}
		for _, l := range p.linksOf(a) {
			key := l.alias.text
			if relation == "activates_after" {
				key = "\x00" + l.target.text // names that cannot meet an alias
			}
			if before, twice := aliases[key]; twice {
				p.rep.add(Diagnostic{Summary: fmt.Sprintf("service %q names %q twice", d.Name, l.alias.text), Subject: place(l.alias.at),
					Hint:    "Remove one of the two, or give them different aliases: { ALIAS = SERVICE }.",
					Related: []Range{noted(before.alias.at, "the first, in %s", before.relation)}})
				continue
			}
			aliases[key] = l
			d.links = append(d.links, l)
		}
	}
	d.setLinks()
}

func (p *parser) linksOf(a *attribute) []link {
	ctx, ok := p.constant(a.expr, nil)
	if !ok {
		return nil
	}
	var items []item
	if v, diags := a.expr.Value(ctx); !diags.HasErrors() && isList(v) {
		for _, it := range listItems(a.expr, ctx, listOfStrings, p.rep) {
			it.key, it.keyAt = "", it.at
			items = append(items, it)
		}
	} else {
		items = mapItems(a.expr, ctx, need{"a list of services or a map from aliases to services",
			fmt.Sprintf(`Write %s = ["SERVICE"] or %s = { ALIAS = "SERVICE" }.`, a.name, a.name)}, p.rep)
	}
	var out []link
	for _, it := range items {
		target, ok := it.text(p.rep)
		if !ok {
			continue
		}
		l := link{relation: a.name, alias: located{it.key, it.keyAt}, target: located{target, it.at}}
		if it.key == "" && it.keyAt == it.at {
			l.alias.text = target
		}
		if p.checkAlias(l) {
			out = append(out, l)
		}
	}
	return out
}

func (p *parser) checkAlias(l link) bool {
	if validName(l.alias.text) || hclsyntax.ValidIdentifier(l.alias.text) && len(l.alias.text) <= MaxNameLength || l.alias.text == l.target.text {
		return true // the last: told as an unknown service
	}
	p.rep.fail(l.alias.at, "An alias is 1 to 63 letters, digits, hyphens and underscores.", "%q cannot be an alias", l.alias.text)
	return false
}

func (d *serviceDecl) setLinks() {
	for _, l := range d.links {
		switch l.relation {
		case "depends_on":
			d.DependsOn = setLink(d.DependsOn, l)
		case "connects_to":
			d.ConnectsTo = setLink(d.ConnectsTo, l)
		default:
			d.ActivatesAfter = append(d.ActivatesAfter, l.target.text)
		}
	}
	slices.Sort(d.ActivatesAfter)
}

func setLink(m map[string]string, l link) map[string]string {
	if m == nil {
		m = map[string]string{}
	}
	m[l.alias.text] = l.target.text
	return m
}

// maxInstances bounds what Compose has to place: a thousand nodes is what the design stays comfortable at.
const maxInstances = 10_000

func (p *parser) instances(d *serviceDecl, a *attribute) {
	v, ok := p.value(a)
	if !ok {
		return
	}
	d.instancesAt = a.expr.Range()
	switch {
	case !v.IsNull() && v.Type() == cty.Number:
		if n, ok := p.inRange(v, a, 1, maxInstances); ok {
			d.Instances = n
		}
	case !v.IsNull() && v.Type() == cty.String && v.AsString() == "all":
		d.All, d.Instances = true, 0
	default:
		p.rep.fail(a.expr.Range(), `Write instances = 3, without quotes, or instances = "all".`, `instances must be a number or "all"`)
	}
}

func (p *parser) serviceBlocks(d *serviceDecl, c content) {
	seen := map[string]hcl.Range{}
	for _, b := range c.blocks {
		what := b.kind
		if b.kind == "port" {
			what = fmt.Sprintf("port %q", b.name.text)
		}
		many := b.kind == "constraint" || b.kind == "anti_affinity"
		if !many && !p.firstOf(seen, b, what) {
			continue
		}
		switch b.kind {
		case "constraint":
			p.serviceConstraint(d, b)
		case "resources":
			p.resources(d, b)
		case "anti_affinity":
			p.antiAffinity(d, b)
		case "build":
			p.build(d, b)
		case "port":
			p.port(d, b)
		case "run":
			p.run(d, b)
		case "health":
			p.health(d, b)
		case "state":
			p.state(d, b)
		}
	}
	slices.SortFunc(d.Ports, func(x, y *Port) int { return strings.Compare(x.Name, y.Name) })
}

func (p *parser) build(d *serviceDecl, b block) {
	c := p.content(b.body, schema{what: "build", attrs: []string{"command", "env", "timeout"}})
	d.Build = &Build{Range: b.at, Env: p.mapOf(c.has("env")), Timeout: p.durationOf(c.has("timeout"), time.Second, 24*time.Hour, 10*time.Minute)}
	p.checkEnv(c.has("env"))
	if c.has("command") == nil {
		p.rep.fail(b.at, `Add command = ["make", "install", "DESTDIR=${out}"].`, "build has no command")
	}
	before := len(p.rep.list)
	for _, s := range p.stringsOf(c.has("command"), map[string]cty.Value{"out": cty.StringVal("${out}"), "src": cty.StringVal("${src}")}) {
		d.Build.Command = append(d.Build.Command, s.text)
	}
	if c.has("command") != nil && len(d.Build.Command) == 0 && len(p.rep.list) == before {
		p.emptyCommand(c.has("command"))
	}
}

func (p *parser) emptyCommand(a *attribute) {
	p.rep.fail(a.expr.Range(), `Write the program and its arguments: command = ["bin/web", "--verbose"].`, "command is empty")
}

func (p *parser) port(d *serviceDecl, b block) {
	p.checkName("port", b.name)
	port := &Port{Name: b.name.text, Assign: PortPrivate, Range: b.at}
	d.Ports = append(d.Ports, port)
	c := p.content(b.body, schema{what: fmt.Sprintf("port %q", port.Name), attrs: []string{"assign", "listen"}})
	p.assign(port, c.has("assign"))
	a := c.has("listen")
	switch listen, ok := p.stringOf(a, "service"); {
	case !ok || listen == "service":
	case listen == "agent":
		p.rep.fail(a.expr.Range(), `Remove listen until a later version: the service listens itself.`, `listen = "agent" is not available yet`)
	default:
		p.rep.fail(a.expr.Range(), WayOut(listen, []string{"service"}, ""), "listen cannot be %q", listen)
	}
}

func (p *parser) assign(port *Port, a *attribute) {
	v, ok := p.value(a)
	if !ok {
		return
	}
	switch {
	case !v.IsNull() && v.Type() == cty.Number:
		if n, ok := p.inRange(v, a, 1, 65535); ok {
			port.Assign, port.Number = PortFixed, n
		}
	case !v.IsNull() && v.Type() == cty.String && (v.AsString() == "private" || v.AsString() == "shared"):
		port.Assign = PortAssign(v.AsString())
	default:
		hint := `Write "private", "shared", or a number from 1 to 65535 without quotes.`
		if !v.IsNull() && v.Type() == cty.String {
			if s := suggest(v.AsString(), []string{"private", "shared"}); s != "" {
				hint = fmt.Sprintf("Did you mean %q?", s)
			}
		}
		p.rep.fail(a.expr.Range(), hint, `assign must be "private", "shared" or a number`)
	}
}

func (p *parser) run(d *serviceDecl, b block) {
	c := p.content(b.body, schema{what: "run", attrs: []string{"command", "env", "dir", "user", "grace", "start_deadline"}})
	d.Run = &Run{Range: b.at,
		Grace:     p.durationOf(c.has("grace"), 100*time.Millisecond, time.Hour, 10*time.Second),
		StartWait: p.durationOf(c.has("start_deadline"), 100*time.Millisecond, 24*time.Hour, 30*time.Second),
	}
	if c.has("command") == nil {
		p.rep.fail(b.at, `Add command = ["bin/program", "--port", self.port.http].`, "run of service %q has no command", d.Name)
	}
	d.Run.Command = p.later(d, c.has("command"), wantStrings)
	d.Run.Env = p.later(d, c.has("env"), wantMap)
	d.Run.Dir = p.later(d, c.has("dir"), wantString)
	if user, ok := p.stringOf(c.has("user"), "nobody"); ok {
		d.Run.User = user
		if user == "" || len(user) > 256 || strings.ContainsAny(user, ":/ \t\n") {
			p.rep.fail(c.has("user").expr.Range(), "Give the name of an account on the nodes, or leave user out.", "%q cannot be a user", user)
		}
	}
}

// later keeps an expression for after placement. What it may refer to is checked when all services are known.
func (p *parser) later(d *serviceDecl, a *attribute, kind exprKind) hcl.Expression {
	if a == nil {
		return nil
	}
	d.exprs = append(d.exprs, boundExpr{a.name, kind, a.expr})
	if kind == wantMap {
		p.checkEnv(a)
	}
	return a.expr
}

// checkEnv looks at the names of variables, where they are plain to see.
func (p *parser) checkEnv(a *attribute) {
	if a == nil {
		return
	}
	object, ok := a.expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		return
	}
	for _, it := range object.Items {
		if len(it.KeyExpr.Variables()) > 0 || !checkCost(it.KeyExpr, p.rep) {
			continue
		}
		v, diags := it.KeyExpr.Value(newContext(nil))
		if diags.HasErrors() || v.IsNull() || v.Type() != cty.String || !v.IsKnown() {
			continue // told when the map is evaluated
		}
		if name := v.AsString(); name == "" || strings.ContainsAny(name, "=\x00") {
			p.rep.fail(it.KeyExpr.Range(), "Use letters, digits and underscores.", "%q cannot be the name of an environment variable", name)
		}
	}
}

func (p *parser) health(d *serviceDecl, b block) {
	c := p.content(b.body, schema{what: "health", attrs: []string{"http", "tcp", "command", "port", "interval", "timeout"}})
	h := &Health{Range: b.at, TCP: p.boolOf(c.has("tcp"), false),
		Interval: p.durationOf(c.has("interval"), 100*time.Millisecond, time.Hour, 5*time.Second),
		Timeout:  p.durationOf(c.has("timeout"), 10*time.Millisecond, 10*time.Minute, 2*time.Second),
	}
	d.Health = h
	if http, ok := p.stringOf(c.has("http"), "/healthz"); ok {
		if h.HTTP = http; !strings.HasPrefix(http, "/") || strings.ContainsAny(http, " \r\n\t") {
			p.rep.fail(c.has("http").expr.Range(), `Write the path alone: http = "/healthz". The port is its own attribute.`, "health asks for a path, and %q is none", http)
		}
	}
	h.Command = p.later(d, c.has("command"), wantStrings)
	p.healthWays(c, h)
	if port, ok := p.stringOf(c.has("port"), "http"); ok {
		h.Port, d.healthPort = port, located{port, c.has("port").expr.Range()}
	}
}

func (p *parser) healthWays(c content, h *Health) {
	var ways []*attribute
	for _, name := range []string{"http", "tcp", "command"} {
		if a := c.has(name); a != nil && (name != "tcp" || h.TCP) {
			ways = append(ways, a)
		}
	}
	switch {
	case len(ways) == 0 && c.has("tcp") == nil:
		p.rep.fail(h.Range, `Add one of http = "/healthz", tcp = true and command = [...].`, "health does not say how to ask")
	case len(ways) == 0:
		p.rep.fail(c.has("tcp").nameAt, "Write tcp = true, or remove the block: ports that accept are the default.", "health does not say how to ask")
	case len(ways) > 1:
		p.rep.add(Diagnostic{Summary: fmt.Sprintf("health has both %s and %s", ways[0].name, ways[1].name), Hint: "Keep one of the two.",
			Subject: place(ways[1].nameAt), Related: []Range{noted(ways[0].nameAt, "the other")}})
	}
}

func (p *parser) state(d *serviceDecl, b block) {
	c := p.content(b.body, schema{what: "state", attrs: []string{"managed", "copies", "every", "keep", "keep_daily", "keep_weekly", "keep_monthly", "at_upgrade", "take_over"}})
	d.State = &StatePolicy{Managed: p.boolOf(c.has("managed"), true),
		Copies: p.intOf(c.has("copies"), 1, 100, 1),
		Every:  p.durationOf(c.has("every"), time.Second, 366*24*time.Hour, 0),
		Keep:   p.intOf(c.has("keep"), 1, MaxSnapshots, DefaultKeep),
		Daily:  p.intOf(c.has("keep_daily"), 0, MaxSnapshots, 0), Weekly: p.intOf(c.has("keep_weekly"), 0, MaxSnapshots, 0), Monthly: p.intOf(c.has("keep_monthly"), 0, MaxSnapshots, 0),
		NotAtUpgrade: !p.boolOf(c.has("at_upgrade"), true),
		TakeOver:     p.takeOver(c.has("take_over")),
	}
	if a := c.has("take_over"); a != nil && d.State.TakeOver > 0 && d.State.Copies < 2 {
		p.rep.fail(a.nameAt, "Write copies = 2, so that another node has a copy, and every = \"1h\" or the like, so that it is not old.", "take_over needs copies on other nodes")
	}
	d.stateAt = b.at
}

// takeOver reads a length of time, or "never".
func (p *parser) takeOver(a *attribute) time.Duration {
	if v, ok := p.value(a); ok && v.Type() == cty.String && !v.IsNull() && v.AsString() == "never" {
		return -1
	}
	return p.durationOf(a, time.Second, 30*24*time.Hour, 0)
}

// settings reads what a module is told. The process module has its own blocks for that.
func (p *parser) settings(d *serviceDecl, a *attribute) {
	if a == nil {
		return
	}
	if d.Type == "process" {
		p.rep.fail(a.nameAt, "Say it in run { env = { ... } }.", `type "process" has no settings`)
		return
	}
	object, ok := a.expr.(*hclsyntax.ObjectConsExpr)
	if !ok {
		p.rep.fail(a.expr.Range(), "Write settings = { NAME = VALUE ... }.", "settings must be written as a map")
		return
	}
	d.Settings = map[string]hcl.Expression{}
	for _, it := range object.Items {
		ctx, ok := p.constant(it.KeyExpr, nil)
		if !ok {
			continue
		}
		key, ok := valueOf(it.KeyExpr, ctx, p.rep)
		if !ok {
			continue
		}
		name, ok := item{value: key, at: it.KeyExpr.Range()}.text(p.rep)
		if _, twice := d.Settings[name]; twice {
			p.rep.fail(it.KeyExpr.Range(), "Remove one of the two.", "setting %q is there twice", name)
		} else if ok {
			p.checkSetting(d.Type, name, it.KeyExpr.Range())
			d.Settings[name] = it.ValueExpr
			d.exprs = append(d.exprs, boundExpr{"settings", wantString, it.ValueExpr})
		}
	}
}

// checkSetting refuses a setting that the module would not look at.
func (p *parser) checkSetting(typ, name string, at hcl.Range) {
	m, known := modules[typ]
	if known && !slices.Contains(m.settings, name) {
		p.rep.fail(at, WayOut(name, m.settings, "Remove it: there are none."), "type %q has no setting %q", typ, name)
	}
}

// defaultState gives a service whose type has state the policy that an empty block would give it.
func (p *parser) defaultState(d *serviceDecl) {
	m := modules[d.Type]
	if d.State != nil || !m.stateful || m.stateIn != "" && d.Settings[m.stateIn] == nil {
		return
	}
	d.State, d.stateAt = &StatePolicy{Managed: true, Copies: 1, Keep: DefaultKeep}, d.Range
}
