package raftfsm

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/isonomia-mesh/isonomia/model"
)

// table of commands against one State: what is refused, with which code.

var applyTime = time.Unix(1_800_000_000, 0).UTC()

func applyNode(i int) model.Node {
	return model.Node{ID: fmt.Sprintf("id-n%d", i), Name: fmt.Sprintf("n%d", i), Key: []byte{byte(i)}, Host: "h"}
}

func applyToken(id string, uses int) model.Token {
	return model.Token{ID: id, Hash: []byte("hash-" + id), UsesLeft: uses, Expires: applyTime.Add(time.Hour), Created: applyTime}
}

func admitBy(token string, i int) model.Admit {
	return model.Admit{Token: token, Secret: []byte("hash-" + token), Node: applyNode(i), Now: applyTime}
}

// applyState has n1 and n2, of which n2 is up in epoch 2, and of system "default" generation 1: rows db, which is
// active on n1, and web, which depends on it and is prepared on n2.
func applyState(t *testing.T) *model.State {
	t.Helper()
	s := &model.State{}
	n1 := applyNode(1)
	n1.Epoch, n1.Server = 1, true
	db := model.RowSpec{Key: "id-n1/db", System: "default", Service: "db", Node: "id-n1", Container: "process"}
	web := model.RowSpec{Key: "id-n2/web", System: "default", Service: "web", Node: "id-n2", Container: "process", DependsOn: []string{db.Key}}
	cmds := []model.Command{
		model.Init{Cluster: model.Cluster{ID: "test"}, Node: n1},
		model.CreateToken{Token: applyToken("one", 1)}, model.CreateToken{Token: applyToken("two", 2)},
		admitBy("one", 2), model.MarkDown{ID: "id-n2", Epoch: 1}, model.MarkUp{ID: "id-n2", Epoch: 2},
		model.Begin{Proposal: "p1", System: "default", Kind: model.KindDeploy},
		model.Part{Proposal: "p1", Added: []model.RowSpec{db, web}, Reserve: []model.Reservation{{System: "default", Service: "db", Resource: "ports", Number: 80}}},
		model.Commit{Proposal: "p1", Parts: 1},
		reportOf(1, 1, db.Key, model.Prepared, 0), reportOf(2, 2, web.Key, model.Prepared, 0), claimOf(1, 1, db.Key, model.Starting, 1),
	}
	s = applyAll(t, s, 10, cmds...)
	return applyAll(t, s, 11, reportOf(1, 1, db.Key, model.Active, 10))
}

func applyAll(t *testing.T, s *model.State, index uint64, cmds ...model.Command) *model.State {
	t.Helper()
	next, res := Apply(s, index, cmds)
	for i := range res {
		if code := codeOf(res[i]); code != model.OK {
			t.Fatalf("command %d, %T: %s %+v", i, cmds[i], code, res[i])
		}
	}
	return next
}

// codeOf is a result's code, or that of its first verdict.
func codeOf(r model.Result) model.Code {
	if r.Code == model.OK && len(r.Verdicts) > 0 {
		return r.Verdicts[0].Code
	}
	return r.Code
}

func claimOf(node int, epoch uint64, row string, phase model.Phase, generation uint64) model.Claims {
	return model.Claims{Node: fmt.Sprintf("id-n%d", node), Epoch: epoch, At: applyTime, Items: []model.Claim{{Row: row, Phase: phase, Generation: generation}}}
}

func reportOf(node int, epoch uint64, row string, phase model.Phase, claim uint64) model.Reports {
	return model.Reports{Node: fmt.Sprintf("id-n%d", node), Epoch: epoch, At: applyTime, Items: []model.Report{{Row: row, Phase: phase, Claim: claim, Reason: "why"}}}
}

