//go:build linux

package testcluster

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Model is a model of test services, to be written as HCL. What it does not
// know can be added as text.
type Model struct {
	Services []Service
	// Private and Shared are ranges of ports, "8000-8999"; empty: the defaults.
	Private, Shared string
	Strategy        string // of the distribution; empty: the default
	Extra           string // more HCL, at the top level
}

// Service is one service of a Model. The zero value of all but Name is good.
type Service struct {
	Name    string
	Version string // in its environment; a new one makes a new instance
	// Names of other services of the model.
	DependsOn, ConnectsTo, ActivatesAfter []string
	Port                                  string // private (default), shared, a number, or none
	NoHealth                              bool   // ready by its port
	Instances                             string // a number or "all"; empty: the default
	Pin                                   []string
	Exclusive                             bool              // managed state, so at most one anywhere; tells the lock server
	Copies                                int               // of its snapshots; 0: the default
	Modes                                 []string          // of testservice, see there
	Env                                   map[string]string // more environment, as text
	Package                               string            // content of a file in its package: another one is another package
	Extra                                 string            // more HCL, in its block
	Policy                                string            // more HCL, in its state block
}

// portNone is for services that listen nowhere.
const portNone = "none"

// Chain is n services s1, s2 ... of which each depends on the one before.
func Chain(n int) Model {
	var m Model
	for i := range n {
		s := Service{Name: fmt.Sprintf("s%d", i+1)}
		if i > 0 {
			s.DependsOn = []string{fmt.Sprintf("s%d", i)}
		}
		m.Services = append(m.Services, s)
	}
	return m
}

// Random is n services s1, s2 ... each of which depends on up to degree earlier
// ones. The same seed makes the same model.
func Random(n, degree int, seed uint64) Model {
	random := rand.New(rand.NewPCG(seed, 0))
	var m Model
	for i := range n {
		s := Service{Name: fmt.Sprintf("s%d", i+1)}
		for _, j := range random.Perm(i)[:min(i, random.IntN(degree+1))] {
			s.DependsOn = append(s.DependsOn, fmt.Sprintf("s%d", j+1))
		}
		slices.Sort(s.DependsOn)
		m.Services = append(m.Services, s)
	}
	return m
}

// Independent is n services that know nothing of each other.
func Independent(n int) Model {
	var m Model
	for i := range n {
		m.Services = append(m.Services, Service{Name: fmt.Sprintf("s%d", i+1)})
	}
	return m
}

// WithVersion is m with all services, or only the named ones, in that version.
func (m Model) WithVersion(version string, names ...string) Model {
	m.Services = slices.Clone(m.Services)
	for i := range m.Services {
		if len(names) == 0 || slices.Contains(names, m.Services[i].Name) {
			m.Services[i].Version = version
		}
	}
	return m
}

// Change is m with f applied to one service.
func (m Model) Change(name string, f func(*Service)) Model {
	m.Services = slices.Clone(m.Services)
	for i := range m.Services {
		if m.Services[i].Name == name {
			f(&m.Services[i])
		}
	}
	return m
}

// Without is m less some services. Nothing else may depend on them.
func (m Model) Without(names ...string) Model {
	m.Services = slices.DeleteFunc(slices.Clone(m.Services), func(s Service) bool { return slices.Contains(names, s.Name) })
	return m
}

// Write writes the model and its packages to a new directory that goes with the
// test, and returns its path.
func (m Model) Write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := m.WriteTo(dir, TestService(t)); err != nil {
		t.Fatalf("write model: %v", err)
	}
	return dir
}

