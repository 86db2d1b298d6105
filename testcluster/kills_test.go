//go:build linux

package testcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// deaths are what can kill a node at once.
var deaths = []struct {
	name   string
	strike func(*Node)
}{
	{"agent", (*Node).KillAgent},
	{"agent and keeper", (*Node).KillAgentAndKeeper},
	{"power", (*Node).PowerOff},
}

// TestKillRounds kills one or two of five nodes at a random moment, now and then again while they come back, under continuous
// deployments, moves of states and writes. In every round: deployments are acknowledged while the dead are dead, what was
// acknowledged is in the history of every node and never older again, no acknowledged write is lost but those that a
// take-over states, all settles, and the invariants hold. It prints how long that took. With ISONOMIA_SOAK it does so 200
// times.
func TestKillRounds(t *testing.T) {
	rounds := 2
	if os.Getenv("ISONOMIA_SOAK") != "" {
		rounds = 200
	}
	if n, err := strconv.Atoi(os.Getenv("ISONOMIA_SOAK_ROUNDS")); err == nil {
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	if v, err := strconv.ParseUint(os.Getenv("ISONOMIA_TEST_SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("ISONOMIA_TEST_SEED=%d", seed)
	k := startKills(t, real(t, 5), seed)
	for round := range rounds {
		k.round(round)
		if t.Failed() {
			break
		}
	}
	k.summary()
}

// kills is a cluster under load, and what was measured of it.
type kills struct {
	t                        *testing.T
	c                        *Cluster
	random                   *rand.Rand
	d                        *deployer
	states                   []*keptState
	deployed, settled, quiet []time.Duration // from the kill to an acknowledged deployment; from the return to all settled, and to five voters
	deaths                   map[string]int
}

func startKills(t *testing.T, c *Cluster, seed uint64) *kills {
	k := &kills{t: t, c: c, random: rand.New(rand.NewPCG(seed, 0)), deaths: map[string]int{}}
	k.d = newDeployer(t, c, rand.New(rand.NewPCG(seed, 1)))
	k.d.start()
	k.awaitDeployed(time.Time{})
	k.d.pause()
	c.AwaitSettled(smokeTimeout, 1)
	k.states = []*keptState{{service: "db"}, {service: "kv", takenOver: true}}
	for i, s := range k.states {
		s.random = rand.New(rand.NewPCG(seed, uint64(2+i)))
		s.start(t, c)
	}
	return k
}

// round is one death, or two, and the way back.
func (k *kills) round(number int) {
	k.d.start()
	time.Sleep(k.upTo(1500 * time.Millisecond)) // a random moment, not a condition
	long := number%4 == 3                       // enough for the dead to be given up and their state to be taken over
	victims := k.victims(long)
	said, killed := k.strike(victims)
	died := time.Now()
	k.awaitDeployed(killed)
	deployedAfter := k.d.ackAfter(killed).Sub(killed)
	if deployedAfter > time.Second {
		k.t.Logf("a deployment took long:\n%s", k.d.since(killed))
	}
	if long {
		time.Sleep(8*time.Second + k.upTo(3*time.Second))
	} else {
		time.Sleep(k.upTo(2 * time.Second))
	}
	down := time.Since(died)
	if k.random.IntN(4) == 0 {
		for _, v := range victims {
			k.launch(v)
		}
		time.Sleep(k.upTo(1500 * time.Millisecond))
		again, _ := k.strike(victims)
		said += ", then " + again
	}
	k.comeBack(victims)
	back := time.Now()
	k.d.pause()
	k.awaitSettled()
	settledAfter := time.Since(back)
	k.c.AwaitVoters(5)
	quietAfter := time.Since(back)
	k.deployed, k.settled, k.quiet = append(k.deployed, deployedAfter), append(k.settled, settledAfter), append(k.quiet, quietAfter)
	lost := k.check(2*len(victims), down)
	if number%4 == 0 {
		k.copy()
	}
	k.t.Logf("round %d: %s, away for %v; a deployment %v after, all settled %v after the return, five voters %v%s", number, said,
		down.Round(100*time.Millisecond), deployedAfter.Round(time.Millisecond), settledAfter.Round(time.Millisecond), quietAfter.Round(time.Millisecond), lost)
}

// victims are one node or, every fourth time, two. For long, one that can be taken over from is among them every other time.
func (k *kills) victims(long bool) []*Node {
	nodes := shuffled(k.c, k.random)
	n := 1 + k.random.IntN(4)/3
	if holder, err := nodeOf(k.c.Node(0), "kv"); long && k.random.IntN(2) == 0 && err == nil {
		nodes = append([]*Node{holder}, slices.DeleteFunc(nodes, func(n *Node) bool { return n == holder })...)
	}
	return nodes[:n]
}

func (k *kills) upTo(d time.Duration) time.Duration { return time.Duration(k.random.Int64N(int64(d))) }

// strike kills the victims, one soon after the other, each in its own way.
func (k *kills) strike(victims []*Node) (said string, last time.Time) {
	for i, v := range victims {
		if i > 0 {
			time.Sleep(k.upTo(time.Second))
			said += " and "
		}
		Await(k.t, "a process to kill on "+v.Name, ReadyTimeout, func() error {
			h, err := v.running()
			if err != nil {
				return err
			}
			processes, err := h.processes()
			if err == nil && !slices.ContainsFunc(processes, Process.isAgent) {
				err = errors.New("no agent")
			}
			return err
		})
		death := deaths[k.random.IntN(len(deaths))]
		last = time.Now()
		death.strike(v)
		k.d.died(v)
		k.deaths[death.name]++
		said += death.name + " of " + v.Name
	}
	return said, last
}

// launch starts what was killed, without waiting for it.
func (k *kills) launch(n *Node) {
	k.t.Helper()
	if _, err := n.running(); err != nil {
		n.c.observer.Fault(n.Name, "power on")
		if err := n.switchOn(); err != nil {
			k.t.Fatalf("power on %s: %v", n.Name, err)
		}
	}
	n.Launch()
}

func (k *kills) comeBack(victims []*Node) {
	k.t.Helper()
	for _, v := range victims {
		k.launch(v)
	}
	for _, v := range victims {
		if err := v.awaitReady(); err != nil {
			k.t.Fatalf("%s does not come back: %v", v.Name, err)
		}
	}
}

// awaitDeployed awaits that a deployment that was asked for after a moment is acknowledged.
func (k *kills) awaitDeployed(after time.Time) {
	k.t.Helper()
	Await(k.t, "an acknowledged deployment", smokeTimeout, func() error {
		if k.d.ackAfter(after).IsZero() {
			return fmt.Errorf("none: %s", k.d.since(after))
		}
		return nil
	})
}

// awaitSettled awaits that every node sees all others alive, and the newest generation settled.
func (k *kills) awaitSettled() {
	k.t.Helper()
	Await(k.t, "all settled", smokeTimeout, func() error {
		if up := len(k.c.Up()); up != 5 {
			return giveUp{fmt.Errorf("%d agents run", up)}
		}
		err := k.c.each(k.c.Nodes(), func(n *Node) error {
			members, err := n.Members()
			if err != nil {
				return err
			}
			return countAlive(members, 5)
		})
		if err == nil {
			_, err = k.c.settled(k.d.newest())
		}
		return err
	})
}

// check holds what every node says and what is there against what was acknowledged, after a round of at most so many deaths.
func (k *kills) check(deaths int, down time.Duration) (said string) {
	k.t.Helper()
	for _, n := range k.c.Nodes() {
		history, err := n.History()
		if err != nil {
			k.t.Fatal(err)
		}
		if err := k.d.held(history, true); err != nil {
			k.t.Errorf("%s: %v", n.Name, err)
		}
	}
	k.answers()
	for _, s := range k.states {
		if lost := s.check(k.t, deaths, down); lost > 0 {
			said += fmt.Sprintf("; %d writes to %s after the last copy are lost", lost, s.service)
		}
		s.start(k.t, k.c)
	}
	complain(k.t, k.c.settle(settleTimeout), nil)
	return said
}

// answers checks that every service answers in the version of the newest deployment.
func (k *kills) answers() {
	k.t.Helper()
	Await(k.t, "answers of the newest generation", smokeTimeout, func() error {
		s, err := k.c.settled(k.d.newest())
		if err != nil {
			return err
		}
		history, err := k.c.Node(0).History()
		if err != nil {
			return err
		}
		versions, err := k.d.versions(history)
		if err != nil {
			return giveUp{err}
		}
		seen := map[string]bool{}
		for _, i := range s.Instances {
			seen[i.Service] = true
			want := fmt.Sprintf("%s %s %s\n", i.Service, versions[i.Service], i.Node)
			got, err := fetch(k.c.Node(0), "http://"+net.JoinHostPort(i.Address, strconv.Itoa(i.Ports["http"]))+"/who")
			if err != nil || got != want {
				return fmt.Errorf("%s on %s says %q, not %q: %w", i.Service, i.Node, got, want, err)
			}
		}
		if len(seen) != len(versions) {
			return fmt.Errorf("%d services of %d are there", len(seen), len(versions))
		}
		return nil
	})
}

// copy has every state copied to three nodes: from then on nothing that was written before may be lost.
func (k *kills) copy() {
	k.t.Helper()
	floors := make([]int, len(k.states))
	for i, s := range k.states {
		floors[i] = s.w.count()
	}
	copiesEverywhere(k.t, k.c.Node(k.random.IntN(5)))
	for i, s := range k.states {
		s.floor = floors[i]
	}
}

func (k *kills) summary() {
	for _, m := range []struct {
		what string
		took []time.Duration
	}{
		{"from the kill to an acknowledged deployment", k.deployed},
		{"from the return to all settled", k.settled},
		{"from the return to five voters", k.quiet},
	} {
		slices.Sort(m.took)
		k.t.Logf("%s: p50 %v, p99 %v, at the worst %v", m.what, percentile(m.took, 0.5).Round(time.Millisecond),
			percentile(m.took, 0.99).Round(time.Millisecond), percentile(m.took, 1).Round(time.Millisecond))
	}
	writes, lost := 0, 0
	for _, s := range k.states {
		writes, lost = writes+s.w.count(), lost+len(s.lost)
	}
	k.t.Logf("%d rounds, deaths %v; %d of %d deployments acknowledged; %d writes acknowledged, %d after the copy that was taken over from",
		len(k.deployed), k.deaths, k.d.acknowledged(), k.d.asked(), writes, lost)
}

// keptState is a service with state, who writes to it, and what may be lost of that.
type keptState struct {
	service   string
	takenOver bool // from a copy, when its node is given up
	random    *rand.Rand
	w         *writer
	floor     int          // writes that three nodes have
	lost      map[int]bool // stated before
}

func (s *keptState) start(t *testing.T, c *Cluster) {
	old := s.w
	if old == nil {
		old, s.lost = &writer{}, map[int]bool{}
	}
	s.w = startRoamingWriter(t, c, s.service, s.random, old)
}

// check stops the writer. Nothing may be lost of a state that stays where it is; of one that is taken over only what was
// written after the copy, one stretch for each take-over, and only if somebody was away for long enough.
func (s *keptState) check(t *testing.T, deaths int, down time.Duration) (lost int) {
	t.Helper()
	s.w.end()
	has := map[string]bool{}
	for line := range strings.Lines(stateOf(t, s.w)) {
		has[strings.TrimSpace(line)] = true
	}
	stretches, last := 0, -1
	for _, n := range s.w.acked {
		if has[strconv.Itoa(n)] || s.lost[n] {
			continue
		}
		if n != last+1 {
			stretches++
		}
		if n <= s.floor {
			t.Errorf("write %d to %s is lost: three nodes had the first %d", n, s.service, s.floor)
		}
		s.lost[n], last = true, n
		lost++
	}
	if lost > 0 && (!s.takenOver || down < mayBeLost || stretches > deaths) {
		t.Errorf("%d acknowledged writes to %s are lost, up to %d of %d, in %d stretches, after %v without its node", lost, s.service, last, s.w.count(), stretches, down)
	}
	return lost
}

// writePause is between two writes of a roaming writer: the state is read as a whole in every round.
const writePause = 20 * time.Millisecond

// startRoamingWriter is a writer that goes on from another node when the one that it writes from is gone.
func startRoamingWriter(t *testing.T, c *Cluster, service string, random *rand.Rand, old *writer) *writer {
	ctx, cancel := context.WithCancel(t.Context())
	w := &writer{c: c, from: c.Node(0), service: service, stop: cancel, acked: old.acked, random: random, rest: writePause}
	w.done.Go(func() { w.run(ctx) })
	t.Cleanup(w.end)
	return w
}

// deployer deploys one version after the other, each through a random node that is up, and remembers what was acknowledged.
type deployer struct {
	t      *testing.T
	c      *Cluster
	dir    string
	random *rand.Rand
	model  Model
	hurry  chan struct{}
	stop   context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	changes []change // in order; the number is what the history says as the reason
	via     *Node    // the deployment under way; nil: none
	cancel  context.CancelFunc
}

// change is one deployment that was asked for.
type change struct {
	versions   map[string]string
	via        string
	generation uint64 // 0: it was not acknowledged
	failure    error
	began, at  time.Time // at: when the answer came
}

func newDeployer(t *testing.T, c *Cluster, random *rand.Rand) *deployer {
	policy := "    every = \"10h\"\n"
	m := Model{Services: []Service{
		{Name: "db", Exclusive: true, Copies: 3, Policy: policy},
		{Name: "kv", Exclusive: true, Copies: 3, Policy: policy + "    take_over = \"1s\"\n"},
		{Name: "free", Instances: "2"},
		{Name: "web", DependsOn: []string{"db", "free"}},
		{Name: "app", DependsOn: []string{"kv"}},
		{Name: "top", DependsOn: []string{"web", "app"}},
	}}
	m = m.WithVersion("0")
	return &deployer{t: t, c: c, dir: m.Write(t), random: random, model: m, hurry: make(chan struct{}, 1)}
}

func (d *deployer) start() {
	ctx, cancel := context.WithCancel(d.t.Context())
	d.stop = cancel
	d.done.Go(func() { d.run(ctx) })
	d.done.Go(func() { d.watch(ctx) })
	d.t.Cleanup(d.pause)
}

// pause ends with the deployment under way.
func (d *deployer) pause() {
	d.stop()
	d.done.Wait()
}

func (d *deployer) run(ctx context.Context) {
	for ctx.Err() == nil {
		if up := d.c.Up(); len(up) > 0 {
			d.deploy(up[d.random.IntN(len(up))])
		}
		select {
		case <-ctx.Done():
		case <-d.hurry:
		case <-time.After(time.Duration(d.random.Int64N(int64(time.Second)))):
		}
	}
}

// next changes the version of some services and, now and then, where the states may be.
func (d *deployer) next() {
	for i := range d.model.Services {
		s := &d.model.Services[i]
		often := 3
		if s.Exclusive {
			often = 6
		}
		if d.random.IntN(often) == 0 {
			s.Version = strconv.Itoa(len(d.changes))
		}
		if s.Exclusive && d.random.IntN(8) == 0 {
			s.Pin = nil
			for _, n := range d.random.Perm(5)[:3] {
				s.Pin = append(s.Pin, d.c.Node(n).Name)
			}
		}
	}
	top := &d.model.Services[len(d.model.Services)-1]
	top.Version = strconv.Itoa(len(d.changes)) // so that something changes
}

func (d *deployer) deploy(via *Node) {
	d.mu.Lock()
	d.model.Services = slices.Clone(d.model.Services)
	d.next()
	number := len(d.changes)
	versions := map[string]string{}
	for _, s := range d.model.Services {
		versions[s.Name] = s.Version
	}
	d.changes = append(d.changes, change{versions: versions, via: via.Name, began: time.Now()})
	ctx, cancel := context.WithTimeout(d.t.Context(), deployTimeout)
	d.via, d.cancel = via, cancel
	d.mu.Unlock()
	defer cancel()
	err := d.write()
	var reply struct{ Generation uint64 }
	if err == nil {
		r := via.CLI(ctx, "deploy", "--yes", "--json", "--no-wait", "--why", strconv.Itoa(number), d.dir)
		if err = r.Failure(); err == nil {
			err = json.Unmarshal([]byte(r.Stdout), &reply)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.via = nil
	c := &d.changes[number]
	c.generation, c.failure, c.at = reply.Generation, err, time.Now()
}

// write replaces the model, and leaves the packages as they are.
func (d *deployer) write() error {
	return errors.Join(os.WriteFile(filepath.Join(d.dir, "services.hcl"), []byte(d.model.services()), 0o644),
		os.WriteFile(filepath.Join(d.dir, "distribution.hcl"), []byte(d.model.distribution()), 0o644))
}

// died cuts off what goes through a node that is dead, as its operator would, and has the next deployment asked for.
func (d *deployer) died(n *Node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.via == n {
		d.cancel()
	}
	select {
	case d.hurry <- struct{}{}:
	default:
	}
}

// watch asks random nodes for what every node must know by then, all the time.
func (d *deployer) watch(ctx context.Context) {
	random := rand.New(rand.NewPCG(1, 1))
	for ctx.Err() == nil {
		if up := d.c.Up(); len(up) > 0 {
			n, asked := up[random.IntN(len(up))], d.copy()
			if history, err := n.History(); err == nil {
				if err := heldBy(history, asked, false); err != nil {
					d.t.Errorf("%s, asked for what is true now: %v", n.Name, err)
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *deployer) copy() []change {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.changes)
}

// held says what a history lacks of what was acknowledged.
func (d *deployer) held(history []Generation, settled bool) error {
	return heldBy(history, d.copy(), settled)
}

// heldBy looks for acknowledged changes in a history, as far back as that goes. What was acknowledged may have ended in no
// other way than that it runs, or that a newer one took its place: no service has failed.
func heldBy(history []Generation, changes []change, settled bool) error {
	byNumber, oldest := map[uint64]Generation{}, uint64(0)
	for _, g := range history {
		if oldest == 0 || g.Generation < oldest {
			oldest = g.Generation
		}
		byNumber[g.Generation] = g
	}
	newest := uint64(0)
	if len(byNumber) > 0 {
		newest = slices.Max(slices.Collect(maps.Keys(byNumber)))
	}
	for number, c := range changes {
		g, found := byNumber[c.generation]
		switch {
		case c.generation == 0 || c.generation < oldest && c.generation <= newest:
			continue
		case !found:
			return fmt.Errorf("generation %d, acknowledged at %s, is not in the history from %d to %d", c.generation, c.at.Format(time.TimeOnly), oldest, newest)
		case g.Why != strconv.Itoa(number):
			return fmt.Errorf("generation %d is %+v, not change %d", c.generation, g, number)
		}
		switch ok := []string{"settled", "superseded", "running"}; {
		case !slices.Contains(ok, g.Outcome) || settled && g.Outcome == "running":
			return fmt.Errorf("what became of generation %d: %+v", c.generation, g)
		}
	}
	return nil
}

// versions are those of the services of the newest deployment, acknowledged or not.
func (d *deployer) versions(history []Generation) (map[string]string, error) {
	changes := d.copy()
	newest := Generation{}
	for _, g := range history {
		if g.Kind == "deploy" && g.Generation > newest.Generation {
			newest = g
		}
	}
	number, err := strconv.Atoi(newest.Why)
	if err != nil || number >= len(changes) {
		return nil, fmt.Errorf("nobody deployed %+v", newest)
	}
	return changes[number].versions, nil
}

// newest is the newest acknowledged generation.
func (d *deployer) newest() (g uint64) {
	for _, c := range d.copy() {
		g = max(g, c.generation)
	}
	return g
}

// ackAfter is when the first deployment that was asked for after a moment was acknowledged; zero if none was.
func (d *deployer) ackAfter(moment time.Time) time.Time {
	for _, c := range d.copy() {
		if c.generation > 0 && c.began.After(moment) {
			return c.at
		}
	}
	return time.Time{}
}

// since tells of all deployments that were asked for after a moment.
func (d *deployer) since(moment time.Time) string {
	var said []string
	for _, c := range d.copy() {
		switch after := c.began.Sub(moment).Round(time.Millisecond); {
		case after < 0:
		case c.at.IsZero():
			said = append(said, fmt.Sprintf("%v: asked %s", after, c.via))
		case c.failure != nil:
			said = append(said, fmt.Sprintf("%v: asked %s for %v: %v", after, c.via, c.at.Sub(c.began).Round(time.Millisecond), c.failure))
		default:
			said = append(said, fmt.Sprintf("%v: asked %s for %v: generation %d", after, c.via, c.at.Sub(c.began).Round(time.Millisecond), c.generation))
		}
	}
	return strings.Join(said, "\n")
}

func (d *deployer) asked() int { return len(d.copy()) }

func (d *deployer) acknowledged() (n int) {
	for _, c := range d.copy() {
		if c.generation > 0 {
			n++
		}
	}
	return n
}
