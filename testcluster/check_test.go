//go:build linux

package testcluster

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// good is a world without fault: b depends on a, x is exclusive and has moved
// from n1 to n2 over a power cut; then b was upgraded.
func good() Observation {
	process := func(pid int, service string) Process {
		return Process{PID: pid, PPID: 5, State: "S", Service: service, Args: []string{"testservice"}}
	}
	listener := func(port uint16, inode uint64, owner int) Listener {
		return Listener{Address: netip.AddrPortFrom(nodeAddress(1), port), Inode: inode, Owners: []int{owner}}
	}
	dep := []Dep{{Service: "a", Version: "1", Address: "10.20.0.1:8000", Answered: true}}
	return Observation{
		Nodes: []NodeWorld{
			{Name: "n1", On: true, Agent: true,
				Processes: []Process{process(10, "a"), {PID: 11, PPID: 10, Service: "a"}, process(12, "b"), {PID: 5, PPID: 1, Args: []string{"isonomia", "keeper"}}},
				Listeners: []Listener{listener(8000, 1, 10), listener(8001, 2, 12)}},
			{Name: "n2", On: true, Agent: true, Processes: []Process{process(10, "x")}},
			{Name: "n3"},
		},
		Events: []Event{
			{Seq: 1, Kind: EventStart, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5", Address: "10.20.0.1:8000"},
			{Seq: 2, Kind: EventReady, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5", Address: "10.20.0.1:8000"},
			{Seq: 3, Kind: EventStart, Service: "b", Version: "1", Node: "n1", Boot: "b1", Epoch: "6", Deps: dep},
			{Seq: 4, Kind: EventReady, Service: "b", Version: "1", Node: "n1", Boot: "b1", Epoch: "6"},
			{Seq: 10, Kind: EventStop, Service: "b", Version: "1", Node: "n1", Boot: "b1", Epoch: "6"},
			{Seq: 11, Kind: EventStart, Service: "b", Version: "2", Node: "n1", Boot: "b2", Epoch: "20", Deps: dep},
			{Seq: 12, Kind: EventStart, Service: "x", Version: "1", Node: "n2", Boot: "x2", Epoch: "21"},
		},
		Holds: []Hold{
			{Service: "x", Node: "n1", Boot: "x1", Epoch: "9", From: 5, To: 9},
			{Service: "x", Node: "n2", Boot: "x2", Epoch: "21", From: 13, To: 30},
		},
		Status: &Status{Settled: true, Instances: []Instance{
			{Service: "a", Node: "n1", Phase: phaseActive, PID: 10, Ports: map[string]int{"http": 8000}},
			{Service: "b", Node: "n1", Phase: phaseActive, PID: 12, Ports: map[string]int{"http": 8001}},
			{Service: "x", Node: "n2", Phase: phaseActive, PID: 10},
			{Service: "x", Node: "n1", Phase: "lost"},
			{Service: "y", Node: "n3", Phase: phaseActive, PID: 3}, // just switched off
		}},
		Ports: []Port{
			{Service: "a", Name: "http", Resource: "ports", Number: 8000, Scope: "private", Node: "n1"},
			{Service: "b", Name: "http", Resource: "ports", Number: 8001, Scope: "private", Node: "n1"},
			{Service: "c", Name: "http", Resource: "ports", Number: 8000, Scope: "private", Node: "n2"},
			{Service: "d", Name: "http", Resource: "uids", Number: 8000, Scope: "shared"},
		},
	}
}

var allRules = append(append(append([]checker{}, checkAlways...), checkSettled...), checkEnd[1:]...)

func TestNoRuleComplainsOfAGoodWorld(t *testing.T) {
	if bad := check(good(), allRules, nil); len(bad) > 0 {
		t.Errorf("%v", bad)
	}
	if bad := check(Observation{Nodes: []NodeWorld{{Name: "n1", On: true}}}, checkEnd, nil); len(bad) > 0 {
		t.Errorf("%v", bad)
	}
}

// planted are all faults, each with the one rule that must report it.
var planted = []struct {
	name, rule, says string
	plant            func(*Observation)
}{
	{"second process", RuleProcess, "a runs 2 times on n1", func(o *Observation) {
		o.Nodes[0].Processes = append(o.Nodes[0].Processes, Process{PID: 20, PPID: 5, Service: "a"})
	}},
	{"second process, orphaned", RuleProcess, "x runs 2 times on n2", func(o *Observation) {
		o.Nodes[1].Processes = append(o.Nodes[1].Processes, Process{PID: 20, PPID: 1, Service: "x"})
	}},
	{"old holder comes back", RuleHolder, "x was held by n1", func(o *Observation) {
		o.Holds = append(o.Holds, Hold{Service: "x", Node: "n1", Boot: "x1", Epoch: "9", From: 31, To: 31})
	}},
	{"sleeper with the newest claim", RuleHolder, "x was held by n1", func(o *Observation) {
		o.Events = append(o.Events, Event{Seq: 30, Kind: EventFault, Node: "n1", Detail: faultThawed})
		o.Holds = append(o.Holds, Hold{Service: "x", Node: "n1", Boot: "x1", Epoch: "22", From: 31, To: 31})
	}},
	{"two services on one port", RulePort, "n1 has port 8000 twice", func(o *Observation) {
		o.Nodes[0].Listeners = append(o.Nodes[0].Listeners, Listener{Address: netip.MustParseAddrPort("0.0.0.0:8000"), Inode: 9, Owners: []int{12}})
	}},
	{"private number twice on a node", RulePort, "ports 8001 is reserved twice", func(o *Observation) {
		o.Ports = append(o.Ports, Port{Service: "e", Name: "http", Resource: "ports", Number: 8001, Scope: "private", Node: "n1"})
	}},
	{"private number that is shared", RulePort, "ports 8001 is reserved twice", func(o *Observation) {
		o.Ports = append(o.Ports, Port{Service: "e", Name: "http", Resource: "ports", Number: 8001, Scope: "shared", Node: "n2"})
	}},
	{"nobody listens", RuleListen, "port http (8001) of b on n1", func(o *Observation) {
		o.Nodes[0].Listeners = o.Nodes[0].Listeners[:1]
	}},
	{"another service listens", RuleListen, "port http (8001) of b on n1", func(o *Observation) {
		o.Nodes[0].Listeners[1].Owners = []int{10}
	}},
	{"dependency never ready", RuleStartOrder, "a@1 was not ready before", func(o *Observation) { o.Events[1].Seq = 9 }},
	{"dependency ready in another version", RuleStartOrder, "a@1 was not ready before", func(o *Observation) { o.Events[1].Version = "0" }},
	{"dependency ready elsewhere", RuleStartOrder, "a@1 was not ready before", func(o *Observation) { o.Events[1].Address = "10.20.0.9:8000" }},
	{"dependency stopped", RuleStartOrder, "a@1 had been stopped again", func(o *Observation) {
		insert(o, 2, Event{Seq: 2, Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5"})
	}},
	{"dependency does not answer", RuleStartOrder, "a@1 did not answer", func(o *Observation) {
		o.Events[2].Deps = []Dep{{Service: "a", Version: "1"}}
		insert(o, 0, Event{Kind: EventFault, Node: "n1", Detail: agentStarted})
	}},
	{"second claim out of order", RuleStartOrder, "b@2 started on n1 (event 11)", func(o *Observation) {
		o.Events[5].Deps = []Dep{{Service: "a", Version: "2"}}
	}},
	{"stopped under a dependent", RuleStopOrder, "a@1 was stopped on n1 (event 9) while b@1 still ran on n1", func(o *Observation) {
		insert(o, 4, Event{Seq: 9, Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5", Address: "10.20.0.1:8000"})
	}},
	{"stopped while the dependent's agent was dead", RuleStopOrder, "a@1 was stopped", func(o *Observation) {
		insert(o, 4, Event{Seq: 8, At: second(10), Kind: EventFault, Node: "n1", Detail: faultAgentKilled},
			Event{Seq: 9, At: second(11), Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5"})
	}},
	{"stopped long after its agent was away", RuleStopOrder, "a@1 was stopped", func(o *Observation) {
		insert(o, 4, Event{Seq: 7, At: second(10), Kind: EventFault, Node: "n1", Detail: faultAgentKilled},
			Event{Seq: 8, At: second(11), Kind: EventFault, Node: "n1", Detail: agentStarted},
			Event{Seq: 9, At: second(17), Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5"})
		o.Holds = append(o.Holds, Hold{Service: "a", Node: "n1", Boot: "a1", Epoch: "5", From: 5, To: 6})
	}},
	{"stopped though it must be alone", RuleStopOrder, "a@1 was stopped", func(o *Observation) {
		insert(o, 4, Event{Seq: 9, Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5"})
		o.Holds = append(o.Holds, Hold{Service: "a", Node: "n1", Boot: "a1", Epoch: "5", From: 7, To: 8})
	}},
	{"active without process", RuleState, "b is active on n1, but has no process", func(o *Observation) {
		o.Nodes[0].Processes = o.Nodes[0].Processes[:2]
	}},
	{"active with another process", RuleState, "b is active on n1, but its process is another one", func(o *Observation) { o.Status.Instances[1].PID = 99 }},
	{"active, process not named", RuleState, "b is active on n1, but State names no process", func(o *Observation) { o.Status.Instances[1].PID = 0 }},
	{"process of a stopped row", RuleState, "b runs on n1, but State has nothing alive there", func(o *Observation) { o.Status.Instances[1].Phase = "stopped" }},
	{"process of a lost row", RuleState, "x runs on n1, but", func(o *Observation) {
		o.Nodes[0].Processes = append(o.Nodes[0].Processes, Process{PID: 20, PPID: 5, Service: "x"})
	}},
	{"agent ended", RuleAgent, "n2 ended by itself: exit status 2", func(o *Observation) { o.Nodes[1].Died = "exit status 2" }},
	{"journal full", RuleJournal, "7 events", func(o *Observation) { o.Dropped = 7 }},
	{"process left", RuleProcesses, "n1 still has process 10", func(*Observation) {}},
	{"zombie left", RuleProcesses, "n3 still has process 7 Z", func(o *Observation) {
		o.Nodes[2].Processes = []Process{{PID: 7, State: "Z"}}
	}},
	{"socket left", RuleProcesses, "n1 still listens on 10.20.0.1:8000", func(*Observation) {}},
	{"file left", RuleFiles, "n1 still has /run/node/data/x.tmp", func(o *Observation) {
		o.Nodes[0].Polite, o.Nodes[0].Files = true, []File{{Path: "/run/node/data/x.tmp"}}
	}},
}

func second(n int64) time.Time { return time.Unix(n, 0) }

func insert(o *Observation, at int, events ...Event) {
	o.Events = append(append(append([]Event{}, o.Events[:at]...), events...), o.Events[at:]...)
}

func TestEachRuleSeesItsFault(t *testing.T) {
	seen := map[string]bool{}
	rules := append(append(append([]checker{}, checkAlways...), checkSettled...), checkEnd...)
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			o := good()
			p.plant(&o)
			for _, v := range check(o, rules, nil) {
				if v.Rule == p.rule && strings.Contains(v.What, p.says) {
					seen[p.rule] = true
					return
				}
			}
			t.Errorf("want %s: %s, got %v", p.rule, p.says, check(o, rules, nil))
		})
	}
	for _, r := range rules {
		if !seen[r.rule] {
			t.Errorf("rule %s was never seen to fail", r.rule)
		}
	}
	if bad := check(good(), checkEnd, map[string]bool{RuleProcesses: true}); len(bad) > 0 {
		t.Errorf("ignored rule: %v", bad)
	}
}

// excused are worlds that look like a fault and are none.
func TestExcuses(t *testing.T) {
	excused := map[string]func(*Observation){
		"restart in place while the dependency is down": func(o *Observation) {
			o.Events = append(o.Events,
				Event{Seq: 40, Kind: EventExit, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5"},
				Event{Seq: 41, Kind: EventStart, Service: "b", Version: "2", Node: "n1", Boot: "b3", Epoch: "20",
					Deps: []Dep{{Service: "a", Version: "9"}}})
		},
		"dependency restarted in place": func(o *Observation) {
			insert(o, 4,
				Event{Seq: 5, Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5", Address: "10.20.0.1:8000"},
				Event{Seq: 6, Kind: EventStart, Service: "a", Version: "1", Node: "n1", Boot: "a2", Epoch: "5", Address: "10.20.0.1:8000"},
				Event{Seq: 7, Kind: EventReady, Service: "a", Version: "1", Node: "n1", Boot: "a2", Epoch: "5", Address: "10.20.0.1:8000"})
		},
		"dependent lost its power": func(o *Observation) {
			insert(o, 4, Event{Seq: 8, Kind: EventFault, Node: "n1", Detail: "power off"},
				Event{Seq: 9, Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "4"},
				Event{Seq: 9, Kind: EventReady, Service: "a", Version: "1", Node: "n1", Boot: "a3", Epoch: "7"})
		},
		"lease ended because the agent was away": func(o *Observation) {
			insert(o, 4, Event{Seq: 6, At: second(10), Kind: EventFault, Node: "n1", Detail: faultAgentKilled},
				Event{Seq: 7, At: second(11), Kind: EventFault, Node: "n1", Detail: agentStarted},
				Event{Seq: 8, At: second(12), Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "5"},
				Event{Seq: 9, Kind: EventReady, Service: "a", Version: "1", Node: "n1", Boot: "a3", Epoch: "7"})
			o.Holds = append(o.Holds, Hold{Service: "a", Node: "n1", Boot: "a1", Epoch: "5", From: 5, To: 6})
		},
		"dependent counted as lost": func(o *Observation) {
			insert(o, 4, Event{Seq: 6, At: second(10), Kind: EventFault, Node: "n1", Detail: faultAgentKilled},
				Event{Seq: 7, At: second(14), Kind: EventFault, Node: "n1", Detail: agentStarted},
				Event{Seq: 8, At: second(15), Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "4"},
				Event{Seq: 9, Kind: EventReady, Service: "a", Version: "1", Node: "n1", Boot: "a3", Epoch: "7"})
		},
		"dependent killed because it ignored TERM": func(o *Observation) {
			insert(o, 4, Event{Seq: 7, Kind: EventIgnored, Boot: "b1"},
				Event{Seq: 8, Kind: EventStop, Service: "a", Version: "1", Node: "n1", Boot: "a1", Epoch: "4"},
				Event{Seq: 9, Kind: EventReady, Service: "a", Version: "1", Node: "n1", Boot: "a3", Epoch: "7"})
		},
		"holder that slept with an old claim": func(o *Observation) {
			o.Events = append(o.Events, Event{Seq: 31, Kind: EventFault, Node: "n1", Detail: faultThawed})
			o.Holds = append(o.Holds, Hold{Service: "x", Node: "n1", Boot: "x1", Epoch: "9", From: 32, To: 32})
		},
		"keeper listens for the service": func(o *Observation) {
			o.Nodes[0].Listeners[1].Owners = []int{5}
		},
		"socket handed from keeper to service": func(o *Observation) {
			o.Nodes[0].Listeners[1].Owners = []int{5, 12}
		},
		"impolite end": func(o *Observation) { o.Nodes[0].Files = []File{{Path: "/run/node/data/api.sock", Socket: true}} },
	}
	for name, plant := range excused {
		t.Run(name, func(t *testing.T) {
			o := good()
			plant(&o)
			if bad := check(o, allRules, nil); len(bad) > 0 {
				t.Errorf("%v", bad)
			}
		})
	}
}

// BenchmarkChecks is the order of what an hour of load writes: a chain of 20 services, deployed one version after the other.
func BenchmarkChecks(b *testing.B) {
	for _, rounds := range []int{300, 3000} {
		o := Observation{Events: long(rounds)}
		b.Run(fmt.Sprint(len(o.Events), "events"), func(b *testing.B) {
			for b.Loop() {
				if bad := check(o, checkAlways, nil); len(bad) > 0 {
					b.Fatal(bad[0])
				}
			}
		})
	}
}

// long is a faultless journal of many upgrades of a chain.
func long(rounds int) (list []Event) {
	add := func(kind string, round, i int, deps []Dep) {
		list = append(list, Event{Seq: len(list) + 1, Kind: kind, Service: fmt.Sprint("s", i), Version: fmt.Sprint(round), Node: "n1",
			Boot: fmt.Sprint(round, "-", i), Epoch: fmt.Sprint(round), Deps: deps})
	}
	const services = 20
	for round := range rounds {
		for i := services - 1; i >= 0 && round > 0; i-- {
			add(EventStop, round-1, i, nil)
		}
		for i := range services {
			var deps []Dep
			if i > 0 {
				deps = []Dep{{Service: fmt.Sprint("s", i-1), Version: fmt.Sprint(round), Answered: true}}
			}
			add(EventStart, round, i, deps)
			add(EventReady, round, i, nil)
		}
	}
	return list
}