func TestApplyRefuses(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	late := admitBy("two", 3)
	late.Now = applyTime.Add(2 * time.Hour)
	wrong := admitBy("two", 3)
	wrong.Secret = []byte("guess")
	named := admitBy("two", 3)
	named.Node.Name = "n1"
	removed := applyAll(t, s, 12, model.RemoveNode{ID: "id-n2"})
	down := applyAll(t, s, 12, model.MarkDown{ID: "id-n1", Epoch: 1})
	pending := applyAll(t, s, 12, model.Begin{Proposal: "p2", System: "default", Base: 1})
	starting := applyAll(t, s, 12, claimOf(2, 2, "id-n2/web", model.Starting, 1))
	stopping := applyAll(t, pending, 13, model.Part{Proposal: "p2", Gone: []string{"id-n1/db", "id-n2/web"}}, model.Commit{Proposal: "p2", Parts: 1},
		claimOf(1, 1, "id-n1/db", model.Stopping, 2))
	crowd := *s
	for i := 3; i <= model.MaxNodes; i++ {
		n := admitBy("two", i).Node
		crowd.Nodes = crowd.Nodes.Set(n.ID, n)
	}
	full := &crowd
	crowded := applyAll(t, pending, 13, model.Part{Proposal: "p2", Reserve: []model.Reservation{{System: "default", Service: "x", Resource: "ports", Node: "id-n1", Number: 80}}})
	for name, k := range map[string]struct {
		s    *model.State
		cmd  model.Command
		want model.Code
	}{
		"anything before init":         {&model.State{}, model.RevokeToken{ID: "x"}, model.ErrInvalid},
		"init again":                   {s, model.Init{Cluster: model.Cluster{ID: "other"}}, model.ErrInitialised},
		"nil":                          {s, nil, model.ErrInvalid},
		"token unknown":                {s, admitBy("none", 3), model.ErrRevoked},
		"token used up":                {s, admitBy("one", 3), model.ErrUsed},
		"token expired":                {s, late, model.ErrExpired},
		"secret":                       {s, wrong, model.ErrSecret},
		"name taken":                   {s, named, model.ErrConflict},
		"key barred":                   {removed, admitBy("two", 2), model.ErrRemoved},
		"too many nodes":               {full, admitBy("two", model.MaxNodes+1), model.ErrLimit},
		"other token of the id":        {s, model.CreateToken{Token: model.Token{ID: "two", Hash: []byte("x")}}, model.ErrConflict},
		"revoke unknown":               {s, model.RevokeToken{ID: "x"}, model.ErrUnknown},
		"update unknown":               {s, model.UpdateNode{ID: "x"}, model.ErrUnknown},
		"down, unknown":                {s, model.MarkDown{ID: "x"}, model.ErrUnknown},
		"down, older epoch":            {s, model.MarkDown{ID: "id-n2", Epoch: 1}, model.ErrEpoch},
		"down twice":                   {down, model.MarkDown{ID: "id-n1", Epoch: 2}, model.ErrEpoch},
		"up while up":                  {s, model.MarkUp{ID: "id-n2", Epoch: 2}, model.ErrEpoch},
		"up, unknown":                  {s, model.MarkUp{ID: "x"}, model.ErrUnknown},
		"remove unknown":               {s, model.RemoveNode{ID: "x"}, model.ErrUnknown},
		"system that is a path":        {s, model.Begin{Proposal: "p9", System: "../x", Kind: model.KindDeploy}, model.ErrInvalid},
		"seal for a stranger":          {s, model.SealCA{Sealed: map[string][]byte{"x": nil}}, model.ErrUnknown},
		"begin on an old base":         {s, model.Begin{Proposal: "p2", System: "default"}, model.ErrStale},
		"begin on a base to come":      {s, model.Begin{Proposal: "p2", System: "default", Base: 2}, model.ErrStale},
		"adapt another intent":         {s, model.Begin{Proposal: "p2", System: "default", Base: 1, Intent: 7}, model.ErrStale},
		"part of nothing":              {s, model.Part{Proposal: "p2"}, model.ErrStale},
		"part too early":               {pending, model.Part{Proposal: "p2", Number: 1}, model.ErrInvalid},
		"commit of nothing":            {s, model.Commit{Proposal: "p2"}, model.ErrStale},
		"commit too early":             {pending, model.Commit{Proposal: "p2", Parts: 1}, model.ErrInvalid},
		"number taken":                 {crowded, model.Commit{Proposal: "p2", Parts: 1}, model.ErrStale},
		"claim, older epoch":           {s, claimOf(2, 1, "id-n2/web", model.Starting, 1), model.ErrEpoch},
		"claim while down":             {down, claimOf(1, 2, "id-n1/db", model.Starting, 1), model.ErrEpoch},
		"claim after removal":          {removed, claimOf(2, 2, "id-n2/web", model.Starting, 1), model.ErrEpoch},
		"claim of no row":              {s, claimOf(2, 2, "id-n2/x", model.Starting, 1), model.ErrUnknown},
		"claim of another's row":       {s, claimOf(1, 1, "id-n2/web", model.Starting, 1), model.ErrUnknown},
		"claim, older generation":      {s, claimOf(2, 2, "id-n2/web", model.Starting, 0), model.ErrStale},
		"claim of no claimable phase":  {s, claimOf(2, 2, "id-n2/web", model.Active, 1), model.ErrInvalid},
		"claim, gate":                  {down, claimOf(2, 2, "id-n2/web", model.Starting, 1), model.ErrGate},
		"claim the stop of what stays": {s, claimOf(1, 1, "id-n1/db", model.Stopping, 1), model.ErrGate},
		"report, older epoch":          {s, reportOf(2, 1, "id-n2/web", model.Failed, 0), model.ErrEpoch},
		"report of no row":             {s, reportOf(2, 2, "id-n2/x", model.Failed, 0), model.ErrUnknown},
		"report of another's row":      {s, reportOf(2, 2, "id-n1/db", model.Failed, 10), model.ErrUnknown},
		"report without a claim":       {s, reportOf(2, 2, "id-n2/web", model.Active, 0), model.ErrPhase},
		"report of another claim":      {s, reportOf(1, 1, "id-n1/db", model.Failed, 9), model.ErrPhase},
		"report of the claim before":   {s, reportOf(2, 2, "id-n2/web", model.Failed, 9), model.ErrPhase},
		"active by another claim":      {starting, reportOf(2, 2, "id-n2/web", model.Active, 11), model.ErrPhase},
		"stopped by another claim":     {stopping, reportOf(1, 1, "id-n1/db", model.Stopped, 10), model.ErrPhase},
		"failed while stopping":        {stopping, reportOf(1, 1, "id-n1/db", model.Failed, 13), model.ErrPhase},
		"prepared once active":         {s, reportOf(1, 1, "id-n1/db", model.Prepared, 0), model.ErrPhase},
		"finish, older generation":     {s, model.Finish{System: "default", Intent: 1, Generation: 0, Outcome: model.Settled}, model.ErrStale},
		"finish, other intent":         {s, model.Finish{System: "default", Intent: 2, Generation: 1, Outcome: model.Settled}, model.ErrStale},
		"finish too early":             {s, model.Finish{System: "default", Intent: 1, Generation: 1, Outcome: model.Settled}, model.ErrGate},
		"retry, older generation":      {s, model.Retry{System: "default"}, model.ErrStale},
		"abort of nothing":             {s, model.Abort{Proposal: "a", System: "other"}, model.ErrPhase},
	} {
		next, res := Apply(k.s, 20, []model.Command{k.cmd})
		if got := codeOf(res[0]); got != k.want {
			t.Errorf("%s: %q (%s), want %q", name, got, res[0].Message, k.want)
		}
		if name != "number taken" && digestAt(t, next) != digestAt(t, k.s) { // that one drops what was pending
			t.Errorf("%s: refused, and yet State changed", name)
		}
	}
}

