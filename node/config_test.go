package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	token := write(t, filepath.Join(dir, "token"), " iso1.secret\n")
	got, err := LoadConfig(write(t, filepath.Join(dir, "agent.hcl"), `
data       = "/srv/isonomia"
bind       = "0.0.0.0:7000"
advertise  = "10.0.0.1:7000"
name       = "m1"
join       = ["10.0.0.2:7000", "m3:7000"]
token_file = "`+token+`"
attributes = { zone = "a", disk = "ssd" }
log_format = "json"
`))
	want := Config{Dir: "/srv/isonomia", Bind: "0.0.0.0:7000", Advertise: "10.0.0.1:7000", Name: "m1", Join: []string{"10.0.0.2:7000", "m3:7000"},
		Token: "iso1.secret", Attributes: map[string]string{"zone": "a", "disk": "ssd"}, LogFormat: "json"}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(Config{})); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if got, err := LoadConfig(write(t, filepath.Join(dir, "empty.hcl"), "")); err != nil || !cmp.Equal(got, Config{}, cmpopts.IgnoreUnexported(Config{})) {
		t.Error(got, err)
	}
}

func TestLoadConfigNamesTheMistake(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, tc := range map[string]struct{ text, says string }{
		"typo.hcl":   {"nmae = \"m1\"\n", "typo.hcl:1"},
		"type.hcl":   {"join = \"m1:7878\"\n", "type.hcl:1"},
		"syntax.hcl": {"name = \"m1\n", "syntax.hcl:1"},
		"token.hcl":  {"token_file = \"/does/not/exist\"\n", "read token"},
	} {
		if _, err := LoadConfig(write(t, filepath.Join(dir, name), tc.text)); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := LoadConfig(filepath.Join(dir, "none.hcl")); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestCompleteConfig(t *testing.T) {
	t.Parallel()
	got, err := Config{Dir: "some/where"}.complete()
	if err != nil || !filepath.IsAbs(got.Dir) || got.Bind != "0.0.0.0:7878" || !nodeName.MatchString(got.Name) || got.Log == nil {
		t.Errorf("%+v, %v", got, err)
	}
	for name, tc := range map[string]struct {
		cfg  Config
		says string
	}{
		"directory":  {Config{}, "--data"},
		"bind":       {Config{Dir: "d", Bind: "7878"}, `"7878" is not HOST:PORT`},
		"join":       {Config{Dir: "d", Join: []string{"m1"}}, `"m1" is not HOST:PORT`},
		"upper case": {Config{Dir: "d", Name: "M1"}, `"M1"`},
		"slash":      {Config{Dir: "d", Name: "a/b"}, `"a/b"`},
		"hyphen":     {Config{Dir: "d", Name: "a-"}, `"a-"`},
		"short life": {Config{Dir: "d", Bootstrap: true, CertLife: time.Second}, "certificates live from 10s"},
		"long life":  {Config{Dir: "d", Bootstrap: true, CertLife: 1e6 * time.Hour}, "certificates live from 10s"},
		"late life":  {Config{Dir: "d", CertLife: time.Hour}, "--cert-life goes with --bootstrap"},
		"long":       {Config{Dir: "d", Name: strings.Repeat("a", 64)}, "at most 63"},
	} {
		if _, err := tc.cfg.complete(); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestOwnHost(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]Config{
		"10.0.0.1": {Bind: "10.0.0.1:7878"}, "192.0.2.7": {Bind: "10.0.0.1:7878", Advertise: "192.0.2.7:1"}, "m1.example": {Bind: "0.0.0.0:7878", Advertise: "m1.example:1"},
		"2001:db8::1": {Bind: "[2001:db8::1]:7878"},
	} {
		if got := ownHost(cfg); got != want {
			t.Errorf("%+v: %s", cfg, got)
		}
	}
	if got := ownHost(Config{Bind: "0.0.0.0:7878"}); got == "" || got == "0.0.0.0" {
		t.Errorf("got %q", got)
	}
}
