//go:build linux

package testcluster

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const goldenServices = `service "a" {
  type    = "process"
  package = "./package"
  port "http" {
    assign = 8080
  }
  run {
    command = ["bin/testservice"]
    env = {
      HOST = self.host
      JOURNAL = "http://10.20.255.254:80"
      MODES = "print=10,no-health"
      PORT = self.port.http
      VERSION = "1"
    }
  }
}

service "b" {
  type    = "process"
  package = "./package-76322e31"
  depends_on = { a = "a", c = "c" }
  connects_to = { d = "d" }
  instances = "all"
  port "http" {
    assign = "private"
  }
  run {
    command = ["bin/testservice"]
    env = {
      DEPS = "a@1=${dep.a.host}:${dep.a.port.http}"
      HOST = self.host
      JOURNAL = "http://10.20.255.254:80"
      MODES = "hold"
      PORT = self.port.http
      VERSION = "2"
      X = "y"
    }
  }
  health {
    http = "/healthz"
    port = "http"
  }
  state {
    managed = true
  }
}

service "c" {
  type    = "process"
  package = "./package"
  run {
    command = ["bin/testservice"]
    env = {
      JOURNAL = "http://10.20.255.254:80"
      VERSION = "1"
    }
  }
  # more
}

`

const goldenDistribution = `ids "ports" {
  private = "9000-9099"
}

distribution {
  strategy = "spread"
  pin = {
    a = ["n1", "n2"]
  }
}
# end
`

func TestModelIsWritten(t *testing.T) {
	m := Model{
		Services: []Service{
			{Name: "a", Port: "8080", NoHealth: true, Modes: []string{"print=10"}, Pin: []string{"n1", "n2"}},
			{Name: "b", Version: "2", DependsOn: []string{"a", "c"}, ConnectsTo: []string{"d"}, Instances: "all", Exclusive: true,
				Env: map[string]string{"X": "y"}, Package: "v2.1"},
			{Name: "c", Port: portNone, Extra: "  # more\n"},
		},
		Private: "9000-9099", Strategy: "spread", Extra: "# end\n",
	}
	dir := m.Write(t)
	for name, want := range map[string]string{
		"services.hcl": goldenServices, "distribution.hcl": goldenDistribution,
		"package/content": "", "package-76322e31/content": "v2.1",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: %v\n%s", name, err, got)
		}
	}
	info, err := os.Stat(filepath.Join(dir, "package/bin/testservice"))
	if err != nil || info.Mode().Perm()&0o111 == 0 {
		t.Error(info, err)
	}
}

func TestModelGeneratorsAndChanges(t *testing.T) {
	chain := Chain(3)
	if s := chain.Services; len(s) != 3 || len(s[0].DependsOn) != 0 || s[2].DependsOn[0] != "s2" {
		t.Errorf("%+v", s)
	}
	if a, b := Random(50, 3, 1).services(), Random(50, 3, 1).services(); a != b {
		t.Error("the same seed makes different models")
	}
	if a, b := Random(50, 3, 1).services(), Random(50, 3, 2).services(); a == b {
		t.Error("different seeds make one model")
	}
	two := chain.WithVersion("2", "s2")
	if chain.Services[1].Version != "" || two.Services[1].Version != "2" || two.Services[0].Version != "" {
		t.Error("WithVersion changed the wrong thing")
	}
	if !strings.Contains(two.services(), "s2@2=${dep.s2.host}") {
		t.Error("a dependent does not name the version that it depends on")
	}
	less := chain.Without("s3").Change("s1", func(s *Service) { s.Pin = []string{"n2"} })
	if len(less.Services) != 2 || len(chain.Services) != 3 || less.distribution() == chain.distribution() {
		t.Errorf("%+v", less)
	}
	if len(Independent(7).Services) != 7 {
		t.Error("not seven")
	}
}
