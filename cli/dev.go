package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/isonomia-mesh/isonomia/node/api"
)

const (
	devMaxNodes    = 50
	devStartLimit  = 60 * time.Second // for a node to answer, and for all to see each other
	devPollPause   = 50 * time.Millisecond
	devTokenLife   = time.Hour
	devAgentOutput = "agent.log"
	devDirMode     = 0o711 // services run as users of their own, who pass through to their packages
)

// devCluster is a cluster of child processes on this machine.
type devCluster struct {
	*console
	exe   string
	dir   string // holds one data directory for each node
	keep  bool   // dir is the operator's: leave it
	port  int
	nodes []*devNode
}

func newDevCommand(c *console) *cobra.Command {
	d := &devCluster{console: c}
	var count int
	var data, system string
	cmd := &cobra.Command{
		Use:   "dev [DIR]",
		Short: "Run a whole cluster on this machine, for trying and developing",
		Long: "Run a cluster of agents on this machine, each on a loopback address of its own (127.0.0.1, .2, .3 ...), deploy the\n" +
			"model in DIR if one is given, and show events until Ctrl-C. Then all agents and services end and the data is removed.",
		Example:           "  isonomia dev\n  isonomia dev --nodes 5 ./examples/stafftracker\n  isonomia dev --data /tmp/cluster --port 9000 ./mysystem",
		Args:              oneOrNone,
		ValidArgsFunction: completeDirectory,
		RunE: func(cmd *cobra.Command, args []string) error {
			if count < 1 || count > devMaxNodes {
				return usagef("for example --nodes 3", "--nodes must be between 1 and %d", devMaxNodes)
			}
			if err := d.prepare(data); err != nil {
				return err
			}
			return d.run(cmd.Context(), count, system, args)
		},
	}
	cmd.Flags().IntVar(&count, "nodes", 3, "run `N` nodes")
	cmd.Flags().IntVar(&d.port, "port", 7878, "`PORT` (UDP), the same on each address")
	cmd.Flags().StringVar(&data, "data", "", "keep the nodes' data in `DIR` (default: a directory that is removed)")
	systemFlag(cmd, &system)
	_ = cmd.MarkFlagDirname("data")
	return cmd
}

// prepare finds the binary and makes the directory of the cluster.
func (d *devCluster) prepare(data string) (err error) {
	if d.exe, err = os.Executable(); err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	if data == "" {
		if d.dir, err = os.MkdirTemp("", "isonomia-dev-"); err != nil {
			return err
		}
		return os.Chmod(d.dir, devDirMode)
	}
	d.keep = true
	if d.dir, err = filepath.Abs(data); err != nil {
		return err
	}
	return os.MkdirAll(d.dir, devDirMode)
}

// run has the life of the cluster: start, deploy, follow, end. It ends everything however it is left.
func (d *devCluster) run(ctx context.Context, n int, system string, args []string) (err error) {
	// The kernel sends an agent its signal when the *thread* that started it ends, so this one stays for as long.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer func() { err = errors.Join(err, d.end()) }()
	if err := d.start(ctx, n); err != nil {
		return d.interrupted(ctx, err)
	}
	d.sayf("%s run. Reach them from another terminal with\n\n  export ISONOMIA_NODE=%s\n", countNodes(n), d.nodes[0].socket())
	if len(args) > 0 {
		if err := d.deploy(ctx, system, args[0]); err != nil {
			return d.interrupted(ctx, err)
		}
	}
	d.sayf("Ctrl-C ends the cluster. What happens meanwhile:")
	return d.interrupted(ctx, d.follow(ctx))
}

func countNodes(n int) string {
	if n == 1 {
		return "One node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// interrupted makes Ctrl-C the normal end.
func (d *devCluster) interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// start founds the cluster with the first node and lets the others join it.
func (d *devCluster) start(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, devStartLimit, fmt.Errorf("the nodes did not come up within %s", devStartLimit))
	defer cancel()
	first := d.node(1)
	if err := first.launch(d.exe, "--bootstrap"); err != nil {
		return err
	}
	if err := first.awaitAnswer(ctx); err != nil {
		return err
	}
	token := ""
	if n > 1 {
		created, err := first.client.CreateToken(ctx, api.TokenRequest{Role: "node", Uses: n - 1, TTL: devTokenLife, By: "isonomia dev"})
		if err != nil {
			return err
		}
		token = created.Token
	}
	for i := 2; i <= n; i++ {
		node := d.node(i)
		node.token = token
		if err := node.launch(d.exe, "--join", first.address); err != nil {
			return err
		}
	}
	return d.awaitMembers(ctx, n)
}

// awaitMembers waits until the first node sees all of them alive and all of them answer.
func (d *devCluster) awaitMembers(ctx context.Context, n int) error {
	for _, node := range d.nodes {
		if err := node.awaitAnswer(ctx); err != nil {
			return err
		}
	}
	return d.await(ctx, func() error {
		members, err := d.nodes[0].client.Members(ctx)
		if err != nil {
			return err
		}
		alive := 0
		for _, m := range members.Members {
			if m.Status == "alive" {
				alive++
			}
		}
		if alive < n {
			return fmt.Errorf("%d of %d nodes are alive", alive, n)
		}
		return nil
	})
}

// await asks again until try answers without an error; one that ends while it is waited for is an error at once.
func (d *devCluster) await(ctx context.Context, try func() error) error {
	for {
		last := try()
		if last == nil {
			return nil
		}
		timer := time.NewTimer(devPollPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-timer.C:
		}
		for _, node := range d.nodes {
			if err := node.ended(); err != nil {
				return err
			}
		}
	}
}

// deploy is the deploy command through the first node. A system that does not come up is reported; the cluster stays
// for looking at it.
func (d *devCluster) deploy(ctx context.Context, system, dir string) error {
	op := &operation{console: d.console, kind: deployKind, client: d.nodes[0].client, yes: true, why: "isonomia dev"}
	op.req = api.PlanRequest{System: system, Kind: deployKind}
	err := op.readModel(ctx, dir)
	if err == nil {
		err = op.execute(ctx)
	}
	if err != nil && ctx.Err() == nil {
		d.failText(explain(err), asFailedService(err))
		return nil
	}
	return err
}

// follow shows events until ctx ends or no node is left. Nodes may be killed to see what happens: the events then
// come from another one.
func (d *devCluster) follow(ctx context.Context) error {
	gone := d.announceEnds(ctx)
	query := api.EventQuery{Follow: true}
	for {
		for _, node := range d.nodes {
			for ev, err := range node.client.Events(ctx, query) {
				if err != nil {
					break
				}
				_ = d.showEvent(d.talk(), ev)
			}
		}
		timer := time.NewTimer(devPollPause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-gone:
			timer.Stop()
			return cmp.Or(ctx.Err(), error(&api.Error{Code: api.CodeFailed, Message: "all nodes have ended"}))
		case <-timer.C:
		}
	}
}

// announceEnds says when an agent ends; the channel is closed when all have.
func (d *devCluster) announceEnds(ctx context.Context) <-chan struct{} {
	all := make(chan struct{})
	go func() {
		defer close(all)
		for _, node := range d.nodes {
			<-node.exited
		}
	}()
	for _, node := range d.nodes {
		go func() {
			<-node.exited
			if ctx.Err() == nil {
				d.sayf("%s has ended: %v", node.name, node.waitErr)
			}
		}()
	}
	return all
}
