package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// watchPatience is how long a watcher waits for its node to come back before it gives up.
const watchPatience = 30 * time.Second

// errTimeout is the cause of the end of --timeout.
var errTimeout = errors.New("timeout")

// watcher follows an intent to its end and shows what happens.
type watcher struct {
	*console
	client     *api.Client
	system     string
	intent     uint64
	generation uint64
	kind       string

	track   tracker
	retreat bool // the end of the intent was announced, its rollback is being watched
}

// follow watches until the intent has settled. Its error says why it has not: rolled back, aborted, superseded,
// the timeout, Ctrl-C, or a node that cannot be reached any more. timeout 0 means none.
func (w *watcher) follow(ctx context.Context, timeout time.Duration) (api.WatchEvent, error) {
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout, errTimeout)
		defer cancel()
	}
	started := w.now()
	w.track.brief = w.live && !w.json
	show := newDisplay(w.console)
	bar := show.meter(map[string]string{deployKind: "deploying", undeployKind: "undeploying", rollbackKind: "rolling back", restoreKind: "restoring"}[w.kind])
	last, err := w.stream(ctx, show, bar)
	bar.end()
	show.close()
	switch {
	case errors.Is(context.Cause(ctx), errTimeout):
		return last, &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("generation %d has not settled within %s; it goes on", w.generation, timeout),
			Hint: "isonomia status shows how far it is, isonomia abort ends it"}
	case ctx.Err() != nil:
		return last, &api.Error{Code: api.CodeFailed, Message: fmt.Sprintf("stopped watching; generation %d is still being deployed", w.generation),
			Hint: "isonomia status shows how far it is, isonomia abort ends it"}
	case err != nil:
		return last, err
	}
	return last, w.verdict(last, w.now().Sub(started))
}

// stream reads events until the last one, over as many connections as it takes.
func (w *watcher) stream(ctx context.Context, show display, bar meter) (last api.WatchEvent, err error) {
	again := newRetry(w.patience(watchPatience))
	broken := false
	for {
		for ev, watchErr := range w.client.Watch(ctx, w.system, w.intent) {
			if err = watchErr; err != nil {
				break
			}
			if broken {
				show.line("The node answers again.")
			}
			broken, again = false, newRetry(w.patience(watchPatience))
			last = ev
			w.show(ev, show, bar)
			if ev.Done {
				return last, nil
			}
		}
		if code := api.CodeOf(err); code != api.CodeUnreachable && code != api.CodeNoQuorum {
			return last, err
		}
		if !broken && ctx.Err() == nil {
			show.line(explain(err).Message + "; trying again. The deployment goes on without it.")
			broken = true
		}
		if !again.wait(ctx) {
			return last, watchElsewhere(err)
		}
	}
}

// watchElsewhere is the error of a watcher whose node stays away: the others know as much.
func watchElsewhere(err error) error {
	e := *explain(err)
	e.Message += "; the deployment goes on without it"
	e.Hint = "watch from another node: isonomia status --node SOCKET"
	return &e
}

// show prints what is new in an event and moves the bar.
func (w *watcher) show(ev api.WatchEvent, show display, bar meter) {
	for _, line := range w.track.observe(ev.Status, w.paint()) {
		show.line(line)
	}
	if !w.retreat && (ev.Outcome == "rolled_back" || ev.Outcome == "aborted") {
		w.retreat = true
		show.line(w.paint().red(strings.ReplaceAll(ev.Outcome, "_", " ")+": "+oneLine(ev.Why)) + "; going back to what ran before.")
	}
	done, total, now := progressOf(ev.Status)
	bar.set(int64(done), int64(total), now)
}

// progressOf counts what of a status is as it should be: active instances and obsolete ones that are gone. The note
// names what is under way.
func progressOf(s api.Status) (done, total int, note string) {
	var doing []string
	for _, in := range s.Instances {
		total++
		switch {
		case !in.Obsolete && (in.Phase == "active" || in.Phase == "sleeping"):
			done++
		case in.Phase == "starting" || in.Phase == "stopping":
			doing = append(doing, in.Phase+" "+oneLine(in.Service))
		}
	}
	return done, total, strings.Join(doing, ", ")
}

