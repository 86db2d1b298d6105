package cli

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

// eachCommand visits all commands, hidden ones too.
func eachCommand(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		eachCommand(sub, visit)
	}
}

func TestEveryCommandHelps(t *testing.T) {
	t.Parallel()
	root := newRootCommand(newConsole(nil, nil, nil, func(string) string { return "" }))
	var paths []string
	eachCommand(root, func(cmd *cobra.Command) {
		if cmd.Example == "" || cmd.Short == "" {
			t.Errorf("%s has no example or no description", cmd.CommandPath())
		}
		for line := range strings.SplitSeq(cmd.Long+"\n"+cmd.Example, "\n") {
			if len(line) > 80 {
				t.Errorf("%s: line of %d bytes: %s", cmd.CommandPath(), len(line), line)
			}
		}
		paths = append(paths, strings.TrimPrefix(strings.TrimPrefix(cmd.CommandPath(), "isonomia"), " "))
	})
	for _, path := range paths {
		got := invoke(t, nil, append(strings.Fields(path), "--help"))
		got.want(t, 0)
		wantContains(t, got.out, "Examples:", "Usage:")
		for line := range strings.SplitSeq(got.out, "\n") {
			if len(line) > 80 {
				t.Errorf("%s --help: %d columns: %s", path, len(line), line)
			}
		}
		if got.err != "" {
			t.Errorf("%s --help wrote to stderr: %s", path, got.err)
		}
	}
}

func TestHelpNamesAllCommands(t *testing.T) {
	t.Parallel()
	got := invoke(t, nil, nil)
	got.want(t, 0)
	wantContains(t, got.out, "agent", "dev", "token", "members", "plan", "deploy", "undeploy", "status", "history", "rollback",
		"abort", "ports", "logs", "events", "version", "completion")
	if strings.Contains(got.out, "keeper") {
		t.Error("help shows the hidden command")
	}
	wantContains(t, invoke(t, nil, []string{"help", "deploy"}).out, "isonomia deploy [DIR]")
}

func TestWrongUsage(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ line, message, hint string }{
		{"stats", `unknown command "stats"`, `did you mean "status"?`},
		{"depoly", `unknown command "depoly"`, `did you mean "deploy"?`},
		{"frobnicate", `unknown command "frobnicate"`, "isonomia --help"},
		{"token lst", `unknown command "lst"`, `did you mean "list"?`},
		{"token", "token needs one of", "isonomia token --help"},
		{"help stat", `unknown command "stat"`, `did you mean "status"?`},
		{"deploy --yess x", "unknown flag: --yess", "did you mean --yes?"},
		{"status -q", "unknown shorthand flag", "isonomia status --help"},
		{"status x", "takes no argument", "usage: isonomia status"},
		{"deploy a b --yes", "takes one argument, got 2", "usage: isonomia deploy [DIR]"},
		{"token revoke", "exactly one argument", "usage: isonomia token revoke ID"},
		{"logs", "exactly one argument", "usage: isonomia logs SERVICE"},
		{"logs web --since yesterday", "neither a duration nor a time", "--since 15m"},
		{"token create --uses 0", "must be positive", "--uses 3"},
		{"deploy", "no terminal to ask on", "--yes"},
		{"deploy --json .", "no terminal to ask on", "--yes"},
		{"undeploy", "no terminal to ask on", "--yes"},
		{"rollback", "no terminal to ask on", "--yes"},
		{"rollback --to x --yes", "invalid argument", "isonomia rollback --help"},
		{"completion bsh", `no completion for "bsh"`, `did you mean "bash"?`},
		{"members --node https://x", "Unix socket only", "api.sock"},
		{"agent --cert-life 24h", "--cert-life goes with --bootstrap", "when the cluster is founded"},
		{"agent --bootstrap --join a:1", "exclude each other", "founds a new cluster"},
		{"agent --join nohost", "not HOST:PORT", "--join 10.0.0.1:7878"},
		{"agent --token-file /nowhere/t", "read token", "isonomia token create"},
		{"agent --log-format jsn", "not known", `did you mean "json"?`},
		{"dev --nodes 0", "between 1 and", "--nodes 3"},
	} {
		t.Run(tc.line, func(t *testing.T) {
			t.Parallel()
			got := invoke(t, nil, strings.Fields(tc.line))
			got.want(t, 2)
			if strings.Contains(tc.line, "--json") {
				wantContains(t, got.out, `{"error":{"code":"usage"`, tc.message, tc.hint)
				return
			}
			if got.out != "" {
				t.Errorf("wrote to stdout: %s", got.out)
			}
			wantContains(t, got.err, "isonomia: ", tc.message, "hint: ", tc.hint)
		})
	}
}

