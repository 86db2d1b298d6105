// Demo shows what Isonomia is for, on this machine, in real processes: three nodes, StaffTracker spread over them, the
// leader killed, and version 2 deployed through another node. It prints each command as one would type it.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"html"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/isonomia-mesh/isonomia/node/api"
)

func main() {
	bin := flag.String("bin", "bin/isonomia", "the isonomia program")
	example := flag.String("example", "examples/stafftracker", "the system to deploy")
	keep := flag.Bool("keep", false, "leave the cluster running until Ctrl-C")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *example, *keep); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// demo is three agents on three loopback addresses.
type demo struct {
	bin   string
	dir   string
	port  int
	nodes []*agent
	start time.Time
}

type agent struct {
	name, host, dir string
	cmd             *exec.Cmd
}

func run(ctx context.Context, bin, example string, keep bool) error {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "isonomia-demo-")
	if err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // services run as other users and pass through
		return err
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	d := &demo{bin: bin, dir: dir, port: port, start: time.Now()}
	defer d.end()
	for _, part := range []func(context.Context, string) error{d.cluster, d.deploy, d.killLeader, d.upgrade} {
		if err := part(ctx, example); err != nil {
			return err
		}
	}
	d.say("Done in %.0f s: the leader died and the system was upgraded without it.", time.Since(d.start).Seconds())
	if keep {
		d.say("The cluster runs until Ctrl-C: export ISONOMIA_NODE=%s", d.socket(d.nodes[0]))
		<-ctx.Done()
	}
	return nil
}

func (d *demo) say(format string, args ...any) {
	line := fmt.Sprintf("== "+format, args...)
	if fi, err := os.Stdout.Stat(); err == nil && fi.Mode()&os.ModeCharDevice != 0 && os.Getenv("NO_COLOR") == "" {
		line = "\033[1m" + line + "\033[0m"
	}
	fmt.Printf("\n%s\n", line)
}

// freePort finds a UDP port that is free on the three addresses.
func freePort() (int, error) {
	for port := 7878; port < 7978; port++ {
		free := true
		for i := range 3 {
			c, err := net.ListenPacket("udp", fmt.Sprintf("127.0.0.%d:%d", i+1, port))
			if err != nil {
				free = false
				break
			}
			_ = c.Close()
		}
		if free {
			return port, nil
		}
	}
	return 0, errors.New("no free UDP port between 7878 and 7977")
}

func (d *demo) socket(a *agent) string { return filepath.Join(a.dir, "api.sock") }

// cluster starts the nodes: the first makes the cluster, the others join by token.
func (d *demo) cluster(ctx context.Context, _ string) error {
	d.say("Three nodes: the first makes a cluster, two join with a token")
	for i := range 3 {
		a := &agent{name: fmt.Sprintf("m%d", i+1), host: fmt.Sprintf("127.0.0.%d", i+1), dir: filepath.Join(d.dir, fmt.Sprintf("m%d", i+1))}
		args := []string{"--bootstrap"}
		token := ""
		if i > 0 {
			out, err := d.quiet(ctx, d.nodes[0], "token", "create")
			if err != nil {
				return err
			}
			token = strings.TrimSpace(string(out))
			args = []string{"--join", fmt.Sprintf("127.0.0.1:%d", d.port)}
		}
		d.nodes = append(d.nodes, a)
		if err := d.startAgent(ctx, a, token, args...); err != nil {
			return err
		}
	}
	return d.await(ctx, "three voters", func() error {
		var m api.Members
		if err := d.query(ctx, d.nodes[0], &m.Members, "members"); err != nil {
			return err
		}
		voters := 0
		for _, x := range m.Members {
			if x.Role == "leader" || x.Role == "voter" {
				voters++
			}
		}
		if voters != 3 {
			return fmt.Errorf("%d voters", voters)
		}
		return d.show(ctx, d.nodes[0], "members")
	})
}