// verdict turns the last event into words, and into an error unless the intent settled.
func (w *watcher) verdict(last api.WatchEvent, took time.Duration) error {
	switch last.Outcome {
	case "settled":
		w.sayf("%s: generation %d, %s, in %s.", w.paint().green("Settled"), last.Status.Generation,
			count(activeInstances(last.Status), "active instance"), took.Round(100*time.Millisecond))
		return nil
	case "rolled_back":
		if last.Status.Outcome == "stuck" {
			last.Why = strings.TrimPrefix(last.Why+"; going back is stuck too and being retried", "; ")
		}
		w.track.blame(last)
		return w.track.failure(api.CodeRolledBack, w.kind+" was rolled back", last.Why)
	case "aborted":
		return &api.Error{Code: api.CodeAborted, Message: reasoned("the "+w.kind+" was aborted", last.Why)}
	case "superseded":
		return &api.Error{Code: api.CodeConflict, Message: reasoned("another deployment replaced this one", last.Why), Hint: "see isonomia history"}
	case "stuck":
		return w.track.failure(api.CodeFailed, w.kind+" is stuck and being retried", last.Why)
	}
	return &api.Error{Code: api.CodeFailed, Message: reasoned("the "+w.kind+" ended as "+last.Outcome, last.Why)}
}

func reasoned(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

func activeInstances(s api.Status) int {
	n := 0
	for _, in := range s.Instances {
		if !in.Obsolete && (in.Phase == "active" || in.Phase == "sleeping") {
			n++
		}
	}
	return n
}

// tracker compares one status with the next. The zero value is ready.
type tracker struct {
	brief  bool // no lines for what is under way as it should be: a bar names it
	rows   map[string]api.Instance
	failed *api.Instance // the newest that gave up; it may be gone from the status by the time the verdict is known
}

// observe returns a line for each instance whose phase changed. The first status is where it begins: of it only
// what is neither planned, prepared nor as it should be is worth a line.
func (t *tracker) observe(s api.Status, p painter) []string {
	var lines []string
	first, rows := t.rows == nil, make(map[string]api.Instance, len(s.Instances))
	for _, in := range s.Instances {
		// Not the generation: an unchanged instance is the same row in the next one.
		key := in.Row + "\x00" + in.Service + "\x00" + in.Node
		rows[key] = in
		before, known := t.rows[key]
		changed := before.Phase != in.Phase || before.Attempts != in.Attempts
		quiet := t.brief && underWay(in) || in.Phase == "planned" || in.Phase == "prepared" || first && (in.Phase == "active" || in.Phase == "sleeping" || in.Phase == "stopped")
		if (!known || changed) && !quiet {
			lines = append(lines, phaseLine(in, p))
		}
		if in.Phase == "failed" || in.Phase == "lost" && t.failed == nil {
			t.failed = &in
		}
	}
	for key, in := range t.rows {
		if _, there := rows[key]; !there && (in.Phase == "active" || in.Phase == "sleeping" || in.Phase == "stopping") {
			in.Phase, in.Reason = "stopped", ""
			lines = append(lines, phaseLine(in, p))
		}
	}
	t.rows = rows
	return lines
}

// underWay is a phase that passes by itself, entered for the first time.
func underWay(in api.Instance) bool {
	return (in.Phase == "starting" || in.Phase == "stopping") && in.Attempts <= 1
}

func phaseLine(in api.Instance, p painter) string {
	phase, paint := shownPhase(in), p.byPhase(in)
	if paint != nil {
		phase = paint(phase)
	}
	line := fmt.Sprintf("  %s on %s: %s", oneLine(in.Service), oneLine(in.Node), phase)
	if in.Reason != "" && in.Phase != "active" {
		line += ", " + oneLine(in.Reason)
	}
	if in.Attempts > 1 && !strings.Contains(line, "attempt") {
		line += fmt.Sprintf(" (attempt %d)", in.Attempts)
	}
	return line
}

// blame takes the node's word for what failed: a row that gave up may be gone before any status showed it.
func (t *tracker) blame(last api.WatchEvent) {
	if last.Service != "" {
		t.failed = &api.Instance{Service: last.Service, Node: last.Node, Reason: last.Why, Output: last.Output}
	}
}

// failure is the error of a deployment that did not succeed: what failed, where, why and its last words.
func (t *tracker) failure(code, what, why string) error {
	e := api.Error{Code: code, Message: reasoned(what, why), Hint: "see isonomia history and isonomia logs"}
	in := t.failed
	if in == nil {
		return &e
	}
	if why == "" {
		e.Message = reasoned(what, in.Reason)
	}
	e.Where = in.Service + " on " + in.Node
	e.Hint = "see isonomia logs " + in.Service
	return &failedService{problem: e, output: in.Output}
}