func TestErrorsUnderJSON(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.refuse("GET /v1/status", api.Error{Code: api.CodeNoQuorum, Message: "no leader", Where: "default"})
	for _, tc := range []struct {
		args string
		node *fakeNode
		code int
		want api.Error
	}{
		{"status --json", n, 3, api.Error{Code: api.CodeNoQuorum, Message: "no leader", Where: "default", Hint: "isonomia status --stale shows what this node knows itself"}},
		{"status --json", nil, 3, api.Error{Code: api.CodeUnreachable, Message: "no node listens on /nowhere/api.sock", Where: "/nowhere/api.sock",
			Hint: "start the agent (isonomia agent), or name another node's socket with --node or $ISONOMIA_NODE"}},
		{"status --jsn --json", nil, 2, api.Error{Code: api.CodeUsage, Message: "unknown flag: --jsn", Hint: "did you mean --json?"}},
		{"stauts --json", nil, 2, api.Error{Code: api.CodeUsage, Message: `unknown command "stauts" for "isonomia"`, Hint: `did you mean "status"?`}},
		{"deploy --json --yes /nowhere", n, 1, api.Error{Code: api.CodeInvalidModel, Message: `directory "/nowhere" does not exist`, Where: "/nowhere"}},
	} {
		got := invoke(t, tc.node, strings.Fields(tc.args))
		got.want(t, tc.code)
		var body struct{ Error map[string]string }
		if err := json.Unmarshal([]byte(got.out), &body); err != nil {
			t.Errorf("%s: %v in %q", tc.args, err, got.out)
		}
		have := api.Error{Code: body.Error["code"], Message: body.Error["message"], Hint: body.Error["hint"], Where: body.Error["where"]}
		if have.Code != tc.want.Code || have.Message != tc.want.Message || have.Hint != tc.want.Hint || have.Where != tc.want.Where {
			t.Errorf("%s: got %+v\nwant %+v", tc.args, have, tc.want)
		}
		if got.err != "" {
			t.Errorf("%s: wrote to stderr: %s", tc.args, got.err)
		}
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for code, want := range map[string]int{
		api.CodeFailed: 1, api.CodeUsage: 2, api.CodeInvalidModel: 1, api.CodeStale: 1, api.CodeNoQuorum: 3, api.CodeNotFound: 1,
		api.CodeConflict: 1, api.CodeUnreachable: 3, api.CodeBuildFailed: 1, api.CodeRolledBack: 4, api.CodeAborted: 1, api.CodeDenied: 1,
		"from the future": 1,
	} {
		if got := exitCode(code); got != want {
			t.Errorf("%s: %d, want %d", code, got, want)
		}
	}
}

func TestTerminalIsNotDriven(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.refuse("GET /v1/status", api.Error{Code: api.CodeFailed, Message: "bad \x1b[2J\x07name"})
	got := invoke(t, n, []string{"status"})
	if strings.ContainsAny(got.err, "\x1b\x07") {
		t.Errorf("control characters got through: %q", got.err)
	}
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := invoke(t, nil, []string{"completion", shell})
		got.want(t, 0)
		wantContains(t, got.out, "isonomia", "__complete")
	}
}

func TestCompletionAsksTheNode(t *testing.T) {
	t.Parallel()
	n := newFakeNode(t)
	n.answer("GET /v1/status", api.Status{System: "default", Instances: []api.Instance{{Service: "web", Node: "n1"}, {Service: "staff", Node: "n1"}, {Service: "web", Node: "n2"}}})
	n.answer("GET /v1/members", api.Members{Members: []api.Member{{Name: "n1"}, {Name: "n2"}}})
	n.answer("GET /v1/history", []api.HistoryEntry{{Generation: 3, Kind: "deploy", Outcome: "settled"}, {Generation: 4, Kind: "rollback", Outcome: "running"}})
	n.answer("GET /v1/tokens", []api.Token{{ID: "abc"}})
	for line, want := range map[string][]string{
		"logs |":                {"staff", "web"},
		"undeploy |":            {"staff", "web"},
		"undeploy web |":        {"staff"},
		"logs web |":            {},
		"logs --on |":           {"n1", "n2"},
		"rollback --to |":       {"4\trollback, running", "3\tdeploy, settled"},
		"token revoke |":        {"abc"},
		"completion |":          {"bash", "zsh", "fish", "powershell"},
		"token create --role |": {"node"},
		"status |":              {},
	} {
		args := append([]string{"__complete"}, strings.Fields(strings.TrimSuffix(line, "|"))...)
		got := invoke(t, n, append(args, ""))
		got.want(t, 0)
		lines := strings.Split(strings.TrimSpace(got.out), "\n")
		if have := strings.Join(lines[:len(lines)-1], ","); have != strings.Join(want, ",") {
			t.Errorf("%s: got %q, want %q", line, have, want)
		}
	}
	got := invoke(t, nil, []string{"__complete", "logs", ""})
	got.want(t, 0)
}

func TestNearest(t *testing.T) {
	t.Parallel()
	names := []string{"status", "staffservice", "deploy", "n1", "n2"}
	for word, want := range map[string]string{"stauts": "status", "staf": "staffservice", "dploy": "deploy", "xyzzy": "", "n3": "n1", "": ""} {
		if got := nearest(word, names); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}
