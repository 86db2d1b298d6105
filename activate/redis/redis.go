// Package redis is the module redis: a Redis server of the component's own, run as a process, whose dataset is the state.
//
// The server binds the host and the only port of the instance. Settings: `redisPassword` (none), `redisPrograms`, where
// to look for redis-server first. *.conf of the package's root are included in its configuration, in the order of names;
// a *.rdb there is the initial dataset. The package says for itself whom to run as; the outputs are none but its port.
package redis

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/isonomia-mesh/isonomia/activate"
	"github.com/isonomia-mesh/isonomia/activate/keeper"
	"github.com/isonomia-mesh/isonomia/activate/ledger"
	"github.com/isonomia-mesh/isonomia/activate/place"
	"github.com/isonomia-mesh/isonomia/activate/process"
	"github.com/isonomia-mesh/isonomia/activate/tool"
)

const (
	// Type is the module's name in models.
	Type = "redis"

	rdbFile    = "dump.rdb"
	maxConfig  = 1 << 20       // bytes of a *.conf file
	maxInitial = 16 << 30      // bytes of a *.rdb file
	saveWithin = 6 * time.Hour // for writing the dataset
	pauseFor   = 10 * time.Minute
	addressKey = "address" // of a mark's settings: where the server of the row answers
)

// Module runs Redis servers. A dataset is in in.StateDir/live while its server may run.
type Module struct {
	ledger.Directory
	run *process.Module
}

var _ activate.Stateful = (*Module)(nil)

// New makes the module. What it remembers is in dir; servers run under k.
func New(dir string, k *keeper.Client, log *slog.Logger) *Module {
	return &Module{ledger.Directory{Ledger: ledger.Open(dir)}, process.NewFor(Type, k, log)}
}

// address is where the server answers.
func address(in activate.Instance) (string, error) {
	if len(in.Spec.Ports) != 1 {
		return "", fmt.Errorf("redis %q: it needs one port, and has %d", in.Service, len(in.Spec.Ports))
	}
	host := in.Spec.Host
	if host == "" {
		host = "127.0.0.1"
	}
	for _, port := range in.Spec.Ports {
		return net.JoinHostPort(host, strconv.Itoa(port)), nil
	}
	return "", nil
}

// program is the instance as a process: its directory is the state's, and no other of ours.
func program(in activate.Instance) (activate.Instance, error) {
	server, err := tool.Find("redis-server", in.Settings["redisPrograms"])
	if err != nil {
		return in, err
	}
	in.Spec.Command, in.Spec.Dir, in.Spec.Health = []string{server, configPath(in)}, "/", nil
	in.StateDir = place.Place(in.StateDir).Live()
	return in, nil
}

func configPath(in activate.Instance) string { return filepath.Join(in.StateDir, "redis.conf") }

// Prepare looks for the program, the package's files and the port.
func (m *Module) Prepare(ctx context.Context, in activate.Instance) error {
	if _, err := address(in); err != nil {
		return err
	}
	if _, err := config(in); err != nil {
		return err
	}
	if err := admits(in); err != nil {
		return err
	}
	if _, err := initial(in); err != nil {
		return err
	}
	p, err := program(in)
	if err != nil {
		return err
	}
	return m.run.Prepare(ctx, p)
}

// admits returns an error if the server would turn its clients away: since version 7 it does, if it has no password, with
// all that do not come from its own machine's loopback device.
func admits(in activate.Instance) error {
	host := net.ParseIP(in.Spec.Host)
	own, err := ledger.PackageFiles(in, ".conf", maxConfig)
	if err != nil || in.Settings["redisPassword"] != "" || len(own) > 0 || in.Spec.Host == "localhost" || host != nil && host.IsLoopback() {
		return err
	}
	return fmt.Errorf("redis %q: without a password it accepts connections from its own machine only: set redisPassword, or say \"protected-mode no\" in a *.conf of the package", in.Service)
}

// config is the server's configuration. The package's comes first: the state's place and the address are ours.
func config(in activate.Instance) (string, error) {
	included, err := ledger.PackageFiles(in, ".conf", maxConfig)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	// Unless the package says otherwise, a crash of the server loses a minute at most.
	b.WriteString("save 60 1\n")
	for _, path := range included {
		fmt.Fprintf(&b, "include %s\n", quote(path))
	}
	// A server that writes its title over its environment would lose the mark by which the keeper knows it.
	b.WriteString("set-proc-title no\ndaemonize no\nsupervised no\nlogfile \"\"\nappendonly no\nrdbcompression no\nrdbchecksum yes\nunixsocket \"\"\n")
	fmt.Fprintf(&b, "dbfilename %s\ndir %s\n", rdbFile, quote(place.Place(in.StateDir).Live()))
	if in.Spec.Host != "" {
		fmt.Fprintf(&b, "bind %s\n", quote(in.Spec.Host))
	}
	for _, port := range in.Spec.Ports {
		fmt.Fprintf(&b, "port %d\n", port)
	}
	if p := in.Settings["redisPassword"]; p != "" {
		fmt.Fprintf(&b, "requirepass %s\n", quote(p))
	}
	return b.String(), nil
}