func (d *demo) startAgent(ctx context.Context, a *agent, token string, args ...string) error {
	args = append([]string{"agent", "--data", a.dir, "--bind", fmt.Sprintf("%s:%d", a.host, d.port), "--name", a.name, "--stop-services"}, args...)
	fmt.Println("$ isonomia", strings.Join(args, " "))
	logFile, err := os.Create(filepath.Join(d.dir, a.name+".log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	a.cmd = exec.Command(d.bin, args...)
	a.cmd.Stdout, a.cmd.Stderr = logFile, logFile
	a.cmd.Env = append(os.Environ(), "ISONOMIA_TOKEN="+token)
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is ours to handle
	if err := a.cmd.Start(); err != nil {
		return err
	}
	return d.await(ctx, a.name+" to answer", func() error {
		_, err := d.quiet(ctx, a, "members", "--json")
		return err
	})
}

func (d *demo) deploy(ctx context.Context, example string) error {
	d.say("StaffTracker is deployed through m2: built, packed, spread over the nodes, started in order")
	if err := d.show(ctx, d.nodes[1], "deploy", "--yes", example); err != nil {
		return err
	}
	if err := d.show(ctx, d.nodes[1], "status"); err != nil {
		return err
	}
	return d.page(ctx, d.nodes[1], "1")
}

// killLeader kills the agent that leads, as a crash would. Its services live on under their keeper.
func (d *demo) killLeader(ctx context.Context, _ string) error {
	leader, err := d.leader(ctx)
	if err != nil {
		return err
	}
	d.say("The leader, %s, is killed", leader.name)
	fmt.Printf("$ kill -9 %d\n", leader.cmd.Process.Pid)
	killed := time.Now()
	if err := leader.cmd.Process.Kill(); err != nil {
		return err
	}
	_ = leader.cmd.Wait()
	d.nodes = append(slices.DeleteFunc(d.nodes, func(a *agent) bool { return a == leader }), leader) // last: it is not asked any more
	return d.await(ctx, "another leader", func() error {
		next, err := d.leader(ctx)
		if err == nil && next == leader {
			err = errors.New(leader.name + " still seems to lead")
		}
		if err == nil {
			fmt.Printf("%s leads after %.2f s\n", next.name, time.Since(killed).Seconds())
		}
		return err
	})
}

func (d *demo) leader(ctx context.Context) (*agent, error) {
	var s api.Status
	if err := d.query(ctx, d.nodes[0], &s, "status"); err != nil {
		return nil, err
	}
	for _, a := range d.nodes {
		if a.name == s.Leader {
			return a, nil
		}
	}
	return nil, errors.New("no leader yet")
}

// upgrade changes the version in a copy of the model and deploys that through a node that is left.
func (d *demo) upgrade(ctx context.Context, example string) error {
	d.say("Version 2 is deployed through %s; only what changed, and what depends on it, restarts", d.nodes[0].name)
	next := filepath.Join(d.dir, "stafftracker-2")
	if err := os.CopyFS(next, os.DirFS(example)); err != nil {
		return err
	}
	model := filepath.Join(next, "services.hcl")
	b, err := os.ReadFile(model)
	if err != nil {
		return err
	}
	changed := versionSetting.ReplaceAll(b, []byte(`${1}"2"`))
	if bytes.Equal(b, changed) {
		return fmt.Errorf("%s has no VERSION to change", model)
	}
	if err := os.WriteFile(model, changed, 0o644); err != nil {
		return err
	}
	if err := d.show(ctx, d.nodes[0], "deploy", "--yes", next); err != nil {
		return err
	}
	if err := d.show(ctx, d.nodes[0], "history"); err != nil {
		return err
	}
	return d.page(ctx, d.nodes[0], "2")
}

var versionSetting = regexp.MustCompile(`(VERSION\s*=\s*)"1"`)

// page asks the proxy for a person's page and shows it as text.
func (d *demo) page(ctx context.Context, a *agent, version string) error {
	return d.await(ctx, "the page of version "+version, func() error {
		var s api.Status
		if err := d.query(ctx, a, &s, "status"); err != nil {
			return err
		}
		for _, i := range s.Instances {
			if i.Service == "proxy" && i.Phase == "active" && !i.Obsolete {
				return d.fetch(ctx, fmt.Sprintf("http://%s:%d/displaystaff/1", i.Address, i.Ports["http"]), version)
			}
		}
		return errors.New("no active proxy")
	})
}

func (d *demo) fetch(ctx context.Context, url, version string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	text := pageText(string(b))
	if resp.StatusCode != http.StatusOK || !strings.Contains(strings.ToLower(text), "version "+version) {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	fmt.Printf("$ curl %s\n\n%s\n", url, text)
	return nil
}

var (
	hidden = regexp.MustCompile(`(?s)<(style|script|head)[^>]*>.*?</(style|script|head)>`)
	tags   = regexp.MustCompile(`<[^>]*>`)
	blanks = regexp.MustCompile(`\s*\n\s*`)
)

// pageText is a page as a person reads it.
func pageText(page string) string {
	t := tags.ReplaceAllString(hidden.ReplaceAllString(page, ""), "")
	return "    " + strings.TrimSpace(blanks.ReplaceAllString(html.UnescapeString(t), "\n    "))
}

// show runs a command as a person would, with its output.
func (d *demo) show(ctx context.Context, a *agent, args ...string) error {
	fmt.Printf("$ isonomia --node %s %s\n", d.socket(a), strings.Join(args, " "))
	cmd := exec.CommandContext(ctx, d.bin, append([]string{"--node", d.socket(a)}, args...)...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("isonomia %s: %w", strings.Join(args, " "), err)
	}
	return nil
}

func (d *demo) quiet(ctx context.Context, a *agent, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, d.bin, append([]string{"--node", d.socket(a)}, args...)...)
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("isonomia %s: %s", strings.Join(args, " "), strings.TrimSpace(errOut.String()))
	}
	return out, nil
}

func (d *demo) query(ctx context.Context, a *agent, into any, args ...string) error {
	out, err := d.quiet(ctx, a, append(args, "--json")...)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, into)
}

// await tries until it works, for half a minute, and ends with the last reason.
func (d *demo) await(ctx context.Context, what string, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// end stops the agents with their services and removes everything. The leader that was killed is started once more for
// that: its services are under a keeper.
func (d *demo) end() {
	d.say("Cleaning up")
	for _, a := range d.nodes {
		if a.cmd != nil && a.cmd.ProcessState != nil {
			_ = d.startAgent(context.Background(), a, "")
		}
	}
	for _, a := range d.nodes {
		if a.cmd != nil && a.cmd.Process != nil {
			_ = a.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	for _, a := range d.nodes {
		if a.cmd != nil && a.cmd.ProcessState == nil {
			_ = a.cmd.Wait()
		}
	}
	if err := os.RemoveAll(d.dir); err != nil {
		_ = exec.Command("chmod", "-R", "u+w", d.dir).Run() // packages are read-only, for root as for others
		_ = os.RemoveAll(d.dir)
	}
}