// WriteTo writes the model and its packages, made from a testservice program, to
// an existing directory.
func (m Model) WriteTo(dir, testservice string) error {
	packages := map[string]bool{}
	for _, s := range m.Services {
		packages[s.Package] = true
	}
	for content := range packages {
		pkg := filepath.Join(dir, packageDir(content))
		if err := copyProgram(testservice, filepath.Join(pkg, "bin", "testservice")); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(pkg, "content"), []byte(content), 0o644); err != nil {
			return err
		}
	}
	for name, content := range map[string]string{"services.hcl": m.services(), "distribution.hcl": m.distribution()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// packageDir is one directory per content, so that a thousand services with the
// same one are one package.
func packageDir(content string) string {
	if content == "" {
		return "package"
	}
	return fmt.Sprintf("package-%x", content)
}

func (m Model) services() string {
	var b strings.Builder
	for _, s := range m.Services {
		m.service(&b, s)
	}
	return b.String()
}

func (m Model) service(b *strings.Builder, s Service) {
	fmt.Fprintf(b, "service %q {\n  type    = \"process\"\n  package = \"./%s\"\n", s.Name, packageDir(s.Package))
	relation(b, "depends_on", s.DependsOn)
	relation(b, "connects_to", s.ConnectsTo)
	relation(b, "activates_after", s.ActivatesAfter)
	if s.Instances != "" {
		fmt.Fprintf(b, "  instances = %s\n", literal(s.Instances))
	}
	if s.Port != portNone {
		port := s.Port
		if port == "" {
			port = "private"
		}
		fmt.Fprintf(b, "  port \"http\" {\n    assign = %s\n  }\n", literal(port))
	}
	fmt.Fprintf(b, "  run {\n    command = [\"bin/testservice\"]\n    env = {\n")
	env := m.env(s)
	for _, k := range sorted(env) {
		fmt.Fprintf(b, "      %s = %s\n", k, env[k])
	}
	b.WriteString("    }\n  }\n")
	if !s.NoHealth && s.Port != portNone {
		b.WriteString("  health {\n    http = \"/healthz\"\n    port = \"http\"\n  }\n")
	}
	if s.Exclusive {
		b.WriteString("  state {\n    managed = true\n")
		if s.Copies > 0 {
			fmt.Fprintf(b, "    copies  = %d\n", s.Copies)
		}
		b.WriteString(s.Policy)
		b.WriteString("  }\n")
	}
	b.WriteString(s.Extra + "}\n\n")
}

// env is the environment of a service, as expressions.
func (m Model) env(s Service) map[string]string {
	modes := slices.Clone(s.Modes)
	if s.NoHealth {
		modes = append(modes, "no-health")
	}
	if s.Exclusive {
		modes = append(modes, "hold")
	}
	env := map[string]string{"JOURNAL": strconv.Quote(ObserverURL), "VERSION": strconv.Quote(version(s))}
	if len(modes) > 0 {
		env["MODES"] = strconv.Quote(strings.Join(modes, ","))
	}
	if s.Port != portNone {
		env["HOST"], env["PORT"] = "self.host", "self.port.http"
	}
	if deps := m.deps(s); deps != "" {
		env["DEPS"] = `"` + deps + `"`
	}
	for k, v := range s.Env {
		env[k] = strconv.Quote(v)
	}
	return env
}

func version(s Service) string {
	if s.Version == "" {
		return "1"
	}
	return s.Version
}

// deps is what testservice reads as DEPS: those dependencies that have a port.
func (m Model) deps(s Service) string {
	var list []string
	for _, d := range m.Services {
		if slices.Contains(s.DependsOn, d.Name) && d.Port != portNone {
			list = append(list, fmt.Sprintf("%[1]s@%[2]s=${dep.%[1]s.host}:${dep.%[1]s.port.http}", d.Name, version(d)))
		}
	}
	return strings.Join(list, " ")
}

func relation(b *strings.Builder, attribute string, names []string) {
	if len(names) == 0 {
		return
	}
	var pairs []string
	for _, n := range names {
		pairs = append(pairs, fmt.Sprintf("%s = %q", n, n))
	}
	fmt.Fprintf(b, "  %s = { %s }\n", attribute, strings.Join(pairs, ", "))
}

// literal is a number as it is and anything else as a string.
func literal(s string) string {
	if _, err := strconv.Atoi(s); err == nil {
		return s
	}
	return strconv.Quote(s)
}

func (m Model) distribution() string {
	var b strings.Builder
	if m.Private != "" || m.Shared != "" {
		b.WriteString("ids \"ports\" {\n")
		for _, r := range [][2]string{{"private", m.Private}, {"shared", m.Shared}} {
			if r[1] != "" {
				fmt.Fprintf(&b, "  %s = %q\n", r[0], r[1])
			}
		}
		b.WriteString("}\n\n")
	}
	pins := map[string]string{}
	for _, s := range m.Services {
		if len(s.Pin) > 0 {
			pins[s.Name] = fmt.Sprintf(`["%s"]`, strings.Join(s.Pin, `", "`))
		}
	}
	if m.Strategy != "" || len(pins) > 0 {
		b.WriteString("distribution {\n")
		if m.Strategy != "" {
			fmt.Fprintf(&b, "  strategy = %q\n", m.Strategy)
		}
		if len(pins) > 0 {
			b.WriteString("  pin = {\n")
			for _, name := range slices.Sorted(maps.Keys(pins)) {
				fmt.Fprintf(&b, "    %s = %s\n", name, pins[name])
			}
			b.WriteString("  }\n")
		}
		b.WriteString("}\n")
	}
	return b.String() + m.Extra
}