// quote quotes a value of the configuration: any bytes.
func quote(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		fmt.Fprintf(&b, `\x%02x`, c)
	}
	return `"` + b.String() + `"`
}

// initial is the package's dataset, or "".
func initial(in activate.Instance) (string, error) {
	files, err := ledger.PackageFiles(in, ".rdb", maxInitial)
	if err != nil || len(files) == 0 {
		return "", err
	}
	if len(files) > 1 {
		return "", fmt.Errorf("package of %q: %d datasets (*.rdb), one at most can be loaded", in.Service, len(files))
	}
	return files[0], nil
}

// Create makes the dataset: the package's, or an empty one.
func (m *Module) Create(_ context.Context, in activate.Instance) error {
	return m.MakeAbsent(in, func(dir string) error {
		from, err := initial(in)
		if err := errors.Join(err, os.Mkdir(dir, 0o700)); err != nil {
			return err
		}
		path := filepath.Join(dir, rdbFile)
		if from == "" {
			return os.WriteFile(path, emptyDataset(), 0o600)
		}
		if _, err := examine(from); err != nil {
			return err
		}
		return errors.Join(place.CopyFile(from, path), os.Chmod(path, 0o600))
	})
}

// Start runs the server and waits until it has loaded the dataset. A server of another row of the component is stopped
// first.
func (m *Module) Start(ctx context.Context, in activate.Instance) error {
	addr, err := address(in)
	if err != nil {
		return err
	}
	if err := m.endOthers(ctx, in); err != nil {
		return err
	}
	if err := m.Create(ctx, in); err != nil {
		return err
	}
	p, err := program(in)
	if err != nil {
		return err
	}
	if err := writeConfig(in); err != nil {
		return err
	}
	if err := m.Open(marked(in, addr)); err != nil {
		return err
	}
	if err := m.run.Start(ctx, p); err != nil {
		return err
	}
	return m.loaded(ctx, in, addr)
}

// marked is the instance as the mark has it.
func marked(in activate.Instance, addr string) activate.Instance {
	settings := map[string]string{addressKey: addr, "redisPassword": in.Settings["redisPassword"]}
	in.Settings = settings
	return in
}

func writeConfig(in activate.Instance) error {
	text, err := config(in)
	if err != nil {
		return err
	}
	owner, err := place.OwnerOf(in.Spec)
	if err != nil {
		return err
	}
	path := configPath(in)
	if err := place.WriteFile(path, []byte(text), 0o640); err != nil {
		return err
	}
	if owner != nil {
		return os.Chown(path, 0, owner.GID)
	}
	return nil
}

// endOthers ends the servers of other rows of the component.
func (m *Module) endOthers(ctx context.Context, in activate.Instance) error {
	entries, err := m.Active()
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.StateDir != in.StateDir || e.ID == in.ID {
			continue
		}
		other := e.Instance()
		other.Spec = activate.Spec{Grace: in.Spec.Grace}
		if err := m.end(ctx, other, e.Settings[addressKey]); err != nil {
			return err
		}
	}
	return nil
}