// digestAt is the digest of a State as if at index 0.
func digestAt(t *testing.T, s *model.State) string {
	t.Helper()
	at0 := *s
	at0.Index = 0
	return fmt.Sprintf("%x", Digest(&at0))
}

// TestApplyTwice: an entry that is applied again, as after a change of leadership, changes nothing more, or only what
// tells one claim from another.
func TestApplyTwice(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	failed := applyAll(t, s, 12, reportOf(1, 1, "id-n1/db", model.Failed, 10))
	deploy := []model.Command{model.Begin{Proposal: "p2", System: "default", Base: 1, Kind: model.KindDeploy},
		model.Part{Proposal: "p2", Gone: []string{"id-n1/db", "id-n2/web"}, Release: []string{"default/db/ports//"}}, model.Commit{Proposal: "p2", Parts: 1}}
	for name, k := range map[string]struct {
		s    *model.State
		cmds []model.Command
	}{
		"token":  {s, []model.Command{model.CreateToken{Token: applyToken("three", 1)}}},
		"admit":  {s, []model.Command{admitBy("two", 3)}},
		"update": {s, []model.Command{model.UpdateNode{ID: "id-n1", Host: "new"}}},
		"begin":  {s, deploy[:1]},
		"parts":  {applyAll(t, s, 12, deploy[0]), deploy[1:2]},
		"deploy": {s, deploy},
		"claim":  {s, []model.Command{claimOf(2, 2, "id-n2/web", model.Starting, 1)}},
		"report": {s, []model.Command{reportOf(1, 1, "id-n1/db", model.Failed, 10)}},
		"retry":  {failed, []model.Command{model.Retry{System: "default", Generation: 1, Rows: []string{"id-n1/db"}}}},
		"abort":  {s, []model.Command{model.Abort{Proposal: "a", System: "default", By: "ann"}}},
		"build":  {s, []model.Command{model.RecordBuild{Build: model.BuildRecord{Input: "i", Output: "o"}}}},
	} {
		once, first := Apply(k.s, 20, k.cmds)
		twice, second := Apply(once, 20, k.cmds)
		if a, b := digestAt(t, once), digestAt(t, twice); a != b {
			t.Errorf("%s: another State the second time", name)
		}
		for i := range first {
			last := i == len(first)-1 // the answer that counts
			if codeOf(first[i]) != model.OK || codeOf(second[i]) != model.OK || last && fmt.Sprint(first[i]) != fmt.Sprint(second[i]) {
				t.Errorf("%s: %+v, then %+v", name, first[i], second[i])
			}
		}
	}
}

