//go:build linux

package testcluster

import "fmt"

// The rules of Invariants. WithoutRule takes one of them.
const (
	RuleProcess    = "one-process"   // at most one process per instance
	RuleHolder     = "one-holder"    // one live holder per exclusive service
	RulePort       = "port-once"     // no port twice per node
	RuleListen     = "port-listens"  // the ports of what is active are listened on, by it
	RuleStartOrder = "start-order"   // nothing starts before its dependencies were ready
	RuleStopOrder  = "stop-order"    // nothing is stopped under a running dependent
	RuleState      = "state-is-true" // State says active exactly if the process exists
	RuleAgent      = "agent-lives"   // no agent ends by itself
	RuleJournal    = "journal-whole" // the observer lost nothing
	RuleProcesses  = "no-process-left"
	RuleFiles      = "no-file-left"
)

// Violation is one thing that must not be.
type Violation struct{ Rule, What string }

func (v Violation) String() string { return v.Rule + ": " + v.What }

// checker is one rule: a function of an observation and of nothing else.
type checker struct {
	rule  string
	check func(Observation) []string
}

var (
	// checkAlways must hold at every moment.
	checkAlways = []checker{
		{RuleProcess, oneProcess}, {RuleHolder, oneHolder}, {RulePort, portOnce},
		{RuleStartOrder, startOrder}, {RuleStopOrder, stopOrder},
		{RuleAgent, agentLives}, {RuleJournal, journalWhole},
	}
	// checkSettled must hold when what State says has been done.
	checkSettled = []checker{{RuleState, stateIsTrue}, {RuleListen, portListens}}
	// checkEnd must hold when all agents, keepers and services were told to end.
	checkEnd = []checker{{RuleProcesses, noProcessLeft}, {RuleFiles, noFileLeft}}
)

// check applies rules to an observation, those in ignored left out.
func check(o Observation, rules []checker, ignored map[string]bool) (list []Violation) {
	for _, r := range rules {
		if ignored[r.rule] {
			continue
		}
		for _, what := range r.check(o) {
			list = append(list, Violation{r.rule, what})
		}
	}
	return list
}

// say appends a line to a list of findings.
func say(list *[]string, format string, args ...any) {
	*list = append(*list, fmt.Sprintf(format, args...))
}