// loaded waits until the server answers: it accepts connections while it loads.
func (m *Module) loaded(ctx context.Context, in activate.Instance, addr string) error {
	end := time.Now().Add(in.Spec.ReadyWithin())
	for wait := 5 * time.Millisecond; ; wait = min(2*wait, time.Second) {
		err := ping(ctx, addr, in.Settings["redisPassword"])
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			p, perr := program(in)
			return errors.Join(&activate.NotReadyError{Within: in.Spec.ReadyWithin(), Last: err.Error()}, perr, m.run.Stop(ctx, p))
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func ping(ctx context.Context, addr, password string) error {
	c, err := dial(ctx, addr, password)
	if err != nil {
		return err
	}
	defer c.close()
	_, err = c.do("PING")
	return err
}

// Observe returns the servers of this module.
func (m *Module) Observe(ctx context.Context) ([]activate.Running, error) { return m.run.Observe(ctx) }

// Watch calls changed whenever a server of this module starts or ends.
func (m *Module) Watch(ctx context.Context, changed func()) error { return m.run.Watch(ctx, changed) }

// Stop lets nobody write any more, has the server save its dataset if that changed, and ends it.
func (m *Module) Stop(ctx context.Context, in activate.Instance) error {
	addr, _ := address(in) // of one that is not known any more there is none: a signal ends it, and has it save
	if err := m.end(ctx, in, addr); err != nil {
		return err
	}
	if own, err := m.Owns(in); err != nil || !own {
		return err
	}
	return m.Directory.Stop(ctx, in)
}

// end ends the server of a row. One that cannot save its dataset goes on, and its clients too.
func (m *Module) end(ctx context.Context, in activate.Instance, addr string) error {
	runs, err := m.runs(ctx, in)
	if err != nil {
		return err
	}
	if runs {
		if err := m.settle(ctx, in, addr); err != nil {
			return fmt.Errorf("stop %q: %w", in.Service, err)
		}
	}
	in.StateDir = place.Place(in.StateDir).Live()
	return m.run.Stop(ctx, in)
}

func (m *Module) runs(ctx context.Context, in activate.Instance) (bool, error) {
	list, err := m.run.Observe(ctx)
	for _, r := range list {
		if r.ID == in.ID && r.Exit == nil && !r.Ending {
			return true, nil
		}
	}
	return false, err
}

// settle pauses all writes, saves what is not saved, and tells the server to end as it is. What cannot be asked is ended
// by a signal, on which it saves by itself.
func (m *Module) settle(ctx context.Context, in activate.Instance, addr string) error {
	c, err := dial(ctx, addr, in.Settings["redisPassword"])
	if err != nil {
		return nil // TERM makes it save
	}
	defer c.close()
	if _, err := c.do("CLIENT", "PAUSE", strconv.FormatInt(pauseFor.Milliseconds(), 10), "WRITE"); err != nil {
		return nil // it is older than that, or loading: TERM makes it save
	}
	if err := c.saved(ctx, "SAVE"); err != nil {
		_, unpausing := c.do("CLIENT", "UNPAUSE")
		return errors.Join(err, unpausing)
	}
	_, _ = c.do("SHUTDOWN", "NOSAVE") // the end of the connection is the answer
	return nil
}

// Dump links the file of the dataset, written anew if the server has something that is not in it.
func (m *Module) Dump(ctx context.Context, in activate.Instance, dir string, final bool) (activate.Payload, error) {
	return m.CopyOut(in, dir, final, func(from string) (map[string]string, error) { return m.dump(ctx, in, from, dir) })
}

func (m *Module) dump(ctx context.Context, in activate.Instance, from, dir string) (map[string]string, error) {
	runs, err := m.runs(ctx, in)
	if err != nil {
		return nil, err
	}
	if runs {
		addr, err := address(in)
		if err != nil {
			return nil, err
		}
		c, err := dial(ctx, addr, in.Settings["redisPassword"])
		if err != nil {
			return nil, err
		}
		defer c.close()
		if err := c.saved(ctx, "BGSAVE"); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(dir, rdbFile)
	// The server replaces the file by another, and never writes to it.
	if err := os.Link(filepath.Join(from, rdbFile), path); err != nil {
		if err := place.CopyFile(filepath.Join(from, rdbFile), path); err != nil {
			return nil, err
		}
	}
	return examine(path)
}

// Load puts the payload's dataset in the place of the state.
func (m *Module) Load(_ context.Context, in activate.Instance, p activate.Payload) error {
	return m.Make(in, true, func(dir string) error {
		if _, err := examine(filepath.Join(p.Dir, rdbFile)); err != nil {
			return fmt.Errorf("load %q: %w", in.Service, err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		return place.Take(filepath.Join(p.Dir, rdbFile), filepath.Join(dir, rdbFile))
	})
}

// Delete removes the dataset and the configuration, which may hold a password.
func (m *Module) Delete(ctx context.Context, in activate.Instance) error {
	if there, err := m.Present(in); err != nil {
		return err
	} else if there {
		if err := m.Deletable(in); err != nil {
			return err
		}
	}
	if err := os.Remove(configPath(in)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return m.Directory.Delete(ctx, in)
}

// Verify reads the dataset's file again.
func (m *Module) Verify(_ context.Context, in activate.Instance, p activate.Payload) error {
	return m.Compare(in, p, func(dir string, _ bool) (map[string]string, error) { return examine(filepath.Join(dir, rdbFile)) })
}

// Available says why the programs that the module needs are not on this machine; nil if they are. Those that a service's
// settings name are not looked for.
func Available() error {
	_, err := tool.Find("redis-server")
	return err
}