// TestAnswersAreRemembered: a proposal that comes again after others is answered as before, until it is forgotten.
func TestAnswersAreRemembered(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	commit := func(id string, base uint64) []model.Command {
		return []model.Command{model.Begin{Proposal: id, System: "default", Base: base, Kind: model.KindDeploy}, model.Part{Proposal: id}, model.Commit{Proposal: id, Parts: 1}}
	}
	for i := range uint64(model.MaxProposals) {
		s = applyAll(t, s, 20+i, commit(fmt.Sprint("q", i), 1+i)...)
		if i == 5 {
			again, res := Apply(s, 100, commit("q0", 1))
			if res[2].Generation != 2 || res[2].Intent != 2 || digestAt(t, again) != digestAt(t, s) {
				t.Errorf("answered %+v", res[2])
			}
		}
	}
	if n := s.Proposals.Len(); n != model.MaxProposals {
		t.Errorf("%d proposals are kept", n)
	}
	if _, res := Apply(s, 9999, commit("p1", 0)); res[0].Code != model.ErrStale {
		t.Errorf("the oldest is still known: %+v", res[0])
	}
}

// TestLostExclusive: an exclusive row that may run behind a cut keeps its place until its node ended it.
func TestLostExclusive(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	old := model.RowSpec{Key: "id-n2/x", System: "x", Service: "x", Node: "id-n2", Container: "process", Exclusive: true}
	s = applyAll(t, s, 20, model.Begin{Proposal: "x1", System: "x", Kind: model.KindDeploy}, model.Part{Proposal: "x1", Added: []model.RowSpec{old}},
		model.Commit{Proposal: "x1", Parts: 1}, reportOf(2, 2, old.Key, model.Prepared, 0), claimOf(2, 2, old.Key, model.Starting, 1), model.MarkDown{ID: "id-n2", Epoch: 2})
	now := old
	now.Key, now.Node = "id-n1/x", "id-n1"
	s = applyAll(t, s, 21, model.Begin{Proposal: "x2", System: "x", Base: 1, Kind: model.KindDeploy}, model.Part{Proposal: "x2", Added: []model.RowSpec{now}, Gone: []string{old.Key}},
		model.Commit{Proposal: "x2", Parts: 1}, reportOf(1, 1, now.Key, model.Prepared, 0))
	start := claimOf(1, 1, now.Key, model.Starting, 2)
	blocked := func(s *model.State) bool {
		_, res := Apply(s, 30, []model.Command{start})
		return codeOf(res[0]) == model.ErrGate
	}
	if !blocked(s) {
		t.Error("it starts while it may run on a node that is out of reach")
	}
	back := applyAll(t, s, 22, model.MarkUp{ID: "id-n2", Epoch: 3})
	if r := back.Rows.At(old.Key); r.Phase != model.Stopping || !blocked(back) {
		t.Errorf("its node is back: %s", r.Phase)
	}
	if stopped := applyAll(t, back, 23, reportOf(2, 3, old.Key, model.Stopped, 22)); stopped.Rows.Has(old.Key) || blocked(stopped) {
		t.Error("it is ended and still in the way")
	}
	if removed := applyAll(t, s, 22, model.RemoveNode{ID: "id-n2"}); removed.Rows.Has(old.Key) || blocked(removed) {
		t.Error("its node was removed and it is still in the way")
	}
}

