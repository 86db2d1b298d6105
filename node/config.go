package node

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsimple"

	"github.com/isonomia-mesh/isonomia/model"
)

// Version is this binary's; the build sets it.
var Version = "0.1.0-dev"

// Config is what an operator may choose. The zero value of a field means its default.
type Config struct {
	Dir        string            // data directory; must be given
	Bind       string            // host:port of the mesh's UDP socket; default 0.0.0.0:7878
	Advertise  string            // host:port told to others; default: the bind host, or the address of the default route
	Name       string            // default: the host name
	Bootstrap  bool              // make a new cluster
	CertLife   time.Duration     // with Bootstrap: how long the certificates of its nodes live; default mesh.LeafLife
	Join       []string          // addresses of members
	Token      string            // for joining
	Attributes map[string]string // zone and other facts
	LogFormat  string            // text (default) or json
	Rejoin     bool              // come back after having left
	// StopServices ends services and keeper with the agent.
	StopServices bool
	Log          *slog.Logger  // default: to standard error
	Timing       time.Duration // raft's heartbeat timeout; default 250 ms
}

// DefaultDir is where an agent keeps its data unless told: /var/lib/isonomia for root, else below the user's state
// directory.
func DefaultDir() string {
	if os.Getuid() == 0 {
		return "/var/lib/isonomia"
	}
	if d := os.Getenv("XDG_STATE_HOME"); d != "" {
		return filepath.Join(d, "isonomia")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "."
	}
	return filepath.Join(home, ".local", "state", "isonomia")
}

// configFile is the HCL form of Config.
type configFile struct {
	Data       string            `hcl:"data,optional"`
	Bind       string            `hcl:"bind,optional"`
	Advertise  string            `hcl:"advertise,optional"`
	Name       string            `hcl:"name,optional"`
	Join       []string          `hcl:"join,optional"`
	TokenFile  string            `hcl:"token_file,optional"`
	Attributes map[string]string `hcl:"attributes,optional"`
	LogFormat  string            `hcl:"log_format,optional"`
}

// LoadConfig reads an agent's configuration file (HCL).
func LoadConfig(path string) (Config, error) {
	var f configFile
	text, err := os.ReadFile(path)
	if err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	name := path
	if ext := filepath.Ext(path); ext != ".hcl" && ext != ".json" {
		name += ".hcl" // what it is called does not matter, but to the decoder
	}
	if err := hclsimple.Decode(name, text, nil, &f); err != nil {
		return Config{}, fmt.Errorf("read configuration: %w", err)
	}
	c := Config{Dir: f.Data, Bind: f.Bind, Advertise: f.Advertise, Name: f.Name, Join: f.Join, Attributes: f.Attributes, LogFormat: f.LogFormat}
	if f.TokenFile != "" {
		b, err := os.ReadFile(f.TokenFile)
		if err != nil {
			return Config{}, fmt.Errorf("read token: %w", err)
		}
		c.Token = strings.TrimSpace(string(b))
	}
	return c, nil
}

// maxSocketPath is what the address of a Unix socket holds, less what a temporary name beside it needs, in bytes.
const maxSocketPath = 100

func fitsSocket(path string) error {
	if len(path) <= maxSocketPath {
		return nil
	}
	return fmt.Errorf("the path %s has %d bytes, which is too long for a socket (at most %d): use a shorter data directory (--data)", path, len(path), maxSocketPath)
}

var nodeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// A certificate that lives for less is renewed all the time; one that lives for longer is of no use against lost keys.
const (
	minCertLife = 10 * time.Second
	maxCertLife = 90 * 24 * time.Hour
)

// complete fills in defaults and refuses what cannot work.
func (c Config) complete() (Config, error) {
	if c.Dir == "" {
		return c, errors.New("a data directory is needed (--data)")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return c, fmt.Errorf("resolve %q: %w", c.Dir, err)
	}
	c.Dir = dir
	if c.Bind == "" {
		c.Bind = "0.0.0.0:7878"
	}
	for _, hp := range append([]string{c.Bind}, c.Join...) {
		if _, _, err := net.SplitHostPort(hp); err != nil {
			return c, fmt.Errorf("address %q is not HOST:PORT", hp)
		}
	}
	if host, _, err := net.SplitHostPort(c.Advertise); c.Advertise != "" && (err != nil || host == "" || net.ParseIP(host).IsUnspecified()) {
		return c, fmt.Errorf("address %q is not one that others reach this node at: HOST:PORT (--advertise)", c.Advertise)
	}
	if err := fitsSocket(paths(c.Dir).socket()); err != nil {
		return c, err
	}
	switch {
	case c.CertLife != 0 && !c.Bootstrap:
		return c, errors.New("how long certificates live is said when the cluster is made: --cert-life goes with --bootstrap")
	case c.CertLife != 0 && (c.CertLife < minCertLife || c.CertLife > maxCertLife):
		return c, fmt.Errorf("certificates live from %v to %v, not %v (--cert-life)", minCertLife, maxCertLife, c.CertLife)
	}
	for name := range c.Attributes {
		if strings.TrimSpace(name) == "" {
			return c, errors.New("an attribute needs a name: NAME=VALUE (--attribute)")
		}
	}
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			return c, fmt.Errorf("look up the host name: %w", err)
		}
		c.Name, _, _ = strings.Cut(strings.ToLower(host), ".")
	}
	if !nodeName.MatchString(c.Name) {
		return c, fmt.Errorf("node name %q: use lower-case letters, digits and inner hyphens, at most 63 (--name)", c.Name)
	}
	if c.Log == nil {
		c.Log = newLogger(c.LogFormat)
	}
	return c, nil
}

func newLogger(format string) *slog.Logger {
	opts := &slog.HandlerOptions{Level: slog.LevelInfo}
	if os.Getenv("ISONOMIA_DEBUG") != "" {
		opts.Level = slog.LevelDebug
	}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, opts))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, opts))
}

// paths names the files of a data directory.
type paths string

func (p paths) join(elem ...string) string {
	return filepath.Join(append([]string{string(p)}, elem...)...)
}
func (p paths) lock() string         { return p.join("lock") }
func (p paths) cluster() string      { return p.join("cluster.json") }
func (p paths) raft() string         { return p.join("raft") }
func (p paths) store() string        { return p.join("store") }
func (p paths) packages() string     { return p.join("packages") }
func (p paths) pkg(id string) string { return p.join("packages", id) }
func (p paths) socket() string       { return p.join("api.sock") }
func (p paths) probe() string        { return p.join("disk.probe") }
func (p paths) events() string       { return p.join("events") }
func (p paths) state(system, service string) string {
	return p.join(model.StatePath(system, service))
}
func (p paths) module(typ string) string { return p.join("modules", typ) }
func (p paths) stage(system, service string) string {
	return p.join("stage", system, service)
}
func (p paths) run(row string) string     { return p.join("run", row) }
func (p paths) logs(system string) string { return p.join("logs", system) }
