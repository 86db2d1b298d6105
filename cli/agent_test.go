package cli

import (
	"os"
	"path/filepath"
	"slices"
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
	wantContains(t, got.out, "[Service]", "KillMode=process", "Delegate=yes", "Restart=always", "agent --data /srv/isonomia")
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