// TestOldFailureDoesNotBlock: a generation opens although a row of an earlier one failed, not before its own are ready.
func TestOldFailureDoesNotBlock(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	s = applyAll(t, s, 20, reportOf(1, 1, "id-n1/db", model.Failed, 10))
	add := model.RowSpec{Key: "id-n1/new", System: "default", Service: "new", Node: "id-n1"}
	s = applyAll(t, s, 21, model.Begin{Proposal: "p2", System: "default", Base: 1, Intent: 1, Kind: model.KindAdapt},
		model.Part{Proposal: "p2", Added: []model.RowSpec{add}}, model.Commit{Proposal: "p2", Parts: 1})
	if g, _ := s.Generation("default", 2); g.Opened {
		t.Error("it is open before its row is prepared")
	}
	s = applyAll(t, s, 22, reportOf(1, 1, add.Key, model.Prepared, 0))
	if g, _ := s.Generation("default", 2); !g.Opened {
		t.Error("it is not open")
	}
}

// TestOutputIsCut: what is kept of a failure is bounded, its end first.
func TestOutputIsCut(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	rep := reportOf(1, 1, "id-n1/db", model.Failed, 10)
	rep.Items[0].Output = string(bytes.Repeat([]byte("x"), 3*model.MaxOutput)) + "end"
	out := applyAll(t, s, 20, rep).Rows.At("id-n1/db").Output
	if len(out) != model.MaxOutput || out[len(out)-3:] != "end" {
		t.Errorf("%d bytes", len(out))
	}
}

// An adaptation belongs to an intent that has settled: aborting it would take back what was deployed long ago.
func TestAnAdaptationIsNotAborted(t *testing.T) {
	t.Parallel()
	s := applyState(t)
	s = applyAll(t, s, 12, claimOf(2, 2, "id-n2/web", model.Starting, 1))
	s = applyAll(t, s, 13, reportOf(2, 2, "id-n2/web", model.Active, 12))
	s = applyAll(t, s, 14, model.Finish{System: "default", Generation: 1, Intent: 1, Outcome: model.Settled})
	s = applyAll(t, s, 15, model.Begin{Proposal: "adapt", System: "default", Base: 1, Kind: model.KindAdapt, Intent: 1},
		model.Part{Proposal: "adapt", Gone: []string{"id-n2/web"}}, model.Commit{Proposal: "adapt", Parts: 1})
	if in, _ := s.Intent("default", 1); in.Outcome != model.Running {
		t.Fatalf("the adaptation is not under way: %+v", in)
	}
	_, res := Apply(s, 16, []model.Command{model.Abort{Proposal: "stop", System: "default", By: "ann"}})
	if codeOf(res[0]) != model.ErrPhase {
		t.Errorf("%+v", res[0])
	}
}
