package cli

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestAgentConfig(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agent.hcl")
	text := "data = \"/srv/a\"\nbind = \"10.0.0.1:1\"\nname = \"from-file\"\njoin = [\"h:1\"]\nattributes = { zone = \"a\" }\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	f := &agentFlags{config: file, data: "/default", bind: "10.0.0.2:2", name: "", logFormat: "text", token: "t", join: []string{"i:1"}, stopServices: true}
	cfg, err := f.nodeConfig(func(flag string) bool { return flag == "bind" })
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Dir != "/srv/a" || cfg.Bind != "10.0.0.2:2" || cfg.Name != "from-file" || cfg.Token != "t" || !slices.Equal(cfg.Join, []string{"i:1"}) ||
		cfg.Attributes["zone"] != "a" || cfg.LogFormat != "text" || !cfg.StopServices || cfg.Bootstrap {
		t.Errorf("got %+v", cfg)
	}
}

func TestAgentConfigThatIsWrong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "agent.hcl")
	if err := os.WriteFile(file, []byte("bnd = \"x\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := invoke(t, nil, []string{"agent", "--config", file})
	got.want(t, 2)
	wantContains(t, got.err, "agent.hcl", "bnd")
}

func TestPrintUnit(t *testing.T) {
	t.Parallel()
	got := invoke(t, nil, []string{"agent", "--print-unit", "--data", "/srv/isonomia"})
	got.want(t, 0)
	wantContains(t, got.out, "[Service]", "KillMode=process", "Delegate=yes", "Restart=always", "agent --data /srv/isonomia\n")

	got = invoke(t, nil, []string{"agent", "--print-unit", "--bind", "10.0.0.2:7878", "--bootstrap", "--attribute", "zone=a b", "--stop-services"})
	got.want(t, 0)
	wantContains(t, got.out, ` --bind=10.0.0.2:7878 "--attribute=zone=a b" --stop-services=true`+"\n")
}

// What cannot be meant is wrong usage, wherever it stands, and nothing is made for it.
func TestAgentThatCannotBeMeant(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "agent.hcl")
	if err := os.WriteFile(file, []byte("bind = \"junk\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	for _, tc := range []struct {
		args []string
		says string
	}{
		{[]string{"--config", file}, `"junk" is not HOST:PORT`},
		{[]string{"--config", filepath.Join(dir, "none")}, "none: no such file"},
		{[]string{"--advertise", "0.0.0.0:7878"}, "not one that others reach this node at"},
		{[]string{"--attribute", "=x"}, "needs a name"},
		{[]string{"--data", filepath.Join(data, strings.Repeat("x", 100))}, "too long for a socket"},
	} {
		got := invoke(t, nil, append([]string{"agent", "--bootstrap", "--data", data}, tc.args...))
		got.want(t, 2)
		wantContains(t, got.err, tc.says)
	}
	if _, err := os.Stat(data); err == nil {
		t.Error("a data directory was made")
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(" from-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(string) string { return "from-env" }
	for _, tc := range []struct{ flag, file, want string }{{"flag", "", "flag"}, {"", file, "from-file"}, {"", "", "from-env"}} {
		if got, err := readToken(tc.flag, tc.file, env); got != tc.want || err != nil {
			t.Errorf("%+v: %q, %v", tc, got, err)
		}
	}
	if _, err := readToken("flag", file, env); err == nil {
		t.Error("two tokens were taken")
	}
}
